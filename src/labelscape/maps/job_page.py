"""The page of a job of many scenes: what became of each, on a map and as a table. Nothing is loaded from the
network, and no script runs.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from labelscape.evaluation.report import page_of, page_style
from labelscape.legend import RGB, css

SIDE = 900
"""Of the picture with the footprints, in units of the page (ours)."""
MOST_ROWS = 2000
"""Scenes that the page lists (ours): job.json and job.gpkg have all."""


class State(NamedTuple):
    """How a state is shown."""

    label: str
    color: RGB


STATES = {
    "failed": State("failed", (200, 50, 50)),
    "refused": State("refused by the check", (230, 140, 20)),
    "done": State("mapped", (40, 130, 70)),
    "skipped": State("mapped by an earlier run", (120, 180, 140)),
}
"""In the order in which they need somebody."""


def job_page(report: Mapping[str, Any]) -> str:
    """The page as HTML; `report` as `JobReport.to_dict` gives it."""
    from markupsafe import Markup

    template = importlib.resources.files("labelscape.maps").joinpath("job.html.jinja").read_text("utf-8")
    order = {state: number for number, state in enumerate(STATES)}
    scenes = sorted(report["scenes"], key=lambda record: order[record["state"]])
    box = _box(scenes)
    return page_of(
        template,
        report=report,
        # Ours, and with quotes in it; everything else on the page is escaped.
        style=Markup(page_style()),
        lead=lead(report),
        legend=[(about.label, css(about.color)) for s, about in STATES.items() if s in report["counts"]],
        shapes=list(_shapes(scenes, box)) if box else [],
        view=_view(box) if box else None,
        rows=[_row(record) for record in scenes[:MOST_ROWS]],
        left_out=max(0, len(scenes) - MOST_ROWS),
    )


def lead(report: Mapping[str, Any]) -> str:
    counts, pixels, seconds = report["counts"], report["pixels"], report["seconds"]
    mapped = counts.get("done", 0) + counts.get("skipped", 0)
    total = sum(counts.values())
    said = [f"{mapped:,} of {total:,} scenes are mapped, {pixels / 1e6:,.1f} million pixels"]
    if seconds:
        speed = pixels / 1e6 / seconds
        said.append(f"{_duration(seconds)} of work, {speed:.2g} million pixels a second")
    for state, words in (
        ("refused", "did not fit the model"),
        ("failed", "failed"),
        ("waiting", "are waiting"),
    ):
        if counts.get(state):
            said.append(f"{counts[state]:,} {words}")
    return "; ".join(said) + "."


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    seam, page = record["seam"], record["files"].get("report", "")
    return {
        "state": STATES[record["state"]].label,
        "color": css(STATES[record["state"]].color),
        "scene": record["scene"],
        "name": _name(record),
        "link": quote(page) if page and not page.startswith("/") else "",
        "seconds": f"{record['seconds']:,.1f}" if record["seconds"] else "–",
        "pixels": f"{record['pixels']:,}" if record["pixels"] else "–",
        "seam": "–" if seam is None else f"{seam:.2f}",
        "cause": record["cause"],
    }


def _name(record: Mapping[str, Any]) -> str:
    """The name of a scene's map, which is its own, or that of its file."""
    if mapped := record["files"].get("class"):
        return PurePosixPath(mapped).stem.removesuffix("_class")
    return PurePosixPath(record["scene"].replace("\\", "/")).name or record["scene"]


def _rings(geometry: Mapping[str, Any] | None) -> list[Sequence[Sequence[float]]]:
    """The outer rings of a footprint; none of what is not a polygon."""
    try:
        kind, parts = geometry["type"], geometry["coordinates"]
        rings = [parts[0]] if kind == "Polygon" else [part[0] for part in parts]
        return rings if all(math.isfinite(x + y) for ring in rings for x, y, *_ in ring) else []
    except (TypeError, KeyError, IndexError, ValueError):
        return []


def _box(scenes: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, float] | None:
    """West, south, east, north of all footprints."""
    box = None
    for record in scenes:
        for ring in _rings(record["geometry"]):
            xs, ys = [p[0] for p in ring], [p[1] for p in ring]
            own = (min(xs), min(ys), max(xs), max(ys))
            box = own if box is None else (*map(min, box[:2], own[:2]), *map(max, box[2:], own[2:]))
    return box


def _view(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Width and height of the picture of a box."""
    scale = _scale(box)
    width, height = ((box[n + 2] - box[n]) * scale[n] + 20 for n in (0, 1))
    return round(width, 1), round(height, 1)


def _scale(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Units of the page for a degree of longitude and of latitude, alike on the ground in the middle."""
    narrow = max(0.05, math.cos(math.radians((box[1] + box[3]) / 2)))
    unit = SIDE / max((box[2] - box[0]) * narrow, box[3] - box[1], 1e-9)
    return unit * narrow, unit


def _shapes(
    scenes: Sequence[Mapping[str, Any]], box: tuple[float, float, float, float]
) -> Iterator[tuple[str, str, str]]:
    """(points, colour, title) of every footprint in a box, those that need somebody on top."""
    across, up = _scale(box)
    for record in reversed(scenes):
        about = STATES[record["state"]]
        for ring in _rings(record["geometry"]):
            points = " ".join(
                f"{(x - box[0]) * across + 10:.1f},{(box[3] - y) * up + 10:.1f}" for x, y, *_ in ring
            )
            yield points, css(about.color), f"{record['scene']}: {about.label}"
