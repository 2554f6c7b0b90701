"""Which bands of a file hold measurements and which pixels count: the only place that knows of alpha bands,
internal masks and nodata values.

Alpha bands are no bands: they say which pixels are valid. So do internal masks, NaN, and the nodata value:
0 and the greatest value (255 in bytes) of an integer raster must stand in every band to mean "nothing here",
for black water and bright roofs have them in one; any other nodata value makes the pixel invalid wherever it
stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT

from labelscape.grid import Window


@dataclass(frozen=True, slots=True)
class BandsAndValidity:
    """What a file says of its own pixels.

    bands       numbers, from 1, of the bands that hold measurements
    nodata      the file's own value for "nothing here"
    every_band  are all bands measured, whatever the file calls them?
    """

    bands: tuple[int, ...]
    nodata: float | None
    every_band: bool

    def is_masked(self, dataset: rasterio.DatasetReader) -> bool:
        """Does an alpha band or an internal mask say which pixels count? Ask it last: of a damaged mask GDAL
        leaves an error behind, which its next call raises.
        """
        flags = dataset.mask_flag_enums[self.bands[0] - 1]
        return not self.every_band and (MaskFlags.alpha in flags or MaskFlags.per_dataset in flags)


def bands_and_validity(dataset: rasterio.DatasetReader, *, every_band: bool = False) -> BandsAndValidity:
    """`every_band`: whoever names all bands of a file knows better than its writer that the one marked as
    alpha is measured too; nothing but nodata is invalid then.
    """
    bands = tuple(
        i for i, c in zip(dataset.indexes, dataset.colorinterp) if every_band or c != ColorInterp.alpha
    )
    return BandsAndValidity(bands, dataset.nodata, every_band)


def measured(pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """(H, W) where pixels (B, H, W) hold a measurement by their values."""
    found = np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else np.ones(pixels.shape[1:], bool)
    if nodata is not None and nodata == nodata:
        is_nodata = pixels == np.asarray(nodata).astype(pixels.dtype)
        all_needed = may_be_measured(nodata, pixels.dtype)
        found &= ~(is_nodata.all(axis=0) if all_needed else is_nodata.any(axis=0))
    return found


def unmasked(datasets: Iterable[rasterio.DatasetReader], window: Window) -> np.ndarray:
    """(H, W) where alpha bands and internal masks let pixels count."""
    found = np.ones(window.shape, bool)
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


def may_be_measured(nodata: float | None, dtype: np.dtype) -> bool:
    """Can this nodata value also be what a single band shows?"""
    return dtype.kind in "iu" and nodata in (0, np.iinfo(dtype).max)


def warp_options(dataset: rasterio.DatasetReader, nodata: float | None, dtype: np.dtype) -> dict[str, object]:
    """How GDAL's warper is told the same, so that no value is taken from a pixel that does not count; what
    counts after it stands in an alpha band.
    """
    return {
        "src_nodata": nodata,
        "add_alpha": ColorInterp.alpha not in dataset.colorinterp,
        "UNIFIED_SRC_NODATA": "YES" if may_be_measured(nodata, dtype) else "PARTIAL",
    }
