"""Read the legend of a class raster: its names and colours, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from labelscape.errors import BadInput
from labelscape.labels.class_names import called, names_of_values
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.scenes.files import reading


def legend_of(raster: str | Path, checkpoint: Path | None = None) -> tuple[Legend, int]:
    """Read the legend of a class raster; also returns its height in pixels.

    Names come from the checkpoint, else from those stored with the raster (`labels.class_names`); without any
    the values found in it are called `class <value>`. Colours come from the raster's colour table.

    Raises BadFile where a file cannot be read, BadInput where the raster is not a class map or has no
    classes.
    """
    with reading(raster) as file:
        found = class_raster(file, raster)
        if checkpoint is not None:
            from labelscape.checkpoint import load

            return load(checkpoint).legend, file.height
        return legend_in(found), file.height


def legend_in(raster: ClassRaster, values_of: Callable[[ClassRaster], Iterable[int]] | None = None) -> Legend:
    """The legend of an open class raster, as `legend_of` reads it; `values_of` finds the values of one
    without names, by default in all of its pixels. Raises as `legend_of`.
    """
    found = names_of_values(raster.path, raster.file)
    names = found or dict.fromkeys((values_of or values_in)(raster), "")
    try:
        palette = raster.file.colormap(1)
    except ValueError:  # rasterio's answer where there is no colour table
        palette = {}
    values = sorted(v for v in names if 0 <= v < IGNORE)
    if not values:
        raise BadInput(f"{raster.path} has no classes: every pixel is nodata, and it has no attribute table.")
    colors = [palette[v][:3] for v in values] if all(v in palette for v in values) else None
    return Legend.of_names(called(values, names), values=values, colors=colors)


def values_in(raster: ClassRaster) -> list[int]:
    """The class values of all pixels."""
    seen = np.zeros(256, np.int64)
    # 4 MB at a time: the raster may be larger than memory.
    for window in raster.grid.window.blocks(2048):
        seen += np.bincount(raster.read(window).ravel(), minlength=256)
    return [int(v) for v in np.flatnonzero(seen) if int(v) not in (IGNORE, raster.nodata)]
