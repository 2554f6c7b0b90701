"""Hyper-parameter search: the optimum is found, nothing is repeated, test blocks are scored once."""

import csv
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import world
from processes import until

import labelscape as ls
import labelscape.evaluation.measure as measure
import labelscape.training.run as running
import labelscape.training.tune as tuning
import labelscape.training.tune_study as studies
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.training.outputs import checkpoint_path, state_path
from labelscape.training.tune_result import train_command
from labelscape.training.tune_space import space_of, with_settings

pytest.importorskip("optuna")
OVER = {"rate": "1e-4:2e-2:log", "crop": [32, 64, 128]}
BEST_RATE, BEST_CROP = 3e-3, 64


@pytest.fixture
def settings(tmp_path):
    one = world.make(tmp_path, 128, 160)
    labels = world.label_raster(one, tmp_path / "labels.tif")
    data = {"images": [str(one.scene)], "labels": [str(labels)], "block": 16}
    return {
        "data": data, "network": "fcn", "options": {"widths": [4, 4, 4, 4]}, "steps": 10, "batch": 2,
        "val_every": 2, "device": "cpu",
    }  # fmt: skip


def height(recipe):
    """What a training of this recipe would score: a hill over the rate, highest with one of the crops."""
    return 0.9 - abs(math.log10(recipe.rate / BEST_RATE)) / 4 - 0.2 * (recipe.crop != BEST_CROP)


class Quick:
    """In place of `train`: no steps, a known score. `before` is called first, and may fail."""

    def __init__(self):
        self.recipes, self.scored, self.before = [], [], lambda recipe: None
        self.tiny = world.tiny_checkpoint("fcn")

    def train(self, recipe, out, *, score, watch=None, say=None):
        self.recipes.append(recipe)
        self.before(recipe)
        history = []
        for step in range(recipe.val_every, recipe.steps + 1, recipe.val_every):
            history.append({"step": step, "loss": 1.0, "rate": recipe.rate, "val_miou": height(recipe)})
            if watch:
                watch(history[-1])
        made = replace(self.tiny, history=tuple(history))
        out.mkdir(parents=True, exist_ok=True)
        save(made, checkpoint_path(out, recipe.network))
        return made

    def measured(self, checkpoint, recipe, part):
        self.scored.append(part)
        metrics = {"mean_iou": 0.5, "overall_accuracy": 0.25, "labelled_pixels": 1}
        return SimpleNamespace(metrics=metrics, save=lambda path, overwrite: None)


@pytest.fixture
def quick(monkeypatch):
    one = Quick()
    monkeypatch.setattr(tuning, "train", one.train)
    monkeypatch.setattr(tuning, "_measured", one.measured)
    monkeypatch.setattr(tuning, "write_page", lambda found, path: path)
    return one


def drawn(found):
    return [(one.number, dict(one.settings), one.score, one.state) for one in found.trials]


# ---------------------------------------------------------------------------- what is found


def test_a_known_optimum_is_found(settings, tmp_path, quick):
    found = ls.tune(settings, tmp_path / "out", over=OVER, trials=24, pruner="none")
    assert found.best.settings["crop"] == BEST_CROP
    assert abs(math.log10(found.best.settings["rate"] / BEST_RATE)) < 0.15
    assert found.best.score == max(map(height, quick.recipes)) == pytest.approx(height(found.recipe))
    first, last = found.trials[:10], found.trials[-10:]
    assert sum(one.score for one in last) > sum(one.score for one in first), "it learns where to look"
    assert set(found.importance) == set(OVER) and sum(found.importance.values()) == pytest.approx(1)
    assert repr(found).startswith("<Tuning of fcn: 24 trials, mean_iou 0.8")


def test_the_same_seed_draws_the_same_trials_also_after_an_interruption(settings, tmp_path, quick):
    whole = ls.tune(settings, tmp_path / "whole", over=OVER, trials=9)
    states = [one.state for one in whole.trials]
    assert {"finished", "pruned"} == set(states)
    other = ls.tune({**settings, "seed": 1}, tmp_path / "other", over=OVER, trials=2)
    assert drawn(other) != drawn(whole)[:2]

    calls, said = [], []

    def breaking(recipe):
        calls.append(recipe)
        if len(calls) in (3, 8):
            raise KeyboardInterrupt

    quick.before = breaking
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ls.tune(settings, tmp_path / "cut", over=OVER, trials=9, say=said.append)
        assert said[-1].endswith("of 9 trials; the same command continues the search")
    assert "stopped after 2 of 9" in " ".join(said)
    assert drawn(ls.tune(settings, tmp_path / "cut", over=OVER, trials=9)) == drawn(whole)
    assert len(calls) == 11, "finished trials are not trained again"


def test_trials_that_are_behind_are_pruned_and_only_the_best_keeps_its_weights(settings, tmp_path, quick):
    out = tmp_path / "out"
    found = ls.tune(settings, out, over=OVER, trials=9)
    pruned = [one for one in found.trials if one.state == "pruned"]
    assert pruned and all(one.step < 10 and one.number >= 5 for one in pruned)
    kept = [path.parent.name for path in (out / "trials").rglob("*.safetensors")]
    assert kept == [f"{found.best.number:04d}"]
    assert ls.tune(settings, tmp_path / "h", over=OVER, trials=8, pruner="hyperband").best.state == "finished"


def test_test_blocks_are_scored_once_for_the_winner(settings, tmp_path, quick):
    out = tmp_path / "out"
    found = ls.tune(settings, out, over=OVER, trials=1)
    assert quick.scored == ["test"] and found.tested == 1
    assert found.checkpoint == out / "best" / "fcn.safetensors"
    assert load(found.checkpoint).scores == {"fcn": found.test}
    # The same command again scores nothing, and trains nothing.
    trained = len(quick.recipes)
    assert ls.tune(settings, out, over=OVER, trials=1).to_dict() == found.to_dict()
    assert quick.scored == ["test"] and len(quick.recipes) == trained == 1
    more = ls.tune(settings, out, over=OVER, trials=9)
    assert more.best.number > 0, "this seed finds a better one later"
    assert quick.scored == ["test", "test"] and more.tested == 2
    assert list((out / "best").glob("*.safetensors")) == [more.checkpoint]


def test_other_scores_are_of_validation_blocks(settings, tmp_path, quick):
    found = ls.tune(settings, tmp_path / "out", over=OVER, trials=3, score="overall_accuracy")
    assert quick.scored == ["val"] * 3 + ["test"]
    assert [one.score for one in found.trials] == [0.25] * 3


def test_without_test_blocks_the_winner_has_no_score(settings, tmp_path, quick):
    data = {**settings["data"], "holdout": 0}
    found = ls.tune({**settings, "data": data}, tmp_path / "out", over=OVER, trials=2)
    assert quick.scored == [] and found.test is None and found.tested == 0
    assert load(found.checkpoint).scores == {}


def test_the_winner_is_trained_to_its_full_length(settings, tmp_path, quick):
    found = ls.tune(settings, tmp_path / "out", over=OVER, trials=3, train_best=40)
    assert [recipe.steps for recipe in quick.recipes] == [10, 10, 10, 40]
    last = quick.recipes[-1]
    assert (last.rate, last.crop) == (found.best.settings["rate"], found.best.settings["crop"])
    assert last.measure_tile_sizes and not quick.recipes[0].measure_tile_sizes


def test_two_processes_share_a_search(settings, tmp_path, quick):
    """The second one runs while the first is inside a trial."""
    out, said, inner = tmp_path / "out", [], []

    def meanwhile(recipe):
        if len(quick.recipes) == 1:
            inner.append(ls.tune(settings, out, over=OVER, trials=3, say=said.append))

    quick.before = meanwhile
    found = ls.tune(settings, out, over=OVER, trials=3)
    assert [one.state for one in inner[0].trials] == ["running", "finished", "finished"]
    assert inner[0].checkpoint is None
    assert said[-1] == "trial 0 is still running; the process that ends it will score the winner"
    assert [one.state for one in found.trials] == ["finished"] * 3 and len(quick.recipes) == 3
    assert quick.scored == ["test"]


def test_a_trial_that_ends_while_another_process_waits_for_it_is_not_taken(settings, tmp_path, monkeypatch):
    """The second process saw it running, and had its lock when the first had stored its score."""
    import optuna

    space = space_of(OVER, tuning._settled(settings))
    out = tmp_path / "search"
    study = optuna.create_study(direction="maximize")
    with ExitStack() as held:
        first, _ = studies.next_trial(study, out, space, trials=2, seed=0, held=held)
    real = studies.locked

    @contextmanager
    def waited(path, **how):
        if how.get("of") == "trial" and study.get_trials()[0].state == optuna.trial.TrialState.RUNNING:
            study.tell(first, 0.5)
        with real(path, **how):
            yield

    monkeypatch.setattr(studies, "locked", waited)
    with ExitStack() as held:
        second, _ = studies.next_trial(study, out, space, trials=2, seed=0, held=held)
        assert second.number == 1
    assert study.get_trials()[0].value == 0.5
    # The lock of the first is free again.
    with real(studies.place_of(out, 0), of="trial"):
        pass


def test_trials_that_fail_have_their_cause_and_the_search_goes_on(settings, tmp_path, quick):
    errors = {
        32: BadInput("The loss became nan by step 10."),
        96: MemoryError(),
        128: RuntimeError("CUDA out of memory.\nTried to allocate"),
    }
    causes = {
        32: "The loss became nan by step 10.", 96: "out of memory",
        128: "CUDA out of memory. Tried to allocate",
    }  # fmt: skip

    def failing(recipe):
        if recipe.crop in errors:
            raise errors[recipe.crop]

    quick.before, said = failing, []
    over = {"rate": OVER["rate"], "crop": "32,64,96,128"}
    found = ls.tune(settings, tmp_path / "out", over=over, trials=10, say=said.append)
    failed = [one for one in found.trials if one.state == "failed"]
    assert {one.settings["crop"] for one in failed} == set(errors)
    assert all(one.cause == causes[one.settings["crop"]] for one in failed)
    assert found.best.settings["crop"] == 64
    assert any(line.startswith(f"trial {failed[0].number} failed: {failed[0].cause}") for line in said)
    with pytest.raises(BadInput, match="first 5 trials all failed; the last one: "):
        ls.tune(settings, tmp_path / "none", over={**over, "crop": "32,96,128"}, trials=8)


def test_a_full_disk_ends_the_search_and_fails_no_trial(settings, tmp_path, quick):
    def full(recipe):
        raise BadFile("x cannot be written: No space left on device.")

    quick.before = full
    with pytest.raises(BadFile, match="No space"):
        ls.tune(settings, tmp_path / "out", over=OVER, trials=2)
    quick.before = lambda recipe: None
    found = ls.tune(settings, tmp_path / "out", over=OVER, trials=2)
    assert [one.state for one in found.trials] == ["finished"] * 2


def test_no_trial_is_begun_when_the_hours_are_over(settings, tmp_path, quick):
    found = ls.tune(settings, tmp_path / "out", over=OVER, trials=2)
    said = []
    more = ls.tune(settings, tmp_path / "out", over=OVER, trials=9, hours=1e-9, say=said.append)
    assert len(more.trials) == len(found.trials) == 2 and "hours are over" in " ".join(said)


# ---------------------------------------------------------------------------- search spaces


def test_ranges_and_choices_are_read(settings):
    space = {one.name: one for one in space_of({
        "rate": "1e-4:1e-2:log", "crop": "64:128:32", "batch": "1:4", "momentum": "0.5:0.9",
        "losses": "cross-entropy,cross-entropy+dice,{\"dice\": 2, \"lovasz\": 1}",
        "network": ["fcn", "tiramisu"], "scale_range": [None, (0.5, 2)],
    }, {key: value for key, value in settings.items() if key in ("data", "network")})}  # fmt: skip
    rate, crop = space["rate"], space["crop"]
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 1e-2, True, False)
    assert (crop.low, crop.high, crop.step, crop.whole) == (64, 128, 32, True)
    assert space["batch"].whole and not space["momentum"].whole
    assert space["losses"].values == (
        {"cross-entropy": 1.0}, {"cross-entropy": 1.0, "dice": 1.0}, {"dice": 2, "lovasz": 1},
    )  # fmt: skip
    assert rate.value(0.00123456) == 0.001235 and rate.value(0.0100001) == 1e-2
    assert rate.typed == "0.0001:0.01:log" and crop.typed == "64:128:32"
    assert space["network"].typed == "fcn,tiramisu"
    made = with_settings(settings, {"options.hidden": 3, "rate": 0.1})
    assert made["options"] == {"widths": [4, 4, 4, 4], "hidden": 3} and "hidden" not in settings["options"]


def test_networks_have_their_own_defaults(settings, tmp_path, quick):
    del settings["options"]
    quick.before = lambda recipe: None
    ls.tune({**settings, "network": "skip"}, tmp_path / "out", over={"network": "skip,fcn"}, trials=4)
    steps = {recipe.network: recipe.base_steps for recipe in quick.recipes}
    assert steps == {"skip": 20, "fcn": 0}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"loss": "dice,ohem"}, "Did you mean 'losses'?"),
        ({"network": "fcn,mpl"}, "No network is called 'mpl'. Did you mean 'mlp'?"),
        ({"losses": "cross-entropy,dise"}, "No loss is called 'dise'. Did you mean 'dice'?"),
        ({"rate": "1e-2:1e-4"}, "LOW below HIGH"),
        ({"rate": "0:1:log"}, "must be above 0"),
        ({"rate": "1:2:lg"}, "rate=1:2:lg must read LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP"),
        ({"rate": "1e-3:1"}, "`rate=1.0` is too high for adamw"),
        ({"crop": "8,64"}, "`crop=8` must be at least 16"),
        ({"crop": "64"}, "crop=64 must be two values or more"),
        ({"crop.x": "64,32"}, "crop is a single value"),
        ({"options.wides": "1:2"}, "Did you mean 'widths'?"),
        ({"data.block": "16,32"}, "data.block cannot be varied: the data decide what is scored"),
        ({"seed": "1:5"}, "seed cannot be varied: trials would differ by luck"),
        ({"rate": 0.1}, "must be a list of values"),
        ({}, "`over` is empty"),
    ],
)
def test_a_wrong_space_is_refused_before_any_step(settings, tmp_path, over, said):
    with pytest.raises(BadOption) as refused:
        ls.tune(settings, tmp_path / "out", over=over)
    assert said in str(refused.value) and not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_said_at_once(settings, tmp_path, run_cli):
    data = settings["data"]
    code, _, err = run_cli(
        "tune", data["images"][0], "--labels", data["labels"][0], "--out", tmp_path / "out", "--trials", 0,
        "--hours", -1, "--score", "mean_iuo", "--pruner", "hyper", "--train-best", 0,
        "--over", "rat=1:2", "--over", "crop=8,64",
    )  # fmt: skip
    assert code == 2 and not (tmp_path / "out").exists()
    for said in (
        "--trials 0 must", "--hours -1.0 must", "Did you mean 'mean_iou'?", "Did you mean 'hyperband'?",
        "--train-best 0 must", "Did you mean 'rate'?", "--crop 8 must be at least 16",
    ):  # fmt: skip
        assert said in err
    words = ["tune", data["images"][0], "--labels", data["labels"][0], "--out", tmp_path / "out", "--over"]
    for text in ("rate", "=1:2", "rate="):
        code, _, err = run_cli(*words, text)
        assert code == 2 and f"--over {text!r} must read NAME=LOW:HIGH" in err
    # No name is near it.
    assert "--score sharp must be one of mean_iou" in run_cli(*words[:-1], "--score", "sharp")[2]


def test_a_search_of_other_settings_is_not_continued(settings, tmp_path, quick):
    out = tmp_path / "out"
    ls.tune(settings, out, over=OVER, trials=2)
    with pytest.raises(BadFile, match=r"other settings \(steps, pruner\)"):
        ls.tune({**settings, "steps": 20}, out, over=OVER, trials=2, pruner="none")
    with pytest.raises(BadFile, match=r"other settings \(over\.rate\)"):
        ls.tune(settings, out, over={**OVER, "rate": "1e-3:1e-2"}, trials=2)
    found = ls.tune({**settings, "steps": 20}, out, over=OVER, trials=2, overwrite=True)
    assert len(found.trials) == 2 and quick.recipes[-1].steps == 20


def test_a_damaged_journal_is_named(settings, tmp_path, quick):
    out = tmp_path / "out"
    ls.tune(settings, out, over=OVER, trials=1)
    journal = out / "tune.journal"
    journal.write_bytes(b"{" + journal.read_bytes())
    with pytest.raises(BadFile, match=r"tune.journal is damaged .*`overwrite=True`"):
        ls.tune(settings, out, over=OVER, trials=1)


def test_validation_blocks_without_labels_are_refused(settings, tmp_path, monkeypatch):
    bare = SimpleNamespace(report=(), is_labelled=lambda part: part != "val")
    monkeypatch.setattr(tuning, "open_both", lambda recipe: nullcontext((bare, None)))
    with pytest.raises(BadInput, match=r"none of them has a labelled pixel. Give a smaller `block`"):
        ls.tune(settings, tmp_path / "out", over=OVER)
    assert not (tmp_path / "out").exists()


def test_a_missing_optuna_is_one_sentence(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BadOption, match=r"pip install 'labelscape\[tune\]'"):
        ls.tune(settings, tmp_path / "out")


# ---------------------------------------------------------------------------- the whole of it


def test_the_command_of_the_winner_makes_its_recipe(settings, monkeypatch, run_cli, tmp_path):
    data = {
        **settings["data"], "classes": {"a b": 0, "c": 1, "d": 2}, "val": 0.2, "fold": "1/3",
        "merge": {"one": ["a b", "c"]}, "labels": [str(tmp_path / "labels.tif")],
    }  # fmt: skip
    (tmp_path / "it's").mkdir()
    image = tmp_path / "it's" / "scene.tif"
    image.symlink_to(tmp_path / "scene.tif")
    recipe = ls.make_recipe(**{
        **settings, "network": "skip", "optimizer": "sgd", "rate": 0.00123, "clip_norm": 1.5, "val_every": 2,
        "losses": {"dice": 1.0, "cross-entropy": 0.5}, "scale_range": (0.5, 2.0), "data": {**data,
        "images": [str(image)]}, "measure_tile_sizes": False, "class_weights": "auto",
    })  # fmt: skip
    made = []

    def caught(recipe, out, **settings):
        made.append(recipe)
        raise BadInput("caught.")

    monkeypatch.setattr(running, "train", caught)
    words = shlex.split(train_command(recipe, tmp_path / "tuned"))
    assert words[0] == "labelscape"
    assert "caught" in run_cli(*words[1:])[2] and made == [recipe]


def test_a_search_from_the_command_line(settings, tmp_path, run_cli, monkeypatch):
    """Real trainings: parts that are scored, files, the table, and the page."""
    data, out, real, parts = settings["data"], tmp_path / "out", measure.evaluate, []

    def counting(checkpoint, dataset, **settings):
        parts.append(settings["part"])
        return real(checkpoint, dataset, **settings)

    monkeypatch.setattr(measure, "evaluate", counting)

    def listening(recipe, out, *, watch, **settings):
        seen = []
        made = running.train(recipe, out, watch=lambda line: (seen.append(line), watch(line)), **settings)
        assert seen == list(made.history), "without the lines of the base network"
        return made

    monkeypatch.setattr(tuning, "train", listening)
    words = [
        "tune", data["images"][0], "--labels", data["labels"][0], "--block", 16, "--network", "skip",
        "--base-steps", 2, "--steps", 3, "--batch", 2, "--crop", 32, "--device", "cpu", "-o",
        "options.widths=[4,4,4,4]", "-o", "val_every=1", "--over", "rate=1e-3:1e-2:log",
        "--over", "losses=cross-entropy,cross-entropy+dice", "--trials", 3, "--out", out,
    ]  # fmt: skip
    code, printed, err = run_cli(*words)
    assert code == 0, err
    # The base network's scores choose its weights, and count for no trial.
    assert parts == ["val"] * 3 * (2 + 3) + ["test"]
    stored = json.loads((out / "tune.json").read_text())
    for number, trial in enumerate(stored["trials"]):
        with (out / "trials" / f"{number:04d}" / "skip.csv").open() as file:
            log = list(csv.DictReader(file))
        assert trial["score"] == max(float(row["val_miou"]) for row in log if row["val_miou"])
        assert trial["step"] == 3
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["trial", "0", "1", "2"]
    assert "train it again with: labelscape train " in printed and "on the test blocks" in printed
    assert f"best: trial {stored['best']}, mean IoU" in printed
    with (out / "tune.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [trial["score"] for trial in stored["trials"]]
    assert {row["losses"] for row in rows} <= {"cross-entropy", "cross-entropy+dice"}
    page = (out / "tune.html").read_text()
    assert "The test blocks were scored for the winner only" in page
    assert "http://" not in page and page.count("<img") == 2 + bool(stored["importance"])
    code, printed, err = run_cli(*words, "--json")
    assert code == 0 and json.loads(printed) == stored and len(parts) == 16, err


def test_a_configuration_file_of_a_training_is_searched_too(settings, tmp_path, quick, run_cli):
    data = settings["data"]
    file = tmp_path / "train.json"
    own = {"images": data["images"], "labels": data["labels"], "block": 16, "network": "fcn", "steps": 8}
    file.write_text(json.dumps({**own, "batch": 2, "val_every": 4, "device": "cpu"}))
    words = ["tune", "--config", file, "--over", "rate=1e-3:1e-2:log", "--trials", 1]
    code, _, err = run_cli(*words, "--steps", 4, "--out", tmp_path / "out")
    assert code == 0, err
    assert (quick.recipes[0].network, quick.recipes[0].steps, quick.recipes[0].batch) == ("fcn", 4, 2)
    assert "the command line overrules" in err
    code, _, err = run_cli("tune", "--out", tmp_path / "none")
    assert code == 2 and "labelscape tune needs scenes: name them, or a configuration file" in err


@pytest.mark.long
def test_a_search_that_is_killed_goes_on_and_two_processes_share_one(settings, tmp_path):
    data, out = settings["data"], tmp_path / "out"
    command = [
        sys.executable, "-m", "labelscape", "tune", data["images"][0], "--labels", data["labels"][0],
        "--block", "16", "--network", "fcn", "--steps", "60", "--batch", "2", "--crop", "32", "--device",
        "cpu", "-o", "options.widths=[4,4,4,4]", "-o", "save_every=5", "--over", "rate=1e-3:1e-2:log",
        "--trials", "4", "--pruner", "none", "--json",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begun(place):
        return subprocess.Popen([*command, "--out", str(place)], stdout=subprocess.PIPE, text=True, env=env)

    whole = json.loads(begun(tmp_path / "whole").communicate()[0])
    one = begun(out)
    until(state_path(out / "trials" / "0001", "fcn").exists, seconds=600)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    found = json.loads(begun(out).communicate()[0])
    for trial in (*whole["trials"], *found["trials"]):
        trial.pop("minutes")
    assert found["trials"] == whole["trials"]
    assert found["test"] == whole["test"] and found["winners_tested"] == 1
    shared = [begun(tmp_path / "shared") for _ in range(2)]
    ends = [json.loads(one.communicate()[0]) for one in shared]
    assert [one.returncode for one in shared] == [0, 0]
    last = max(ends, key=lambda end: end["winners_tested"])
    assert [trial["state"] for trial in last["trials"]] == ["finished"] * 4
    assert last["winners_tested"] == 1 and len({t["settings"]["rate"] for t in last["trials"]}) == 4
