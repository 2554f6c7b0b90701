"""Several scales: a scene is scaled as a whole and then cut into tiles. Against the whole scene scaled."""

from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import stopped_after_a_tile

import labelscape as ls
from labelscape.errors import BadFile
from labelscape.evaluation.confusion import count
from labelscape.grid import Grid, Window
from labelscape.maps.layout import blocks_for, in_words
from labelscape.maps.plan import cost
from labelscape.maps.request import MapRequest
from labelscape.maps.work import share_stored
from labelscape.progress import heard_by
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.scene import Scene
from labelscape.scoring import scales, stitch
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import image_shapes, plan_for, score_tiles

PIXELS = np.random.default_rng(0).integers(500, 9000, (3, 173, 251)).astype(np.uint16)
BLENDED = {"tile_size": 64, "overlap": 16, "blend": "hann"}
GRID = Grid(world.UTM, world.NORTH_UP, 8000, 8000)
SCALES = (0.5, 0.75, 1.0, 1.3)


def scorer_of(scales=SCALES, tta="none", average="probabilities", count=1, **options):
    made = [world.tiny_checkpoint(seed=seed, temperature=1 + 0.3 * seed, **options) for seed in range(count)]
    return Scorer.of(made, device="cpu", protocol=Protocol(scales, tta, average))


def whole_of(scorer, scene, plan, wanted=None):
    """(K, H, W) probabilities of a scene, NaN where no pixel is valid or nothing is wanted."""
    ground = scene.grid.window
    made = torch.full((scorer.classes, *ground.shape), torch.nan)
    for tile in score_tiles(scorer, scene, plan, wanted=wanted):
        inside = (slice(None), *tile.window.inset_of(ground))
        valid = torch.from_numpy(tile.valid)
        made[inside] = torch.where(valid, torch.as_tensor(tile.probabilities), torch.nan)
    return made


def written_out(scorer, pixels, tiles):
    """The same as a loop: the picture is scaled as a whole, `tiles(scorer, image)` gives the logits (K, h, w)
    of a scaled picture, and the answers are averaged at the picture's own size.
    """
    protocol, total = scorer.protocol, 0
    for member in scorer.members:
        alone = replace(scorer, members=(member,), protocol=replace(protocol, scales=(1.0,)))
        (image,), mean = alone.prepare(pixels), 0
        for scale in protocol.scales:
            size = [round(side * scale) for side in pixels.shape[1:]]
            scaled = image
            if scale != 1:
                scaled = F.interpolate(image, size, mode="bilinear", antialias=scale < 1)
            back = F.interpolate(tiles(alone, scaled)[None], pixels.shape[1:], mode="bilinear")[0]
            mean = mean + (back if protocol.average == "logits" else back.softmax(0))
        mean = mean / len(protocol.scales)
        total = total + (mean.softmax(0) if protocol.average == "logits" else mean)
    return total / len(scorer.members)


def sliding(side):
    """Windows side by side, each predicted by itself."""

    def logits(scorer, image):
        made = torch.zeros(scorer.classes, *image.shape[-2:])
        for top in range(0, image.shape[-2], side):
            for left in range(0, image.shape[-1], side):
                place = (slice(None), slice(top, top + side), slice(left, left + side))
                made[place] = scorer.logits([image[:, *place]])
        return made

    return logits


def blended(**how):
    """The tiles of a scene of this size."""

    def logits(scorer, image):
        contract = replace(scorer.checkpoint.contract, normalisation=((0.0, 1.0),) * 3)
        member = replace(scorer.members[0], checkpoint=replace(scorer.checkpoint, contract=contract))
        as_is, scene = replace(scorer, members=(member,)), ArrayScene(image[0].contiguous().numpy())
        return whole_of(as_is, scene, plan_for(as_is, scene, **how)).log()

    return logits


# ------------------------------------------------------------------------------------------------ resampling


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 70), st.integers(1, 70), st.data(), st.booleans())
def test_any_part_of_an_axis_is_resampled_as_the_whole_is(before, after, data, reduced):
    first = data.draw(st.integers(0, after - 1))
    count = data.draw(st.integers(1, after - first))
    antialias = reduced and after < before
    row = torch.randn(1, 1, 1, before)
    whole = F.interpolate(row, (1, after), mode="bilinear", antialias=antialias)
    taps = scales.taps(before, after, first, count, antialias=antialias)
    start, stop = taps.span
    one = scales.taps(1, 1, 0, 1)
    for part in (row[..., start:stop], row[..., start:stop].numpy()):
        found = torch.as_tensor(scales.resampled(part, one, taps.of(start)))
        torch.testing.assert_close(found, whole[..., first : first + count], atol=2e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- against loops


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("tta", ["none", "mirror"])
@pytest.mark.parametrize("count", [1, 2])
def test_windows_slide_over_the_scaled_picture(average, tta, count):
    scorer, scene = scorer_of(tta=tta, average=average, count=count), ArrayScene(PIXELS)
    plan = plan_for(scorer, scene, tile_size=64, blend="none")
    expected = written_out(scorer, PIXELS, sliding(64))
    torch.testing.assert_close(whole_of(scorer, scene, plan), expected, atol=2e-4, rtol=1e-3)
    assert plan.largest == 64  # at every scale


@pytest.mark.parametrize("size", [(173, 251), (97, 64), (40, 200), (3, 5)])
@pytest.mark.parametrize("how", [BLENDED, {"tile_size": 80, "overlap": 16}])
def test_tiles_of_the_scaled_picture_blend_as_those_of_a_scene_of_that_size(size, how):
    pixels = PIXELS[:, : size[0], : size[1]]
    scorer, scene = scorer_of(), ArrayScene(pixels)
    found = whole_of(scorer, scene, plan_for(scorer, scene, **how))
    torch.testing.assert_close(found, written_out(scorer, pixels, blended(**how)), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("tta", ["none", "flips"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_picture_in_one_tile_is_predicted_as_an_array(tta, average):
    scorer, scene = scorer_of(tta=tta, average=average), ArrayScene(PIXELS)
    plan = plan_for(scorer, scene, tile_size=400, overlap=0, blend="none")
    found, expected = whole_of(scorer, scene, plan), scorer.score(PIXELS)
    # Turned answers are averaged before they are scaled back, which is another order.
    apart = 1e-2 if tta == "flips" and average == "probabilities" else 2e-5
    torch.testing.assert_close(found, expected, atol=apart, rtol=1e-3)
    assert len(plan) == 1 and [len(one) for one in plan.scaled] == [1] * len(SCALES)


@pytest.mark.parametrize("blocks", [2**26, 1])
def test_what_the_network_is_given_is_counted(monkeypatch, blocks):
    """Engines and memory are chosen for these shapes."""
    monkeypatch.setattr(scales, "BLOCK_VALUES", blocks)
    scorer, scene, seen = scorer_of(), ArrayScene(PIXELS), Counter()
    real = type(scorer.members[0].engine).forward

    def forward(self, image):
        seen[len(image), *image.shape[-2:]] += 1
        return real(self, image)

    monkeypatch.setattr(type(scorer.members[0].engine), "forward", forward)
    plan = plan_for(scorer, scene, tile_size=64, blend="hann", overlap=8)
    list(score_tiles(scorer, scene, plan))
    assert seen == image_shapes(plan)
    pixels = sum(images * height * width * count for (images, height, width), count in seen.items())
    assert stitch.forward_share(plan) * scene.grid.window.pixels == pytest.approx(pixels)


# ---------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("how", [BLENDED, {"tile_size": 48, "overlap": 0}])
def test_blocks_of_a_large_scene_are_those_of_the_whole(monkeypatch, how):
    """However much is averaged at once; and a block that is asked for alone is the same."""
    scorer, scene = scorer_of(average="logits"), ArrayScene(PIXELS)
    once = whole_of(scorer, scene, plan_for(scorer, scene, **how))
    monkeypatch.setattr(scales, "BLOCK_VALUES", 1)
    plan = plan_for(scorer, scene, **how)
    assert len(plan) > 1
    apart = whole_of(scorer, scene, plan)
    torch.testing.assert_close(apart, once, atol=1e-5, rtol=1e-4)
    assert stitch.forward_share(plan) > 1
    for tile in plan:
        alone = whole_of(scorer, scene, plan, wanted=tile.answers.__eq__)
        inside = (slice(None), *tile.answers.inset_of(scene.grid.window))
        assert torch.equal(alone[inside], apart[inside])
        assert int((~alone.isnan()).sum()) == alone[inside].numel()


def test_pixels_without_data_are_the_mean_and_are_not_mapped(tmp_path):
    w = world.make(tmp_path, 150, 210, nodata=0)
    scorer = scorer_of(scales=(0.6, 1.5))
    with Scene(w.scene) as scene:
        valid = scene.read().valid
        found = whole_of(scorer, scene, plan_for(scorer, scene, tile_size=32, blend="none"))
    assert np.array_equal(~found.isnan().all(0).numpy(), valid) and not valid.all()
    expected = 0
    for scale in (0.6, 1.5):
        image = scorer.prepare(w.pixels, valid)[0]
        size = [round(side * scale) for side in valid.shape]
        scaled = F.interpolate(image, size, mode="bilinear", antialias=scale < 1)
        back = F.interpolate(sliding(32)(scorer.at_one_scale, scaled)[None], valid.shape, mode="bilinear")
        expected = expected + back[0].softmax(0) / 2
    inside = torch.from_numpy(valid)
    torch.testing.assert_close(found[:, inside], expected[:, inside], atol=2e-4, rtol=1e-3)


def test_part_of_a_scene_is_mapped_as_in_a_map_of_all_of_it(tmp_path):
    """Scaled with what lies around it: its own corner would move the pixels of every scale."""
    w = world.make(tmp_path, 180, 240)
    scorer = scorer_of()
    with Scene(w.scene) as scene:
        plan = plan_for(scorer, scene, tile_size=64, overlap=8, blend="hann")
        whole = whole_of(scorer, scene, plan)
        part = Window(41, 53, 77, 90)
        plan = replace(plan, whole=part, around=scene.grid.window)
        own = {tile.window: tile.probabilities for tile in score_tiles(scorer, scene, plan)}
    assert set(own) == {part}
    inside = (slice(None), *part.inset_of(Window(0, 0, 180, 240)))
    torch.testing.assert_close(own[part], whole[inside], atol=1e-5, rtol=1e-4)


def test_a_map_at_several_scales_is_what_is_evaluated(tmp_path):
    w = world.make(tmp_path, 150, 190)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    made = world.tiny_checkpoint(like=w.scene)
    how = {"tile_size": 48, "overlap": 8, "blend": "hann", "scales": (0.75, 1.5), "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scales, "BLOCK_VALUES", 1)
        result = ls.map_scene(made, w.scene, tmp_path / "out", polygons=False, report=False, **how)
    assert np.isnan(result.seam)  # tiles meet in other places at each scale
    assert result.facts["core"] == 16 and result.facts["halo"] == 16
    with ls.open_dataset([w.scene], [labels], spec=ls.LabelRules(legend=made.legend)) as dataset:
        found = ls.evaluate(made, dataset, part="all", **how)
        truth = dataset.scenes[0].read_labels(Window(0, 0, 150, 190), None)
    with rasterio.open(result.paths["class"]) as file:
        mapped = file.read(1)
    np.testing.assert_array_equal(count(truth, mapped, 3).counts, found.confusion.counts)


def test_what_a_tile_reads_is_known_before_it_is_read():
    """The plan alone says which pixels of the scene a tile needs: none is missing."""
    scorer, scene = scorer_of(scales=(0.37, 2.9)), ArrayScene(PIXELS)
    for scaled in plan_for(scorer, scene, tile_size=64, blend="none").scaled:
        for tile in scaled:
            window = scales.read_by(scaled, tile.seen)
            assert window & scene.grid.window == window
            image, valid = stitch.tile_read(scorer.at_one_scale, scene, scaled, tile, scene.bands)
            assert image[0].shape[-2:] == valid.shape == tile.seen.shape


def test_an_interrupted_map_at_several_scales_goes_on_to_the_same_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(scales, "BLOCK_VALUES", 1)
    w = world.make(tmp_path, 150, 190)
    made = world.tiny_checkpoint(like=w.scene)
    how = {**BLENDED, "scales": (0.75, 1.5), "device": "cpu", "polygons": False, "report": False}
    told = ls.check(made, w.scene, scales=(0.75, 1.5), **BLENDED)
    whole = ls.map_scene(made, w.scene, tmp_path / "whole", **how)
    assert (told.plan.tiles, told.plan.forward_share) == (whole.tiles, whole.forward_share)
    assert told.plan.minutes > 0
    stopped_after_a_tile(monkeypatch, made, w.scene, tmp_path / "out", **how)
    resumed = ls.map_scene(made, w.scene, tmp_path / "out", **how)
    assert resumed.resumed
    for kind in ("class", "confidence"):
        assert resumed.paths[kind].read_bytes() == whole.paths[kind].read_bytes()


# ------------------------------------------------------------------------------------- blocks take long alone


def test_few_labels_need_few_tiles_of_a_block(monkeypatch, tmp_path):
    """A block has thousands of pixels a side: scores of a corner cost what the corner costs."""
    monkeypatch.setattr(stitch, "BLOCK", 32)
    w = world.make(tmp_path, 200, 260)
    unlabelled = np.ones((200, 260), bool)
    unlabelled[150:160, 60:75] = unlabelled[7, 201] = False
    labels = world.label_raster(w, tmp_path / "labels.tif", unlabelled=unlabelled)
    made, seen = world.tiny_checkpoint(like=w.scene), Counter()
    how = {"tile_size": 48, "overlap": 8, "blend": "hann", "scales": (0.75, 1.5), "device": "cpu"}
    how |= {"part": "all", "engine": "torch"}
    rules = ls.LabelRules(legend=made.legend)
    real = stitch.tile_read

    def counted(scorer, scene, plan, *rest):
        seen[plan.ground.shape] += 1
        return real(scorer, scene, plan, *rest)

    monkeypatch.setattr(stitch, "tile_read", counted)
    with ls.open_dataset([w.scene], [labels], spec=rules) as dataset:
        found = ls.evaluate(made, dataset, **how)
        some, _ = Counter(seen), seen.clear()
        monkeypatch.setattr(stitch, "BLOCK", 1024)
        whole = ls.evaluate(made, dataset, **how)
    np.testing.assert_array_equal(found.confusion.counts, whole.confusion.counts)
    assert found.confusion.labelled == 151
    assert set(some) == set(seen) and all(2 * some[size] < seen[size] for size in seen)


def test_a_block_that_takes_long_says_how_far_it_is(monkeypatch):
    """A worker without a sign of progress is ended: blocks may take hours, tiles take seconds."""
    scorer, scene, heard = scorer_of(count=2), ArrayScene(PIXELS), []
    plan = plan_for(scorer, scene, tile_size=64, blend="none")
    with heard_by(lambda done=1, **facts: heard.append((done, facts["scaled tiles"]))):
        (_,) = score_tiles(scorer, scene, plan)
    steps = 2 * sum(map(len, plan.scaled))
    assert heard == [(0, f"{n}/{steps}") for n in range(1, steps + 1)]


def test_a_part_of_a_scene_in_memory_is_made_again_where_its_surroundings_changed(monkeypatch, tmp_path):
    """Scaled tiles see beyond the part: what they see is compared, too."""
    w = world.make(tmp_path, 180, 240)
    made = world.tiny_checkpoint(like=w.scene)
    area = world.rectangle(w, tmp_path / "area.geojson", 10, 10, 160, 105)
    how = {**BLENDED, "scales": (0.5, 1.5), "device": "cpu", "polygons": False, "report": False, "area": area}
    monkeypatch.setattr(scales, "BLOCK_VALUES", 1)

    def scene(changed):
        pixels = w.pixels.copy()
        pixels[..., changed] = 500
        return ArrayScene(pixels, w.transform, w.crs)

    stopped_after_a_tile(monkeypatch, made, scene(slice(0, 0)), tmp_path / "out", **how)
    with pytest.raises(BadFile, match="pixels"):
        ls.map_scene(made, scene(slice(122, 126)), tmp_path / "out", **how)


def test_idle_workers_are_not_told_to_take_smaller_tiles():
    plan = plan_for(scorer_of(), ArrayScene(PIXELS), **BLENDED)
    said = in_words(blocks_for(plan, 4), 4)
    assert "3 workers will have nothing to do" in said and "makes more" not in said


def test_a_tile_without_data_is_passed_over_in_the_estimate():
    """Holes of a sparse file are smaller than a block."""
    plan, scene = plan_for(scorer_of(), ArrayScene(PIXELS), tile_size=64, blend="none"), ArrayScene(PIXELS)
    scene.may_hold = lambda window: window.left < 60
    assert len(plan) == 1 and 0.1 < share_stored(scene, plan) < 0.6


def test_memory_is_bounded_at_large_scales_and_known_at_small_ones():
    """Ten times as many pixels a side are a hundred times as many probabilities."""

    def planned(scales):
        scorer, scene = scorer_of(scales), Mock(grid=GRID, around=GRID.window, dtype=np.dtype("uint16"))
        plan = plan_for(scorer, scene, tile_size=512, overlap=64, blend="hann")
        told = cost(scorer, scene, plan, (), request=MapRequest(engine="torch"), minutes=None)
        return plan, told.ram

    (once, usual), (double, more), (large, most) = (planned((1.0, s)) for s in (1.5, 2.0, 10.0))
    assert once.core == double.core == 4000 and most < 2 * more < 4 * usual
    assert 3 * large.core**2 * 100 <= 4.1 * scales.BLOCK_VALUES
    # A tile of 512 pixels is made of 5120 x 5120.
    _, ram = planned((0.1,))
    assert ram > planned((0.5,))[1] + 0.9 * 5120**2 * 3 * 6 - 2**28
