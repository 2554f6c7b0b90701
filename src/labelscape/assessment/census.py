"""The pixels from which a sample is drawn: strata of a map, counted exactly in one pass.

Strips have the map's whole width, so that pixels are met in reading order whatever the height of a strip: the
same seed draws the same pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from labelscape.areas.trace import strip_height
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import gdal, is_raster_there, reading, sibling, stem_of_place

AREA_COLUMNS = 256
"""Pixels of a row whose ground area is taken as equal: it changes slowly along a row."""
PART_PIXELS = 2**21
"""Pixels for which strata, areas and blocks are worked out at once: some 50 bytes each."""
MOST_BLOCKS = 20_000_000
"""Blocks times strata that are counted at once: 8 bytes each."""


@dataclass(frozen=True, eq=False)
class Strata:
    """What divides a map into strata: the uint8 raster `path` (None: the map itself), and the stratum of each
    of its values, `table` (256,), -1 for none.
    """

    by: str
    names: tuple[str, ...]
    table: np.ndarray
    path: str | Path | None = None


@dataclass(frozen=True, eq=False)
class Census:
    """All pixels of a map that are not nodata.

    pixels, area  (H, K) by stratum and map class; area in square metres, in pixels without coordinates
    sha256        of the map's grid and pixels
    blocks        (B, H) pixels of each block in each stratum, with block_area (B,); None without blocks
    """

    pixels: np.ndarray
    area: np.ndarray
    sha256: str
    blocks: np.ndarray | None = None
    block_area: np.ndarray | None = None


class ClassMap:
    """An open class map and the raster of its strata, read in windows: class and stratum index of each pixel,
    -1 for nodata.
    """

    def __init__(self, raster: ClassRaster, legend: Legend) -> None:
        self.path, self.raster, self.legend = raster.path, raster, legend
        self.grid = raster.grid
        # -2: a value that no class has, told apart from nodata.
        self.table = np.full(256, -2, np.int16)
        self.table[legend.values] = np.arange(len(legend))
        self.table[[IGNORE, raster.nodata]] = -1
        self.strata = Strata("map classes", tuple(legend.names), self.table)
        self.strata_raster = raster

    def values(self, window: Window) -> np.ndarray:
        return self.raster.read(window)

    def classes(self, values: np.ndarray) -> np.ndarray:
        """Class indices of values; -1 for nodata. Raises BadInput for values without a name."""
        classes = self.table[values]
        if (classes == -2).any():
            unknown = sorted(set(np.unique(values[classes == -2]).tolist()))
            raise BadInput(
                f"{self.path} holds the value{'s' * (len(unknown) > 1)} {', '.join(map(str, unknown))}, "
                "which its attribute table does not name. Name all classes of the map, or make them "
                "nodata (255)."
            )
        return classes

    def members(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, class and stratum indices (H, W) of a window; both indices are -1 for nodata of the map.
        Raises BadInput where a pixel of the map has no stratum.
        """
        values = self.values(window)
        classes = self.classes(values)
        if self.strata.path is None:
            return values, classes, classes
        strata = self.strata.table[self.strata_raster.read(window)]
        strata = np.where(classes < 0, np.int16(-1), strata)
        if ((strata < 0) & (classes >= 0)).any():
            row, column = np.argwhere((strata < 0) & (classes >= 0))[0]
            raise BadInput(
                f"{self.strata.path} has no stratum for row {window.top + row}, column "
                f"{window.left + column}, which {self.path} maps: areas of the whole map need a stratum for "
                "every pixel. Give a raster that covers the map, or make those pixels of the map nodata."
            )
        return values, classes, strata


@contextmanager
def open_map(path: str | Path, strata: Strata | None = None) -> Iterator[ClassMap]:
    """Open a class map, and the raster of its strata where it is another. Raises BadInput where they are no
    class maps on one grid, BadFile where they cannot be read.
    """
    legend = legend_of(path)[0]
    with gdal(), ExitStack() as stack:
        one = ClassMap(class_raster(stack.enter_context(reading(path)), path), legend)
        if strata is not None:
            one.strata = strata
            if strata.path is not None:
                # Not `class_raster`: bands of confidence are strata too.
                one.strata_raster = ClassRaster(stack.enter_context(reading(strata.path)), strata.path)
                other = one.strata_raster.grid
                if not one.grid.matches(other):
                    raise BadInput(
                        f"{strata.path} ({other.width} x {other.height} pixels) is not on the grid of {path} "
                        f"({one.grid.width} x {one.grid.height}): strata must be known for every pixel of "
                        "the map. Resample it to the map's grid, by nearest neighbour."
                    )
        yield one


def strata_of_raster(path: str | Path, by: str | None = None) -> Strata:
    """The classes of another class raster as strata. Raises BadInput, BadFile."""
    legend = legend_of(path)[0]
    table = np.full(256, -1, np.int16)
    table[legend.values] = np.arange(len(legend))
    return Strata(by or f"classes of {Path(path).name}", tuple(legend.names), table, path)


def confidence_beside(raster: str | Path, option: str) -> Path | str:
    """The confidence beside a map. Raises BadFile where it is not there; `option` names it then."""
    stem = stem_of_place(raster).removesuffix("_class").removesuffix("_sieved")
    path = sibling(raster, f"{stem}_confidence.tif")
    if not is_raster_there(path):
        raise BadFile(f"{path} does not exist; name the raster of the map's confidence with `{option}`.")
    return path


def check_confidence(file: rasterio.DatasetReader, path: str | Path) -> None:
    """Raises BadInput for a raster that is not of one uint8 band."""
    if file.count != 1 or file.dtypes[0] != "uint8":
        raise BadInput(
            f"{path} has {file.count} band(s) of {file.dtypes[0]}; the confidence of a map (0 to 100, one "
            "band of uint8) was expected."
        )


def strata_of_confidence(path: str | Path, limits: Sequence[float]) -> Strata:
    """Bands of confidence, in per cent, as strata: limits 60, 85 make three. Raises BadOption for limits that
    do not rise within 0..100, BadInput for a raster that is not of one uint8 band, BadFile.
    """
    limits = [float(x) for x in limits]
    if not limits or sorted(set(limits)) != limits or not 0 < limits[0] <= limits[-1] < 100:
        raise BadOption(
            f"Confidence bands are limits in per cent that rise between 0 and 100, such as 60,85; found "
            f"{', '.join(f'{x:g}' for x in limits) or 'none'}."
        )
    with reading(path) as file:
        check_confidence(file, path)
    # A limit belongs to the band above it.
    table = np.digitize(np.arange(256), limits).astype(np.int16)
    # 255 and other values above 100 are no confidence: nodata.
    table[101:] = -1
    ends = ["0", *(f"{x:g}" for x in limits), "100"]
    names = tuple(f"confidence {low} to {high} %" for low, high in zip(ends, ends[1:]))
    return Strata("bands of confidence", names, table, path)


def parts(
    one: ClassMap, rows: int | None = None, tick: Callable[[int], None] | None = None
) -> Iterator[tuple[Window, np.ndarray, np.ndarray, np.ndarray]]:
    """A map from the top: windows of its whole width with `ClassMap.members` of each, read strip by strip.

    Read by the strip, since blocks of the file are decoded whole; handed on in fewer rows, since what is
    computed from a pixel takes many times its byte.
    """
    for strip in strips(one.grid, rows):
        found = one.members(strip)
        height = max(1, PART_PIXELS // strip.width)
        for top in range(0, strip.height, height):
            rows_of = slice(top, min(top + height, strip.height))
            window = Window(strip.top + top, 0, rows_of.stop - top, strip.width)
            yield window, *(array[rows_of] for array in found)
        if tick:
            tick(strip.height)


def strips(grid: Grid, rows: int | None = None) -> Iterator[Window]:
    """Windows of the grid's whole width, from the top."""
    rows = rows or strip_height(grid.width)
    for top in range(0, grid.height, rows):
        yield Window(top, 0, min(rows, grid.height - top), grid.width)


def count(
    one: ClassMap,
    *,
    block: int | None = None,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> Census:
    """Count a map's pixels by stratum and class; with `block`, also by squares of that many pixels a side.

    Raises BadInput for a map without pixels, BadOption for blocks too small to be counted.
    """
    strata, classes = len(one.strata.names), len(one.legend)
    pixels, area = np.zeros(strata * classes, np.int64), np.zeros(strata * classes)
    # The map's values are hashed in the pass that counts them: `assess` knows by it that strata still hold.
    digest = hashlib.sha256(_place_of(one.grid))
    across = -(-one.grid.width // block) if block else 0
    down = -(-one.grid.height // block) if block else 0
    if across * down * strata > MOST_BLOCKS:
        raise BadOption(
            f"Blocks of {block} pixels are {across * down:,}, too many to count; take larger ones."
        )
    blocks, block_area = np.zeros((across * down, strata), np.int64), np.zeros(across * down)
    for strip, values, kinds, of in parts(one, strip_rows, tick):
        digest.update(np.ascontiguousarray(values))
        inside = np.flatnonzero(of.ravel() >= 0)
        # Stratum and class as one number: a single bincount fills the whole table.
        cell = of.ravel()[inside].astype(np.int64) * classes + kinds.ravel()[inside]
        metres = pixel_areas(one.grid, strip).ravel()[inside]
        pixels += np.bincount(cell, minlength=len(pixels))
        # Ground area beside pixels: in degrees or Mercator they differ along the map, and weights W_h from
        # counts of pixels would be biased towards high latitudes.
        area += np.bincount(cell, weights=metres, minlength=len(area))
        if block:
            rows, columns = np.divmod(inside, strip.width)
            number = (rows + strip.top) // block * across + columns // block
            place = number * strata + of.ravel()[inside]
            blocks += np.bincount(place, minlength=blocks.size).reshape(blocks.shape)
            block_area += np.bincount(number, weights=metres, minlength=len(block_area))
    if not pixels.sum():
        raise BadInput(f"{one.path} has no pixel to sample: all of it is nodata.")
    shape = strata, classes
    found = (blocks, block_area) if block else (None, None)
    return Census(pixels.reshape(shape), area.reshape(shape), digest.hexdigest(), *found)


def content_hash(
    path: str | Path, *, strip_rows: int | None = None, tick: Callable[[int], None] | None = None
) -> str:
    """SHA-256 of a class map's grid and pixels, as `Census` has it: names, colours and compression may
    change.
    """
    with reading(path) as file:
        raster = class_raster(file, path)
        grid = raster.grid
        digest = hashlib.sha256(_place_of(grid))
        for strip in strips(grid, strip_rows):
            digest.update(np.ascontiguousarray(raster.read(strip)))
            if tick:
                tick(strip.height)
    return digest.hexdigest()


def _place_of(grid: Grid) -> bytes:
    # Rounded: copies of a file in other formats differ in the last digits of the transform.
    place = [f"{x:.9g}" for x in grid.transform[:6]]
    return repr((grid.shape, place)).encode()


def pixel_areas(grid: Grid, window: Window) -> np.ndarray:
    """(H, W) ground areas of a window's pixels in square metres; 1 each without coordinates."""
    if not grid.is_on_earth:
        return np.ones(window.shape)
    starts = np.arange(window.left, window.right, AREA_COLUMNS)
    lengths = np.diff(starts, append=window.right)
    rows = np.repeat(np.arange(window.top, window.bottom), len(starts))
    # At the middle of each run: area is close to linear along it, so that the errors of both ends cancel.
    middles = np.tile(starts + (lengths - 1) / 2, window.height)
    areas = grid.pixel_areas(rows, middles).reshape(window.height, len(starts))
    return np.repeat(areas, lengths, axis=1)
