"""The values in label rasters: the one reading of them that training, scoring and checks share.

A pixel is unlabelled where a mask or an alpha band says so (inside the file, in a `.msk` beside it, in a
VRT), where it is NaN or infinite, where it has the file's nodata value, and outside the file. A nodata value
that the user gives a class by `classes` is that class, though not one that only other files or a model have;
values that the user calls unlabelled are no class, and a masked pixel is none, whatever it holds.
"""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.labels.class_names import names_of_values
from labelscape.labels.rules import FoundClasses, LabelRules
from labelscape.legend import IGNORE
from labelscape.scenes.files import gdal, late_failures, reading
from labelscape.scenes.validity import Mask, bands_and_validity, unmasked

EXACT = 2**53
"""Whole numbers up to this one are exact in every type that a raster may have."""


class FractionalValues(BadInput):
    """A label raster with values that are no whole numbers."""


class LabelBand:
    """The band of class values of an open label raster, as it is or as seen on another grid."""

    def __init__(self, dataset: rasterio.DatasetReader, view: WarpedVRT | None = None) -> None:
        """`view` is `dataset` warped to a grid, with an alpha band of what it covers (`rasters.on_grid`)."""
        self.name, self.shape = dataset.name, dataset.shape
        self._read_from = dataset if view is None else view
        found = bands_and_validity(dataset, alpha="mask")
        # Masks saved as RGB(A) have three equal bands.
        self._bands = found.bands if len(found.bands) == 3 else found.bands[:1] or (1,)
        self._masks = found.masks(dataset)
        if view is not None:
            alpha = [i for i, c in zip(view.indexes, view.colorinterp) if c == ColorInterp.alpha][-1]
            self._masks = (Mask(view, alpha, "alpha"),)
        self._nodata, self._dtype = dataset.nodata, np.dtype(dataset.dtypes[self._bands[0] - 1])
        self.nodata = _whole(dataset.nodata)
        # What the file itself calls unlabelled: nodata, and what is transparent in its colour table.
        nodata = () if self.nodata is None else (self.nodata,)
        self.declared = (*nodata, *_transparent(dataset, self._bands[0]))

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W) whole numbers of a window, and (H, W) bool where it is unlabelled whatever the number is,
        None where it is nowhere. There the number is 255.

        Raises BadFile where the file cannot be read, FractionalValues for fractions, BadInput for numbers
        that no class can have, and for three bands that differ.
        """
        with gdal(), late_failures(self.name):
            values, *others = self._read_from.read(list(self._bands), window=window.rio)
            masked = ~unmasked(self._masks, window) if self._masks else None
        seen = slice(None) if masked is None else ~masked
        if any((values[seen] != other[seen]).any() for other in others):
            raise BadInput(
                f"{self.name} has {len(self._bands)} bands of colours; a label raster has one band of class "
                "values. Convert colours to class values first."
            )
        # GIS tools often save class rasters as float; that is fine while every value is an integer.
        if values.dtype.kind == "f":
            values, masked = self._as_integers(values, masked)
        if masked is None or not masked.any():
            return values, None
        return np.where(masked, values.dtype.type(_fits(IGNORE, values.dtype)), values), masked

    def seen(self, window: Window) -> np.ndarray:
        """(H, W) bool: what no mask and no alpha band leaves out."""
        return unmasked(self._masks, window)

    def _as_integers(self, values: np.ndarray, masked: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        unlabelled = ~np.isfinite(values) | (False if masked is None else masked)
        # In the file's own type: -3.4e38 as text equals its pixels only once it is rounded to 32 bits.
        if self._nodata is not None and self.nodata is None:
            with np.errstate(over="ignore"):
                unlabelled |= values == np.asarray(self._nodata).astype(self._dtype)
        values = np.where(unlabelled, values.dtype.type(0), values)
        # Probabilities rounded to classes would be labels that nobody drew.
        broken = values != np.round(values)
        if broken.any():
            raise FractionalValues(
                f"{self.name} has fractional values such as {values[broken][0]:.9g}; labels must be integers."
            )
        huge = abs(values) > EXACT
        if huge.any():
            raise BadInput(
                f"{self.name} holds {values[huge][0]:.9g}, which no class can have. If it means 'not "
                "labelled', declare it as the file's nodata value (gdal_edit.py -a_nodata "
                f"{values[huge][0]:.9g} FILE)."
            )
        return values.astype(np.int64), unlabelled

    def ignored(self, rules: LabelRules) -> tuple[int, ...]:
        """Values that mean "not labelled", whatever class they have elsewhere: those the rules name; 255 and
        the file's own (`declared`) unless `classes` gives them a class. 255 is white in grey masks.
        """
        if rules.threshold is not None:
            return (*self.declared, *rules.ignore_values)
        named = (rules.classes or {}).values()
        own = (value for value in (IGNORE, *self.declared) if value not in named)
        return (*own, *rules.ignore_values)

    def counts(self) -> Counter:
        """The number of labelled pixels of every value, read block by block."""
        counts: Counter = Counter()
        # A few MB at a time, whatever the size of the raster.
        for window in Window(0, 0, *self.shape).blocks(2048):
            values, masked = self.read(window)
            values, pixels = np.unique(values if masked is None else values[~masked], return_counts=True)
            counts.update(dict(zip(values.tolist(), pixels.tolist())))
        return counts


def _whole(nodata: float | None) -> int | None:
    """A nodata value as the whole number that pixels may have; None where there is none."""
    if nodata is None or not np.isfinite(nodata) or nodata != round(nodata):
        return None
    # The least of 64 bits, which software declares by default, is a power of two, and exact too.
    if abs(nodata) > EXACT and nodata != np.iinfo(np.int64).min:
        return None
    return int(nodata)


def _fits(value: int, dtype: np.dtype) -> int:
    """The value, or the largest that the type holds."""
    return min(value, np.iinfo(dtype).max)


def _transparent(dataset: rasterio.DatasetReader, band: int) -> tuple[int, ...]:
    """Values whose colour is transparent in the file's colour table, which has opaque ones as well."""
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return ()
    table = dataset.colormap(band)
    clear = tuple(value for value, color in table.items() if len(color) > 3 and color[3] == 0)
    return clear if len(clear) < len(table) else ()


def check_bands(dataset: rasterio.DatasetReader) -> None:
    """Raises BadInput for a raster that has not one band of numbers, or three, which may be equal (and maybe
    one of alpha).
    """
    bands = bands_and_validity(dataset, alpha="mask").bands
    if len(bands) not in (0, 1, 3):
        raise BadInput(
            f"{dataset.name} has {dataset.count} bands; a label raster has one band of class values. Convert "
            "colours to class values first."
        )
    if dataset.dtypes[0].startswith("complex"):
        raise BadInput(f"{dataset.name} has {dataset.dtypes[0]} values; a label raster has integers.")


def compression_of(dataset: rasterio.DatasetReader) -> str | None:
    """The lossy compression of a raster, None where it has none."""
    said = dataset.tags(ns="IMAGE_STRUCTURE")
    if dataset.driver == "JPEG" or "JPEG" in said.get("COMPRESSION", "").split():
        return "JPEG"
    if said.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSY"):
        return f"lossy {said.get('COMPRESSION', dataset.driver)}"
    if dataset.driver == "VRT" and (method := _interpolated(dataset)):
        return f"a virtual raster that resamples by {method}"
    # LERC changes values by up to this much; whole numbers stay below 1.
    error = said.get("MAX_Z_ERROR", "0")
    if error.replace(".", "", 1).isdecimal() and float(error) >= 1:
        return f"{said.get('COMPRESSION', 'LERC')} with an error of up to {error}"
    return None


def _interpolated(dataset: rasterio.DatasetReader) -> str | None:
    """The method by which a virtual raster makes new values of those of its files; None without one."""
    try:
        root = xml.fromstring(
            dataset.tags(ns="xml:VRT").get("xml:VRT", "") or Path(dataset.name).read_bytes()
        )
    except (OSError, ValueError, xml.ParseError):  # made in memory, or by GDAL from another text
        return None
    warped = [one.text or "" for one in root.iter("ResampleAlg")]
    sources = (one for one in root.iter() if one.get("resampling"))
    resized = [one.get("resampling", "") for one in sources if _size(one, "SrcRect") != _size(one, "DstRect")]
    methods = (method.lower() for method in (*warped, *resized))
    return next((method for method in methods if method not in WHOLE), None)


WHOLE = (
    "",
    "near",
    "nearest",
    "nearestneighbour",
    "nearestneighbor",
    "mode",
    "min",
    "max",
    "minimum",
    "maximum",
)
"""Methods of resampling whose values are those of the files."""


def _size(source: xml.Element, rect: str) -> tuple[float, ...]:
    found = source.find(rect)
    return () if found is None else tuple(float(found.get(side, "0")) for side in ("xSize", "ySize"))


def check_lossless(dataset: rasterio.DatasetReader, rules: LabelRules) -> None:
    """Raises BadInput for class values whose compression has changed them: 1 between 0 and 2 would be a
    class that nobody drew. Masks are cut by a threshold instead; two values far apart with nothing between
    are whole.
    """
    if rules.threshold is not None or (how := compression_of(dataset)) is None:
        return
    band = LabelBand(dataset)
    values = sorted(band.counts())
    if len(values) < 2 or (len(values) == 2 and values[1] - values[0] > 9):
        return
    shown = ", ".join(map(str, values[:8])) + " ..." * (len(values) > 8)
    raise BadInput(
        f"{dataset.name} was saved as {how}, which changes values: it holds {len(values)} values ({shown}), "
        "some of which were never drawn. Export the labels again as PNG or GeoTIFF without loss; a black and "
        "white mask can be cut with `threshold=128`."
    )


def raster_classes(dataset: rasterio.DatasetReader, rules: LabelRules) -> FoundClasses:
    """The classes in an open label raster. It is read only where the rules do not name them.

    Raises BadInput for values that cannot be class values, BadFile where it cannot be read.
    """
    if rules.threshold is not None or rules.classes or (rules.legend and not rules.merge):
        return FoundClasses(dataset.name)
    band = LabelBand(dataset)
    # A scan of the whole raster, minutes for the largest: a value that occurs in one corner is a class too.
    ignore = set(band.ignored(rules))
    met = sorted(band.counts())
    values = [v for v in met if v not in ignore]
    # 254, not 255: one byte value must be left for "unlabelled". Codes that are merged get new values.
    beyond = bool(values) and not rules.merge and (values[0] < 0 or values[-1] > 254)
    if beyond or len(values) > 254:
        raise BadInput(
            f"{dataset.name} has {len(values)} values from {values[0]} to {values[-1]}; classes are at most "
            "254 values from 0 to 254. Is this a label raster? Name its classes with `classes`, and what is "
            "not labelled with `ignore_values`."
        )
    _check_patches(band, values, has_palette=dataset.colorinterp[0] == ColorInterp.palette)
    try:
        palette = dataset.colormap(1)
        colors = tuple(tuple(palette[v][:3]) for v in values)
    except (ValueError, KeyError):  # no colour table, or one that lacks some of the values
        colors = None
    names = names_of_values(dataset.name, dataset)
    called = {value: names[value] for value in values if value in names}
    return FoundClasses(dataset.name, values=tuple(values), colors=colors, called=called, met=tuple(met))


def _check_patches(band: LabelBand, values: Sequence[int], *, has_palette: bool) -> None:
    """Raises BadInput for a picture or a measurement: many values, and neighbours that are rarely equal."""
    # Of few classes even a speckled map has more equal neighbours than a picture of that many greys.
    if len(values) <= 16:
        return
    height, width = band.shape
    size = min(1024, height), min(1024, width)
    middle = Window((height - size[0]) // 2, (width - size[1]) // 2, *size)
    pixels, _ = band.read(middle)
    if pixels.size < 2 or (pixels[:, 1:] == pixels[:, :-1]).mean() >= 0.5:
        return
    what = "a picture with a colour table" if has_palette else "a picture or a measurement"
    raise BadInput(
        f"{band.name} seems to be {what}, not a label raster: it has {len(values)} values, and few pixels "
        "are like their neighbours. Pass the raster of class values; if this is one, name them with "
        "`classes`."
    )


def mask_indices(
    values: np.ndarray, unlabelled: np.ndarray | None, ignored: Sequence[int], rules: LabelRules
) -> np.ndarray:
    """(H, W) uint8 class indices of a grey mask: 1 from `rules.threshold` on, 0 below, IGNORE where
    unlabelled, as the values in `ignored` are.
    """
    indices = (values >= rules.threshold).astype(np.uint8)
    indices[np.isin(values, ignored)] = IGNORE
    if unlabelled is not None:
        indices[unlabelled] = IGNORE
    return indices


def look_like_masks(sources: Sequence[str | Path], rules: LabelRules) -> bool:
    """Do label rasters hold only 0 and 255, and the rules do not say what 255 means? Judged on thumbnails of
    512 pixels, because every file is tested.
    """
    explained = IGNORE in rules.ignore_values or IGNORE in (rules.classes or {}).values()
    if not sources or rules.threshold is not None or explained:
        return False
    seen: set[int] = set()
    for source in sources:
        with reading(source) as dataset:
            # A declared nodata value says what the others are: this is no unexplained mask.
            bands = len(bands_and_validity(dataset, alpha="mask").bands)
            if dataset.nodata is not None or bands not in (1, 3):
                return False
            small = min(512, dataset.height), min(512, dataset.width)
            seen.update(np.unique(dataset.read(1, out_shape=small)).tolist())
        if not seen <= {0, IGNORE}:
            return False
    return IGNORE in seen
