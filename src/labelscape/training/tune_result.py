"""What a hyper-parameter search found: its trials, its winner, the command that trains it again; as CSV and
JSON.
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from labelscape.files import written_whole
from labelscape.training.recipe import Recipe, make_recipe

OPTIONS = "network steps base_steps batch crop rate base_rate optimizer precision seed device"
OF_DATA = "dataset class_column layer background area block split holdout buffer val"
"""Settings of a recipe, and of its data, that `labelscape train` has options for; others follow `-o`."""
SCORES = {
    "mean_iou": "mean IoU",
    "overall_accuracy": "overall accuracy",
    "mean_f1": "mean F1",
    "kappa": "kappa x 100",
}
"""What trials may be compared by, and how it is called."""


@dataclass(frozen=True)
class Trial:
    """One training of a search. `score` is that of the validation blocks, a fraction; of a pruned trial its
    best until then. `state` is finished, pruned, failed or running.
    """

    number: int
    settings: Mapping[str, Any]
    score: float | None
    step: int
    state: str
    minutes: float | None
    cause: str = ""


@dataclass(frozen=True, eq=False)
class Tuning:
    """All trials of a search, and its winner.

    score       what trials are compared by, on validation blocks
    over        setting -> what it was varied over
    best        the winner; None before a trial is finished
    recipe      the winner's recipe
    importance  setting -> its share of the variance of the scores; empty where too few trials are finished
    test        the winner's scores on the test blocks; None where there are none
    tested      how many winners have been scored on the test blocks: more than one where a finished search
                went on
    """

    score: str
    over: Mapping[str, str]
    trials: tuple[Trial, ...]
    recipe: Recipe
    importance: Mapping[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    test: Mapping[str, Any] | None = None
    tested: int = 0
    command: str = ""

    @property
    def score_name(self) -> str:
        return SCORES[self.score]

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials)

    def __repr__(self) -> str:
        best = "no winner" if self.best is None else f"{self.score} {self.best.score:.4f}"
        return f"<Tuning of {self.recipe.network}: {len(self.trials)} trials, {best}>"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "score": self.score,
            "over": dict(self.over),
            "trials": [asdict(trial) for trial in self.trials],
            "best": self.best and self.best.number,
            "importance": dict(self.importance),
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "test": self.test,
            "winners_tested": self.tested,
            "command": self.command,
        }


def best_of(trials: tuple[Trial, ...]) -> Trial | None:
    """The finished trial with the highest score, the first of equal ones."""
    scored = [trial for trial in trials if trial.state == "finished"]
    return max(scored, key=lambda trial: (trial.score, -trial.number), default=None)


def train_command(recipe: Recipe, out: Path) -> str:
    """The command that trains a recipe: what differs from the defaults of its network, quoted for a shell."""
    plain = make_recipe(network=recipe.network, data={"images": recipe.data.images})
    images = [image if isinstance(image, str) else ",".join(image) for image in recipe.data.images]
    words = ["labelscape", "train", *images, "--network", recipe.network]
    for file in recipe.data.labels:
        words += ["--labels", file]
    for name in type(recipe.data).model_fields:
        if name not in ("images", "labels") and _value(recipe.data, name) != _value(plain.data, name):
            words += _option(name, _value(recipe.data, name), OF_DATA, "data.")
    for name in Recipe.model_fields:
        if name not in ("data", "network") and _value(recipe, name) != _value(plain, name):
            words += _option(name, _value(recipe, name), OPTIONS)
    return shlex.join([*words, "--out", str(out)])


def _value(of: Any, name: str) -> Any:
    # What is left out of a stored recipe is at its default.
    return of.model_dump(mode="json").get(name, getattr(of, name))


def _option(name: str, value: Any, options: str, of: str = "") -> list[str]:
    # No option takes null, and a text that is JSON would be read as what it says.
    if name in options.split() and value is not None:
        return [f"--{name.replace('_', '-')}", str(value)]
    is_text = isinstance(value, str) and not _is_json(value)
    return ["-o", f"{of}{name}={value if is_text else json.dumps(value)}"]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def write_tuning(found: Tuning, out: Path) -> tuple[Path, Path]:
    """Write `tune.csv` (a row for each trial) and `tune.json`. Raises BadFile."""
    table, numbers = out / "tune.csv", out / "tune.json"
    names = list(found.over)
    rest = [one.name for one in fields(Trial) if one.name not in ("number", "settings")]
    with written_whole(table, overwrite=True) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["trial", *names, *rest])
        for one in found.trials:
            chosen = [one.settings.get(name, "") for name in names]
            rows.writerow([one.number, *map(shown, chosen), *(getattr(one, name) for name in rest)])
    with written_whole(numbers, overwrite=True) as part:
        part.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8", newline="\n")
    return table, numbers


def shown(value: Any) -> str:
    """A value of a setting as people read it: 0.001, mlp, dice+lovasz."""
    if isinstance(value, Mapping) and set(value.values()) == {1.0}:
        return "+".join(value)
    if isinstance(value, (float, str)):
        return value if isinstance(value, str) else f"{value:g}"
    return json.dumps(value)
