"""Read the legend of a class raster: from its attribute table, category names, tags, or a checkpoint."""

from __future__ import annotations

import json
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Window
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import gdal, open_raster
from labelscape.text import printable_name

NAMES_TAG = "class_names"
"""TIFF tag (GDAL metadata item) of class rasters: their classes' names by value, as JSON."""


def names_as_tag(legend: Legend) -> str:
    return json.dumps({c.value: c.name for c in legend.classes}, ensure_ascii=False)


def names_in_tag(tags: Mapping[str, str]) -> dict[int, str]:
    """Value -> name from a raster's tags; empty where there are none that `names_as_tag` wrote."""
    try:
        found = json.loads(tags.get(NAMES_TAG, "{}"))
        return {int(value): str(name) for value, name in found.items() if name}
    except (ValueError, AttributeError):  # another program's tag of this name
        return {}


def names_of_values(raster: str | Path, file: rasterio.DatasetReader) -> dict[int, str]:
    """Value -> name: from the side file, which users edit, else from the tags of the raster itself."""
    return named_values(Path(f"{raster}.aux.xml")) or names_in_tag(file.tags())


def check_class_map(file: rasterio.DatasetReader, raster: str | Path) -> None:
    """Raises BadInput where a raster is not a class map: several bands, another data type, or another raster
    of a map (its confidence or entropy, which are uint8 too).
    """
    if file.count != 1 or file.dtypes[0] != "uint8":
        raise BadInput(
            f"{raster} has {file.count} band(s) of {file.dtypes[0]}; a class map has one of uint8."
        )
    shown = (file.descriptions[0] or "").split(" ")[0]
    if shown in ("confidence", "entropy") and "labelscape_version" in file.tags():
        raise BadInput(f"{raster} holds the {shown} of a map, not its classes; use its _class.tif.")


def legend_of(raster: str | Path, checkpoint: Path | None = None) -> tuple[Legend, int]:
    """Read the legend of a class raster; also returns its height in pixels.

    Names come from the checkpoint, else from the attribute table or the category names beside the raster
    (`<file>.aux.xml`), else from the raster's own tags; values without a name there are called
    `class <value>`. Colours come from the raster's colour table.

    Raises BadFile where a file cannot be read, BadInput where the raster is not a class map or has no
    classes.
    """
    with gdal(), open_raster(raster) as file:
        check_class_map(file, raster)
        if checkpoint is not None:
            from labelscape.checkpoint import load

            return load(checkpoint).legend, file.height
        names = names_of_values(raster, file) or {v: f"class {v}" for v in _values(file)}
        try:
            palette = file.colormap(1)
        except ValueError:  # rasterio's answer where there is no colour table
            palette = {}
    values = sorted(v for v in names if 0 <= v < IGNORE)
    if not values:
        raise BadInput(f"{raster} has no classes: every pixel is nodata, and it has no attribute table.")
    called = [printable_name(names[v]) for v in values]
    # A legend needs unique names, which attribute tables of other software need not have.
    called = [f"{name} ({v})" if called.count(name) > 1 else name for v, name in zip(values, called)]
    colors = [palette[v][:3] for v in values] if all(v in palette for v in values) else None
    return Legend.of_names(called, values=values, colors=colors), file.height


def named_values(side_file: Path) -> dict[int, str]:
    """Value -> name from GDAL's side file (.aux.xml); empty without one.

    Read as XML, since rasterio gives no access to attribute tables.
    """
    if not side_file.exists():
        return {}
    try:
        band = xml.parse(side_file).getroot().find("PAMRasterBand")
    except xml.ParseError as error:
        raise BadFile(
            f"{side_file} is damaged ({error}); remove it, or name the classes with `legend`."
        ) from error
    table = None if band is None else band.find("GDALRasterAttributeTable")
    if table is not None:
        # GDAL's GDALRATFieldUsage: 5 value (minimum and maximum), 3 minimum, 2 name.
        usage = [int(field.findtext("Usage", "0")) for field in table.findall("FieldDefn")]
        value, name = (
            next((i for i, u in enumerate(usage) if u in wanted), None) for wanted in ((5, 3), (2,))
        )
        if value is not None and name is not None:
            rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
            # Tables with a column of real numbers hold a class value as `3.0`.
            return {int(float(row[value])): row[name] for row in rows if row[name]}
    categories = [] if band is None else band.findall("CategoryNames/Category")
    return {value: category.text for value, category in enumerate(categories) if category.text}


def _values(file: rasterio.DatasetReader) -> list[int]:
    seen = np.zeros(256, np.int64)
    # 4 MB at a time: the raster may be larger than memory.
    for window in Window(0, 0, file.height, file.width).blocks(2048):
        seen += np.bincount(file.read(1, window=window.rio).ravel(), minlength=256)
    ignored = {IGNORE} if file.nodata is None else {IGNORE, int(file.nodata)}
    return [int(v) for v in np.flatnonzero(seen) if int(v) not in ignored]
