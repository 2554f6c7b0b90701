"""Tiles that fade into each other: against the weighted sum written out over the whole scene."""

import numpy as np
import pytest
import torch
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.errors import UnknownName
from labelscape.grid import Window
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scenes.raster import Scene
from labelscape.scoring.scorer import Scorer, state_arrays
from labelscape.scoring.stitch import _ramp, plan_for, score_tiles
from labelscape.scoring.tiles import plan_tiles


@pytest.fixture
def scorer():
    torch.manual_seed(0)
    net = create_model("skip", in_channels=3, classes=3, widths=(8, 8, 8, 8))
    for _ in range(10):
        net(torch.randn(2, 3, 64, 64))
    return Scorer.of(
        Checkpoint(
            network="skip",
            options={"widths": [8, 8, 8, 8]},
            weights=state_arrays(net),
            legend=world.LEGEND,
            contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
        ),
        device="cpu",
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(40, 130),
    st.integers(0, 30),
    st.sampled_from([1, 8]),
)
def test_weights_add_up_to_one_and_every_pixel_is_answered_once(height, width, tile_size, overlap, stride):
    if tile_size < 2 * (overlap + stride) + stride:
        return
    whole = Window(0, 0, height, width)
    plan = plan_tiles(whole, tile_size=tile_size, overlap=overlap, stride=stride, blend="hann")
    total, answered = torch.zeros(height, width), np.zeros((height, width), int)
    for tile in plan:
        share = torch.ones(tile.seen.shape)
        if plan.fade:
            share *= _ramp(
                tile.core.top, tile.core.bottom, tile.seen.top, tile.seen.bottom, 0, height, plan.fade
            )[:, None]
            share *= _ramp(
                tile.core.left, tile.core.right, tile.seen.left, tile.seen.right, 0, width, plan.fade
            )
            total[tile.seen.inset_of(whole)] += share
        answered[tile.answers.inset_of(whole)] += 1
        assert (tile.answers & tile.seen) == tile.answers
    assert (answered == 1).all()
    if plan.fade:
        torch.testing.assert_close(total, torch.ones(height, width))


@pytest.mark.parametrize("size", [(150, 330), (97, 129), (200, 260), (48, 500)])
def test_blended_answers_are_the_weighted_sums(tmp_path, scorer, size):
    w = world.make(tmp_path, *size, nodata=0)
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, tile_size=96, overlap=16, blend="hann")
        assert plan.fade == 16
        whole = scene.grid.window
        expected = torch.zeros(3, *size)
        for tile in plan:
            patch = scene.read(tile.seen)
            share = scorer.score(patch.pixels, patch.valid)
            share = (
                share
                * _ramp(tile.core.top, tile.core.bottom, tile.seen.top, tile.seen.bottom, 0, size[0], 16)[
                    :, None
                ]
            )
            share = share * _ramp(
                tile.core.left, tile.core.right, tile.seen.left, tile.seen.right, 0, size[1], 16
            )
            expected[(slice(None), *tile.seen.inset_of(whole))] += share
        found = {tile.window: tile for tile in score_tiles(scorer, scene, plan)}
        for window, tile in found.items():
            inside = (slice(None), *window.inset_of(whole))
            valid = torch.from_numpy(tile.valid)
            torch.testing.assert_close(
                tile.probabilities[:, valid], expected[inside][:, valid], atol=1e-5, rtol=1e-4
            )
        for window in list(found)[1::3]:  # asked for alone, an answer is the same
            (alone,) = score_tiles(scorer, scene, plan, wanted=lambda w, one=window: w == one)
            assert torch.equal(alone.probabilities, found[window].probabilities)


def test_blending_hides_seams_that_cutting_leaves(tmp_path, scorer):
    """Tiles without context disagree at their borders; faded into each other they disagree less."""
    w = world.make(tmp_path, 400, 500)
    common = {"polygons": False, "report": False, "device": "cpu", "tile_size": 64}
    none = map_scene(scorer.checkpoint, w.scene, tmp_path / "none", blend="none", **common)
    faded = map_scene(scorer.checkpoint, w.scene, tmp_path / "hann", blend="hann", overlap=16, **common)
    assert none.facts["halo"] == 0
    assert faded.seam < none.seam
    with pytest.raises(UnknownName, match="hann"):
        map_scene(scorer.checkpoint, w.scene, tmp_path / "c", blend="han", **common)


def test_a_pixelwise_network_maps_like_the_whole_scene_whatever_the_tiles(tmp_path):
    """Where the answer depends on the pixel alone, tiles and weights change nothing."""
    from labelscape.nets.blocks import Network

    class Pixelwise(Network):
        stride, reach, in_channels, classes = 1, 0, 3, 3

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)

        def scores(self, image):
            return {"logits": self.conv(image)}

    torch.manual_seed(0)
    made = Checkpoint(
        network="fcn",
        options={},
        weights={},
        legend=world.LEGEND,
        contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
    )
    pixelwise = Scorer(made, Pixelwise().eval(), torch.device("cpu"))
    w = world.make(tmp_path, 53, 71)
    with Scene(w.scene) as scene:
        whole = pixelwise.score(scene.read().pixels)
        for tile_size in (20, 30, 53, 71, 200):
            for overlap, blend in ((0, "none"), (3, "crop"), (5, "hann"), (9, "hann")):
                plan = plan_for(pixelwise, scene, tile_size=tile_size, overlap=overlap, blend=blend)
                for tile in score_tiles(pixelwise, scene, plan):
                    expected = whole[(slice(None), *tile.window.inset_of(scene.grid.window))]
                    torch.testing.assert_close(tile.probabilities, expected, atol=1e-5, rtol=1e-5)
