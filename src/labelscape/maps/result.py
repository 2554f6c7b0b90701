"""The result of mapping a scene, `MapResult`: files, areas, notes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import labelscape
from labelscape.areas.sieve import SieveSummary
from labelscape.errors import LabelscapeError
from labelscape.evaluation.units import area_unit
from labelscape.maps.rasters import ClassArea
from labelscape.maps.speed import Speed

if TYPE_CHECKING:
    from labelscape.areas.polygonize import PolygonSummary

SHOWN = 480
"""Longest side in pixels of the map that a notebook shows (ours)."""


@dataclass(frozen=True, eq=False)
class MapResult:
    """The result of `map_scene`: files by kind (`maps.outputs`), areas per class, notes.

    areas          of the class map, before sieving
    seconds        of this run, without the time of an interrupted one before it
    resumed        did an interrupted run make some of its tiles
    forward_share  pixels that the network predicted over pixels of the scene
    seam           seam score: how much more often classes change across tile borders than inside tiles: 1 is
                   no seam; NaN for a single tile
    facts          how it was made, as JSON values
    sieved         areas merged and classes before and after the sieve; None without one
    unfamiliar     share of the valid pixels that are farther from the training data than the limit; None
                   where that was not mapped
    outlined       numbers of polygons; None without polygons
    tasks          the map of a second task by its name: `result.tasks["road"].areas`; its files are among
                   `paths` as road_class, among its own `paths` as class
    """

    paths: dict[str, Path]
    areas: tuple[ClassArea, ...]
    nodata_pixels: int
    notes: tuple[str, ...]
    seconds: float
    tiles: int
    forward_share: float
    seam: float = math.nan
    facts: dict = field(default_factory=dict)
    sieved: SieveSummary | None = None
    outlined: PolygonSummary | None = None
    unfamiliar: float | None = None
    tasks: Mapping[str, MapResult] = field(default_factory=dict)
    resumed: bool = False

    @property
    def speed(self) -> Speed | None:
        """Pixels and hectares in `seconds`; None for a resumed map, whose time is not all known."""
        pixels = sum(area.pixels for area in self.areas)
        if self.resumed or not pixels or self.seconds <= 0:
            return None
        known = [area.hectares for area in self.areas if area.hectares is not None]
        where = (str(self.facts.get(key, "unknown")) for key in ("device", "precision"))
        return Speed(self.seconds, pixels, sum(known) if known else None, *where)

    def __repr__(self) -> str:
        seam = "" if math.isnan(self.seam) else f", seam score {self.seam:.2f}"
        notes = f", {len(self.notes)} note{'s' * (len(self.notes) > 1)}" if self.notes else ""
        files = f"{len(self.paths)} file{'s' * (len(self.paths) != 1)} in {self.paths['class'].parent}"
        beside = "".join(f" and {len(one.areas)} of {name}" for name, one in self.tasks.items())
        classes = f"{len(self.areas)} classes{beside}"
        return f"<MapResult {self.paths['class'].name}: {classes}, {files}{seam}{notes}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the class map in its colours, areas, files, seam score, notes."""
        parts = [_picture(self.paths["class"]), _area_table(self.areas)]
        for name, one in self.tasks.items():
            parts += [f"<p>{html.escape(name)}</p>", _picture(one.paths["class"]), _area_table(one.areas)]
        parts.append(_table([("file", "path"), *((k, str(p)) for k, p in self.paths.items())]))
        if not math.isnan(self.seam):
            # NaN for a single tile, where there is no seam to measure.
            parts.append(f"<p>Seam score {self.seam:.2f} (1: no seams)</p>")
        if self.unfamiliar is not None:
            parts.append(f"<p>Unfamiliar input: {100 * self.unfamiliar:.2f} % of the pixels</p>")
        if self.notes:
            notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
            parts.append(f"<p>Notes</p><ul>{notes}</ul>")
        return "".join(parts)

    def show(
        self, *, scene: str | Path | Sequence[str | Path] | None = None, height: int = 560
    ) -> labelscape.MapView:
        """The map in the viewer's page, for notebooks: a frame, `height` pixels high (`labelscape.show_map`).
        `scene` is the imagery below it, by default what was mapped, where that lies in files of this machine.
        Raises as `show_map`.
        """
        if scene is None:
            mapped = self.facts.get("scene")
            files = [mapped] if isinstance(mapped, str) else mapped or ()
            # A scene in memory has words in place of a path.
            scene = mapped if files and all(Path(one).exists() for one in files) else None
        # By the public name: the viewer is a room above this one, and an extra.
        return labelscape.show_map(self.paths["class"], scene=scene, height=height)


def _picture(path: Path) -> str:
    """The class map and its legend; "" where it was moved meanwhile, or damaged."""
    # Here, not above: pages need what draws them.
    from labelscape.evaluation.embedding import picture_address
    from labelscape.maps.page import small
    from labelscape.rasters.class_names import legend_of

    with suppress(LabelscapeError, OSError):
        legend, values = legend_of(path)[0], small(path, SHOWN)
        address = picture_address(legend.paint(legend.indices(values)))
        chips = "&ensp;".join(
            f"<span style='display:inline-block;width:.9em;height:.9em;border:1px solid #888;"
            f"background:rgb{one.color}'></span> {html.escape(one.name)}"
            for one in legend.classes
        )
        return f"<img alt='Class map' src='{address}'><p>{chips}</p>"
    return ""


def _area_table(areas: Sequence[ClassArea]) -> str:
    total = sum(area.pixels for area in areas) or 1
    known = any(area.hectares is not None for area in areas)
    # Of buildings every class may be 0.00 ha.
    unit = area_unit((area.pixels, area.hectares) for area in areas)
    rows = [("class", "pixels", "share", *([unit.name] if known else []))]
    rows += [
        (
            area.name,
            f"{area.pixels:,}",
            # Of the mapped pixels: nodata is no class and has no share.
            f"{100 * area.pixels / total:.2f} %",
            *([unit.text(area.hectares)] if known else []),
        )
        for area in areas
    ]
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    """HTML of rows of text, the first of them the head."""
    cells = [
        "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row)
        for tag, row in zip(("th", *("td",) * len(rows)), rows)
    ]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
