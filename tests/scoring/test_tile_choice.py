"""Which tiles a network gets: as large as it learned to see, batched without a trace in the values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import world
from global_sum import in_catalogue  # noqa: F401 (a fixture)

from labelscape.contract.tile_sizes import TileSizes
from labelscape.datasets.own import open_dataset
from labelscape.evaluation.measure import evaluate
from labelscape.grid import Window
from labelscape.maps import rasters
from labelscape.maps.run import map_scene
from labelscape.rasters.write import rasterio
from labelscape.scenes.raster import Scene
from labelscape.scoring import memory
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for, score_tiles, usual_overlap
from labelscape.scoring.tiles import plan_tiles

pytestmark = pytest.mark.usefixtures("in_catalogue")


def toy(crop=64, *, like=None, default=None, network="global-sum", seed=0, **options):
    """A checkpoint trained at `crop`, whose tiles cost nothing up to `default` where that was measured."""
    options = {"context": 0.5, **options} if network == "global-sum" else options
    made = world.tiny_checkpoint(
        network, like=like, recipe={"crop": crop} if crop else {}, seed=seed, **options
    )
    if default is None:
        return made
    flat, loss = (0.5, 0.5, 0.4), (0.0, 0.0, 0.1)
    return replace(
        made, tile_sizes=TileSizes(crop, (crop, default, 2 * default), flat, flat, loss, (0.0,) * 3)
    )


@pytest.fixture(autouse=True)
def no_widths(monkeypatch):
    """`tiny_checkpoint` gives every network widths, which the toy has not."""
    real = world.tiny_checkpoint

    def made(network, **settings):
        if network != "global-sum":
            return real(network, **settings)
        from labelscape.nets.catalog import create_model
        from labelscape.scoring.engines import state_arrays

        context, seed = settings.pop("context"), settings["seed"]
        torch.manual_seed(seed)
        net = create_model(network, in_channels=3, classes=3, context=context)
        base = real("fcn", warmed=False, **settings)
        return replace(base, network=network, options={"context": context}, weights=state_arrays(net))

    monkeypatch.setattr(world, "tiny_checkpoint", made)


def side_of(plan):
    return plan.core + 2 * plan.halo


def test_tiles_are_as_large_as_the_network_learned(tmp_path):
    with Scene(world.make(tmp_path, 700, 900).scene) as scene:
        assert side_of(plan_for(Scorer.of(toy(64)), scene)) == 64
        assert side_of(plan_for(Scorer.of(toy(70)), scene)) == 64  # whole strides
        assert side_of(plan_for(Scorer.of(toy(64, default=192)), scene)) == 192
        assert len(plan_for(Scorer.of(toy(None)), scene)) == 1  # nothing is known of its training: as before
        assert plan_for(Scorer.of(toy(64, network="fcn")), scene).core == 912  # exact: size is no matter
        smallest = Scorer.of([toy(64, default=192), toy(64, default=128)])
        assert side_of(plan_for(smallest, scene)) == 128
        assert side_of(plan_for(Scorer.of([toy(64, default=192), toy(64, network="fcn")]), scene)) == 192
        twice = Scorer.of(toy(64, default=192), protocol=Protocol((0.5, 1.0, 2.0)))
        # At every scale: the scene is scaled, not its tiles.
        assert [side_of(plan) for plan in plan_for(twice, scene).scaled] == [192, 192, 192]
        assert side_of(plan_for(smallest, scene, tile_size=320)) == 320


def test_memory_is_the_upper_bound_for_the_hungriest_network():
    class Hungry:
        stride, reach, device = 16, None, torch.device("cpu")

        def __init__(self, bytes_a_pixel):
            self.bytes_a_pixel = bytes_a_pixel

        def peak_bytes(self, height, width, images=1):
            return self.bytes_a_pixel * height * width * images

    def scorer(*appetites, protocol=Protocol()):
        made = toy(1024, default=1600)
        return Scorer(
            tuple(replace(m, engine=Hungry(b)) for b in appetites for m in Scorer.of(made).members), protocol
        )

    assert memory.tile_side(scorer(10), 9000) == 1600
    assert memory.tile_side(scorer(10, 3000), 9000) == 1152
    assert memory.tile_side(scorer(10, 5000), 9000) == 896
    assert memory.tile_side(scorer(3000, protocol=Protocol((1.0, 1.25))), 9000) == 1152  # at any scale
    assert memory.batch_of(scorer(10), 224) == 4 and memory.batch_of(scorer(10), 640) == 1


def test_tiles_at_the_border_are_as_large_as_the_others(tmp_path):
    with Scene(world.make(tmp_path, 300, 410).scene) as scene:
        plan = plan_for(Scorer.of(toy(96)), scene)
        assert len(plan) > 12
        for tile in plan:
            height, width = tile.seen.shape
            assert (tile.seen.top % 16, tile.seen.left % 16) == (0, 0)
            assert 80 < height <= 96 and 80 < width <= 96
            needed = tile.core.grown(plan.halo, bounds=plan.whole)
            assert tile.seen & needed == needed and tile.seen & plan.whole == tile.seen
        narrow = plan_for(Scorer.of(toy(96)), scene, tile_size=400)
        unknown = plan_for(Scorer.of(toy(None)), scene, tile_size=96)
        assert min(min(tile.seen.shape) for tile in unknown) < 80  # as before
        assert {tile.seen.shape for tile in narrow} <= {(300, 400), (300, 394)}


@pytest.mark.parametrize(
    ("side", "stride", "overlap"),
    [
        (1152, 16, 64),
        (512, 16, 64),
        (224, 16, 16),
        (320, 8, 40),
        (128, 32, 32),
        (96, 32, 32),
        (64, 32, 0),
        (16, 16, 0),
    ],
)
def test_small_tiles_overlap_less(side, stride, overlap):
    assert usual_overlap(side, stride) == overlap


def test_the_unpooling_network_of_5_cm_pixels_is_exact(tmp_path):
    """Its reach of 270 pixels is paid in halos."""
    made = toy(network="unpooling", downsample=2)
    scorer = Scorer.of(made, device="cpu")
    w = world.make(tmp_path, 700, 1500)
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, tile_size=704)
        assert (scorer.reach, plan.halo, plan.fade) == (270, 288, 0) and len(plan) > 4
        wanted = {t.answers for t in list(plan)[5:7]}
        patch = scene.read(scene.grid.window)
        whole = scorer.score(patch.pixels, patch.valid).argmax(0).numpy()
        for tile in score_tiles(scorer, scene, plan, wanted=wanted.__contains__):
            same = tile.classes() == whole[tile.window.inset_of(scene.grid.window)]
            assert same.mean() > 0.9999
    share = (memory.EXACT_TILE / (memory.EXACT_TILE - 2 * memory.EXACT_REACH)) ** 2
    assert 1.9 < share < 2.1


@pytest.mark.parametrize("members", [1, 2])
def test_batched_tiles_are_the_single_tiles(tmp_path, members):
    w = world.make(tmp_path, 250, 400, nodata=0)
    scorer = Scorer.of([toy(64, seed=s) for s in range(members)], protocol=Protocol((1.0,), "mirror"))
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, tile_size=64)
        assert plan.batch == 4
        batched = {t.window: t for t in score_tiles(scorer, scene, plan)}
        single = {t.window: t for t in score_tiles(scorer, scene, replace(plan, batch=1))}
    assert batched.keys() == single.keys()
    for window, tile in batched.items():
        torch.testing.assert_close(tile.probabilities, single[window].probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize("blend", ["hann", "crop"])
def test_the_shapes_that_the_network_is_given_do_not_depend_on_what_is_wanted(tmp_path, blend, monkeypatch):
    w = world.make(tmp_path, 200, 300, nodata=0)
    scorer = Scorer.of(toy(64))
    shapes = []
    real = Scorer.batch_logits

    def spied(self, images):
        shapes.append((tuple(images[0].shape), images[0].abs().sum(dim=(1, 2, 3)).tolist()))
        return real(self, images)

    monkeypatch.setattr(Scorer, "batch_logits", spied)
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, blend=blend)
        found = {t.window: t for t in score_tiles(scorer, scene, plan)}
        whole, shapes[:] = list(shapes), []
        for window in list(found)[2::7]:
            (alone,) = score_tiles(scorer, scene, plan, wanted=lambda w, one=window: w == one)
            assert torch.equal(alone.logits, found[window].logits)
    assert {shape for shape, _ in shapes} <= {shape for shape, _ in whole}
    assert any(0.0 in sums for _, sums in shapes)  # places of tiles that were not wanted


def test_maps_evaluations_and_resumed_maps_agree_to_the_last_pixel(tmp_path, monkeypatch):
    w = world.make(tmp_path, 330, 420, nodata=0)
    checkpoint = toy(64, like=w.scene)
    quick = {"device": "cpu", "polygons": False, "report": False, "proba": True}
    result = map_scene(checkpoint, w.scene, tmp_path / "whole", **quick)
    assert (result.facts["core"], result.facts["halo"]) == (32, 16)
    with rasterio.open(result.paths["class"]) as file:
        mapped = file.read(1)
    names = world.LEGEND.names
    with open_dataset(
        [w.scene], [world.label_raster(w, tmp_path / "l.tif")], shares={"train": 0.7, "test": 0.3}, block=48
    ) as data:
        (scene,) = data.scenes
        truth = scene.read_labels(scene.scene.grid.window, "test")
        found = evaluate(replace(checkpoint, legend=data.legend), data, part="test", device="cpu").confusion
    counted = np.zeros((len(names), len(names)), int)
    known = (truth != 255) & (mapped != 255)
    values = {v: k for k, v in enumerate(world.LEGEND.values)}
    np.add.at(counted, (truth[known], np.array([values[v] for v in mapped[known]])), 1)
    np.testing.assert_array_equal(found.counts, counted)

    real, left = rasters.planes_of, [17]

    def stopping(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(rasters, "planes_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        map_scene(checkpoint, w.scene, tmp_path / "broken", **quick)
    map_scene(checkpoint, w.scene, tmp_path / "broken", **quick)
    for kind in ("class", "proba", "confidence"):
        name = result.paths[kind].name
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_plan_of_one_shape_needs_no_more_room_than_the_scene():
    plan = replace(
        plan_tiles(Window(0, 0, 40, 500), tile_size=64, overlap=16, stride=16, blend="hann"), side=64
    )
    assert {tile.seen.shape for tile in plan} == {(40, 64), (40, 52)}
