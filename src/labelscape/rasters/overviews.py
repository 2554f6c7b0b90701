"""Overviews of a map, each half the size of the one before, made only under blocks that were written.

A pixel of a level is made of 2 x 2 pixels of the level before; nodata pixels, and those beyond the edge of an
odd side, do not count, and a pixel is nodata only where all four are. Classes: the mode; of equally frequent
values the first in reading order (upper left, upper right, lower left, lower right). Everything else: the
mean, halves rounded up. Sides are halved and rounded up until a level fits into one block, as COGs require.

So nodata in a level means that all pixels under it are nodata.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rasterio.io import DatasetWriter

from labelscape.grid import Grid, Window
from labelscape.stages import stage

BLOCK = 512
"""Side of the blocks of all rasters of a map, unless another is asked for; a block of a level is made of
2 x 2 blocks of the one before.
"""
COUNTED = 2**22
"""Pixels whose values are counted at once (ours), an even number."""
AREA_COLUMNS = 32
"""Columns whose pixels count as of one area, beside what their rows differ by (ours)."""


Block = tuple[int, int]
"""Row and column of a block."""


@dataclass
class Level:
    """The file of one level: its shape, the blocks that were written, a histogram (256,) of their values over
    all bands, and the side of a block in pixels.
    """

    path: Path
    shape: tuple[int, int]
    blocks: set[Block] = field(default_factory=set)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    side: int = BLOCK

    def window(self, block: Block) -> Window:
        """The pixels of a block, cut at the level's edge."""
        return square(block, self.side) & Window(0, 0, *self.shape)


class Overviews:
    """The smaller levels of a uint8 raster, made while it is written: each block as soon as all under it is
    there and still in GDAL's cache, what is left in `finish`.

    `full` is the raster's own level, `file` its open data set; `create` opens a sparse file of (path, height,
    width). There are as many as it takes until one fits into a block, or `count`, fewer where one is a single
    pixel. Each level is made of the one before, so all of them cost a third more pixels than the raster.
    Memory: a few times 4 blocks of all bands. Raises what GDAL raises.
    """

    def __init__(
        self,
        full: Level,
        file: DatasetWriter,
        create: Callable[[Path, int, int], DatasetWriter],
        *,
        nodata: int,
        mode: bool,
        count: int | None = None,
    ) -> None:
        self.levels, self._files = [full], [file]
        self._create, self._nodata, self._mode = create, nodata, mode
        last = full.side if count is None else 1
        while max(self.levels[-1].shape) > last and len(self.levels) - 1 != count:
            # A name that begins as the raster's: what a failure leaves is found and removed with it.
            path = full.path.with_name(f"{full.path.name}.{len(self.levels)}.tif")
            height, width = (math.ceil(n / 2) for n in self.levels[-1].shape)
            self.levels.append(Level(path, (height, width), side=full.side))
        self._missing: list[dict[Block, int]] = [{} for _ in self.levels]
        """By level: how many pixels of the level before a block still waits for; those of no pixel yet are
        not in it.
        """

    @stage("overviews")
    def add(self, window: Window) -> None:
        """A window of the full raster was written; no pixel is twice."""
        self._add(0, window)

    def _add(self, number: int, window: Window) -> None:
        """A window of a level is there."""
        if number + 1 == len(self.levels):
            return
        for block in blocks_in(window, 2 * self.levels[0].side):
            whole, missing = self._under(number + 1, block), self._missing[number + 1]
            left = missing.get(block, whole.pixels) - (whole & window).pixels
            missing[block] = left
            if not left:
                del missing[block]
                self._make(number + 1, block)

    def _under(self, number: int, block: Block) -> Window:
        """What a block of a level is made of, in the pixels of the level before."""
        above = self.levels[number - 1]
        return square(block, 2 * above.side) & Window(0, 0, *above.shape)

    def _make(self, number: int, block: Block) -> None:
        level = self.levels[number]
        while len(self._files) <= number:
            one = self.levels[len(self._files)]
            self._files.append(self._create(one.path, *one.shape))
        values = self._files[number - 1].read(window=self._under(number, block).rio)
        made, window = halved(values, self._nodata, mode=self._mode), level.window(block)
        self._files[number].write(made, window=window.rio)
        level.counts += count_values(made)
        level.blocks.add(block)
        self._add(number, window)

    @stage("overviews")
    def finish(self) -> None:
        """Make what is left: blocks under which some pixels were never written."""
        for number, above in enumerate(self.levels[:-1], start=1):
            wanted = {(row // 2, column // 2) for row, column in above.blocks}
            for block in sorted(wanted - self.levels[number].blocks):
                self._make(number, block)

    def close(self) -> None:
        """Close the files of the smaller levels."""
        while len(self._files) > 1:
            self._files.pop().close()


def square(block: Block, side: int) -> Window:
    """The pixels of a block of so many a side."""
    return Window(block[0] * side, block[1] * side, side, side)


def blocks_in(window: Window, side: int = BLOCK) -> list[Block]:
    """The blocks of so many pixels a side that a window touches, row by row."""
    rows, columns = (
        range(first // side, -(-last // side))
        for first, last in ((window.top, window.bottom), (window.left, window.right))
    )
    return list(itertools.product(rows, columns))


def halved(values: np.ndarray, nodata: int, *, mode: bool) -> np.ndarray:
    """uint8 (C, H, W) -> (C, ceil(H / 2), ceil(W / 2)), by mode or by mean, as described above."""
    height, width = values.shape[1:]
    if height % 2 or width % 2:
        # Nodata counts for nothing: padding an odd side with it changes no mean and no mode.
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=nodata)
    return _modes(values, nodata) if mode else _means(values, nodata)


def _means(values: np.ndarray, nodata: int) -> np.ndarray:
    void = values == nodata
    # Most blocks are wholly inside or outside the scene: both are done without counting.
    if not void.any():
        return ((_sums(values) + 2) >> 2).astype(np.uint8)
    if void.all():
        return np.full((len(values), values.shape[1] // 2, values.shape[2] // 2), nodata, np.uint8)
    valid = (~void).view(np.uint8)
    sums, counts = _sums(np.where(void, np.uint8(0), values)), _sums(valid)
    return _rounded(nodata)[counts, sums]


def _sums(values: np.ndarray) -> np.ndarray:
    """uint16 sums of 2 x 2 pixels. Two neighbours are viewed as one number of two bytes: five times faster
    than adding four strided arrays (measured).
    """
    pairs = np.ascontiguousarray(values).view(np.uint16)
    across = (pairs & 255) + (pairs >> 8)
    return across[:, ::2] + across[:, 1::2]


def _rounded(nodata: int) -> np.ndarray:
    """(5, 1021) uint8: look-up table of the mean by number of valid pixels and sum; faster than dividing."""
    sums = np.arange(4 * 255 + 1)
    return np.stack(
        [np.full(len(sums), nodata), *(np.minimum((2 * sums + n) // (2 * n), 255) for n in range(1, 5))]
    ).astype(np.uint8)


def _modes(values: np.ndarray, nodata: int) -> np.ndarray:
    a, b, c, d = (np.ascontiguousarray(values[:, i::2, j::2]) for i in (0, 1) for j in (0, 1))
    # The first of four values that occurs again is a mode; where all differ the first one wins.
    found = np.where(
        (a != b) & (a != c) & (a != d), np.where((b == c) | (b == d), b, np.where(c == d, c, a)), a
    )
    voids = sum((v == nodata).view(np.uint8) for v in (a, b, c, d))
    # Only on the rim of nodata, where few pixels are, the slower count that leaves nodata out.
    some = np.nonzero((voids > 0) & (voids < 4))
    if len(some[0]):
        four = np.stack([v[some] for v in (a, b, c, d)])
        times = (four[:, None] == four).sum(axis=1, dtype=np.uint8) * (four != nodata)
        found[some] = np.take_along_axis(four, times.argmax(axis=0)[None], axis=0)[0]
    return found


def count_areas(values: np.ndarray, grid: Grid, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of uint8 values (H, W) in a window of a grid: pixels (256,) int64, and square metres (256,).

    The area of a pixel is that of its row and, beside it, what it grows by along the columns. Without that, a
    class at one side of the window would not have the hectares of its polygons.
    """
    (rows, columns), step = values.shape, AREA_COLUMNS
    of_row = values + 256 * np.arange(rows, dtype=np.int32)[:, None]
    counts = np.bincount(of_row.ravel(), minlength=256 * rows).reshape(rows, 256)
    row, column = window.top + (rows - 1) / 2, window.left + (columns - 1) / 2
    metres = grid.pixel_areas(window.top + np.arange(rows), column) @ counts
    starts = np.arange(0, columns, step)
    middles = window.left + (starts + np.minimum(starts + step, columns) - 1) / 2
    grows = grid.pixel_areas(row, middles) - grid.pixel_areas(row, column)
    # Nothing to add, and a second pass to save, where rows are parallels or the raster has no place on Earth.
    if grows.any():
        of_column = values + 256 * (np.arange(columns, dtype=np.int32) // step)
        across = np.bincount(of_column.ravel(), minlength=256 * len(starts)).reshape(len(starts), 256)
        metres += grows @ across
    return counts.sum(axis=0), metres


def count_values(values: np.ndarray) -> np.ndarray:
    """Histogram of a uint8 array: (256,) int64. Two pixels at a time, 2.5 times faster than one `bincount`
    (measured).
    """
    flat = np.ascontiguousarray(values).ravel()
    pairs, even = np.zeros((256, 256), np.int64), len(flat) // 2 * 2
    # Piece by piece: numpy makes a number of 8 bytes of every pair.
    for first in range(0, even, COUNTED):
        piece = flat[first : min(first + COUNTED, even)].view(np.uint16)
        pairs += np.bincount(piece, minlength=65536).reshape(256, 256)
    return pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(flat[even:], minlength=256)
