"""Held-out scores by tile size: the same pixels at each; stored by training, printed by all verbs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import world
from global_sum import in_catalogue  # noqa: F401 (a fixture)
from processes import PATIENCE

from labelscape.checkpoint import load, save
from labelscape.datasets.own import open_dataset
from labelscape.evaluation import familiar
from labelscape.evaluation import tile_sizes as measuring
from labelscape.evaluation.calibrate import calibrate
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.familiar import familiarity_seconds, measure_familiarity
from labelscape.evaluation.measure import evaluate
from labelscape.evaluation.metrics import mean_iou, overall_accuracy
from labelscape.evaluation.tile_sizes import (
    chosen_units,
    measure_tile_sizes,
    measured_sides,
    pixels_for_tile_sizes,
    summarised,
)
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.scoring import stitch
from labelscape.scoring.scorer import Scorer
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

pytestmark = pytest.mark.usefixtures("in_catalogue")


@pytest.fixture
def landscape(tmp_path):
    w = world.make(tmp_path, 320, 384)
    return w.scene, world.label_raster(w, tmp_path / "labels.tif")


def recipe_for(landscape, context, **more):
    scene, labels = landscape
    data = {"images": [str(scene)], "labels": [str(labels)], "block": 64, "holdout": 0.3}
    return make_recipe(
        data=data,
        network="global-sum",
        options={"context": context},
        crop=64,
        steps=40,
        batch=4,
        optimizer="sgd",
        rate=0.1,
        device="cpu",
        **more,
    )


def test_a_global_sum_keeps_its_crop_and_a_pixelwise_network_gets_large_tiles(landscape, tmp_path):
    said = []
    summing = train(recipe_for(landscape, 2.0), tmp_path / "sum", say=said.append)
    plain = train(recipe_for(landscape, 0.0), tmp_path / "plain")
    assert summing.tile_sizes.sides == plain.tile_sizes.sides == (64, 96, 128, 192)
    assert summing.tile_sizes.default == 64 and summing.tile_sizes.loss_at(192) > 0.2
    assert plain.tile_sizes.default == 192 and plain.tile_sizes.mean_iou[0] > 0.9
    assert any("(default)" in line and line.split()[0] == "64" for line in said)
    stored = load(tmp_path / "sum" / "global-sum.safetensors")
    assert stored.tile_sizes == summing.tile_sizes
    # The score that training prints is that of the default tile.
    scene, labels = landscape
    with open_dataset([scene], [labels], shares={"train": 0.7, "test": 0.3}, block=64) as data:
        small = evaluate(stored, data, part="test", tile_size=64, device="cpu").metrics
        assert (
            stored.scores["global-sum"] == small == evaluate(stored, data, part="test", device="cpu").metrics
        )
        # All held-out pixels fit into the budget: the curve is that of `evaluate`.
        for side, iou in zip(summing.tile_sizes.sides, summing.tile_sizes.mean_iou):
            there = evaluate(stored, data, part="test", tile_size=side, device="cpu")
            assert there.metrics["mean_iou"] == pytest.approx(iou, abs=1e-12)
            assert bool(there.notes) == (side > 64)


def test_training_without_measuring_or_stopped_in_it(landscape, tmp_path, monkeypatch):
    recipe = recipe_for(landscape, 2.0)
    assert "measure_tile_sizes" not in recipe.model_dump(mode="json")
    assert train(recipe.replace(measure_tile_sizes=False), tmp_path / "without").tile_sizes is None
    train(recipe, tmp_path / "whole")

    def stopped(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(measuring, "_count_units", stopped)
        train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped")
    name = "global-sum.safetensors"
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("block", [48, None])
def test_what_measuring_for_maps_will_cost_is_counted_from_the_tiles_it_reads(landscape, monkeypatch, block):
    """`train --dry-run` multiplies these pixels by the time of one."""
    scene, labels = landscape
    split = {"shares": {"train": 0.6, "test": 0.4}, "block": block} if block else {}
    given = []
    prepare = Scorer.prepare

    def noted(self, pixels, *rest):
        given.append(pixels[0].size)
        return prepare(self, pixels, *rest)

    with open_dataset([scene], [labels], **split) as data:
        made = train_free(data)
        scorer = Scorer.of(made, device="cpu")
        monkeypatch.setattr(Scorer, "prepare", noted)
        assert measure_tile_sizes(made, data, part="test", device="cpu", show=False)
        assert sum(given) == pixels_for_tile_sizes(scorer, data, "test") > 0
        given.clear()
        exact = replace(world.tiny_checkpoint("skip", like=scene, recipe={"crop": 64}), legend=data.legend)
        assert measure_familiarity(exact, data, device="cpu", show=False)
        whole = sum(given)
        # A clock that every pixel moves on by a second.
        monkeypatch.setattr(familiar, "time", SimpleNamespace(monotonic=lambda: sum(given)))
        assert familiarity_seconds(exact, data, device="cpu") == pytest.approx(whole) != 0
        assert pixels_for_tile_sizes(Scorer.of(exact, device="cpu"), data, "test") == 0


def test_exact_networks_are_not_measured(landscape):
    scene, labels = landscape
    with open_dataset([scene], [labels]) as data:
        made = replace(world.tiny_checkpoint("skip", like=scene, recipe={"crop": 64}), legend=data.legend)
        assert measure_tile_sizes(made, data, part="test", device="cpu") is None


def test_the_same_pixels_are_counted_at_every_side(landscape, monkeypatch):
    scene, labels = landscape
    seen = []
    real = measuring.summarised
    monkeypatch.setattr(
        measuring, "summarised", lambda c, s, totals: seen.append(totals) or real(c, s, totals)
    )
    with open_dataset([scene], [labels], shares={"train": 0.6, "test": 0.4}, block=48) as data:
        made = train_free(data)
        found = measure_tile_sizes(made, data, part="test", device="cpu", show=False)
        units = chosen_units(data, "test")
        truth = [unit.scene.read_labels(unit.window, "test") for unit in units]
    (totals,) = seen
    per_class = np.array([np.bincount(t[t != IGNORE], minlength=3) for t in truth])
    assert found.sides == (64, 96, 128, 192) and totals.shape == (4, len(units), 3, 3)
    for at_side in totals:
        np.testing.assert_array_equal(at_side[:, 1], per_class)
        np.testing.assert_array_equal(at_side[:, 2].sum(axis=1), per_class.sum(axis=1))


def train_free(data):
    """A network of random weights for this data."""
    import torch

    from labelscape.nets.catalog import create_model
    from labelscape.scoring.engines import state_arrays

    torch.manual_seed(0)
    net = create_model("global-sum", in_channels=len(data.bands), classes=3, context=1.0)
    made = world.tiny_checkpoint("fcn", bands=data.bands, warmed=False, recipe={"crop": 64})
    return replace(
        made, network="global-sum", options={"context": 1.0}, weights=state_arrays(net), legend=data.legend
    )


def test_units_are_blocks_or_parts_of_images_up_to_a_bound(landscape):
    scene, labels = landscape
    with open_dataset([scene], [labels], shares={"train": 0.5, "test": 0.5}, block=64) as data:
        every = chosen_units(data, "test")
        assert {unit.window.shape for unit in every} == {(64, 64)}
        assert {unit.window.top % 64 for unit in every} == {0} and 10 < len(every) < 20
        assert len(chosen_units(data, "test", most=5 * 64 * 64)) == 5
        assert chosen_units(data, "test", most=5 * 64 * 64) == chosen_units(data, "test", most=5 * 64 * 64)
    with open_dataset([scene], [labels]) as data:
        (unit,) = chosen_units(data, "test")
        assert unit.window == Window(0, 0, 320, 384)


@pytest.mark.parametrize(
    ("crop", "stride", "longest", "most", "sides"),
    [
        (224, 16, 5000, 1664, (224, 336, 448, 672)),
        (160, 16, 224, 1664, (160, 224)),  # up to the whole picture
        (100, 16, 5000, 1664, (96, 144, 192, 304)),
        (769, 8, 5000, 1152, (768, 1152)),  # up to what memory allows
        (128, 32, 100, 1664, (128,)),
        (16, 32, 5000, 1664, (32, 64)),
    ],
)
def test_the_measured_sides(crop, stride, longest, most, sides):
    assert measured_sides(crop, stride, longest, most) == sides


def test_errors_are_those_of_a_bootstrap_written_as_a_loop(monkeypatch):
    rng = np.random.default_rng(5)
    confusions = rng.integers(0, 50, (3, 7, 4, 4)) * (
        rng.random((1, 7, 4, 1)) < 0.7
    )  # classes miss from blocks
    totals = np.array([[[np.diag(c), c.sum(axis=1), c.sum(axis=0)] for c in side] for side in confusions])
    found = summarised(64, (64, 96, 128), totals)
    draws = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=measuring.RESAMPLES)

    def scored(side, times):
        counts = sum(int(t) * confusions[side][u] for u, t in enumerate(times))
        confusion = Confusion(counts, np.zeros(4, int))
        return mean_iou(confusion), overall_accuracy(confusion)

    for side in range(3):
        iou, accuracy = scored(side, np.ones(7))
        assert found.mean_iou[side] == pytest.approx(iou) and found.overall_accuracy[side] == pytest.approx(
            accuracy
        )
        assert found.loss[side] == pytest.approx(scored(0, np.ones(7))[0] - iou)
        losses = [scored(0, times)[0] - scored(side, times)[0] for times in draws[:, :]]
        assert found.error[side] == pytest.approx(np.std(losses, ddof=1))
    assert found.error[0] == 0 < found.error[1]


def test_every_verb_takes_the_default_tile_and_warns_beyond_it(landscape, tmp_path, monkeypatch, run_cli):
    scene, labels = landscape
    out = tmp_path / "run"
    made = train(recipe_for(landscape, 2.0), out)
    model = out / "global-sum.safetensors"
    points = f"{100 * made.tile_sizes.loss_at(192):.1f} points of mean IoU; the model learned at 64"

    result = map_scene(made, scene, tmp_path / "map", device="cpu", polygons=False)
    assert result.facts["core"] + 2 * result.facts["halo"] == 64 and not result.notes
    large = map_scene(made, scene, tmp_path / "large", device="cpu", polygons=False, tile_size=192)
    assert points in large.notes[0] and "tiles of 192" in large.notes[0]
    assert points in large.paths["report"].read_text("utf-8")
    assert points in json.loads(large.paths["run"].read_text())["notes"][0]

    planned = check(made, scene, device="cpu", timing=False)
    assert planned.plan.core + 2 * planned.plan.halo == 64 and planned.warnings == ()
    assert planned.to_dict()["tile_sizes"]["default"] == 64
    code, said, _ = run_cli("check", model, scene, "--device", "cpu", "--no-timing", "--tile-size", 192)
    assert code == 0 and points in said and "(default)" in said
    code, said, _ = run_cli("info", model)
    assert code == 0 and "(default)" in said
    code, _, talk = run_cli("evaluate", model, "--device", "cpu", "--tile-size", 192)
    assert code == 0 and points in talk

    plans = []
    real = stitch.plan_for
    monkeypatch.setattr(stitch, "plan_for", lambda *a, **k: plans.append(real(*a, **k)) or plans[-1])
    with open_dataset([scene], [labels], shares={"train": 0.7, "test": 0.3}, block=64) as data:
        calibrate(made, data, part="test", device="cpu")
    assert [plan.largest for plan in plans] == [64]

    unknown = save(replace(made, tile_sizes=None), tmp_path / "old.safetensors")
    (warning,) = check(unknown, scene, device="cpu", timing=False, tile_size=192).warnings
    assert "not measured" in warning and "learned at 64" in warning


PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from global_sum import global_sum
from labelscape.nets import catalog
catalog.NETWORKS["global-sum"] = catalog.Entry(global_sum, "a toy")
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
import os
made = train(make_recipe(**json.loads(sys.argv[2])), sys.argv[3])
Path(sys.argv[3], os.environ["RANK"] + ".json").write_text(json.dumps(made.tile_sizes.to_dict()))
"""


@pytest.mark.long
def test_all_processes_agree(landscape, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    recipe = recipe_for(landscape, 2.0, sync_bn=False).model_dump_json()
    arguments = [
        str(tmp_path / "program.py"),
        str(Path(__file__).parent.parent),
        recipe,
        str(tmp_path / "run"),
    ]
    head = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*head, *arguments], env=environment, check=True, capture_output=True, timeout=PATIENCE)
    one, other = (json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other == load(tmp_path / "run" / "global-sum.safetensors").tile_sizes.to_dict()
