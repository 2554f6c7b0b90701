"""Folders of pairs as people have them: names in other case, links in two splits, lists of Pascal's kind,
images without a polygon; and label options that mean nothing to the labels.
"""

import json
import shutil

import numpy as np
import pytest
import world

from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.datasets.pairs import pairs_of_folder, parts_given
from labelscape.errors import BadInput
from labelscape.labels.rules import LabelRules


def pairs(folder, images, labels):
    for side, names in (("images", images), ("labels", labels)):
        (folder / side).mkdir(parents=True)
        for number, name in enumerate(names):
            world.write(folder / side / name, np.full((20, 20), number % 2, np.uint8), crs=None)
    return folder


def test_names_that_differ_in_case_only_are_paired(tmp_path):
    folder = pairs(tmp_path, ["A1.tif", "B2.tif"], ["b2.TIF", "a1_mask.tif"])
    found = pairs_of_folder([folder])
    assert [(i.name, la.name) for i, la in zip(found.images, found.labels)] == [
        ("A1.tif", "a1_mask.tif"),
        ("B2.tif", "b2.TIF"),
    ]
    assert found.report == ("images and labels are paired by names that differ in upper and lower case only",)
    shutil.copy(folder / "labels" / "b2.TIF", folder / "labels" / "B2.png")
    with pytest.raises(BadInput, match=r"B2.png and .*b2.TIF have the same name"):
        pairs_of_folder([folder])


def test_one_image_in_two_splits_by_a_link_is_refused(tmp_path):
    for part in ("train", "val"):
        pairs(tmp_path / part, [f"{part}.tif"], [f"{part}.tif"])
    (tmp_path / "val" / "images" / "again.tif").symlink_to(tmp_path / "train" / "images" / "train.tif")
    shutil.copy(tmp_path / "val/labels/val.tif", tmp_path / "val/labels/again.tif")
    images = pairs_of_folder([tmp_path]).images
    with pytest.raises(BadInput, match=r"again.tif \(val\) and .*train.tif \(train\) are the same file"):
        parts_given(tmp_path, images)
    (tmp_path / "val" / "images" / "again.tif").unlink()
    assert parts_given(tmp_path, [i for i in images if i.name != "again.tif"]).part_of == ("train", "val")


def test_a_list_of_training_and_validation_together(tmp_path):
    folder = pairs(tmp_path, ["a.tif", "b.tif", "c.tif"], ["a.tif", "b.tif", "c.tif"])
    (folder / "trainval.txt").write_text("a\nb\n")
    images = pairs_of_folder([folder]).images
    assert parts_given(folder, images) is None
    (folder / "test.txt").write_text("c\n")
    assert parts_given(folder, images).part_of == ("train", "train", "test")
    (folder / "train.txt").write_text("a\n")
    assert parts_given(folder, images).part_of == ("train", "left out", "test")


# ---------------------------------------------------------------------------------------- empty polygon files


def tile_with_polygons(folder, name, column, only=(1,)):
    place = world.NORTH_UP @ world.NORTH_UP.translation(64 * column, 0)
    w = world.make(folder, 64, 64, transform=place, name=name, seed=column)
    return w, world.label_polygons(w, folder / f"{name}.geojson", only=only)


def no_polygons(path):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    return path


def test_an_image_without_a_polygon_is_background(tmp_path):
    one, first = tile_with_polygons(tmp_path, "one", 0)
    two, _ = tile_with_polygons(tmp_path, "two", 3)
    empty = no_polygons(tmp_path / "two.geojson")
    for labels in ([first, empty], [first]):
        rules = {"background": "other"}
        with open_dataset([str(one.scene), str(two.scene)], [str(f) for f in labels], spec=rules) as found:
            field = int((one.classes == 1).sum())
            assert found.legend.names == ["other", "field"]
            assert found.class_counts().tolist() == [2 * 64 * 64 - field, field]
            assert any("no polygon lies in two: all of it is other" in line for line in found.report)
        findings = check_data([one.scene, two.scene], labels, spec=rules)
        assert not [f for f in findings if f.severity == "error"]
        assert any("No polygon lies in two: all of it is other" in f.text for f in findings)
        with pytest.raises(BadInput, match=r"is empty|intersects two"):
            open_dataset([str(one.scene), str(two.scene)], [str(f) for f in labels])


def test_polygons_that_lie_in_no_scene_are_refused_background_or_not(tmp_path):
    one, _ = tile_with_polygons(tmp_path, "one", 0)
    two, _ = tile_with_polygons(tmp_path, "two", 3)
    _, far = tile_with_polygons(tmp_path, "far", 500)
    for scenes in ([one], [one, two]):
        with pytest.raises(BadInput, match="None of the .* polygons of .*far.geojson intersects one"):
            open_dataset([str(w.scene) for w in scenes], [str(far)], spec={"background": "other"})
    findings = check_data([one.scene, two.scene], [far], spec={"background": "other"})
    assert [f for f in findings if f.severity == "error"]


# ------------------------------------------------------------------------------------- options without effect


def test_rules_that_mean_nothing_to_the_labels_are_said(tmp_path):
    w = world.make(tmp_path, 64, 64)
    raster, polygons = (
        world.label_raster(w, tmp_path / "l.tif"),
        world.label_polygons(w, tmp_path / "l.geojson"),
    )

    def said(labels, **rules):
        with open_dataset([str(w.scene)], [str(labels)], spec=rules) as found:
            in_training = [line for line in found.report if "no effect" in line]
        in_check = check_data([w.scene], [labels], spec=LabelRules(**rules))
        assert [f.text for f in in_check if f.kind == "options"] == [f"{line}." for line in in_training]
        return in_training

    assert said(raster, background="other", class_column="kind", layer="x") == [
        f"`{name}` has no effect: it is for polygons, and the labels are label rasters"
        for name in ("class_column", "layer", "background")
    ]
    assert said(polygons, ignore_values=(0,), threshold=3) == [
        f"`{name}` has no effect: it is for label rasters, and the labels are polygons"
        for name in ("ignore_values", "threshold")
    ]
    assert said(raster, ignore_values=(0,)) == said(polygons, background="other") == []
