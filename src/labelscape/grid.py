"""`Window`, a rectangle of pixels, and `Grid`, a raster's georeference (CRS, transform, shape). Frozen
values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadOption, WrongType


@dataclass(frozen=True, slots=True)
class Window:
    """Rows [top, top + height), columns [left, left + width), in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def rio(self) -> RasterioWindow:
        """The same rectangle as a rasterio window, which has columns first."""
        return RasterioWindow(self.left, self.top, self.width, self.height)

    def inset_of(self, outer: Window) -> tuple[slice, slice]:
        """This window inside `outer`, as (row, column) slices of an array."""
        row, col = self.top - outer.top, self.left - outer.left
        return slice(row, row + self.height), slice(col, col + self.width)

    def grown(self, margin: int, bounds: Window | None = None) -> Window:
        """Grow by `margin` pixels on every side, clipped to `bounds`."""
        larger = Window(
            self.top - margin, self.left - margin, self.height + 2 * margin, self.width + 2 * margin
        )
        return larger if bounds is None else larger & bounds

    def __and__(self, other: Window) -> Window:
        """The intersection; an empty window (0 pixels) where there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        # Not below 0: two negative sides would make a positive number of pixels.
        height = max(0, min(self.bottom, other.bottom) - top)
        width = max(0, min(self.right, other.right) - left)
        return Window(top, left, height, width)

    def blocks(self, size: int) -> Iterator[Window]:
        """Split into squares of side `size`, row by row; those at the right and bottom edge are smaller."""
        for top in range(self.top, self.bottom, size):
            for left in range(self.left, self.right, size):
                yield Window(top, left, min(size, self.bottom - top), min(size, self.right - left))


def check_window(window: object, whole: Window) -> None:
    """Raises WrongType where `window` is not a Window, BadOption where it is not inside `whole`."""
    if not isinstance(window, Window):
        raise WrongType(
            f"A window is ls.Window(top, left, height, width), in pixels; found a {type(window).__name__}"
            f"{f' {window!r}' if isinstance(window, (tuple, list)) else ''}."
        )
    # rasterio clips such a window without an error: the array would be smaller than asked for.
    if (window & whole) != window:
        raise BadOption(f"{window} is not inside the scene, which is {whole.height} x {whole.width} pixels.")


@dataclass(frozen=True)
class Grid:
    """A raster's georeference: CRS (or None), affine transform pixel (column, row) -> CRS, and shape in
    pixels.
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.height, self.width)

    @property
    def is_georeferenced(self) -> bool:
        # GDAL gives rasters without a georeference the identity transform, and some writers add a CRS to it.
        return self.crs is not None and not self.transform.is_identity

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Pixel width and height in units of the CRS, also for rotated grids."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @cached_property
    def ground_pixel_size(self) -> float | None:
        """Side of a pixel in metres at the centre: the square root of its area on the ellipsoid. None without
        coordinates.

        Not the pixel size of the CRS, which is in degrees or, in Web Mercator, stretched by 1 /
        cos(latitude).
        """
        if not self.is_georeferenced:
            return None
        # One place stands for the scene; sums of areas use `pixel_areas`, which follows the change across it.
        row, col = self.height // 2, self.width // 2
        return math.sqrt(self.ground_area(Window(row, col, 1, 1)))

    def ground_area(self, window: Window) -> float:
        """Area of `window` in square metres on the WGS 84 ellipsoid; its pixel count where there is no
        CRS.
        """
        return self._ground_areas([window])[0] if self.is_georeferenced else float(window.pixels)

    def _ground_areas(self, windows: list[Window]) -> list[float]:
        from pyproj import Geod, Transformer

        # One for all windows: making a transformer takes milliseconds.
        to_lonlat = Transformer.from_crs(self.crs.to_wkt(), "OGC:CRS84", always_xy=True)
        # Twenty points a side (ours): edges that are straight in the CRS are curves on the ellipsoid.
        steps = np.linspace(0, 1, 21)[:-1]
        across = np.concatenate([steps, np.ones(20), 1 - steps, np.zeros(20)])
        down = np.concatenate([np.zeros(20), steps, np.ones(20), 1 - steps])
        cols = np.array([across * w.width + w.left for w in windows])
        rows = np.array([down * w.height + w.top for w in windows])
        ellipsoid = Geod(ellps="WGS84")
        lonlat = to_lonlat.transform(*(self.transform @ (cols, rows)))
        # The sign is that of the ring's direction, which is reversed where a grid's rows run north.
        return [abs(ellipsoid.polygon_area_perimeter(lon, lat)[0]) for lon, lat in zip(*lonlat)]

    @cached_property
    def _area_lattice(self) -> np.ndarray:
        """Pixel areas in square metres at 17 x 17 places (ours): enough, since they change slowly and
        smoothly.
        """
        rows = np.linspace(0, self.height - 1, 17).round().astype(int)
        columns = np.linspace(0, self.width - 1, 17).round().astype(int)
        return np.reshape(
            self._ground_areas([Window(int(r), int(c), 1, 1) for r in rows for c in columns]), (17, 17)
        )

    def pixel_areas(self, rows: np.ndarray | float, columns: np.ndarray | float) -> np.ndarray:
        """Areas of the pixels at these rows and columns (N,) in square metres on the ellipsoid, interpolated;
        1 each without coordinates.
        """
        if not self.is_georeferenced:
            return np.ones(np.shape(np.atleast_1d(rows)))
        from scipy.ndimage import map_coordinates

        rows, columns = np.atleast_1d(rows, columns)
        # A raster of one row has its whole lattice there: 0 / 1, not 0 / 0.
        places = [rows * 16 / max(1, self.height - 1), columns * 16 / max(1, self.width - 1)]
        return map_coordinates(self._area_lattice, places, order=1, mode="nearest")

    def transform_of(self, window: Window) -> Affine:
        """The affine transform of a window: pixel (0, 0) is its upper left one."""
        return self.transform @ Affine.translation(window.left, window.top)

    def crop(self, window: Window) -> Grid:
        """The grid of a window, which may reach beyond this grid."""
        return Grid(self.crs, self.transform_of(window), window.height, window.width)

    def bounds_of(self, window: Window) -> tuple[float, float, float, float]:
        """Bounding box (min x, min y, max x, max y) of a window in the CRS, also for rotated grids."""
        corners = [
            (window.left, window.top),
            (window.right, window.top),
            (window.right, window.bottom),
            (window.left, window.bottom),
        ]
        xs, ys = zip(*(self.transform @ corner for corner in corners))
        return min(xs), min(ys), max(xs), max(ys)

    def matches(self, other: Grid) -> bool:
        """Are these the same pixels: same CRS and shape, corners within a hundredth of a pixel (ours)?"""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        step = max(self.pixel_size)
        # Three corners fix an affine transform: the origin alone would not show that the pixel sizes differ.
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        return all(math.dist(self.transform @ c, other.transform @ c) < 0.01 * step for c in corners)
