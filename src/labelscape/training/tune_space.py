"""The search space of a hyper-parameter search: which settings of a recipe are varied, and over what."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelscape.errors import BadOption, UnknownName
from labelscape.training.recipe import HIGHEST_ADAMW_RATE, Recipe, as_recipe
from labelscape.training.recipe_data import Data
from labelscape.training.tune_result import shown

Over = Mapping[str, str | Sequence[Any]]
"""Setting -> its values, or text as on the command line: `1e-4:1e-2:log`, `64:256:32`, `mlp,smp/Unet`."""

FIXED = {
    "data": "the data decide what is scored, so that scores of two trials could not be compared",
    "seed": "trials would differ by luck, and the luckiest would win",
    "val_every": "trials are compared with each other at the same steps",
    **dict.fromkeys(("device", "save_every", "keep_every"), "it changes no score"),
    **dict.fromkeys(("measure_tile_sizes", "measure_unfamiliar"), "it is measured after the training"),
}
"""Settings that a search cannot vary, and why."""
SEVERAL = ("options", "losses", "aux_losses", "rate_factors", "mate")
"""Settings that have settings of their own, such as `options.hidden`."""
DIGITS = 4
"""Significant digits of a number that is drawn: more decide nothing, and the command of a trial is typed."""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    name: str
    values: tuple[Any, ...]

    def draw(self, trial: Any) -> Any:
        """The value of a trial of Optuna."""
        # As text: Optuna's categories may be no lists or mappings.
        return self.value(trial.suggest_categorical(self.name, [_as_text(one) for one in self.values]))

    def value(self, drawn: Any) -> Any:
        return json.loads(drawn)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values by which the setting is checked."""
        return self.values

    @property
    def typed(self) -> str:
        return ",".join(map(shown, self.values))


@dataclass(frozen=True)
class Range:
    """Numbers between two, evenly or by their logarithm; `whole` numbers alone, or every `step`-th."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def draw(self, trial: Any) -> float:
        """The value of a trial of Optuna."""
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step)
        return self.value(trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step))

    def value(self, drawn: float) -> float:
        rounded = drawn if self.whole else float(f"{drawn:.{DIGITS}g}")
        return min(max(rounded, self.low), self.high)

    @property
    def ends(self) -> tuple[float, ...]:
        """The values by which the setting is checked."""
        return self.value(self.low), self.value(self.high)

    @property
    def typed(self) -> str:
        last = ":log" if self.log else f":{self.step:g}" if self.step else ""
        return f"{self.low:g}:{self.high:g}{last}"


Varied = Choice | Range


def space_of(over: Over, settings: Mapping[str, Any]) -> tuple[Varied, ...]:
    """The search space, each value of it tried in a recipe with the other `settings`. Raises BadOption that
    lists all that is wrong with it.
    """
    space, problems = [], []
    for name, given in over.items():
        try:
            _check_name(name)
            space.append(one := _read(name, given))
            for value in one.ends:
                as_recipe(with_settings(settings, {name: value}))
        except BadOption as error:
            problems += [line.removeprefix("  - ") for line in _sentences(error)]
    if problems:
        listed = "\n  - ".join(dict.fromkeys(problems))
        raise BadOption(f"This search space (`over`) cannot be used:\n  - {listed}")
    return tuple(space)


def default_space(recipe: Recipe) -> dict[str, str]:
    """What is varied where nothing is said (ours): what a network's score depends on most, and its memory
    allows.
    """
    highest = HIGHEST_ADAMW_RATE if recipe.optimizer == "adamw" else math.inf
    sides = [side for side in (recipe.crop // 2, recipe.crop, 2 * recipe.crop) if side >= 16]
    return {
        "rate": f"{recipe.rate / 10:g}:{min(10 * recipe.rate, highest):g}:log",
        "weight_decay": "1e-05:0.01:log",
        "crop": ",".join(map(str, sides)),
        "class_weights": "none,auto",
    }


def with_settings(settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a recipe with others in their place; `options.hidden` is one of the mapping `options`."""
    made = dict(settings)
    for name, value in chosen.items():
        *path, last = name.split(".")
        place = made
        for part in path:
            place[part] = dict(place.get(part) or {})
            place = place[part]
        place[last] = value
    return made


def _check_name(name: str) -> None:
    root = name.partition(".")[0]
    known = [one for one in Recipe.model_fields if one not in FIXED]
    if root in FIXED or root in Data.model_fields or name.startswith("mate.data"):
        raise BadOption(f"{name} cannot be varied: {FIXED.get(root, FIXED['data'])}.")
    if root not in known:
        raise UnknownName("setting of a recipe that can be varied", name, known)
    if "." in name and root not in SEVERAL:
        raise BadOption(f"{name}: {root} is a single value; vary {root}.")


def _read(name: str, given: str | Sequence[Any]) -> Varied:
    if not isinstance(given, str):
        if not isinstance(given, Sequence):
            raise BadOption(f"{name}={given!r} must be a list of values, or text such as '1e-4:1e-2:log'.")
        return _choice(name, given)
    low, *rest = given.split(":")
    if rest and _number(low) is not None and len(rest) <= 2:
        return _range(name, given)
    # A comma inside brackets or quotes is part of a value.
    parts = re.findall(r'(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|[^,])+', given)
    return _choice(name, [_value(name, part.strip()) for part in parts])


def _choice(name: str, values: Sequence[Any]) -> Choice:
    try:
        different = list({_as_text(value): value for value in values}.values())
    except TypeError as error:
        raise BadOption(f"{name}: {error}; numbers, text, lists and mappings were expected.") from error
    if len(different) < 2:
        raise BadOption(
            f"{name}={','.join(map(str, values))} must be two values or more, such as {name}=A,B, or a range "
            "LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP."
        )
    return Choice(name, tuple(different))


def _range(name: str, text: str) -> Range:
    low, high, last = (*text.split(":"), "")[:3]
    log, step = last == "log", _number(last)
    least, most = _number(low), _number(high)
    if most is None or not least < most or (last and not log and not (step and step > 0)):
        raise BadOption(
            f"{name}={text} must read LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP, with LOW below HIGH."
        )
    if log and least <= 0:
        raise BadOption(f"{name}={text}: on a logarithmic scale the lowest value must be above 0.")
    typed_whole = all(re.fullmatch(r"[+-]?\d+", part) for part in (low, high, *([last] if step else [])))
    root = name.partition(".")[0]
    whole = typed_whole and (
        root == "options" or Recipe.model_fields[root].annotation in (int, int | None) or name == "mate.batch"
    )
    if whole:
        least, most = int(low), int(high)
    return Range(name, least, most, log, step, whole)


def _number(text: str) -> float | None:
    try:
        return number if math.isfinite(number := float(text)) else None
    except ValueError:
        return None


def _value(name: str, text: str) -> Any:
    """A value as `-o` reads it: JSON, else text. Losses may also be named alone: dice+lovasz."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {loss: 1.0 for loss in text.split("+")} if name in ("losses", "aux_losses") else text


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _sentences(error: BadOption) -> list[str]:
    """The problems that an error lists, without its heading."""
    first, *rest = str(error).splitlines()
    return rest or [first]
