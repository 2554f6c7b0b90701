"""labelscape train --print-config and --config-schema: a complete configuration file to edit, and the JSON
Schema by which editors complete and check one.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter

from labelscape.cli.config import SCHEMA_KEY, Option, is_of_mate, of_data, of_run, options
from labelscape.cli.config_file import Loader
from labelscape.training.recipe import Recipe
from labelscape.training.recipe_data import OF_FILES, Data

DIALECT = "https://json-schema.org/draft/2020-12/schema"
WIDTH = 100
PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*( [\w./+-]+)*")
"""Text that needs no quotes, unless it reads as something else."""
OTHERWISE_YAML = {"y", "n", "yes", "no", "on", "off"}
"""Text that other programs may read as true or false."""
HEAD = """\
# labelscape train --config FILE
# Relative paths are relative to this file. The command line overrules it: --config FILE --steps 10
# For editors: labelscape train --config-schema > train.schema.json, and this line at the top:
# # yaml-language-server: $schema=train.schema.json
"""


def config_text(recipe: Recipe, values: Mapping[str, Any]) -> str:
    """A recipe, and the `values` of options by their parameters, as a YAML file with the help as comments.
    Read again, it gives the very same recipe.
    """
    lines = []
    for key, option in options().items():
        if of_run(key):
            lines += [*_comment(option.help, ""), *_entry(key, values[option.parameter], "")]
    return HEAD + "\n".join(["", *lines, *_settings(recipe, "")]) + "\n"


def _settings(model: BaseModel, indent: str) -> Iterator[str]:
    for name, about in type(model).model_fields.items():
        value = getattr(model, name)
        yield from _comment(about.description or "", indent)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _settings(value, indent + "  ")
        else:
            yield from _entry(name, value, indent)


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH - len(indent))]


def _entry(name: str, value: Any, indent: str) -> Iterator[str]:
    """A key and its value: on one line, or with a line for each of many."""
    line = f"{indent}{_scalar(name)}: {_flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, (list, tuple, dict)):
        yield line
    elif isinstance(value, dict):
        yield f"{indent}{_scalar(name)}:"
        for key, one in value.items():
            yield from _entry(key, one, indent + "  ")
    else:
        yield f"{indent}{_scalar(name)}:"
        for one in value:
            yield f"{indent}  - {_flow(one)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in OTHERWISE_YAML and yaml.load(text, Loader) == text:
        return text
    return yaml.dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    digits, e, power = repr(value).partition("e")
    # 1e-05 is text to readers of YAML 1.1; 1.0e-05 is a number to all.
    return digits + ".0" * (bool(e) and "." not in digits) + e + power


def config_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, made of the recipe and the options. Nothing is required: the
    command line may give the rest.
    """
    schema = Recipe.model_json_schema()
    parts = schema.pop("$defs", {})
    for part in (schema, *parts.values()):
        part.pop("required", None)
    its_own, data = schema.pop("properties"), parts[Data.__name__]["properties"]
    for name, form in data.items():
        # One file is a list of one.
        if form.get("type") == "array" and form.get("format") == OF_FILES["format"]:
            about = {key: form.pop(key) for key in ("description", "default") if key in form}
            data[name] = {**about, "anyOf": [form, {"type": "string"}]}
    keys: dict[str, Any] = {SCHEMA_KEY: {"type": "string", "description": "The schema, for editors."}}
    for key, option in options().items():
        if key in its_own and not is_of_mate(key, ""):
            continue
        forms = [_form(option)]
        if setting := of_data(key):
            forms.append(
                {k: v for k, v in data[setting].items() if k not in ("description", "default", "title")}
            )
        if key in its_own:
            forms.append({k: v for k, v in its_own.pop(key).items() if k not in ("description", "default")})
        keys[key] = {
            "description": option.help,
            "anyOf": [form for one in forms for form in one.get("anyOf", [one])],
        }
    return {
        "$schema": DIALECT,
        "title": "Configuration of labelscape train",
        "description": "Options of labelscape train, and settings of the recipe.",
        "type": "object",
        "additionalProperties": False,
        "properties": {**keys, **its_own},
        "$defs": parts,
    }


def _form(option: Option) -> dict[str, Any]:
    """What an option takes; of a list of texts also a single one."""
    if option.type is Path:
        return {"type": "string", "format": "path"}
    form = TypeAdapter(option.type).json_schema()
    return {"anyOf": [form, form["items"]]} if option.several else form
