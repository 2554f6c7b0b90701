"""Where a sparse file holds nothing, known without reading a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import rasterio

from labelscape.grid import Window
from labelscape.scenes.files import gdal
from labelscape.scenes.validity import measured

MOST_ASKED = 5_000_000
"""Blocks that are asked for at most, at 2 microseconds each; nothing is said of files of more."""


def stored_blocks(dataset: rasterio.DatasetReader, indices: Sequence[int]) -> np.ndarray | None:
    """(rows, columns) bool: which blocks of a GeoTIFF's bands (counted from 1) the file has, in any of them;
    None where that is unknown.

    Others read as the nodata value, as 0 where there is none.
    """
    if type(dataset) is not rasterio.DatasetReader or dataset.driver != "GTiff":
        return None
    high, wide = dataset.block_shapes[0]
    rows, columns = math.ceil(dataset.height / high), math.ceil(dataset.width / wide)
    asked = indices[:1] if dataset.profile.get("interleave") == "pixel" else indices
    if rows * columns * len(asked) > MOST_ASKED:
        return None
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
    """A function that is False for windows that certainly have no valid pixel, of a scene of `shape` whose
    bands the readers, (dataset, band numbers), yield. Asks once for all blocks, and reads none.
    """
    known = []
    for dataset, indices in readers:
        fill = np.array(dataset.nodata if dataset.nodata is not None else 0).astype(dtype)
        with gdal():
            counts = measured(fill.reshape(1, 1, 1), nodata).any()
            stored = None if counts else stored_blocks(dataset, indices)
        if stored is None or dataset.shape != shape:
            return lambda window: True
        known.append((stored, dataset.block_shapes[0]))
    if all(stored.all() for stored, _ in known):
        return lambda window: True
    return lambda window: any(stored[touched(window, block)].any() for stored, block in known)


def touched(window: Window, block: tuple[int, int]) -> tuple[slice, slice]:
    """The blocks of a shape (rows, columns) that a window touches, as array slices."""
    return slice(window.top // block[0], math.ceil(window.bottom / block[0])), slice(
        window.left // block[1], math.ceil(window.right / block[1])
    )
