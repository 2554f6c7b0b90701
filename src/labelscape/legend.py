"""The classes of a map: value, name, colour and description of each, and the conversion of label values to
class indices.

Inside Labelscape a label is a class *index* 0..K-1, with `IGNORE` = 255 for everything that is not labelled.
Label files and finished maps hold class *values*; the legend is the only place that knows both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from labelscape.errors import BadInput, UnknownName
from labelscape.text import is_printable_name, some

IGNORE = 255
"""Index of unlabelled pixels in labels, and nodata of every class map."""

RGB = tuple[int, int, int]

VIRIDIS: tuple[RGB, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours from least to most: matplotlib's viridis at five stops, readable in grey and by the colour-blind.
"""

# Twelve colours that most colour-blind readers can tell apart (Paul Tol's "muted" and "bright" sets).
PALETTE: tuple[RGB, ...] = (
    (204, 102, 119),
    (51, 34, 136),
    (221, 204, 119),
    (17, 119, 51),
    (136, 204, 238),
    (136, 34, 85),
    (68, 170, 153),
    (153, 153, 51),
    (170, 68, 153),
    (238, 119, 51),
    (0, 119, 187),
    (187, 187, 187),
)

# Land-cover maps share conventions: water is blue, forest dark green. Classes of such names follow them.
FAMILIAR: dict[str, RGB] = {
    "water": (43, 108, 196),
    "river": (43, 108, 196),
    "lake": (43, 108, 196),
    "sea": (43, 108, 196),
    "forest": (30, 110, 50),
    "tree": (30, 110, 50),
    "trees": (30, 110, 50),
    "woodland": (30, 110, 50),
    "wood": (30, 110, 50),
    "grassland": (158, 202, 92),
    "meadow": (158, 202, 92),
    "grass": (158, 202, 92),
    "scrub": (140, 150, 60),
    "farmland": (240, 205, 110),
    "farm": (240, 205, 110),
    "cropland": (240, 205, 110),
    "wetland": (110, 190, 180),
    "built-up": (205, 60, 60),
    "building": (205, 60, 60),
    "buildings": (205, 60, 60),
    "residential": (205, 60, 60),
    "urban": (205, 60, 60),
    "road": (90, 90, 90),
    "roads": (90, 90, 90),
    "barren": (190, 170, 150),
    "land": (190, 170, 150),
    "bare": (190, 170, 150),
    "background": (225, 225, 220),
    "other": (225, 225, 220),
}


@dataclass(frozen=True, slots=True)
class LandClass:
    """One class. `value`, 0..254, is its pixel value in maps; `color` is RGB, 0..255."""

    value: int
    name: str
    color: RGB
    description: str = ""


@dataclass(frozen=True)
class Legend:
    """The classes of a map in index order. Raises BadInput for repeated values or names, or values beyond
    254.
    """

    classes: tuple[LandClass, ...]

    def __post_init__(self) -> None:
        for what, items in (("value", self.values), ("name", self.names)):
            twice = {item for item in items if items.count(item) > 1}
            if twice:
                raise BadInput(
                    f"Every class {what} must be unique in a legend; {sorted(twice)} occur more than once."
                )
        unseen = [name for name in self.names if not is_printable_name(name)]
        if unseen:
            # They would go into XML that cannot hold them, and to terminals that obey them.
            raise BadInput(
                f"Class names must be visible characters on one line; found {unseen[0]!r}. Rename the class."
            )
        # 255 is nodata in every map and transparent in its colour table: a class there would disappear.
        wrong = [value for value in self.values if not 0 <= value < IGNORE]
        if wrong:
            raise BadInput(
                f"Class values must lie in 0..254 (255 is 'no label'); found {wrong}. Remap them first."
            )

    @classmethod
    def of_names(
        cls, names: Sequence[str], *, values: Iterable[int] | None = None, colors: Sequence[RGB] | None = None
    ) -> Legend:
        """Make a legend from names; by default values are 0..K-1 and colours the usual ones of land-cover
        maps.
        """
        values = list(values) if values is not None else list(range(len(names)))
        colors = list(colors) if colors is not None else _colors_for(names)
        return cls(
            tuple(
                LandClass(int(v), str(n), tuple(int(x) for x in c))
                for v, n, c in zip(values, names, colors, strict=True)
            )
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def values(self) -> list[int]:
        return [c.value for c in self.classes]

    @property
    def colors(self) -> np.ndarray:
        """(K, 3) uint8."""
        # Without classes (0, 3), not (0,): callers index the columns.
        return np.array([c.color for c in self.classes], np.uint8).reshape(-1, 3)

    def index(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName("class", name, self.names)
        return self.names.index(name)

    def code_of_another(self, value: int) -> str | None:
        """The class that is called by this value (crop codes) and has another one; None where there is none.
        Of a raster without names the value may mean either class.
        """
        return next((c.name for c in self.classes if c.name == str(value) and c.value != value), None)

    def encode(
        self,
        values: np.ndarray,
        *,
        stored: Mapping[str, int] | None = None,
        ignore: Iterable[int] = (IGNORE,),
        where: str = "the labels",
    ) -> np.ndarray:
        """Class values -> uint8 class indices of the same shape; `ignore` values -> 255.

        `stored` maps class names to the values of the label file where those are not the legend's own, as in
        masks of 0 and 255. Raises BadInput naming every value that is neither a class nor ignored.
        """
        index_of = (
            {value: self.index(name) for name, value in stored.items()}
            if stored
            else {v: i for i, v in enumerate(self.values)}
        )
        return encode_values(values, index_of, self.names, ignore=ignore, where=where)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Class indices -> uint8 class values, as stored in maps; 255 stays 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self)] = self.values
        return table[indices]

    def indices(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `decode`: uint8 values of maps -> class indices; 255 for all that is no class."""
        table = np.full(256, IGNORE, np.uint8)
        table[list(self.values)] = np.arange(len(self))
        return table[values]

    def paint(self, indices: np.ndarray, unlabelled: RGB = (255, 255, 255)) -> np.ndarray:
        """Class indices (H, W) -> RGB image, uint8 (H, W, 3), in the legend's colours."""
        table = np.full((256, 3), unlabelled, np.uint8)
        table[: len(self)] = self.colors
        return table[indices]

    def to_json(self) -> str:
        return json.dumps([asdict(c) for c in self.classes])

    @classmethod
    def from_json(cls, text: str) -> Legend:
        return cls(
            tuple(
                LandClass(c["value"], c["name"], tuple(c["color"]), c.get("description", ""))
                for c in json.loads(text)
            )
        )


def css(color: RGB) -> str:
    """A colour as web pages and styles write it: #0a14fa."""
    red, green, blue = (int(part) for part in color)
    assert all(0 <= part <= 255 for part in (red, green, blue)), (
        f"a colour is three numbers 0..255, not {color}"
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def encode_values(
    values: np.ndarray,
    index_of: Mapping[int, int],
    names: Sequence[str],
    *,
    ignore: Iterable[int] = (IGNORE,),
    where: str = "the labels",
) -> np.ndarray:
    """Values -> uint8 class indices of the same shape by a table; `ignore` values that have no class -> 255.

    A value may have the index IGNORE in the table: it is known but not used. Raises BadInput naming
    every value that is neither in the table nor ignored.
    """
    values = np.asarray(values)
    # A class wins: in masks of 0 and 255, 255 is the building, not "no label".
    ignored = set(ignore) - index_of.keys()
    if values.dtype == np.uint8:  # the usual case: looked up byte by byte, not sorted
        raw, known = values.tobytes(), bytes(v for v in range(256) if v in index_of or v in ignored)
        unknown = sorted(set(raw.translate(None, known)))
    else:
        found, inverse = np.unique(values, return_inverse=True)
        # NaN is no class and no error.
        unknown = [v for v in found.tolist() if v not in index_of and v not in ignored and v == v]
    if unknown:
        listed = ", ".join(
            f"{value} {'(not used)' if index == IGNORE else names[index]}"
            for value, index in index_of.items()
        )
        shown = [f"{value:g}" if isinstance(value, float) else value for value in unknown]
        raise BadInput(
            f"{where} hold the value{'s' * (len(unknown) > 1)} {some(shown)}, which no class has "
            f"(known: {listed}). Add the class with `classes`, or name the value with `ignore_values`."
        )
    if values.dtype == np.uint8:
        table = bytes(index_of.get(value, IGNORE) for value in range(256))
        # Of a bytearray: arrays of bytes cannot be written to.
        return np.frombuffer(bytearray(raw).translate(table), np.uint8).reshape(values.shape)
    table = np.array([index_of.get(v, IGNORE) for v in found.tolist()], np.uint8)
    # Versions of numpy differ in whether `inverse` has the shape of the values.
    return table[inverse].reshape(values.shape)


APART = 55
"""Distance in RGB (of 441) below which two colours look alike on a map (ours); PALETTE's differ more."""


def _colors_for(names: Sequence[str]) -> list[RGB]:
    usual = [
        # `water body` is water: where the whole name is unknown, its first word decides.
        FAMILIAR.get(name.lower()) or FAMILIAR.get(name.lower().split()[0] if name.split() else "")
        for name in names
    ]
    # Of two classes with the same usual colour ("lake", "river") only the first gets it.
    chosen = [c if c is not None and c not in usual[:i] else None for i, c in enumerate(usual)]
    taken = [c for c in chosen if c is not None]
    # First those of the same usual colour, which only a shade of it suits: meadows are no red.
    for i in sorted(range(len(names)), key=lambda i: usual[i] is None):
        if chosen[i] is None:
            # Beyond the palette, hues in steps of the golden angle: consecutive classes differ clearly.
            chosen[i] = _first_apart([*_shades(usual[i]), *PALETTE, *map(_hue, range(i, i + 256))], taken)
            taken.append(chosen[i])
    return chosen


def _shades(color: RGB | None) -> list[RGB]:
    """A lighter and a darker one of a colour."""
    if color is None:
        return []
    return [tuple(round(c + (255 - c) * 0.5) for c in color), tuple(round(c * 0.6) for c in color)]


def _first_apart(candidates: Sequence[RGB], taken: Sequence[RGB]) -> RGB:
    """The first colour that looks like none that is taken; where all do, the one that looks least so."""
    if not taken:
        return candidates[0]
    apart = np.linalg.norm(np.array(candidates)[:, None] - np.array(taken), axis=-1).min(1)
    return candidates[int(np.argmax(apart >= APART) if apart.max() >= APART else np.argmax(apart))]


def _hue(i: int) -> RGB:
    import colorsys

    return tuple(
        round(255 * x)
        for x in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55 + 0.3 * (i % 2), 0.9 - 0.25 * (i % 3) / 2)
    )
