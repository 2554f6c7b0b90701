"""The review file of a map: its doubtful areas as polygons, the most important first, to be answered in QGIS
and given back to `train` as corrections.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from labelscape.areas.style import store_style
from labelscape.areas.trace import Areas, Weigh, trace
from labelscape.assessment.census import check_confidence, confidence_beside
from labelscape.assessment.form import review_style
from labelscape.errors import BadInput, BadOption
from labelscape.evaluation.reliability import usual_limit
from labelscape.files import check_new, check_not_read, check_path, check_written, locked, written_whole
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import as_path, gdal, reading
from labelscape.scenes.stamps import Watched
from labelscape.scenes.vectors import write_layer, writing

LAYER = "review"
TOP = 200
"""Areas of a review file: a day's work of an interpreter (ours)."""


@dataclass(frozen=True)
class ReviewSummary:
    """The review file that was written.

    written  areas in it, of `found` ones
    below    confidence in per cent below which pixels belong to such areas
    share    of the map's doubt (1 - confidence, summed over all its pixels) that lies in the areas written
    """

    path: Path
    written: int
    found: int
    below: int
    share: float

    def __repr__(self) -> str:
        return (
            f"<ReviewSummary: {self.written:,} of {self.found:,} areas below {self.below} % confidence, "
            f"{100 * self.share:.1f} % of the map's doubt, {self.path}>"
        )

    def to_dict(self) -> dict[str, str | int | float]:
        """JSON values."""
        return {**vars(self), "path": str(self.path)}


def review(
    raster: str | Path,
    out: str | Path,
    *,
    confidence: str | Path | None = None,
    top: int = TOP,
    below: int | None = None,
    min_area: float = 0.0,
    legend: Legend | None = None,
    overwrite: bool = False,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> ReviewSummary:
    """Write the areas of a class map that most deserve a look as polygons to `out`, a GeoPackage.

    An area is a 4-connected group of pixels of one class with a confidence below `below`. Areas are ranked by
    doubt: 1 - confidence, summed over their pixels; where confidences are calibrated, this is how much of the
    area is expected to be wrong. An empty column `class_right`, with a list of the classes in QGIS, takes the
    answer; `train` reads it as corrections.

    confidence  the map's confidence in per cent; by default `<name>_confidence.tif` beside the map
    top         areas to write
    below       per cent; 100: all pixels that are not entirely certain. By default half way between chance
                and certainty, rounded to 5: 75 for two classes, 60 for five
    min_area    hectares (pixels without coordinates) below which areas are left out
    legend      the classes, where they are known; by default those that the map names
    tick        called with the number of rows done

    Memory does not grow with the map. Raises BadOption for options that cannot work, BadInput for rasters
    that are no class map and its confidence, or where no pixel is below the limit, BadFile.
    """
    check_path(raster, "The class map")
    check_path(out, "The review file")
    check_not_read(out, [raster, confidence])
    _check(Path(out), top, below, min_area, overwrite)
    beside = as_path(confidence) if confidence is not None else confidence_beside(raster, "confidence")
    legend = legend or legend_of(raster)[0]
    watched = Watched.of([str(raster), str(beside)])
    with locked(out), gdal(), ExitStack() as stack:
        file, its = (stack.enter_context(reading(path)) for path in (raster, beside))
        classes = class_raster(file, raster)
        check_confidence(its, beside)
        sure, grid = ClassRaster(its, beside), classes.grid
        _check_one_grid(classes, sure)
        limit = usual_limit(len(legend)) if below is None else below
        best = Best(top, min_area * 10_000 if grid.is_on_earth else min_area, on_earth=grid.is_on_earth)
        weigh = doubt_below(sure, limit)
        for areas in trace(classes, strip_rows=strip_rows, tick=tick, weigh=weigh):
            best.add(areas)
        # Before the file takes its name.
        watched.check(f"{raster} was searched for doubtful areas")
        if not best.kept:
            raise BadInput(_nothing(raster, limit, min_area))
        _write(Path(out), best.ranked(), grid, legend, overwrite)
    share = sum(area.doubt for area in best.ranked()) / best.doubt if best.doubt else 0.0
    return ReviewSummary(Path(out), len(best.kept), best.found, limit, share)


def doubt_below(confidence: ClassRaster, limit: int) -> Weigh:
    """Keeps the class of pixels with a confidence below `limit` per cent; a weight is 100 - confidence."""

    def weigh(window: Window, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sure = confidence.read(window)
        # 255 is nodata, and nothing between 101 and 254 is a confidence.
        return np.where(sure < limit, values, np.uint8(IGNORE)), 100.0 - sure

    return weigh


@dataclass(frozen=True)
class DoubtfulArea:
    """An area: class value, pixels, square metres (NaN without coordinates), mean confidence in per cent,
    `doubt` (1 - confidence, summed over pixels), `priority` (hectares, or pixels, expected to be wrong),
    polygon with x along columns, y along rows.
    """

    value: int
    pixels: int
    metres: float
    confidence: float
    doubt: float
    priority: float
    polygon: shapely.Polygon


class Best:
    """The areas of the highest priority among all that are added, at most `top` of them in memory.

    found  areas of at least `smallest` (square metres, else pixels), and `doubt` the sum of theirs
    """

    def __init__(self, top: int, smallest: float, *, on_earth: bool) -> None:
        self.top, self.smallest, self.on_earth = top, smallest, on_earth
        self.found, self.doubt = 0, 0.0
        self.kept: list[tuple[float, int, DoubtfulArea]] = []
        """A heap, the least first. The number, falling, puts the earlier of equals first."""

    def add(self, areas: Areas) -> None:
        size = areas.metres if self.on_earth else areas.pixels
        doubt = areas.sums / 100
        priority = doubt / np.maximum(areas.pixels, 1) * (size / 10_000 if self.on_earth else size)
        large = size >= self.smallest
        self.doubt += float(doubt[large].sum())
        # Nearly all areas are small: only those that may be kept are looped over.
        least = self.kept[0][0] if len(self.kept) >= self.top else -1.0
        for place in np.flatnonzero(large & (priority > least)).tolist():
            pixels = int(areas.pixels[place])
            one = DoubtfulArea(
                int(areas.values[place]),
                pixels,
                float(areas.metres[place]) if self.on_earth else np.nan,
                100 - 100 * float(doubt[place]) / pixels,
                float(doubt[place]),
                float(priority[place]),
                areas.polygons[place],
            )
            entry = (one.priority, -(self.found + place), one)
            if len(self.kept) < self.top:
                heapq.heappush(self.kept, entry)
            elif entry > self.kept[0]:
                heapq.heapreplace(self.kept, entry)
        self.found += int(large.sum())

    def ranked(self) -> list[DoubtfulArea]:
        return [one for _, _, one in sorted(self.kept, reverse=True)]


def _check(out: Path, top: int, below: int | None, min_area: float, overwrite: bool) -> None:
    """Raises BadOption or BadFile, before the map is read."""
    check_written(out)
    if out.suffix.lower() != ".gpkg":
        raise BadOption(f"{out}: a review file is a GeoPackage (.gpkg), which holds areas and their form.")
    check_new(out, overwrite=overwrite, why=", perhaps with answers in it")
    if top < 1:
        raise BadOption(f"`top={top}` must be at least 1: it is the number of areas to write.")
    if below is not None and not 1 <= below <= 100:
        raise BadOption(f"`below={below}` must be a confidence in per cent, 1 to 100.")
    if not 0 <= min_area < np.inf:
        raise BadOption(f"`min_area={min_area:g}` must be a number of at least 0.")


def _check_one_grid(raster: ClassRaster, confidence: ClassRaster) -> None:
    """Raises BadInput where a raster is not the confidence of a map."""
    grid, other = raster.grid, confidence.grid
    if not grid.matches(other):
        raise BadInput(
            f"{confidence.path} ({other.width} x {other.height} pixels) is not on the grid of {raster.path} "
            f"({grid.width} x {grid.height}): it is the confidence of another map."
        )


def _nothing(raster: str | Path, limit: int, min_area: float) -> str:
    large = f" of at least {min_area:g} ha" if min_area else ""
    return (
        f"{raster} has no area{large} with a confidence below {limit} %: there is nothing to review. Give a "
        f"higher limit with `below`{', or a smaller `min_area`' if min_area else ''}."
    )


def _write(out: Path, areas: list[DoubtfulArea], grid: Grid, legend: Legend, overwrite: bool) -> None:
    names = {c.value: c.name for c in legend.classes}
    t, count = grid.transform, len(areas)
    polygons = np.array([area.polygon for area in areas], object)
    # Corners of pixels -> CRS by the affine transform alone, rotated grids too.
    ground = shapely.transform(polygons, lambda xy: np.column_stack(t @ (xy[:, 0], xy[:, 1])))
    metres = np.array([area.metres for area in areas])
    unknown = np.isnan(metres)
    # NULL, not "": the form takes an area as open while it is NULL.
    empty = np.ma.array(np.full(count, "", object), mask=np.ones(count, bool))
    columns = {
        "rank": np.arange(1, count + 1, dtype=np.int32),
        "class": np.array([names.get(a.value, f"value {a.value}") for a in areas], object),
        "confidence": np.round([a.confidence for a in areas], 1),
        "area_m2": np.ma.array(np.round(np.where(unknown, 0, metres), 2), mask=unknown),
        "area_ha": np.ma.array(np.round(np.where(unknown, 0, metres) / 10_000, 6), mask=unknown),
        "pixels": np.array([a.pixels for a in areas], np.int64),
        "priority": np.round([a.priority for a in areas], 6),
        "class_right": empty,
        "answer": empty,
        "notes": empty,
    }
    with written_whole(out, overwrite=overwrite) as part:
        with writing(part) as plain:
            crs = grid.crs.to_wkt() if grid.crs else None
            write_layer(plain, shapely.to_wkb(ground), columns, layer=LAYER, geometry="Polygon", crs=crs)
        store_style(part, LAYER, review_style(legend.names), "review", "form for corrections")
