"""The study of a hyper-parameter search in Optuna: a journal that processes share, the next trial, and what
became of each.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.errors import BadFile, BadOption, first_line
from labelscape.files import locked
from labelscape.training.recipe import in_todays_words
from labelscape.training.state import differing
from labelscape.training.tune_result import Trial
from labelscape.training.tune_space import Varied

if TYPE_CHECKING:
    import optuna

JOURNAL = "tune.journal"
PRUNERS = ("median", "hyperband", "none")
BEFORE_PRUNING = 5
"""Trials to compare with before the first one is pruned (Optuna's own number)."""
WARM = 0.2
"""Share of the steps in which the median prunes no trial (ours): slow starters are often those with a small
rate.
"""
PATIENCE = 120.0
"""Seconds that a process waits for another one that takes its next trial."""
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
"""Optuna's states in our words; all others are running."""


def require_optuna() -> None:
    """Raises BadOption if the package is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise BadOption(
            "Hyper-parameter search needs the package optuna: pip install 'labelscape[tune]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own lines on every trial, and its notes that parts of it are new."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(
    out: Path, plan: Mapping[str, Any], pruner: optuna.pruners.BasePruner, *, overwrite: bool
) -> optuna.Study:
    """The search in a folder, begun or continued. `plan` must then be the same: its "recipe", and its
    "search", the rest. Raises BadFile where it is not, or the journal is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path = out / JOURNAL
    with locked(path, patience=PATIENCE):
        if overwrite:
            _forget(out)
        try:
            # A file that is only added to: SQLite's locks fail on shared file systems.
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path.absolute())))
            study = optuna.create_study(
                study_name="tune", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
            )
        except (ValueError, LookupError, TypeError, AssertionError) as error:
            raise BadFile(
                f"{path} is damaged ({first_line(error)}). Remove its last line if that was cut short, give "
                "`overwrite=True` to search anew, or another `out`."
            ) from error
        stored = study.user_attrs.get("plan")
        if stored is None:
            study.set_user_attr("plan", plan)
            return study
    other = differing(in_todays_words(stored["recipe"]), plan["recipe"])
    other += differing(stored["search"], plan["search"])
    if other:
        raise BadFile(
            f"{out} holds a search with other settings ({', '.join(other)}). Give the same settings, "
            "`overwrite=True` to search anew, or another `out`."
        )
    return study


def _forget(out: Path) -> None:
    """Remove a search. Raises BadFile where another process works at one of its trials."""
    for folder in (out / "trials").glob("*"):
        with locked(folder, of="trial"):
            pass
    for path in (out / JOURNAL, out / f"{JOURNAL}.lock"):
        path.unlink(missing_ok=True)
    for folder in ("trials", "best"):
        shutil.rmtree(out / folder, ignore_errors=True)


def pruner_of(name: str, steps: int, every: int) -> optuna.pruners.BasePruner:
    """The pruner of trials that make so many steps, and are scored `every` so many."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_warmup_steps=int(WARM * steps))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=every, max_resource=max(steps, every))
    return pruners.NopPruner()


def place_of(out: Path, number: int) -> Path:
    """The folder of a trial."""
    return out / "trials" / f"{number:04d}"


def next_trial(
    study: optuna.Study, out: Path, space: Sequence[Varied], *, trials: int, seed: int, held: ExitStack
) -> tuple[optuna.trial.Trial, dict[str, Any]] | None:
    """The next trial for this process and its settings, locked as long as `held` is open: one that a killed
    process left, else a new one. None where there are enough.
    """
    import optuna

    with locked(out / JOURNAL, patience=PATIENCE):
        everything, trial = study.get_trials(deepcopy=False), None
        left = [one for one in everything if one.state == optuna.trial.TrialState.RUNNING]
        for one in left:
            with ExitStack() as tried:
                try:
                    # The system frees a lock when its process ends: where it is free, nobody works at the
                    # trial.
                    tried.enter_context(locked(place_of(out, one.number), of="trial"))
                except BadFile:
                    continue
                # Its process may have ended it while this one waited for the lock.
                if study.get_trials(deepcopy=False)[one.number].state == optuna.trial.TrialState.RUNNING:
                    held.enter_context(tried.pop_all())
                    trial = optuna.trial.Trial(study, one._trial_id)
                    break
        if trial is None and len(everything) >= trials:
            return None
        number = len(everything) if trial is None else trial.number
        # Seeded by the trial, not once: a search that goes on draws what an uninterrupted one would.
        drawn = np.random.SeedSequence((seed, number)).generate_state(1)[0]
        # constant_liar: trials that other processes work at count, so that two do not try the same.
        study.sampler = optuna.samplers.TPESampler(seed=int(drawn), constant_liar=True)
        if trial is None:
            trial = study.ask()
            held.enter_context(locked(place_of(out, number), of="trial"))
        # Of a trial that goes on, Optuna gives the values that it has.
        return trial, {one.name: one.draw(trial) for one in space}


def end_trial(study: optuna.Study, trial: optuna.trial.Trial, state: str, score: float | None = None) -> None:
    """Store how a trial ended; `score` where it is finished."""
    import optuna

    known = {ours: theirs for theirs, ours in STATES.items()}
    study.tell(trial, score, state=optuna.trial.TrialState[known[state]])


def trials_of(study: optuna.Study, space: Sequence[Varied]) -> tuple[Trial, ...]:
    """All trials so far."""
    found = []
    for one in study.get_trials(deepcopy=False):
        settings = {v.name: v.value(one.params[v.name]) for v in space if v.name in one.params}
        scores, state = one.intermediate_values, STATES.get(one.state.name, "running")
        score = one.value if state == "finished" else max(scores.values(), default=None)
        step, minutes, cause = (
            max(scores, default=0), one.user_attrs.get("minutes"), one.user_attrs.get("cause", "")
        )  # fmt: skip
        found.append(Trial(one.number, settings, score, step, state, minutes, cause))
    return tuple(found)


def importance_of(study: optuna.Study) -> dict[str, float]:
    """Each setting's share of the variance of the scores (fANOVA); empty where it cannot be told."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    # Of fewer than two finished trials, or of equal scores, there is no variance.
    with suppress(ValueError, RuntimeError):
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        return {name: float(share) for name, share in shares.items()}
    return {}
