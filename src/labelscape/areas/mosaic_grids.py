"""The class maps of a mosaic, their classes, and the grids that they are put on (see `mosaic`)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from labelscape.crs import bounds_in, utm_zone
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.rasters.class_map import class_raster
from labelscape.rasters.class_names import legend_in
from labelscape.scenes.files import is_local, is_raster_there, reading, sibling, stem_of_place

SAME_PIXEL = 0.01
"""Part of a pixel by which maps may be shifted against each other and still have the same pixels (ours)."""
NAME_A_GRID = "name the grid of the mosaic: `like=RASTER`, or `crs` and `pixel_size`"


@dataclass(frozen=True)
class MapSource:
    """A class map of a mosaic.

    classes  (256,) uint8: value in its file -> value in the mosaic, 255 for nodata
    zone     number of its CRS among those of the mosaic
    state    size and time of the last change: is it still the same file at the end? None where the system
             cannot know (servers, archives)
    """

    path: str
    grid: Grid
    classes: np.ndarray
    zone: int
    state: tuple[int, int] | None

    def beside(self, kind: str) -> str:
        """The path of another raster of the same map: a_class.tif -> a_confidence.tif."""
        return str(sibling(self.path, f"{stem_of_place(self.path).removesuffix('_class')}_{kind}.tif"))

    @property
    def has(self) -> frozenset[str]:
        """Which of confidence and proba are beside it."""
        return frozenset(kind for kind in ("confidence", "proba") if is_raster_there(self.beside(kind)))

    def check_same(self) -> None:
        """Raises BadFile where the file was changed since."""
        if _state(self.path) != self.state:
            raise BadFile(f"{self.path} was changed while the mosaic was made; start again.")


LONGEST = 2**31 - 1
"""Pixels of a side of a raster, as GDAL counts them."""
MOST = 10**13
"""Pixels that maps cover, in all (ours): all land at 10 m is 1.5e12, whose blocks take 0.6 GiB to list."""


def _state(path: str) -> tuple[int, int] | None:
    if not is_local(path):
        return None
    try:
        about = os.stat(path)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from error
    return about.st_size, about.st_mtime_ns


def read_sources(paths: Sequence[str], *, by_name: bool) -> tuple[tuple[MapSource, ...], Legend]:
    """The maps, and the legend of their mosaic. Raises BadFile, BadInput where one is no class map, has no
    coordinates, or other classes than the first; with `by_name` classes of one name are one class.
    """
    legends: dict[tuple, tuple[Legend, str]] = {}
    crs: list[CRS] = []
    found: list[tuple[str, Grid, tuple, int, int, tuple[int, int] | None]] = []
    for path in paths:
        state = _state(path)
        with reading(path) as file:
            opened = class_raster(file, path)
            grid, nodata = opened.grid, opened.nodata
            if not grid.is_georeferenced:
                raise BadInput(f"{path} has no coordinates: its place in a mosaic is not known.")
            legend = legend_in(opened)
        key = tuple(zip(legend.values, legend.names))
        legends.setdefault(key, (legend, path))
        zone = next((n for n, one in enumerate(crs) if one == grid.crs), len(crs))
        if zone == len(crs):
            crs.append(grid.crs)
        # One object for all maps of a CRS: comparing CRSs costs more than anything else here.
        found.append((path, replace(grid, crs=crs[zone]), key, nodata, zone, state))
    if not found:
        raise BadOption("A mosaic needs at least one class map.")
    whole = _one_legend(list(legends.values()), by_name=by_name)
    tables = {(key, nodata): _table(key, nodata, whole) for _, _, key, nodata, _, _ in found}
    sources = tuple(
        MapSource(path, grid, tables[key, nodata], zone, state)
        for path, grid, key, nodata, zone, state in found
    )
    return sources, whole


def _one_legend(found: Sequence[tuple[Legend, str]], *, by_name: bool) -> Legend:
    (first, path), *others = found
    classes = list(first.classes)
    for legend, other in others:
        if not by_name:
            raise BadInput(
                f"{path} and {other} have different classes ({_listed(first)}; {_listed(legend)}). Where "
                "classes of one name are the same, pass `by_name=True`."
            )
        taken = {c.value for c in classes}
        for one in legend.classes:
            if one.name in [c.name for c in classes]:
                continue
            free = one.value if one.value not in taken else next(v for v in range(256) if v not in taken)
            classes.append(LandClass(free, one.name, one.color, one.description))
            taken.add(free)
    return Legend(tuple(classes))


def _listed(legend: Legend) -> str:
    return ", ".join(f"{c.name}={c.value}" for c in legend.classes)


def _table(key: tuple, nodata: int, whole: Legend) -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    for value, name in key:
        table[value] = whole.values[whole.names.index(name)]
    table[nodata] = IGNORE
    return table


# ------------------------------------------------------------------------------------------------- the grids


def zone_grids(sources: Sequence[MapSource]) -> list[Grid]:
    """The grid of each CRS: over all its maps, on their pixels. Raises BadInput where these differ."""
    grids = []
    for zone in range(1 + max(source.zone for source in sources)):
        own = [source for source in sources if source.zone == zone]
        first = own[0].grid
        edges = []
        for source in own:
            shift = shift_between(source.grid, first)
            if shift is None:
                raise BadInput(_unlike(own[0], source))
            edges.append((*shift, shift[0] + source.grid.height, shift[1] + source.grid.width))
        top, left, bottom, right = (f(side) for f, side in zip((min, min, max, max), zip(*edges)))
        grids.append(first.crop(Window(top, left, bottom - top, right - left)))
    return grids


def shift_between(grid: Grid, onto: Grid) -> tuple[int, int] | None:
    """Row and column of a grid's first pixel on another one, where both have the same pixels; else None."""
    if grid.crs != onto.crs:
        return None
    inverse = ~onto.transform
    column, row = inverse @ (grid.transform @ (0, 0))
    across, down = (inverse @ (grid.transform @ far) for far in ((grid.width, 0), (0, grid.height)))
    ends = (column, row, across[0] - grid.width, across[1], down[0], down[1] - grid.height)
    origin = round(row), round(column)
    # All corners, not the first alone: pixels of slightly another size drift apart.
    wanted = (origin[1], origin[0]) * 3
    return origin if all(abs(a - b) < SAME_PIXEL for a, b in zip(ends, wanted)) else None


def _unlike(one: MapSource, other: MapSource) -> str:
    sizes = [source.grid.pixel_size for source in (one, other)]
    if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(*sizes)):
        said = " and ".join(f"{a:g} x {b:g}" for a, b in sizes)
        return f"{one.path} and {other.path} have pixels of different size ({said}): {NAME_A_GRID}."
    column, row = ~one.grid.transform @ (other.grid.transform @ (0, 0))
    return (
        f"{other.path} is shifted against {one.path} by part of a pixel ({column % 1:.2f}, {row % 1:.2f}), "
        f"or rotated: {NAME_A_GRID}."
    )


def named_grid(
    sources: Sequence[MapSource], like: str | Path | None, crs: str | CRS | None, pixel_size: float | None
) -> Grid:
    """The grid that the user names: that of a raster, or a CRS and a pixel size in its units, over all maps,
    with edges at multiples of the pixel size. Raises BadOption, BadFile.
    """
    if like is not None:
        if crs is not None or pixel_size is not None:
            raise BadOption("`like` names the whole grid: leave `crs` and `pixel_size` out.")
        with reading(like) as file:
            grid = Grid(file.crs, file.transform, file.height, file.width)
        if not grid.is_georeferenced:
            raise BadInput(f"{like} has no coordinates, so it names no grid.")
        return grid
    zones = {source.zone: source.grid.crs for source in sources}
    if crs is None and len(zones) > 1:
        raise BadOption(f"The maps have {len(zones)} CRSs: beside `pixel_size` name the `crs` of the mosaic.")
    if pixel_size is None:
        raise BadOption("Beside `crs` name the `pixel_size` of the mosaic, in units of the CRS.")
    if not 0 < pixel_size < math.inf:
        raise BadOption(f"`pixel_size={pixel_size}` must be a number above 0, in units of the CRS.")
    target = zones[0] if crs is None else crs_of(crs)
    boxes = np.array([bounds_in(s.grid.bounds_of(s.grid.window), s.grid.crs, target) for s in sources])
    if not np.isfinite(boxes).all():
        where = sources[int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])]
        raise BadInput(f"{where.path} has no place in the CRS {target}: name another one.")
    with np.errstate(over="ignore"):  # infinite is too many too
        sides = (boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)) / pixel_size
        covered = ((boxes[:, 2:] - boxes[:, :2]) / pixel_size).prod(axis=1).sum()
    if not (sides.max() < LONGEST and covered < MOST):
        raise BadOption(
            f"`pixel_size={pixel_size}` makes a mosaic of {sides[0]:.3g} x {sides[1]:.3g} pixels; a raster "
            f"has up to {LONGEST:,} a side, and maps may cover up to {MOST:,} pixels of a mosaic. It is in "
            f"units of the CRS {target}."
        )
    # A little less than the bounds: maps whose edges are multiples themselves get no empty row.
    slack = 1e-6
    left, top = (math.floor(boxes[:, i].min() / pixel_size + slack) for i in (0, 1))
    right, bottom = (math.ceil(boxes[:, i].max() / pixel_size - slack) for i in (2, 3))
    transform = Affine(pixel_size, 0, left * pixel_size, 0, -pixel_size, bottom * pixel_size)
    return Grid(target, transform, max(1, bottom - top), max(1, right - left))


def crs_of(given: str | CRS) -> CRS:
    """A CRS from EPSG:32633, WKT or a PROJ text. Raises BadOption."""
    from rasterio.errors import CRSError

    try:
        return given if isinstance(given, CRS) else CRS.from_user_input(given)
    except (CRSError, ValueError) as error:
        raise BadOption(f"`crs={given}` is not known; expected a code such as EPSG:32633.") from error


# ---------------------------------------------------------------------------- which zone a place belongs to


@lru_cache(maxsize=64)
def utm_of(wkt: str) -> tuple[int, bool] | None:
    """Number of a UTM zone, and whether it is the northern one; None of other CRSs."""
    zone = utm_zone(wkt)
    return None if zone is None else (int(zone[:-1]), zone[-1] == "N")


def zone_costs(crs: Mapping[int, CRS], lon: np.ndarray, lat: np.ndarray) -> dict[int, np.ndarray]:
    """How badly each zone suits places (N,): of UTM zones the one whose central meridian is nearest suits
    best; of other CRSs the one that came first.
    """
    zones = {number: utm_of(one.to_wkt()) for number, one in crs.items()}
    if any(zone is None for zone in zones.values()):
        return {number: np.full(lon.shape, float(number)) for number in crs}
    costs = {}
    for number, (zone, north) in zones.items():
        away = np.abs((lon - (6 * zone - 183) + 180) % 360 - 180)
        costs[number] = away + 1e-3 * ((lat >= 0) != north)
    return costs
