"""Where scenes lie on each other's grids: the grid of a mosaic, a grid with other pixels, the place of a
part on either.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from affine import Affine

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.scenes.files import Files
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Part, Units
from labelscape.scenes.stac import Declared

SAME_PIXEL = 0.01
"""Part of a pixel by which a scene may miss a mosaic's pixels and still be read as it is."""
SAME_GROUND = 0.02
"""Part of its own extent by which a file of a band stack may differ from the others."""


def declares(units: Units) -> bool:
    """Does a file say what its values mean? A scale of 1 and an offset of 0 say nothing."""
    return any(pair != (1.0, 0.0) for pair in units)


def file_part(source: Files, *, declared: Declared = Declared(), **options: object) -> Part:
    """A file or a band stack as a part. `options` are those of `FileScene`; `declared` counts where the files
    themselves declare nothing.
    """
    with FileScene(source, **options) as scene:
        units = scene.units
        if not declares(units):
            units = tuple(declared.units.get(band, (1.0, 0.0)) for band in scene.bands)
        if scene.nodata is None and declared.nodata is not None:
            options["nodata"] = declared.nodata
        opened = partial(FileScene, source, **options)
        return replace(scene.parts[0], open=opened, units=units)


@dataclass(frozen=True)
class Placed:
    """A part on another grid: what it covers there, where its first pixel lies there, and the grid it is
    resampled to, if it must be.
    """

    part: Part
    place: Window
    origin: tuple[int, int]
    onto: Grid | None


def is_stack(files: Sequence[str]) -> bool:
    """Are these files bands of one scene, by where they lie? Files without coordinates are; `FileScene` says
    what is wrong with them if they are not.
    """
    grids = [file_part(file).grid for file in files]
    if any(g.crs is None for g in grids):
        return True
    places = {
        (g.crs.to_wkt(), *(round(v / (SAME_GROUND * size)) for v, size in zip(_corner(g), _extent(g))))
        for g in grids
    }
    # A mosaic's files all lie elsewhere; where some share their ground, one that does not is a stray.
    return len(places) < len(files)


def _corner(grid: Grid) -> tuple[float, float]:
    return grid.transform @ (0, 0)


def _extent(grid: Grid) -> tuple[float, float]:
    width, height = grid.pixel_size
    return width * grid.width, height * grid.height


def mosaic_grid(parts: Sequence[Part]) -> Grid:
    """The grid that covers all parts, on the pixels of the kind (CRS, pixel size, direction) that most of
    them have.

    Raises BadInput for parts without coordinates or with other bands or types than the first.
    """
    first = parts[0]
    for part in parts:
        if part.grid.crs is None:
            raise BadInput(f"{part.said} has no coordinates, so its place in a mosaic is unknown.")
        for what, mine, theirs in (
            ("bands", part.bands, first.bands),
            ("types", (str(part.dtype),), (str(first.dtype),)),
        ):
            if mine != theirs:
                raise BadInput(
                    f"{part.said} and {first.said} lie beside each other but do not make "
                    f"a mosaic: the {what} are {' '.join(mine)} "
                    f"and {' '.join(theirs)}."
                )
    kinds = [
        (p.grid.crs.to_wkt(), *(float(f"{v:.9g}") for v in (t.a, t.b, t.d, t.e)))
        for p in parts
        for t in (p.grid.transform,)
    ]
    model = parts[kinds.index(Counter(kinds).most_common(1)[0][0])].grid
    bounds = np.array([_bounds_on(part.grid, model) for part in parts])
    top, left = (math.floor(v + SAME_PIXEL) for v in bounds[:, :2].min(axis=0))
    bottom, right = (math.ceil(v - SAME_PIXEL) for v in bounds[:, 2:].max(axis=0))
    return model.crop(Window(top, left, bottom - top, right - left))


def resized(grid: Grid, pixel_size: float, name: str = "the scene") -> Grid:
    """The grid over the same ground with pixels of `pixel_size` metres. Raises BadOption, BadInput where
    there are no coordinates.
    """
    if pixel_size <= 0:
        raise BadOption(f"A pixel size of {pixel_size:g} metres was asked for; it must be above 0.")
    if not grid.is_georeferenced:
        raise BadInput(f"{name} has no coordinates, so it cannot be resampled to {pixel_size:g} metres.")
    times = pixel_size / grid.ground_pixel_size
    whole = round(times) if times > 0.5 else 1 / round(1 / times)
    if (
        abs(times / whole - 1) < 1e-3
    ):  # so that 10 m are exactly 2 x 2 pixels of 5 m, wherever on the ellipsoid
        times = whole
    if times == 1:
        return grid
    height, width = (max(1, math.ceil(side / times - SAME_PIXEL)) for side in grid.shape)
    return Grid(grid.crs, grid.transform @ Affine.scale(times), height, width)


def _bounds_on(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a grid in the pixels of another, through any CRS; edges are followed,
    since they may be curves there.
    """
    steps = np.linspace(0, 1, 41)
    columns = np.concatenate([steps, steps, np.zeros(41), np.ones(41)]) * grid.width
    rows = np.concatenate([np.zeros(41), np.ones(41), steps, steps]) * grid.height
    xs, ys = grid.transform @ (columns, rows)
    if grid.crs != other.crs:
        from pyproj import Transformer

        xs, ys = Transformer.from_crs(grid.crs.to_wkt(), other.crs.to_wkt(), always_xy=True).transform(xs, ys)
    columns, rows = ~other.transform @ (np.asarray(xs), np.asarray(ys))
    return rows.min(), columns.min(), rows.max(), columns.max()


def placed_on(part: Part, grid: Grid) -> Placed:
    """Where a part lies on the grid: on its very pixels where it does, else resampled to them."""
    if part.grid.crs == grid.crs:
        own = ~grid.transform @ part.grid.transform  # pixels of the part -> pixels of the grid
        drift = max(abs(own.a - 1), abs(own.b), abs(own.d), abs(own.e - 1)) * max(part.grid.shape)
        row, column = round(own.f), round(own.c)
        if drift < SAME_PIXEL and max(abs(own.f - row), abs(own.c - column)) < SAME_PIXEL:
            return Placed(part, Window(row, column, *part.grid.shape) & grid.window, (row, column), None)
    top, left, bottom, right = _bounds_on(part.grid, grid)
    top, left = math.floor(top), math.floor(left)
    place = Window(top, left, math.ceil(bottom) - top, math.ceil(right) - left) & grid.window
    return Placed(part, place, (place.top, place.left), grid.crop(place))
