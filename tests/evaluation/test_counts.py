"""Counts of parts add up to those of the whole, and a file holds all of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape import progress
from labelscape.datasets.labelled import scene_names
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation import tally
from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.calibrate import expected_error
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.objects import ObjectCounts
from labelscape.evaluation.reliability import BINS, UNIT, Reliability
from labelscape.evaluation.topology import TopologyCounts
from labelscape.grid import Window
from labelscape.rasters.write import MapWriter
from labelscape.training import forest
from labelscape.training.forest import score_forest

QUICK = {"device": "cpu", "show": False}
ALL = {"boundaries": True, "objects": ["field"], "topology": ["forest"], **QUICK}


@pytest.fixture
def two(tmp_path):
    """Two scenes of one name in two folders, split into blocks of 32 pixels."""
    images, labels = [], []
    for seed, folder in enumerate(("west", "east")):
        (tmp_path / folder).mkdir()
        w = world.make(tmp_path / folder, 96, 128, seed=seed)
        images.append(str(w.scene))
        labels.append(str(world.label_raster(w, tmp_path / folder / "labels.tif")))
    how = {"block": 32, "shares": {"train": 0.5, "val": 0.25, "test": 0.25}}
    with ls.open_dataset(images, labels, spec={"legend": world.LEGEND}, **how) as dataset:
        yield dataset


@pytest.fixture
def model(two):
    return replace(world.tiny_checkpoint(like=two.scenes[0].scene.files[0]), temperature=1.7)


def same(one, other):
    """All counts alike, whatever the order of the scenes."""
    mine, theirs = one.to_dict(), other.to_dict()
    assert {k: v for k, v in mine.items() if k != "notes"} == {
        k: v for k, v in theirs.items() if k != "notes"
    }


def named(*names):
    return scene_names([SimpleNamespace(name=name) for name in names])


def test_scenes_of_one_name_are_numbered_and_take_no_name_of_another():
    assert named("a", "b") == ["a", "b"]
    assert named("a", "a", "b", "a (2)", "a") == ["a", "a (3)", "b", "a (2)", "a (4)"]
    # Both would be a_b_errors.tif.
    assert named("a/b", "a_b") == ["a/b", "a_b (2)"]


def test_evaluate_and_compare_number_scenes_alike_and_look_for_the_files_they_write(two, model, tmp_path):
    found = ls.evaluate(model, two, part="test", out=tmp_path / "out", **QUICK)
    both = ls.compare([model, model], two, part="test", device="cpu", show=False)
    names = ["scene", "scene (2)"]
    assert list(found.per_scene) == names
    for blocks in both.per_block.values():
        assert list(dict.fromkeys(b.scene for b in blocks[0])) == names
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == [
        "scene (2)_errors.tif",
        "scene_errors.tif",
    ]
    for path in (tmp_path / "out").iterdir():
        if path.name != "scene (2)_errors.tif":
            path.unlink()
    with pytest.raises(BadFile, match=r"scene \(2\)_errors.tif exists"):
        ls.evaluate(model, two, part="test", out=tmp_path / "out", **QUICK)


def test_parts_of_scenes_add_up_to_the_whole(two, model, tmp_path):
    """Of workers that score the splits of the same scenes: all counts of pixels."""
    how = {"boundaries": True, "out": tmp_path / "all", **QUICK}
    whole = ls.evaluate(model, two, part="all", **how)
    parts = [ls.evaluate(model, two, part=p, **how | {"out": tmp_path / p}) for p in ("test", "train", "val")]
    assert sum(parts[1:], parts[0]).confusion == whole.confusion
    added = sum(parts)
    assert added.per_scene == whole.per_scene and added.per_ring == whole.per_ring
    assert [b.to_dict() for b in added.per_block] == [b.to_dict() for b in whole.per_block]
    assert [r.to_dict() for r in added.reliability] == [r.to_dict() for r in whole.reliability]
    assert [d.to_dict() for d in added.distances.per_distance] == [
        d.to_dict() for d in whole.distances.per_distance
    ]
    assert added.metrics == whole.metrics and added.card == whole.card and added.trimap == whole.trimap
    assert len(whole.per_block) == 24 and sum(r.labelled for r in whole.per_ring) == 2 * 96 * 128


def test_scenes_of_workers_add_up_in_any_order_and_through_files(two, model, tmp_path):
    """Each worker has one scene, with its objects, skeletons and errors by distance."""
    whole = ls.evaluate(model, two, part="all", **ALL, out=tmp_path / "all")
    named = [replace(two, scenes=(s,), part_of=(None,)) for s in two.scenes]
    one, other = (
        ls.evaluate(model, d, part="all", **ALL, out=tmp_path / str(n)) for n, d in enumerate(named)
    )
    # Two workers do not know that their scenes have one name: the second is renamed as in one run.
    other = replace(
        other,
        per_scene={"scene (2)": other.per_scene["scene"]},
        per_block=tuple(replace(b, scene="scene (2)") for b in other.per_block),
    )
    paths = [e.save(tmp_path / f"{n}.json") for n, e in enumerate((one, other))]
    first, second = map(Evaluation.load, paths)
    same(first + second, whole)
    assert (second + first).metrics == whole.metrics
    assert whole.objects[0].truth.sum() > 0 and whole.topology[0].true > 0
    stored = json.loads((tmp_path / "all" / "counts.json").read_text())
    assert stored["format"] == "labelscape-counts-1"
    same(Evaluation.from_dict(stored), whole)
    assert whole.distances.pairs[0] > 0
    assert Evaluation.load(tmp_path / "all" / "counts.json").distances.by_distance()


def test_what_cannot_be_added_is_refused(two, model):
    plain = ls.evaluate(model, two, part="test", **QUICK)
    near = ls.evaluate(model, two, part="test", boundaries=True, **QUICK)
    with pytest.raises(BadInput, match="counts near borders that the other lacks"):
        plain + near
    with pytest.raises(BadInput, match="of water, field, forest and of a, b, c cannot be added"):
        plain + replace(plain, names=("a", "b", "c"))
    for one, other in (
        (ObjectCounts.empty("a", 2), ObjectCounts.empty("a", 3)),
        (TopologyCounts("a", 1, 1, 1, 1), TopologyCounts("b", 1, 1, 1, 1)),
        (Reliability.empty(1.0), Reliability.empty(2.0)),
    ):
        with pytest.raises(BadInput, match="cannot be added"):
            one + other


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "labelscape-counts-1"}', '{"format": "x"}'])
def test_other_files_are_no_counts(tmp_path, text):
    path = tmp_path / "counts.json"
    path.write_text(text)
    with pytest.raises(BadFile, match="cannot be read as the counts of an evaluation"):
        Evaluation.load(path)


@pytest.mark.parametrize("name", ["pixels", "confidence"])
def test_counts_beyond_64_bits_are_no_counts(tmp_path, name):
    fields = Evaluation(
        {"a": Confusion.empty(2)}, ("x", "y"), reliability=(Reliability.empty(1.0),)
    ).to_dict()
    fields["reliability"][0][name][0] = 10**30
    (tmp_path / "counts.json").write_text(json.dumps(fields))
    with pytest.raises(BadFile, match="cannot be read as the counts of an evaluation"):
        Evaluation.load(tmp_path / "counts.json")


@pytest.mark.parametrize("wrong", ["scene", "classes", "names"])
def test_counts_whose_parts_do_not_fit_together_are_refused(wrong):
    one = Confusion(np.array([[3, 1], [0, 2]]), np.array([0, 1]))
    block = BlockCounts.of("a", Window(0, 0, 4, 4), one)
    fields = Evaluation({"a": one}, ("x", "y"), per_block=(block,)).to_dict()
    assert Evaluation.from_dict(fields).per_block[0].labelled == 7
    if wrong == "scene":
        fields["per_block"][0]["scene"] = "b"
    elif wrong == "classes":
        fields["per_block"][0] |= Confusion.empty(3).to_dict()
    else:
        fields["names"].append("z")
    with pytest.raises(BadInput, match="not the counts of an evaluation"):
        Evaluation.from_dict(fields)


def test_a_file_of_counts_is_not_replaced_unasked(tmp_path):
    found = Evaluation({"a": Confusion.empty(2)}, ("x", "y"))
    found.save(tmp_path / "counts.json")
    with pytest.raises(BadFile, match="exists"):
        found.save(tmp_path / "counts.json")
    found.save(tmp_path / "counts.json", overwrite=True)


def test_info_knows_counts(two, model, tmp_path):
    found = ls.evaluate(model, two, part="test", **QUICK)
    about = ls.info(found.save(tmp_path / "c.json"))
    assert about.kind == "counts" and about.facts["scenes"] == ["scene", "scene (2)"]
    assert about.facts["mean_iou"] == found.metrics["mean_iou"] and "OA" in about.text


# ------------------------------------------------------------ confidence


def test_reliability_is_that_of_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.5, 0.5, 0.5], 2000)
    probabilities[:3] = np.eye(3)  # certain pixels: the last bin
    truth = rng.integers(0, 3, 2000)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    found = Reliability.of(confidence, right, 1.0)
    for k in range(BINS):
        here = [i for i in range(2000) if min(int(confidence[i] * BINS), BINS - 1) == k]
        assert found.pixels[k] == len(here) and found.right[k] == sum(right[i] for i in here)
        assert found.confidence[k] == sum(round(confidence[i] * UNIT) for i in here)
    assert found.ece == pytest.approx(expected_error(probabilities, truth), abs=1e-6)
    halves = [Reliability.of(confidence[s], right[s], 1.0) for s in (slice(700), slice(700, None))]
    assert (halves[0] + halves[1]).to_dict() == found.to_dict()
    with np.errstate(all="raise"):
        empty = Reliability.empty(1.0)
        assert np.isnan(empty.ece) and np.isnan(empty.curve[:, :2]).all()


def test_confidences_are_counted_with_and_without_the_temperature(two, model):
    """Without it: as the same checkpoint of temperature 1 is counted, whose tiles are predicted again."""
    how = {"part": "test", "tile_size": 64, "blend": "none", "reliability": True, **QUICK}
    from labelscape.evaluation import measure

    warm = measure.evaluate(model, two, **how)
    cold = measure.evaluate(replace(model, temperature=1.0), two, **how)
    assert [r.temperature for r in warm.reliability] == [1.0, 1.7]
    assert [r.temperature for r in cold.reliability] == [1.0]
    mine, theirs = warm.reliability[0], cold.reliability[0]
    assert np.abs(mine.pixels - theirs.pixels).sum() <= 4 and mine.pixels.sum() == warm.confusion.labelled
    assert mine.ece == pytest.approx(theirs.ece, abs=1e-5)
    assert warm.reliability[1].curve[:, 2].max() > 0 and warm.reliability[1].ece != mine.ece
    averaged = measure.evaluate([model, model], two, **how)
    assert [r.temperature for r in averaged.reliability] == [None]


def test_calibration_has_the_counts_of_both_temperatures(two, model):
    found = ls.calibrate(model, two, part="val", device="cpu")
    assert found.before.temperature == 1.7 and found.after.temperature == found.temperature
    assert found.before.ece == pytest.approx(found.ece_before, abs=1e-6)
    assert found.after.ece == pytest.approx(found.ece_after, abs=1e-6)
    assert found.before.pixels.sum() == found.pixels


def test_a_forest_is_heard_of_while_it_scores_a_scene(two, monkeypatch):
    monkeypatch.setattr(forest, "SHARE", 100)
    heard = []
    with progress.heard_by(lambda done=1: heard.append(done)):
        found = score_forest(two, part="test")
    labelled = int(two.class_counts("test").sum())
    assert sum(heard) == labelled == found.metrics["labelled_pixels"]
    assert max(heard) <= 100


def test_forests_have_counts_by_block(two):
    found = score_forest(two, part="test")
    assert list(found.per_scene) == ["scene", "scene (2)"]
    for name, counts in found.per_scene.items():
        mine = [b for b in found.per_block if b.scene == name]
        assert len(mine) == 3 and sum((b.counts for b in mine), Confusion.empty(3)) == counts
        assert all(b.window.shape == (32, 32) for b in mine)


def test_scenes_that_were_scored_are_told_where_the_next_one_fails(two, model, tmp_path, monkeypatch, capsys):
    """Ctrl-C, a damaged file or a full disk after hours."""
    real, seen = tally.BlockTally.named, []
    alone = ls.evaluate(model, two, part="all", **QUICK).per_scene["scene"]
    capsys.readouterr()

    def stops(self, name):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(tally.BlockTally, "named", stops)
        with pytest.raises(KeyboardInterrupt):
            ls.evaluate(model, two, part="all", device="cpu")
    *_, said, stored = capsys.readouterr().err.splitlines()
    assert said.endswith(f"of {alone.labelled:,} labelled pixels in 1 of 2 scenes")
    assert json.loads(stored)["labelled_pixels"] == alone.labelled
    # The maps of a scene come after its counts.
    monkeypatch.setattr(MapWriter, "finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ls.evaluate(model, two, part="all", device="cpu", out=tmp_path / "out")
    assert "in 1 of 2 scenes" in capsys.readouterr().err
