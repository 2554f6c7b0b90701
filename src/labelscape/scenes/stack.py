"""Bands from several files: names for all of them, and files without coordinates laid pixel on pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadInput

MOST_MISSING = 2
"""Rows or columns a file may lack beside its neighbours: the published height model of one Potsdam tile is
a column short.
"""


class Padded:
    """A raster of a row or column too few, its last one repeated; all else is the raster's own."""

    def __init__(self, dataset: object, height: int, width: int) -> None:
        self._dataset, self.height, self.width, self.shape = dataset, height, width, (height, width)

    def __getattr__(self, name: str) -> object:
        return getattr(self._dataset, name)

    def read(self, indices: int | Sequence[int], *, window: RasterioWindow) -> np.ndarray:
        """Pixels (B, H, W), or (H, W) for one index, of a window that may reach into the repeated rows and
        columns.
        """
        own, missing = self._own_part(window)
        pixels = self._dataset.read(indices, window=own)
        return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + missing, mode="edge")

    def dataset_mask(self, *, window: RasterioWindow) -> np.ndarray:
        own, missing = self._own_part(window)
        return np.pad(self._dataset.dataset_mask(window=own), missing, mode="edge")

    def _own_part(self, window: RasterioWindow) -> tuple[RasterioWindow, list[tuple[int, int]]]:
        """The nearest window that the file has, at least a pixel wide, and (before, after) to add along
        rows and columns.
        """
        row, column = (
            min(window.row_off, self._dataset.height - 1),
            min(window.col_off, self._dataset.width - 1),
        )
        bottom = min(window.row_off + window.height, self._dataset.height)
        right = min(window.col_off + window.width, self._dataset.width)
        own = RasterioWindow(column, row, right - column, bottom - row)
        return own, [(0, int(window.height - own.height)), (0, int(window.width - own.width))]


def laid_pixel_on_pixel(datasets: Sequence) -> list:
    """Files of which some have no coordinates, as rasters of one shape. Raises BadInput where a shape is
    another one.
    """
    height, width = max(d.height for d in datasets), max(d.width for d in datasets)
    laid = []
    for dataset in datasets:
        if max(height - dataset.height, width - dataset.width) > MOST_MISSING:
            raise BadInput(
                f"{dataset.name} is {dataset.width} x {dataset.height} pixels, its neighbours {width} x "
                f"{height}, and not all of them have "
                "coordinates: they are no band stack."
            )
        laid.append(dataset if dataset.shape == (height, width) else Padded(dataset, height, width))
    return laid


def named_readers(readers: list, band_names: Sequence[str], where: str) -> tuple[list, bool]:
    """The (dataset, band indices) pairs that yield the named bands, and whether what the file calls alpha is
    one of them.

    Raises BadInput where there are more or fewer bands than names.
    """
    everything = [(dataset, list(dataset.indexes)) for dataset, _ in readers]
    found, held = (sum(len(indices) for _, indices in pairs) for pairs in (readers, everything))
    if found == len(band_names):
        return readers, False
    if held == len(band_names):
        # Writers mark a fourth measured band (near infrared) as alpha; who names every band knows better.
        return everything, True
    if found == 1 and tuple(band_names) == ("red", "green", "blue"):
        dataset, indices = readers[0]
        return [(dataset, indices * 3)], False
    raise BadInput(
        f"{where} has {found} band{'s' * (found != 1)}; {len(band_names)} were expected: "
        f"{', '.join(band_names)}."
    )
