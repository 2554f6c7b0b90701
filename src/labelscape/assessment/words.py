"""Estimates as a table, and as the sentence that a paper prints."""

from __future__ import annotations

import html as escape
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelscape.evaluation.accuracy import AreaEstimates
from labelscape.evaluation.units import AreaUnit, area_unit

FEW = 5
"""Points with this reference class below which an interval is rough (ours)."""
PIXELS = AreaUnit("pixels", 1, 0)


def unit_of(design: Mapping[str, Any]) -> AreaUnit:
    """The unit for all areas of a map."""
    if design["unit"] == "pixels":
        return PIXELS
    return area_unit((n, area / 1e4) for n, area in zip(design["mapped_pixels"], design["mapped_area"]))


def table(found: AreaEstimates, design: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, the head first: points by map and by reference class, mapped area, estimated area with
    half its symmetric interval, and user's, producer's accuracy and F1 in per cent with their intervals.
    """
    unit = unit_of(design)
    head = (
        "class", "n map", "n ref", f"mapped {unit.name}", "estimated", "± 95 %", "UA %", "PA %", "F1 %"
    )  # fmt: skip
    rows = [head]
    for k, name in enumerate(found.names):
        shares = (
            _share(getattr(found, key)[k], getattr(found, f"{key}_interval")[k]) for key in ("ua", "pa", "f1")
        )
        rows.append(
            (
                name,
                str(found.counts[k].sum()),
                str(found.counts[:, k].sum()),
                _area(found.mapped_area[k], unit),
                _area(found.area[k], unit),
                # Without an interval of no width, as in `sentence`.
                _area(found.area_ci95[k] if found.area_se[k] > 0 else np.nan, unit),
                *shares,
            )
        )
    return rows


def overall(found: AreaEstimates) -> str:
    """Overall accuracy with its interval, in per cent."""
    return _share(found.oa, found.oa_interval)


def sentence(found: AreaEstimates, design: Mapping[str, Any], estimator: str) -> str:
    """The result as a paper prints it: design, overall accuracy, areas, estimator."""
    unit = unit_of(design)
    strata, block = design["strata"], design["block"]
    drawn = f"a stratified random sample of {found.points:,} pixels"
    if block is not None:
        drawn = (
            f"a two-stage sample of {found.points:,} pixels (blocks of {block['side']} x {block['side']} "
            "pixels)"
        )
    areas = "; ".join(
        f"{name} {_area(area, unit)} ± {_area(half, unit)} {unit.name}"
        for name, area, half, error in zip(found.names, found.area, found.area_ci95, found.area_se)
        # A class whose sample holds no error has no width to print: +- 0 would promise certainty.
        if error > 0
    )
    low, high = 100 * found.oa_interval
    return (
        f"From {drawn} (strata: {strata['by']}; {len(strata['names'])} strata, {design['allocation']} "
        f"allocation), the overall accuracy is {100 * found.oa:.1f} % (95 % confidence interval {low:.1f} to "
        f"{high:.1f} %), and the estimated areas with 95 % confidence intervals are: {areas}. Estimator: "
        f"{estimator}."
    )


def rough(found: AreaEstimates) -> tuple[str, ...]:
    """Where intervals are rough."""
    rare = [n for n, c in zip(found.names, found.counts.sum(axis=0)) if c < FEW]
    if not rare:
        return ()
    return (
        f"Fewer than {FEW} points are {', '.join(rare)} on the ground: producer's accuracy and area of such "
        "a class have rough intervals. More points in the strata where it occurs would help.",
    )


def html(rows: Sequence[tuple[str, ...]], text: str, notes: Sequence[str]) -> str:
    """The table, the sentence and the notes as HTML."""
    cells = [
        "".join(f"<{tag}>{escape.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(("th", *("td",) * len(rows)), rows)
    ]
    listed = "".join(f"<li>{escape.escape(note)}</li>" for note in notes)
    body = "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    body += f"<p>{escape.escape(text)}</p>"
    return body + (f"<ul>{listed}</ul>" if listed else "")


def _share(value: float, interval: np.ndarray) -> str:
    if np.isnan(value):
        return "-"
    return f"{100 * value:.1f} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def _area(square_metres: float, unit: AreaUnit) -> str:
    """An area in its unit; "-" where it is unknown."""
    return "-" if np.isnan(square_metres) else f"{square_metres / unit.square_metres:,.{unit.digits}f}"
