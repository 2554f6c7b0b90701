"""A signal ends training between two steps: nothing is lost, and the user knows where it stopped."""

import os
import signal

import numpy as np
import pytest
import world

import labelscape.evaluation.measure as measure
import labelscape.training.loop as loop
import labelscape.training.run as running
from labelscape.training.outputs import state_path
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train


@pytest.fixture
def recipe(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=3, nodata=0)
    labels = str(world.label_raster(w, tmp_path / "labels.tif"))
    return make_recipe(
        data={"images": [str(w.scene)], "labels": [labels], "block": 32, "val": 0.2},
        network="skip",
        base_steps=0,
        options={"widths": [4, 4, 4, 4]},
        batch=2,
        crop=16,
        device="cpu",
        steps=12,
    )


def after(monkeypatch, module, name, call, number):
    """Send this process a signal in the call-th call of a function."""
    real, calls = getattr(module, name), []

    def sending(*arguments, **settings):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **settings)

    monkeypatch.setattr(module, name, sending)
    return lambda: monkeypatch.setattr(module, name, real)


def same(one, other):
    assert one.weights.keys() == other.weights.keys()
    assert all(np.array_equal(value, other.weights[key]) for key, value in one.weights.items())
    assert one.history == other.history
    assert one.scores == other.scores


@pytest.mark.parametrize(
    ("number", "ends"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
    ids=["int", "term"],
)
def test_a_signal_in_a_step_saves_that_step(recipe, tmp_path, monkeypatch, number, ends):
    whole, said = train(recipe, tmp_path / "whole"), []
    before = signal.getsignal(number)
    again = after(monkeypatch, loop, "update", 5, number)
    with pytest.raises(ends):
        train(recipe, tmp_path / "cut", say=said.append)
    assert said[-1] == "stopped at step 5 of 12 (skip); the same command continues from there"
    assert signal.getsignal(number) is before
    again()
    resumed = train(recipe, tmp_path / "cut", say=said.append)
    assert any(line.endswith("step 5 of 12") for line in said)
    same(whole, resumed)


def test_a_signal_while_scoring_scores_that_step_on_resuming(recipe, tmp_path, monkeypatch):
    recipe = recipe.replace(val_every=3)
    whole, said = train(recipe, tmp_path / "whole"), []
    again = after(monkeypatch, measure, "evaluate", 2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", say=said.append)
    assert said[-1] == "stopped; the same command continues from step 6 of 12 (skip)"
    again()
    same(whole, train(recipe, tmp_path / "cut"))


def test_a_signal_before_the_first_step_is_said(recipe, tmp_path, monkeypatch):
    said = []
    after(monkeypatch, running, "blank_checkpoint", 1, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", say=said.append)
    assert said[-1].startswith("stopped before the first step; nothing is saved")
    assert not state_path(tmp_path / "cut", "skip").exists()


def test_states_are_saved_by_time_too_and_leave_no_trace(recipe, tmp_path, monkeypatch):
    whole, steps = train(recipe, tmp_path / "whole"), []
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)
    real = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda *a: (steps.append(a[2].step), real(*a)))
    same(whole, train(recipe, tmp_path / "often"))
    assert steps == list(range(1, 13))
