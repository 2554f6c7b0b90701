"""The values in label rasters: read as integers, counted, and recognised as masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Window
from labelscape.labels.rules import FoundClasses, LabelRules
from labelscape.legend import IGNORE
from labelscape.scenes.files import gdal, open_raster, reason

MASK_NAN = -(2**31)
"""NaN in a mask is read as this value, which no mask has; 255 would be white."""


def read_labels(dataset: object, window: RasterioWindow | None, *, nan: int = IGNORE) -> np.ndarray:
    """(H, W) integers of one window of a label raster; NaN becomes `nan`.

    Raises BadFile if the file cannot be read, BadInput if it holds fractions.
    """
    try:
        with gdal():
            values = dataset.read(1, window=window)
    except (RasterioError, OSError) as error:
        raise BadFile(
            f"{dataset.name} cannot be read: the file is truncated or damaged ({reason(error)})."
        ) from error
    # GIS tools often save class rasters as float; that is fine while every value is an integer.
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, nan)
        # Probabilities rounded to classes would be labels that nobody drew.
        if not np.array_equal(values, np.round(values)):
            raise BadInput(
                f"{dataset.name} has fractional values such as {values[values != np.round(values)][0]:g}; "
                "labels must be integers."
            )
        values = values.astype(np.int32)
    return values


def ignored_values(dataset: object, rules: LabelRules) -> tuple[int, ...]:
    """Values that mean "not labelled": 255, the file's nodata, and those the rules name."""
    # NaN as nodata was turned into 255 by `read_labels`.
    has_nodata = dataset.nodata is not None and np.isfinite(dataset.nodata)
    return (IGNORE, *((int(dataset.nodata),) if has_nodata else ()), *rules.ignore_values)


def values_found(dataset: object) -> Counter:
    """The pixel count of every value of a label raster, read block by block."""
    counts: Counter = Counter()
    # A few MB at a time, whatever the size of the raster.
    for window in Window(0, 0, dataset.height, dataset.width).blocks(2048):
        values, pixels = np.unique(read_labels(dataset, window.rio), return_counts=True)
        counts.update(dict(zip(values.tolist(), pixels.tolist())))
    return counts


def raster_classes(dataset: object, rules: LabelRules) -> FoundClasses:
    """The classes in an open label raster. It is read only where the rules do not name them.

    Raises BadInput for values that cannot be class values, BadFile where it cannot be read.
    """
    if rules.threshold is not None or rules.classes or (rules.legend and not rules.merge):
        return FoundClasses(dataset.name)
    # A scan of the whole raster, minutes for the largest: a value that occurs in one corner is a class too.
    ignore = set(ignored_values(dataset, rules))
    values = sorted(v for v in values_found(dataset) if v not in ignore)
    # 254, not 255: one byte value must be left for "unlabelled".
    if values and (len(values) > 254 or values[0] < 0 or values[-1] > 254):
        raise BadInput(
            f"{dataset.name} has {len(values)} values from {values[0]} to {values[-1]}; class values must be "
            "0 to 254. Is this a label raster? Name its classes with `classes`."
        )
    try:
        palette = dataset.colormap(1)
        colors = tuple(tuple(palette[v][:3]) for v in values)
    except (ValueError, KeyError):  # no colour table, or one that lacks some of the values
        colors = None
    return FoundClasses(dataset.name, values=tuple(values), colors=colors)


def read_mask(dataset: object, window: RasterioWindow | None, rules: LabelRules) -> np.ndarray:
    """(H, W) uint8 class indices of a grey mask: 1 from `rules.threshold` on, 0 below, IGNORE for nodata, NaN
    and `rules.ignore_values`. 255 is white here, not "unlabelled", unless the rules or the file say so.

    Raises BadFile if the file cannot be read, BadInput if it holds fractions.
    """
    values = read_labels(dataset, window, nan=MASK_NAN)
    # NaN is far below zero here, and is put aside after this.
    indices = (values >= rules.threshold).astype(np.uint8)
    has_nodata = dataset.nodata is not None and np.isfinite(dataset.nodata)
    nodata = (int(dataset.nodata),) if has_nodata else ()
    indices[np.isin(values, (MASK_NAN, *nodata, *rules.ignore_values))] = IGNORE
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
        with gdal(), open_raster(source) as dataset:
            # A declared nodata value says what the others are: this is no unexplained mask.
            if dataset.nodata is not None or dataset.count != 1:
                return False
            small = min(512, dataset.height), min(512, dataset.width)
            seen.update(np.unique(dataset.read(1, out_shape=small)).tolist())
        if not seen <= {0, IGNORE}:
            return False
    return IGNORE in seen
