"""Where a model is wrong, against loops over all pixels."""

import csv
import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import world

import labelscape as ls
from labelscape.errors import BadFile
from labelscape.evaluation.distances import DISTANCES, LAGS, correlation_length, distance_groups, pairs_of
from labelscape.evaluation.places import error_legend
from labelscape.grid import Window
from labelscape.legend import Legend
from labelscape.training.recipe import make_recipe

QUICK = {"device": "cpu", "show": False}


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 64, 96)


@pytest.fixture
def labelled(w, tmp_path):
    labels = world.label_raster(w, tmp_path / "labels.tif", unlabelled=w.pixels[0] % 7 == 0)
    how = {"spec": {"legend": world.LEGEND}, "block": 16, "shares": {"train": 0.5, "test": 0.5}}
    with ls.open_dataset([str(w.scene)], [str(labels)], **how) as dataset:
        yield dataset


def test_an_error_map_shows_the_class_that_was_missed(w, labelled, tmp_path):
    seen = []
    found = ls.evaluate(
        world.tiny_checkpoint(like=w.scene),
        labelled,
        part="test",
        out=tmp_path / "out",
        tile_size=48,
        overlap=0,
        **QUICK,
    )
    ls.evaluate(
        world.tiny_checkpoint(like=w.scene),
        labelled,
        part="test",
        tile_size=48,
        overlap=0,
        keep=lambda _, indices: seen.append(indices),
        **QUICK,
    )
    scene = labelled.scenes[0]
    truth = scene.read_labels(scene.scene.grid.window, "test")
    expected = np.where(truth == seen[0], 0, truth + 1)
    expected[truth == 255] = 255
    with rasterio.open(tmp_path / "out" / "scene_errors.tif") as file:
        assert (file.read(1) == expected).all() and set(np.unique(expected)) > {0, 255}
    assert "forest missed" in (tmp_path / "out" / "scene_errors.tif.aux.xml").read_text()
    stored = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert stored["per_block"] == [block.to_dict() for block in found.per_block]
    assert sum(np.sum(group["counts"]) for group in stored["per_distance"]) == found.confusion.labelled
    with open(tmp_path / "out" / "blocks.csv") as file:
        rows = list(csv.DictReader(file))
    wrong = [int(row["wrong"]) for row in rows]
    assert wrong == sorted(wrong, reverse=True) and sum(wrong) == ((truth != seen[0]) & (truth != 255)).sum()
    first = Window(*(int(rows[0][key]) for key in ("top", "left", "height", "width")))
    assert wrong[0] == ((truth != seen[0]) & (truth != 255))[first.inset_of(scene.scene.grid.window)].sum()
    assert f"from row {first.top}, column {first.left}" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(BadFile, match="exists"):
        ls.evaluate(world.tiny_checkpoint(like=w.scene), labelled, out=tmp_path / "out", **QUICK)


def test_an_evaluation_that_fails_leaves_no_error_maps(w, labelled, tmp_path, monkeypatch):
    def full(*_, **__):
        raise BadFile("blocks.csv cannot be written: no space left on device.")

    monkeypatch.setattr("labelscape.evaluation.places._write_table", full)
    with pytest.raises(BadFile, match="no space left"):
        ls.evaluate(world.tiny_checkpoint(like=w.scene), labelled, out=tmp_path / "out", **QUICK)
    assert not list((tmp_path / "out").iterdir())


def test_what_is_right_looks_like_no_class():
    light, dark = (245, 245, 245), (25, 25, 25)
    assert error_legend(Legend.of_names(["water", "forest"])).classes[0].color == light
    assert error_legend(Legend.of_names(["other", "building"])).classes[0].color == dark


def test_blocks_lie_where_their_pixels_do(w, labelled, tmp_path):
    found = ls.evaluate(
        world.tiny_checkpoint(like=w.scene), labelled, part="test", out=tmp_path / "out", **QUICK
    )
    about, _, wkb, columns = pyogrio.raw.read(tmp_path / "out" / "blocks.gpkg")
    by_name = dict(zip(about["fields"], columns))
    assert "EPSG:32633" in str(about["crs"]) and len(wkb) == len(found.per_block)
    boxes = shapely.bounds(shapely.from_wkb(wkb))
    for top, left, box in zip(by_name["top"], by_name["left"], boxes):
        x, y = 400_000 + 10 * left, 5_800_000 - 10 * top
        assert box.tolist() == [x, y - 160, x + 160, y]
    assert np.nanmax(by_name["oa"]) <= 1 and "iou forest" in by_name


def test_distances_are_those_to_the_nearest_training_label(labelled):
    scene = labelled.scenes[0]
    whole = scene.scene.grid.window
    trained = np.argwhere(scene.read_labels(whole, "train") != 255)
    window = Window(10, 20, 30, 40)
    groups = distance_groups(scene, window)
    for row, column in ((0, 0), (7, 31), (29, 39), (15, 15)):
        far = np.hypot(*(trained - [window.top + row, window.left + column]).T).min()
        assert groups[row, column] == sum(far > d for d in DISTANCES)
    assert len(np.unique(distance_groups(scene, whole))) > 1


def test_pairs_are_counted_as_loops_count_them():
    rng = np.random.default_rng(0)
    known, wrong = rng.random((11, 13)) < 0.8, rng.random((11, 13)) < 0.3
    pairs, differing = pairs_of(known, known & wrong)
    for k, lag in enumerate(LAGS):
        expected = [0, 0]
        for row in range(11):
            for column in range(13):
                for other in ((row + lag, column), (row, column + lag)):
                    if other[0] < 11 and other[1] < 13 and known[row, column] and known[other]:
                        expected[0] += 1
                        expected[1] += wrong[row, column] != wrong[other]
        assert [pairs[k], differing[k]] == expected


@pytest.mark.parametrize(("patch", "lengths"), [(1, {1}), (16, {16}), (64, {64, 128})])
def test_errors_in_patches_are_alike_over_their_width(patch, lengths):
    rng = np.random.default_rng(1)
    coarse = rng.random((-(-1024 // patch),) * 2) < 0.3
    wrong = np.kron(coarse, np.ones((patch, patch), bool))
    assert correlation_length(*pairs_of(np.ones_like(wrong), wrong)) in lengths


def test_errors_that_stay_alike_have_no_length_and_none_have_length_0():
    known = np.ones((600, 600), bool)
    slope = known & (np.arange(600) > 300)
    assert correlation_length(*pairs_of(known, slope)) is None
    assert correlation_length(*pairs_of(known[:50, :50], slope[:50, 276:326])) is None
    assert correlation_length(*pairs_of(known, ~known)) == 0


def test_labels_next_to_training_labels_are_warned_of(w, tmp_path, run_cli):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    data = {"images": [str(w.scene)], "labels": [str(labels)], "block": 16, "holdout": 0.4}
    recipe = make_recipe(network="skip", data=data).model_dump(mode="json")
    path = ls.save(world.tiny_checkpoint(like=w.scene, recipe=recipe), tmp_path / "m.safetensors")
    code, _, err = run_cli("evaluate", path, "--device", "cpu", "--out", tmp_path / "out")
    assert (
        code == 0 and "of the scored labels lie within" in err and "Hold out larger blocks (--block)" in err
    )
    assert "report.html" in err
    stored = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert stored["errors"]["lags"] == list(LAGS) and len(stored["per_distance"]) == len(DISTANCES) + 1
