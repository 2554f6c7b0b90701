"""Learning curves: nested shares, the same held-out pixels, honest intervals, finished trainings kept."""

import csv
import json

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.datasets.own import open_dataset
from labelscape.datasets.share import nested_order
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.legend import IGNORE
from labelscape.training.curve import CurvePoint, LearningCurve, answered, interval, learning_curve, of_share
from labelscape.training.data import open_recipe_data

SPLIT = {"train": 0.6, "val": 0.15, "test": 0.25}


@pytest.fixture
def fields(tmp_path):
    one = world.make(tmp_path, 128, 160)
    labels = world.label_raster(one, tmp_path / "labels.tif")
    data = {"images": [str(one.scene)], "labels": [str(labels)], "block": 16}
    return {
        "data": data, "network": "fcn", "options": {"widths": [4, 4, 4, 4]}, "steps": 3, "batch": 2,
        "crop": 32, "device": "cpu",
    }  # fmt: skip


def pixels_of(data, seed):
    """(train, test) masks of labelled pixels."""
    with open_recipe_data(data, seed) as dataset:
        (one,) = dataset.scenes
        return tuple(one.read_labels(one.scene.grid.window, part) != IGNORE for part in ("train", "test"))


def test_shares_are_nested_and_what_is_held_out_is_always_the_same(fields):
    recipe = ls.make_recipe(**fields)
    held_out, by_seed = None, {}
    for seed in (0, 1, 5):
        before = np.zeros((128, 160), bool)
        for share in (0.1, 0.25, 0.5, 1.0):
            own = of_share(recipe, share, seed)
            train, test = pixels_of(own.data, own.seed)
            assert (before <= train).all() and train.sum() > before.sum(), "larger shares hold smaller ones"
            blocks = train.reshape(8, 16, 10, 16).any(axis=(1, 3))
            assert blocks.sum() == np.ceil(share * 60)
            held_out = test if held_out is None else held_out
            np.testing.assert_array_equal(test, held_out)
            assert not (train & test).any()
            before = train
            by_seed[seed, share] = train
    assert (by_seed[0, 0.25] != by_seed[1, 0.25]).any(), "other seeds draw other blocks"
    np.testing.assert_array_equal(by_seed[0, 1.0], by_seed[1, 1.0])


def test_a_whole_share_is_the_recipes_own_training(fields):
    recipe = ls.make_recipe(**fields)
    own = of_share(recipe, 1.0, recipe.seed)
    for mine, theirs in zip(pixels_of(own.data, own.seed), pixels_of(recipe.data, recipe.seed)):
        np.testing.assert_array_equal(mine, theirs)
    stored = recipe.model_dump(mode="json")["data"]
    assert "train_share" not in stored and "split_seed" not in stored


def test_each_class_comes_first_once():
    rng = np.random.default_rng(0)
    counts = np.zeros((40, 4), int)
    counts[:, 0] = 100
    counts[rng.choice(40, 12, replace=False), 1] = 20
    counts[7, 2] = 5
    counts[31, 3] = 3
    for seed in range(20):
        order = nested_order(counts, seed)
        assert sorted(order.tolist()) == list(range(40))
        assert set(order[:2].tolist()) == {7, 31} and order[0] == 31
        assert (counts[order[:3]].sum(axis=0) > 0).all()
    assert len({tuple(nested_order(counts, seed)) for seed in range(20)}) == 20


def test_a_buffer_keeps_away_from_held_out_blocks_alone(fields):
    """Blocks that are not used are not held out: labels beside them are trained on."""
    data = {**fields["data"], "buffer": 3}
    whole, _ = pixels_of(ls.make_recipe(**{**fields, "data": data}).data, 0)
    own = of_share(ls.make_recipe(**{**fields, "data": data}), 0.5, 0)
    half, _ = pixels_of(own.data, 0)
    used = half.reshape(8, 16, 10, 16).any(axis=(1, 3))
    np.testing.assert_array_equal(half, whole & np.kron(used, np.ones((16, 16), bool)))


def test_images_of_a_folder_are_shared_too(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "labels").mkdir()
    for n in range(10):
        place = world.NORTH_UP @ world.NORTH_UP.translation(n * 32, 0)
        one = world.make(tmp_path / "images", 32, 32, seed=n, transform=place, name=f"s{n}")
        world.label_raster(one, tmp_path / "labels" / f"s{n}.tif")
    parts = {}
    for share in (0.3, 1.0):
        with open_dataset([tmp_path], shares=SPLIT, train_share=share) as dataset:
            parts[share] = dataset.part_of
            assert len(dataset.part("train")) == parts[share].count("train")
    assert parts[0.3].count("train") == 2 and parts[1.0].count("train") == 6
    for few, all_ in zip(parts[0.3], parts[1.0]):
        assert few == all_ or (few, all_) == ("unused", "train")


def test_shares_without_held_out_blocks_are_refused(fields):
    with pytest.raises(BadInput, match="holdout"):
        open_dataset(fields["data"]["images"], fields["data"]["labels"], train_share=0.5)


# ----------------------------------------------------------------------------------------- what is concluded


def curve_of(scores):
    """{(share, seed): mean IoU} as a curve."""
    points = [CurvePoint(share, seed, round(1000 * share), v, v, v) for (share, seed), v in scores.items()]
    return LearningCurve("fcn", tuple(points))


def test_intervals_are_students():
    from scipy import stats

    values = [0.61, 0.64, 0.66]
    mean, low, high = interval(values)
    wanted = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose((mean, low, high), (np.mean(values), *wanted))
    assert interval([0.5]) == (0.5, None, None) and interval([]) == (None, None, None)


def test_the_gain_is_paired_by_seed():
    """Seeds differ by ten points, the step by two in each: unpaired nothing could be told."""
    scores = {(0.5, s): 0.5 + 0.1 * s for s in range(3)} | {(1.0, s): 0.52 + 0.1 * s for s in range(3)}
    found = curve_of({**scores, (0.1, 0): 0.2})
    assert found.gain["mean"] == pytest.approx(0.02) and found.gain["low"] == pytest.approx(0.02)
    assert (found.gain["before"], found.gain["last"], found.gain["trainings"]) == (0.5, 1.0, 3)
    assert found.answer.startswith("More labels would probably help: from 50 % to 100 %")
    assert [s.share for s in found.shares] == [0.1, 0.5, 1.0]
    assert found.shares[1].mean_iou == pytest.approx(0.6) and found.shares[0].low is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.011, 0.05, "would probably help"),
        (0.001, 0.009, "would hardly help"),
        (-0.02, 0.03, "not clear whether more labels would help"),
        (-0.03, 0.005, "would hardly help"),
        (-0.04, -0.01, "would not help"),
        (None, None, "One training cannot tell"),
    ],
)
def test_the_answer_follows_from_the_interval(low, high, said):
    mean = 0.02 if low is None else (low + high) / 2
    gain = {"before": 0.5, "last": 1.0, "mean": mean, "low": low, "high": high, "trainings": 3}
    assert said in answered(gain)
    assert "cannot be told" in answered(None)


def test_intervals_of_chance_alone_seldom_claim_a_gain():
    """Trainings that differ by chance: more labels 'help' about as often as a 95 % interval errs upwards."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(2000):
        scores = {(share, s): 0.6 + rng.normal(0, 0.03) for share in (0.5, 1.0) for s in range(3)}
        claims += "would probably help" in curve_of(scores).answer
    assert claims / 2000 < 0.035


# ---------------------------------------------------------------------------------------------- whole curves


def test_a_curve_is_written_and_finished_trainings_are_kept(fields, tmp_path):
    recipe, out, said = ls.make_recipe(**fields), tmp_path / "out", []
    found = learning_curve(recipe, out, shares=(0.5, 1.0), seeds=2, say=said.append)
    assert [(p.share, p.seed) for p in found.points] == [(0.5, 0), (1.0, 0), (0.5, 1), (1.0, 1)]
    assert all(p.mean_iou is not None and p.pixels > 0 for p in found.points)
    assert "training 4 of 4: 100 % of the labels, seed 1" in said
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["mean_iou"]) for r in rows] == [p.mean_iou for p in found.points]
    stored = json.loads((out / "curve.json").read_text())
    assert stored["answer"] == found.answer and len(stored["shares"]) == 2
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert len(times) == 4
    more = learning_curve(recipe, out, shares=(0.25, 0.5, 1.0), seeds=2)
    assert len(more.points) == 6
    assert {p: p.stat().st_mtime_ns for p in times} == times
    same = {(p.share, p.seed): p for p in more.points}
    assert all(same[p.share, p.seed] == p for p in found.points)
    with pytest.raises(BadFile, match=r"other settings \(steps\)"):
        learning_curve(recipe.replace(steps=4), out, shares=(0.5, 1.0))


def test_a_curve_that_was_interrupted_goes_on(fields, tmp_path, monkeypatch):
    import labelscape.training.loop as loop

    recipe = ls.make_recipe(**fields)
    whole = learning_curve(recipe, tmp_path / "whole", shares=(0.5, 1.0))
    real, count = loop.update, 0

    def breaking(*given):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(loop, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        learning_curve(recipe, tmp_path / "broken", shares=(0.5, 1.0))
    assert len(json.loads((tmp_path / "broken" / "curve.json").read_text())["trainings"]) == 1
    resumed = learning_curve(recipe, tmp_path / "broken", shares=(0.5, 1.0))
    assert [p.mean_iou for p in resumed.points] == [p.mean_iou for p in whole.points]


def test_a_share_that_cannot_be_trained_is_reported(tmp_path, fields):
    """A tenth of the blocks is one block, of one class."""
    one = world.make(tmp_path, 64, 160, name="bare")
    world.write(tmp_path / "l.tif", np.repeat(np.arange(10) // 5, 16)[None].repeat(64, 0).astype(np.uint8))
    data = {**fields["data"], "images": [str(one.scene)], "labels": [str(tmp_path / "l.tif")]}
    said = []
    recipe = ls.make_recipe(**{**fields, "data": data})
    found = learning_curve(recipe, tmp_path / "out", shares=(0.02, 1.0), say=said.append)
    assert found.points[0].mean_iou is None and "All training pixels are" in found.points[0].problem
    assert found.gain is None and "cannot be told" in found.answer


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({}, {"shares": (0.5,)}, "two or more shares"),
        ({}, {"shares": (0.0, 1.0)}, "two or more shares"),
        ({}, {"seeds": 0}, "seeds=0"),
        ({"holdout": 0}, {}, "holdout"),
        ({"dataset": "camvid"}, {}, "published"),
    ],
)
def test_what_makes_no_curve_is_refused(fields, tmp_path, change, options, match):
    recipe = ls.make_recipe(**{**fields, "data": {**fields["data"], **change}})
    with pytest.raises(BadOption, match=match):
        learning_curve(recipe, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_line_prints_a_table_and_a_sentence(fields, tmp_path, run_cli):
    data = fields["data"]
    command = [
        "train", data["images"][0], "--labels", data["labels"][0], "--block", 16, "--network", "fcn",
        "--steps", 1, "--batch", 2, "--crop", 32, "--device", "cpu", "-o", "options.widths=[4,4,4,4]",
        "--out", tmp_path / "out", "--curve", "0.5,1",
    ]  # fmt: skip
    code, out, err = run_cli(*command)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["50", "%"] and lines[2].split()[:2] == ["100", "%"]
    assert "One training cannot tell" in out and "--seeds 3" in out
    assert "training 2 of 2" in err
    code, out, err = run_cli(*command, "--seeds", 2, "--json")
    assert code == 0 and len(json.loads(out)["trainings"]) == 4, err
