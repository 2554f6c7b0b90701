"""Where a sparse file holds nothing, known without reading a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import rasterio

from labelscape.grid import Window
from labelscape.scenes.files import gdal

if TYPE_CHECKING:
    from labelscape.scenes.raster import Scene

MOST_ASKED = 5_000_000
"""Blocks that are asked for at most, at 2 microseconds each; nothing is said of files of more."""
PIECE_ROWS, PIECE_COLUMNS = 512, 8192
"""What is read at once to take samples from."""


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


def may_hold(scene: Scene) -> Callable[[Window], bool]:
    """A function that is False for windows of the scene that certainly have no valid pixel. Asks once for
    all blocks, and reads none.
    """
    known = []
    for dataset, indices in getattr(scene, "_readers", ()):
        fill = np.array(dataset.nodata if dataset.nodata is not None else 0).astype(scene.dtype)
        with gdal():
            stored = (
                stored_blocks(dataset, indices) if not scene._measured(fill.reshape(1, 1, 1)).any() else None
            )
        if stored is None or dataset.shape != scene.grid.shape:
            return lambda window: True
        known.append((stored, dataset.block_shapes[0]))
    if not known or all(stored.all() for stored, _ in known):  # mosaics ask their parts
        return lambda window: True
    return lambda window: any(stored[touched(window, shape)].any() for stored, shape in known)


def touched(window: Window, block: tuple[int, int]) -> tuple[slice, slice]:
    """The blocks of a shape (rows, columns) that a window touches, as array slices."""
    return slice(window.top // block[0], math.ceil(window.bottom / block[0])), slice(
        window.left // block[1], math.ceil(window.right / block[1])
    )


def sampled(scene: Scene, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Every n-th pixel (B, h, w) and its validity (h, w), gathered piece by piece where the scene may hold
    something; 0 and invalid elsewhere.
    """
    rows, columns = (np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(scene.grid.shape, shape))
    readers = getattr(scene, "_readers", ())
    in_strips = any(dataset.block_shapes[0][1] > PIECE_COLUMNS for dataset, _ in readers)
    # Of a file in strips as wide as the scene only those are read that are needed, each once.
    high, wide = (1, scene.grid.width) if in_strips else (PIECE_ROWS, PIECE_COLUMNS)
    pixels, valid = np.zeros((len(bands), *shape), scene.dtype), np.zeros(shape, bool)
    holds = may_hold(scene)
    for down in _together(rows // high):
        for across in _together(columns // wide):
            first, last = (rows[down][0], columns[across][0]), (rows[down][-1], columns[across][-1])
            piece = Window(
                int(first[0]), int(first[1]), int(last[0] - first[0]) + 1, int(last[1] - first[1]) + 1
            )
            if holds(piece):
                patch = scene.read(piece, bands)
                places = rows[down][:, None] - piece.top, columns[across] - piece.left
                pixels[:, down, across], valid[down, across] = (
                    patch.pixels[:, places[0], places[1]],
                    patch.valid[places],
                )
    return pixels, valid


def _together(groups: np.ndarray) -> list[slice]:
    """Slices of equal neighbours in a sorted array."""
    ends = np.flatnonzero(np.diff(groups)) + 1
    return [slice(a, b) for a, b in zip([0, *ends.tolist()], [*ends.tolist(), len(groups)])]
