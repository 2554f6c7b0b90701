"""A finished class map as polygons, strip by strip in bounded memory, stitched where a strip ends.

Polygons are traced in whole pixels, where every step is exact: pieces that share an edge across a strip's border become one, pieces that
meet in a corner stay two (4-connectivity), and the pixels of a class's polygons add up to the pixels of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.errors import RasterioError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from labelscape.errors import BadFile, BadOption
from labelscape.files import written_whole
from labelscape.grid import Grid, Window
from labelscape.imagery.files import gdal, open_raster, reason
from labelscape.legend import Legend
from labelscape.maps.style import add_style

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
BATCH = 20_000
LAYER = "land_cover"


@dataclass(frozen=True)
class PolygonSummary:
    """How many polygons were written and how many were left out for their size."""

    written: int
    left_out: int


@dataclass
class _Open:
    """Pieces whose class may go on below: per piece its class value and the polygons found so far, and who owns each column of the border."""

    values: list[int] = field(default_factory=list)
    pieces: list[list[shapely.Polygon]] = field(default_factory=list)
    owner: np.ndarray | None = None


def polygonize(
    raster: str | Path, out: str | Path, legend: Legend, *, min_area_ha: float = 0.0, strip_rows: int = 1024, overwrite: bool = False,
    tick: Callable[[], None] | None = None,
) -> PolygonSummary:  # fmt: skip
    """Write the class map `raster` as polygons with the columns value, class, pixels and area_ha (hectares on the ellipsoid).

    The format follows the suffix of `out`. Pixels of 255 belong to no polygon. Polygons below `min_area_ha` are left out; without
    coordinates areas are unknown and `min_area_ha` cannot be used. Raises BadOption, BadFile.
    """
    out = Path(out)
    if out.suffix.lower() not in DRIVERS:
        raise BadOption(f"{out.name}: polygons are written as {', '.join(DRIVERS)}.")
    with gdal(), open_raster(raster) as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
        if min_area_ha and not grid.is_georeferenced:
            raise BadOption(f"{raster} has no coordinates, so no area in hectares: leave --min-area out.")
        with written_whole(out, overwrite=overwrite) as part:
            sink = _Sink(part, DRIVERS[out.suffix.lower()], grid, legend, min_area_ha)
            for value, polygon in trace(file, grid, strip_rows, tick):
                sink.add(value, polygon)
            sink.close()
            if out.suffix.lower() == ".gpkg":
                add_style(part, LAYER, legend)
    return PolygonSummary(sink.written, sink.left_out)


def trace(file: rasterio.DatasetReader, grid: Grid, strip_rows: int, tick: Callable[[], None] | None = None) -> Iterator[tuple[int, shapely.Polygon]]:
    """(class value, polygon in pixels) of every connected area of a class raster, top to bottom."""
    above = _Open()
    for top in range(0, grid.height, strip_rows):
        window = Window(top, 0, min(strip_rows, grid.height - top), grid.width)
        try:
            values = file.read(1, window=window.rio)
        except (RasterioError, OSError) as error:
            raise BadFile(f"{file.name} cannot be read: the file is truncated or damaged ({reason(error)}).") from error
        finished, above = _stitched(above, _pieces(values, top), window, last=window.bottom == grid.height)
        yield from finished
        if tick:
            tick()


def _pieces(values: np.ndarray, top: int) -> list[tuple[int, shapely.Polygon]]:
    found = rasterio.features.shapes(values, mask=values != 255, connectivity=4, transform=Affine.translation(0, top))
    return [(int(value), shapely.Polygon(g["coordinates"][0], g["coordinates"][1:])) for g, value in found]


def _stitched(above: _Open, pieces: list[tuple[int, shapely.Polygon]], strip: Window, *, last: bool) -> tuple[list[tuple[int, shapely.Polygon]], _Open]:
    """Join the open pieces from above with those of a strip: what is finished, and what stays open at the strip's lower border."""
    first_new = len(above.values)
    values = np.array(above.values + [value for value, _ in pieces], int)
    polygons = above.pieces + [[polygon] for _, polygon in pieces]
    lower_edges = [p for _, p in pieces]
    group = np.arange(len(values))
    if above.owner is not None and len(values):
        below = _owners(lower_edges, strip.top, strip.width, first_new)
        touching = (above.owner >= 0) & (below >= 0)
        pairs = np.unique(np.stack([above.owner[touching], below[touching]]), axis=1)
        pairs = pairs[:, values[pairs[0]] == values[pairs[1]]]
        links = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(values), len(values)))
        _, group = connected_components(links, directed=False)
    owner = np.full(strip.width, -1) if last else _owners(lower_edges, strip.bottom, strip.width, first_new)
    open_groups = set(group[owner[owner >= 0]].tolist())
    members: dict[int, list[int]] = {}
    for number, own_group in enumerate(group.tolist()):
        members.setdefault(own_group, []).append(number)
    finished, rest, new_number = [], _Open(), np.full(max(members, default=0) + 1, -1)
    for own_group, numbers in members.items():
        value, parts = int(values[numbers[0]]), [polygon for number in numbers for polygon in polygons[number]]
        if own_group in open_groups:
            new_number[own_group] = len(rest.values)
            rest.values.append(value)
            rest.pieces.append(parts)
        else:
            finished.append((value, _joined(parts)))
    rest.owner = owner.copy()
    rest.owner[owner >= 0] = new_number[group[owner[owner >= 0]]]
    return finished, rest


def _owners(polygons: list[shapely.Polygon], row: int, width: int, first: int) -> np.ndarray:
    """(width,) which polygon, numbered from `first`, has its border along the line y = row at each column; -1 for none."""
    owner = np.full(width, -1)
    for number, polygon in enumerate(polygons, start=first):
        _, low, _, high = polygon.bounds
        if row not in (low, high):
            continue
        points = shapely.get_coordinates(polygon.exterior).astype(int)
        along = (points[:-1, 1] == row) & (points[1:, 1] == row)
        for start, end in zip(points[:-1][along, 0], points[1:][along, 0]):
            owner[min(start, end) : max(start, end)] = number
    return owner


def _joined(parts: list[shapely.Polygon]) -> shapely.Polygon:
    """One polygon from pieces that share edges, without the corners the cuts left on straight lines."""
    if len(parts) == 1:
        return parts[0]
    whole = shapely.union_all(parts)
    assert isinstance(whole, shapely.Polygon), "pieces that share edges are one polygon"
    return shapely.Polygon(_straight(whole.exterior), [_straight(ring) for ring in whole.interiors])


def _straight(ring: shapely.LinearRing) -> np.ndarray:
    """The ring's corners where it turns; first and last included in the test."""
    points = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


class _Sink:
    """Takes polygons in pixels and writes them on the ground, a batch at a time."""

    def __init__(self, path: Path, driver: str, grid: Grid, legend: Legend, min_area_ha: float) -> None:
        self._path, self._driver, self._grid, self._min_area_ha = path, driver, grid, min_area_ha
        self._names = {c.value: c.name for c in legend.classes}
        self._batch: list[tuple[int, shapely.Polygon]] = []
        self.written = self.left_out = 0
        self._started = False

    def add(self, value: int, polygon: shapely.Polygon) -> None:
        self._batch.append((value, polygon))
        if len(self._batch) >= BATCH:
            self._flush()

    def close(self) -> None:
        if self._batch or not self._started:
            self._flush()

    def _flush(self) -> None:
        import pyogrio

        values = np.array([value for value, _ in self._batch], np.int32)
        polygons = np.array([polygon for _, polygon in self._batch], object)
        self._batch = []
        pixels = np.rint(shapely.area(polygons)).astype(np.int64) if len(polygons) else np.zeros(0, np.int64)
        centres = shapely.get_coordinates(shapely.centroid(polygons)) if len(polygons) else np.zeros((0, 2))
        hectares = pixels * self._grid.pixel_areas(centres[:, 1], centres[:, 0]) / 10_000
        if not self._grid.is_georeferenced:
            hectares = np.full(len(pixels), np.nan)
        kept = ~(hectares < self._min_area_ha)
        self.left_out += int((~kept).sum())
        self.written += int(kept.sum())
        t = self._grid.transform
        ground = shapely.transform(polygons[kept], lambda xy: np.column_stack(t @ (xy[:, 0], xy[:, 1])))
        names = np.array([self._names.get(int(v), f"value {v}") for v in values[kept]], object)
        columns = {"value": values[kept], "class": names, "pixels": pixels[kept], "area_ha": hectares[kept]}
        try:
            pyogrio.raw.write(
                self._path, shapely.to_wkb(ground), list(columns.values()), list(columns), geometry_type="Polygon", driver=self._driver, layer=LAYER,
                crs=self._grid.crs.to_wkt() if self._grid.crs else None, append=self._started,
            )  # fmt: skip
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError) as error:
            raise BadFile(f"{self._path.name} cannot be written: {error}. Is the disk full?") from error
        self._started = True
