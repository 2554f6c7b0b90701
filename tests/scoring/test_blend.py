"""Tiles that fade into each other: against the weighted sum written out over the whole scene."""

import numpy as np
import pytest
import torch
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from labelscape.errors import UnknownName
from labelscape.grid import Window
from labelscape.maps.run import map_scene
from labelscape.scenes.raster import Scene
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.fade import HANN, Curve, Fader, ramp
from labelscape.scoring.scorer import Member, Scorer
from labelscape.scoring.stitch import plan_for, score_tiles
from labelscape.scoring.tiles import plan_tiles


@pytest.fixture
def scorer():
    return Scorer.of(world.tiny_checkpoint(), device="cpu")


# ---------------------------------------------------------------------------------------------------- weights


def test_weights_of_a_tile_are_half_hann_windows_in_numbers():
    rising = [0.0380602, 0.3086583, 0.6913417, 0.9619398]  # sin^2 of 1/16, 3/16, 5/16, 7/16 of pi
    expected = [0, 0, *rising, *[1] * 6, *rising[::-1], 0, 0]
    found = ramp(range(10, 20), range(6, 24), range(30), 2, torch)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    found = ramp(range(9), range(12), range(30), 3, torch)
    expected = [1.0] * 6 + [0.9829629, 0.8535534, 0.6294095, 0.3705905, 0.1464466, 0.0170371]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_there_is_no_ramp_at_the_scenes_own_borders():
    assert ramp(range(7), range(7), range(7), 3, torch).tolist() == [1.0] * 7


@pytest.mark.parametrize("length", [41, 43, 57, 60, 61, 79])
@pytest.mark.parametrize("fade", [1, 3, 4, 7])
def test_weights_along_an_axis_add_up_to_one(length, fade):
    """Also where the last tile is narrower than its ramp would be."""
    total = torch.zeros(length)
    for start in range(0, length, 14):
        stop = min(start + 14, length)
        seen = range(max(0, start - 7), min(length, stop + 7))
        total[seen.start : seen.stop] += ramp(range(start, stop), seen, range(length), fade, torch)
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)


def hann(core: Window, seen: Window, whole: Window, fade: int) -> torch.Tensor:
    """(h, w) weights by the window's usual formula, (1 - cos) / 2, pixel by pixel."""

    def rise(place: float) -> float:
        return 0.5 - 0.5 * np.cos(np.pi * min(max(place, 0.0), 1.0))

    def along(start, stop, first, last, least, most):
        weights = np.ones(last - first)
        for i, middle in enumerate(np.arange(first, last) + 0.5):
            weights[i] *= rise((middle - (start - fade)) / (2 * fade)) if start > least else 1
            weights[i] *= rise((stop + fade - middle) / (2 * fade)) if stop < most else 1
        return weights

    rows = along(core.top, core.bottom, seen.top, seen.bottom, whole.top, whole.bottom)
    columns = along(core.left, core.right, seen.left, seen.right, whole.left, whole.right)
    return torch.from_numpy(np.outer(rows, columns)).float()


# -------------------------------------------------------------------------------------------------- blending


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(40, 130),
    st.integers(0, 30),
    st.sampled_from([1, 8]),
)
def test_every_pixel_is_answered_once_with_the_whole_weight(height, width, tile_size, overlap, stride):
    """Tiles that all say the same leave it as it is: weights of 1 in sum, each pixel in one window."""
    if tile_size < 2 * (overlap + stride) + stride:
        return
    whole = Window(0, 0, height, width)
    plan = plan_tiles(whole, tile_size=tile_size, overlap=overlap, stride=stride, blend="hann")
    if not plan.fade:
        return
    said = torch.tensor([0.7, 0.2, 0.1])
    fader, answered = Fader(plan), np.zeros((height, width), int)
    for tile in plan:
        logits = said.log()[:, None, None].expand(-1, *tile.seen.shape)
        scored = fader.feed(tile, logits, np.ones(tile.seen.shape, bool))
        assert scored.window == tile.answers == tile.answers & tile.seen
        answered[scored.window.inset_of(whole)] += 1
        total = scored.logits.exp()  # not softened: a sum of weights other than 1 shows
        torch.testing.assert_close(total, said[:, None, None].expand_as(total), atol=1e-5, rtol=1e-5)
    assert (answered == 1).all()


@pytest.mark.parametrize("size", [(150, 330), (97, 129), (200, 260), (48, 500)])
def test_blended_tiles_are_the_weighted_sums(tmp_path, scorer, size):
    w = world.make(tmp_path, *size, nodata=0)
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, tile_size=96, overlap=16, blend="hann")
        assert plan.fade == 16
        whole = scene.grid.window
        expected = torch.zeros(3, *size)
        for tile in plan:
            patch = scene.read(tile.seen)
            weights = hann(tile.core, tile.seen, whole, 16)
            expected[(slice(None), *tile.seen.inset_of(whole))] += weights * scorer.score(
                patch.pixels, patch.valid
            )
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


def test_another_curve_is_another_map_and_has_another_name():
    """What keeps blended tiles tells curves apart by their names."""
    plan = plan_tiles(Window(0, 0, 20, 60), tile_size=40, overlap=8, stride=1, blend="hann")
    linear = Curve("linear", lambda place: place)
    made = {}
    for curve in (HANN, linear):
        fader, made[curve.name] = Fader(plan, curve), []
        for number, tile in enumerate(plan):  # the tiles disagree, so that their weights show
            logits = torch.zeros(2, *tile.seen.shape)
            logits[number % 2] = 3
            scored = fader.feed(tile, logits, np.ones(tile.seen.shape, bool))
            made[curve.name].append(scored.probabilities)
    assert set(made) == {"hann", "linear"}
    hanned, linearly = (torch.cat(made[name], dim=2) for name in ("hann", "linear"))
    assert (hanned - linearly).abs().max() > 0.05


def test_tiles_without_data_and_tiles_left_out_break_no_sum():
    """A strip waits for the very tile beyond it: it is not added to a later one."""
    plan = plan_tiles(Window(0, 0, 72, 72), tile_size=40, overlap=8, stride=1, blend="hann")
    tiles, valid = list(plan), np.ones(plan.whole.shape, bool)

    def fed(given):
        fader = Fader(plan)
        out = {}
        for tile, seen in given:
            logits = torch.zeros(2, *tile.seen.shape) if seen else None
            scored = fader.feed(tile, logits, valid[tile.seen.inset_of(plan.whole)])
            out[tile.core] = scored and scored.logits.exp().sum(dim=0)
        return out

    assert len(tiles) == 9
    holes = fed((tile, number != 4) for number, tile in enumerate(tiles))
    assert holes.pop(tiles[4].core) is None
    some = fed((tile, True) for number, tile in enumerate(tiles) if number not in (1, 4))
    for total in (*holes.values(), *some.values()):
        assert total.max() < 1 + 1e-5  # a neighbour's share may be missing, never be there twice


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
    pixelwise = Scorer((Member(world.tiny_checkpoint("fcn"), TorchEngine(Pixelwise().eval())),))
    w = world.make(tmp_path, 53, 71)
    with Scene(w.scene) as scene:
        whole = pixelwise.score(scene.read().pixels)
        for tile_size in (20, 30, 53, 71, 200):
            for overlap, blend in ((0, "none"), (3, "crop"), (5, "hann"), (9, "hann")):
                plan = plan_for(pixelwise, scene, tile_size=tile_size, overlap=overlap, blend=blend)
                for tile in score_tiles(pixelwise, scene, plan):
                    expected = whole[(slice(None), *tile.window.inset_of(scene.grid.window))]
                    torch.testing.assert_close(tile.probabilities, expected, atol=1e-5, rtol=1e-5)
