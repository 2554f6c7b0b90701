"""Answers given in the viewer: where they are stored, what is refused, what survives."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import shapely
import viewed
import world
from affine import Affine
from viewed import client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from labelscape.assessment.answers import design_of, read_answers
from labelscape.assessment.review import review
from labelscape.assessment.sample import sample
from labelscape.crs import transformed
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.places import error_legend
from labelscape.grid import Grid, Window
from labelscape.labels.corrections import read_corrections
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.vectors import append_polygons, writing
from labelscape.viewer.differences import differences
from labelscape.viewer.geopackage import Changed, blob_of, geometry_of, opened, recover
from labelscape.viewer.judge import Judged
from labelscape.viewer.shown import find

NOTHING = {"class": None, "word": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = viewed.made(tmp_path_factory.mktemp("map"))
    # Ten points and twenty areas are enough.
    review(folder / "place_class.tif", folder / "review.gpkg", top=20, below=70)
    sample(folder / "place_class.tif", folder / "points.gpkg", size=10, floor=2)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "map"))


def asked(folder: Path, judge: str, *, edit: bool = True):
    return client(find(folder, judge=folder / judge), own=True, edit=edit)


def say(page, place: dict, **new) -> object:
    before = {"class": place["class"], "word": place["word"]}
    return page.post(f"/api/places/{place['id']}", json={"new": {**NOTHING, **new}, "before": before})


def test_areas_are_answered_as_in_qgis_and_read_as_corrections(folder):
    page = asked(folder, "review.gpkg")
    places = page.get("/api/places").json()
    assert [one["rank"] for one in places] == list(range(1, 21))
    classes = rasterio.open(folder / "place_class.tif").read(1)
    legend = find(folder).layers[0].legend
    for place in places:
        # Each outline lies on pixels of the class that the file says.
        left, top, right, bottom = (round(v) for v in place["bounds"])
        names = {legend.names[i] for i in legend.indices(classes[top:bottom, left:right]).ravel() if i < 3}
        assert place["mapped"] in names and 0 <= left < right <= viewed.WIDTH
    assert say(page, places[0], **{"class": "forest"}).json() == {"class": "forest", "word": None}
    assert say(page, places[1], word="right").status_code == 200
    assert say(page, places[2], word="unsure").status_code == 200
    grid = find(folder).grid
    found = read_corrections(folder / "review.gpkg", grid, legend)
    assert (len(found.indices), found.no_class, found.unanswered) == (2, 1, 17)
    assert [legend.names[i] for i in found.indices] == ["forest", places[1]["mapped"]]
    again = page.get("/api/places").json()
    assert again[0]["class"] == "forest" and again[1]["word"] == "right"
    # An answer can be taken back.
    assert say(page, again[0]).json() == NOTHING
    assert page.get("/api/places").json()[0]["class"] is None


def test_points_are_answered_without_sight_of_the_map(folder):
    page = asked(folder, "points.gpkg")
    facts = page.get("/api/map").json()
    assert [one["key"] for one in facts["layers"]] == ["scene"] and facts["judge"]["kind"] == "sample"
    assert page.get("/tiles/class/0/0/0.png").status_code == 404
    assert set(page.get("/api/point?row=9&column=9").json()["values"]) == {"scene"}
    places = page.get("/api/places").json()
    design = design_of(folder / "points.gpkg", None)
    # In the file's own order; the stratum, which is the map's class, is not told.
    assert not {"mapped", "stratum"} & places[0].keys() and len(places) == len(design)
    for place, name in zip(places, ("water", "field", "forest") * 9):
        assert say(page, place, **{"class": name, "word": "likely"}).status_code == 200
    got = read_answers(folder / "points.gpkg", design, design.legend)
    assert got.answered.all()
    number = int(places[4]["title"].split()[1])
    assert design.legend.names[got.classes[number - 1]] == "field"


def test_a_sample_needs_imagery(folder):
    (folder / "place.tif").unlink()
    with pytest.raises(BadInput, match=r"pass a scene \(--scene\)"):
        find(folder, judge=folder / "points.gpkg")


def test_an_answer_never_destroys_one_that_was_not_seen(folder):
    one, two = asked(folder, "review.gpkg"), asked(folder, "review.gpkg")
    place = one.get("/api/places").json()[3]
    assert say(one, place, **{"class": "water"}).status_code == 200
    late = say(two, place, **{"class": "field"})
    assert late.status_code == 409 and late.json()["now"] == {"class": "water", "word": None}
    assert say(two, {**place, **late.json()["now"]}, **{"class": "field"}).status_code == 200
    assert one.get("/api/places").json()[3]["class"] == "field"


@pytest.mark.parametrize(
    "new",
    [
        {"class": "swamp"},
        {"word": "perhaps"},
        {"class": "water", "word": "right"},
        {"class": 7},
        {"more": "x"},
    ],
)
def test_answers_that_nobody_can_give_are_refused(folder, new):
    page = asked(folder, "review.gpkg")
    place = page.get("/api/places").json()[0]
    assert say(page, place, **new).status_code == 422
    assert page.get("/api/places").json()[0]["class"] is None
    assert page.post("/api/places/999", json={"new": NOTHING, "before": NOTHING}).status_code == 422


def test_nothing_is_written_without_edit(folder):
    page = asked(folder, "review.gpkg", edit=False)
    before = (folder / "review.gpkg").read_bytes()
    place = page.get("/api/places").json()[0]
    assert say(page, place, **{"class": "water"}).status_code in (404, 405)
    assert (folder / "review.gpkg").read_bytes() == before


def test_a_lock_is_waited_for_and_then_named(folder, monkeypatch):
    monkeypatch.setattr("labelscape.viewer.geopackage.PATIENCE", 0.1)
    page = asked(folder, "review.gpkg")
    place = page.get("/api/places").json()[0]
    with contextlib.closing(sqlite3.connect(folder / "review.gpkg")) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = say(page, place, **{"class": "water"})
        assert answer.status_code == 500 and "another program keeps it locked" in answer.json()["error"]
    assert say(page, place, **{"class": "water"}).status_code == 200


def _answer_until_killed(path: str, grid: object, legend: object, told: object) -> None:
    judged = Judged.of(path, grid, legend)
    for place in judged.items():
        judged.answer(place["id"], {"class": "water"}, place)
        told.send(place["id"])
    told.close()


def test_what_was_answered_survives_a_kill(folder):
    shown = find(folder)
    told, tell = multiprocessing.Pipe(duplex=False)
    arguments = (str(folder / "review.gpkg"), shown.grid, shown.layers[0].legend, tell)
    worker = multiprocessing.get_context("fork").Process(target=_answer_until_killed, args=arguments)
    worker.start()
    tell.close()  # else nobody would notice that the other end is gone
    done = [told.recv() for _ in range(7)]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    # As a server with --edit does when it starts.
    recover(folder / "review.gpkg")
    items = {
        one["id"]: one
        for one in Judged.of(folder / "review.gpkg", shown.grid, shown.layers[0].legend).items()
    }
    assert all(items[number]["class"] == "water" for number in done)
    with contextlib.closing(sqlite3.connect(folder / "review.gpkg")) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_files_of_other_kinds_and_maps_are_refused(folder, tmp_path):
    shown = find(folder)
    legend = shown.layers[0].legend
    with pytest.raises(BadFile, match="does not exist"):
        Judged.of(tmp_path / "none.gpkg", shown.grid, legend)
    with pytest.raises(BadInput, match="neither a review file, nor a sample"):
        Judged.of(folder / "place_run.json", shown.grid, legend)
    with pytest.raises(BadInput, match="of another map"):
        Judged.of(folder / "points.gpkg", shown.grid.crop(shown.grid.window.grown(3)), legend)


def test_a_geometry_is_stored_as_gdal_stores_it(folder):
    with opened(folder / "review.gpkg") as base:
        for row in base.execute("SELECT geom FROM review").fetchall():
            shape = geometry_of(row["geom"])
            assert blob_of(shape, 32633)[8:40] == row["geom"][8:40]
            assert geometry_of(blob_of(shape, 32633)).equals(shape)
    with pytest.raises(BadFile, match="damaged"):
        geometry_of(b"GP\x00\xff1234")


def test_differences_of_two_maps(folder, tmp_path):
    classes = rasterio.open(folder / "place_class.tif").read(1)
    changed = classes.copy()
    changed[100:140, 200:290], changed[200:210, 50:55] = 9, 1
    legend = find(folder).layers[0].legend
    other = viewed.raster(tmp_path / "new_class.tif", changed[None], legend=legend)
    shown = find(folder, other)
    found = differences(shown.layer("class"), shown.layer("2-class"), shown.grid)
    differ = (changed != classes) & (classes != 255)
    # The whole map is smaller than the overview that is compared: all are found, the largest first.
    covered = np.zeros_like(differ)
    for place in found:
        left, top, right, bottom = (int(v) for v in place["bounds"])
        covered[top:bottom, left:right] = True
    assert covered[differ].all() and found[0]["title"].endswith("then forest")
    page = client(shown)
    assert page.get("/api/places").json()[0]["id"] == 1
    values = page.get("/api/point?row=205&column=52").json()["values"]
    assert values["differs"] == [float(differ[205, 52])]


def test_what_differs_in_overviews_alone_is_no_difference(monkeypatch):
    """Those of one map hold the most frequent class, of the other the nearest pixel's."""
    monkeypatch.setattr("labelscape.viewer.differences.LOOKED", 50)
    grid = Grid(None, rasterio.Affine.identity(), 100, 100)

    def layer(whole: np.ndarray, coarse: np.ndarray) -> SimpleNamespace:
        def read(_: tuple, window: Window, shape: tuple) -> tuple:
            found = whole[window.inset_of(grid.window)] if shape == window.shape else coarse
            return found[None], np.ones(found.shape, bool)

        return SimpleNamespace(read=read, legend=Legend.of_names(("water", "field")))

    whole, coarse = np.zeros((100, 100), np.uint8), np.zeros((50, 50), np.uint8)
    other, other_coarse = whole.copy(), coarse.copy()
    other[20:24, 60:70] = other_coarse[10:12, 30:35] = 1
    # The larger place is one of the overview alone.
    other_coarse[30:40, 5:15] = 1
    (found,) = differences(layer(whole, coarse), layer(other, other_coarse), grid)
    assert found["id"] == 1 and found["bounds"] == [60, 20, 70, 24] and found["title"] == "water, then field"


def test_the_worst_blocks_of_an_evaluation_are_flown_through(folder, tmp_path):
    out, grid = tmp_path / "errors", find(folder).grid
    out.mkdir()
    classes = find(folder).layers[0].legend
    truth = rasterio.open(folder / "place_class.tif").read(1)
    wrong = np.where(truth == IGNORE, IGNORE, 0).astype(np.uint8)
    wrong[:40, 100:140] = 2
    errors = viewed.raster(out / "place_errors.tif", wrong[None], legend=error_legend(classes))
    blocks = {"scene": [], "wrong": [], "labelled": [], "miou": []}
    shapes = []
    # A right one, one of another scene far away, and two with errors; all in another zone's CRS.
    for left, top, count, miou in (
        (0, 0, 0, 1.0),
        (9000, 0, 99, 0.1),
        (128, 0, 5, 0.5),
        (256, 128, 1600, None),
    ):
        corners = [(left, top), (left + 128, top), (left + 128, top + 128), (left, top + 128)]
        xy = transformed(*np.array([grid.transform @ one for one in corners]).T, grid.crs, "EPSG:32632")
        shapes.append(shapely.Polygon(np.column_stack(xy)))
        for name, value in zip(blocks, ("place", count, 4096, np.nan if miou is None else miou)):
            blocks[name].append(value)
    columns = {name: np.array(v, object if name == "scene" else float) for name, v in blocks.items()}
    with writing(out / "blocks.gpkg") as plain:
        append_polygons(
            plain, shapely.to_wkb(shapes), columns, layer="blocks", crs="EPSG:32632", first=True, options={}
        )
    # The folder of the evaluation alone, or its blocks and its errors beside a map.
    alone = find(out, scene=folder / "place.tif")
    assert [one.key for one in alone.layers] == ["errors", "scene"]
    beside = find(folder, errors, judge=out / "blocks.gpkg")
    assert "differs" not in [one.key for one in beside.layers] and beside.layer("errors") is not None
    for shown in (alone, beside):
        page = client(shown, own=True, edit=True)
        judging = page.get("/api/map").json()["judge"]
        assert (judging["kind"], judging["classes"], judging["words"]) == ("blocks", [], [])
        places = page.get("/api/places").json()
        assert [one["title"] for one in places] == [
            "1,600 of 4,096 labelled pixels wrong",
            "5 of 4,096 labelled pixels wrong, mIoU 50.0 %",
        ]
        assert np.allclose(places[0]["bounds"], (256, 128, 384, 256), atol=0.01)
        # Nothing is answered, and an error map is not what corrections are drawn on.
        assert page.post("/api/places/3", json={"new": NOTHING, "before": NOTHING}).status_code in (404, 405)
        assert page.get("/api/map").json()["correct"] == (shown is beside)


def test_changed_is_an_error_of_its_own():
    assert Changed(NOTHING).now == NOTHING


def test_what_lies_elsewhere_is_refused(folder, tmp_path):
    """A review, imagery or a second map of another place: all would be empty, and answers wrong."""
    far = {"transform": world.NORTH_UP @ Affine.translation(4000, 0)}
    beside = {"transform": world.NORTH_UP @ Affine.translation(viewed.WIDTH, 0)}
    near = {"transform": world.NORTH_UP @ Affine.translation(viewed.WIDTH - 5, 0)}
    for name, place in (("far", far), ("beside", beside)):
        other = viewed.made(tmp_path / name, **place)
        review(other / "place_class.tif", other / "review.gpkg", top=20, below=70)
        with pytest.raises(BadInput, match=r"of another map: none of its \d+ areas lies on this one"):
            find(folder, judge=other / "review.gpkg")
        for given in ({"scene": other / "place.tif"}, {"other": other}):
            with pytest.raises(BadInput, match="and the map do not overlap: it covers x .* the map x"):
                find(folder, **given)
    # Five columns in common.
    other = viewed.made(tmp_path / "near", **near)
    assert find(folder, scene=other / "place.tif", other=other).layers
    assert find(folder, judge=folder / "review.gpkg").judged.kind == "review"


def test_imagery_of_the_whole_earth_lies_where_the_map_does(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 180, 360)).astype(np.uint8)
    whole = world.write(
        tmp_path / "earth.tif", pixels, crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 90)
    )
    assert find(folder, scene=whole).layers[-1].key == "scene"


def test_a_full_disk_is_said_and_loses_no_answer(folder, small_disk):
    """SQLite ends the transaction by itself then, and had nothing to undo when it was asked to."""
    sized, disk = small_disk
    sized(2**20)
    path = disk / "review.gpkg"
    shutil.copy(folder / "review.gpkg", path)

    def rows():
        with opened(path) as base:
            return base.execute("SELECT * FROM gpkg_contents ORDER BY 1").fetchall()

    before = [tuple(row) for row in rows()]
    with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while True:
            other.write(bytes(4096))
    said = set()
    for room in (0, 4096, 20_000, 60_000):
        os.truncate(disk / "other", (disk / "other").stat().st_size - room)
        with pytest.raises(BadFile) as refused, opened(path, write=True) as base:
            base.execute("UPDATE gpkg_contents SET description = ?", ("x" * 600_000,))
        said.add(str(refused.value))
        assert [tuple(row) for row in rows()] == before
    assert said == {
        f"{path} cannot be written: database or disk is full. Free some space there, and try again."
    }
