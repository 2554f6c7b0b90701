"""Align scenes: the grid of a mosaic, a grid of another pixel size, the position of a part on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from affine import Affine

from labelscape.crs import transformed
from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.scenes.files import Files
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Part, Units
from labelscape.scenes.stac import Declared
from labelscape.scenes.stack import SAME_GROUND

SAME_PIXEL = 0.01
"""Fraction of a pixel by which a scene may be shifted against a mosaic's grid and still be read unchanged."""


def declares(units: Units) -> bool:
    """Does a file declare scales and offsets? 1 and 0 are GDAL's defaults, and declare nothing."""
    return any(pair != (1.0, 0.0) for pair in units)


def file_part(source: Files, *, declared: Declared = Declared(), **options: object) -> Part:
    """Make a `Part` of a file or a band stack, which is opened and closed for it. `options` are those of
    `FileScene`; `declared` (by a STAC item) is used where the files themselves declare nothing.
    """
    if options.get("nodata") is None:
        options["declared_nodata"] = declared.nodata
    # Closed again: a mosaic may have more parts than a process may have files open.
    with FileScene(source, **options) as scene:
        units = scene.units
        if not declares(units):
            units = tuple(declared.units.get(band, (1.0, 0.0)) for band in scene.bands)
        opened = partial(FileScene, source, **options)
        return replace(scene.parts[0], open=opened, units=units)


@dataclass(frozen=True)
class Placed:
    """A part on a mosaic's grid.

    place   the window it covers there
    origin  row and column there of its first pixel
    onto    the grid it is resampled to, None where its pixels are aligned already
    """

    part: Part
    place: Window
    origin: tuple[int, int]
    onto: Grid | None


def is_stack(files: Sequence[str]) -> bool:
    """Do these files cover the same ground, as the bands of one scene do? Files without coordinates count as
    a stack; `FileScene` raises where they cannot be one.
    """
    grids = [file_part(file).grid for file in files]
    if any(g.crs is None for g in grids):
        return True
    places = {(g.crs.to_wkt(), *_rough_bounds(g)) for g in grids}
    # All files of a mosaic cover different ground. Where some share theirs, one that does not is a stray
    # band, which `FileScene` names.
    return len(places) < len(files)


def _rough_bounds(grid: Grid) -> tuple[int, int]:
    """The lower left corner of a grid's bounds in steps of SAME_GROUND, whichever way its rows run."""
    west, south, east, north = grid.bounds_of(grid.window)
    return round(west / (SAME_GROUND * (east - west))), round(south / (SAME_GROUND * (north - south)))


def mosaic_grid(parts: Sequence[Part]) -> Grid:
    """The grid that covers all parts, with the CRS, pixel size, rotation and origin of the majority.

    Raises BadInput for parts without coordinates, or with other bands or types than the first.
    """
    first = parts[0]
    for part in parts:
        if part.grid.crs is None:
            raise BadInput(f"{part.title} has no coordinates, so it cannot be part of a mosaic.")
        for what, mine, theirs in (
            ("bands", part.bands, first.bands),
            ("types", (str(part.dtype),), (str(first.dtype),)),
        ):
            if mine != theirs:
                raise BadInput(
                    f"{part.title} and {first.title} lie beside each other but do not make "
                    f"a mosaic: the {what} are {' '.join(mine)} "
                    f"and {' '.join(theirs)}."
                )
    # 9 digits: transforms that differ only by rounding in the files are alike.
    kinds = [
        (p.grid.crs.to_wkt(), *(float(f"{v:.9g}") for v in (t.a, t.b, t.d, t.e)))
        for p in parts
        for t in (p.grid.transform,)
    ]
    model = parts[kinds.index(Counter(kinds).most_common(1)[0][0])].grid
    bounds = np.array([_bounds_on(part.grid, model) for part in parts])
    # Less a hundredth of a pixel, or edges that coincide but for rounding would add a row or column of
    # nodata.
    top, left = (math.floor(v + SAME_PIXEL) for v in bounds[:, :2].min(axis=0))
    bottom, right = (math.ceil(v - SAME_PIXEL) for v in bounds[:, 2:].max(axis=0))
    return model.crop(Window(top, left, bottom - top, right - left))


def resized(grid: Grid, pixel_size: float, name: str = "the scene") -> Grid:
    """The grid of the same extent with pixels of `pixel_size` metres. Raises BadOption for a size of 0 or
    less, BadInput where there are no coordinates.
    """
    if pixel_size <= 0:
        raise BadOption(f"A pixel size of {pixel_size:g} metres was asked for; it must be above 0.")
    if not grid.is_on_earth:
        lacks = "coordinates" if not grid.is_georeferenced else "place on Earth that its CRS relates to"
        raise BadInput(f"{name} has no {lacks}, so it cannot be resampled to {pixel_size:g} metres.")
    times = pixel_size / grid.ground_pixel_size
    whole = round(times) if times > 0.5 else 1 / round(1 / times)
    # So that 10 m are exactly 2 x 2 pixels of 5 m anywhere: sizes are measured on the ellipsoid, from which
    # those of a projection differ (at UTM's central meridian by 0.04 %).
    if abs(times / whole - 1) < 1e-3:
        times = whole
    if times == 1:
        return grid
    # Rounded up: the last row may reach beyond the scene, but no pixel of it is lost.
    height, width = (max(1, math.ceil(side / times - SAME_PIXEL)) for side in grid.shape)
    return Grid(grid.crs, grid.transform @ Affine.scale(times), height, width)


def _bounds_on(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a grid in the pixels of another, through any CRS.

    Edges are sampled at 41 points (ours), since straight edges may be curves in another CRS: corners alone
    would miss their bulge.
    """
    steps = np.linspace(0, 1, 41)
    columns = np.concatenate([steps, steps, np.zeros(41), np.ones(41)]) * grid.width
    rows = np.concatenate([np.zeros(41), np.ones(41), steps, steps]) * grid.height
    xs, ys = grid.transform @ (columns, rows)
    if grid.crs != other.crs:
        xs, ys = transformed(xs, ys, grid.crs, other.crs)
    columns, rows = ~other.transform @ (np.asarray(xs), np.asarray(ys))
    return rows.min(), columns.min(), rows.max(), columns.max()


def placed_on(part: Part, grid: Grid, around: Window) -> Placed:
    """Place a part on the grid, and on what lies `around` it: unchanged where its pixels are aligned with it,
    resampled otherwise.
    """
    if part.grid.crs == grid.crs:
        own = ~grid.transform @ part.grid.transform  # pixels of the part -> pixels of the grid
        # The error at the far end of the part, in pixels: a pixel size 1e-6 off is 0.1 after 100,000 of them.
        drift = max(abs(own.a - 1), abs(own.b), abs(own.d), abs(own.e - 1)) * max(part.grid.shape)
        row, column = round(own.f), round(own.c)
        if drift < SAME_PIXEL and max(abs(own.f - row), abs(own.c - column)) < SAME_PIXEL:
            return Placed(part, Window(row, column, *part.grid.shape) & around, (row, column), None)
    top, left, bottom, right = _bounds_on(part.grid, grid)
    top, left = math.floor(top), math.floor(left)
    place = Window(top, left, math.ceil(bottom) - top, math.ceil(right) - left) & around
    return Placed(part, place, (place.top, place.left), grid.crop(place))
