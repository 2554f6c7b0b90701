"""Which bands of a file hold measurements and which pixels are valid: the only place that knows alpha bands,
masks and nodata values, and where a nodata value meets the type of a band.

A pixel is invalid where an alpha band or a mask says so, where a value is not finite or beyond LARGEST, and
where it is nodata. Every band has its own nodata value. A value of 0, or the largest of an integer type (255
for bytes), makes a pixel invalid only where all bands with such a value have theirs, since dark water and
bright roofs reach it in one band; any other nodata value makes the pixel invalid in whichever band it occurs.
A value that the band's type cannot hold matches no pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags

from labelscape.errors import BadOption
from labelscape.grid import Window

LARGEST = 1e30
"""Values beyond it are no measurements (ours): float32, in which networks compute, ends at 3.4e38, and a
value is divided by a band's deviation before. The largest measured ones, molecules in a column of air, end
at 1e23.
"""
OPAQUE = {1, *(2**n - 1 for n in (7, 8, 15, 16, 31, 32, 63, 64))}
"""What software writes into alpha bands where the image is opaque."""
OPAQUE_SHARE = 0.9
"""Share of the pixels of an alpha band that are neither 0 nor opaque at most 1 - OPAQUE_SHARE (ours): edges
of resampled images are half transparent, near infrared is so everywhere.
"""
LOOK_SIDE = 64
"""Side of the nine windows that an alpha band of a large file is judged by."""


@dataclass(frozen=True, slots=True)
class Nodata:
    """The nodata value of a band, as its pixels have it. `alone`: one band that has it makes a pixel invalid;
    else only all bands with such a value together.
    """

    value: float
    alone: bool


Rules = tuple[Nodata | None, ...]
"""The nodata value of each band, None where it has none."""


@dataclass(frozen=True, slots=True)
class Mask:
    """One source of validity beside the values. `kind`: "alpha" is a band, "mask" what GDAL has for a band
    (an internal mask, a .msk file, a VRT's mask), "extent" where a padded file has pixels of its own.
    """

    dataset: rasterio.DatasetReader
    band: int
    kind: Literal["alpha", "mask", "extent"]

    def read(self, window: Window, shape: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W) bool of a window, or decimated to `shape`."""
        how = {"window": window.rio} | ({} if shape is None else {"out_shape": shape})
        if self.kind == "extent":
            return self.dataset.extent(window.rio)
        read = self.dataset.read if self.kind == "alpha" else self.dataset.read_masks
        return read(self.band, **how) > 0


@dataclass(frozen=True, slots=True)
class BandsAndValidity:
    """The bands of a file that hold measurements (from 1) and the nodata value of each.

    alphas   the alpha bands that mask them
    imagery  bands among `bands` that are marked as alpha, and by their values are not
    notes    on nodata values that mark no pixel
    """

    bands: tuple[int, ...]
    nodata: Rules
    alphas: tuple[int, ...] = ()
    imagery: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def masks(self, dataset: rasterio.DatasetReader) -> tuple[Mask, ...]:
        """All masks of the dataset. Ask last: a damaged mask leaves an error in GDAL, which its next call
        raises.
        """
        found = [Mask(dataset, band, "alpha") for band in self.alphas]
        for band in self.bands:
            flags = set(dataset.mask_flag_enums[band - 1])
            # Values are compared here, alpha bands read above; all else is a mask of the file or the band.
            if MaskFlags.all_valid in flags or MaskFlags.alpha in flags or flags == {MaskFlags.nodata}:
                continue
            if MaskFlags.per_dataset not in flags or not any(m.kind == "mask" for m in found):
                found.append(Mask(dataset, band, "mask"))
        return tuple(found)


def bands_and_validity(
    dataset: rasterio.DatasetReader,
    *,
    nodata: float | None = None,
    alpha: Literal["look", "mask", "band"] = "look",
    title: str = "",
) -> BandsAndValidity:
    """Find the bands of measurements and what makes their pixels valid; `nodata` overrides the file's values.

    alpha  what bands marked as alpha are: masks, bands, or, by a look at their values, either. rasterio marks
           the fourth of four bands so when it writes bytes, near infrared included
    """
    marked = [i for i, c in zip(dataset.indexes, dataset.colorinterp) if c == ColorInterp.alpha]
    if alpha == "look":
        masking = [i for i in marked if _is_mask(dataset, i)]
    else:
        masking = marked if alpha == "mask" else []
    bands = tuple(i for i in dataset.indexes if i not in masking)
    dtypes = [np.dtype(dataset.dtypes[i - 1]) for i in bands]
    declared = [dataset.nodatavals[i - 1] if nodata is None else nodata for i in bands]
    imagery = tuple(i for i in marked if alpha == "look" and i not in masking)
    notes = []
    for value, dtype in dict.fromkeys(zip(declared, dtypes)):
        if nodata is None and value is not None and value == value and not may_be_stored(value, dtype):
            notes.append(
                f"{title} declares nodata {value:g}, which no pixel of type {dtype.name} can have: it marks "
                "no pixel"
            )
    rules = tuple(nodata_rule(value, dtype) for value, dtype in zip(declared, dtypes))
    return BandsAndValidity(bands, rules, tuple(masking), imagery, tuple(notes))


def imagery_notes(found: BandsAndValidity, title: str) -> tuple[str, ...]:
    """A line for each band marked as alpha that is read as imagery."""
    return tuple(
        f"band {i} of {title} is marked as alpha, but its values are not those of a mask (0 and 255): it is "
        "read as imagery. If it is a mask, convert it to 0 and 255; `band_names` names all bands"
        for i in found.imagery
    )


def _is_mask(dataset: rasterio.DatasetReader, band: int) -> bool:
    """Has a band marked as alpha the values of a mask? Judged by pixels above 0: zeros may be a border."""
    whole = Window(0, 0, dataset.height, dataset.width)
    # A small file whole: it is decoded once, and read from GDAL's cache afterwards.
    windows = [whole]
    if whole.pixels > 9 * (2 * LOOK_SIDE) ** 2:
        places = [[round(part * (side - LOOK_SIDE) / 4) for part in (0, 1, 2, 3, 4)] for side in whole.shape]
        # No corners: those of rotated images are empty, and zeros are not judged.
        nine = [(1, 1), (1, 3), (3, 1), (3, 3), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2)]
        windows = [Window(places[0][r], places[1][c], LOOK_SIDE, LOOK_SIDE) for r, c in nine]
    try:
        values = np.concatenate([dataset.read(band, window=w.rio).ravel() for w in windows])
    except (rasterio.errors.RasterioError, CPLE_BaseError, OSError):
        return True  # damaged: whoever reads it next reports that
    some = values[values != 0]
    return not some.size or np.isin(some, list(OPAQUE)).mean() >= OPAQUE_SHARE


def nodata_rule(value: float | None, dtype: np.dtype) -> Nodata | None:
    """A nodata value as pixels of a type have it; None where they cannot have it. NaN is invalid anyway."""
    if value is None or not may_be_stored(value, dtype):
        return None
    # Cast: in float32 the usual nodata -3.4028234663852886e+38 equals its pixels only once rounded.
    return Nodata(np.asarray(value).astype(dtype).item(), not may_be_measured(value, dtype))


def with_declared(
    found: Sequence[BandsAndValidity],
    datasets: Sequence[rasterio.DatasetReader],
    names: Sequence[str],
    values: Mapping[str, float],
) -> tuple[list[BandsAndValidity], tuple[str, ...]]:
    """The same with nodata values that are declared beside the files, by band name, for bands without one of
    their own; and a note for each that a band's type cannot hold.
    """
    made, notes, named = [], [], iter(names)
    for own, dataset in zip(found, datasets):
        rules = []
        for band, rule, declared in zip(own.bands, own.nodata, nodata_of(dataset, own)):
            name, dtype = next(named), np.dtype(dataset.dtypes[band - 1])
            value = values.get(name, values.get(""))
            if rule is None and declared is None and value is not None:
                rule = nodata_rule(value, dtype)
                if rule is None and value == value:
                    notes.append(
                        f"nodata {value:g} is declared for band {name}, but no pixel of type {dtype.name} "
                        "can have it: it marks no pixel"
                    )
            rules.append(rule)
        made.append(replace(own, nodata=tuple(rules)))
    return made, tuple(dict.fromkeys(notes))


def nodata_of(dataset: rasterio.DatasetReader, found: BandsAndValidity) -> list[float | None]:
    """The nodata value that each band of measurements declares, NaN included; None where it marks no
    pixel.
    """
    declared = [dataset.nodatavals[i - 1] for i in found.bands]
    return [
        value if rule is not None or (value is not None and value != value) else None
        for value, rule in zip(declared, found.nodata)
    ]


def common_value(values: Sequence[float | None]) -> float | None:
    """The nodata value that all bands share, else None."""
    # NaN differs from itself: that of all bands is one value nevertheless.
    same = all(value == values[0] or value != value != values[0] for value in values)
    return values[0] if same else None


def measured(pixels: np.ndarray, rules: Rules) -> np.ndarray:
    """(H, W) bool: which pixels (B, H, W) are measurements in all bands, by the rules of the module."""
    if pixels.dtype.kind == "f":  # NaN compares as False
        found = ((pixels >= -LARGEST) & (pixels <= LARGEST)).all(axis=0)
    else:
        found = np.ones(pixels.shape[1:], bool)
    if len(set(rules)) == 1:  # the usual case, in one go
        if rules[0] is not None:
            hit = pixels == rules[0].value
            found &= ~(hit.any(axis=0) if rules[0].alone else hit.all(axis=0))
        return found
    together = None
    for band, rule in zip(pixels, rules):
        if rule is not None and rule.alone:
            found &= band != rule.value
        elif rule is not None:
            hit = band == rule.value
            together = hit if together is None else together & hit
    return found if together is None else found & ~together


def unmasked(masks: Iterable[Mask], window: Window, shape: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) bool: masked by none of the masks; of a window, or decimated to `shape`."""
    found = np.ones(window.shape if shape is None else shape, bool)
    for mask in masks:
        found &= mask.read(window, shape)
    return found


def may_be_stored(value: float, dtype: np.dtype) -> bool:
    """Can a pixel of this type have the value? A cast would make another value of it: -9999 becomes 55537
    in uint16. NaN equals no pixel.
    """
    if dtype.kind == "f":
        # Infinity can be stored; a finite value only where its rounding to the type is not infinite.
        with np.errstate(over="ignore"):
            return value == value and (np.isinf(value) or bool(np.isfinite(np.asarray(value).astype(dtype))))
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= int(value) <= limits.max


def as_typed(value: float, dtype: np.dtype) -> str:
    """A pixel's value as it can be typed as nodata: the shortest text that the type reads as this very value.
    A rounded one matches no pixel.
    """
    if dtype.kind in "iu" and np.isfinite(value):
        return str(int(value))
    with np.errstate(over="ignore"):
        return next(
            (text for n in range(6, 17) if dtype.type(float(text := f"{value:.{n}g}")) == dtype.type(value)),
            repr(float(value)),
        )


def check_nodata(given: float, dtypes: Sequence[np.dtype], name: str) -> None:
    """Raises BadOption where no pixel of the scene `name` can have the nodata value that was given. NaN is
    accepted for integers: it overrides the file's value with none.
    """
    if given != given or any(may_be_stored(given, dtype) for dtype in dtypes):
        return
    dtype = dtypes[0]
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    kind = "a whole number" if dtype.kind in "iu" else "a number"
    raise BadOption(
        f"`nodata={given:g}` cannot be a pixel of {name}, whose type is {dtype.name}: {kind} from "
        f"{limits.min:g} to {limits.max:g} was expected."
    )


def may_be_measured(nodata: float | None, dtype: np.dtype) -> bool:
    """Can this nodata value also be a measurement in a single band (0 or saturated)?"""
    return dtype.kind in "iu" and nodata in (0, np.iinfo(dtype).max)
