"""Polygons drawn in the viewer: the file that `train --corrections` takes, written by several at a time."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import browser
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import viewed
import world
from processes import PATIENCE
from viewed import client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from labelscape.errors import BadInput
from labelscape.labels.corrections import read_corrections
from labelscape.viewer import geopackage
from labelscape.viewer.app import create_app
from labelscape.viewer.corrections import Corrections
from labelscape.viewer.geopackage import blob_of, opened
from labelscape.viewer.shown import find

RING = [[10, 20], [60, 20], [60, 70], [10, 70]]


@pytest.fixture
def folder(tmp_path) -> Path:
    return viewed.made(tmp_path)


def test_a_polygon_is_a_correction_for_training(folder):
    page, shown = client(find(folder), own=True, edit=True), find(folder)
    assert page.get("/api/corrections").json() == [] and not (folder / "corrections.gpkg").exists()
    made = page.post("/api/corrections", json={"class": "forest", "ring": RING}).json()
    assert page.post("/api/corrections", json={"class": "water", "ring": RING[:3]}).status_code == 200
    found = read_corrections(folder / "corrections.gpkg", shown.grid, shown.layers[0].legend)
    assert found.indices.tolist() == [2, 0]
    corners = [world.NORTH_UP @ tuple(corner) for corner in RING]
    assert found.geometries[0].equals(shapely.Polygon(corners))
    # What other programs see: CRS, extent, spatial index, number of features.
    facts = pyogrio.read_info(folder / "corrections.gpkg")
    assert (facts["crs"], facts["features"], facts["layer_name"]) == ("EPSG:32633", 2, "corrections")
    assert facts["total_bounds"] == (400_100.0, 5_799_300.0, 400_600.0, 5_799_800.0)
    near = pyogrio.raw.read(folder / "corrections.gpkg", bbox=(400_110, 5_799_310, 400_120, 5_799_320))[2]
    assert len(near) == 1
    # Deleted, changed.
    number = made["id"]
    assert (
        page.post(f"/api/corrections/{number}", json={"class": "field", "before": "forest"}).status_code
        == 200
    )
    assert page.post(f"/api/corrections/{number}", json={"class": None, "before": "field"}).status_code == 200
    assert [one["class"] for one in page.get("/api/corrections").json()] == ["water"]
    assert pyogrio.read_info(folder / "corrections.gpkg")["features"] == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"class": "swamp", "ring": RING}, "No class is called 'swamp'"),
        ({"class": "water", "ring": RING[:2]}, "3 to 5,000 corners"),
        ({"class": "water", "ring": [[0, 0], [9, 9], [9, 0], [0, 9]]}, "crosses or touches itself"),
        ({"class": "water", "ring": [[0, 0], [9, 9], [18, 18]]}, "crosses or touches itself"),
        ({"class": "water", "ring": [[-90, -90], [-80, -90], [-80, -80]]}, "beside the map"),
        ({"class": "water", "ring": [[0, 0]] * 5001}, ""),
        ({"class": "water", "ring": [[0, 0, 1], [1, 1, 1], [0, 1, 1]]}, ""),
        ({"class": "water", "ring": RING, "path": "/etc/passwd"}, ""),
    ],
)
def test_other_polygons_are_refused(folder, body, says):
    page = client(find(folder), own=True, edit=True)
    answer = page.post("/api/corrections", json=body)
    assert answer.status_code == 422 and says in answer.text
    assert page.get("/api/corrections").json() == []


def test_what_is_no_json_and_no_number_of_a_row_is_refused(folder):
    page = client(find(folder), own=True, edit=True)
    kind = {"content-type": "application/json"}
    for corner in ("NaN", "1e999", "-Infinity"):
        told = f'{{"class": "water", "ring": [[{corner}, 1], [1, 2], [3, 4]]}}'
        answer = page.post("/api/corrections", content=told, headers=kind)
        assert answer.status_code == 422 and "finite number" in answer.json()["error"]
    page.post("/api/corrections", json={"class": "forest", "ring": RING})
    for number in (-1, 2**63, 10**40):
        answer = page.post(f"/api/corrections/{number}", json={"class": None, "before": "forest"})
        assert answer.status_code == 422


def test_a_polygon_that_somebody_changed_is_not_overwritten(folder):
    one, two = client(find(folder), own=True, edit=True), client(find(folder), own=True, edit=True)
    number = one.post("/api/corrections", json={"class": "forest", "ring": RING}).json()["id"]
    assert (
        two.post(f"/api/corrections/{number}", json={"class": "field", "before": "forest"}).status_code == 200
    )
    late = one.post(f"/api/corrections/{number}", json={"class": None, "before": "forest"})
    assert late.status_code == 409 and late.json()["now"] == {"class": "field"}
    assert one.post("/api/corrections/99", json={"class": None, "before": "x"}).status_code == 409


def test_what_was_deleted_comes_back_whole(folder):
    """A polygon of QGIS: two parts, a hole, and a column that the page does not know."""
    page = client(find(folder), own=True, edit=True)
    number = page.post("/api/corrections", json={"class": "forest", "ring": RING}).json()["id"]
    grid = find(folder).grid
    parts = [
        shapely.box(10, 10, 90, 90).difference(shapely.box(20, 20, 40, 40)),
        shapely.box(100, 10, 130, 50),
    ]
    shape = shapely.transform(
        shapely.MultiPolygon(parts), lambda xy: np.column_stack(grid.transform @ (xy[:, 0], xy[:, 1]))
    )
    path = folder / "corrections.gpkg"
    with opened(path, write=True) as base:
        base.execute("ALTER TABLE corrections ADD COLUMN why TEXT")
        base.execute("UPDATE corrections SET geom = ?, why = 'seen'", (blob_of(shape, 32633),))
    whole = pyogrio.raw.read(path, return_fids=True)
    address = f"/api/corrections/{number}"
    assert page.post(address, json={"class": None, "before": "forest"}).status_code == 200
    assert page.get("/api/corrections").json() == []
    assert page.post(address, json={"class": "forest", "before": None}).status_code == 200
    found = pyogrio.raw.read(path, return_fids=True)
    assert found[1].tolist() == whole[1].tolist() == [number]
    assert shapely.from_wkb(found[2][0]).equals(shape)
    assert [one.tolist() for one in found[3]] == [one.tolist() for one in whole[3]]
    near = pyogrio.raw.read(path, bbox=tuple(shape.bounds))[2]
    assert len(near) == 1 and pyogrio.read_info(path)["features"] == 1
    # Once, and only by the server that deleted it.
    assert page.post(address, json={"class": "forest", "before": None}).status_code == 409
    page.post(address, json={"class": None, "before": "forest"})
    other = client(find(folder), own=True, edit=True)
    assert other.post(address, json={"class": "forest", "before": None}).status_code == 409


def test_several_writers_lose_nothing(folder, monkeypatch):
    # Whose turn it is, SQLite leaves to chance: on a slow disk one may wait for long.
    monkeypatch.setattr(geopackage, "PATIENCE", PATIENCE)
    shown = find(folder)
    path, legend = folder / "corrections.gpkg", shown.layers[0].legend
    names = ["water", "field", "forest"] * 8

    def draw(place: int) -> int:
        # Each with a connection of its own, as servers have; all of them find no file at first.
        ring = [(place, place), (place + 5, place), (place + 5, place + 9)]
        return Corrections(path, shown.grid, legend).add(names[place], ring)["id"]

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(draw, range(len(names))))
    assert sorted(numbers) == list(range(1, len(names) + 1))
    found = {one["id"]: one["class"] for one in Corrections(path, shown.grid, legend).items()}
    assert found == dict(zip(numbers, names))
    with contextlib.closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_in_another_crs_is_refused(folder):
    shown = find(folder)
    other = viewed.made(folder / "other", crs=rasterio.CRS.from_epsg(32634))
    Corrections(folder / "corrections.gpkg", find(other).grid, shown.layers[0].legend).add("water", RING)
    with pytest.raises(BadInput, match="in another CRS"):
        create_app(shown, edit=True)
    create_app(shown)
    # Nor is a link followed, which would lead the page's writing elsewhere.
    (folder / "corrections.gpkg").rename(folder.parent / "elsewhere.gpkg")
    (folder / "corrections.gpkg").symlink_to(folder.parent / "elsewhere.gpkg")
    with pytest.raises(BadInput, match="is a link"):
        create_app(shown, edit=True)


def test_two_people_draw_in_two_browsers(folder):
    shown = find(folder)
    with viewed.server(shown, edit=True) as home, browser.opened(home, 1600) as one:
        two = one.context.browser.new_page(viewport={"width": 1600, "height": 900})
        two.set_default_timeout(1000 * PATIENCE)
        two.goto(home)
        for page, name, left in ((one, "forest", 300), (two, "water", 700)):
            page.wait_for_selector("body[data-ready]")
            page.select_option("#correct-class", name)
            page.click("#correct-draw")
            for x, y in ((left, 300), (left + 200, 300), (left + 200, 500)):
                page.mouse.click(x, y)
            page.focus("#map")
            page.keyboard.press("Enter")
            page.wait_for_selector("#correct-state:has-text('in corrections.gpkg')")
        two.wait_for_selector("#correct-state:has-text('2 polygons')")
        # The first page sees the second one's within seconds.
        one.wait_for_selector("#correct-state:has-text('2 polygons')")
        items = Corrections.beside(folder, shown.grid, shown.layers[0].legend).items
        assert sorted(item["class"] for item in items()) == ["forest", "water"]
        # Undo takes back one's own polygon, not the last of all.
        one.keyboard.press("z")
        one.wait_for_selector("#correct-state:has-text('1 polygon ')")
        assert [item["class"] for item in items()] == ["water"]
        # Colours tried in the page are stored in the map's file.
        one.get_by_label("Colour of forest").fill("#102030")
        one.click("#store-colours")
        one.wait_for_selector("#store-colours", state="detached")
        with rasterio.open(folder / "place_class.tif") as file:
            assert file.colormap(1)[9] == (16, 32, 48, 255)
        assert "color=" not in one.url and one.get_by_label("Colour of forest").input_value() == "#102030"
        assert one.seen == [] and one.evaluate(browser.FAULTS) == []
