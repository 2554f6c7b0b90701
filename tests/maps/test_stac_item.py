import hashlib
import json

import numpy as np
import pytest
import rasterio.transform
import shapely
import world
from affine import Affine
from rasterio.crs import CRS

from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.maps.stac import footprint, item, write_item

WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def files(tmp_path):
    found = {
        "class": world.write(tmp_path / "a_class.tif", world.paint(64, 80), nodata=255),
        "polygons": tmp_path / "a_polygons.gpkg",
    }
    found["polygons"].write_bytes(b"polygons")
    return found


@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
def test_the_item_says_where_and_what(files, transform):
    found = item(
        "a", Grid(world.UTM, transform, 64, 80), world.LEGEND, files, WHEN, software="labelscape 1.2"
    )
    properties, classes = found["properties"], found["assets"]["class"]
    assert (properties["proj:code"], properties["proj:shape"]) == ("EPSG:32633", [64, 80])
    assert Affine(*properties["proj:transform"]) == transform
    assert properties["processing:software"] == {"labelscape": "1.2"}
    assert [(c["value"], c["title"], c["color_hint"]) for c in classes["classification:classes"][:3]] == [
        (c.value, c.name, "{:02X}{:02X}{:02X}".format(*c.color)) for c in world.LEGEND.classes
    ]
    assert classes["classification:classes"][3] == {
        "value": 255,
        "name": "nodata",
        "description": "no data",
        "nodata": True,
    }
    assert (
        classes["href"] == "./a_class.tif"
        and classes["roles"] == ["data"]
        and "cloud-optimized" in classes["type"]
    )
    assert classes["file:checksum"] == "1220" + hashlib.sha256(files["class"].read_bytes()).hexdigest()
    assert found["assets"]["polygons"]["type"] == "application/geopackage+sqlite3"
    assert {"projection", "classification", "file"} <= {url.split("/")[3] for url in found["stac_extensions"]}


def test_the_item_is_valid_by_the_schema_of_stac(files):
    pytest.importorskip("jsonschema")
    from pystac.validation.local_validator import LocalValidator

    found = item("a", Grid(world.UTM, world.ROTATED, 64, 80), world.LEGEND, files, WHEN)
    validator = LocalValidator().item_validator(found["stac_version"])
    assert [e.message for e in validator.iter_errors(found)] == []
    assert [e.message for e in validator.iter_errors({**found, "bbox": None})] != []


@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
def test_the_footprint_is_the_ground_of_the_pixels(transform):
    grid = Grid(world.UTM, transform, 64, 80)
    ring = footprint(grid)
    polygon = shapely.Polygon(ring)
    assert polygon.is_valid and polygon.exterior.is_ccw and (ring[0] == ring[-1]).all()
    x, y = transform @ (np.array([0.01, 79.99, 79.99, 0.01, 40]), np.array([0.01, 0.01, 63.99, 63.99, 32]))
    lon, lat = rasterio.warp.transform(world.UTM, CRS.from_epsg(4326), x, y)
    assert shapely.contains_xy(polygon, lon, lat).all()
    x, y = transform @ (np.array([-0.1, 80.1, 40]), np.array([32, 32, 64.1]))
    lon, lat = rasterio.warp.transform(world.UTM, CRS.from_epsg(4326), x, y)
    assert not shapely.contains_xy(polygon, lon, lat).any()


def test_a_crs_without_a_number_is_written_out(files):
    crs = CRS.from_string("+proj=laea +lat_0=52 +lon_0=13 +datum=WGS84")
    properties = item("a", Grid(crs, Affine(10, 0, 0, 0, -10, 0), 64, 80), world.LEGEND, files, WHEN)[
        "properties"
    ]
    assert properties["proj:code"] is None and CRS.from_wkt(properties["proj:wkt2"]) == crs


def test_names_of_classes_are_what_the_extension_allows(files):
    legend = Legend.of_names(["built-up area", "Wälder", "水"])
    named = item("a", Grid(world.UTM, world.NORTH_UP, 64, 80), legend, files, WHEN)["assets"]["class"][
        "classification:classes"
    ]
    assert [(c["name"], c["title"]) for c in named[:3]] == [
        ("built-up_area", "built-up area"),
        ("W_lder", "Wälder"),
        ("class_2", "水"),
    ]


def test_files_that_are_not_there_are_no_assets(files, tmp_path):
    write_item(
        tmp_path / "a_stac.json",
        Grid(world.UTM, world.NORTH_UP, 64, 80),
        world.LEGEND,
        {**files, "report": tmp_path / "none.html"},
        WHEN,
    )
    found = json.loads((tmp_path / "a_stac.json").read_text())
    assert found["id"] == "a" and set(found["assets"]) == {"class", "polygons"}
