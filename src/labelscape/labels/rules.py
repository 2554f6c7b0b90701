"""What labels mean: the rules a user gives, and how raster values and polygon names become classes.

`resolve_classes` combines the classes found in each label file (`FoundClasses`) into one `ClassTable` for all
files, so that a class missing in one file keeps its index.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.errors import BadInput, UnknownName, WrongType, check_names, joined
from labelscape.labels.class_names import called
from labelscape.legend import IGNORE, RGB, Legend
from labelscape.scenes.vectors import VectorSource
from labelscape.text import some


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """How label files are read."""

    legend: Legend | None = None
    """The classes; None takes them from the files: the values of rasters, the class names of polygons."""
    classes: Mapping[str, int] | None = None
    """Class name -> its value in label rasters, where that differs from the legend's. Without a legend and a
    merge, these are the classes, in this order."""
    class_column: str | None = None
    """The column of a polygon file with the class names; needed where there are several text columns."""
    layer: str | None = None
    """The layer of polygon files with the labels; by default the first."""
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """New class -> the classes merged into it ("woodland": ("forest", "scrub")); other classes become
    unlabelled."""
    background: str | None = None
    """Class of the pixels that no polygon covers; None leaves them unlabelled."""
    area: str | None = None
    """File of polygons within which the labels are complete; pixels outside are unlabelled."""
    ignore_values: tuple[int, ...] = ()
    """Values of label rasters that mean "not labelled", in addition to the file's nodata and 255."""
    threshold: int | None = None
    """For label rasters that are grey masks of two classes: values from this one on are the second class,
    lower ones the first."""

    def __new__(cls, *unnamed: object, **given: object) -> LabelRules:
        # Before the generated __init__, whose TypeError would name no setting that was meant.
        if unnamed:
            raise WrongType("LabelRules takes its settings by name, such as LabelRules(class_column='crop').")
        check_names("setting of LabelRules", given, (f.name for f in fields(cls)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, (fits, wanted) = getattr(self, setting.name), _WANTED[setting.name]
            if not (fits(value) or value is setting.default):
                raise WrongType(f"`{setting.name}` must be {wanted}; found {repr(value)[:80]}.")

    @classmethod
    def of(cls, given: LabelRules | Mapping[str, Any]) -> LabelRules:
        """Rules as they are, or made of a mapping of settings. Raises WrongType for anything else."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise WrongType(
                f"spec must be a LabelRules or a mapping of its settings; found a {type(given).__name__}."
            )
        # A key that is no text cannot be passed by name, and is an unknown name then.
        return cls(**{str(name): value for name, value in given.items()})

    @property
    def known_legend(self) -> Legend | None:
        """The classes, where the rules alone name them; None where the files must be read."""
        if self.legend is not None or not self.classes or self.merge:
            return self.legend
        # Values beyond a byte cannot be a map's: such classes are numbered from 0 in the map.
        own_values = all(0 <= value < IGNORE for value in self.classes.values())
        return Legend.of_names(list(self.classes), values=self.classes.values() if own_values else None)

    def vector(self, source: str | Path) -> VectorSource:
        """A polygon file of labels, with its layer."""
        named = VectorSource.of(source)
        return VectorSource(named.path, self.layer or named.layer)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _all_are(kind: Callable[[object], bool], values: object) -> bool:
    return isinstance(values, Collection) and not _is_text(values) and all(map(kind, values))


def _maps_text(values: object, to: Callable[[object], bool]) -> bool:
    return isinstance(values, Mapping) and _all_are(_is_text, values) and _all_are(to, values.values())


_WANTED: dict[str, tuple[Callable[[object], bool], str]] = {
    "legend": (
        lambda value: isinstance(value, Legend),
        "a labelscape.Legend, such as Legend.of_names(['water', 'forest'])",
    ),
    "classes": (
        partial(_maps_text, to=_is_whole),
        "class name -> its value in label rasters, such as {'water': 1}",
    ),
    "class_column": (_is_text, "the name of a column"),
    "layer": (_is_text, "the name of a layer"),
    "merge": (
        partial(_maps_text, to=partial(_all_are, _is_text)),
        "new class -> the classes merged into it, such as {'woodland': ['forest', 'scrub']}",
    ),
    "background": (_is_text, "the name of a class"),
    "area": (lambda value: isinstance(value, (str, PathLike)), "the path of a file of polygons"),
    "ignore_values": (partial(_all_are, _is_whole), "whole numbers, such as (0, 255)"),
    "threshold": (_is_whole, "a whole number"),
}
"""Setting -> whether a value can be it, and what can. From Python anything may come: found here, it is not an
error somewhere inside."""


SETTINGS = tuple(f.name for f in fields(LabelRules) if f.name != "legend")
"""The rules that a recipe stores and the command line offers, under the same names."""


FOR_RASTERS, FOR_POLYGONS = ("ignore_values", "threshold"), ("class_column", "layer", "background")
"""Rules that mean something to one kind of label files only."""


def without_effect(rules: LabelRules, *, rasters: bool, polygons: bool) -> list[str]:
    """A line for each rule that was given and means nothing to the label files that there are."""
    unused = () if rasters else FOR_RASTERS
    unused += () if polygons else FOR_POLYGONS
    kinds = ("label rasters", "polygons")
    return [
        f"`{name}` has no effect: it is for {kinds[name in FOR_POLYGONS]}, and the labels are "
        f"{kinds[name in FOR_RASTERS]}"
        for name in unused
        if getattr(rules, name) not in (None, ())
    ]


def LabelSpec(
    legend: Legend | None = None,
    values: Mapping[str, int] | None = None,
    class_column: str | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    background: str | None = None,
    area: str | None = None,
    ignore_values: tuple[int, ...] = (),
    threshold: int | None = None,
) -> LabelRules:
    """`LabelRules` by its earlier name and order of arguments, for programs written against those."""
    return LabelRules(
        legend=legend,
        classes=values,
        class_column=class_column,
        merge=merge or {},
        background=background,
        area=area,
        ignore_values=ignore_values,
        threshold=threshold,
    )


WITHOUT_WIDTH = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))
"""Characters that nothing shows: a blank and a joint without width, the byte order mark, the soft hyphen."""


def class_name(value: object) -> str:
    """The class name that a value of a column stands for, "" for none.

    Whole numbers have no decimals, because a column of whole numbers with an empty cell is read as
    fractions. Blanks around a name, repeated blanks, characters without width (such as the mark that Excel
    begins a file with), and the two ways of writing an accent in Unicode cannot be seen, and make no other
    class; upper and lower case do.
    """
    if value is None or value is np.ma.masked or value != value:  # NaN, and dates that are empty
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return " ".join(unicodedata.normalize("NFC", str(value).translate(WITHOUT_WIDTH)).split())


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of class names that differ in case or the width of their letters only, or as numbers do not
    differ at all (`1` and `01`).
    """
    groups: dict[object, list[str]] = {}
    for name in dict.fromkeys(names):
        number = re.fullmatch(r"[+-]?\d+(\.\d*)?", name)
        groups.setdefault(
            float(name) if number else unicodedata.normalize("NFKC", name).casefold(), []
        ).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class FoundClasses:
    """The classes found in one label file."""

    source: str
    values: tuple[int, ...] = ()
    """Values of a raster, ascending, without those that mean "not labelled"; empty where they were not
    needed."""
    names: tuple[str, ...] | None = None
    """Class names of polygons, ascending; None for a raster."""
    colors: tuple[RGB, ...] | None = None
    """Colours of `values` in the file's colour table, where it has them all."""
    called: Mapping[int, str] = field(default_factory=dict)
    """Names of `values` that are stored with the file (`labels.class_names`)."""
    met: tuple[int, ...] = ()
    """All values of a raster, those that mean "not labelled" too."""


def too_few_classes(names: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with the classes to be learned, and what to do; None where there are at least two."""
    if len(names) > 1:
        return None
    return (
        f"The labels have one class only, {', '.join(names) or 'none'}; a network needs at least two.",
        "Name what no polygon covers with `background='other'` (and with `area` where polygons are "
        "complete), or label a second class.",
    )


@dataclass(frozen=True)
class ClassTable:
    """The classes of all label files together.

    index_of  raster value (int) or polygon class name (str) -> index in the legend; IGNORE for values that
              are known and not used
    called    value of label rasters -> its name, before any merge; empty where no file was read
    doubts    sentences on what the files may have been meant to be
    """

    legend: Legend
    index_of: Mapping[int | str, int]
    called: Mapping[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def index_of_value(self) -> dict[int, int]:
        return {key: index for key, index in self.index_of.items() if not isinstance(key, str)}


def resolve_classes(found: Sequence[FoundClasses], rules: LabelRules) -> ClassTable:
    """The classes of several label files together: rasters, polygons or both.

    A class may be absent from some files, and from all of them where `rules.legend` names the classes (as a
    trained model does). Raises BadInput where no file has a labelled pixel, where rasters and polygons have
    different classes, or where a class is merged twice; UnknownName for a class to be merged that no file
    has.
    """
    rasters = [f for f in found if f.names is None]
    if rules.merge:
        # Typed as they stand in the file, blanks included, or as they are shown.
        merge = {new: tuple(dict.fromkeys(map(class_name, olds))) for new, olds in rules.merge.items()}
        classes = {class_name(name): value for name, value in (rules.classes or {}).items()}
        rules = replace(rules, merge=merge, classes=classes or None)
    # Of a mask's values nothing is asked: the threshold makes its two classes.
    if rules.threshold is not None and rasters:
        legend = mask_legend(rules)
    elif rules.merge:
        return _merged(found, rules)
    else:
        legend = rules.known_legend or _found_legend(found, rules)
    # Names and values both lead to a class, so that rasters and polygons can be mixed.
    stored = rules.classes or dict(zip(legend.names, legend.values))
    index_of = {**{v: legend.index(name) for name, v in stored.items()}, **_indices(legend.names)}
    return ClassTable(legend, index_of, _called(rasters))


def renumbered(table: ClassTable, rules: LabelRules) -> str:
    """A line on the values that classes have in maps, where the labels have others: raster values that were
    merged, cut by a threshold or are no bytes, and polygons' classes that are called by numbers. Else "".
    """
    legend, olds = table.legend, {}
    for value, index in table.index_of_value.items():
        olds.setdefault(index, []).append(value)
    if rules.threshold is not None:
        said = [f"below {rules.threshold}", f"{rules.threshold} and more"]
    elif any(olds.get(i, [v]) != [v] for i, v in enumerate(legend.values)):
        said = [some(olds.get(i, []), 4) for i in range(len(legend))]
    elif any(c.name.isdecimal() and int(c.name) != c.value for c in legend.classes):
        return f"values in maps are not the classes' own numbers: {some(_mapped(legend), 12)}"
    else:
        return ""
    shown = [f"{own}{f' (labels: {old})' if old else ''}" for own, old in zip(_mapped(legend), said)]
    return f"values in maps are not those of the labels: {some(shown, 12)}"


def _mapped(legend: Legend) -> list[str]:
    return [f"{c.value} {c.name}" for c in legend.classes]


def _indices(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _found_legend(found: Sequence[FoundClasses], rules: LabelRules) -> Legend:
    """Classes as found in the files: the stored name of each raster value, else `class 7`; the names of
    polygons.
    """
    rasters, polygons = [f for f in found if f.names is None], [f for f in found if f.names is not None]
    legends = []
    if rasters:
        _check_colours(rasters)
        values = _values_of(rasters)
        # The colour tables of several files may disagree; only that of a single file is used.
        colors = rasters[0].colors if len(rasters) == 1 else None
        legends.append(Legend.of_names(called(values, _called(rasters)), values=values, colors=colors))
    if polygons:
        names = sorted({name for f in polygons for name in f.names})
        if len(_with_background(names, rules)) > IGNORE:
            raise BadInput(
                f"The polygons have {len(names)} classes ({', '.join(names[:3])}, ...); a class map holds up "
                f"to {IGNORE}, background included. Join them with `merge`, or choose another `class_column`."
            )
        legends.append(Legend.of_names(_with_background(names, rules)))
    # `class 7` and `forest` cannot be matched without the user: a wrong guess would train silently.
    if len(legends) == 2 and {*legends[0].names} != {*legends[1].names}:
        raise BadInput(
            f"The label rasters have the classes {', '.join(legends[0].names)}, the polygons "
            f"{', '.join(legends[1].names)}. Name all classes with `classes`."
        )
    return legends[0]


def _called(rasters: Sequence[FoundClasses]) -> dict[int, str]:
    """The stored names of raster values. Raises BadInput where two files name one value differently."""
    first: dict[int, tuple[str, str]] = {}
    for file in rasters:
        for value in file.values:
            # A file without a name for a value says nothing against that of another file.
            if not (name := class_name(file.called.get(value, ""))):
                continue
            other, source = first.setdefault(value, (name, file.source))
            if other != name:
                raise BadInput(
                    f"The value {value} is called {other!r} in {source} and {name!r} in {file.source}. "
                    "Give the classes the same values in all files; if they have them, and only the names "
                    "differ, name them with `classes`."
                )
    return {value: name for value, (name, _) in first.items()}


def _check_colours(rasters: Sequence[FoundClasses]) -> None:
    """Raises BadInput where one value has different colours in several files: programs that give every
    picture a colour table of its own number the colours anew in each.
    """
    first: dict[int, tuple[RGB, str]] = {}
    for file in rasters:
        for value, color in zip(file.values, file.colors or ()):
            other, source = first.setdefault(value, (color, file.source))
            if other != color:
                raise BadInput(
                    f"The value {value} is the colour {other} in {source} and {color} in {file.source}: "
                    "their colour tables number the classes differently. Convert the colours to class values "
                    "that are the same in all files; if the values are, and only the colours differ, name "
                    "them with `classes`."
                )


def _values_of(rasters: Sequence[FoundClasses]) -> list[int]:
    """The values of label rasters, ascending. Raises BadInput where there is none."""
    values = sorted({value for f in rasters for value in f.values})
    if not values and len(rasters) == 1:
        raise BadInput(f"{rasters[0].source} has no labelled pixel: every pixel is nodata or 255.")
    if not values:
        raise BadInput(
            f"None of the {len(rasters)} label files has a labelled pixel: every pixel is nodata or 255."
        )
    return values


def _with_background(names: Sequence[str], rules: LabelRules) -> list[str]:
    """Class names of polygons, the background class first."""
    # First, so that its index is 0 whatever classes a later file adds.
    return ([rules.background] if rules.background and rules.background not in names else []) + list(names)


def _merged(found: Sequence[FoundClasses], rules: LabelRules) -> ClassTable:
    """New classes merged from those of the files; classes that are not merged become unlabelled."""
    rasters = [f for f in found if f.names is None]
    polygon_names = sorted({name for f in found for name in f.names or ()})
    stored: dict[str, int] = {}
    if rasters:
        if not rules.classes:
            _check_colours(rasters)
        # Unnamed values get the names that the user sees in reports, and merges by: `class 7`.
        values = () if rules.classes else _values_of(rasters)
        stored = dict(rules.classes or zip(called(values, _called(rasters)), values))
    known = dict.fromkeys([*stored, *polygon_names])
    # Whoever counts the values may call them so although the file has names for them.
    by_value = {
        called: name for name, value in stored.items() for called in (str(value), f"class {value}")
    } | {name: name for name in known}
    olds_of = {new: joined(olds, known.__contains__) for new, olds in rules.merge.items()}
    merge = {new: tuple(by_value.get(old, old) for old in olds) for new, olds in olds_of.items()}
    rules = replace(rules, merge=merge)
    _check_merge(known, rules, polygons=bool(polygon_names))
    merged = {old for olds in rules.merge.values() for old in olds}
    # What a trained model is evaluated on may lack its classes; else the raster would be read as nothing.
    if rasters and rules.legend is None and not stored.keys() & merged:
        raise BadInput(
            f"No value of {rasters[0].source} belongs to a merged class: its classes are "
            f"{', '.join(stored)}. Merge these too, or name its values with `classes`."
        )
    legend = rules.legend or Legend.of_names(
        _with_background(list(rules.merge), rules) if polygon_names else list(rules.merge)
    )
    # Known and unused: a value missing here altogether would be refused as one without a class.
    index_of: dict[int | str, int] = {value: IGNORE for value in stored.values()}
    for new, olds in rules.merge.items():
        for old in olds:
            index_of[old] = legend.index(new)
            if old in stored:
                index_of[stored[old]] = legend.index(new)
    return ClassTable(legend, index_of, {value: name for name, value in stored.items()})


def _check_merge(known: Iterable[str], rules: LabelRules, *, polygons: bool) -> None:
    """Raises UnknownName for an old class that does not exist, BadInput for one that is used twice."""
    known, used = list(known), Counter(old for olds in rules.merge.values() for old in olds)
    for old in used:
        # Labels that a trained model is evaluated on may lack a class. A name that rasters cannot have (they
        # only have `class N`) is a mistake even then.
        absent = rules.legend is not None and (
            polygons or (not rules.classes and re.fullmatch(r"(class )?\d+", old))
        )
        if old not in known and not absent:
            raise UnknownName("class in the labels", old, known)
    twice = [name for name, times in used.items() if times > 1]
    if twice:
        raise BadInput(f"The class {twice[0]!r} is merged into two classes; merge it into one only.")


def mask_legend(rules: LabelRules) -> Legend:
    """The two classes of grey masks. Raises BadInput for another number of classes."""
    legend = rules.known_legend or Legend.of_names(["other", "object"])
    if len(legend) != 2:
        raise BadInput(
            f"`threshold` makes two classes, but {len(legend)} are named ({', '.join(legend.names)}). Name "
            "two: `classes={'other': 0, 'road': 1}`."
        )
    return legend
