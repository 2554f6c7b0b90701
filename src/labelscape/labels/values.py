"""What the values of label rasters mean: how a user says it, which values a file holds, and which classes
they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Window
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import gdal, open_raster, reason


@dataclass(frozen=True)
class LabelSpec:
    """How label files are to be understood.

    legend         the classes; None lets them be found: the values of a raster, the class names of polygons
    values         class name -> its value in label rasters, where that is not the legend's own
    class_column   the column of a polygon file that names the class; needed only where there are several
                   columns to choose from
    merge          new class -> classes it is made of; classes not named are not used ("woodland": ("forest",
                   "scrub"))
    background     name of the class of every pixel no polygon covers; None leaves them unlabelled
    area           file of polygons inside which the labels are complete; outside nothing is labelled
    ignore_values  raster values that mean "not labelled", beside the file's nodata and 255
    threshold      label rasters are grey masks of two classes: values from this one up are the second class,
                   the others the first
    """

    legend: Legend | None = None
    values: Mapping[str, int] | None = None
    class_column: str | None = None
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: str | None = None
    area: str | None = None
    ignore_values: tuple[int, ...] = ()
    threshold: int | None = None


def read_labels(dataset: object, window: RasterioWindow | None) -> np.ndarray:
    """One window of a label raster as integers; NaN becomes 255."""
    try:
        with gdal():
            values = dataset.read(1, window=window)
    except (RasterioError, OSError) as error:
        raise BadFile(
            f"{dataset.name} cannot be read: the file is truncated or damaged ({reason(error)})."
        ) from error
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, IGNORE)
        if not np.array_equal(values, np.round(values)):
            raise BadInput(
                f"{dataset.name} holds fractions such as {values[values != np.round(values)][0]:g}; labels "
                "are whole numbers."
            )
        values = values.astype(np.int32)
    return values


def ignored_values(dataset: object, spec: LabelSpec) -> tuple[int, ...]:
    nodata = () if dataset.nodata is None or dataset.nodata != dataset.nodata else (int(dataset.nodata),)
    return (IGNORE, *nodata, *spec.ignore_values)


def values_found(dataset: object) -> Counter:
    """Every value of a label raster and its pixel count, block by block."""
    counts: Counter = Counter()
    for window in Window(0, 0, dataset.height, dataset.width).blocks(2048):
        values, pixels = np.unique(read_labels(dataset, window.rio), return_counts=True)
        counts.update(dict(zip(values.tolist(), pixels.tolist())))
    return counts


def raster_legend(sources: Sequence[str | Path], spec: LabelSpec) -> Legend:
    """One legend for several label rasters: all the values that any of them holds."""
    if spec.threshold is not None:
        return mask_legend(spec)
    found: set[int] = set()
    for source in sources:
        with gdal(), open_raster(source) as dataset:
            found.update(legend_found(dataset, spec, may_be_empty=True).values)
    if not found:
        raise BadInput(
            f"None of the {len(sources)} label files labels anything: every pixel is nodata or 255."
        )
    return Legend.of_names([f"class {v}" for v in sorted(found)], values=sorted(found))


def legend_found(dataset: object, spec: LabelSpec, *, may_be_empty: bool = False) -> Legend:
    """A legend from the values in the file, with the colours of its colour table where it has one."""
    ignore = set(ignored_values(dataset, spec))
    values = sorted(v for v in values_found(dataset) if v not in ignore)
    if not values and may_be_empty:
        return Legend(())
    if not values:
        raise BadInput(f"{dataset.name} labels nothing: every pixel is nodata or 255.")
    if len(values) > 254 or values[0] < 0 or values[-1] > 254:
        raise BadInput(
            f"{dataset.name} holds {len(values)} values from {values[0]} to {values[-1]}; class values lie "
            "in 0..254. "
            "Is this a label raster? Name its classes with --classes."
        )
    try:
        palette = dataset.colormap(1)
        colors = [tuple(palette[v][:3]) for v in values]
    except (ValueError, KeyError):
        colors = None
    return Legend.of_names([f"class {v}" for v in values], values=values, colors=colors)


def merged_values(spec: LabelSpec, dataset: object) -> tuple[Legend, np.ndarray]:
    """The legend of the merged classes, and value -> merged index."""
    if spec.values:
        stored = dict(spec.values)
    else:
        stored = {c.name: c.value for c in legend_found(dataset, replace(spec, legend=None)).classes}
    merged = spec.legend or merged_legend(list(stored), spec.merge)
    table = np.full(65536, IGNORE, np.uint8)
    for new, olds in spec.merge.items():
        for old in olds:
            table[stored[old]] = merged.index(new)
    known = {*stored.values(), *ignored_values(dataset, spec)}
    unknown = sorted(v for v in values_found(dataset) if v not in known)
    if unknown:
        raise BadInput(
            f"{dataset.name} holds the values {unknown[:8]}, which no class has. Add the class with "
            "--classes, or name the value with --ignore-value."
        )
    return merged, table


def mask_legend(spec: LabelSpec) -> Legend:
    """The two classes of grey masks. Raises BadInput for another number of classes."""
    legend = spec.legend or Legend.of_names(["other", "object"])
    if len(legend) != 2:
        raise BadInput(
            f"A threshold makes two classes; {len(legend)} are named ({', '.join(legend.names)}). Name two: "
            "--classes other=0,road=1."
        )
    return legend


def mask_table(dataset: object, spec: LabelSpec) -> np.ndarray:
    """Value of a grey mask -> class index; the file's nodata, but not 255, is unlabelled."""
    table = (np.arange(65536) >= spec.threshold).astype(np.uint8)
    for value in (
        *spec.ignore_values,
        *([] if dataset.nodata is None or not 0 <= dataset.nodata < 65536 else [int(dataset.nodata)]),
    ):
        table[value] = IGNORE
    return table


def look_like_masks(sources: Sequence[str | Path], spec: LabelSpec) -> bool:
    """Label rasters of nothing but 0 and 255, where nobody said what 255 means; judged on thumbnails."""
    if (
        not sources
        or spec.threshold is not None
        or IGNORE in spec.ignore_values
        or IGNORE in (spec.values or {}).values()
    ):
        return False
    seen: set[int] = set()
    for source in sources:
        with gdal(), open_raster(source) as dataset:
            if dataset.nodata is not None or dataset.count != 1:
                return False
            seen.update(
                np.unique(
                    dataset.read(1, out_shape=(min(512, dataset.height), min(512, dataset.width)))
                ).tolist()
            )
        if not seen <= {0, IGNORE}:
            return False
    return IGNORE in seen


def merged_legend(names: Sequence[str], merge: Mapping[str, Sequence[str]]) -> Legend:
    """The legend of the new classes. Raises UnknownName for an old class that does not exist, BadInput for
    one used twice.
    """
    used: Counter = Counter()
    for olds in merge.values():
        for old in olds:
            if old not in names:
                raise UnknownName("class in the labels", old, names)
            used[old] += 1
    twice = [name for name, times in used.items() if times > 1]
    if twice:
        raise BadInput(f"The class {twice[0]!r} is merged into two classes; put it into one.")
    return Legend.of_names(list(merge))
