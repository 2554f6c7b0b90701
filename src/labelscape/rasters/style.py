"""Styles of a map's rasters as files: QML, which QGIS applies by the raster's name, and SLD 1.0, which
GeoServer and MapServer take. Classes have their colours, all other rasters a ramp.
"""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rasterio

from labelscape.errors import BadOption
from labelscape.files import check_new, written_whole
from labelscape.legend import RGB, Legend
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import reading

VIRIDIS: tuple[RGB, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Even steps of matplotlib's colour map: its lightness rises evenly, also for the colour-blind."""
OGC = "http://www.opengis.net"


@dataclass(frozen=True)
class Entry:
    """A value of a raster, its label and its colour."""

    value: float
    label: str
    color: RGB

    @property
    def code(self) -> str:
        return "#{:02x}{:02x}{:02x}".format(*self.color)


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
        top = _top(file, band)
    if top is not None:
        last = len(VIRIDIS) - 1
        steps = [(top.value * n / last, f"{top.per_cent * n / last:g} %") for n in range(last + 1)]
        return [Entry(value, label, color) for (value, label), color in zip(steps, VIRIDIS)], True
    legend, _ = legend_of(path)
    return [Entry(one.value, one.name, one.color) for one in legend.classes], False


@dataclass(frozen=True)
class _Top:
    """The largest value that a ramp shows, and what it means in per cent."""

    value: float
    per_cent: float


def _top(file: rasterio.DatasetReader, band: int) -> _Top | None:
    """Of a raster of a map other than its classes; None for classes."""
    tags, shown = file.tags(), (file.descriptions[band - 1] or "").split(" ")[0]
    if "labelscape_version" not in tags:
        return None
    if tags.get("scale") == "1/250":
        return _Top(250, 100)
    if shown == "unfamiliar":
        return _Top(200, 200)
    return _Top(100, 100) if shown in ("confidence", "entropy") else None


def qml_of(entries: Sequence[Entry], band: int = 1, *, ramp: bool) -> str:
    """The style as QGIS 3 saves it."""
    root = xml.Element("qgis", version="3.22", styleCategories="Symbology")
    common = {"band": str(band), "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    pipe = xml.SubElement(root, "pipe")
    if not ramp:
        renderer = xml.SubElement(pipe, "rasterrenderer", {"type": "paletted", **common})
        palette = xml.SubElement(renderer, "colorPalette")
        for one in entries:
            fields = {"value": f"{one.value:g}", "color": one.code, "label": one.label, "alpha": "255"}
            xml.SubElement(palette, "paletteEntry", fields)
    else:
        ends = {"classificationMin": f"{entries[0].value:g}", "classificationMax": f"{entries[-1].value:g}"}
        renderer = xml.SubElement(pipe, "rasterrenderer", {"type": "singlebandpseudocolor", **common, **ends})
        shader = xml.SubElement(
            xml.SubElement(renderer, "rastershader"),
            "colorrampshader",
            colorRampType="INTERPOLATED",
            classificationMode="1",
            clip="0",
            minimumValue=ends["classificationMin"],
            maximumValue=ends["classificationMax"],
        )
        for one in entries:
            fields = {"value": f"{one.value:g}", "color": one.code, "label": one.label, "alpha": "255"}
            xml.SubElement(shader, "item", fields)
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{_text(root)}"


def sld_of(entries: Sequence[Entry], band: int, name: str, *, ramp: bool) -> str:
    """The style as Styled Layer Descriptor 1.0 (OGC 02-070)."""
    root = xml.Element("StyledLayerDescriptor", {"version": "1.0.0", "xmlns": f"{OGC}/sld"})
    layer = xml.SubElement(root, "NamedLayer")
    xml.SubElement(layer, "Name").text = name
    rule = xml.SubElement(xml.SubElement(xml.SubElement(layer, "UserStyle"), "FeatureTypeStyle"), "Rule")
    symbolizer = xml.SubElement(rule, "RasterSymbolizer")
    channel = xml.SubElement(xml.SubElement(symbolizer, "ChannelSelection"), "GrayChannel")
    xml.SubElement(channel, "SourceChannelName").text = str(band)
    colors = xml.SubElement(symbolizer, "ColorMap", type="ramp" if ramp else "values")
    for one in entries:
        fields = {"color": one.code, "quantity": f"{one.value:g}", "label": one.label, "opacity": "1"}
        xml.SubElement(colors, "ColorMapEntry", fields)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_text(root)}'


def polygons_sld(legend: Legend, name: str) -> str:
    """Polygons by their column `value`, filled in the colours of the classes, as SLD 1.0."""
    root = xml.Element(
        "StyledLayerDescriptor", {"version": "1.0.0", "xmlns": f"{OGC}/sld", "xmlns:ogc": f"{OGC}/ogc"}
    )
    layer = xml.SubElement(root, "NamedLayer")
    xml.SubElement(layer, "Name").text = name
    style = xml.SubElement(xml.SubElement(layer, "UserStyle"), "FeatureTypeStyle")
    for one in legend.classes:
        rule = xml.SubElement(style, "Rule")
        xml.SubElement(rule, "Name").text = xml.SubElement(rule, "Title").text = one.name
        equal = xml.SubElement(xml.SubElement(rule, "ogc:Filter"), "ogc:PropertyIsEqualTo")
        xml.SubElement(equal, "ogc:PropertyName").text = "value"
        xml.SubElement(equal, "ogc:Literal").text = str(one.value)
        fill = xml.SubElement(xml.SubElement(rule, "PolygonSymbolizer"), "Fill")
        xml.SubElement(fill, "CssParameter", name="fill").text = Entry(0, "", one.color).code
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_text(root)}'


def _text(root: xml.Element) -> str:
    xml.indent(root, " ")
    return f"{xml.tostring(root, encoding='unicode')}\n"
