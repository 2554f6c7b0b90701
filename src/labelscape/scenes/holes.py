"""Which blocks of a sparse GeoTIFF were never written, so that windows without data are skipped unread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import rasterio

from labelscape.grid import Window
from labelscape.scenes.files import gdal
from labelscape.scenes.validity import measured

MAX_LOOKUPS = 5_000_000
"""Blocks looked up at most, at 2 microseconds each; files of more blocks are read as if nothing were missing.
"""


def stored_blocks(dataset: rasterio.DatasetReader, indices: Sequence[int]) -> np.ndarray | None:
    """(rows, columns) bool: which blocks of a GeoTIFF are stored in any of the bands (counted from 1); None
    where that is unknown.

    Missing blocks read as the nodata value, or as 0 where there is none.
    """
    if type(dataset) is not rasterio.DatasetReader or dataset.driver != "GTiff":
        return None
    high, wide = dataset.block_shapes[0]
    rows, columns = math.ceil(dataset.height / high), math.ceil(dataset.width / wide)
    # Bands interleaved by pixel share their blocks.
    asked = indices[:1] if dataset.profile.get("interleave") == "pixel" else indices
    if rows * columns * len(asked) > MAX_LOOKUPS:
        return None
    # GDAL's TIFF driver has no BLOCK_OFFSET for a block that a sparse file leaves out. Note: column, then
    # row.
    return np.array(
        [
            [
                any(dataset.get_tag_item(f"BLOCK_OFFSET_{c}_{r}", "TIFF", bidx=i) is not None for i in asked)
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )


def may_hold(
    readers: Sequence[tuple[rasterio.DatasetReader, Sequence[int]]],
    shape: tuple[int, int],
    dtype: np.dtype,
    nodata: float | None,
) -> Callable[[Window], bool]:
    """Make a function of windows that is False where certainly no pixel is valid.

    The scene has `shape` and is read from (dataset, band numbers) pairs. All blocks are looked up once, and
    none is read.
    """
    known = []
    for dataset, indices in readers:
        # In the pixels' type, as GDAL fills missing blocks: -9999 would be another value in bytes.
        fill = np.array(dataset.nodata if dataset.nodata is not None else 0).astype(dtype)
        with gdal():
            # Where the fill value of missing blocks is valid (0 without nodata), they cannot be skipped.
            fill_is_valid = measured(fill.reshape(1, 1, 1), nodata).any()
            stored = None if fill_is_valid else stored_blocks(dataset, indices)
        # A warped or padded file has other blocks than the scene's pixels.
        if stored is None or dataset.shape != shape:
            return lambda window: True
        known.append((stored, dataset.block_shapes[0]))
    # An ordinary file: windows need not be compared with anything.
    if all(stored.all() for stored, _ in known):
        return lambda window: True
    return lambda window: any(stored[touched(window, block)].any() for stored, block in known)


def touched(window: Window, block: tuple[int, int]) -> tuple[slice, slice]:
    """The blocks of `block` (rows, columns) pixels that a window touches, as array slices of blocks."""
    return slice(window.top // block[0], math.ceil(window.bottom / block[0])), slice(
        window.left // block[1], math.ceil(window.right / block[1])
    )
