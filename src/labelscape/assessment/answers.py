"""Read what an interpreter answered, and refuse points that are not the sample that was drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from labelscape.assessment.points import POINTS, Design, read_design
from labelscape.crs import name_of, transformed
from labelscape.errors import BadInput, UnknownName
from labelscape.legend import Legend
from labelscape.scenes.vectors import Features, VectorSource, layers_of, read_features
from labelscape.text import some

UNANSWERED = -1
MOVED = 0.01
"""Pixels by which a point may lie beside its pixel's centre: formats such as GeoJSON round coordinates."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The class index (N,) that an interpreter gave each point of the design, in the order of their numbers;
    -1 for none.
    """

    path: Path
    classes: np.ndarray

    @property
    def answered(self) -> np.ndarray:
        return self.classes != UNANSWERED


def read_answers(path: str | Path, design: Design, legend: Legend, column: str = "reference") -> Answers:
    """Read the answers of a sample. Raises BadInput where points were added, deleted, moved or repeated,
    or an answer is no class; UnknownName for a column that is not there; BadFile.
    """
    found = layers_of(path)
    if all(layer.geometry is None for layer in found):
        raise BadInput(
            f"{path} is a table without places, so that moved points could not be noticed. Export the "
            "answers with their points, as a GeoPackage or GeoJSON."
        )
    layers = [layer.name for layer in found]
    # By name where the layer is there: exports to other formats have one layer of any name.
    features = read_features(VectorSource(path, POINTS if POINTS in layers else None))
    for name in ("point", column):
        if name not in features.columns:
            raise UnknownName(f"column of {path}", name, features.columns)
    numbers = features.columns["point"]
    if np.ma.getmaskarray(numbers).any() or numbers.dtype.kind not in "iuf":
        raise BadInput(_not_drawn("Points have no number", path))
    numbers = np.ma.getdata(numbers).astype(np.int64)
    _check_numbers(path, numbers, len(design))
    _check_places(path, features, numbers, design)
    classes = np.full(len(design), UNANSWERED)
    # Not by their order: QGIS and exports sort as they like.
    classes[numbers - 1] = _indices(path, features.columns[column], legend, column)
    return Answers(Path(path), classes)


def design_of(path: str | Path, given: str | Path | None) -> Design:
    """The design of a sample, from the file itself or from `given`, the file that `sample` wrote. Raises
    BadInput where there is none.
    """
    design = read_design(given or path)
    if design is None:
        raise BadInput(
            f"{given or path} holds no sampling design, so inclusion probabilities are unknown: areas and "
            "intervals can only be estimated from a probability sample, not from points that somebody chose "
            "or from training labels. Draw one with `labelscape sample`; if this is an export of such a "
            "sample, name its GeoPackage with `design`."
        )
    return design


def _check_numbers(path: str | Path, numbers: np.ndarray, drawn: int) -> None:
    found, times = np.unique(numbers, return_counts=True)
    stray = found[(found < 1) | (found > drawn)]
    if stray.size:
        what = f"{stray.size} points have numbers that were not drawn ({some(stray, 5)})"
        raise BadInput(_not_drawn(what, path))
    if (times > 1).any():
        raise BadInput(_not_drawn(f"Points occur twice ({some(found[times > 1], 5)})", path))
    # A deleted point may be one that was hard to interpret: without it the map would look better than it is.
    gone = np.setdiff1d(np.arange(1, drawn + 1), found)
    if gone.size:
        raise BadInput(
            f"{gone.size} of the {drawn} points of the sample are missing from {path} ({some(gone, 5)}). "
            "Keep points that cannot be interpreted, without an answer: they are counted and reported."
        )


def _check_places(path: str | Path, features: Features, numbers: np.ndarray, design: Design) -> None:
    places = features.geometries
    if any(p is None or p.is_empty or p.geom_type != "Point" for p in places):
        raise BadInput(_not_drawn("Some features are no points", path))
    x, y = shapely.get_x(places), shapely.get_y(places)
    crs = design.grid.crs
    if features.crs and crs is not None:
        x, y = transformed(x, y, features.crs, crs)
    # Places that the map's CRS does not reach are infinite.
    with np.errstate(invalid="ignore"):
        columns, rows = ~design.grid.transform @ (np.asarray(x), np.asarray(y))
        # A point moved to a clearer place is a biased choice: its new pixel was not drawn at random.
        off = np.hypot(columns - design.columns[numbers - 1] - 0.5, rows - design.rows[numbers - 1] - 0.5)
    # `not <`: a point whose coordinates are NaN or infinite has moved too.
    moved = numbers[~(off < MOVED)]
    if moved.size:
        what = f"Points do not lie where they were drawn ({some(moved, 5)})"
        # Nobody moves every point: then it is their CRS that is wrong.
        if len(moved) == len(numbers) and features.crs and crs is not None:
            what += f"; all of them, so that their CRS ({name_of(features.crs)}) may be wrong"
        raise BadInput(_not_drawn(what, path))


def _not_drawn(what: str, path: str | Path) -> str:
    return (
        f"{what}: {path} is not the sample that was drawn, and its inclusion probabilities are unknown. "
        "Answer the points of the file that `sample` wrote; do not add, delete or move any."
    )


def _indices(path: str | Path, answers: np.ndarray, legend: Legend, column: str) -> np.ndarray:
    """Class indices of answers: of a column of numbers, which the form of a sample fills in, class values;
    of a column of text names, or values.
    """
    by_value = {value: index for index, value in enumerate(legend.values)}
    names = () if np.ma.getdata(answers).dtype.kind in "iuf" else legend.names
    # In any case, but where another class has the name in another case.
    folded = Counter(name.casefold() for name in names)
    by_name = {name.casefold(): index for index, name in enumerate(names) if folded[name.casefold()] == 1}
    exact = {name: index for index, name in enumerate(names)}
    found, unknown, doubtful = np.full(len(answers), UNANSWERED), [], []
    for place, answer in enumerate(np.ma.asarray(answers).tolist()):
        # answer != answer: NaN, as formats without NULL hold an empty number.
        text = "" if answer is None or answer != answer else str(answer).strip()
        if not text:
            continue
        named = exact.get(text, by_name.get(text.casefold()))
        try:
            # float: QGIS and CSV give 3 as 3, 3.0 or "3".
            index = by_value.get(float(text), named)
        except ValueError:
            index = named
        if index is None:
            unknown.append(text)
        elif named not in (None, index):
            doubtful.append(text)
        else:
            found[place] = index
    known = ", ".join(f"{c.value} {c.name}" for c in legend.classes)
    if unknown:
        raise BadInput(
            f"{path}: the answers {some(dict.fromkeys(unknown), 5)} in the column {column} are no class of "
            f"the map (known: {known}). Correct them; leave points empty that cannot be interpreted."
        )
    if doubtful:
        raise BadInput(
            f"{path}: the answers {some(dict.fromkeys(doubtful), 5)} in the column of text {column} may be "
            f"the names of classes, or the values of others (known: {known}). Write the values into a column "
            "of whole numbers, as `sample` makes it, and name it with `column`."
        )
    return found
