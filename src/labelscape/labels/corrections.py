"""Corrections of a map as labels: an answered review file, or any polygons with a column of classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid
from labelscape.labels.rules import class_name
from labelscape.legend import Legend
from labelscape.scenes.files import reason
from labelscape.scenes.polygons import read_polygons
from labelscape.scenes.vectors import VectorSource

RIGHT, CLASS, ANSWER = "class_right", "class", "answer"
"""Columns of a review file; of other files CLASS alone."""
NO_CLASS = ("mixed", "unsure")
"""Answers that say why an area has no class."""


@dataclass(frozen=True)
class Corrections:
    """Corrected polygons (N,) in a grid's CRS, the class index (N,) of each; how many more had no answer, and
    how many an answer that is no class; lines on what was left out of the file.
    """

    geometries: np.ndarray
    indices: np.ndarray
    unanswered: int = 0
    no_class: int = 0
    notes: tuple[str, ...] = ()


def read_corrections(source: str | Path, grid: Grid, legend: Legend) -> Corrections:
    """Read the corrections of a file for a scene. A column `class_right` (a review file) names the class, and
    `answer` may say instead that `class`, the map's, is right; without that column `class` names it.
    Polygons without an answer are left out.

    Raises BadFile for a file that cannot be read, BadInput where it has neither column, no answer at all or
    answers that contradict each other, UnknownName for a class that the legend does not have.
    """
    found = read_polygons(source, grid)
    columns = {name.lower(): values for name, values in found.attributes.items()}
    # Shapefiles cut names to ten characters.
    if RIGHT[:10] in columns:
        columns[RIGHT] = columns.pop(RIGHT[:10])
    count = len(found.geometries)
    if RIGHT in columns:
        names, no_class = _answers(source, columns, count)
    elif CLASS in columns:
        names, no_class = _texts(columns[CLASS]), np.zeros(count, bool)
    else:
        raise BadInput(
            f"{source} holds no corrections: it has neither a column `{RIGHT}`, as review files have, nor "
            f"`{CLASS}` with the right class of every polygon (its columns: "
            f"{', '.join(found.attributes) or 'none'})."
        )
    answered = np.array([bool(name) for name in names], bool) & ~no_class
    if not answered.any():
        raise BadInput(
            f"{source} holds no answer yet: none of its {count} areas has a class. Choose `{RIGHT}` for "
            "some, or say that the map's class is right."
        )
    # Refused, not left out: a class that is spelt otherwise would lose all its answers.
    strange = sorted({name for name, kept in zip(names, answered) if kept} - set(legend.names))
    if strange:
        raise UnknownName(f"class of the labels (found in {source})", strange[0], legend.names)
    indices = [legend.names.index(name) for name, kept in zip(names, answered) if kept]
    return Corrections(
        found.geometries[answered],
        np.array(indices, np.uint8),
        unanswered=int((~answered & ~no_class).sum()),
        no_class=int(no_class.sum()),
        notes=found.notes,
    )


def _answers(
    source: str | Path, columns: Mapping[str, np.ndarray], count: int
) -> tuple[list[str], np.ndarray]:
    """The right class of every area of a review file, "" for none; which are said to have none."""
    right = _texts(columns[RIGHT])
    mapped, answers = (_texts(columns[name]) if name in columns else [""] * count for name in (CLASS, ANSWER))
    names, no_class = [], np.zeros(count, bool)
    for place, (name, own, answer) in enumerate(zip(right, mapped, answers)):
        said = answer.lower()
        if said not in ("", "right", *NO_CLASS):
            raise UnknownName(f"answer (found in {source})", answer, ("right", *NO_CLASS))
        # Which of the two was meant only the interpreter knows.
        if said == "right" and name and name != own:
            raise BadInput(
                f"{source}: an area is said to be right as {own!r}, and its right class to be {name!r} "
                f"({_which(columns, place)}). Remove one of the two answers."
            )
        if said == "right" and not own:
            raise BadInput(
                f"{source}: an area without a class of the map is said to be right "
                f"({_which(columns, place)}). Choose its `{RIGHT}`."
            )
        names.append(own if said == "right" else name)
        no_class[place] = said in NO_CLASS
    return names, no_class


def _which(columns: Mapping[str, np.ndarray], place: int) -> str:
    """An area as a person finds it."""
    rank = columns["rank"][place] if "rank" in columns else None
    return f"feature {place + 1}" if rank is None or rank is np.ma.masked else f"rank {rank}"


def _texts(values: np.ndarray) -> list[str]:
    # Unmasked one by one: whole numbers with an empty cell come as masked arrays.
    return [class_name(value) for value in np.ma.asarray(values)]


def digest(source: str | Path) -> str:
    """SHA-256 of a corrections file, by which a resumed run knows it again. Raises BadFile."""
    path = VectorSource.of(source).path
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {reason(error)}.") from error
