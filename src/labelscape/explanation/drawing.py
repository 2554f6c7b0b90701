"""Figures and pictures that several analyses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labelscape.evaluation.sections import VIRIDIS, ColourBar, Picture, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#1f2933", "#9aa5b1", "#e4e7eb"
COLOURS = ("#0b61a4", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#0e7490", "#be185d", "#4b5563")


def blank(width: float, height: float) -> Figure:
    """An empty white figure, in inches of 100 screen pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot's, which would show it in the caller's notebook too.
    figure = Figure((width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, across: str = "", up: str = "", title: str = "") -> None:
    """Labels and quiet lines, as other figures of the reports have them."""
    axes.tick_params(labelsize=8, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for text, put in ((across, axes.set_xlabel), (up, axes.set_ylabel), (title, axes.set_title)):
        # Names of classes and bands are the user's: a "$" in them starts no formula.
        put(text, fontsize=9, color=INK, parse_math=False)


def bars_with_dots(axes: Axes, labels: Sequence[str], values: np.ndarray, colour: str) -> None:
    """Means over the first axis of `values` (W, n) as bars, each window a dot."""
    places = np.arange(values.shape[1])
    axes.bar(places, values.mean(0), color=colour, alpha=0.45, width=0.7)
    # Spread a little, in the order of the windows: dots of like values would hide each other.
    spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
    for shift, row in zip(spread, values):
        axes.plot(places + shift, row, ".", color=colour, markersize=3)
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)


def marked(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture (h, w, 3) with a square around a pixel, white within black, to be seen on any ground."""
    framed = picture.copy()
    for half, shade in ((4, 0), (3, 255)):
        rows, columns = (slice(max(0, at - half), at + half + 1) for at in (row, column))
        framed[rows, columns] = shade
    inside = tuple(slice(max(0, at - 2), at + 3) for at in (row, column))
    framed[inside] = picture[inside]
    return framed


def heat(
    values: np.ndarray, title: str, text: str, *, low: float | None = None, high: float | None = None
) -> Picture:
    """A map (h, w) in shades of VIRIDIS between `low` and `high`, by default its own extremes."""
    known = values[np.isfinite(values)]
    low = float(known.min()) if low is None else low
    high = float(known.max()) if high is None else high
    shown = shades((values - low) / ((high - low) or 1.0))
    middle = f"{(low + high) / 2:.3g}"
    return Picture(title, shown, text, title, bar=ColourBar(VIRIDIS, (f"{low:.3g}", middle, f"{high:.3g}")))
