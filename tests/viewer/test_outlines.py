"""Polygons of a map as outlines in the viewer: drawn where they lie, looked up under the cursor."""

import io
import shutil
import sqlite3

import numpy as np
import pytest
import rasterio
import viewed
from PIL import Image
from scipy import ndimage
from viewed import client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
import labelscape as ls
from labelscape.assessment.sample import sample
from labelscape.viewer import outlines
from labelscape.viewer.shown import find


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = viewed.made(tmp_path_factory.mktemp("map"))
    ls.polygonize(folder / "place_class.tif", folder / "place_polygons.gpkg")
    return folder


def picture(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_outlines_are_where_classes_change(made):
    classes = rasterio.open(made / "place_class.tif").read(1)
    shown = find(made)
    dark = picture(client(shown).get("/outlines/2/0/0.png"))
    lines = (dark[..., 3] == 255) & (dark[..., :3] == outlines.LINE[:3]).all(axis=-1)
    part = classes[:256, :256]
    edges = np.zeros(part.shape, bool)
    edges[1:] |= part[1:] != part[:-1]
    edges[:, 1:] |= part[:, 1:] != part[:, :-1]
    # Each border of two classes has its line, and there are no lines but at borders (and at the map's edge).
    near = ndimage.binary_dilation(edges, iterations=2)
    near[:2], near[:, :2] = True, True
    assert lines.sum() > 500 and not (lines & ~near).any()
    assert not (edges & ~ndimage.binary_dilation(lines, iterations=2)).any()


def test_small_polygons_are_left_out_of_coarse_tiles(made, monkeypatch):
    found = find(made).outlines
    whole = found.grid.window
    drawn = [len(found._rings(whole, scale)) for scale in (1, 4, 8)]
    assert drawn[0] > drawn[1] > drawn[2] > 0
    monkeypatch.setattr(outlines, "MOST", 3)
    largest = [one["pixels"] for one in found._found(whole)]
    assert len(largest) == 3


def test_the_polygon_under_the_cursor(made):
    page = client(find(made))
    names = {1: "water", 4: "field", 9: "forest"}
    classes = rasterio.open(made / "place_class.tif").read(1)
    for row, column in ((100, 200), (299, 519), (20, 30)):
        point = page.get(f"/api/point?row={row}&column={column}").json()
        assert point["polygon"]["class"] == names[classes[row, column]]
        assert set(point["polygon"]) == {"value", "class", "pixels", "area_ha"}
    assert page.get("/api/point?row=3&column=3").json()["polygon"] is None


def test_other_files_are_no_outlines(made, tmp_path):
    copy = tmp_path / "map"
    shutil.copytree(made, copy)
    path = copy / "place_polygons.gpkg"
    assert client(find(copy)).get("/api/map").json()["outlines"]
    # Who interprets a sample sees no polygons of classes.
    sample(copy / "place_class.tif", copy / "points.gpkg", size=10, floor=2)
    judging = client(find(copy, judge=copy / "points.gpkg"))
    assert judging.get("/api/map").json()["outlines"] is None
    assert judging.get("/outlines/0/0/0.png").status_code == 404
    assert judging.get("/api/point?row=100&column=200").json()["polygon"] is None
    # A query in place of the table, a file without an index, no file, a link to one.
    with sqlite3.connect(path) as base:
        base.execute("ALTER TABLE land_cover RENAME TO other")
        base.execute("CREATE VIEW land_cover AS SELECT * FROM other")
    assert find(copy).outlines is None
    path.write_bytes(b"no GeoPackage")
    assert find(copy).outlines is None
    path.unlink()
    path.symlink_to(made / "place_polygons.gpkg")
    assert find(copy).outlines is None
