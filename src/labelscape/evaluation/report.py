"""A report in one HTML file that needs nothing else: no network, no scripts, pictures inside.

    write_report("map.html", Report(
        title="Map of havel", subtitle="mlp, 2024-05-01, labelscape 0.1.0",
        pictures=(Picture("Map", rgb),), areas=(AreaRow("water", (43, 108, 196), 1200, 12.0),),
        scores=(ModelScores("random forest", forest), ModelScores("mlp", mlp)),
    ))

Every section is optional. All text is shown as it is written: names and notes cannot become markup.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.evaluation.text import class_names, of_class, percent
from labelscape.files import written_whole
from labelscape.legend import RGB
from labelscape.version import __version__

GENTLE_SIDE = 500
"""Pictures below this many pixels a side are enlarged pixel by pixel instead of blurred."""

LARGE_PNG = 300_000
"""A photo whose PNG has more bytes than this becomes a JPEG (2.5 to 5 times smaller); below, the exact
pixels cost little.
"""

FLAT_COLOURS = 256
"""A picture of at most this many colours is a map or a scale: it stays a PNG, because JPEG would smear its
edges into false colours.
"""


@dataclass(frozen=True)
class Picture:
    """pixels (H, W, 3) uint8, shown under `title`; `caption` says how to read it."""

    title: str
    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class AreaRow:
    """How much of the map a class covers; hectares None where there are no coordinates."""

    name: str
    color: RGB
    pixels: int
    hectares: float | None = None


@dataclass(frozen=True)
class ModelScores:
    """A model's name and what `metrics.summary` says of it; `note` is shown below the tables."""

    name: str
    metrics: Mapping
    note: str = ""


@dataclass(frozen=True)
class ConfusionFigure:
    """counts (K, K), rows truth; unpredicted (K,) labelled pixels that got no class."""

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
    """What a report shows, in this order. `provenance` holds JSON values; `nodata_pixels` follows the
    areas where it is not None.
    """

    title: str
    subtitle: str = ""
    lead: str | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    legend: tuple[tuple[str, RGB], ...] = ()
    areas: tuple[AreaRow, ...] = ()
    nodata_pixels: int | None = None
    scores: tuple[ModelScores, ...] = ()
    definitions: tuple[str, ...] = ()
    confusion: ConfusionFigure | None = None
    curves: tuple[Curve, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A number as text; `best` among the models beside it."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Rows of (class, cells) under two rows of heads: models over measures."""

    groups: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def write_report(path: str | Path, report: Report, *, overwrite: bool = False) -> Path:
    """Write the report as one HTML file. Raises BadFile where `path` exists and may not be replaced, or
    cannot be written.
    """
    path = Path(path)
    with written_whole(path, overwrite=overwrite) as part:
        # A file name in the provenance may hold bytes that are no text at all.
        part.write_bytes(render(report).encode("utf-8", errors="replace"))
    return path


def render(report: Report) -> str:
    """The report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (
        importlib.resources.files("labelscape.evaluation").joinpath("report.html.jinja").read_text("utf-8")
    )
    return environment.from_string(template).render(
        report=report,
        version=__version__,
        pictures=[(p, _picture(p.pixels), max(p.pixels.shape[:2]) < GENTLE_SIDE) for p in report.pictures],
        legend=[(name, _css(color)) for name, color in report.legend],
        areas=_area_rows(report),
        overall=overall_table(report.scores),
        per_class=per_class_tables(report.scores),
        comparable=comparable(report.scores),
        score_notes=score_notes(report.scores),
        confusion=_confusion(report.confusion),
        curves=_curves(report.curves),
        provenance=[(str(key), plain(value)) for key, value in report.provenance.items()],
    )


def overall_table(scores: Sequence[ModelScores]) -> ScoreTable | None:
    """One row per model; kappa times 100 like the rest."""
    if not scores:
        return None
    keys = {
        "overall_accuracy": "OA",
        "mean_iou": "mIoU",
        "mean_f1": "mean F1",
        "mean_accuracy": "mean accuracy",
        "frequency_weighted_iou": "fwIoU",
        "kappa": "kappa x 100",
    }
    mark = comparable(scores)
    columns = [_cells([s.metrics.get(key) for s in scores], mark) for key in keys]
    pixels = [
        Cell(f"{s.metrics['labelled_pixels']:,}" if "labelled_pixels" in s.metrics else "-") for s in scores
    ]
    rows = tuple((s.name, cells) for s, cells in zip(scores, zip(*columns, pixels, strict=True), strict=True))
    return ScoreTable((), (*keys.values(), "labelled pixels"), rows)


def per_class_tables(scores: Sequence[ModelScores]) -> list[ScoreTable]:
    """IoU, F1, UA, PA and support of every class: one table for one model; for more, two or four that
    still fit on a page.
    """
    if not scores:
        return []
    measures = {"iou": "IoU", "f1": "F1", "precision": "UA", "recall": "PA"}
    mark = comparable(scores)
    at_once = 4 if len(scores) == 1 else 2 if len(scores) <= 3 else 1
    parts = [tuple(measures)[start : start + at_once] for start in range(0, 4, at_once)]
    tables = []
    for keys in parts:
        rows = []
        for name in class_names({str(i): s.metrics for i, s in enumerate(scores)}):
            entries = [of_class(s.metrics, name) for s in scores]
            by_measure = [_cells([entry.get(key) for entry in entries], mark) for key in keys]
            support = next((entry["support"] for entry in entries if "support" in entry), None)
            # Measure by measure, the models beside each other: that is what one compares.
            rows.append(
                (name, (*itertools.chain(*by_measure), Cell("-" if support is None else f"{support:,}")))
            )
        several = len(scores) > 1
        groups = tuple(measures[key] for key in keys) if several else ()
        heads = (
            tuple(s.name for _ in keys for s in scores) if several else tuple(measures[key] for key in keys)
        )
        tables.append(ScoreTable(groups, (*heads, "support"), tuple(rows)))
    return tables


def comparable(scores: Sequence[ModelScores]) -> bool:
    """Do all models have the same classes with the same support? If not, none of them is the best."""
    supports = {
        frozenset((entry["name"], entry.get("support")) for entry in s.metrics["classes"]) for s in scores
    }
    return len(supports) <= 1


def score_notes(scores: Sequence[ModelScores]) -> list[str]:
    """What a reader must know before comparing the numbers."""
    notes = []
    if not comparable(scores):
        notes.append(
            "These models were not scored on the same pixels: their numbers cannot be compared. Support is "
            "the first model's."
        )
    for s in scores:
        if s.note:
            notes.append(f"{s.name}: {s.note}")
        missing = sum(s.metrics.get("confusion", {}).get("unpredicted", []))
        if missing:
            notes.append(f"{s.name}: {missing:,} labelled pixels got no class; they count as wrong.")
    absent = [
        name
        for name in class_names({str(i): s.metrics for i, s in enumerate(scores)})
        if _absent(scores, name)
    ]
    if absent:
        notes.append(f"Not among the labelled pixels: {', '.join(absent)}.")
    return notes


def _absent(scores: Sequence[ModelScores], name: str) -> bool:
    return not any(of_class(s.metrics, name).get("support") for s in scores)


def _cells(values: Sequence[float | None], mark: bool) -> tuple[Cell, ...]:
    """In per cent; where `mark`, the best of several as printed, ties included."""
    texts = [percent(value) for value in values]
    known = [float(text) for text in texts if text != "-"]
    differ = mark and len(set(known)) > 1
    return tuple(Cell(text, differ and text != "-" and float(text) == max(known)) for text in texts)


def _area_rows(report: Report) -> dict[str, Any] | None:
    if not report.areas:
        return None
    total = sum(row.pixels for row in report.areas)
    known = [row.hectares for row in report.areas if row.hectares is not None]
    rows = [
        (
            row.name,
            _css(row.color),
            f"{row.pixels:,}",
            _hectares(row.hectares),
            percent(row.pixels / total) if total else "-",
        )
        for row in report.areas
    ]
    return {
        "rows": rows,
        "total": (f"{total:,}", _hectares(sum(known) if known else None), percent(1.0) if total else "-"),
        "nodata": None if report.nodata_pixels is None else f"{report.nodata_pixels:,}",
        "has_hectares": bool(known),
    }


def _hectares(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _confusion(figure: ConfusionFigure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    from labelscape.evaluation.figures import NUMBERED, confusion_figure, drawable, png

    numbered = len(figure.names) <= NUMBERED
    how = "The numbers are pixels." if numbered else "The scale is a square root, so that small shares show."
    caption = (
        f"Colour: share of the pixels of each true class (row) that the map gives each class (column). {how}"
    )
    if not drawable(figure.names):
        caption += f" Classes by number: {_numbered(figure.names)}."
    drawn = png(confusion_figure(figure.names, np.asarray(figure.counts), figure.unpredicted))
    width = int.from_bytes(drawn[16:20], "big") // 2  # the PNG's own width, at 2 pixels per screen pixel
    # On a phone a figure shrunk below this width could no longer be read; it scrolls instead.
    least = min(width, 1000, 120 + 46 * len(figure.names)) if numbered else min(width, 640)
    return {"title": figure.title, "source": _data(drawn), "caption": caption, "width": width, "least": least}


def _curves(curves: Sequence[Curve]) -> list[tuple[str, str, str]]:
    """(quantity, labels, picture) for each quantity, in the order of appearance."""
    from labelscape.evaluation.figures import curve_figure, drawable, png

    found = []
    for quantity in dict.fromkeys(curve.quantity for curve in curves):
        together = [c for c in curves if c.quantity == quantity]
        drawn = curve_figure([(c.label, c.steps, c.values) for c in together], quantity)
        labels = [c.label for c in together]
        said = ", ".join(filter(None, labels)) if drawable(labels) else _numbered(labels)
        found.append((quantity, said, _data(png(drawn))))
    return found


def _numbered(names: Sequence[str]) -> str:
    """The key to a figure that could only draw numbers."""
    return ", ".join(f"{number} = {name}" for number, name in enumerate(names, start=1))


def _picture(pixels: np.ndarray) -> str:
    """A picture's address with the picture in it: exact, or a JPEG where it is a large photo."""
    from PIL import Image

    fits = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    assert fits, f"a picture is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}"
    image, buffer = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= LARGE_PNG or image.getcolors(FLAT_COLOURS):
        return _data(buffer.getvalue())
    buffer = io.BytesIO()
    # No subsampling: roofs and roads are a pixel wide, and their colour is what one looks at.
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return _data(buffer.getvalue(), "jpeg")


def _data(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def _css(color: RGB) -> str:
    red, green, blue = (int(part) for part in color)
    assert all(0 <= part <= 255 for part in (red, green, blue)), (
        f"a colour is three numbers 0..255, not {color}"
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def plain(value: Any) -> str:
    """A JSON value for people: lists by commas, nested keys with "=", nothing as a dash."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return str(value)
