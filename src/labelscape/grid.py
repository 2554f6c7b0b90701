"""`Window`, a rectangle of pixels, and `Grid`, a raster's georeference (CRS, transform, shape). Frozen
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from affine import Affine
from numpy.polynomial.chebyshev import chebval2d, chebvander
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from labelscape.crs import Unrelated, ground_distances, ring_areas, transformed
from labelscape.errors import BadOption, WrongType

LATTICE = 33
"""Places along a side at which areas of pixels are computed (ours): between them a cubic spline is exact to
eight digits over a zone of UTM.
"""
DEGREE = 6
"""Of the polynomial that is used instead where it meets all these places to eight digits (ours), as it does
over a zone of UTM or a continent in an equal-area projection. scipy's splines take longer to import than a
small map takes.
"""
MEASURED = 300.0
"""Metres (ours): areas of smaller pixels are measured on squares of this side. PROJ's are right to 1e-5
square metres, a thousandth of a pixel of 0.1 m; and over such a square they change by less than 1e-9.
"""


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


def meeting(windows: Sequence[Window]) -> Callable[[Window], bool]:
    """Whether a window has pixels in common with one of these."""
    return lambda window: any((window & own).pixels for own in windows)


def decimated(shape: tuple[int, int], most: int) -> tuple[int, int]:
    """(height, width) of a picture of `shape` with at most `most` pixels a side, and one at least: a long
    strip of a few rows would be rounded to none.
    """
    shrink = max(1.0, max(shape) / most)
    return max(1, round(shape[0] / shrink)), max(1, round(shape[1] / shrink))


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

    @property
    def is_on_earth(self) -> bool:
        """Is it known where on Earth the pixels lie? Else areas are counted in pixels: without coordinates,
        in a local CRS, on another celestial body.
        """
        return self.ground_pixel_size is not None

    @cached_property
    def ground_pixel_size(self) -> float | None:
        """Side of a pixel in metres at the centre: the square root of its area on the ellipsoid. None where
        that is not known (see `is_on_earth`).

        Not the pixel size of the CRS, which is in degrees or, in Web Mercator, stretched by 1 /
        cos(latitude).
        """
        if not self.is_georeferenced:
            return None
        # One place stands for the scene; sums of areas use `pixel_areas`, which follows the change across it.
        row, col = self.height // 2, self.width // 2
        try:
            (area,) = self._ground_areas([row], [col])
            if math.isfinite(area) and area > 0:
                (area,) = self._areas_around([row], [col], math.sqrt(area))
        except Unrelated:
            return None
        return math.sqrt(area) if math.isfinite(area) and area > 0 else None

    @property
    def ground_steps(self) -> tuple[float, float] | None:
        """Metres from a pixel to the one below and to the one at its right, at the centre; None where its
        place on Earth is not known.
        """
        if not self.is_on_earth:
            return None
        row, col = self.height // 2, self.width // 2
        x, y = self.transform @ (np.array([col, col, col + 1.0]), np.array([row, row + 1.0, row]))
        down, right = ground_distances(*transformed(x, y, self.crs))
        return float(down), float(right)

    def ground_area(self, window: Window) -> float:
        """Area of `window` in square metres on the WGS 84 ellipsoid; its pixel count where its place on Earth
        is not known.
        """
        if not self.is_on_earth:
            return float(window.pixels)
        return float(self._ground_areas([window.top], [window.left], window.height, window.width)[0])

    def _ground_areas(
        self, rows: Sequence[float], columns: Sequence[float], height: int = 1, width: int = 1
    ) -> np.ndarray:
        """(N,) square metres of rectangles of pixels with their upper left corners at these places."""
        # Twenty points a side (ours): edges that are straight in the CRS are curves on the ellipsoid.
        steps = np.linspace(0, 1, 21)[:-1]
        across = np.concatenate([steps, np.ones(20), 1 - steps, np.zeros(20)]) * width
        down = np.concatenate([np.zeros(20), steps, np.ones(20), 1 - steps]) * height
        cols, lines = across + np.array(columns)[:, None], down + np.array(rows)[:, None]
        return ring_areas(*transformed(*(self.transform @ (cols, lines)), self.crs))

    def _areas_around(self, rows: Sequence[float], columns: Sequence[float], pixel_size: float) -> np.ndarray:
        """(N,) square metres of the pixels at these places, as means of squares of at least MEASURED metres
        around them. `pixel_size` is in metres, about.
        """
        side = math.ceil(MEASURED / pixel_size)
        shift = (side - 1) / 2
        return self._ground_areas(np.array(rows) - shift, np.array(columns) - shift, side, side) / side**2

    @cached_property
    def _row_areas(self) -> np.ndarray | None:
        """(H,) the area of a pixel of each row, exact on the ellipsoid, where rows are parallels: in degrees
        and in cylindrical projections, such as Mercator's, where it changes most. None elsewhere.
        """
        if self.transform.b or self.transform.d:
            return None
        lines = np.arange(self.height + 1.0)
        ends = [transformed(*(self.transform @ (0 * lines + c, lines)), self.crs) for c in (0, 1, self.width)]
        (west, lat), (east, _), (far, other) = ends
        if not (np.isfinite(ends).all() and np.allclose(lat, other, rtol=0, atol=1e-9)):
            return None
        if np.ptp(west) > 1e-9 or np.ptp(far) > 1e-9:  # meridians are no columns
            return None
        # A pixel across the date line is not 359 degrees wide.
        turn = np.radians(abs((east[0] - west[0] + 180) % 360 - 180))
        # Clipped: the outer rows of a global grid may reach beyond the poles, where there is no ground.
        return turn * np.abs(np.diff(_zone(np.clip(lat, -90, 90))))

    @cached_property
    def _area_surface(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Pixel areas in square metres by place: (N,) rows and (N,) columns, from -1 to 1 across the grid."""
        places = np.linspace(-1, 1, LATTICE)
        height, width = self.shape
        rows = np.repeat((places + 1) * (height - 1) / 2, LATTICE)
        columns = np.tile((places + 1) * (width - 1) / 2, LATTICE)
        found = self._areas_around(rows, columns, self.ground_pixel_size).reshape(LATTICE, LATTICE)
        known = np.isfinite(found) & (found > 0)  # corners of a picture of the whole Earth lie beside it
        if known.all():
            # Least squares along rows and columns in turn. Of all places at once LAPACK wants all cores, and
            # waits for those of the network.
            terms = chebvander(places, DEGREE)
            inverse = np.linalg.pinv(terms)
            factors = inverse @ found @ inverse.T
            if np.allclose(terms @ factors @ terms.T, found, rtol=1e-8, atol=0):
                return partial(_polynomial, factors)
        from scipy.interpolate import RectBivariateSpline

        found = np.where(known, found, np.median(found[known]))
        return RectBivariateSpline(places, places, found).ev

    def pixel_areas(self, rows: np.ndarray | float, columns: np.ndarray | float) -> np.ndarray:
        """Areas of the pixels at these rows and columns (N,) in square metres on the ellipsoid; 1 each where
        their place on Earth is not known.
        """
        rows, columns = np.broadcast_arrays(*np.atleast_1d(rows, columns))
        if not self.is_on_earth:
            return np.ones(rows.shape)
        if self._row_areas is not None:
            return np.interp(rows, np.arange(self.height), self._row_areas)
        # A raster of one row has its whole lattice there: 0 / 1, not 0 / 0.
        places = [2 * v / max(1, side - 1) - 1 for v, side in zip((rows, columns), self.shape)]
        return self._area_surface(*places)

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
        return self.crs == other.crs and self.same_pixels(other)

    def same_pixels(self, other: Grid, *, within: float = 0.01) -> bool:
        """The same whatever the CRSs are: for rasters of which one has a CRS that nothing relates to.
        `within` is in pixels.
        """
        if self.shape != other.shape:
            return False
        step = max(self.pixel_size)
        # Three corners fix an affine transform: the origin alone would not show that the pixel sizes differ.
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        return all(math.dist(self.transform @ c, other.transform @ c) < within * step for c in corners)


def _polynomial(factors: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    return chebval2d(down, right, factors)  # a function of a module: grids are sent to other processes


def _zone(lat: np.ndarray) -> np.ndarray:
    """Square metres of the WGS 84 ellipsoid between the equator and a latitude in degrees, for each radian of
    longitude.
    """
    radius, flattening = 6_378_137.0, 1 / 298.257223563
    e2 = flattening * (2 - flattening)
    e, sine = math.sqrt(e2), np.sin(np.radians(lat))
    return radius**2 * (1 - e2) / 2 * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
