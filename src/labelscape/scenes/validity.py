"""Which bands of a file hold measurements and which pixels are valid: the only place that knows alpha bands,
internal masks and nodata values.

Alpha bands are not measurements: they mark valid pixels, as internal masks, NaN and the nodata value do. A
nodata value of 0, or of the largest value of an integer type (255 for bytes), makes a pixel invalid only
where all bands have it, since dark water and bright roofs reach it in one band; any other nodata value makes
the pixel invalid in whichever band it occurs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadOption
from labelscape.grid import Window


@dataclass(frozen=True, slots=True)
class BandsAndValidity:
    """The bands of a file that hold measurements, and its nodata value.

    bands       band numbers, from 1, without alpha bands
    nodata      the file's own nodata value
    every_band  are all bands measurements, even those marked as alpha?
    """

    bands: tuple[int, ...]
    nodata: float | None
    every_band: bool

    def is_masked(self, dataset: rasterio.DatasetReader) -> bool:
        """Has the file an alpha band or an internal mask? Ask it last: a damaged mask leaves an error in
        GDAL, which its next call raises.
        """
        # The first band stands for all: an alpha band and an internal mask belong to the whole file.
        flags = dataset.mask_flag_enums[self.bands[0] - 1]
        return not self.every_band and (MaskFlags.alpha in flags or MaskFlags.per_dataset in flags)


def bands_and_validity(dataset: rasterio.DatasetReader, *, every_band: bool = False) -> BandsAndValidity:
    """Find the bands of measurements. `every_band` counts alpha bands too: whoever names all bands of a file
    knows that the fourth is near infrared, which rasterio's writer marks as alpha; only nodata is invalid
    then.
    """
    bands = tuple(
        i for i, c in zip(dataset.indexes, dataset.colorinterp) if every_band or c != ColorInterp.alpha
    )
    return BandsAndValidity(bands, dataset.nodata, every_band)


def measured(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """(H, W) bool: which pixels (B, H, W) are finite and not nodata, by the rules of the module."""
    found = np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else np.ones(pixels.shape[1:], bool)
    if nodata is not None and may_be_stored(nodata, pixels.dtype):  # isfinite covers NaN as nodata
        # Cast first: in float32 the usual nodata -3.4028234663852886e+38 equals its pixels only once rounded.
        is_nodata = pixels == np.asarray(nodata).astype(pixels.dtype)
        all_needed = may_be_measured(nodata, pixels.dtype)
        found &= ~(is_nodata.all(axis=0) if all_needed else is_nodata.any(axis=0))
    return found


def unmasked(datasets: Iterable[rasterio.DatasetReader], window: Window) -> np.ndarray:
    """(H, W) bool: not masked by an alpha band or an internal mask of any dataset."""
    found = np.ones(window.shape, bool)
    # A dataset may come several times, once per group of bands; its mask is read once.
    for dataset in {id(d): d for d in datasets}.values():
        found &= _mask(dataset, window) > 0
    return found


def _mask(dataset: rasterio.DatasetReader | WarpedVRT, window: Window) -> np.ndarray:
    # GDAL masks by an alpha band only where it is the second or the fourth, of 8 or 16 unsigned bits; it
    # calls every other warp valid everywhere, yet it writes the alpha band that was asked for.
    if isinstance(dataset, WarpedVRT) and MaskFlags.all_valid in dataset.mask_flag_enums[0]:
        alpha = [i for i, c in zip(dataset.indexes, dataset.colorinterp) if c == ColorInterp.alpha]
        if alpha:
            return dataset.read(alpha[-1], window=window.rio)
    return dataset.dataset_mask(window=window.rio)


def may_be_stored(value: float, dtype: np.dtype) -> bool:
    """Can a pixel of this type have the value? A cast would make another value of it: -9999 becomes 55537
    in uint16. NaN equals no pixel.
    """
    if dtype.kind not in "iu":
        return value == value
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= int(value) <= limits.max


def check_nodata(given: float, dtype: np.dtype, name: str) -> None:
    """Raises BadOption where no pixel of the scene `name` can have the nodata value that was given. NaN is
    accepted for integers: it overrides the file's value with none.
    """
    if given == given and not may_be_stored(given, dtype):
        limits = np.iinfo(dtype)
        raise BadOption(
            f"nodata={given:g} cannot be a pixel of {name}, whose type is {dtype.name}: a whole number from "
            f"{limits.min} to {limits.max} was expected."
        )


def may_be_measured(nodata: float | None, dtype: np.dtype) -> bool:
    """Can this nodata value also be a measurement in a single band (0 or saturated)?"""
    return dtype.kind in "iu" and nodata in (0, np.iinfo(dtype).max)


def warp_options(dataset: rasterio.DatasetReader, nodata: float | None, dtype: np.dtype) -> dict[str, object]:
    """The same rules as options of GDAL's warper, so that no invalid pixel is interpolated; validity after
    the warp is in an alpha band.
    """
    return {
        "src_nodata": nodata,
        "add_alpha": ColorInterp.alpha not in dataset.colorinterp,
        # YES: invalid where all bands are nodata; PARTIAL: where any is.
        "UNIFIED_SRC_NODATA": "YES" if may_be_measured(nodata, dtype) else "PARTIAL",
    }
