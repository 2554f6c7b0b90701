"""Names of the values of a class raster, as Labelscape and GIS programs store them: GDAL's attribute table or
category names (`.aux.xml`, or inside a `.vrt`, an `.img` or ENVI's header), a tag of ours, a table beside the
raster (`.vat.dbf`), a QGIS style (`.qml`).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence
from pathlib import Path

import rasterio
import rasterio.shutil

from labelscape.errors import BadFile
from labelscape.files import temporary_folder
from labelscape.scenes.files import READ_FAILURES, gdal, is_local
from labelscape.scenes.vectors import read_table
from labelscape.text import printable_name

NAMES_TAG = "class_names"
"""TIFF tag (GDAL metadata item) of class rasters: their classes' names by value, as JSON."""
VALUE, MINIMUM, NAME = 5, 3, 2
"""Usages of the columns of an attribute table (GDALRATFieldUsage): value, minimum and name."""
WITHOUT_NAMES = ("GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG", "BMP")
"""Formats that hold no names themselves: those of them lie in side files."""
VALUE_COLUMNS = ("value", "val", "class_value", "gridcode", "pixelvalue")
NAME_COLUMNS = ("class", "class_name", "classname", "name", "label", "category", "class_names", "landcover")
"""Columns, in small letters, of tables whose columns have no usage: those of ArcGIS and QGIS."""


def names_as_tag(names: Mapping[int, str]) -> str:
    return json.dumps(dict(names), ensure_ascii=False)


def names_in_tag(tags: Mapping[str, str]) -> dict[int, str]:
    """Value -> name from a raster's tags; empty where there are none that `names_as_tag` wrote."""
    try:
        found = json.loads(tags.get(NAMES_TAG, "{}"))
        return {int(value): str(name) for value, name in found.items() if name}
    except (ValueError, AttributeError):  # another program's tag of this name
        return {}


def names_of_values(raster: str | Path, file: rasterio.DatasetReader) -> dict[int, str]:
    """Value -> name: from the side file, which users edit, else from the tags of the raster itself, else from
    another program's table or style beside it. Raises BadFile where one of these is damaged.
    """
    found = named_values(Path(f"{raster}.aux.xml")) or names_in_tag(file.tags())
    if found or not is_local(str(raster)):
        return found
    path = Path(raster)
    if path.suffix.lower() == ".vrt":
        found = named_values(path, band="VRTRasterBand")
    elif file.driver not in WITHOUT_NAMES:
        found = _in_file(file)
    return found or _in_table(Path(f"{raster}.vat.dbf")) or _in_style(path.with_suffix(".qml"))


def _in_file(file: rasterio.DatasetReader) -> dict[int, str]:
    """Value -> name from the categories inside a file (ENVI's header, Erdas Imagine): rasterio does not give
    them, and GDAL writes them into a virtual raster of the file.
    """
    with temporary_folder() as folder:
        view = folder / "names.vrt"
        try:
            with gdal():
                rasterio.shutil.copy(file, view, driver="VRT")
        except READ_FAILURES:  # its pixels will tell
            return {}
        return named_values(view, band="VRTRasterBand")


def called(values: Sequence[int], names: Mapping[int, str]) -> list[str]:
    """A name for each value, fit for a legend: `class 7` where it has none, `forest (3)` where another value
    has the same one.
    """
    found = [printable_name(names.get(v, "")).strip() or f"class {v}" for v in values]
    # A legend needs unique names, which attribute tables of other software need not have.
    return [f"{name} ({v})" if found.count(name) > 1 else name for v, name in zip(values, found)]


def named_values(side_file: Path, *, band: str = "PAMRasterBand") -> dict[int, str]:
    """Value -> name from GDAL's side file (.aux.xml); empty without one, or where it names none.

    Read as XML, since rasterio gives no access to attribute tables. Raises BadFile where it is damaged.
    """
    root = _xml(side_file)
    first = None if root is None else root.find(band)
    if first is None:
        return {}
    table = first.find("GDALRasterAttributeTable")
    if table is not None:
        fields = [
            (field.findtext("Usage", "0"), (field.findtext("Name") or "").lower())
            for field in table.findall("FieldDefn")
        ]
        columns = _columns(fields)
        if columns is not None:
            rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
            return _named((row[columns[0]], row[columns[1]]) for row in rows if len(row) > max(columns))
    categories = first.findall("CategoryNames/Category")
    return {value: category.text for value, category in enumerate(categories) if category.text}


def _columns(fields: Sequence[tuple[str, str]]) -> tuple[int, int] | None:
    """The places of the value and of the name among columns (usage, name), by their usage, else by name."""

    def place(usages: Sequence[int], names: Sequence[str]) -> int | None:
        by_usage = (n for usage in usages for n, (own, _) in enumerate(fields) if own == str(usage))
        by_name = (n for name in names for n, (_, own) in enumerate(fields) if own == name)
        return next(by_usage, next(by_name, None))

    value, name = place((VALUE, MINIMUM), VALUE_COLUMNS), place((NAME,), NAME_COLUMNS)
    return None if value is None or name is None else (value, name)


def _named(pairs: object) -> dict[int, str]:
    """Value -> name of pairs as tables hold them; those that are no whole number or no name are left out."""
    found = {}
    for value, name in pairs:
        try:
            # Tables with a column of real numbers hold a class value as `3.0`.
            number = float(value)
        except (TypeError, ValueError):
            continue
        if number.is_integer() and isinstance(name, str) and name.strip():
            found[int(number)] = name
    return found


def _in_table(table: Path) -> dict[int, str]:
    """Value -> name from the value attribute table that ArcGIS writes."""
    if not table.is_file():
        return {}
    columns = read_table(table)
    places = _columns([("0", name.lower()) for name in columns])
    if places is None:
        return {}
    value, name = (list(columns.values())[n].tolist() for n in places)
    return _named(zip(value, name))


def _in_style(style: Path) -> dict[int, str]:
    """Value -> name from the style that QGIS stores beside a raster, where it paints single values."""
    root = _xml(style)
    entries = () if root is None else root.iter("paletteEntry")
    pairs = [(entry.get("value"), entry.get("label") or "") for entry in entries]
    # QGIS labels an unnamed value by its number.
    return _named((value, "" if label == value else label) for value, label in pairs)


def _xml(file: Path) -> xml.Element | None:
    if not file.is_file():
        return None
    try:
        return xml.parse(file).getroot()
    except xml.ParseError as error:
        raise BadFile(
            f"{file} is damaged ({error}); remove it, or name the classes with `legend` or `classes`."
        ) from error
