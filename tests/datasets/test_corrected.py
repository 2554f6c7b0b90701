"""Corrections replace labels of training blocks; held-out blocks keep theirs; wrong files get a sentence."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import world

from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.legend import IGNORE

SHARES = {"train": 0.7, "test": 0.3}


def polygons(path, boxes, columns, *, transform=world.NORTH_UP, crs="EPSG:32633", to=None):
    """Rectangles of pixels (top, left, height, width) with columns of texts, None for an empty cell."""
    corners = [
        [transform @ c for c in ((x, y), (x + w, y), (x + w, y + h), (x, y + h))] for y, x, h, w in boxes
    ]
    found = shapely.polygons(np.array(corners))
    if to:
        import pyproj

        change = pyproj.Transformer.from_crs(crs, to, always_xy=True)
        found = shapely.transform(found, lambda xy: np.column_stack(change.transform(xy[:, 0], xy[:, 1])))
    driver = "GPKG" if path.suffix == ".gpkg" else "GeoJSON"
    fields = [np.array(values, object) for values in columns.values()]
    pyogrio.raw.write(
        path, shapely.to_wkb(found), fields, list(columns), geometry_type="Polygon", crs=to or crs,
        driver=driver,
    )  # fmt: skip
    return path


def reviewed(path, boxes, right, *, mapped=None, answers=None, **place):
    """A review file with these answers."""
    empty = [None] * len(boxes)
    columns = {"class": mapped or ["water"] * len(boxes), "class_right": right, "answer": answers or empty}
    return polygons(path, boxes, columns, **place)


@pytest.fixture
def scene(tmp_path):
    """A painted scene, and its classes as a label raster with the lower third unlabelled."""
    one = world.make(tmp_path, 96, 128)
    unlabelled = np.zeros((96, 128), bool)
    unlabelled[64:] = True
    world.label_raster(one, tmp_path / "labels.tif", unlabelled=unlabelled)
    return one


def opened(scene, labels, files=(), **how):
    how = {"block": 16, "shares": SHARES, **how}
    spec = {"classes": {"water": 0, "field": 1, "forest": 2}} if str(labels).endswith("tif") else {}
    return open_dataset([scene.scene], [labels], spec=spec, corrections=files, **how)


def by_loop(legend, before, split, boxes, names):
    """What training should read: pixel by pixel, later boxes over earlier ones, training blocks alone."""
    after = before.copy()
    for (top, left, height, width), name in zip(boxes, names):
        for row in range(top, top + height):
            for column in range(left, left + width):
                if name and split.parts[row // split.block, column // split.block] == 0:
                    after[row, column] = legend.names.index(name)
    return after


BOXES = [(3, 5, 30, 50), (20, 40, 40, 60), (60, 10, 30, 90), (0, 100, 10, 20)]
NAMES = ["forest", "water", "field", None]


@pytest.mark.parametrize("kind", ["raster", "polygons"])
@pytest.mark.parametrize("to", [None, "EPSG:4326"])
def test_corrections_win_in_training_blocks_and_nowhere_else(tmp_path, scene, kind, to):
    labels = tmp_path / "labels.tif"
    if kind == "polygons":
        labels = world.label_polygons(scene, tmp_path / "labels.gpkg")
    # Whole pixels, half a pixel inside: reprojection moves corners by less than that.
    inset = [(t + 0.3, x + 0.3, h - 0.6, w - 0.6) for t, x, h, w in BOXES]
    file = reviewed(tmp_path / "review.gpkg", inset, NAMES, to=to)
    with opened(scene, labels) as plain, opened(scene, labels, [file]) as done:
        (old,), (new,) = plain.scenes, done.scenes
        window = old.scene.grid.window
        assert (old.split.parts == new.split.parts).all()
        before = old.read_labels(window)
        wanted = by_loop(done.legend, before, old.split, BOXES, NAMES)
        np.testing.assert_array_equal(new.read_labels(window), wanted)
        np.testing.assert_array_equal(new.read_labels(window, "test"), old.read_labels(window, "test"))
        train = old.split.mask(window, "train")
        np.testing.assert_array_equal(new.read_labels(window, "train"), np.where(train, wanted, IGNORE))
        (what,) = done.corrected
        covered = by_loop(done.legend, np.full_like(before, IGNORE), old.split, BOXES, NAMES) != IGNORE
        assert what["polygons"] == 3 and what["unanswered"] == 1 and what["elsewhere"] == 0
        assert what["pixels"] == covered.sum()
        assert what["changed"] == ((wanted != before) & (before != IGNORE)).sum() > 0
        assert what["added"] == ((wanted != before) & (before == IGNORE)).sum()
        assert what["held_out"] > 0
        said = " ".join(done.report)
        assert "3 corrections of review.gpkg (1 without an answer: ignored)" in said
        assert "held-out blocks, which keep their labels" in said
    assert plain.corrected == ()


def test_windows_and_held_labels_read_the_same(tmp_path, scene):
    file = reviewed(tmp_path / "r.gpkg", BOXES, NAMES)
    with opened(scene, tmp_path / "labels.tif", [file]) as done:
        (one,) = done.scenes
        whole = one.read_labels(one.scene.grid.window)
        for window in one.scene.grid.window.blocks(29):
            part = one.read_labels(window)
            np.testing.assert_array_equal(part, whole[window.inset_of(one.scene.grid.window)])


def test_an_area_and_its_background_do_not_undo_corrections(tmp_path, scene):
    """Labels are complete inside an area alone; a correction outside of it is a label too."""
    labels = world.label_polygons(scene, tmp_path / "f.gpkg", only=(2,))
    area = world.rectangle(scene, tmp_path / "area.geojson", 0, 0, 40, 128)
    file = reviewed(tmp_path / "r.gpkg", [(70, 0, 20, 128), (5, 5, 4, 4)], ["forest", "field"])
    how = {"spec": {"background": "field", "area": str(area)}, "block": 16}
    with open_dataset([scene.scene], [labels], corrections=[file], **how) as done:
        read = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
    names = np.array([*done.legend.names, *[""] * 254])[read]
    assert (names[70:90] == "forest").all() and (names[5:9, 5:9] == "field").all()
    assert (read[45:65] == IGNORE).all()


def test_the_maps_class_may_be_said_to_be_right(tmp_path, scene):
    file = reviewed(
        tmp_path / "r.gpkg",
        [(0, 0, 8, 8), (0, 8, 8, 8), (0, 16, 8, 8), (0, 24, 8, 8)],
        [None, None, "forest", "field"],
        mapped=["field", "field", "field", "field"],
        answers=["right", "mixed", "unsure", None],
    )
    with opened(scene, tmp_path / "labels.tif", [file], shares=None) as done:
        one = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
        (what,) = done.corrected
    assert (one[:8, :8] == 1).all() and (one[:8, 24:32] == 1).all()
    np.testing.assert_array_equal(one[:8, 8:24], scene.classes[:8, 8:24])
    assert (what["polygons"], what["no_class"], what["unanswered"]) == (2, 2, 0)


def test_polygons_with_a_class_column_are_corrections_too(tmp_path, scene):
    """As a viewer writes them; of two files the later one wins."""
    first = polygons(tmp_path / "a.geojson", [(0, 0, 20, 20)], {"class": ["water"]}, to="EPSG:4326")
    second = polygons(tmp_path / "b.gpkg", [(10, 10, 20, 20)], {"Class": ["forest"]})
    with opened(scene, tmp_path / "labels.tif", [first, second], shares=None) as done:
        read = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
    assert (read[1:10, 1:10] == 0).all() and (read[11:29, 11:29] == 2).all()
    assert [one["file"] for one in done.corrected] == ["a.geojson", "b.gpkg"]
    assert len(done.corrected[0]["sha256"]) == 64


def test_a_review_file_saved_as_a_shapefile_is_read_too(tmp_path, scene):
    """Its column is cut to ten characters."""
    columns = {"class": ["water", "water"], "class_righ": ["forest", None]}
    file = polygons(tmp_path / "r.gpkg", [(0, 0, 8, 8), (20, 20, 8, 8)], columns)
    with opened(scene, tmp_path / "labels.tif", [file], shares=None) as done:
        read = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
    assert (read[:8, :8] == 2).all() and done.corrected[0]["unanswered"] == 1
    np.testing.assert_array_equal(read[20:28, 20:28], scene.classes[20:28, 20:28])


def test_labels_of_a_review_file_are_its_answers_not_the_maps_classes(tmp_path, scene):
    file = reviewed(tmp_path / "r.gpkg", [(0, 0, 20, 20), (40, 40, 20, 20)], ["forest", None])
    with open_dataset([scene.scene], [file]) as done:
        assert done.legend.names == ["forest"]
        read = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
    assert (read[:20, :20] == 0).all() and (read[40:60, 40:60] == IGNORE).all()


def test_pictures_without_coordinates_are_corrected_in_pixels(tmp_path):
    one = world.make(tmp_path, 48, 64, crs=None)
    world.label_raster(one, tmp_path / "labels.tif")
    with rasterio.open(one.scene) as file:
        place = file.transform
    file = polygons(tmp_path / "c.gpkg", [(4, 6, 10, 20)], {"class": ["forest"]}, transform=place, crs=None)
    with opened(one, tmp_path / "labels.tif", [file], shares=None) as done:
        read = done.scenes[0].read_labels(done.scenes[0].scene.grid.window)
    changed = read != one.classes
    assert (read[4:14, 6:26] == 2).all()
    changed[4:14, 6:26] = False
    assert not changed.any()


def test_whole_images_that_are_held_out_keep_their_labels(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "labels").mkdir()
    for n in range(6):
        place = world.NORTH_UP @ world.NORTH_UP.translation(n * 32, 0)
        one = world.make(tmp_path / "images", 32, 32, seed=n, transform=place, name=f"s{n}")
        world.label_raster(one, tmp_path / "labels" / f"s{n}.tif")
    file = polygons(tmp_path / "c.gpkg", [(0, 0, 32, 6 * 32)], {"class": ["class 2"]})
    with open_dataset([tmp_path], shares=SHARES, corrections=[file]) as done:
        for scene, part in zip(done.scenes, done.part_of):
            read = scene.read_labels(scene.scene.grid.window)
            assert (read == 2).all() == (part == "train")
        assert done.corrected[0]["held_out"] == 32 * 32 * done.part_of.count("test") > 0


def test_wrong_files_are_refused_with_a_sentence(tmp_path, scene):
    labels = tmp_path / "labels.tif"

    def refused(error, match, file, **how):
        with pytest.raises(error, match=match):
            opened(scene, labels, [file], **how)

    box = [(0, 0, 20, 20)]
    refused(BadFile, "does not exist", tmp_path / "none.gpkg")
    refused(BadInput, "neither a column `class_right`.*its columns: kind", polygons(
        tmp_path / "k.gpkg", box, {"kind": ["water"]}))  # fmt: skip
    refused(
        UnknownName,
        "w.gpkg. is called 'waters'.*Known: water, field, forest",
        reviewed(tmp_path / "w.gpkg", box, ["waters"]),
    )
    refused(UnknownName, "answer", reviewed(tmp_path / "a.gpkg", box, [None], answers=["perhaps"]))
    refused(BadInput, "no answer yet", reviewed(tmp_path / "n.gpkg", box, [None]))
    refused(BadInput, "said to be right as 'water'.*'field'", reviewed(
        tmp_path / "c.gpkg", box, ["field"], answers=["right"]))  # fmt: skip
    refused(BadInput, "touches scene", reviewed(tmp_path / "far.gpkg", [(500, 500, 9, 9)], ["field"]))
    everywhere = opened(scene, labels).scenes[0].split
    row, column = everywhere.blocks("test")[0]
    held = reviewed(tmp_path / "h.gpkg", [(row * 16, column * 16, 16, 16)], ["field"])
    refused(BadInput, "256 pixels lie in held-out blocks", held)
