"""What QGIS itself makes of our files: class maps in colour and named, the form of a sample that does not
show the map's classes, the form of a review file. Skipped where QGIS and its Python are not installed.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import samples
import world
from PIL import Image
from rio_cogeo import cog_validate

from labelscape.areas.polygonize import polygonize
from labelscape.assessment.assess import assess
from labelscape.assessment.review import review
from labelscape.assessment.sample import sample
from labelscape.grid import Grid
from labelscape.rasters.write import MapWriter

PYTHONS = [*filter(None, ["/usr/bin/python3", shutil.which("python3"), os.environ.get("QGIS_PYTHON")])]
"""QGIS is a package of the system, for the system's Python; QGIS_PYTHON names another one."""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GDAL", "PROJ"))}


def python_of_qgis():
    for program in PYTHONS:
        if os.path.exists(program):
            asked = [program, "-c", "import qgis.core"]
            if subprocess.run(asked, capture_output=True, env=ENVIRONMENT, timeout=120).returncode == 0:
                return program
    pytest.skip(f"needs QGIS and its Python (apt-get install qgis python3-qgis): none for {PYTHONS}")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The folder of the files, and what QGIS says of them."""
    program = python_of_qgis()
    folder = tmp_path_factory.mktemp("qgis")
    values = world.paint(60, 80)
    values[:20, :25] = 255
    samples.class_map(folder / "m_class.tif", values)
    sure = np.random.default_rng(0).integers(30, 101, values.shape)
    grid = Grid(world.UTM, world.NORTH_UP, *values.shape)
    with MapWriter(folder / "m_confidence.tif", grid, 1, 255) as writer:
        writer.write(grid.window, np.where(values == 255, 255, sure).astype(np.uint8))
    polygonize(folder / "m_class.tif", folder / "areas.gpkg")
    review(folder / "m_class.tif", folder / "review.gpkg", top=5)
    sample(folder / "m_class.tif", folder / "blind.gpkg", size=60, floor=10, second=True)
    sample(folder / "m_class.tif", folder / "answered.gpkg", size=60, floor=10)
    names = ("m_class.tif", "areas.gpkg", "review.gpkg", "blind.gpkg", "blind_second.gpkg")
    words = [*(str(folder / n) for n in names), f"--answer={folder / 'answered.gpkg'}"]
    words.append(f"--picture={folder / 'm_class.tif'}")
    done = subprocess.run(
        [program, str(Path(__file__).with_name("in_qgis.py")), *words, str(folder / "answered.gpkg")],
        env=ENVIRONMENT | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "FOUND" in done.stdout, done.stderr[-3000:]
    return folder, json.loads(done.stdout.partition("FOUND")[2])


def colour(rgb):
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def test_a_class_map_opens_named_and_in_its_colours(opened):
    found = opened[1]["m_class.tif"]
    assert found["valid"] and found["renderer"] == "paletted" and found["crs"] == "EPSG:32633"
    expected = [[c.value, c.name, colour(c.color)] for c in world.LEGEND.classes]
    assert found["classes"][:3] == expected
    # Before 3.30 QGIS read no attribute tables, and listed all 256 entries of a TIFF's colour table.
    assert all(name == str(value) and paint == "#000000" for value, name, paint in found["classes"][3:])
    shown = found["shown"]
    assert shown.pop("nodata")[3] == 0
    assert shown == {str(c.value): [*c.color, 255] for c in world.LEGEND.classes}


def test_a_class_map_is_drawn_in_the_colours_of_its_legend_with_names_beside(opened):
    """The picture of QGIS's own renderer, pixel by pixel."""
    folder = opened[0]
    drawn = np.asarray(Image.open(folder / "m_class.png").convert("RGB"))
    with rasterio.open(folder / "m_class.tif") as file:
        values = file.read(1)
    wanted = np.full((*values.shape, 3), 255, np.uint8)  # nodata shows the paper
    for one in world.LEGEND.classes:
        wanted[values == one.value] = one.color
    height, width = (4 * side for side in values.shape)
    np.testing.assert_array_equal(drawn[:height, :width], wanted.repeat(4, 0).repeat(4, 1))
    # Below it each class has a swatch in its colour, and text beside.
    legend = drawn[height:]
    rows = {}
    for one in world.LEGEND.classes:
        swatch = (legend == one.color).all(-1)
        assert swatch.sum() > 50, one.name
        rows[one.name] = np.median(np.nonzero(swatch)[0])
        right = legend[int(rows[one.name]) - 4 : int(rows[one.name]) + 5, np.nonzero(swatch)[1].max() + 4 :]
        assert (right.sum(-1) < 300).any(), f"no name stands beside {one.name}"
    assert list(rows) == sorted(rows, key=rows.get), "in the legend's order"


def test_the_tools_of_gdal_take_a_class_map_for_a_named_cog(opened):
    """GDAL of the system, older than ours, and the validator of Cloud Optimized GeoTIFFs."""
    path = opened[0] / "m_class.tif"
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    program = shutil.which("gdalinfo")
    if program is None:
        pytest.skip("needs gdalinfo (apt-get install gdal-bin)")
    done = subprocess.run([program, str(path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    for said in ("LAYOUT=COG", "NoData Value=255", "ColorInterp=Palette", 'ID["EPSG",32633]]'):
        assert said in done.stdout, said
    for one in world.LEGEND.classes:
        assert f"<F>{one.name}</F>" in done.stdout
        assert f"{one.value}: {','.join(map(str, one.color))},255" in done.stdout


def test_polygons_open_in_the_colours_of_the_legend(opened):
    (layer,) = opened[1]["areas.gpkg"].values()
    assert layer["valid"] and layer["features"] and layer["crs"] == "EPSG:32633"
    assert layer["categories"] == world.LEGEND.names
    assert layer["colours"] == sorted(colour(c.color) for c in world.LEGEND.classes)


@pytest.mark.parametrize("name", ["blind.gpkg", "blind_second.gpkg"])
def test_a_sample_has_its_form_and_shows_no_class_of_the_map(opened, name):
    layers = opened[1][name]
    assert set(layers) == {"points", "footprints"}
    points, pixels = layers["points"], layers["footprints"]
    assert points["features"] == pixels["features"] == 60
    assert points["crs"] == pixels["crs"] == "EPSG:32633"
    # Nothing else is to be seen, and every point looks the same until it is answered.
    assert list(points["fields"]) == ["fid", "point", "reference", "certainty", "comment"]
    assert list(pixels["fields"]) == ["fid", "point"]
    assert points["colours"] == ["#c81e1e"] and pixels["colours"] == ["#ffff00"]
    reference = points["fields"]["reference"]
    assert reference["widget"] == "ValueMap" and reference["alias"] == "Class on the ground"
    # In the legend's order, and stored as the class's value.
    assert reference["choices"] == [{c.name: str(c.value)} for c in world.LEGEND.classes]
    assert [*points["fields"]["certainty"]["choices"][0]] == ["certain"]
    fixed = {field: one["fixed"] for field, one in points["fields"].items() if field != "fid"}
    assert fixed == {"point": True, "reference": False, "certainty": False, "comment": False}


def test_a_sample_that_was_answered_in_qgis_is_assessed(opened):
    folder, found = opened
    points = found["answered.gpkg"]["points"]
    assert points["colours"] == ["#28963c", "#c81e1e"], "59 points are green, the last one is red"
    done = assess(folder / "m_class.tif", folder / "answered.gpkg")
    assert done.estimates.points == 59 and done.unanswered == 1
    assert done.estimates.oa == 1


def test_a_review_file_asks_for_the_right_class(opened):
    (layer,) = opened[1]["review.gpkg"].values()
    assert layer["features"] == 5 and layer["sorted_by"] == '"rank"'
    assert layer["categories"] == ["open", "answered"] and layer["colours"] == ["#c81e1e"]
    fields = layer["fields"]
    assert fields["class_right"]["choices"] == [{n: n} for n in world.LEGEND.names]
    assert [*fields["answer"]["choices"][1].values()] == ["mixed"]
    assert fields["rank"]["fixed"] and fields["class"]["fixed"] and not fields["class_right"]["fixed"]
