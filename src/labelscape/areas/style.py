"""QGIS styles stored in a GeoPackage: QGIS applies the default style of `layer_styles`."""

from __future__ import annotations

import contextlib
import sqlite3
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from pathlib import Path

from labelscape.legend import RGB, Legend
from labelscape.rasters.style import polygons_sld, qml_text
from labelscape.scenes.vectors import written_at


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """A GeoPackage that GDAL has closed, open to add tables to it. Raises OSError where it cannot be written,
    as GDAL's writers here do (`vectors.writing`).
    """
    try:
        # closing(...), base: the connection as a context manager commits, but does not close.
        with contextlib.closing(sqlite3.connect(path)) as base, base:
            yield base
    # Of a full disk SQLite has an error of its own, which is no OSError.
    except sqlite3.OperationalError as error:
        raise OSError(str(error)) from error


def add_style(path: Path, layer: str, legend: Legend) -> None:
    """Store the legend's colours as the default style of a layer of polygons."""
    sld = polygons_sld(legend, layer)
    store_style(path, layer, polygon_style(legend), "classes", "colours of the legend", sld=sld)


def store_style(
    path: Path, layer: str, qml: str, name: str, description: str, *, sld: str | None = None
) -> None:
    """Store a default style for `layer` in the table `layer_styles`, with the columns that QGIS creates."""
    with edited(path) as base:
        (column,) = base.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
        ).fetchone()
        base.execute(
            "CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog "
            "TEXT(256), f_table_schema TEXT(256), "
            "f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, "
            "styleSLD TEXT, useAsDefault BOOLEAN, "
            "description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT "
            "(strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        base.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
            "styleName, styleQML, styleSLD, useAsDefault, "
            "description, owner, update_time) "
            "VALUES ('', '', ?, ?, ?, ?, ?, 1, ?, '', ?)",
            (layer, column, name, qml, sld, description, written_at()),
        )
        # A table that gpkg_contents does not list is not part of a GeoPackage for other readers.
        base.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, last_change) VALUES "
            "('layer_styles', 'attributes', 'layer_styles', ?)",
            (written_at(),),
        )


def polygon_style(legend: Legend) -> str:
    """QML: one category per class by the column `value`, filled in its colour, without outline."""
    return category_style("value", [(str(c.value), c.name, c.color) for c in legend.classes], "long")


def category_style(
    column: str,
    categories: Sequence[tuple[str, str, RGB]],
    kind: str,
    *,
    alpha: int = 255,
    outline: bool = False,
) -> str:
    """QML: one category for each (value, label, colour) of a column of this type (long, string); `alpha` is
    that of the fill, 0 to 255.
    """
    root = xml.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = xml.SubElement(
        root,
        "renderer-v2",
        type="categorizedSymbol",
        attr=column,
        symbollevels="0",
        enableorderby="0",
        forceraster="0",
    )
    shown, symbols = xml.SubElement(renderer, "categories"), xml.SubElement(renderer, "symbols")
    for number, (value, label, color) in enumerate(categories):
        xml.SubElement(
            shown, "category", value=value, symbol=str(number), label=label, render="true", type=kind
        )
        symbol = xml.SubElement(
            symbols, "symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1", force_rhr="0"
        )
        fill = xml.SubElement(
            symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
        )
        options = xml.SubElement(fill, "Option", type="Map")
        red, green, blue = color
        rows = [("color", f"{red},{green},{blue},{alpha}"), ("style", "solid")]
        if outline:
            rows += [("outline_color", f"{red},{green},{blue},255"), ("outline_style", "solid")]
        else:
            rows += [("outline_style", "no")]
        for name, text in rows:
            xml.SubElement(options, "Option", name=name, type="QString", value=text)
    return qml_text(root)
