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
    geometry, box = footprint(grid)
    ring = np.array(geometry["coordinates"][0])
    assert box == [*ring.min(axis=0), *ring.max(axis=0)]
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


@pytest.mark.parametrize(
    ("crs", "transform", "shape", "box"),
    [
        # 0.0192 degrees from 179.99 on, and the same ground with longitudes below -180.
        ("EPSG:4326", Affine(1e-4, 0, 179.99, 0, -1e-4, -16.5), (192, 192), (179.99, -16.5192, -179.9908,
        -16.5)), ("EPSG:4326", Affine(1e-4, 0, -180.01, 0, -1e-4, -16.5), (192, 192), (179.99, -16.5192,
        -179.9908, -16.5)), # Degrees from 0 to 360: a whole world, and its western half.
        ("EPSG:4326", Affine(1, 0, 0, 0, -1, 90), (180, 360), (-180, -90, 180, 90)),
        ("EPSG:4326", Affine(1, 0, 180, 0, -1, 90), (180, 180), (-180, -90, 0, 90)),
        ("EPSG:4326", Affine(1, 0, 190, 0, -1, 10), (5, 10), (-170, 5, -160, 10)),
        ("EPSG:4326", Affine(1, 0, -180, 0, -1, 90), (180, 360), (-180, -90, 180, 90)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_at_the_antimeridian_are_those_of_rfc_7946(crs, transform, shape, box, flipped):
    if flipped:
        transform = transform @ Affine.translation(0, shape[0]) @ Affine.scale(1, -1)
    geometry, found = footprint(Grid(CRS.from_user_input(crs), transform, *shape))
    assert found == pytest.approx(box, abs=1e-6)
    whole = shapely.from_geojson(json.dumps(geometry))
    assert whole.is_valid
    assert all(part.exterior.is_ccw for part in shapely.get_parts(whole))
    assert -180 <= whole.bounds[0] < whole.bounds[2] <= 180
    area = abs(transform.determinant) * shape[0] * shape[1]
    assert whole.area == pytest.approx(area, rel=1e-6)


def test_scenes_in_metres_are_cut_at_the_antimeridian_and_reach_up_to_the_pole():
    geometry, box = footprint(Grid(CRS.from_epsg(32760), Affine(10, 0, 819_500, 0, -10, 8_170_000), 192, 192))
    geometry = shapely.from_geojson(json.dumps(geometry))
    assert (box[0] > 179.9 and box[2] < -179.9) or geometry.geom_type == "Polygon"
    wide = Affine(1000, 0, 100_000, 0, -1000, 6_000_000)
    geometry, box = footprint(Grid(CRS.from_epsg(32601), wide, 192, 300))
    geometry = shapely.from_geojson(json.dumps(geometry))
    assert geometry.geom_type == "MultiPolygon"
    assert 170 < box[0] < 180
    assert -180 < box[2] < -170
    # Where the pole lies in the scene, but not in its middle.
    for epsg, pole in ((3413, 90), (3031, -90)):
        grid = Grid(CRS.from_epsg(epsg), Affine(10, 0, -960, 0, -10, 480), 192, 192)
        geometry, box = footprint(grid)
        whole = shapely.from_geojson(json.dumps(geometry))
        assert whole.is_valid
        assert (box[0], box[2]) == (-180, 180)
        assert box[3 if pole > 0 else 1] == pole
        for lon in (-179.9, 0, 45, 179.9):
            assert shapely.contains_xy(whole, lon, pole - np.sign(pole) * 1e-4)
