"""Reduced precision is measured on the scene's own tiles, told, and refused where it changes classes."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import world

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.errors import Refused
from labelscape.maps import plan as map_plan
from labelscape.maps.run import map_scene
from labelscape.maps.work import agreement as used_by_maps
from labelscape.nets.catalog import create_model
from labelscape.scenes.array import ArrayScene
from labelscape.scoring import precision
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.precision import Agreement, agreement, checked_bytes, is_checked
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import image_shapes, plan_for, score_tiles
from labelscape.training.evaluate import evaluate

FCN = {"widths": (4, 6, 8, 10)}


def made(seed=0):
    torch.manual_seed(seed)
    net = create_model("fcn", in_channels=3, classes=len(world.LEGEND), **FCN)
    contract = Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3)
    return Checkpoint("fcn", FCN, state_arrays(net), world.LEGEND, contract)


def scene(height=96, width=160, hole=0):
    pixels = np.random.default_rng(0).integers(500, 9000, (3, height, width)).astype(np.uint16)
    pixels[:, :, :hole] = 0
    return ArrayScene(pixels, bands=("1", "2", "3"), nodata=0)


def test_equal_networks_agree_and_others_do_not():
    one, other = (Scorer.of(made(seed), device="cpu") for seed in (0, 1))
    area = scene()
    plan = plan_for(one, area, tile_size=112, overlap=16, blend="crop")
    found = agreement(one, one, [(area, plan)])
    assert (found.equal, found.mean, found.most, found.enough) == (1.0, 0.0, 0.0, True)
    found = agreement(one, other, [(area, plan)])
    assert found.equal < 0.9 and not found.enough and 0 < found.mean < found.most <= 1


def test_tiles_of_every_scale_are_compared():
    one, other = (Scorer.of(made(seed), device="cpu", protocol=Protocol((0.5, 1.5))) for seed in (0, 1))
    area = scene()
    plan = plan_for(one, area, tile_size=112, overlap=16, blend="crop")
    pairs = [(area, scaled) for scaled in plan.scaled]
    found = agreement(one, other, [(area, plan)])
    assert found == agreement(one.at_one_scale, other.at_one_scale, pairs)
    assert found.equal < 0.9 and not found.enough
    assert agreement(one, one, [(area, plan)]).equal == 1.0


def test_values_of_another_offset_are_compared_as_they_are_predicted():
    """A scene to be scored is opened as it is, and converted where it is read."""
    one, other = (
        Scorer.of(replace(m, contract=replace(m.contract, units=((1e-4, 0.0),) * 3)), device="cpu")
        for m in (made(0), made(1))
    )
    pixels = scene().read().pixels
    learned = ArrayScene(pixels, bands=("1", "2", "3"), units=((1e-4, 0.0),) * 3)
    shifted = ArrayScene(pixels + 1000, bands=("1", "2", "3"), units=((1e-4, -0.1),) * 3)
    plan = plan_for(one, learned, tile_size=112, overlap=16, blend="crop")
    wanted, found = (agreement(one, other, [(area, plan)]) for area in (learned, shifted))
    assert found.pixels == wanted.pixels
    assert found.mean == pytest.approx(wanted.mean, rel=1e-4)
    assert found.equal == pytest.approx(wanted.equal, abs=1e-3)


def test_what_is_counted_is_what_both_predict_where_there_is_data():
    one, other = (Scorer.of(made(seed), device="cpu") for seed in (0, 1))
    area = scene(hole=40)
    plan = plan_for(one, area, tile_size=512)
    found = agreement(one, other, [(area, plan)])
    (mine,), (its,) = ([*score_tiles(s, area, plan)] for s in (one, other))
    assert found.pixels == 96 * 120
    assert found.equal == pytest.approx((mine.classes() == its.classes())[:, 40:].mean())
    apart = (mine.probabilities.amax(0) - its.probabilities.amax(0)).abs()[:, 40:]
    assert found.mean == pytest.approx(float(apart.mean()), rel=1e-5)
    assert found.most == pytest.approx(float(apart.max()), rel=1e-5)


def test_a_scene_without_data_says_nothing():
    one = Scorer.of(made(), device="cpu")
    area = scene(hole=160)
    assert agreement(one, one, [(area, plan_for(one, area))]) is None


def test_data_that_the_sample_misses_are_compared_all_the_same():
    one, other = (Scorer.of(made(seed), device="cpu") for seed in (0, 1))
    for top, left in [(0, 0), (200, 330), (300, 100), (470, 470)]:
        pixels = np.zeros((3, 512, 512), np.uint16)
        pixels[:, top : top + 20, left : left + 20] = 4000
        area = ArrayScene(pixels, bands=("1", "2", "3"), nodata=0)
        plan = plan_for(one, area, tile_size=64, overlap=0)
        found = agreement(one, other, [(area, plan)])
        assert found is not None and 0 < found.pixels <= 400


def test_tiles_are_taken_from_all_scenes_and_few_of_them():
    one = Scorer.of(made(), device="cpu")
    areas = scene(512, 512), scene(512, 512)
    pairs = [(s, replace(plan_for(one, s, tile_size=64, overlap=0), batch=1)) for s in areas]
    wanted, found = precision._sampled(pairs)
    assert wanted == 4 and len(found) == 13
    # The first four: from both scenes, and from different rows.
    assert len({id(area) for area, _, _ in found[:4]}) == 2
    assert len({tiles[0].core.top for _, _, tiles in found[:4]}) > 1
    few = precision._sampled([(scene(64, 64), plan_for(one, scene(64, 64)))])
    assert few[0] == 1 and len(few[1]) == 1


@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_large_tiles_are_compared_as_quarters_of_four_in_one_image(monkeypatch, blend):
    monkeypatch.setattr(precision, "LARGE", 64)
    one, other = (Scorer.of(made(seed), device="cpu") for seed in (0, 1))
    area = scene(500, 430, hole=50)
    plan = replace(plan_for(one, area, tile_size=100, overlap=16, blend=blend), batch=1)
    (found,) = precision._images(one, [(area, plan)])
    (image,), valid = found
    shape = max(s for s in image_shapes(plan))[1:]
    assert image.shape == (1, 3, *shape) and valid.shape == (1, *shape)
    # Each quarter is one of the scene, of a tile of its own.
    whole = area.read()
    prepared = one.prepare(whole.pixels, whole.data)[0][0]
    places = []
    for half in (
        image[0][:, a, b] for a, b in itertools.product(*((slice(n // 2), slice(n // 2, n)) for n in shape))
    ):
        rows, columns = half.shape[1:]
        starts = (prepared == half[:, :1, :1]).all(0).nonzero().tolist()
        places += [
            (top, left)
            for top, left in starts
            if torch.equal(prepared[:, top : top + rows, left : left + columns], half)
        ]
    assert len(set(places)) == 4
    assert agreement(one, one, [(area, plan)]).equal == 1.0
    found = agreement(one, other, [(area, plan)])
    both = [s.batch_logits([image]).softmax(1).max(1) for s in (one, other)]
    assert found.pixels == int(valid.sum())
    assert found.equal == pytest.approx(float((both[0].indices == both[1].indices)[valid].float().mean()))
    assert found.most == pytest.approx(float((both[0].values - both[1].values).abs()[valid].max()))


def test_a_few_large_tiles_with_data_are_compared_with_nothing_else(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 64)
    one = Scorer.of(made(), device="cpu")
    for top, left in [(3, 5), (210, 330), (480, 490)]:
        pixels = np.zeros((3, 512, 512), np.uint16)
        pixels[:, top : top + 20, left : left + 20] = 4000
        area = ArrayScene(pixels, bands=("1", "2", "3"), nodata=0)
        plan = replace(plan_for(one, area, tile_size=100, overlap=0), batch=1)
        found = agreement(one, one, [(area, plan)])
        assert found is not None and 0 < found.pixels <= 400 and found.equal == 1.0


def test_full_precision_is_not_checked():
    full, half = (Scorer.of(made(), device="cpu", precision=p) for p in ("32", "bf16"))
    assert not is_checked(full) and is_checked(half)
    weights = sum(v.nbytes for v in half.members[0].engine.net.state_dict().values())
    assert checked_bytes(half, 600) == pytest.approx(1000 + weights, rel=0.01)
    assert "bfloat16 gives 99.50 % of 1,000 sampled pixels" in str(
        Agreement("bfloat16", 1000, 0.995, 0.01, 0.2)
    )


HOW = {"tile_size": 112, "overlap": 16, "blend": "crop", "device": "cpu", "polygons": False, "report": False}


@pytest.fixture
def refusing(monkeypatch):
    """A precision that keeps 97 of 100 classes."""
    found = Agreement("bfloat16", 1000, 0.97, 0.02, 0.4)
    for module in ("labelscape.maps.work", "labelscape.scoring.precision"):
        monkeypatch.setattr(f"{module}.agreement", lambda *_: found)
    return found


def test_a_map_is_refused_where_classes_change_unless_it_is_forced(tmp_path, refusing, monkeypatch, capsys):
    monkeypatch.setattr("labelscape.maps.run.refuse_unless", lambda *_: None)
    data = world.make(tmp_path, 80, 120, name="one").scene
    with pytest.raises(Refused, match=r"97.00 % of 1,000 .* at least 99 % .*`precision='32'`.*`force=True`"):
        map_scene(made(), data, tmp_path / "map", precision="bf16", **HOW)
    assert not list((tmp_path / "map").glob("one*"))
    result = map_scene(made(), data, tmp_path / "map", precision="bf16", force=True, **HOW)
    assert str(refusing) in capsys.readouterr().err
    assert str(refusing) in json.loads(result.paths["run"].read_text())["notes"]
    full = map_scene(made(), data, tmp_path / "full", **HOW)
    assert not any("bfloat16" in note for note in json.loads(full.paths["run"].read_text())["notes"])


def test_a_score_in_reduced_precision_says_what_it_costs(tmp_path, refusing):
    data = world.make(tmp_path, 80, 120, name="one")
    labels = world.label_raster(data, tmp_path / "labels.tif")
    checkpoint, how = (
        made(),
        {"device": "cpu", "show": False, "spec": {"classes": {"water": 0, "field": 1, "forest": 2}}},
    )
    found = evaluate(checkpoint, data.scene, labels, precision="bf16", **how)
    assert str(refusing) in found.notes
    assert str(refusing) not in evaluate(checkpoint, data.scene, labels, **how).notes


def test_memory_is_planned_for_both_precisions(tmp_path):
    data = world.make(tmp_path, 80, 120, name="one").scene
    plans = {
        p: map_plan.check(made(), data, timing=False, precision=p, device="cpu").plan for p in ("32", "bf16")
    }
    assert plans["bf16"].ram >= plans["32"].ram
    assert used_by_maps is agreement
