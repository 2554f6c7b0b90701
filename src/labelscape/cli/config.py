"""labelscape train --config: options of the command line and settings of the recipe, from a file.

Keys, types and help are those of the options and of the recipe themselves; there is no list of them here.
"""

from __future__ import annotations

import inspect
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from typer.models import ArgumentInfo, OptionInfo

from labelscape.cli.config_file import read_mapping
from labelscape.cli.options import Labels
from labelscape.cli.parsing import label_files, labelled_scenes
from labelscape.cli.second_task import SecondTask
from labelscape.cli.train_ahead import Ahead
from labelscape.errors import BadOption, LabelscapeError, expected_of, nearest_name
from labelscape.scenes.files import is_local
from labelscape.training.recipe import Recipe, problems, unknown_names
from labelscape.training.recipe_data import OF_FILES, Data

SCHEMA_KEY = "$schema"
"""By which editors find the schema of a JSON file; not a setting."""
PATHS = {
    name
    for model in (Data, Recipe)
    for name, setting in model.model_fields.items()
    if setting.json_schema_extra == OF_FILES
} | {"weights"}
"""Settings that name files; the last is of networks with a backbone (`options.weights`)."""
ONLY_TYPED = {"config", "setting", "allow_remote", *(option.name for option in fields(Ahead))}
"""Options that a file must not have: what is printed instead of a training, and what lets the files of others
name further files.
"""


@dataclass(frozen=True)
class Option:
    """An option of `labelscape train`, or its scenes."""

    parameter: str
    """Its name in Python: `as_json` of --json."""
    type: Any
    help: str

    @property
    def several(self) -> bool:
        return get_origin(self.type) is list


@dataclass(frozen=True)
class ConfigFile:
    """What a configuration file says."""

    path: Path
    settings: dict[str, Any]
    """Of the recipe, nested as in it; paths relative to the current folder."""
    options: dict[str, Any]
    """Of the command line alone, by parameter: out, log, ..."""
    val: bool
    """Whether `val` is given as the option, which chooses `val_every` too."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of parameters where the command line has none."""
        # Of the options that are settings too, this one alone has a value where it is not given.
        device = {"device": self.settings["device"]} if "device" in self.settings else {}
        return {**self.options, **device}


@cache
def options() -> dict[str, Option]:
    """Key -> the option it stands for; the word of the command line, with _ for -."""
    from labelscape.cli.train import run

    found = {}
    for name, parameter in inspect.signature(run).parameters.items():
        kind, *about = get_args(parameter.annotation) or (None,)
        info = next((one for one in about if isinstance(one, (OptionInfo, ArgumentInfo))), None)
        if info is None or name in ONLY_TYPED:
            continue
        # typer has the first name that is given where others have the default.
        words = [one for one in (info.default, *(info.param_decls or ())) if str(one).startswith("--")]
        word = (words or [name])[0].lstrip("-").replace("-", "_")
        found[word] = Option(name, _without_none(kind), info.help or "")
    return found


def _without_none(kind: Any) -> Any:
    rest = [one for one in get_args(kind) if one is not type(None)]
    return rest[0] if len(rest) == 1 and get_origin(kind) is not list else kind


def of_data(key: str) -> str | None:
    """The setting of the data that an option is: `ignore_value` is `ignore_values`; None for others."""
    if key not in options():
        return None
    return next((name for name in (key, f"{key}s") if name in Data.model_fields), None)


def is_of_mate(key: str, value: Any) -> bool:
    """Whether a key is an option of the second task, not the recipe's own mapping `mate`."""
    known = {option.name for option in fields(SecondTask)}
    return key in known and not (key == "mate" and (value is None or isinstance(value, Mapping)))


def of_run(key: str) -> bool:
    """Whether a key is an option that is not part of the recipe: out, log."""
    mate = {option.name for option in fields(SecondTask)}
    return key in options() and key not in Recipe.model_fields and key not in mate and of_data(key) is None


def read_config_file(path: Path) -> ConfigFile:
    """Raises BadFile where the file cannot be read, BadOption that names every wrong key and type in it."""
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for typed, value in read_mapping(path).items():
        key = typed.replace("-", "_")
        if key in found:
            wrong.append(f"{typed}: given twice")
        elif typed != SCHEMA_KEY:
            found[key] = value
    folder = _folder_of(path)
    recipe, places = _recipe_settings(found, folder, wrong)
    run = dict(_run_options(found, folder, wrong))
    wrong += [line for key in found if (line := _unknown(key))]
    wrong += _wrong_settings(recipe, places)
    if wrong:
        raise BadOption(f"{path} cannot be used:\n  - " + "\n  - ".join(dict.fromkeys(wrong)))
    return ConfigFile(path, recipe, run, val=bool(found.get("val")))


def _folder_of(path: Path) -> str:
    """What relative paths in the file begin with; nothing in the current folder, so that a recipe is the same
    as from the command line.
    """
    folder = os.path.normpath(path.parent)
    return "" if os.path.realpath(folder) == os.path.realpath(os.curdir) else folder


def _recipe_settings(
    found: Mapping[str, Any], folder: str, wrong: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of the recipe, and where those stand in the file that stand elsewhere in the recipe. Adds
    to `wrong`.
    """
    recipe = {
        k: _placed(v, k, folder)
        for k, v in found.items()
        if k in Recipe.model_fields and not is_of_mate(k, v)
    }
    places: dict[str, str] = {}
    data = recipe.get("data", {})
    for key, value in found.items() if isinstance(data, dict) else ():
        setting = of_data(key)
        if setting in data:
            wrong.append(f"{key}: is data.{setting}, which is given too; leave one of them out")
        elif setting is not None:
            places[f"data.{setting}"] = key
            data[setting] = _at(value, folder) if setting in PATHS else value
    for setting, value in data.items() if isinstance(data, dict) else ():
        key = next((key for key in options() if of_data(key) == setting), "")
        try:
            data[setting] = _as_in_recipe(key, setting, value) if key else value
        except LabelscapeError as problem:  # a glob without files, text that cannot be read
            wrong.append(f"{places.get(f'data.{setting}', f'data.{setting}')}: {problem}")
    if data:
        recipe["data"] = data
    mate = {k: _at(v, folder) if _names_files(k) else v for k, v in found.items() if is_of_mate(k, v)}
    checked = dict(_checked(mate, wrong))
    if checked and checked.keys() == mate.keys():
        try:
            recipe["mate"] = SecondTask(**checked).settings
        except LabelscapeError as problem:
            wrong.append(str(problem))
    return recipe, places


def _names_files(key: str) -> bool:
    """Whether an option of the second task names files, as that of the first does."""
    return (key.removeprefix("mate_") if key != "mate" else "images") in PATHS


def _as_in_recipe(key: str, setting: str, value: Any) -> Any:
    """A value of the data as the recipe has it: text as it is typed on the command line is read as there."""
    option = options()[key]
    several = [value] if isinstance(value, (str, int)) and option.several else value
    texts = isinstance(several, list) and all(isinstance(one, str) for one in several)
    if setting == "images" and isinstance(several, list):
        # A list in the list is a scene of several files.
        return [
            scene for one in several for scene in (labelled_scenes([one]) if isinstance(one, str) else [one])
        ]
    if setting == "labels" and texts:
        return label_files(several)
    if key in {one.name for one in fields(Labels)} and (texts if option.several else isinstance(value, str)):
        return Labels(**{key: several}).settings.get(setting, several)
    return several


def _run_options(found: Mapping[str, Any], folder: str, wrong: list[str]) -> Iterator[tuple[str, Any]]:
    run = {key: value for key, value in found.items() if of_run(key)}
    for key, value in _checked(run, wrong):
        yield options()[key].parameter, _at(value, folder) if options()[key].type is Path else value


def _checked(found: Mapping[str, Any], wrong: list[str]) -> Iterator[tuple[str, Any]]:
    """Values that are of their options' types. Adds to `wrong`."""
    for key, value in found.items():
        option = options()[key]
        several = [value] if option.several and isinstance(value, (str, int)) else value
        try:
            yield key, TypeAdapter(str if option.type is Path else option.type).validate_python(several)
        except ValidationError as error:
            wrong += [_line(key, one) for one in error.errors()]


def _unknown(key: str) -> str | None:
    if key in options() or key in Recipe.model_fields:
        return None
    if key in Data.model_fields:
        return f"{key}: is a setting of the data; write it below data"
    if key in ONLY_TYPED or key == "o":
        instead = (
            "write settings of the recipe as keys" if key in ("setting", "set", "o") else "not in a file"
        )
        return f"{key}: is given on the command line alone; {instead}"
    nearest = nearest_name(key, [*options(), *Recipe.model_fields])
    return f"{key}: there is no such key" + (f"; did you mean {nearest}?" if nearest else "")


def _wrong_settings(recipe: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """One line for each setting of an unknown name or a wrong type. What does not fit together is left to the
    whole recipe: the command line may change it.
    """
    lines = []
    try:
        Recipe(**recipe)
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "extra_forbidden":
                lines += problems([one])
            elif one["type"] not in ("missing", "value_error"):
                where = _name(one["loc"])
                lines.append(_line(places.get(where, where), one))
    network, named, losses = (recipe.get(key, {}) for key in ("network", "options", "losses"))
    if isinstance(network, str) and isinstance(named, dict) and isinstance(losses, dict):
        lines += unknown_names(network, named, losses)
    return lines


def _name(loc: tuple[int | str, ...]) -> str:
    """The dotted name of a setting, without the kinds of a union that pydantic adds."""
    end = next((n for n, part in enumerate(loc) if isinstance(part, int)), len(loc))
    return ".".join(map(str, loc[:end]))


def _line(key: str, problem: Mapping[str, Any]) -> str:
    return f"{key}: found {reprlib.repr(problem['input'])}, expected {expected_of(problem)}"


def _placed(value: Any, key: str, folder: str) -> Any:
    """A setting of the recipe with its paths relative to the current folder instead of the file's."""
    if key in PATHS:
        return _at(value, folder)
    if key in ("data", "mate", "options") and isinstance(value, dict):
        return {name: _placed(one, name, folder) for name, one in value.items()}
    return value


def _at(value: Any, folder: str) -> Any:
    """A path of the file, or several, as seen from the current folder."""
    if isinstance(value, list):
        return [_at(one, folder) for one in value]
    if not isinstance(value, str) or not value or not folder or not is_local(value):
        return value
    whole = os.path.join(folder, value)
    # Bands of a scene in files of their own, unless the name of a file has the comma.
    return (
        whole if os.path.exists(whole) else ",".join(os.path.join(folder, part) for part in value.split(","))
    )


def overruled(
    file: Mapping[str, Any], typed: Mapping[str, Any], where: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The settings of a file with those of the command line in their place, and what was replaced."""
    merged, lines = dict(file), []
    for key, value in typed.items():
        before = file.get(key)
        # Options and data are given one by one, as in a recipe; losses and classes as a whole.
        if isinstance(before, dict) and isinstance(value, Mapping) and _is_of_several(key):
            merged[key], more = overruled(before, value, f"{where}{key}.")
            lines += more
            continue
        merged[key] = value
        if key in file and (line := change(where + key, before, value)):
            lines.append(line)
    return merged, lines


def change(name: str, before: Any, after: Any) -> str:
    """What the command line replaces; empty where it says the same."""
    one, other = _plain(before), _plain(after)
    return "" if one == other else f"{name} {_short(one)} -> {_short(other)}"


def _is_of_several(key: str) -> bool:
    return key in ("data", "mate") or key.endswith("options")


def _plain(value: Any) -> Any:
    """Lists as JSON has them, to compare."""
    return json.loads(json.dumps(value, default=str))


def _short(value: Any) -> str:
    return reprlib.repr(value).replace("'", "")


def read_config(path: str | Path) -> dict[str, Any]:
    """A configuration file of `labelscape train` as arguments of `ls.train`:
    `ls.train(**ls.read_config("train.yaml"))`. Options that only the command line has are left out (`forest`,
    `json`). Relative paths in the file are relative to it.

    Raises BadFile where the file cannot be read, BadOption that names every wrong key and type in it, or says
    what is wrong with the recipe.
    """
    from labelscape.cli.train import Holdout, Schedule, recipe_of
    from labelscape.training.run import train

    file = read_config_file(Path(path))
    schedule = Schedule(device=file.settings.get("device", "auto"))
    recipe = recipe_of([], Labels(), schedule, Holdout(), SecondTask(), [], file=file)
    taken = inspect.signature(train).parameters
    return {"recipe": recipe, **{name: value for name, value in file.options.items() if name in taken}}
