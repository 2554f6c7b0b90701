"""Configuration files: YAML, TOML or JSON as plain values. Nothing in a file is run, and a file that is made
to exhaust the reader (aliases, nesting, size) is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from labelscape.errors import BadFile, BadOption, first_line
from labelscape.mistaken import what_it_is

MOST_BYTES = 1 << 20
"""A thousand scenes and their labels take a fifth of it."""
DEEPEST = 40
"""Mappings and lists in one another; a recipe has five."""


class Refused(ValueError):
    """What a file must not have, as the end of a sentence."""


class Loader(yaml.SafeLoader):
    """YAML 1.2 without tags and aliases: `no` is text, `1e-3` a number, and all keys are text."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise Refused(f"has an anchor or alias (&name, *name; {_line(event)}): write the value out")
        if getattr(event, "tag", None) is not None:
            raise Refused(f"has a tag ({event.tag}; {_line(event)}): leave it out, values have no types here")
        self.depth += 1
        if self.depth > DEEPEST:
            raise Refused(f"is nested more than {DEEPEST} deep ({_line(event)})")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Refused(f"has a key that is no text ({_line(key)})")
            # PyYAML takes the last one without a word.
            if key.value in found:
                raise Refused(f"has the key {key.value!r} twice ({_line(key)})")
            found[key.value] = self.construct_object(value, deep=True)
        return found


# YAML 1.1, which PyYAML reads otherwise, takes a class called `no` for false and 1e-3 for text.
for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def _line(of: Any) -> str:
    return f"line {of.start_mark.line + 1}"


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader)


def _from_json(text: str) -> Any:
    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise Refused(f"has the key {key!r} twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=once)


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".yaml": ("YAML", _from_yaml),
    ".yml": ("YAML", _from_yaml),
    ".toml": ("TOML", tomllib.loads),
    ".json": ("JSON", _from_json),
}


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys of a .yaml, .toml or .json file. Raises BadOption for another ending, BadFile where it cannot
    be read or has what such a file must not have.
    """
    if path.suffix.lower() not in READERS:
        raise BadOption(f"{path}: a configuration file ends in {', '.join(READERS)}.")
    name, read = READERS[path.suffix.lower()]
    try:
        found = read(_text_of(path))
    except Refused as problem:
        raise BadFile(f"{path} {problem}.") from problem
    except RecursionError as error:
        raise BadFile(f"{path} is nested too deep.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadFile(f"{path} is not valid {name} ({_where(error)}).") from error
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise BadFile(f"{path} holds {what}; keys with values were expected, such as network: mlp.")
    return found


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            what = "is no plain file" if path.exists() else "does not exist"
            raise BadFile(f"{path} {what}.")
        # One byte more than is allowed tells of a file that grows, or whose size is not known.
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > MOST_BYTES:
        raise Refused(f"is larger than {MOST_BYTES >> 20} MiB, which no configuration file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(what_it_is(path) or "is not text in UTF-8") from error


def _where(error: Exception) -> str:
    """What is wrong, and the line where the reader knows it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return first_line(error)
    return f"line {mark.line + 1}: {error.problem}"
