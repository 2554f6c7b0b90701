"""Folders: of maps, of training runs, of a data set, or of one scene."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from labelscape.datasets.pairs import find_pairs, parts_given
from labelscape.errors import BadFile, LabelscapeError
from labelscape.files import name_fault
from labelscape.inspection.beside import EXPORTED, meaning
from labelscape.inspection.card import Info, lines, size_text
from labelscape.inspection.rasters import scene
from labelscape.legend import Legend
from labelscape.scenes.files import is_raster
from labelscape.scenes.vectors import VECTOR_SUFFIXES
from labelscape.text import typed

MOST_LISTED = 60
"""Files of a folder that are listed; the rest are counted."""


def folder(path: Path, statistics: bool) -> Info:
    """A folder that is not the folder of one map. Raises BadFile where it cannot be read or holds nothing
    that is known.
    """
    try:
        files = sorted(file for file in path.iterdir())
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}.") from error
    # Before scenes: images/ and labels/ beside each other are never one scene.
    if (pairs := _data_set(path)) is not None:
        return pairs
    why = ""
    # Maps and checkpoints first: their rasters would open as a mosaic of classes and confidences.
    if not any(_made_here(file.name) for file in files):
        try:
            return scene(path, statistics)
        except LabelscapeError as error:
            why = str(error).removeprefix(f"{path} ").rstrip(".")
            if not any(_what(file) for file in files):
                raise BadFile(f"{path} is not a folder of a map, a data set or a scene: {why}.") from error
    return _listed(path, files, why)


def _made_here(name: str) -> bool:
    return name.endswith((".safetensors", "_run.json", "_class.tif", ".unfinished"))


def _what(file: Path) -> tuple[str, str] | None:
    """(kind, use) of a file or folder by its name, and by those that belong to it."""
    if (known := meaning(file.name)) is not None:
        return known
    if file.suffix == ".xml" and file.with_suffix(".bin").is_file():
        return EXPORTED
    if file.suffix == ".bin" and (model := file.with_suffix(".xml")).is_file():
        return "side file", f"weights of the network in {model.name}; keep it beside that file"
    if (file / "model.safetensors").is_file() and (file / "config.json").is_file():
        return (
            "exported model",
            "a model of segmentation-models-pytorch (from_pretrained); train --start takes it",
        )
    if file.suffix.lower() in VECTOR_SUFFIXES - {".json"}:
        return "polygons", "polygons: labels, or an area of interest"
    return ("raster", "a scene, labels or a map") if is_raster(file) else None


def _data_set(path: Path) -> Info | None:
    """A folder of image and label pairs, by its names alone: no image is opened. None for other folders."""
    try:
        images, labels = find_pairs([path])
        parts = parts_given(path, images)
    # Not a folder of pairs, or one with a mistake that `data check` explains.
    except LabelscapeError:
        return None
    counts = Counter(parts.part_of if parts else ())
    facts: dict[str, Any] = {"pairs": len(images), "parts": dict(counts)}
    card = {"data set": str(path), "pairs": f"{len(images):,} images with labels"}
    card["split"] = ", ".join(f"{n:,} {part}" for part, n in counts.items()) or "none: blocks are held out"
    card["first pair"] = f"{images[0].relative_to(path)}, {labels[0].relative_to(path)}"
    if (file := path / "classes.json").is_file():
        try:
            legend = Legend.from_json(file.read_text("utf-8"))
        except (ValueError, KeyError, TypeError, LabelscapeError) as error:
            raise BadFile(f"{file} is not a valid list of classes: {error}.") from error
        facts["classes"] = [{"value": c.value, "name": c.name} for c in legend.classes]
        card["classes"] = ", ".join(f"{c.value} {c.name}" for c in legend.classes)
    card["use"] = f"labelscape data check {typed(path)}; labelscape train {typed(path)} --out run"
    return Info("data set", str(path), facts, lines(card))


def _listed(path: Path, files: list[Path], why: str) -> Info:
    """Every file with what it is and what to do with it; `why` the folder as a whole is no scene."""
    # Hidden files only where they are ours, such as an unfinished map.
    rows = [(file, _what(file)) for file in files if _what(file) or not file.name.startswith(".")]
    facts = []
    for file, known in rows:
        kind, use = known or ("folder" if file.is_dir() else "unknown", "")
        facts.append({"name": file.name, "kind": kind, "use": use})
    counts = Counter(row["kind"] for row in facts)
    card: dict[str, Any] = {"folder": str(path)}
    card["holds"] = ", ".join(kind if n == 1 else f"{kind} ({n})" for kind, n in counts.most_common())
    size = sum(file.stat().st_size for file in files if file.is_file())
    card["size"] = size_text(size)
    card["not one scene"] = why
    card["use"] = f"labelscape info {path}/NAME describes one of them"
    return Info("folder", str(path), {"bytes": size, "entries": facts}, lines(card, file_lines(facts)))


def file_lines(facts: list[dict[str, str]]) -> list[str]:
    """Names, kinds and uses of files as a table."""
    shown = facts[:MOST_LISTED]
    # A name may hold commands for the terminal.
    names = [re.sub(".", lambda c: "?" if name_fault(c[0]) else c[0], row["name"]) for row in shown]
    wide = max(map(len, names), default=0) + 2
    table = [f"{name:<{wide}}{row['use'] or row['kind']}" for name, row in zip(names, shown)]
    return table + ([f"and {len(facts) - MOST_LISTED} more"] if len(facts) > MOST_LISTED else [])


def entries_of(path: Path, names: list[str]) -> list[dict[str, str]]:
    """The files of a map by their names, with what lies beside the rasters; then all others of its folder."""
    # A style belongs to the file of its name, as QGIS has it.
    beside = [(name, f"{name}.aux.xml", *(Path(name).stem + s for s in (".qml", ".sld"))) for name in names]
    own = list(dict.fromkeys(one for of_file in beside for one in of_file if (path / one).exists()))
    others = [f for f in sorted(path.iterdir()) if f.name not in own and not f.name.startswith(".")]
    found = []
    for name in own:
        kind, use = meaning(name) or ("unknown", "")
        found.append({"name": name, "kind": kind, "use": use})
    for file in others:
        kind, use = _what(file) or ("unknown", "unknown")
        # A profile bears the name of no map.
        other = "" if kind == "profile" else "not of this map: "
        found.append({"name": file.name, "kind": kind, "use": f"{other}{use}"})
    return found
