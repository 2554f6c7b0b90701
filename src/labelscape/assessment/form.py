"""QGIS styles and forms of a sample and of a review file, as QML: lists of classes to choose from."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence

from labelscape.legend import Legend
from labelscape.rasters.style import qml_text

CERTAINTY = ("certain", "likely", "unsure")
ANSWERS = {"the class is right": "right", "several classes": "mixed", "cannot tell": "unsure"}
"""What a reviewer may say of an area instead of naming a class -> as it is stored."""


def points_style(legend: Legend) -> str:
    """QML of the points: red until a class is chosen, then green; a form with the legend's classes."""
    root = _root("Symbology|Fields|Forms|AttributeTable")
    _categories(root, ("open", "200,30,30"), ("answered", "40,150,60"))
    fields = xml.SubElement(root, "fieldConfiguration")
    # Free text for the rest: a list would have to be the same in every language.
    _widget(fields, "reference", "ValueMap", {c.name: str(c.value) for c in legend.classes})
    _widget(fields, "certainty", "ValueMap", {word: word for word in CERTAINTY})
    _widget(fields, "comment", "TextEdit")
    _widget(fields, "point", "TextEdit")
    aliases = xml.SubElement(root, "aliases")
    for index, (field, name) in enumerate(
        (
            ("point", "Point"),
            ("reference", "Class on the ground"),
            ("certainty", "Certainty"),
            ("comment", "Comment"),
        )
    ):
        xml.SubElement(aliases, "alias", field=field, name=name, index=str(index + 1))
    editable = xml.SubElement(root, "editable")
    # The number ties a point to the design: a changed one would be refused by `assess`.
    xml.SubElement(editable, "field", name="point", editable="0")
    return _text(root)


def footprints_style() -> str:
    """QML of the pixels: an outline without filling, so that the ground stays visible."""
    root = _root("Symbology")
    renderer = xml.SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0", forceraster="0")
    symbols = xml.SubElement(renderer, "symbols")
    _symbol(
        symbols, "0", "fill", "SimpleFill", style="no", outline_color="255,255,0,255", outline_width="0.5"
    )
    return _text(root)


def review_style(names: Sequence[str]) -> str:
    """QML of the areas of a review file: outlined in red until they are answered, then in green; a form with
    the classes, a table sorted by rank.
    """
    root = _root("Symbology|Fields|Forms|AttributeTable")
    answered = '"class_right" IS NOT NULL OR "answer" IS NOT NULL'
    kinds = ("open", "200,30,30"), ("answered", "40,150,60")
    _categories(root, *kinds, by=answered, kind="fill")
    fields = xml.SubElement(root, "fieldConfiguration")
    _widget(fields, "class_right", "ValueMap", {name: name for name in names})
    _widget(fields, "answer", "ValueMap", ANSWERS)
    _widget(fields, "notes", "TextEdit")
    aliases = xml.SubElement(root, "aliases")
    aliased = {
        "rank": "Rank",
        "class": "Class of the map",
        "confidence": "Mean confidence (%)",
        "area_m2": "Area (m²)",
        "area_ha": "Area (ha)",
        "class_right": "Right class",
        "answer": "Or else",
        "notes": "Notes",
    }
    for index, (field, name) in enumerate(aliased.items()):
        xml.SubElement(aliases, "alias", field=field, name=name, index=str(index + 1))
    editable = xml.SubElement(root, "editable")
    # `class` tells what an area that is "right" is trained as.
    for field in ("rank", "class", "confidence", "area_m2", "area_ha", "pixels", "priority"):
        xml.SubElement(editable, "field", name=field, editable="0")
    xml.SubElement(root, "attributetableconfig", sortExpression='"rank"', sortOrder="0")
    return _text(root)


def _categories(
    root: xml.Element, *kinds: tuple[str, str], by: str = '"reference" IS NOT NULL', kind: str = "marker"
) -> None:
    """One category for points or areas without, one for those with an answer."""
    renderer = xml.SubElement(
        root,
        "renderer-v2",
        type="categorizedSymbol",
        # Answered or not, whatever the class: so that none is overlooked.
        attr=by,
        symbollevels="0",
        forceraster="0",
        enableorderby="0",
    )
    categories, symbols = xml.SubElement(renderer, "categories"), xml.SubElement(renderer, "symbols")
    for number, (label, colour) in enumerate(kinds):
        xml.SubElement(
            categories,
            "category",
            value=str(number),
            symbol=str(number),
            label=label,
            render="true",
            type="long",
        )
        line = {"outline_color": f"{colour},255", "outline_width": "0.6"}
        if kind == "marker":
            cross = {"name": "cross", "color": f"{colour},255", "size": "4"}
            _symbol(symbols, str(number), kind, "SimpleMarker", **cross, **line)
        else:
            _symbol(symbols, str(number), kind, "SimpleFill", style="no", **line)


def _symbol(symbols: xml.Element, number: str, kind: str, layer: str, **options: str) -> None:
    symbol = xml.SubElement(
        symbols, "symbol", name=number, type=kind, alpha="1", clip_to_extent="1", force_rhr="0"
    )
    one = xml.SubElement(symbol, "layer", {"class": layer, "enabled": "1", "locked": "0", "pass": "0"})
    found = xml.SubElement(one, "Option", type="Map")
    for key, value in options.items():
        xml.SubElement(found, "Option", name=key, type="QString", value=value)


def _widget(fields: xml.Element, name: str, kind: str, choices: dict[str, str] | None = None) -> None:
    field = xml.SubElement(fields, "field", name=name, configurationFlags="None")
    config = xml.SubElement(xml.SubElement(field, "editWidget", type=kind), "config")
    options = xml.SubElement(config, "Option", type="Map")
    if choices is None:
        xml.SubElement(options, "Option", name="IsMultiline", type="bool", value="false")
        return
    # A list of maps of one entry: QGIS sorts a single map by its keys, and the legend's order would be lost.
    listed = xml.SubElement(options, "Option", name="map", type="List")
    for label, value in choices.items():
        entry = xml.SubElement(listed, "Option", type="Map")
        xml.SubElement(entry, "Option", name=label, type="QString", value=value)


def _root(categories: str) -> xml.Element:
    return xml.Element("qgis", version="3.22", styleCategories=categories)


def _text(root: xml.Element) -> str:
    return qml_text(root)
