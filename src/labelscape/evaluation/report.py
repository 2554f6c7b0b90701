"""Write reports as one self-contained HTML file: images embedded, nothing loaded from the network.

    write_report("map.html", Report(
        title="Map of havel", subtitle="mlp, 2024-05-01, labelscape 0.1.0",
        pictures=(Picture("Map", rgb),), areas=(AreaRow("water", (43, 108, 196), 1200, 12.0),),
        scores=(ModelScores("random forest", forest), ModelScores("mlp", mlp)),
    ))

Every section is optional; `Section` holds what has no place of its own. All text is escaped: names and notes
cannot become markup. The page's content policy allows one script only, by its hash: it enlarges pictures and
blends two of them with a slider. Without scripts only that is missing.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.evaluation.embedding import data_address
from labelscape.evaluation.score_tables import (
    ModelScores,
    comparable,
    overall_table,
    per_class_tables,
    score_notes,
)
from labelscape.evaluation.sections import (
    Chip,
    Picture,
    Section,
    chips,
    drawn_width,
    has_pictures,
    picture_values,
    section_values,
)
from labelscape.evaluation.text import percent
from labelscape.evaluation.units import area_unit
from labelscape.files import written_whole
from labelscape.legend import RGB, css
from labelscape.version import __version__


@dataclass(frozen=True)
class AreaRow:
    """Area of a class in the map; hectares None without coordinates."""

    name: str
    color: RGB
    pixels: int
    hectares: float | None = None


@dataclass(frozen=True)
class FileRow:
    """A file of the result: its name, its contents, its size in bytes where known."""

    name: str
    holds: str
    size: int | None = None


@dataclass(frozen=True)
class ConfusionFigure:
    """A confusion matrix: counts (K, K), rows truth; unpredicted (K,), labelled but not predicted."""

    names: tuple[str, ...]
    counts: np.ndarray
    title: str = ""
    unpredicted: np.ndarray | None = None


@dataclass(frozen=True)
class Curve:
    """Values over steps. Curves of one `quantity` ("loss", "rate", "validation mIoU") share a figure;
    `label` tells them apart.
    """

    quantity: str
    steps: Sequence[float]
    values: Sequence[float | None]
    label: str = ""


@dataclass(frozen=True)
class Report:
    """The contents of a report, in the order shown.

    overlay        (below, above): positions of two pictures of one size that a slider blends
    legend         shown where no picture has a legend
    nodata_pixels  shown below the areas
    area_hint      a sentence below the areas
    measured_on    a sentence: what the scores were measured on
    sections       what else there is, after the confusion matrix
    tasks          sections of second tasks: of their reports the lead, pictures, areas, scores and confusion
    provenance     JSON values: settings and origin
    """

    title: str
    subtitle: str = ""
    lead: str | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    overlay: tuple[int, int] | None = None
    legend: tuple[Chip, ...] = ()
    areas: tuple[AreaRow, ...] = ()
    nodata_pixels: int | None = None
    area_hint: str = ""
    measured_on: str = ""
    scores: tuple[ModelScores, ...] = ()
    definitions: tuple[str, ...] = ()
    confusion: ConfusionFigure | None = None
    sections: tuple[Section, ...] = ()
    curves: tuple[Curve, ...] = ()
    tasks: tuple[Report, ...] = ()
    files: tuple[FileRow, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | Path, report: Report, *, overwrite: bool = False) -> Path:
    """Write the report as one HTML file. Raises BadFile where `path` exists and may not be replaced, or
    cannot be written.
    """
    path = Path(path)
    with written_whole(path, overwrite=overwrite) as part:
        # File names may have bytes that are not UTF-8, which Python keeps as surrogates that cannot be
        # encoded.
        part.write_bytes(render(report).encode("utf-8", errors="replace"))
    return path


def render(report: Report) -> str:
    """The report as HTML."""
    here = importlib.resources.files("labelscape.evaluation")
    template, script = (here.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("html.jinja", "js"))
    return page_of(
        template,
        report=report,
        version=__version__,
        script=script,
        # Of the script as it stands in the page: a changed byte and browsers refuse to run it.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        overlay=_overlay(report),
        # Not twice on one page.
        legend=[] if any(p.legend for p in report.pictures) else chips(report.legend),
        main=_sections(report),
        tasks=[_sections(task) for task in report.tasks],
        sections=[section_values(section) for section in report.sections],
        # The dialog that enlarges them.
        enlarges=bool(report.pictures or report.confusion or report.curves or report.tasks)
        or any(map(has_pictures, report.sections)),
        curves=_curves(report.curves),
        files=[(row.name, row.holds, _bytes(row.size)) for row in report.files],
        provenance=[(str(key), plain(value)) for key, value in report.provenance.items()],
    )


def page_of(template: str, **values: Any) -> str:
    """A page of a template; all values are escaped but those that are `markupsafe.Markup`."""
    # Only here: maps without a report need no jinja2.
    import jinja2

    # StrictUndefined: a misspelt name in the template raises instead of leaving a gap.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(**values)


def page_style() -> str:
    """The style sheet of reports, for other pages that shall look like them."""
    template = importlib.resources.files("labelscape.evaluation").joinpath("report.html.jinja")
    return template.read_text("utf-8").partition("<style>")[2].partition("</style>")[0]


def _sections(report: Report) -> dict[str, Any]:
    """What the page shows of each task."""
    return {
        "report": report,
        "pictures": [picture_values(picture) for picture in report.pictures],
        "areas": _area_rows(report),
        "overall": overall_table(report.scores),
        "per_class": per_class_tables(report.scores),
        "comparable": comparable(report.scores),
        "score_notes": score_notes(report.scores),
        "confusion": _confusion(report.confusion),
    }


def _overlay(report: Report) -> dict[str, Any] | None:
    """The two pictures of the overlay; None where one of them is missing."""
    if report.overlay is None or max(report.overlay) >= len(report.pictures):
        return None
    below, above = (report.pictures[number] for number in report.overlay)
    assert below.pixels.shape == above.pixels.shape, "overlaid pictures must have one size"
    height, width = above.pixels.shape[:2]
    return {
        "numbers": report.overlay,
        "titles": (below.title, above.title),
        "legend": chips(above.legend),
        # Tall pictures are limited to the window's height, so that picture and slider are visible together.
        "aspect": round(width / height, 4),
    }


def _bytes(size: int | None) -> str:
    """1,234,567 -> "1.2 MB", in powers of ten as file managers count."""
    if size is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _area_rows(report: Report) -> dict[str, Any] | None:
    if not report.areas:
        return None
    total = sum(row.pixels for row in report.areas)
    known = [row.hectares for row in report.areas if row.hectares is not None]
    # One unit for the whole table: rows are compared with each other.
    unit = area_unit((row.pixels, row.hectares) for row in report.areas)
    rows = [
        (
            row.name,
            css(row.color),
            f"{row.pixels:,}",
            unit.text(row.hectares),
            percent(row.pixels / total) if total else "-",
        )
        for row in report.areas
    ]
    return {
        "rows": rows,
        "total": (f"{total:,}", unit.text(sum(known) if known else None), percent(1.0) if total else "-"),
        "nodata": None if report.nodata_pixels is None else f"{report.nodata_pixels:,}",
        "unit": unit.name if known else None,
    }


def _confusion(figure: ConfusionFigure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    # Imported late: a report without figures needs no matplotlib.
    from labelscape.evaluation.figures import NUMBERED, confusion_figure, drawable, png

    numbered = len(figure.names) <= NUMBERED
    how = "Numbers: pixels." if numbered else "The colour scale is a square root, so that small shares show."
    caption = (
        "Rows: true class. Columns: predicted class. Colour: share of the true class's pixels (on the "
        f"diagonal: producer's accuracy). {how}"
    )
    if not drawable(figure.names):
        caption += f" Classes by number: {_numbered(figure.names)}."
    drawn = png(confusion_figure(figure.names, np.asarray(figure.counts), figure.unpredicted))
    width = drawn_width(drawn)
    # On a phone a figure narrower than this would be unreadable; it scrolls instead.
    least = min(width, 1000, 120 + 46 * len(figure.names)) if numbered else min(width, 640)
    return {
        "title": figure.title,
        "source": data_address(drawn),
        "caption": caption,
        "width": width,
        "least": least,
    }


def _curves(curves: Sequence[Curve]) -> list[tuple[str, str, str]]:
    """(quantity, labels, picture) for each quantity, in the order of appearance."""
    from labelscape.evaluation.figures import curve_figure, drawable, png

    found = []
    for quantity in dict.fromkeys(curve.quantity for curve in curves):
        # Losses and scores have different scales: a figure for each quantity.
        together = [c for c in curves if c.quantity == quantity]
        drawn = curve_figure([(c.label, c.steps, c.values) for c in together], quantity)
        labels = [c.label for c in together]
        listed = ", ".join(filter(None, labels)) if drawable(labels) else _numbered(labels)
        found.append((quantity, listed, data_address(png(drawn))))
    return found


def _numbered(names: Sequence[str]) -> str:
    """The key to a figure that shows numbers instead of names."""
    return ", ".join(f"{number} = {name}" for number, name in enumerate(names, start=1))


def plain(value: Any) -> str:
    """A JSON value as text: lists with commas, nested keys with "=", empty values as a dash."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    # Before numbers: True is an int.
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return str(value)
