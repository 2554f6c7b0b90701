"""Figures of the report, drawn by matplotlib without a display and without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
LINES = ("#0b61a4", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#0e7490", "#be185d", "#4b5563")

NUMBERED = 25
"""Classes up to which cells have numbers; beyond, they would be too small to read."""

SHARED = 12
"""Classes up to which cells have room for the share below the count."""

LONGEST_NAME = 22


def confusion_figure(
    names: Sequence[str], counts: np.ndarray, unpredicted: np.ndarray | None = None
) -> Figure:
    """Plot a confusion matrix (K, K), rows truth: colour is the share of the row, numbers are pixels (up to
    25 classes).

    Labelled pixels without a prediction, `unpredicted` (K,), are a last column and count in the row's total.
    Rows without pixels are grey.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    columns = _labels(names, "class")
    rows = columns[: len(names)]
    # An empty column would only make the cells smaller.
    if unpredicted is not None and np.any(unpredicted):
        counts, columns = np.column_stack([counts, unpredicted]), [*columns, "no class"]
    totals = counts.sum(axis=1, keepdims=True)
    # NaN for rows without pixels: drawn grey, not as 0 %.
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    cell = 0.72 if len(names) <= SHARED else 0.5 if len(names) <= NUMBERED else 8 / len(names)
    figure = blank(1.9 + cell * len(columns), 1.6 + cell * len(rows))
    axes = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list(
        "shares", ["#ffffff", "#b9d3ea", "#4b8bc2", "#0b4f8a"]
    ).with_extremes(bad="#e4e7eb")
    # Without numbers a confusion of one in fifty must be visible by its colour: a square-root scale.
    scaling = PowerNorm(0.5 if len(names) > NUMBERED else 1, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=colours, norm=scaling, aspect="equal", interpolation="nearest")
    size = 8.5 if len(names) <= 40 else 6.5
    # Class names are the user's text: a "$" in them does not start a formula.
    slant = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        if len(names) <= SHARED
        else {"rotation": 90}
    )
    axes.set_xticks(range(len(columns)), columns, fontsize=size, parse_math=False, **slant)
    axes.set_yticks(range(len(rows)), rows, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    axes.set_ylabel("true class", fontsize=9, color=INK)
    axes.spines[:].set_visible(False)
    # Minor ticks lie between cells: matplotlib draws grids at ticks, which are at the cells' middles.
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e7eb", linewidth=0.6 if len(names) <= NUMBERED else 0.2)
    axes.tick_params(which="minor", length=0)
    if len(names) <= NUMBERED:
        _write_cells(axes, counts, shares)
    if len(names) > SHARED:
        scale = figure.colorbar(
            image, ax=axes, fraction=0.03, pad=0.02, ticks=[0, 0.1, 0.5, 1], format="{x:.0%}"
        )
        scale.outline.set_visible(False)
        scale.ax.tick_params(labelsize=8, length=0)
    return figure


def _write_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    with_shares = len(counts) <= SHARED
    for (row, column), pixels in np.ndenumerate(counts):
        share = shares[row, column]
        # White on the darker half of the scale.
        colour = FAINT if not pixels else "white" if share > 0.55 else INK
        text = short(int(pixels)) + (f"\n{100 * share:.1f} %" if with_shares and pixels else "")
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color=colour,
            fontsize=8 if with_shares else 6.5,
            linespacing=1.25,
        )


def short(pixels: int) -> str:
    """Abbreviate a count: 9,999 in full; above, three digits: 12.3k, 1.23M, 45.6G."""
    if pixels < 10_000:
        return f"{pixels:,}"
    for unit in "kMGT":
        pixels /= 1000
        # 999.5k would round to a fourth digit.
        if pixels < 999.5 or unit == "T":
            return f"{pixels:.{2 if pixels < 9.995 else 1 if pixels < 99.95 else 0}f}{unit}"
    raise AssertionError("no unit left")


MANY = 5
"""Curves, at most, whose names stand within the axes."""


def curve_figure(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], quantity: str) -> Figure:
    """Plot curves (label, steps, values) of one quantity, with gaps where a value is not finite."""
    figure = blank(5.6, 3.1)
    axes = figure.add_subplot()
    lines, labels = [], []
    for number, (label, steps, values) in enumerate(curves):
        style = {
            "color": LINES[number % len(LINES)],
            "linestyle": ("-", "--", ":", "-.")[number // len(LINES) % 4],
        }
        values = np.array([np.nan if value is None else value for value in values], float)
        # Few points are shown as measurements, which a line alone would hide.
        marker = "o" if len(values) <= 30 else None
        lines += axes.plot(
            steps,
            np.where(np.isfinite(values), values, np.nan),
            linewidth=1.4,
            marker=marker,
            markersize=3,
            **style,
        )
        labels.append(label)
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel(quantity, fontsize=9, color=INK, parse_math=False)
    plain_axes(axes)
    axes.margins(x=0.02)
    if len(labels) > 1:
        # Within the axes a long list would lie on the curves.
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if len(labels) > MANY else {}
        # A leading blank: older matplotlib hides labels that start with "_".
        names = [f" {label}" for label in _labels(labels, "curve")]
        box = axes.legend(lines, names, fontsize=8, frameon=False, **beside)
        for text in box.get_texts():
            text.set_parse_math(False)
    return figure


def reliability_figure(curves: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Plot accuracy against confidence, (label, (BINS, 3) of `Reliability.curve`), above the share of pixels
    by confidence. The diagonal is what calibrated confidences have.
    """
    figure = blank(4.6, 4.9)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    edges = np.linspace(0, 1, len(curves[0][1]) + 1) if curves else np.array([0, 1])
    for number, (label, curve) in enumerate(curves):
        confidence, accuracy, share = curve.T
        known = ~np.isnan(confidence)
        colour = LINES[number % len(LINES)]
        line = {"color": colour, "linewidth": 1.4, "marker": "o", "markersize": 3.5}
        axes.plot(confidence[known], accuracy[known], label=f" {label}", **line)
        below.stairs(100 * np.nan_to_num(share), edges, color=colour, linewidth=1.4)
    axes.set_ylabel("share that is right", fontsize=9, color=INK)
    below.set_ylabel("% of pixels", fontsize=9, color=INK)
    below.set_xlabel("confidence", fontsize=9, color=INK)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, 1)
    for one in (axes, below):
        plain_axes(one)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def steps_figure(
    names: Sequence[str], values: Sequence[float | None], across: str, up: str, mark: int | None = None
) -> Figure:
    """Plot a value, from 0 up, over named steps at equal distances, with gaps where it is None; a dashed line
    stands at the step `mark`.
    """
    figure = blank(5.6, 3.1)
    axes = figure.add_subplot()
    known = np.array([np.nan if value is None else value for value in values], float)
    axes.plot(range(len(names)), known, color=LINES[0], linewidth=1.4, marker="o", markersize=4)
    if mark is not None:
        axes.axvline(mark, color=LINES[1], linewidth=1.2, linestyle="--")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(up, fontsize=9, color=INK)
    top = np.nanmax(known) if np.isfinite(known).any() else 0
    axes.set_ylim(0, 1.08 * top or 1)
    plain_axes(axes)
    return figure


def plain_axes(axes: Axes) -> None:
    axes.tick_params(labelsize=8, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(color="#e4e7eb", linewidth=0.6)


def log_ticks(axis: Axis) -> None:
    """Plain numbers at the ticks of a logarithmic axis that has its data: of matplotlib's own labels on less
    than two decades (2 x 10^-1, 3 x 10^-1, ...) each covers the next one.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    # Six labels at most on two decades and a half, two at least.
    subs = (1, 2, 5) if high < 10 * low else (1, 3) if high < 300 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """The figure as a PNG, cropped, at 2 pixels per screen pixel. The same figure gives the same bytes:
    matplotlib's version is left out of the metadata.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=200, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None}
    )
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """An empty white figure, in inches of 100 screen pixels. Not pyplot's, which would show it in the
    caller's notebook and keep it open.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # constrained: long class names push the axes inwards instead of being cut off.
    figure = Figure((width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def drawable(names: Sequence[str]) -> bool:
    """Does matplotlib's default font have every letter? If not, figures show numbers from 1, since missing
    letters would be drawn as boxes.
    """
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return all(font.get_char_index(ord(letter)) for name in names for letter in name)


def _labels(names: Sequence[str], kind: str) -> list[str]:
    """Names shortened to LONGEST_NAME, or numbers where the font lacks letters."""
    if not drawable(names):
        return [f"{kind} {number}" for number in range(1, len(names) + 1)]
    # Both ends stay: long names often differ only in their last word.
    return [
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}…{name[-8:]}" for name in names
    ]
