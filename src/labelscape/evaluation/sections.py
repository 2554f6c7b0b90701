"""What sections of a report are made of: paragraphs, tables, pictures and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.evaluation.embedding import data_address, picture_address
from labelscape.legend import RGB, VIRIDIS, css

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

GENTLE_SIDE = 500
"""Pictures smaller than this, in pixels, are enlarged with sharp pixels instead of being smoothed."""
Chip = tuple[str, RGB]
"""A name and its colour, as legends show them."""


@dataclass(frozen=True)
class ColourBar:
    """A colour bar: colours and labels from left to right at equal distances."""

    colors: tuple[RGB, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An image, uint8 (H, W, 3), with title and caption; `alt` is for screen readers. A legend or a colour
    bar is shown below it.
    """

    title: str
    pixels: np.ndarray
    caption: str = ""
    alt: str = ""
    legend: tuple[Chip, ...] = ()
    bar: ColourBar | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of matplotlib with title and caption; `alt` is for screen readers."""

    title: str
    drawing: Drawing
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under their heads, the first cell of each row its name. Columns numbered in `texts` hold
    sentences, which wrap; the others hold numbers.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    texts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of a report, in this order; `parts` are sections in it, and `notes` close it."""

    title: str
    text: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    parts: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()


def section_values(section: Section) -> dict[str, Any]:
    """What the page's template takes of a section."""
    return {
        "title": section.title,
        "text": section.text,
        "pictures": [picture_values(picture) for picture in section.pictures],
        "figures": [_figure_values(figure) for figure in section.figures],
        "tables": section.tables,
        "parts": [section_values(part) for part in section.parts],
        "notes": section.notes,
    }


def has_pictures(section: Section) -> bool:
    return bool(section.pictures or section.figures) or any(map(has_pictures, section.parts))


def picture_values(picture: Picture) -> dict[str, Any]:
    """What the page's template takes of a picture."""
    bar = picture.bar and {
        "gradient": ", ".join(css(color) for color in picture.bar.colors),
        "labels": picture.bar.labels,
    }
    return {
        "title": picture.title,
        "caption": picture.caption,
        "alt": picture.alt or picture.title,
        "source": picture_address(picture.pixels),
        "crisp": max(picture.pixels.shape[:2]) < GENTLE_SIDE,
        "legend": chips(picture.legend),
        "bar": bar,
        # Tall pictures are limited to the window's height, so that they can be seen as a whole.
        "aspect": round(picture.pixels.shape[1] / picture.pixels.shape[0], 4),
    }


def _figure_values(figure: Figure) -> dict[str, Any]:
    # Imported late: a report without figures needs no matplotlib.
    from labelscape.evaluation.figures import png

    drawn = png(figure.drawing)
    return {
        "title": figure.title,
        "caption": figure.caption,
        "alt": figure.alt or figure.title,
        "source": data_address(drawn),
        "width": drawn_width(drawn),
    }


def drawn_width(png: bytes) -> int:
    """Width in screen pixels of a figure: from the PNG's header, which has 2 pixels for each."""
    return int.from_bytes(png[16:20], "big") // 2


def chips(legend: Sequence[Chip]) -> list[tuple[str, str]]:
    return [(name, css(color)) for name, color in legend]


def shades(shares: np.ndarray) -> np.ndarray:
    """Shares (...) from 0 to 1 as colours of VIRIDIS, uint8 (..., 3); white for NaN."""
    level = np.clip(np.nan_to_num(shares), 0, 1) * (len(VIRIDIS) - 1)
    stops = np.array(VIRIDIS, float)
    colours = np.stack([np.interp(level, range(len(VIRIDIS)), stops[:, c]) for c in range(3)], axis=-1)
    colours[np.isnan(shares)] = 255
    return colours.astype(np.uint8)
