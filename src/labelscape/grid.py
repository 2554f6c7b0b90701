"""Where pixels are: `Window` in pixels, `Grid` on the ground. Frozen values; operations return new ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow


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
        """The same rectangle as rasterio says it (columns first)."""
        return RasterioWindow(self.left, self.top, self.width, self.height)

    def inset_of(self, outer: Window) -> tuple[slice, slice]:
        """Where I lie inside `outer`, as array slices."""
        row, col = self.top - outer.top, self.left - outer.left
        return slice(row, row + self.height), slice(col, col + self.width)

    def grown(self, margin: int, bounds: Window | None = None) -> Window:
        """`margin` pixels larger on every side, cut at `bounds`."""
        larger = Window(
            self.top - margin, self.left - margin, self.height + 2 * margin, self.width + 2 * margin
        )
        return larger if bounds is None else larger & bounds

    def __and__(self, other: Window) -> Window:
        """What both cover; an empty window (0 pixels) where they do not meet."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        height = max(0, min(self.bottom, other.bottom) - top)
        width = max(0, min(self.right, other.right) - left)
        return Window(top, left, height, width)

    def blocks(self, size: int) -> Iterator[Window]:
        """Row by row, the squares of side `size` that tile me; those at the right and bottom are cut."""
        for top in range(self.top, self.bottom, size):
            for left in range(self.left, self.right, size):
                yield Window(top, left, min(size, self.bottom - top), min(size, self.right - left))


@dataclass(frozen=True)
class Grid:
    """A raster's place on the ground: CRS (or none), affine pixel -> CRS transform, and shape in pixels."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def window(self) -> Window:
        """All of it."""
        return Window(0, 0, self.height, self.width)

    @property
    def is_georeferenced(self) -> bool:
        return self.crs is not None and not self.transform.is_identity

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(along columns, along rows) in CRS units; right for rotated grids too."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @cached_property
    def ground_pixel_size(self) -> float | None:
        """Side of a pixel in metres at the scene's centre (square root of its ground area); None without a
        CRS.
        """
        if not self.is_georeferenced:
            return None
        row, col = self.height // 2, self.width // 2
        return math.sqrt(self.ground_area(Window(row, col, 1, 1)))

    def ground_area(self, window: Window) -> float:
        """Area of `window` in square metres on the WGS 84 ellipsoid; its pixel count where there is no
        CRS.
        """
        return self._ground_areas([window])[0] if self.is_georeferenced else float(window.pixels)

    def _ground_areas(self, windows: list[Window]) -> list[float]:
        from pyproj import Geod, Transformer

        to_lonlat = Transformer.from_crs(
            self.crs.to_wkt(), "OGC:CRS84", always_xy=True
        )  # milliseconds each: one for all windows
        # Twenty points a side: edges straight in the CRS are curves on the ellipsoid.
        steps = np.linspace(0, 1, 21)[:-1]
        across = np.concatenate([steps, np.ones(20), 1 - steps, np.zeros(20)])
        down = np.concatenate([np.zeros(20), steps, np.ones(20), 1 - steps])
        cols = np.array([across * w.width + w.left for w in windows])
        rows = np.array([down * w.height + w.top for w in windows])
        ellipsoid = Geod(ellps="WGS84")
        lonlat = to_lonlat.transform(*(self.transform @ (cols, rows)))
        return [abs(ellipsoid.polygon_area_perimeter(lon, lat)[0]) for lon, lat in zip(*lonlat)]

    @cached_property
    def _area_lattice(self) -> np.ndarray:
        """Square metres of a pixel at 17 x 17 places spread over the grid: the area changes slowly and
        smoothly.
        """
        rows = np.linspace(0, self.height - 1, 17).round().astype(int)
        columns = np.linspace(0, self.width - 1, 17).round().astype(int)
        return np.reshape(
            self._ground_areas([Window(int(r), int(c), 1, 1) for r in rows for c in columns]), (17, 17)
        )

    def pixel_areas(self, rows: np.ndarray | float, columns: np.ndarray | float) -> np.ndarray:
        """Square metres of the pixels at these places, on the ellipsoid, between 17 x 17 places by
        interpolation; 1 without a CRS.
        """
        if not self.is_georeferenced:
            return np.ones(np.shape(np.atleast_1d(rows)))
        from scipy.ndimage import map_coordinates

        rows, columns = np.atleast_1d(rows, columns)
        places = [rows * 16 / max(1, self.height - 1), columns * 16 / max(1, self.width - 1)]
        return map_coordinates(self._area_lattice, places, order=1, mode="nearest")

    def transform_of(self, window: Window) -> Affine:
        """The affine transform of a window's own pixels."""
        return self.transform @ Affine.translation(window.left, window.top)

    def crop(self, window: Window) -> Grid:
        return Grid(self.crs, self.transform_of(window), window.height, window.width)

    def bounds_of(self, window: Window) -> tuple[float, float, float, float]:
        """(min x, min y, max x, max y) in the CRS of the rectangle around a window, rotated or not."""
        corners = [
            (window.left, window.top),
            (window.right, window.top),
            (window.right, window.bottom),
            (window.left, window.bottom),
        ]
        xs, ys = zip(*(self.transform @ corner for corner in corners))
        return min(xs), min(ys), max(xs), max(ys)

    def matches(self, other: Grid) -> bool:
        """The same pixels: same CRS and shape, corners within a hundredth of a pixel."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        step = max(self.pixel_size)
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        return all(math.dist(self.transform @ c, other.transform @ c) < 0.01 * step for c in corners)
