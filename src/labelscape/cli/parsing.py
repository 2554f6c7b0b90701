"""What users type, turned into values: scenes, scales, KEY=VALUE settings. Every parser raises BadOption and
quotes the text that it could not read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from typing import Any

from labelscape.errors import BadOption


def scales_of(text: str) -> tuple[float, ...]:
    """`0.75,1,1.25` -> (0.75, 1.0, 1.25)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadOption(
            f"--scales {text!r} must be numbers separated by commas, such as 0.75,1,1.25."
        ) from error


def scene_of(text: str) -> str | tuple[str, ...]:
    """`a.tif` is a scene; `B02.jp2,B03.jp2` is one scene made of single-band files. Commas in the query of a
    URL (`https://...?bbox=1,2,3,4`) do not separate files.
    """
    from labelscape.scenes.scene_list import as_given

    return as_given(text)


def labelled_scenes(texts: Iterable[str]) -> list[str | tuple[str, ...]]:
    """Scenes one by one, by globs or by lists, in their order: that of their label files."""
    from labelscape.scenes.file_lists import listed_files

    return [scene_of(one) if isinstance(one, str) else one for one in listed_files(texts)]


def label_files(texts: Iterable[str]) -> list[str]:
    """Label files one by one, by globs or by lists, in their order."""
    from labelscape.scenes.file_lists import listed_files

    # Labels have no bands in files of their own, so that a comma separates nothing.
    return [one if isinstance(one, str) else ",".join(one) for one in listed_files(texts)]


def pairs_of(items: Iterable[str], option: str) -> dict[str, tuple[str, ...]]:
    """`woodland=forest,scrub` -> {"woodland": ("forest", "scrub")}; a bare `water` -> {"water":
    ("water",)}.
    """
    found = {}
    for item in items:
        name, _, olds = item.partition("=")
        # Given twice the later one would win without a word.
        if not name or name in found:
            raise BadOption(f"--{option} {item!r} must read NEW=OLD,OLD and name each new class once.")
        found[name] = tuple(names_of(olds)) if olds else (name,)
    return found


def names_of(text: str) -> list[str]:
    """`forest,scrub` -> ["forest", "scrub"]; a name with commas stands in double quotes."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def numbers_of(items: Iterable[str], option: str) -> dict[str, int]:
    """`water=5` -> {"water": 5}; several in one text are separated by commas."""
    found = {}
    for text in items:
        # A comma separates only after a number: names have commas too (`Cropland, rainfed=10`).
        parts = re.findall(r"\s*([^=]+?)\s*=\s*([+-]?\d+)\s*(?:,|$)|(.+)", text.strip(), re.DOTALL)
        for name, value, rest in parts or [("", "", text)]:
            if rest or not name:
                raise BadOption(
                    f"--{option} {rest or text!r} must read NAME=VALUE with a whole number, such as water=5."
                )
            # Quoted as `names_of` has it, though here nothing needs it.
            name = name[1:-1].strip() if re.fullmatch(r'".+"', name) else name
            if name in found:
                raise BadOption(f"--{option} names the class {name!r} twice.")
            found[name] = int(value)
    return found


def settings_of(items: Iterable[str]) -> dict[str, Any]:
    """`-o crop=128 -o options.hidden=256` -> {"crop": 128, "options": {"hidden": 256}}; values are JSON,
    else text.
    """
    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise BadOption(f"-o {item!r} must read KEY=VALUE.")
        # JSON gives numbers, lists and true/false their types; what is no JSON (bands=red) needs no quotes.
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        place = found
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                break
        # Given twice the later one would win without a word.
        if not isinstance(place, dict) or last in place:
            raise BadOption(f"-o {item!r} sets again what another -o has set; give one of them.")
        place[last] = value
    return found


def integers_of(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadOption(
            f"--{option} {text!r} must be whole numbers separated by commas, such as 1,3."
        ) from error


def numbers_between(text: str | None, option: str) -> tuple[float, ...]:
    """`60,85` -> (60.0, 85.0); nothing -> ()."""
    if not text:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadOption(f"--{option} {text!r} must be numbers separated by commas, such as 60,85.") from error


def accuracies_of(items: Iterable[str]) -> float | dict[str, float]:
    """`0.85` -> 0.85; `forest=0.9,water=0.95` -> {"forest": 0.9, "water": 0.95}."""
    items = list(items)
    try:
        if len(items) == 1 and "=" not in items[0]:
            return float(items[0])
        # A comma separates only after a number, and the last equals sign before it counts: names have both.
        parts = [re.split(r"(?<==)([^=,]+)(?:,|$)", text) for text in items]
        if all(len(one) > 1 and not one[-1] for one in parts):
            pairs = [pair for one in parts for pair in zip(one[::2], one[1::2])]
            found = {n[:-1].strip(' "'): float(v) for n, v in pairs}
            overall = any(re.match(r"[\d.]+\s*,", name) for name in found)
            if all(found) and len(found) == len(pairs) and not overall:
                return found
    except ValueError:
        pass
    raise BadOption(
        f"--expect {' '.join(items)!r} must be one accuracy, such as 0.85, or CLASS=ACCURACY for classes, "
        "such as forest=0.9."
    )
