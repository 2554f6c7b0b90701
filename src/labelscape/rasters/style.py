"""Styles of a map's rasters as files: QML, which QGIS applies by the raster's name, and SLD 1.0, which
GeoServer and MapServer take. Classes have their colours, all other rasters a ramp.
"""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labelscape.errors import BadOption
from labelscape.files import check_folder, check_new, written_whole
from labelscape.legend import RGB, VIRIDIS, Legend, css
from labelscape.rasters.class_map import measure_in
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import reading

RAMPS = {"confidence": (100, 100), "entropy": (100, 100), "unfamiliar": (200, 200), "probability": (250, 100)}
"""What a raster of a map holds (`measure_in`) -> the largest value that its ramp shows, and that in per
cent.
"""
OGC = "http://www.opengis.net"


@dataclass(frozen=True)
class Entry:
    """A value of a raster, its label and its colour."""

    value: float
    label: str
    color: RGB


def write_styles(
    raster: str | Path, *, band: int = 1, out: str | Path | None = None, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write the style of a raster of a map as QML and as SLD; returns the two files.

    They are called like the raster, and lie beside it or in the folder `out`: QGIS then applies the QML when
    it opens the raster. Of probabilities `band` is the class that is shown, by its number. Class rasters of
    other software have the colours and names that are stored with them, as `sieve` reads them.

    Raises BadFile where the raster cannot be read or the files exist, BadInput where it is no raster of a
    map, BadOption for a band that it lacks.
    """
    return write_all_styles([raster], band=band, out=out, overwrite=overwrite)[0]


def write_all_styles(
    rasters: Sequence[str | Path], *, band: int = 1, out: str | Path | None = None, overwrite: bool = False
) -> list[tuple[Path, Path]]:
    """`write_styles` of several rasters: none is written before all of them are read."""
    if out is not None:
        check_folder(out, "The folder of the styles (out)")
    texts: dict[tuple[Path, Path], tuple[str, str]] = {}
    for path in map(Path, rasters):
        entries, ramp = _entries(path, band)
        folder = path.parent if out is None else Path(out)
        files = folder / f"{path.stem}.qml", folder / f"{path.stem}.sld"
        if files in texts:
            raise BadOption(f"Two rasters would have the style {files[0]}; write them into other folders.")
        for file in files:
            check_new(file, overwrite=overwrite)
        texts[files] = qml_of(entries, band, ramp=ramp), sld_of(entries, band, path.stem, ramp=ramp)
    for files, both in texts.items():
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file, text in zip(files, both):
            with written_whole(file, overwrite=overwrite) as part:
                part.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def _entries(path: Path, band: int) -> tuple[list[Entry], bool]:
    """The values of a raster that have a colour, and whether the colours between them are a ramp."""
    with reading(path) as file:
        if not 1 <= band <= file.count:
            raise BadOption(
                f"{path} has {file.count} band{'s' * (file.count > 1)}; `band={band}` is none of them."
            )
        measure = measure_in(file)
    if measure is not None:
        top, per_cent = RAMPS[measure]
        shares = [n / (len(VIRIDIS) - 1) for n in range(len(VIRIDIS))]
        return [Entry(top * n, f"{per_cent * n:g} %", color) for n, color in zip(shares, VIRIDIS)], True
    legend, _ = legend_of(path)
    return [Entry(one.value, one.name, one.color) for one in legend.classes], False


def qml_of(entries: Sequence[Entry], band: int = 1, *, ramp: bool) -> str:
    """The style as QGIS 3 saves it."""
    root = xml.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = xml.SubElement(
        xml.SubElement(root, "pipe"),
        "rasterrenderer",
        {"type": "paletted", "band": str(band), "opacity": "1", "alphaBand": "-1", "nodataColor": ""},
    )
    if ramp:
        least, most = (f"{one.value:g}" for one in (entries[0], entries[-1]))
        renderer.attrib |= {
            "type": "singlebandpseudocolor",
            "classificationMin": least,
            "classificationMax": most,
        }
        ends = {"clip": "0", "minimumValue": least, "maximumValue": most}
        shader = xml.SubElement(renderer, "rastershader")
        how = {"colorRampType": "INTERPOLATED", "classificationMode": "1", **ends}
        table, item = xml.SubElement(shader, "colorrampshader", how), "item"
    else:
        table, item = xml.SubElement(renderer, "colorPalette"), "paletteEntry"
    for one in entries:
        fields = {"value": f"{one.value:g}", "color": css(one.color), "label": one.label, "alpha": "255"}
        xml.SubElement(table, item, fields)
    xml.indent(root, " ")
    return f"{qml_text(root)}\n"


def qml_text(root: xml.Element) -> str:
    """A QGIS style with the head that QGIS writes."""
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + xml.tostring(
        root, encoding="unicode"
    )


def sld_of(entries: Sequence[Entry], band: int, name: str, *, ramp: bool) -> str:
    """The style as Styled Layer Descriptor 1.0 (OGC 02-070)."""
    root, style = _sld(name)
    symbolizer = xml.SubElement(xml.SubElement(style, "Rule"), "RasterSymbolizer")
    channel = xml.SubElement(xml.SubElement(symbolizer, "ChannelSelection"), "GrayChannel")
    xml.SubElement(channel, "SourceChannelName").text = str(band)
    colors = xml.SubElement(symbolizer, "ColorMap", type="ramp" if ramp else "values")
    for one in entries:
        fields = {"color": css(one.color), "quantity": f"{one.value:g}", "label": one.label, "opacity": "1"}
        xml.SubElement(colors, "ColorMapEntry", fields)
    return _sld_text(root)


def polygons_sld(legend: Legend, name: str) -> str:
    """Polygons by their column `value`, filled in the colours of the classes, as SLD 1.0."""
    root, style = _sld(name, {"xmlns:ogc": f"{OGC}/ogc"})
    for one in legend.classes:
        rule = xml.SubElement(style, "Rule")
        xml.SubElement(rule, "Name").text = xml.SubElement(rule, "Title").text = one.name
        equal = xml.SubElement(xml.SubElement(rule, "ogc:Filter"), "ogc:PropertyIsEqualTo")
        xml.SubElement(equal, "ogc:PropertyName").text = "value"
        xml.SubElement(equal, "ogc:Literal").text = str(one.value)
        fill = xml.SubElement(xml.SubElement(rule, "PolygonSymbolizer"), "Fill")
        xml.SubElement(fill, "CssParameter", name="fill").text = css(one.color)
    return _sld_text(root)


def _sld(name: str, more: dict[str, str] = {}) -> tuple[xml.Element, xml.Element]:
    """The root of an SLD of one layer, and the element that its rules stand in."""
    root = xml.Element("StyledLayerDescriptor", {"version": "1.0.0", "xmlns": f"{OGC}/sld", **more})
    layer = xml.SubElement(root, "NamedLayer")
    xml.SubElement(layer, "Name").text = name
    return root, xml.SubElement(xml.SubElement(layer, "UserStyle"), "FeatureTypeStyle")


def _sld_text(root: xml.Element) -> str:
    xml.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml.tostring(root, encoding="unicode")}\n'
