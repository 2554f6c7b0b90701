"""Polygons of a map in the viewer: vector tiles that GDAL reads as the polygons of the file, drawn by the
page in the legend's colours, looked up under the cursor.
"""

import shutil
import sqlite3
import struct

import browser
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import viewed
import world
from viewed import client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
import labelscape as ls
from labelscape.assessment.sample import sample
from labelscape.errors import BadFile
from labelscape.grid import Window
from labelscape.viewer import outlines
from labelscape.viewer.geopackage import geometry_of, wkb_of
from labelscape.viewer.outlines import SIDE, SMALLEST
from labelscape.viewer.shown import find
from labelscape.viewer.vector_tiles import EXTENT, Rings, encoded


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = viewed.made(tmp_path_factory.mktemp("map"))
    ls.polygonize(folder / "place_class.tif", folder / "place_polygons.gpkg")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "map")


def tile_at(folder, level, column=0, row=0):
    scale = 2 ** (2 - level)
    side = SIDE * scale
    return find(folder).outlines.tile(Window(row * side, column * side, side, side), scale)


def read(data, tmp_path):
    """(number -> polygon in units of the tile, number -> fields), as GDAL reads a tile."""
    path = tmp_path / "tile.pbf"
    path.write_bytes(data)
    meta, _, wkb, columns = pyogrio.raw.read(path, CLIP="NO")
    shapes = shapely.transform(shapely.from_wkb(wkb), lambda xy: xy * (1, -1) + (0, EXTENT))
    fields = dict(zip(meta["fields"].tolist(), (column.tolist() for column in columns)))
    numbers = fields.pop("mvt_id")
    rows = [dict(zip(fields, values)) for values in zip(*fields.values())]
    return dict(zip(numbers, shapes)), dict(zip(numbers, rows))


def stored(folder):
    """(number -> polygon in pixels of the map, number -> fields) of the file itself."""
    meta, numbers, wkb, columns = pyogrio.raw.read(
        folder / "place_polygons.gpkg", layer="land_cover", return_fids=True
    )
    back = ~find(folder).grid.transform
    shapes = shapely.transform(shapely.from_wkb(wkb), lambda xy: np.column_stack(back @ (xy[:, 0], xy[:, 1])))
    rows = [dict(zip(meta["fields"].tolist(), values)) for values in zip(*(c.tolist() for c in columns))]
    return dict(zip(numbers.tolist(), shapes)), dict(zip(numbers.tolist(), rows))


def test_a_tile_holds_the_polygons_as_they_are_at_full_resolution(made, tmp_path):
    shapes, fields = stored(made)
    found, rows = read(tile_at(made, 2, 1, 0).data, tmp_path)
    inside = shapely.box(256, 0, 512, 256)
    assert set(found) >= {number for number, one in shapes.items() if one.intersection(inside).area > 0}
    for number, shape in found.items():
        # The tile is cut a little beyond its edge.
        here = shapely.transform(shape, lambda xy: xy * SIDE / EXTENT + (256, 0))
        assert here.is_valid and here.intersection(inside).equals(shapes[number].intersection(inside))
        assert rows[number] == fields[number]
        assert shapely.box(256 - 8, -8, 512 + 8, 256 + 8).covers(here)
    assert any(shapely.get_num_interior_rings(one) for one in shapely.get_parts(list(found.values())))


def test_a_coarse_tile_keeps_the_large_polygons_within_a_pixel(made, tmp_path):
    shapes, _ = stored(made)
    sides = {number: max(np.subtract(s.bounds[2:], s.bounds[:2])) for number, s in shapes.items()}
    found, _ = read(tile_at(made, 0).data, tmp_path)
    assert set(found) == {number for number, side in sides.items() if side >= SMALLEST * 4}
    for number, shape in found.items():
        # Holes of less than 8 pixels are filled, as the polygons in them are not drawn.
        rings = [
            r for r in shapely.get_rings(shapes[number]) if max(np.ptp(r.coords, axis=0)) >= SMALLEST * 4
        ]
        lines = shapely.transform(shapely.MultiLineString(rings), lambda xy: xy * EXTENT / SIDE / 4)
        drawn = shapely.MultiLineString(list(shapely.get_rings(shapely.get_parts(shape))))
        assert len(drawn.geoms) == len(rings)
        assert shapely.hausdorff_distance(lines, drawn, densify=0.1) < EXTENT / SIDE


@pytest.mark.parametrize("transform", [world.NORTH_UP, world.ROTATED])
def test_every_polygon_is_counted_once_on_a_level(tmp_path, transform):
    folder = viewed.made(tmp_path, transform=transform)
    ls.polygonize(folder / "place_class.tif", folder / "place_polygons.gpkg")
    count = pyogrio.read_info(folder / "place_polygons.gpkg", layer="land_cover")["features"]
    for level, (columns, rows) in enumerate(((1, 1), (2, 1), (3, 2))):
        tiles = [tile_at(folder, level, c, r) for c in range(columns) for r in range(rows)]
        assert sum(one.here for one in tiles) == count
        drawn = sum(one.drawn for one in tiles)
        assert drawn == count if level else drawn < count


def test_a_tile_carries_so_many_corners_and_says_what_it_leaves_out(made, tmp_path, monkeypatch):
    whole = tile_at(made, 0)
    before, _ = read(whole.data, tmp_path)
    monkeypatch.setattr(outlines, "MOST_CORNERS", 500)
    page = client(find(made))
    answer = page.get("/outlines/0/0/0.mvt")
    found, _ = read(answer.content, tmp_path)
    assert shapely.get_num_coordinates(list(found.values())).sum() - len(found) <= 500 < 600
    # The largest first, and each that still fits.
    largest = max(before, key=lambda number: shapely.box(*before[number].bounds).area)
    assert 3 < len(found) < len(before) and largest in found
    assert answer.headers["x-polygons-here"] == str(whole.here)
    assert answer.headers["x-polygons-drawn"] == str(whole.drawn - len(before) + len(found))
    assert page.get("/outlines/3/0/0.mvt").status_code == page.get("/outlines/0/1/0.mvt").status_code == 404


def test_values_of_every_size_and_kind_come_back(tmp_path):
    ring = [(0, 0), (EXTENT, 0), (EXTENT, EXTENT), (-9, 4000)]
    shapes = np.array([shapely.Polygon(ring), None, shapely.Polygon(ring[:3])], object)
    rows = [
        {"text": "müßig <b>", "whole": -(2**40), "real": 0.1, "more": 1},
        {"text": "not there"},
        {"text": "", "whole": 2**62, "real": -1e300, "more": 1.0},
    ]
    found, fields = read(encoded("some", Rings.of(shapes, 0), [2**40, 5, 7], rows), tmp_path)
    assert fields == {2**40: rows[0], 7: rows[2]}
    assert found[2**40].equals(shapes[0]) and found[7].equals(shapes[2])
    nothing = encoded("some", Rings.of(np.array([None, shapely.Point(1, 2)], object), 0), [1, 2], rows)
    assert b"text" not in nothing and nothing[0] == 26


def test_what_rounding_leaves_without_area_is_left_out():
    thin = shapely.Polygon([(0, 0), (400, 0.2), (400, 0.4), (0, 0.3)])
    with_hole = shapely.box(0, 0, 400, 400).difference(shapely.box(10, 10, 50, 50))
    with_hole = with_hole.difference(shapely.box(100, 100, 300, 300))
    rings = Rings.of(np.array([thin, with_hole], object), 60)
    assert rings.feature.tolist() == [1, 1] and rings.corners(2).tolist() == [0, 8]


def test_the_polygon_under_the_cursor(made):
    page = client(find(made))
    names = {1: "water", 4: "field", 9: "forest"}
    classes = rasterio.open(made / "place_class.tif").read(1)
    for row, column in ((100, 200), (299, 519), (20, 30)):
        point = page.get(f"/api/point?row={row}&column={column}").json()
        assert point["polygon"]["class"] == names[classes[row, column]]
        assert set(point["polygon"]) == {"value", "class", "pixels", "area_ha"}
    assert page.get("/api/point?row=3&column=3").json()["polygon"] is None


def test_other_files_are_no_outlines(copy, made):
    path = copy / "place_polygons.gpkg"
    assert client(find(copy)).get("/api/map").json()["outlines"]
    # Who interprets a sample sees no polygons of classes.
    sample(copy / "place_class.tif", copy / "points.gpkg", size=10, floor=2)
    judging = client(find(copy, judge=copy / "points.gpkg"))
    assert judging.get("/api/map").json()["outlines"] is None
    assert judging.get("/outlines/0/0/0.mvt").status_code == 404
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


def test_damaged_and_strange_polygons_hurt_nobody_else(copy, tmp_path):
    """What a file of somebody else may hold, under a spatial index that names it."""
    path, good = copy / "place_polygons.gpkg", stored(copy)[0]
    corner = find(copy).grid.transform @ (100.0, 100.0)
    ring = struct.pack("<II", 1, 4) + struct.pack("<8d", *[float("nan")] * 4, *corner, *corner)
    head = b"GP\x00\x01" + struct.pack("<i", 32633)
    strange = {
        1: head + b"\x01" + struct.pack("<I", 3) + ring,  # no numbers
        2: head + b"\x01" + struct.pack("<I", 3) + ring[:20],  # cut off
        3: head + b"\x01" + struct.pack("<I", 99),  # no kind of geometry
        4: head + b"\x01" + struct.pack("<Idd", 1, *corner),  # a point
        5: head + b"\x01" + struct.pack("<III", 3, 2**31, 2**31),  # more rings than bytes
        6: head + (b"\x01" + struct.pack("<II", 7, 1)) * 100_000,  # collections in collections
        7: head + b"\x01" + struct.pack("<II", 3, 0),  # empty
        8: head + (b"\x01" + struct.pack("<II", 6, 1)) * 100_000,  # the same of multipolygons
        9: "text, where bytes were expected",
        10: 1_234_567_890,
    }
    with sqlite3.connect(path) as base:
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{name}"')
        for number, blob in strange.items():
            base.execute("UPDATE land_cover SET geom = ? WHERE fid = ?", (blob, number))
        base.execute("ALTER TABLE land_cover ADD COLUMN s TEXT DEFAULT '<img src=x onerror=alert(1)>'")
    page = client(find(copy))
    answer = page.get("/outlines/2/0/0.mvt")
    assert answer.status_code == 200, answer.text
    found, fields = read(answer.content, tmp_path)
    near = {n for n, one in good.items() if one.intersects(shapely.box(0, 0, 255, 255))}
    assert set(found) & near == near - strange.keys()
    assert all(one["s"] == viewed.HOSTILE for one in fields.values())
    for number in strange:
        x, y = good[number].representative_point().coords[0]
        point = page.get(f"/api/point?row={int(y)}&column={int(x)}")
        assert point.status_code == 200 and point.json()["polygon"] is None


def test_a_page_draws_hides_colours_and_highlights(made):
    shown = find(made)
    classes = rasterio.open(made / "place_class.tif").read(1)
    row, column = 30, 200
    assert classes[row, column] == classes[row + 3, column + 3]
    with (
        viewed.server(shown) as home,
        browser.opened(f"{home}#show=none&opacity=100&outlines=1&at=2,150,260", 1600) as page,
    ):
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector("#outlines-state:has-text('polygons in view, all drawn')")
        name, own = next(
            (one["name"], one["color"])
            for one in page.evaluate("fetch('api/map').then((one) => one.json())")["layers"][0]["classes"]
            if one["value"] == classes[row, column]
        )
        becomes(page, row, column, [*own, 255])
        page.get_by_label(f"Colour of {name}").fill("#102030")
        becomes(page, row, column, [16, 32, 48, 255])
        page.get_by_label(name, exact=True).first.uncheck()
        becomes(page, row, column, [0, 0, 0, 0])
        page.get_by_label(name, exact=True).first.check()
        # The cursor: the polygon is lit, its fields are beside it.
        box = page.query_selector("#map").bounding_box()
        page.mouse.move(box["width"] / 2 + column - 260, box["height"] / 2 + row - 150)
        page.wait_for_selector(f".polygon-tip:has-text('{name}')")
        # 30 % of the yellow that lights a polygon, on its colour.
        becomes(page, row, column, [88, 86, 34, 255])
        page.keyboard.press("o")
        page.wait_for_selector(".polygon-tip", state="detached")
        assert page.is_hidden("#outlines-state") and page.seen == [] and browser.unreadable(page) == []


def becomes(page, row, column, color):
    """Waits until the page's canvas has a colour at a pixel of the map, on the level of full resolution."""
    page.wait_for_function(
        """([row, column, color]) => {
          const home = document.getElementById('map').getBoundingClientRect();
          const [x, y] = [home.left + home.width / 2 + column - 260, home.top + home.height / 2 + row - 150];
          for (const one of document.querySelectorAll('#map canvas.leaflet-tile')) {
            const box = one.getBoundingClientRect();
            if (x < box.left || x >= box.right || y < box.top || y >= box.bottom) continue;
            const copy = Object.assign(document.createElement('canvas'), {width: 256, height: 256});
            const pen = copy.getContext('2d');
            pen.drawImage(one, 0, 0);
            const found = [...pen.getImageData(x - box.left, y - box.top, 1, 1).data];
            return found.every((value, i) => Math.abs(value - color[i]) < 2);
          }
        }""",
        arg=[row, column, color],
    )


def test_a_damaged_geometry_is_said_to_be(made):
    with pytest.raises(BadFile, match="damaged"):
        geometry_of(b"GP\x00\x01" + bytes(4) + b"\x01\x03")
    with pytest.raises(BadFile, match="damaged"):
        wkb_of(b"GP\x00\xff1234")
    # Multipolygons of every dimension and byte order are none of that.
    for shape in (shapely.MultiPolygon([shapely.box(0, 0, 1, 1)] * 2), shapely.MultiPolygon([])):
        for flat in (shape, shapely.force_3d(shape)):
            for how in ({"byte_order": 0}, {"flavor": "iso"}):
                wkb = shapely.to_wkb(flat, **how)
                assert wkb_of(b"GP\x00\x01" + bytes(4) + wkb) == wkb
    # Codes that GEOS might read as another number of dimensions.
    for code in (0x80000000 | 2006, 0x20000006, 4006, 0x10006, 10, 0):
        with pytest.raises(BadFile, match="of a kind"):
            wkb_of(b"GP\x00\x01" + bytes(4) + b"\x01" + struct.pack("<III", code, 0, 0))
