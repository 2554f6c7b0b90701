"""Class maps of any software, read as bytes: 0 to 254 is a class, everything else no class or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scenes.files import late_failures
from labelscape.scenes.georeference import grid_of
from labelscape.scenes.holes import stored_blocks
from labelscape.scenes.validity import bands_and_validity, may_be_stored, unmasked


class ClassRaster:
    """An open raster of classes: one band of whole numbers from 0 to 254 in any type. Its own nodata value,
    NaN, what a mask or an alpha band leaves out, and 255 in bytes are no class.

    grid    where it lies, by ground control points where these are an affine transform
    nodata  the byte that stands for "no class": the map's own nodata value where a byte can have it, else 255
    """

    def __init__(self, file: rasterio.DatasetReader, path: str | Path) -> None:
        """Raises BadInput for several bands, or complex numbers, BadFile where the file is damaged."""
        self.file, self.path = file, path
        with late_failures(path):
            found = bands_and_validity(file, alpha="mask")
            if len(found.bands) != 1 or file.dtypes[found.bands[0] - 1].startswith("complex"):
                raise BadInput(
                    f"{path} has {file.count} band(s) of {file.dtypes[0]}; a class map has one band of whole "
                    "numbers from 0 to 254."
                )
            self._band = found.bands[0]
            self.grid = grid_of(file)
            self._dtype, declared = np.dtype(file.dtypes[self._band - 1]), file.nodatavals[self._band - 1]
            # A nodata value that no pixel can have marks none.
            stored = declared is not None and may_be_stored(declared, self._dtype)
            # Cast: in float32 the usual nodata -3.4028234663852886e+38 equals its pixels only once rounded.
            self._declared = np.asarray(declared).astype(self._dtype) if stored else None
            self.nodata = int(declared) if stored and declared in range(256) else IGNORE
            # Asked for last: after a damaged mask GDAL raises its error at the next call.
            self._masks = found.masks(file)

    def stored(self) -> np.ndarray | None:
        """(rows, columns) bool: the blocks that a sparse file has; the others are nodata. None where all may
        hold classes: without a nodata value missing blocks read as 0, which may be a class.
        """
        return None if self._declared is None else stored_blocks(self.file, [self._band])

    def read(self, window: Window, shape: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W) uint8 class values of a window, or decimated to `shape`; `nodata`, or 255, where there is no
        class. Raises BadFile where the file cannot be read, BadInput for values that no class can have.
        """
        with late_failures(self.path):
            values = self.file.read(self._band, window=window.rio, out_shape=shape)
            outside = ~unmasked(self._masks, window, shape) if self._masks else None
        if self._dtype == np.uint8 and outside is None:
            return values
        if self._dtype != np.uint8:
            nothing = np.isnan(values) if self._dtype.kind == "f" else np.zeros(values.shape, bool)
            if self._declared is not None:
                nothing |= values == self._declared
            outside = nothing if outside is None else outside | nothing
            values = self._as_bytes(values, outside)
        return np.where(outside, np.uint8(self.nodata), values)

    def _as_bytes(self, values: np.ndarray, outside: np.ndarray) -> np.ndarray:
        # 255 too: only in bytes does it mean "no class" by itself.
        strange = ~outside & ~((values >= 0) & (values < IGNORE))
        if self._dtype.kind == "f":
            strange |= ~outside & (values != np.round(values))
        if strange.any():
            found = np.unique(values[strange])
            shown = ", ".join(f"{value:.9g}" for value in found[:4].tolist()) + " ..." * (len(found) > 4)
            raise BadInput(
                f"{self.path} ({self._dtype.name}) holds {shown}; the classes of a map are whole numbers "
                "from 0 to 254. Give its classes new numbers (in QGIS: Reclassify by table), or, if this "
                f"means 'no class', declare it as nodata: gdal_edit.py -a_nodata {found[0]:.9g} FILE."
            )
        return np.where(outside, 0, values).astype(np.uint8)


MEASURES = ("confidence", "entropy", "unfamiliar")
"""First word of the description of a map's raster that holds no classes."""


def measure_in(file: rasterio.DatasetReader) -> str | None:
    """What an open raster of a map holds in place of classes: one of MEASURES, or probability. None for
    classes, and for rasters of other software.
    """
    tags, shown = file.tags(), (file.descriptions[0] or "").split(" ")[0]
    if "labelscape_version" not in tags:
        return None
    # First: a class of probabilities may be called anything.
    if tags.get("scale") == "1/250":
        return "probability"
    return shown if shown in MEASURES else "probability" if file.count > 1 else None


def class_raster(file: rasterio.DatasetReader, path: str | Path) -> ClassRaster:
    """An open class map. Raises BadInput where it is none: as `ClassRaster` does, and for another raster of a
    map (its confidence or entropy, which are bytes too).
    """
    found = ClassRaster(file, path)
    if (shown := measure_in(file)) is not None:
        raise BadInput(f"{path} holds the {shown} of a map, not its classes; use its _class.tif.")
    return found
