"""What keeps hours of training from ending in nothing: everything that cannot work is said before the
first step, and nothing done is lost.
"""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import world

import labelscape.evaluation.measure as measure
import labelscape.training.loop as loop
import labelscape.training.run as running
from labelscape.checkpoint import load
from labelscape.contract import bands
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.files import locked
from labelscape.scenes.raster import Scene
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.recipe import make_recipe
from labelscape.training.rehearse import rehearse
from labelscape.training.run import train

TINY = {
    "options": {"widths": [4, 4, 4, 4]},
    "batch": 2,
    "crop": 16,
    "device": "cpu",
    "network": "fcn",
    "steps": 3,
}


@pytest.fixture
def fields(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=3, nodata=0)
    return {
        "data": {
            "images": [str(w.scene)],
            "labels": [str(world.label_raster(w, tmp_path / "labels.tif"))],
            "block": 32,
        },
        **TINY,
    }


def camvid(folder: Path, names: dict[str, list[str]]) -> dict:
    world.pairs(folder, {part: (part, f"{part}annot") for part in names}, names, 11)
    return {"data": {"images": [str(folder)], "dataset": "camvid"}, **TINY}


def never(*arguments, **options):
    pytest.fail("a step was made")


def test_data_without_a_held_out_label_is_trained_and_not_scored(tmp_path, monkeypatch):
    world.pairs(tmp_path / "love", {"train": ("img_dir/train", "ann_dir/train")}, {"train": ["1", "2"]}, 6)
    said = []
    recipe = make_recipe(**{**TINY, "data": {"images": [str(tmp_path / "love")], "dataset": "loveda"}})
    assert train(recipe, tmp_path / "out", say=said.append).scores == {}
    assert "no score at the end: the data has no labels in the parts test and val (parts here: train)" in said
    assert load(tmp_path / "out" / "fcn.safetensors").weights
    monkeypatch.setattr(loop, "update", never)
    with pytest.raises(
        BadInput, match="scores the part val, but the data has no labelled pixel in it .parts here: train"
    ):
        train(
            recipe.replace(data={**recipe.data.model_dump(), "val": 0.1}, val_every=1), tmp_path / "watched"
        )


def test_a_score_that_fails_loses_no_step(fields, tmp_path, monkeypatch):
    recipe = make_recipe(**fields)
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr(measure, "evaluate", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            train(recipe, tmp_path / "out")
    monkeypatch.setattr(loop, "update", never)
    again = train(recipe, tmp_path / "out")
    assert all(np.array_equal(again.weights[key], value) for key, value in whole.weights.items())
    assert (again.scores, again.history) == (whole.scores, whole.history)


def test_the_score_tells_when_it_comes_from_val(tmp_path):
    world.pairs(
        tmp_path / "love",
        {"train": ("img_dir/train", "ann_dir/train"), "val": ("img_dir/val", "ann_dir/val")},
        {"train": ["1"], "val": ["2"]},
        6,
    )
    data = {"images": [str(tmp_path / "love")], "dataset": "loveda", "val": 0.1}
    said = []
    train(make_recipe(**TINY, data=data, val_every=2), tmp_path / "out", say=said.append)
    assert any(
        "the part val, which also chooses the best weights: it will be optimistic" in line for line in said
    )


def test_data_changed_between_two_runs_is_not_gone_on_with(fields, tmp_path, monkeypatch):
    real, made = loop.update, []

    def breaking(*arguments):
        made.append(1)
        if len(made) > 2:
            raise KeyboardInterrupt
        return real(*arguments)

    recipe = make_recipe(**fields, save_every=1)
    monkeypatch.setattr(loop, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "out")
    monkeypatch.setattr(loop, "update", never)
    w = world.make(tmp_path.parent, 96, 128, bands=3, nodata=0, name=f"{tmp_path.name}-same")
    corner = np.zeros((96, 128), bool)
    corner[60:, 80:] = True
    world.label_raster(w, tmp_path / "labels.tif", unlabelled=corner)
    with pytest.raises(
        BadFile,
        match="on other data, although its files have the same names .data: labelled pixels per class",
    ):
        train(recipe, tmp_path / "out")


def test_a_finished_network_of_another_run_is_not_replaced(fields, tmp_path, monkeypatch):
    first = train(make_recipe(**fields), tmp_path / "out")
    monkeypatch.setattr(loop, "update", never)
    skip = make_recipe(**{**fields, "network": "skip"}, base_steps=5)
    with pytest.raises(
        BadFile, match=r"fcn.safetensors is from another run \(.*steps.*would be replaced. Give `start="
    ):
        train(skip, tmp_path / "out")
    assert load(tmp_path / "out" / "fcn.safetensors").history == first.history


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_takes_no_file_is_found_at_once(fields, monkeypatch):
    monkeypatch.setattr(loop, "update", never)
    with pytest.raises(BadFile, match="/proc/self cannot be written to"):
        train(make_recipe(**fields), "/proc/self")


def test_classes_without_training_pixels_are_named(fields, tmp_path):
    said = []
    data = {**fields["data"], "classes": {"water": 0, "field": 1, "forest": 2, "snow": 3, "ice": 4}}
    train(make_recipe(**{**fields, "data": data}), tmp_path / "out", say=said.append)
    assert any(line.startswith("no training pixel of snow, ice:") for line in said)


def test_only_pictures_to_be_scored_are_nothing_to_train_on(tmp_path):
    world.pairs(
        tmp_path / "inria", {"val": ("images", "gt")}, {"val": ["austin1", "austin2"]}, 0, suffix=".tif"
    )
    with pytest.raises(BadInput, match="no part train .parts here: val"):
        train(
            make_recipe(**TINY, data={"images": [str(tmp_path / "inria")], "dataset": "inria"}),
            tmp_path / "out",
        )


def test_statistics_know_nothing_of_what_is_held_out_whole(tmp_path):
    fields = camvid(tmp_path / "a", {"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]})
    recipe = make_recipe(**fields)
    with open_recipe_data(recipe.data, 0) as dataset:
        found = blank_checkpoint(recipe, dataset).contract.normalisation
        seen = np.concatenate([s.scene.read().pixels.reshape(3, -1) for s in dataset.part("train")], axis=1)
    np.testing.assert_allclose(np.array(found), np.stack([seen.mean(axis=1), seen.std(axis=1)], axis=1))


def test_statistics_of_many_scenes_stay_small(tmp_path, monkeypatch):
    scene = Scene(world.make(tmp_path, 64, 64).scene)
    whole = bands.band_statistics([scene])
    monkeypatch.setattr(bands, "SAMPLED", 1000)
    ticks, sizes = [], []
    real = np.quantile
    monkeypatch.setattr(
        np, "quantile", lambda values, *a, **k: sizes.append(values.shape[1]) or real(values, *a, **k)
    )
    many = bands.band_statistics([scene] * 50, most_scenes=20, tick=lambda: ticks.append(1))
    assert len(ticks) == 20
    assert sizes[0] <= 1100
    facts = [np.array([(s.mean, s.std, s.min, s.max) for s in found]) for found in (many, whole)]
    np.testing.assert_allclose(*facts)


def test_everything_wrong_is_said_at_once_and_where():
    with pytest.raises(BadOption) as error:
        make_recipe(
            data={"images": ["a"]},
            network="mlp",
            steps=-1,
            options={"hiden": 3},
            losses={"dise": 1},
            mate={"data": {"imges": ["x"]}, "wait": 2},
        )
    text = str(error.value)
    assert all(f"Did you mean {name!r}" in text for name in ("hidden", "dice", "images", "weight"))
    assert "steps=-1" in text
    assert "setting of mate.data" in text


def test_a_rehearsal_counts_both_networks_and_the_reading(fields):
    found = rehearse(make_recipe(**{**fields, "network": "skip"}, base_steps=1000))
    assert (found.steps, found.base_steps) == (1003, 1000)
    assert found.seconds == pytest.approx(
        found.seconds_before
        + 3 * found.seconds_per_step
        + 1000 * found.base_seconds_per_step
        + found.scoring_seconds
        + found.map_seconds
    )
    assert found.base_seconds_per_step > 0


def test_one_scene_needs_no_list_and_a_checkpoint_no_loading(fields, tmp_path):
    data = {
        **fields["data"],
        "images": Path(fields["data"]["images"][0]),
        "labels": fields["data"]["labels"][0],
    }
    recipe = make_recipe(**{**fields, "data": data})
    assert recipe == make_recipe(**fields)
    done = train(recipe, tmp_path / "out")
    with open_recipe_data(recipe.data, 0) as dataset:
        found = measure.evaluate(tmp_path / "out" / "fcn.safetensors", dataset, part="test")
    assert found.metrics == done.scores["fcn"]
    with pytest.raises(BadFile, match="does not exist"):
        measure.evaluate("none.safetensors", dataset)


def test_a_rehearsal_counts_scores_and_the_forest(fields):
    """Every score of val, of both networks, the score at the end, and the random forest."""
    data = {**fields["data"], "val": 0.2}
    recipe = make_recipe(**{**fields, "data": data, "network": "skip", "steps": 9}, base_steps=6, val_every=3)
    found = rehearse(recipe, forest=True)
    assert found.val_scores == 2 + 3
    assert min(found.val_seconds, found.scoring_seconds, found.forest_seconds) > 0
    rest = found.seconds_before + 9 * found.seconds_per_step + 6 * found.base_seconds_per_step
    more = found.val_seconds + found.scoring_seconds + found.forest_seconds + found.map_seconds
    assert found.seconds == pytest.approx(rest + more)
    assert rehearse(recipe).forest_seconds == 0
    # Features of the training data take about as long as the score; not measured, they take nothing.
    assert found.map_seconds > 0
    assert rehearse(recipe.replace(measure_unfamiliar=False, measure_tile_sizes=False)).map_seconds == 0


def test_two_trainings_in_one_folder_are_told_apart(tmp_path):
    """Of one network, or of one that starts from it; another network may train beside it."""
    w = world.make(tmp_path, 96, 128, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    recipe = {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "options": {"widths": [4, 4, 4, 4]},
        "steps": 1,
        "crop": 32,
        "batch": 2,
        "device": "cpu",
        "base_steps": 0,
        "measure_tile_sizes": False,
    }
    out = tmp_path / "run"
    with locked(out / "fcn.safetensors"):
        for other in ({"network": "fcn"}, {"network": "skip", "base_steps": 1}):
            with pytest.raises(BadFile, match="fcn.safetensors is being written by another run"):
                train({**recipe, **other}, out, score=False)
        train({**recipe, "network": "skip"}, out, score=False)
    train({**recipe, "network": "fcn"}, out, score=False)
    assert sorted(p.name for p in out.iterdir()) == [
        f"{name}{ending}" for name in ("fcn", "skip") for ending in (".csv", ".safetensors", "_times.json")
    ]


def test_what_another_training_finished_while_this_one_waited_is_not_trained_again(tmp_path, monkeypatch):
    """The file was checked before the lock: all steps were made before the end was refused."""
    w = world.make(tmp_path, 96, 128, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    data = {"images": [str(w.scene)], "labels": [str(labels)], "block": 32}
    recipe = {"data": data, "network": "fcn", "steps": 1, "crop": 32, "device": "cpu"}

    @contextmanager
    def waited(path, **how):
        path.write_bytes(b"the other's")
        yield

    monkeypatch.setattr(running, "locked", waited)
    lines = []
    with pytest.raises(BadFile, match=r"fcn.safetensors exists"):
        train(recipe, tmp_path / "run", score=False, say=lines.append)
    assert not [line for line in lines if "steps in" in line]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["fcn.safetensors"]
