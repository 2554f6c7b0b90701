"""Polygons with a class attribute, rasterized on a scene's grid."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from labelscape.errors import BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.labels.base import Labels
from labelscape.labels.rules import (
    ClassTable,
    FoundClasses,
    LabelRules,
    alike,
    class_name,
    renumbered,
    resolve_classes,
)
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.polygons import PolygonIndex, read_polygons
from labelscape.text import some

NO_NAMES = {"null", "none", "nan", "n/a", "#n/a", "<na>", "nil", "unlabeled", "unlabelled"}
"""What tables write, in lower case, where a polygon has no class."""


CONTROL = re.compile(r"[\x80-\x9f]")
"""What bytes of other encodings become as Latin-1, and no text has."""


class PolygonLabels(Labels):
    """Polygons, rasterized where they contain a pixel's centre; where polygons overlap, the later one in the
    file wins.
    """

    def __init__(
        self,
        polygons: PolygonIndex,
        legend: Legend,
        grid: Grid,
        background: int | None,
        report: Sequence[str],
    ) -> None:
        super().__init__(legend, grid, report)
        self.polygons, self._background = polygons, IGNORE if background is None else background

    def _read(self, window: Window) -> np.ndarray:
        # A window at a time: a country's polygons burned over a whole scene would be as large as the scene.
        return self.polygons.burn(window, np.full(window.shape, self._background, np.uint8))


def open_polygon_labels(
    source: str | Path, grid: Grid, rules: LabelRules, table: ClassTable | None, scene_name: str
) -> PolygonLabels:
    """Polygons rasterized on `grid`; their classes come from `table`, else from the file itself.

    Raises BadFile where they cannot be read, UnknownName for a column, layer or class that does not exist,
    BadInput where no polygon with a used class touches the scene.
    """
    import shapely

    # Transformed to the scene's CRS here, once, and not at each window.
    several = table is not None and rules.background is not None
    geometries, attributes, notes = read_polygons(rules.vector(source), grid, may_be_empty=several)
    names = polygon_names(source, attributes, len(geometries), rules)
    notes = (*notes, *(column_report(source, attributes, rules) if len(names) else ()))
    # Only the scene's own polygons are kept: land-cover files cover whole countries.
    inside = shapely.intersects(geometries, shapely.box(*grid.bounds_of(grid.window)))
    if not inside.any():
        elsewhere = _elsewhere(source, geometries, grid, scene_name)
        if not several:
            raise BadInput(elsewhere)
        # Of several scenes some may hold none; whether all do is seen when all are open.
        notes = (*notes, f"{source}: no polygon lies in {scene_name}: all of it is {rules.background}")
        labels = PolygonLabels(
            PolygonIndex(geometries[:0], np.zeros(0, np.uint8), grid),
            table.legend,
            grid,
            table.legend.index(rules.background),
            notes,
        )
        labels.notes, labels.elsewhere = notes, elsewhere
        return labels
    table = table or resolve_classes([found_names(source, names)], rules)
    legend, index_of = table.legend, table.index_of
    # A merge names the classes it wants, and leaves out others on purpose; without one an unknown name is a
    # mistake.
    known = {class_name(name): index for name, index in index_of.items() if isinstance(name, str)}
    # Whole numbers in a column of fractions were called `1.0` by models of earlier versions.
    names = np.array([f"{n}.0" if n not in known and f"{n}.0" in known else n for n in names.tolist()], str)
    strange = sorted({*names.tolist()} - known.keys() - {"", rules.background})
    if strange and not rules.merge:
        raise UnknownName(f"class of the legend (found in {source})", strange[0], legend.names)
    indices = np.array([known.get(name, IGNORE) for name in names], np.uint8)
    used = inside & (indices != IGNORE)
    if not used.any():
        raise BadInput(
            f"The polygons of {source} within {scene_name} are {some(sorted({*names[inside].tolist()}))}; "
            f"none belongs to one of the classes {', '.join(legend.names)}. Check `class_column` and `merge`."
        )
    background = legend.index(rules.background) if rules.background else None
    report = [*notes, *polygon_report(names, known, inside, legend)]
    # Polygons of unused classes are rasterized too, as unlabelled: they are certainly not background.
    inside_scene = PolygonIndex(geometries[inside], indices[inside], grid)
    labels = PolygonLabels(inside_scene, legend, grid, background, report)
    labels.notes, labels.renumbered = notes, renumbered(table, rules)
    return labels


def polygon_classes(source: str | Path, rules: LabelRules) -> FoundClasses:
    """The classes in a polygon file. Raises as `open_polygon_labels` does where it cannot be read."""
    empty = rules.background is not None
    geometries, attributes, _ = read_polygons(rules.vector(source), may_be_empty=empty)
    return found_names(source, polygon_names(source, attributes, len(geometries), rules))


def found_names(source: str | Path, names: np.ndarray) -> FoundClasses:
    """The classes in a file whose polygons have these names."""
    return FoundClasses(str(source), names=tuple(sorted({*names.tolist()} - {""})))


def polygon_names(
    source: str | Path, attributes: Mapping[str, np.ndarray], count: int, rules: LabelRules
) -> np.ndarray:
    """(count,) class name of every polygon, "" where it has none. Raises BadInput where all are empty, or the
    column has to be chosen; UnknownName for a column that does not exist.
    """
    if not count:
        return np.zeros(0, str)
    column = class_column(source, attributes, rules)
    if column is None:
        # Outlines without any column, as drawn around one kind of object, are one class.
        return np.full(count, "labelled")
    values = [_single(value) for value in attributes[column]]
    for stored, value in zip(attributes[column], values):
        if isinstance(value, NO_NAME):
            what = "bytes" if isinstance(value, bytes) else "lists or JSON objects"
            raise BadInput(
                f"The column {column!r} of {source} holds {what} such as {str(stored)[:60]}; one class "
                "name for each polygon was expected. Choose another with `class_column`, or write the names "
                "into one."
            )
    names = np.array([class_name(value) for value in values], dtype=object).astype(str)
    if garbled := next((name for name in names.tolist() if CONTROL.search(name)), None):
        raise BadInput(
            f"{source} has classes such as {garbled!r}: its text is in another encoding than the file (or "
            "its .cpg) declares. Write the right one, such as 1250, 1251 or SHIFT_JIS, into a file of the "
            "same name with .cpg at its end, or save it as .gpkg in a GIS with that encoding chosen."
        )
    if not names.astype(bool).any():
        raise BadInput(
            f"The column {column!r} of {source} is empty for all {count:,} polygons; choose another with "
            "`class_column`."
        )
    return names


NO_NAME = (list, dict, bytes)
"""Kinds of values, after `_single`, that name no class."""


def _single(value: object) -> object:
    """A value of a column; of a list with one item that item, of JSON what it says, of bytes their text."""
    if isinstance(value, bytes):
        # Some writers of Parquet store text without saying that it is text.
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:  # a name in brackets
            return value
    elif isinstance(value, np.ndarray) and value.ndim:  # an empty cell is one without a dimension
        value = value.tolist()
    if isinstance(value, list) and len(value) < 2:
        return value[0] if value else None
    return value


def _may_be_text(values: np.ndarray) -> bool:
    """May a column name classes? One of lists or bytes that no text is does not."""
    return values.dtype == object and not any(isinstance(_single(v), NO_NAME) for v in values)


def column_report(source: str | Path, attributes: Mapping[str, np.ndarray], rules: LabelRules) -> list[str]:
    """Lines on the column with the classes, where it was not named, and on names that are almost the same."""
    column = class_column(source, attributes, rules)
    if column is None:
        return [f"{source} has no column: all its polygons are one class, `labelled`"]
    lines = []
    if rules.class_column is None:
        lines.append(f"{source}: the classes are those of the column {column!r} (choose with `class_column`)")
    spelled: dict[str, set[str]] = {}
    for value in map(_single, attributes[column]):
        if isinstance(value, str):
            spelled.setdefault(class_name(value), set()).add(value)
    for name, ways in spelled.items():
        if name and len(ways) > 1:
            shown = ", ".join(sorted(map(repr, ways)))
            lines.append(
                f"{source}: {shown} are one class, {name!r}: they differ only in blanks or in how accents "
                "are stored"
            )
    for name in spelled:
        if name.lower() in NO_NAMES:
            lines.append(
                f"{source}: {name!r} is read as a class; if it means 'no class', empty these cells, or leave "
                "it out with `merge`"
            )
    if fuller := fuller_columns(attributes, column):
        lines.append(
            f"{source}: most polygons have no value in the column {column!r}; full are {', '.join(fuller)} "
            "(choose with `class_column`)"
        )
    for group in alike(spelled):
        lines.append(
            f"{source}: {' and '.join(map(repr, group))} are {len(group)} classes; if they are meant to be "
            "one, join them with `merge`"
        )
    return lines


def fuller_columns(attributes: Mapping[str, np.ndarray], column: str) -> list[str]:
    """Where most polygons have no value in the column of the classes: columns of text that are full, and have
    no more names than a legend. One of them was probably meant.
    """

    def names(of: str) -> list[str]:
        return [class_name(_single(value)) for value in attributes[of]]

    here = names(column)
    if 2 * here.count("") <= len(here):
        return []
    return [
        other
        for other, values in attributes.items()
        if other != column and values.dtype == object
        # Numbers of parcels have a value for each polygon.
        if "" not in (found := set(names(other))) and 2 <= len(found) < min(IGNORE, len(here))
    ]


def _elsewhere(source: str | Path, geometries: np.ndarray, grid: Grid, scene_name: str) -> str:
    import shapely

    if not len(geometries):
        return f"{source} is empty: its layer has no features; polygons were expected."
    # Both in the scene's CRS: a shift by a zone or swapped axes can be seen from the numbers.
    left, bottom, right, top = shapely.total_bounds(geometries)
    west, south, east, north = grid.bounds_of(grid.window)
    return (
        f"None of the {len(geometries):,} polygons of {source} intersects {scene_name}: in the scene's CRS "
        f"the polygons cover x {left:.6g} to {right:.6g}, y {bottom:.6g} to {top:.6g}, the scene x "
        f"{west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}. Check the CRS of both."
    )


def polygons_read(count: int) -> str:
    """How many polygons were read, as messages have it."""
    return f"{count:,} polygon{'s' if count != 1 else ''} read"


def polygon_report(
    names: np.ndarray, index_of: Mapping[str, int], inside: np.ndarray, legend: Legend
) -> list[str]:
    """One line per class name in the file: polygons read, within the scene, outside, and the class they
    become.
    """
    lines = []
    for name in sorted({*names.tolist()}):
        mine, index = names == name, index_of.get(name, IGNORE)
        fate = "not used" if index == IGNORE else f"-> {legend.names[index]}"
        lines.append(
            f"{name or '(no class)'}: {polygons_read(mine.sum())}, {(mine & inside).sum():,} in the scene, "
            f"{(mine & ~inside).sum():,} outside {fate}"
        )
    return lines


def _check_no_identifier(source: str | Path, column: str, values: np.ndarray) -> None:
    """Raises BadInput for a column that nobody named where every polygon has a value of its own: each would
    be a class.
    """
    # So many polygons with a class each for itself are rare; numbers of parcels are not (ours).
    if len(values) > 10 and len({class_name(value) for value in values}) == len(values):
        raise BadInput(
            f"The only column of text in {source}, {column!r}, has another value for each of the "
            f"{len(values):,} polygons. If it names the class all the same, pass `class_column`."
        )


def class_column(source: str | Path, attributes: Mapping[str, np.ndarray], rules: LabelRules) -> str | None:
    """The column with the class names: the one asked for, one with a common name, or the only text column;
    None for a file without columns. Raises BadInput where there are several to choose from, UnknownName for
    one that does not exist.
    """
    if rules.class_column:
        if rules.class_column not in attributes:
            raise UnknownName(f"column of {source}", rules.class_column, attributes)
        return rules.class_column
    for familiar in (
        # Of a review file, whose `class` is what a map says.
        "class_right",
        "class",
        "classname",
        "class_name",
        "label",
        "fclass",
        "landuse",
        "landcover",
        "land_cover",
    ):
        for column in attributes:
            if column.lower() == familiar:
                return column
    # Of several text columns none is guessed: a wrong one would train on the names of streets.
    text = [name for name, values in attributes.items() if _may_be_text(values)]
    if len(text) == 1:
        _check_no_identifier(source, text[0], attributes[text[0]])
        return text[0]
    if not attributes:
        return None
    raise BadInput(
        f"Which column of {source} names the class? Pass `class_column` with one of: {', '.join(attributes)}."
    )
