"""Styles of rasters: what QGIS and map servers show is the legend, and a ramp that says per cent."""

import shutil
import sqlite3
import subprocess
import xml.etree.ElementTree as xml

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.rasters.style import polygons_sld, write_all_styles, write_styles
from labelscape.rasters.write import MapWriter

LEGEND = Legend((LandClass(3, "water & <ice>", (10, 20, 250)), LandClass(7, "Wäld", (0, 99, 5))))
SLD = {"s": "http://www.opengis.net/sld", "ogc": "http://www.opengis.net/ogc"}
GRID = Grid(world.UTM, world.NORTH_UP, 60, 80)


def written(path, values, *, legend=None, names=None, **tags):
    values = np.asarray(values, np.uint8)
    with MapWriter(
        path,
        GRID,
        len(values),
        IGNORE,
        legend=legend,
        descriptions=names,
        tags={"labelscape_version": "1", **tags},
    ) as writer:
        writer.write(Window(0, 0, *GRID.shape), values)
    return path


@pytest.fixture
def classes(tmp_path):
    values = np.where(np.arange(80) < 40, 3, 7)[None, None].repeat(60, 1)
    return written(tmp_path / "a_class.tif", values, legend=LEGEND)


def entries(sld):
    root = xml.parse(sld).getroot()
    table = root.find(".//s:ColorMap", SLD)
    return (
        table.get("type"),
        [(float(one.get("quantity")), one.get("label"), one.get("color")) for one in table],
        root.findtext(".//s:SourceChannelName", None, SLD),
    )


def test_classes_have_their_names_and_colours(classes, tmp_path):
    qml, sld = write_styles(classes)
    assert (qml, sld) == (tmp_path / "a_class.qml", tmp_path / "a_class.sld")
    expected = [(3.0, "water & <ice>", "#0a14fa"), (7.0, "Wäld", "#006305")]
    assert entries(sld) == ("values", expected, "1")
    palette = xml.parse(qml).getroot().find(".//colorPalette")
    assert [(float(e.get("value")), e.get("label"), e.get("color")) for e in palette] == expected
    # What reads names from styles reads these.
    assert ls.sieve(classes, tmp_path / "s.tif", min_area=0.1) is not None
    with pytest.raises(BadFile, match="exists"):
        write_styles(classes)
    write_styles(classes, overwrite=True)


@pytest.mark.parametrize(
    ("name", "tags", "top", "label"),
    [
        ("confidence (%)", {}, 100, "100 %"),
        ("entropy (% of the largest)", {}, 100, "100 %"),
        ("unfamiliar (100 = limit)", {}, 200, "200 %"),
        ("water", {"scale": "1/250"}, 250, "100 %"),
    ],
)
def test_other_rasters_have_a_ramp_in_per_cent(name, tags, top, label, tmp_path):
    path = written(tmp_path / "b.tif", np.full((2, 60, 80), 40), names=[name, name], **tags)
    qml, sld = write_styles(path, band=2, out=tmp_path / "styles")
    kind, found, band = entries(sld)
    assert kind == "ramp" and band == "2" and len(found) == 5
    assert found[0] == (0.0, "0 %", "#440154") and found[-1] == (float(top), label, "#fde725")
    renderer = xml.parse(qml).getroot().find(".//rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor" and renderer.get("band") == "2"
    assert qml.parent == tmp_path / "styles"


def test_what_has_no_style_is_refused(classes, tmp_path):
    with pytest.raises(BadOption, match="has 1 band; `band=2`"):
        write_styles(classes, band=2)
    scene = world.write(tmp_path / "s.tif", np.zeros((3, 20, 20), np.uint8))
    with pytest.raises(BadInput, match="a class map has one band"):
        write_styles(scene)
    with pytest.raises(BadInput):
        write_all_styles([classes, scene])
    with pytest.raises(BadOption, match="Two rasters would have the style"):
        write_all_styles([classes, classes])
    assert not list(tmp_path.glob("*.qml"))


def test_polygons_hold_an_sld_beside_their_qml(classes, tmp_path):
    ls.polygonize(classes, tmp_path / "p.gpkg")
    with sqlite3.connect(tmp_path / "p.gpkg") as base:
        ((sld,),) = base.execute("SELECT styleSLD FROM layer_styles").fetchall()
    base.close()
    rules = xml.fromstring(sld.encode()).findall(".//s:Rule", SLD)
    assert [
        (
            r.findtext("s:Title", None, SLD),
            r.findtext(".//ogc:Literal", None, SLD),
            r.find(".//s:CssParameter", SLD).text,
        )
        for r in rules
    ] == [("water & <ice>", "3", "#0a14fa"), ("Wäld", "7", "#006305")]


IN_QGIS = """
import sys
from qgis.core import QgsApplication, QgsRasterLayer, QgsVectorLayer
app = QgsApplication([], False); app.initQgis()
for path in sys.argv[1:3]:
    layer = QgsRasterLayer(path, "x")
    print(layer.renderer().type(), layer.saveSldStyle(path[:-4] + "_by_qgis.sld")[1])
layer = QgsVectorLayer(sys.argv[3], "x")
print(layer.loadSldStyle(sys.argv[4])[1], "|".join(i.label() for i in layer.renderer().legendSymbolItems()))
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("qgis_process") is None, reason="needs Debian's qgis")
def test_qgis_shows_what_the_sld_says(classes, tmp_path):
    """QGIS reads no SLD of rasters: it writes one of what the QML made it show."""
    confidence = written(tmp_path / "c.tif", np.full((1, 60, 80), 40), names=["confidence (%)"])
    for path in (classes, confidence):
        write_styles(path)
    ls.polygonize(classes, tmp_path / "p.gpkg")
    (tmp_path / "p.sld").write_text(polygons_sld(LEGEND, "p"), encoding="utf-8")
    done = subprocess.run(
        ["/usr/bin/python3", "-c", IN_QGIS, classes, confidence, tmp_path / "p.gpkg", tmp_path / "p.sld"],
        capture_output=True,
        text=True,
        env={"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.stdout.splitlines() == [
        "paletted True",
        "singlebandpseudocolor True",
        "True water & <ice>|Wäld",
    ], done.stderr
    for path in (classes, confidence):
        assert entries(path.with_suffix(".sld")) == entries(path.with_name(f"{path.stem}_by_qgis.sld"))
