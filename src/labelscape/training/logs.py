"""Where a training's log goes besides its CSV: TensorBoard, Weights & Biases, MLflow (`train --log`).

A logger that fails is named once and left out: a server that is away must not end a training of hours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadOption, WrongType, check_names, first_line
from labelscape.files import written_whole
from labelscape.training.outputs import runs_path
from labelscape.training.recipe import Recipe

Say = Callable[[str], None]
LOGGERS = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
"""Name, which is that of its package and of our extra too -> what people call it."""
UNLESS_SET = {
    # Both report to their makers over the network unless told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    # MLflow tells of the tables that it creates in a new database.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A server that is away holds up a training step for so long, once: by default for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment variables of loggers, where the user has not set them."""
HELD_OUT = "held_out"
"""What the names of the final scores begin with."""


class Logger(Protocol):
    """One training in one logger."""

    id: str
    """By which a resumed training finds its run again; empty where the files tell."""
    where: str
    """Where to look at it."""
    step: int
    """The last step that it holds."""

    def rows(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Log lines of the training's log, of steps after `step`."""

    def end(self, scores: Mapping[str, float], checkpoint: Path) -> None:
        """Log the final scores and the path of the checkpoint."""

    def close(self, *, well: bool) -> None:
        """End the run; `well` is false where training was stopped or failed."""


def checked(log: str | Sequence[str]) -> tuple[str, ...]:
    """The loggers asked for, each once. Raises BadOption for an unknown one, or where its package is missing:
    before hours of training, not when the first value is logged.
    """
    if not isinstance(log, (str, list, tuple)):
        raise WrongType(f"`log` must be a list of names, such as ['wandb']; found a {type(log).__name__}.")
    names = tuple(dict.fromkeys([log] if isinstance(log, str) else log))
    check_names("logger", names, LOGGERS)
    for variable, value in UNLESS_SET.items() if names else ():
        # Before the imports, which read them.
        os.environ.setdefault(variable, value)
    for name in names:
        # mlflow-skinny leaves out what a database needs, which is where we log unless told otherwise.
        more = (
            ["sqlalchemy", "alembic"] if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ else []
        )
        for package in (name, *more):
            _check_package(package, name)
    return names


def _check_package(package: str, name: str) -> None:
    try:
        # Two of them leave a folder of their name where they are used, which Python takes for a package.
        is_there = getattr(import_module(package), "__file__", None) is not None
    except ImportError:
        is_there = False
    if not is_there:
        raise BadOption(f"{LOGGERS[name]} logs need the package {package}: pip install 'labelscape[{name}]'.")


class Logs:
    """The loggers of one network's training. Without `names` (none are asked for, or this is not the first of
    several processes) it does nothing.
    """

    def __init__(self, names: Sequence[str], out: Path, recipe: Recipe, say: Say) -> None:
        self.names, self.out, self.recipe, self.say = tuple(names), out, recipe, say
        self.started: dict[str, Logger] = {}
        self.failed: set[str] = set()

    def begin(self, step: int, history: Sequence[dict]) -> None:
        """Start the loggers, or continue the runs of a training that was interrupted and is resumed after
        `step`, with its log so far. Raises BadOption where one cannot be started before the first step.
        """
        # After hours of training, its own or that of the base network, a logger is no reason to end.
        strict = not step and not self.recipe.base_steps
        ids = _ids(self.out, self.recipe.network)
        for name in self.names:
            try:
                logger = _started(name, self.out, self.recipe, ids.get(name, ""), history)
            except Exception as error:
                if strict:
                    why = f"{LOGGERS[name]} cannot start a run ({first_line(error)}). Correct that, or leave "
                    raise BadOption(f"{why}`log={name}` out.") from error
                self._tell(name, error)
                continue
            self.started[name] = logger
            self.say(f"log: {LOGGERS[name]}, {logger.where}")
            if logger.id:
                ids[name] = logger.id
                with written_whole(runs_path(self.out, self.recipe.network), overwrite=True) as part:
                    part.write_text(json.dumps(ids))
            # What was trained before the logger was asked for.
            self._rows(name, history)

    def row(self, line: Mapping[str, float]) -> None:
        """Log a line of the training's log."""
        for name in self.started:
            if name not in self.failed:
                self._rows(name, [line])

    def end(self, made: Checkpoint, checkpoint: Path) -> None:
        """Log the final scores of a finished network, and lines that a logger has missed by failing."""
        scores = dict(_scores(made, self.recipe.network))
        for name in self.started:
            missed = name in self.failed
            whole = self._rows(name, made.history)
            done = whole and self._guarded(name, lambda logger: logger.end(scores, checkpoint))
            if missed and done:
                self.say(f"log: {LOGGERS[name]} works again, and has the whole log")

    def close(self, *, well: bool) -> None:
        for name in self.started:
            self._guarded(name, lambda logger: logger.close(well=well))

    def _rows(self, name: str, lines: Sequence[Mapping[str, float]]) -> bool:
        # A run may hold steps after the state that training was resumed from: they are trained again, to the
        # same values, and would be in it twice.
        new = [line for line in lines if line["step"] > self.started[name].step]
        return not new or self._guarded(name, lambda logger: logger.rows(new))

    def _guarded(self, name: str, do: Callable[[Logger], None]) -> bool:
        try:
            do(self.started[name])
        # Every kind: each of these libraries raises its own, and those of the libraries below it.
        except Exception as error:
            self._tell(name, error)
            return False
        return True

    def _tell(self, name: str, error: Exception) -> None:
        if name not in self.failed:
            self.failed.add(name)
            why = first_line(error)
            self.say(f"warning: {LOGGERS[name]} failed ({why}); training continues without it")


@contextmanager
def logging_to(names: Sequence[str], out: Path, recipe: Recipe, say: Say) -> Iterator[Logs]:
    """The loggers of a network's training, closed at the end of the block, however it ends."""
    logs = Logs(names, out, recipe, say)
    try:
        yield logs
    except BaseException:  # stopped by Ctrl-C too
        logs.close(well=False)
        raise
    logs.close(well=True)


def _started(name: str, out: Path, recipe: Recipe, known: str, history: Sequence[dict]) -> Logger:
    """A logger's new run, or the one `known` by its id."""
    # Imported here: each loads its library, for seconds.
    if name == "wandb":
        from labelscape.training.wandb_log import WandbLog

        return WandbLog(out, recipe, known)
    if name == "mlflow":
        from labelscape.training.mlflow_log import MlflowLog

        return MlflowLog(out, recipe, known)
    from labelscape.training.board import Board

    return Board(out, recipe, history)


def _ids(out: Path, network: str) -> dict[str, str]:
    """Logger -> the id of this training's run in it, where it was begun before."""
    try:
        found = json.loads(runs_path(out, network).read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(run) for name, run in found.items()} if isinstance(found, dict) else {}


def _scores(made: Checkpoint, network: str) -> Iterator[tuple[str, float]]:
    """The held-out scores of a network, those of each class, and of its second task, by names for loggers:
    held_out/mean_iou, held_out/iou/water.
    """
    tasks = [(HELD_OUT, made.scores.get(network))]
    if made.mate is not None:
        tasks.append((f"{HELD_OUT}_{made.mate.name}", next(iter(made.mate.scores.values()), None)))
    for start, scores in tasks:
        for key, value in (scores or {}).items():
            if _is_number(value):
                yield f"{start}/{key}", value
        for one in (scores or {}).get("classes", ()):
            for key in ("iou", "f1", "precision", "recall"):
                if _is_number(one[key]):  # a class that does not occur has none
                    yield f"{start}/{key}/{one['name']}", one[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
