"""Smaller levels of a map, each half as large as the one before, made only where something was written.

A pixel of a level is made of the 2 x 2 pixels under it; nodata pixels, and those beyond the edge of an odd
side, have no say, and a pixel is nodata only where all four are. Classes: the value that most of them have;
of values as frequent as each other the one that comes first in reading order (upper left, upper right, lower
left, lower right). Everything else: their mean, halves rounded up. Sides are halved and rounded up until a
level fits into one block, as a COG wants it.

So a level of nodata says for certain that nothing lies under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from labelscape.grid import Window

BLOCK = 512
"""Side of the blocks of all rasters of a map; a block of a level is made of 2 x 2 blocks of the one
before.
"""


@dataclass
class Level:
    """A file of one level: its shape, the blocks (row, column) that hold something, and how many pixels
    have which value, (256,) all bands.
    """

    path: Path
    shape: tuple[int, int]
    blocks: Collection[tuple[int, int]]
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def window(self, block: tuple[int, int]) -> Window:
        """The pixels of a block, cut at the level's edge."""
        return Window(block[0] * BLOCK, block[1] * BLOCK, BLOCK, BLOCK) & Window(0, 0, *self.shape)


def build_levels(
    full: Level, create: Callable[[Path, int, int], rasterio.io.DatasetWriter], *, nodata: int, mode: bool
) -> list[Level]:
    """All smaller levels of a finished uint8 raster, one file each beside it; `create` opens a sparse file of
    (path, height, width).

    Memory: a few times 4 blocks of all bands. Raises what GDAL raises.
    """
    levels = [full]
    while max(levels[-1].shape) > BLOCK:
        above = levels[-1]
        height, width = (math.ceil(n / 2) for n in above.shape)
        level = Level(
            full.path.with_name(f"{full.path.name}.{len(levels)}.tif"),
            (height, width),
            {(r // 2, c // 2) for r, c in above.blocks},
        )
        with rasterio.open(above.path) as source, create(level.path, height, width) as file:
            for row, column in sorted(level.blocks):
                four = Window(2 * row * BLOCK, 2 * column * BLOCK, 2 * BLOCK, 2 * BLOCK) & Window(
                    0, 0, *above.shape
                )
                made = halved(source.read(window=four.rio), nodata, mode=mode)
                file.write(made, window=level.window((row, column)).rio)
                level.counts += count_values(made)
        levels.append(level)
    return levels[1:]


def halved(values: np.ndarray, nodata: int, *, mode: bool) -> np.ndarray:
    """uint8 (C, H, W) -> (C, ceil(H / 2), ceil(W / 2)), by mode or by mean as the module says."""
    height, width = values.shape[1:]
    if height % 2 or width % 2:
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=nodata)
    return _modes(values, nodata) if mode else _means(values, nodata)


def _means(values: np.ndarray, nodata: int) -> np.ndarray:
    void = values == nodata
    if not void.any():
        return ((_sums(values) + 2) >> 2).astype(np.uint8)
    if void.all():
        return np.full((len(values), values.shape[1] // 2, values.shape[2] // 2), nodata, np.uint8)
    valid = (~void).view(np.uint8)
    sums, counts = _sums(np.where(void, np.uint8(0), values)), _sums(valid)
    return _rounded(nodata)[counts, sums]


def _sums(values: np.ndarray) -> np.ndarray:
    """uint16 sums of 2 x 2 pixels. Two neighbours are looked at as one number of two bytes: five times
    faster than four strided arrays.
    """
    pairs = np.ascontiguousarray(values).view(np.uint16)
    across = (pairs & 255) + (pairs >> 8)
    return across[:, ::2] + across[:, 1::2]


def _rounded(nodata: int) -> np.ndarray:
    """(5, 1021) uint8: the mean by how many pixels count and what their sum is."""
    sums = np.arange(4 * 255 + 1)
    return np.stack(
        [np.full(len(sums), nodata), *(np.minimum((2 * sums + n) // (2 * n), 255) for n in range(1, 5))]
    ).astype(np.uint8)


def _modes(values: np.ndarray, nodata: int) -> np.ndarray:
    a, b, c, d = (np.ascontiguousarray(values[:, i::2, j::2]) for i in (0, 1) for j in (0, 1))
    # Of four values the first that has an equal is never rarer than another; where all differ the first wins.
    found = np.where(
        (a != b) & (a != c) & (a != d), np.where((b == c) | (b == d), b, np.where(c == d, c, a)), a
    )
    voids = sum((v == nodata).view(np.uint8) for v in (a, b, c, d))
    some = np.nonzero((voids > 0) & (voids < 4))
    if len(some[0]):
        four = np.stack([v[some] for v in (a, b, c, d)])
        times = (four[:, None] == four).sum(axis=1, dtype=np.uint8) * (four != nodata)
        found[some] = np.take_along_axis(four, times.argmax(axis=0)[None], axis=0)[0]
    return found


def count_values(values: np.ndarray) -> np.ndarray:
    """How often each of 0..255 stands in a uint8 array: (256,) int64. Two at a time, 2.5 times faster than
    one `bincount`.
    """
    flat = np.ascontiguousarray(values).ravel()
    even = len(flat) // 2 * 2
    pairs = np.bincount(flat[:even].view(np.uint16), minlength=65536).reshape(256, 256)
    return pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(flat[even:], minlength=256)
