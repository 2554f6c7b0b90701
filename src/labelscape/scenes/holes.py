"""Which blocks of a sparse GeoTIFF were never written, so that windows without data are skipped unread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import rasterio

from labelscape.grid import Window
from labelscape.scenes.files import gdal
from labelscape.scenes.layers import Layer
from labelscape.scenes.validity import may_be_stored, measured

MAX_LOOKUPS = 5_000_000
"""Blocks looked up at most, at 2 microseconds each; files of more blocks are read as if nothing were missing.
"""


def stored_blocks(dataset: rasterio.DatasetReader, indices: Sequence[int]) -> np.ndarray | None:
    """(rows, columns) bool: which blocks of a GeoTIFF are stored in any of the bands (counted from 1); None
    where that is unknown.

    Missing blocks read as the nodata value, or as 0 where there is none.
    """
    # Of a warped or padded raster the blocks are not those that the file has.
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


def may_hold(layers: Sequence[Layer], shape: tuple[int, int], dtype: np.dtype) -> Callable[[Window], bool]:
    """Make a function of windows that is False where certainly no pixel is valid.

    The scene has `shape` and the type `dtype`, and is read from the layers. All blocks are looked up once,
    and none is read.
    """
    fills = [_fill(layer, k) for layer in layers for k in range(len(layer.bands))]
    if None in fills:
        return lambda window: True
    rules = tuple(rule for layer in layers for rule in layer.nodata)
    # Where the fill values of missing blocks are valid (0 without nodata), they cannot be skipped.
    if measured(np.array(fills).astype(dtype).reshape(-1, 1, 1), rules).any():
        return lambda window: True
    known = []
    for layer in layers:
        with gdal():
            stored = stored_blocks(layer.dataset, layer.bands)
        if stored is None or layer.dataset.shape != shape:
            return lambda window: True
        known.append((stored, layer.dataset.block_shapes[0]))
    if all(stored.all() for stored, _ in known):
        return lambda window: True
    return lambda window: any(stored[touched(window, block)].any() for stored, block in known)


def _fill(layer: Layer, k: int) -> float | None:
    """What missing blocks of a layer's band read as; None where the file's nodata does not fit its type,
    which GDAL then changes.
    """
    value = layer.dataset.nodatavals[layer.bands[k] - 1]
    return 0 if value is None else value if may_be_stored(value, layer.dtypes[k]) else None


def touched(window: Window, block: tuple[int, int]) -> tuple[slice, slice]:
    """The blocks of `block` (rows, columns) pixels that a window touches, as array slices of blocks."""
    return slice(window.top // block[0], math.ceil(window.bottom / block[0])), slice(
        window.left // block[1], math.ceil(window.right / block[1])
    )
