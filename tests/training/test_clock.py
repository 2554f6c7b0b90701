"""Times of training: what they hold, and where they are written."""

import json
from types import SimpleNamespace

import pytest
import world

from labelscape.training import clock
from labelscape.training.clock import Clock, in_words
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train


def test_pauses_do_not_count(monkeypatch):
    now = iter([100.0, 103.0, 110.0, 112.0])
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(now)))
    one = Clock()
    with one.running(), one.paused():
        one.steps += 4
    assert one.seconds == 112 - 100 - (110 - 103)
    recipe = make_recipe(data={"images": ["a"]}, network="fcn", batch=5, crop=200, steps=8)
    facts = one.facts(recipe, "cpu", 1, 2)
    assert (facts["seconds_per_step"], facts["steps"]) == (1.25, 4)
    assert facts["megapixels_per_second"] == 5 * 200 * 200 / 1e6 / 1.25
    assert in_words(facts) == (
        "1.25 s a step of 5 crops of 200 pixels, 0.16 megapixels a second, on cpu (2 threads), reading "
        "included, scores not (4 steps)"
    )
    assert Clock().facts(recipe, "cpu", 1, 2)["seconds_per_step"] is None, "resumed after its last step"
    assert "2 processes" in in_words({**facts, "processes": 2, "device": "cuda"})


def test_a_training_tells_and_stores_its_times_and_counts(tmp_path):
    from labelscape.evaluation.counts import Evaluation

    w = world.make(tmp_path, 96, 128)
    labels = world.label_raster(w, tmp_path / "l.tif")
    recipe = make_recipe(
        data={"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        steps=12,
        batch=2,
        crop=16,
        device="cpu",
    )
    said = []
    checkpoint = train(recipe, tmp_path / "run", say=said.append)
    facts = json.loads((tmp_path / "run" / "fcn_times.json").read_text())
    assert facts["steps"] == 12 and facts["network"] == "fcn" and 0 < facts["seconds_per_step"] < 60
    assert sum("s a step of 2 crops of 16 pixels" in line for line in said) == 1
    counts = Evaluation.load(tmp_path / "run" / "fcn_counts.json")
    assert counts.metrics == checkpoint.scores["fcn"]
    assert len(counts.per_block) == 3 and len(counts.reliability) == 1
    # The checkpoint says nothing of times: two runs of one seed have the same bytes.
    again = train(recipe, tmp_path / "again")
    assert again.history == checkpoint.history
    one, other = ((tmp_path / folder / "fcn.safetensors").read_bytes() for folder in ("run", "again"))
    assert one == other


@pytest.mark.parametrize("key", ["includes", "excludes"])
def test_what_times_hold_is_said(key):
    one = Clock()
    one.steps, one.seconds = 1, 1.0
    facts = one.facts(make_recipe(data={"images": ["a"]}, network="fcn"), "cpu", 1, 1)
    assert ("scores" in facts[key]) == (key == "excludes")
