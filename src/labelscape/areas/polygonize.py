"""Polygonize a class map into any of the formats of `polygon_files`, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from labelscape.areas.polygon_files import (
    LAYER,
    Batch,
    check_crs,
    check_target,
    is_database,
    write_database,
    write_file,
)
from labelscape.areas.sieve import check_minimum
from labelscape.areas.sieve import sieve as merge_small_areas
from labelscape.areas.style import add_style
from labelscape.areas.trace import Areas, trace
from labelscape.errors import BadOption
from labelscape.files import (
    cannot_write,
    check_new,
    check_not_read,
    check_path,
    locked,
    private_folder,
    temporary_folder,
    written_whole,
)
from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import reading
from labelscape.scenes.stamps import Watched

BATCH = 50_000
"""Polygons written at once (ours): a few hundred bytes each."""


@dataclass
class PolygonSummary:
    """Numbers of polygons written, and dropped (`left_out`) because they are below the smallest area."""

    written: int = 0
    left_out: int = 0
    tiny: int = 0
    """Written polygons of fewer than `tiny_pixels` pixels."""
    tiny_pixels: int = 8

    def __repr__(self) -> str:
        dropped = f", {self.left_out:,} dropped" if self.left_out else ""
        tiny = f", {self.tiny:,} below {self.tiny_pixels} pixels" if self.tiny else ""
        return f"<PolygonSummary: {self.written:,} polygons{dropped}{tiny}>"

    @property
    def mostly_tiny(self) -> bool:
        """Are most polygons specks, so that a minimum mapping unit would help?"""
        return self.tiny > self.written / 2


def polygonize(
    raster: str | Path,
    out: str | Path,
    legend: Legend | None = None,
    *,
    sieve: float = 0.0,
    min_area: float = 0.0,
    simplify: float = 0.0,
    strip_rows: int | None = None,
    overwrite: bool = False,
    tick: Callable[[int], None] | None = None,
) -> PolygonSummary:
    """Polygonize the class map `raster`, with the columns value, class, pixels and area_ha (hectares on
    the WGS 84 ellipsoid).

    out       a file whose suffix says the format (.gpkg, .geojson, .fgb, .parquet) or a table,
              postgresql://user@host/db?table=name
    legend    by default the names and colours stored with the raster
    sieve     minimum mapping unit in hectares (pixels without coordinates): smaller areas are merged into a
              neighbour first, see `areas.sieve`
    min_area  hectares: smaller polygons are dropped, which leaves gaps; not without coordinates
    simplify  tolerance in metres (pixels without coordinates): borders lose the steps of pixels, each shared
              border once, so that there are neither gaps nor overlaps; the map's edge and the rim of nodata
              stay. Pixels and hectares are those of the map, before simplification
    tick      called with the number of rows done, those of the sieve first

    Pixels of 255 and of the raster's own nodata value belong to no polygon. A GeoPackage also gets the
    legend's colours as its QGIS style. Raises BadOption for an unknown format, a negative area or tolerance,
    BadInput for a raster that is not a class map, BadFile where a file cannot be read or written.
    """
    check_path(raster, "The class map")
    check_path(out, "The polygon file")
    check_target(out)
    check_not_read(out, [raster])
    watched = Watched.of([str(raster)])
    with reading(raster) as file:
        grid = class_raster(file, raster).grid
        check_sizes(min_area, simplify, grid, str(raster))
        check_crs(out, grid.crs)
        legend = legend or legend_of(raster)[0]
    # Metres -> pixels of the ground, also for a map in degrees; a map without coordinates counts in pixels.
    summary, tolerance = PolygonSummary(), simplify / (grid.ground_pixel_size or 1)

    def write() -> None:
        with _sieved(raster, out, legend, sieve, tick) as source, reading(source) as file:
            areas = trace(ClassRaster(file, source), tolerance=tolerance, strip_rows=strip_rows, tick=tick)
            # Before the file takes its name.
            areas = _then(areas, lambda: watched.check(f"{raster} was polygonized"))
            _write(out, _batches(areas, grid, legend, min_area, summary), grid, legend, overwrite)

    if is_database(out):  # its transaction keeps others away
        write()
        return summary
    with locked(out):
        # Before the sieve, which may take long; the writer checks again.
        check_new(Path(out), overwrite=overwrite)
        try_target(out, grid, legend)
        write()
    return summary


def _then(areas: Iterator[Areas], last: Callable[[], None]) -> Iterator[Areas]:
    yield from areas
    last()


@contextmanager
def _sieved(
    raster: str | Path, out: str | Path, legend: Legend, sieve: float, tick: Callable[[int], None] | None
) -> Iterator[str | Path]:
    """The raster itself, or for the time of a block a sieved copy of it beside `out`."""
    if not sieve:
        yield raster
        return
    check_minimum(sieve)
    # On the target's own disk: /tmp is often too small for a copy of the map.
    near = temporary_folder() if is_database(out) else private_folder(Path(out).parent)
    with near as folder:
        copy = folder / Path(raster).name
        merge_small_areas(raster, copy, legend, min_area=sieve, tick=tick)
        yield copy


def try_target(out: str | Path, grid: Grid, legend: Legend) -> None:
    """Write the polygon of one pixel to a temporary file in the format of `out`: what cannot be written, for
    its place, its name or its CRS, is known before any work. Raises BadFile.
    """
    if is_database(out):
        return
    row, column = grid.height // 2, grid.width // 2
    pixel = shapely.box([column], [row], [column + 1], [row + 1])
    areas = Areas(np.array([0], np.uint8), np.ones(1), np.ones(1), np.zeros(1), pixel)
    batches = _batches(iter([areas]), grid, legend, 0.0, PolygonSummary())
    try:
        with private_folder(Path(out).parent) as folder:
            _write(folder / Path(out).name, batches, grid, legend, False)
    except OSError as error:
        raise cannot_write(Path(out), getattr(error, "__cause__", None) or error) from error


def _write(out: str | Path, batches: Iterator[Batch], grid: Grid, legend: Legend, overwrite: bool) -> None:
    if is_database(out):
        write_database(str(out), batches, grid.crs, overwrite=overwrite)
        return
    suffix = Path(out).suffix.lower()
    # Style and polygons are one file, renamed when both are in it.
    with written_whole(out, overwrite=overwrite) as part:
        write_file(part, suffix, batches, grid.crs)
        if suffix == ".gpkg":
            add_style(part, LAYER, legend)


def check_numbers(min_area: float, simplify: float) -> None:
    """Raises BadOption where an area or a tolerance is negative."""
    for option, number in (("min_area", min_area), ("simplify", simplify)):
        if not 0 <= number < math.inf:
            raise BadOption(f"`{option}={number:g}` must be a number of at least 0.")


def check_sizes(min_area: float, simplify: float, grid: Grid, name: str) -> None:
    """Raises BadOption where an area or a tolerance is negative, or an area in hectares is asked for a raster
    without coordinates.
    """
    check_numbers(min_area, simplify)
    if min_area and not grid.is_on_earth:
        raise BadOption(f"{name} has no coordinates, so areas in hectares are unknown: omit `min_area`.")


def _batches(
    found: Iterator[Areas], grid: Grid, legend: Legend, min_area: float, summary: PolygonSummary
) -> Iterator[Batch]:
    """Areas in pixel coordinates -> batches on the ground. At least one, so that a map without areas becomes
    an empty layer with columns; counts go to `summary`.
    """
    names = {c.value: c.name for c in legend.classes}
    t, waiting, started = grid.transform, [], False

    def on_ground(areas: Areas) -> Batch:
        hectares = areas.metres / 10_000 if grid.is_on_earth else np.full(len(areas), np.nan)
        # Corners of pixels -> CRS by the affine transform alone, rotated grids too; rings stay closed.
        ground = shapely.transform(areas.polygons, lambda xy: np.column_stack(t @ (xy[:, 0], xy[:, 1])))
        called = np.array([names.get(v, f"value {v}") for v in areas.values.tolist()], object)
        return Batch(ground, areas.values.astype(np.int32), called, areas.pixels.astype(np.int64), hectares)

    for areas in found:
        # Not >=: without coordinates sizes are NaN, and all are kept.
        kept = ~(areas.metres < min_area * 10_000)
        summary.written += int(kept.sum())
        summary.left_out += int((~kept).sum())
        summary.tiny += int((areas.pixels[kept] < summary.tiny_pixels).sum())
        waiting.append(areas[kept])
        # A strip of large areas has few: writing each strip by itself would be a transaction for each.
        if sum(map(len, waiting)) >= BATCH:
            yield from map(on_ground, _cut(waiting))
            waiting, started = [], True
    if not started or any(map(len, waiting)):
        yield from map(on_ground, _cut(waiting))


def _cut(parts: list[Areas]) -> Iterator[Areas]:
    areas = Areas.together(parts)
    # max(1, ...): an empty batch still makes the layer and its columns.
    for first in range(0, max(1, len(areas)), BATCH):
        yield areas[first : first + BATCH]
