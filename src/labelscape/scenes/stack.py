"""Band stacks: bands from several files, on one grid, and their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window as RasterioWindow

from labelscape.crs import same
from labelscape.errors import BadInput
from labelscape.scenes.containers import names_on_axis
from labelscape.scenes.files import stem_of_place
from labelscape.scenes.layers import Layer, is_spread, warped
from labelscape.scenes.validity import BandsAndValidity, Mask, bands_and_validity

SAME_GROUND = 0.02
"""Fraction of its own extent by which a file of a band stack may be shifted against the others (ours)."""
MAX_MISSING = 2
"""Rows or columns by which a file may be smaller than the others: the published height model of one Potsdam
tile is a column short.
"""


class Padded:
    """A raster that is a row or column short, padded by repeating its last; otherwise the raster itself.
    What is padded is no measurement: `extent` says which pixels the file has.
    """

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

    def read_masks(self, band: int, *, window: RasterioWindow) -> np.ndarray:
        own, missing = self._own_part(window)
        return np.pad(self._dataset.read_masks(band, window=own), missing, mode="edge")

    def extent(self, window: RasterioWindow) -> np.ndarray:
        """(H, W) bool: the pixels that the file has."""
        own, missing = self._own_part(window)
        height, width = (int(side) for side in (own.height, own.width))
        # A window wholly beyond the file repeats its last row or column, of which none is a pixel of its own.
        inside = (window.row_off < self._dataset.height) & (window.col_off < self._dataset.width)
        return np.pad(np.full((height, width), inside), missing)

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


def padded_to_one_shape(layers: Sequence[Layer]) -> list[Layer]:
    """Give files of which some have no coordinates the same shape; the pixels that one lacks are invalid.
    Raises BadInput where one is smaller by more than MAX_MISSING.
    """
    height, width = max(one.grid.height for one in layers), max(one.grid.width for one in layers)
    laid = []
    for layer in layers:
        grid = layer.grid
        if max(height - grid.height, width - grid.width) > MAX_MISSING:
            raise BadInput(
                f"{layer.title} is {grid.width} x {grid.height} pixels, the others are {width} x "
                f"{height}, and not all of them have coordinates: they are not a band stack."
            )
        if grid.shape != (height, width):
            padded = Padded(layer.dataset, height, width)
            masks = (*(replace(mask, dataset=padded) for mask in layer.masks), Mask(padded, 0, "extent"))
            layer = replace(layer, dataset=padded, masks=masks)
        laid.append(layer)
    return laid


def warped_to_finest(layers: Sequence[Layer], handles: ExitStack) -> list[Layer]:
    """Resample every file to the grid of the finest one. Raises BadInput unless all cover the same ground.
    Warped files are closed by `handles`.
    """
    # The determinant is the area of a pixel, also on rotated grids.
    finest = min(layers, key=lambda layer: abs(layer.grid.transform.determinant))
    bounds = [layer.grid.bounds_of(layer.grid.window) for layer in (finest, *layers)]
    width, height = bounds[0][2] - bounds[0][0], bounds[0][3] - bounds[0][1]
    laid = []
    for layer, own in zip(layers, bounds[1:]):
        apart = np.abs(np.subtract(own, bounds[0])) / [width, height, width, height]
        if not _one_crs(layer.grid.crs, finest.grid.crs) or apart.max() > SAME_GROUND:
            raise BadInput(
                f"{layer.title} and {finest.title} do not cover the same ground: they are not a band stack."
            )
        same = layer.grid.shape == finest.grid.shape and layer.grid.transform == finest.grid.transform
        laid += (
            [layer]
            if same
            else warped([layer], finest.grid, Resampling.bilinear, handles, spread=is_spread(layers))
        )
    return laid


def _one_crs(one: CRS | None, other: CRS | None) -> bool:
    """Is it one CRS on the map? A height model's may have heights, which its neighbours' lacks."""
    return one == other or (one is not None and other is not None and same(one, other))


def check_single(found: Sequence[BandsAndValidity], files: Sequence[str]) -> None:
    """Raises BadInput where a file of a band stack has several bands, which then have no names."""
    multiband = [file for file, own in zip(files, found) if len(own.bands) != 1]
    if multiband:
        raise BadInput(
            f"A band stack is made of single-band files; {multiband[0]} has several. Pass scenes one by "
            "one instead, or name the bands of all files in order with `band_names`."
        )


FLAGS = {
    *("qa", "bqa", "scl", "fmask", "udm", "udm2", "cldprb", "snwprb"),
    *("msk", "mask", "label", "labels", "gt"),
}
"""Words in the names of files of flags and classes of Landsat, Sentinel-2 and Planet, and of labels."""


def flag_notes(bands: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """A line on the files of a band stack that are no measurements by their names, such as `..._QA_PIXEL.TIF`
    beside Landsat's bands.
    """
    found = [
        (band, os.path.basename(file))
        for band, file in zip(bands, files, strict=True)
        if FLAGS & set(re.split(r"[^a-z0-9]+", stem_of_place(file).lower()))
    ]
    if not found or len(found) == len(bands):
        return ()
    names = [name for name, _ in found]
    others = ",".join(band for band in bands if band not in names)
    return (
        f"by the names of their files the bands {', '.join(names)} ({', '.join(file for _, file in found)}) "
        f"are flags, classes or masks; they are read as measurements. Leave them out: `bands={others}`",
    )


def match_band_names(
    datasets: Sequence,
    found: Sequence[BandsAndValidity],
    band_names: Sequence[str],
    where: str,
    nodata: float | None,
) -> list[BandsAndValidity]:
    """Match the bands of all files to names, by their number. Raises BadInput where there are more or fewer
    bands than names.
    """
    count = sum(len(f.bands) for f in found)
    if count == len(band_names):
        return list(found)
    # Whoever names all bands knows which one is alpha: writers mark a fourth measured band (near infrared)
    # so.
    for alpha in ("band", "mask"):
        others = [bands_and_validity(d, nodata=nodata, alpha=alpha) for d in datasets]
        if sum(len(f.bands) for f in others) == len(band_names):
            return others
    if count == 1 and tuple(band_names) == ("red", "green", "blue"):
        return [replace(f, bands=f.bands * 3, nodata=f.nodata * 3) for f in found]
    raise BadInput(
        f"{where} has {count} band{'s' * (count != 1)}; {len(band_names)} were expected: "
        f"{', '.join(band_names)}."
    )


def names_in_file(dataset: rasterio.DatasetReader, indices: Sequence[int], title: str = "") -> list[str]:
    """Band names: the file's descriptions, else colours, else places on an axis of bands (Zarr, NetCDF), else
    numbers; numbers for all where names repeat. Raises BadInput where the axis is one of dates.
    """
    colours = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
    names = [
        dataset.descriptions[i - 1] or colours.get(dataset.colorinterp[i - 1]) or place or str(i)
        for i, place in zip(indices, names_on_axis(dataset, indices, title))
    ]
    # Bands are chosen by name: of two with one name the second could not be reached.
    return names if len(set(names)) == len(names) else [str(i) for i in indices]


def name_in_stack(file: str, files: Sequence[str]) -> str:
    """Band name from a file name: `T33UUU_20170216T102101_B8A.jp2` -> `B8A` where that is unique in the
    stack, else the whole stem.
    """
    last = [stem_of_place(f).split("_")[-1] for f in files]
    return stem_of_place(file).split("_")[-1] if len(set(last)) == len(last) else stem_of_place(file)
