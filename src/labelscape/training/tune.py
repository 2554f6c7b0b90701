"""Hyper-parameter search by Optuna: many short trainings, compared on validation blocks.

The search lives in a journal in its folder: an interrupted one goes on, and several processes share one. The
test blocks are scored once, for the winner: the best of many scores on the same blocks is too good by luck.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labelscape.checkpoint import Checkpoint, description, load, save
from labelscape.errors import BadFile, BadInput, BadOption, NoWeights, nearest_name
from labelscape.evaluation.counts import Evaluation
from labelscape.files import check_folder, check_local, locked
from labelscape.progress import Tick, bar, heard_by
from labelscape.training.data import open_both, val_interval
from labelscape.training.outputs import checkpoint_path, counts_path, make_room, write_log
from labelscape.training.recipe import Recipe, as_recipe
from labelscape.training.recipe_data import Data
from labelscape.training.run import refuse_data, train
from labelscape.training.tune_page import write_page
from labelscape.training.tune_result import SCORES, Trial, Tuning, best_of, shown, train_command, write_tuning
from labelscape.training.tune_space import Over, Varied, default_space, space_of, with_settings
from labelscape.training.tune_study import (
    PRUNERS,
    end_trial,
    importance_of,
    next_trial,
    open_study,
    place_of,
    pruner_of,
    quiet,
    require_optuna,
    trials_of,
)

if TYPE_CHECKING:
    import optuna

Say = Callable[[str], None]
TRIALS = 20
VAL = 0.2
"""Share of the labels held out for validation where none is given (ours)."""
MOST_FAILED = 5
"""Trials after which a search ends of which all have failed (ours)."""


class Pruned(Exception):
    """A trial is behind the others, and ends."""


@dataclass(frozen=True)
class Plan:
    """What a search is of: the settings that stay, and the space of those that are varied."""

    settings: Mapping[str, Any]
    space: tuple[Varied, ...]
    score: str
    pruner: str
    trials: int
    hours: float | None
    train_best: int | None

    def recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial, with the defaults of its network."""
        made = as_recipe(with_settings(self.settings, chosen))
        # The shortest trial has one score at least.
        return made.replace(val_every=min(self.settings["val_every"], made.steps))

    def winner(self, best: Trial) -> Recipe:
        """The recipe of the winner at its full length, with all that is measured of a finished model."""
        longer = {"steps": self.train_best} if self.train_best else {}
        made = self.recipe({**best.settings, **longer})
        return made.replace(measure_tile_sizes=True, measure_unfamiliar=True)

    @property
    def over(self) -> dict[str, str]:
        return {one.name: one.typed for one in self.space}

    @property
    def stored(self) -> dict[str, Any]:
        """What must be the same where a search goes on."""
        own = {"over": self.over, "score": self.score, "pruner": self.pruner}
        return {"recipe": self.recipe({}).model_dump(mode="json"), "search": own}


def tune(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    over: Over | None = None,
    trials: int = TRIALS,
    hours: float | None = None,
    score: str = "mean_iou",
    pruner: str = "median",
    train_best: int | None = None,
    overwrite: bool = False,
    say: Say | None = None,
) -> Tuning:
    """Search the settings of a recipe that score best on validation blocks, by Optuna's TPE sampler.

        ls.tune({"data": data, "network": "mlp", "steps": 400}, "search",
                over={"rate": "1e-4:1e-2:log", "crop": [64, 128]})

    recipe      settings as `make_recipe` takes them: each network then has its own defaults, and `base_rate`
                follows `rate`. A finished Recipe stays as it is, but for what is varied. `steps` are those
                of a trial; `seed` seeds the sampler too
    over        setting -> values, or text such as "1e-4:1e-2:log"; None: a space that fits the network
    trials      in all: by all processes that share the folder, in all runs
    hours       no trial is begun later
    score       mean_iou, overall_accuracy, mean_f1 or kappa. Trials are pruned, and the weights of a trial
                chosen, by mean IoU
    pruner      ends trials that are behind: median, hyperband or none
    train_best  train the winner anew for so many steps; None: its trial's own checkpoint is the result

    Writes `tune.html`, `tune.csv`, `tune.json`, logs of the trials, and the winner's checkpoint into `best`:
    it alone is scored on the test blocks. The same call continues an interrupted search, and several
    processes may share one. Raises BadOption, BadInput or BadFile before any step where settings, space or
    data cannot work; BadInput where all trials fail.
    """
    require_optuna()
    plan = _planned(recipe, over, (score, pruner, trials, hours, train_best))
    check_folder(out, "The folder of a search (out)")
    check_local(out)
    say = say or (lambda text: None)
    if over is None:
        say("varied: " + " ".join(f"{name}={text}" for name, text in plan.over.items()))
    return _tuned(plan, Path(out), overwrite, say)


def _tuned(plan: Plan, out: Path, overwrite: bool, say: Say) -> Tuning:
    base = plan.recipe({})
    with quiet(), bar("trials", plan.trials, "trials") as tick:
        # Before the search is begun: data that cannot be used leave nothing behind.
        has_test = _checked_data(base, say)
        make_room(out)
        pruner_made = pruner_of(plan.pruner, base.steps, base.val_every)
        study = open_study(out, plan.stored, pruner_made, overwrite=overwrite)
        try:
            _search(plan, study, out, say, tick)
        except (KeyboardInterrupt, SystemExit):
            done = sum(one.state != "running" for one in trials_of(study, plan.space))
            say(f"stopped after {done} of {plan.trials} trials; the same command continues the search")
            raise
        return _with_winner(plan, study, out, has_test, say)


def _planned(recipe: Recipe | Mapping[str, Any], over: Over | None, given: tuple) -> Plan:
    """What is asked for, or BadOption with all that is wrong with it."""
    score, pruner, trials, hours, train_best = given
    problems = []
    for name, value, known in (("score", score, list(SCORES)), ("pruner", pruner, PRUNERS)):
        if value not in known:
            nearest = nearest_name(str(value), known)
            meant = f" Did you mean {nearest!r}?" if nearest else ""
            problems.append(f"`{name}={value}` must be one of {', '.join(known)}.{meant}")
    for name, number in (("trials", trials), ("train_best", train_best)):
        if number is not None and number < 1:
            problems.append(f"`{name}={number}` must be at least 1.")
    if hours is not None and not (hours > 0 and math.isfinite(hours)):
        problems.append(f"`hours={hours}` must be above 0.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append(
            "A trial runs in one process: start the same command several times to share a search."
        )
    if over is not None and not over:
        problems.append("`over` is empty: name a setting to vary, or leave it out.")
    settings = _settled(recipe)
    space: tuple[Varied, ...] = ()
    try:
        space = space_of(default_space(as_recipe(settings)) if over is None else over, settings)
    except BadOption as error:
        problems.append(str(error))
    if problems:
        raise BadOption("\n".join(problems))
    return Plan(settings, space, score, pruner, trials, hours, train_best)


def _settled(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all trials. Raises BadOption as `make_recipe` does."""
    settings = dict(recipe) if isinstance(recipe, Mapping) else as_recipe(recipe).model_dump()
    data = settings.get("data")
    data = data.model_dump() if isinstance(data, Data) else data
    # What is no mapping is refused below.
    if isinstance(data, Mapping):
        settings["data"] = {**data, "val": data.get("val") or VAL}
    # What is measured for maps costs time, and changes no score.
    settings |= {"measure_tile_sizes": False, "measure_unfamiliar": False, "keep_every": 0}
    val_every = settings.get("val_every")
    first = as_recipe({**settings, "val_every": val_every or 1})
    # One for all trials: it depends on the crop, and the pruner compares scores of the same steps.
    return {**settings, "val_every": val_every or val_interval(first)}


def _checked_data(recipe: Recipe, say: Say) -> bool:
    """Open the data once before all trials, and say what was read. Whether there are labelled test blocks.
    Raises BadInput where trials could not be compared.
    """
    with open_both(recipe) as (dataset, mate):
        for line in dataset.report:
            say(line)
        if not dataset.is_labelled("val"):
            raise BadInput(
                "Trials are compared on validation blocks (part val), and none of them has a labelled pixel. "
                "Give a smaller `block`, or a larger share of the labels as `val`."
            )
        refuse_data(recipe, dataset, mate)
        return bool(recipe.data.holdout) and dataset.is_labelled("test")


def _search(plan: Plan, study: optuna.Study, out: Path, say: Say, tick: Tick) -> None:
    """Run trials until there are enough, by whichever process. Raises BadInput where the first ones all
    fail.
    """
    end = time.monotonic() + 3600 * (plan.hours or math.inf)
    counted, seed = 0, plan.recipe({}).seed
    while True:
        found = trials_of(study, plan.space)
        best, ended = best_of(found), sum(one.state != "running" for one in found)
        # Also those of other processes.
        tick(ended - counted, **({"best": f"{100 * best.score:.2f} %"} if best else {}))
        counted, failed = ended, [one for one in found if one.state == "failed"]
        if len(failed) == len(found) >= MOST_FAILED:
            raise BadInput(f"The first {len(failed)} trials all failed; the last one: {failed[-1].cause}")
        if time.monotonic() >= end:
            say(f"{plan.hours:g} hours are over")
            return
        with ExitStack() as held:
            taken = next_trial(study, out, plan.space, trials=plan.trials, seed=seed, held=held)
            if taken is None:
                return
            _run(plan, study, *taken, out, tick)
        found = trials_of(study, plan.space)
        _remove_checkpoints(found, out)
        say(_told(plan, found[taken[0].number], best_of(found)))
        write_tuning(_result(plan, found), out)


def _run(
    plan: Plan,
    study: optuna.Study,
    trial: optuna.trial.Trial,
    chosen: Mapping[str, Any],
    out: Path,
    tick: Tick,
) -> None:
    """Train a trial and store how it ended."""
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def watch(line: Mapping[str, Any]) -> None:
        if "val_miou" not in line:
            return
        # A trial that goes on repeats some steps.
        if line["step"] not in reported:
            trial.report(line["val_miou"], line["step"])
        tick(0, now=f"trial {trial.number}, step {line['step']}: {100 * line['val_miou']:.2f} %")
        if trial.should_prune():
            raise Pruned

    since, end = time.monotonic(), ("failed", None)
    try:
        # Bars of the training below that of the trials would tear each other apart in a terminal.
        with heard_by(lambda done=1, **facts: None):
            recipe = plan.recipe(chosen)
            place = place_of(out, trial.number)
            target = checkpoint_path(place, recipe.network)
            # Killed between its last step and its score, a trial has its checkpoint already.
            made = load(target) if target.exists() else train(recipe, place, score=False, watch=watch)
            end = ("finished", _score(plan, made, recipe))
    except Pruned:
        end = ("pruned", None)
    # No other BadFile: on a full disk every trial to come would fail. This one then goes on later.
    except (ValueError, NoWeights, MemoryError, RuntimeError) as error:
        trial.set_user_attr("cause", " ".join(str(error).split())[:300] or "out of memory")
        # What a trial took that was too large is free for the next one.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
    trial.set_user_attr("minutes", (time.monotonic() - since) / 60)
    end_trial(study, trial, *end)


def _score(plan: Plan, checkpoint: Checkpoint, recipe: Recipe) -> float:
    if plan.score == "mean_iou":  # measured in training, of these very weights
        return max(line["val_miou"] for line in checkpoint.history if "val_miou" in line)
    return _measured(checkpoint, recipe, "val").metrics[plan.score] or 0.0


def _measured(checkpoint: Checkpoint, recipe: Recipe, part: str) -> Evaluation:
    from labelscape.evaluation.measure import evaluate

    with open_both(recipe) as (dataset, _):
        return evaluate(checkpoint, dataset, part=part, device=recipe.device, reliability=part == "test")


def _told(plan: Plan, mine: Trial, best: Trial | None) -> str:
    """A line on a trial that has ended."""
    settings = " ".join(f"{name}={shown(value)}" for name, value in mine.settings.items())
    if mine.state == "failed":
        return f"trial {mine.number} failed: {mine.cause} ({settings})"
    pruned = f", pruned at step {mine.step}" if mine.state == "pruned" else ""
    leads = f"; best {100 * best.score:.2f} % (trial {best.number})" if best else ""
    return f"trial {mine.number}: {SCORES[plan.score]} {100 * mine.score:.2f} %{pruned} ({settings}){leads}"


def _remove_checkpoints(found: tuple[Trial, ...], out: Path) -> None:
    """Checkpoints and states of all trials that have ended but the best: a hundred of them fill a disk."""
    best = best_of(found)
    for one in found:
        if one.state != "running" and one is not best:
            for path in place_of(out, one.number).glob("*.safetensors"):
                path.unlink(missing_ok=True)


def _result(plan: Plan, found: tuple[Trial, ...]) -> Tuning:
    """What is known without the winner's checkpoint."""
    best = best_of(found)
    recipe = plan.winner(best) if best else plan.recipe({})
    return Tuning(plan.score, plan.over, found, recipe, command=train_command(recipe, Path("tuned")))


def _with_winner(plan: Plan, study: optuna.Study, out: Path, has_test: bool, say: Say) -> Tuning:
    """The result, with the winner's checkpoint in `best`, scored on the test blocks where there are any. The
    last process of a search makes it; the others return what is known without it. Raises BadInput where no
    trial is finished.
    """
    found = trials_of(study, plan.space)
    result, best = replace(_result(plan, found), importance=importance_of(study)), best_of(found)
    if best is None:
        causes = [one.cause for one in found if one.cause]
        raise BadInput("No trial is finished" + (f"; the last one failed: {causes[-1]}" if causes else "."))
    if others := [str(one.number) for one in found if one.state == "running"]:
        say(f"trial {', '.join(others)} is still running; the process that ends it will score the winner")
        return result
    place, network = out / "best", result.recipe.network
    target = checkpoint_path(place, network)
    with ExitStack() as held:
        try:
            # One process alone: the test blocks are scored once.
            held.enter_context(locked(place, of="winner"))
        except BadFile:
            say("another process scores the winner")
            return result
        mark = [best.number, plan.train_best]
        if study.user_attrs.get("winner") not in (None, mark):
            shutil.rmtree(place, ignore_errors=True)
        study.set_user_attr("winner", mark)
        if not target.exists():
            say(f"trial {best.number} has won")
            _make_winner(plan, place_of(out, best.number), result.recipe, place, has_test, say)
        test = description(target)["scores"].get(network) if has_test else None
        tested = study.user_attrs.get("tested", [])
        if test is not None and mark not in tested:
            tested = [*tested, mark]
            study.set_user_attr("tested", tested)
        result = replace(result, checkpoint=target, test=test, tested=len(tested))
        write_tuning(result, out)
        write_page(result, out / "tune.html")
    return result


def _make_winner(plan: Plan, trial: Path, recipe: Recipe, place: Path, has_test: bool, say: Say) -> None:
    """The winner's checkpoint with its score on the test blocks: trained anew, or that of its trial."""
    if plan.train_best:
        train(recipe, place, score=has_test, say=say)
        return
    checkpoint, target = load(checkpoint_path(trial, recipe.network)), checkpoint_path(place, recipe.network)
    make_room(place)
    if has_test:
        found = _measured(checkpoint, recipe, "test")
        found.save(counts_path(place, recipe.network), overwrite=True)
        checkpoint = replace(checkpoint, scores={recipe.network: found.metrics})
    write_log(target.with_suffix(".csv"), checkpoint.history)
    # The checkpoint last: where it exists, the winner counts as scored.
    save(checkpoint, target)
