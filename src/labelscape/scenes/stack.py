"""Band stacks: bands from several files, on one grid, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadInput
from labelscape.scenes.files import EXACT
from labelscape.scenes.validity import BandsAndValidity, bands_and_validity

SAME_GROUND = 0.02
"""Fraction of its own extent by which a file of a band stack may be shifted against the others (ours)."""
MAX_MISSING = 2
"""Rows or columns by which a file may be smaller than the others: the published height model of one Potsdam
tile is a column short.
"""


class Padded:
    """A raster that is a row or column short, padded by repeating its last; otherwise the raster itself."""

    def __init__(self, dataset: object, height: int, width: int) -> None:
        self._dataset, self.height, self.width, self.shape = dataset, height, width, (height, width)

    def __getattr__(self, name: str) -> object:
        # All else, such as band types and overviews, is the file's own.
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
        """The nearest window inside the file, at least a pixel wide, and the padding (before, after) of rows
        and of columns.
        """
        row, column = (
            # There must be a row and a column to repeat, also for a window wholly beyond the file.
            min(window.row_off, self._dataset.height - 1),
            min(window.col_off, self._dataset.width - 1),
        )
        bottom = min(window.row_off + window.height, self._dataset.height)
        right = min(window.col_off + window.width, self._dataset.width)
        own = RasterioWindow(column, row, right - column, bottom - row)
        return own, [(0, int(window.height - own.height)), (0, int(window.width - own.width))]


def padded_to_one_shape(datasets: Sequence) -> list:
    """Give files of which some have no coordinates the same shape, by padding. Raises BadInput where one is
    smaller by more than MAX_MISSING.
    """
    height, width = max(d.height for d in datasets), max(d.width for d in datasets)
    laid = []
    for dataset in datasets:
        if max(height - dataset.height, width - dataset.width) > MAX_MISSING:
            raise BadInput(
                f"{dataset.name} is {dataset.width} x {dataset.height} pixels, the others are {width} x "
                f"{height}, and not all of them have coordinates: they are not a band stack."
            )
        laid.append(dataset if dataset.shape == (height, width) else Padded(dataset, height, width))
    return laid


def warped_to_finest(datasets: Sequence, handles: ExitStack, *, allow_multiband: bool) -> list:
    """Resample every file to the grid of the finest one. Raises BadInput unless all cover the same ground,
    with one band each or `allow_multiband`. Warped files are closed by `handles`.
    """
    multiband = [d.name for d in datasets if d.count != 1]
    if multiband and not allow_multiband:
        raise BadInput(
            f"A band stack is made of single-band files; {multiband[0]} has several. Pass scenes one by "
            "one instead."
        )
    # By the area of a pixel; rows usually run south, where e is negative.
    finest = min(datasets, key=lambda d: abs(d.transform.a * d.transform.e))
    width, height = finest.bounds.right - finest.bounds.left, finest.bounds.top - finest.bounds.bottom
    laid = []
    for dataset in datasets:
        apart = np.abs(np.subtract(dataset.bounds, finest.bounds)) / [width, height, width, height]
        # Products cut less exactly than Sentinel-2's, whose bands share their edges, pass too.
        if dataset.crs != finest.crs or apart.max() > SAME_GROUND:
            raise BadInput(
                f"{dataset.name} and {finest.name} do not cover the same ground: they are not a band stack."
            )
        # Not through a warp, which costs time on every read.
        if dataset.shape == finest.shape and dataset.transform == finest.transform:
            laid.append(dataset)
            continue
        onto_finest = WarpedVRT(
            dataset,
            crs=finest.crs,
            transform=finest.transform,
            width=finest.width,
            height=finest.height,
            resampling=Resampling.bilinear,
            tolerance=EXACT,
            add_alpha=False,
        )
        laid.append(handles.enter_context(onto_finest))
    return laid


def match_band_names(
    datasets: Sequence, found: Sequence[BandsAndValidity], band_names: Sequence[str], where: str
) -> list[BandsAndValidity]:
    """Match the bands of all files to names, by their number. Raises BadInput where there are more or fewer
    bands than names.
    """
    count = sum(len(f.bands) for f in found)
    if count == len(band_names):
        return list(found)
    if sum(d.count for d in datasets) == len(band_names):
        # Writers mark a fourth measured band (near infrared) as alpha; whoever names every band knows better.
        return [bands_and_validity(d, every_band=True) for d in datasets]
    if count == 1 and tuple(band_names) == ("red", "green", "blue"):
        return [replace(f, bands=f.bands * 3) for f in found]
    raise BadInput(
        f"{where} has {count} band{'s' * (count != 1)}; {len(band_names)} were expected: "
        f"{', '.join(band_names)}."
    )


def names_in_file(dataset: rasterio.DatasetReader, indices: Sequence[int]) -> list[str]:
    """Band names: the file's descriptions, else colours, else numbers; numbers for all where names repeat."""
    colours = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
    names = [
        dataset.descriptions[i - 1] or colours.get(dataset.colorinterp[i - 1]) or str(i) for i in indices
    ]
    # Bands are chosen by name: of two with one name the second could not be reached.
    return names if len(set(names)) == len(names) else [str(i) for i in indices]


def name_in_stack(file: str, files: Sequence[str]) -> str:
    """Band name from a file name: `T33UUU_20170216T102101_B8A.jp2` -> `B8A` where that is unique in the
    stack, else the whole stem.
    """
    last = [Path(f).stem.split("_")[-1] for f in files]
    return Path(file).stem.split("_")[-1] if len(set(last)) == len(last) else Path(file).stem


def selected(readers: Sequence[tuple], chosen: Sequence[int] | None) -> list[tuple]:
    """Select bands by position from (dataset, band numbers) pairs, all for None. Consecutive bands of one
    file stay one pair, so that they are one read: blocks interleaved by pixel are decoded once.
    """
    if chosen is None:
        return list(readers)
    singles = [(dataset, i) for dataset, indices in readers for i in indices]
    grouped: list[tuple[rasterio.DatasetReader, list[int]]] = []
    for dataset, i in (singles[c] for c in chosen):
        if grouped and grouped[-1][0] is dataset:
            grouped[-1][1].append(i)
        else:
            grouped.append((dataset, [i]))
    return grouped
