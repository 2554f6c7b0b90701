"""Decimate a scene to every n-th pixel, for scenes without overviews."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelscape.grid import Window
from labelscape.scenes.scene import Scene

PIECE_ROWS, PIECE_COLUMNS = 512, 8192
"""Size of a read to take samples from: 8 MB per band of 16 bits."""


def sampled(
    scene: Scene,
    bands: Sequence[str],
    shape: tuple[int, int],
    window: Window | None = None,
    *,
    in_strips: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Every n-th pixel (B, h, w) of a window and its validity (h, w), read piece by piece; 0 and invalid
    where the scene has no data.

    `in_strips`: the file's blocks are as wide as the scene. A row is then read as a whole, since GDAL decodes
    whole blocks, and rows in between are not read.
    """
    # With the first and last row and column: nodata is mostly at the edges.
    window = window or scene.grid.window
    starts = zip((window.top, window.left), window.shape, shape)
    rows, columns = (a + np.linspace(0, n - 1, m).round().astype(int) for a, n, m in starts)
    high, wide = (1, scene.grid.width) if in_strips else (PIECE_ROWS, PIECE_COLUMNS)
    pixels, valid = np.zeros((len(bands), *shape), scene.dtype), np.zeros(shape, bool)
    for down in _runs(rows // high):
        for across in _runs(columns // wide):
            top, left = int(rows[down][0]), int(columns[across][0])
            bottom, right = int(rows[down][-1]) + 1, int(columns[across][-1]) + 1
            piece = Window(top, left, bottom - top, right - left)
            # Sparse files are mostly holes: those cost nothing.
            if scene.may_hold(piece):
                patch = scene.read(piece, bands)
                places = rows[down][:, None] - top, columns[across] - left
                pixels[:, down, across] = patch.pixels[:, places[0], places[1]]
                valid[down, across] = patch.valid[places]
    return pixels, valid


def _runs(groups: np.ndarray) -> list[slice]:
    """Slices of the runs of equal values in a sorted array."""
    ends = np.flatnonzero(np.diff(groups)) + 1
    return [slice(a, b) for a, b in zip([0, *ends.tolist()], [*ends.tolist(), len(groups)])]
