import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from labelscape.datasets.doctor.check import check_data
from labelscape.datasets.own import open_dataset
from labelscape.datasets.split import PARTS, block_split
from labelscape.errors import BadInput, UnknownName, WrongType
from labelscape.grid import Window
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 8), columns=st.integers(2, 8), seed=st.integers(0, 99), share=st.floats(0.1, 0.5))
def test_every_labelled_block_has_one_part_and_shares_are_near(rows, columns, seed, share):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 100, (rows, columns, 3))
    counts[rng.random((rows, columns)) < 0.2] = 0
    counts[0, 0, 0], counts[0, 1, 1] = 5, 5  # at least two labelled blocks
    split = block_split(counts, 16, {"train": 1 - share, "test": share}, seed=seed)
    masks = [split.mask(Window(0, 0, rows * 16, columns * 16), part) for part in PARTS]
    np.testing.assert_array_equal(np.sum(masks, axis=0), 1)
    assert not masks[1].any()
    largest = (counts / np.maximum(counts.sum(axis=(0, 1)), 1)).max()
    held = counts[split.parts == 2].sum(axis=0) / np.maximum(counts.sum(axis=(0, 1)), 1)
    assert np.abs(held - share).mean() <= max(largest, 0.02)  # as near as single blocks allow
    again = block_split(counts, 16, {"train": 1 - share, "test": share}, seed=seed)
    np.testing.assert_array_equal(split.parts, again.parts)


def test_a_rare_class_lands_on_both_sides():
    counts = np.zeros((4, 4, 2), int)
    counts[..., 0] = 100
    counts[0, 0, 1] = counts[3, 3, 1] = 2
    split = block_split(counts, 8, {"train": 0.5, "test": 0.5}, seed=0)
    assert {int(split.parts[0, 0]), int(split.parts[3, 3])} == {0, 2}


def test_too_few_blocks_are_refused():
    with pytest.raises(BadInput, match="only 1 block of 64 pixels"):
        block_split(np.ones((1, 1, 2), int), 64, {"train": 0.5, "test": 0.5}, seed=0)


def test_parts_share_no_pixel_and_miss_none(tmp_path):
    w = world.make(tmp_path, 100, 130, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    with open_dataset([w.scene], [labels], block=32, shares={"train": 0.7, "test": 0.3}) as dataset:
        scene = dataset.scenes[0]
        whole = scene.scene.grid.window
        train, test = (scene.read(whole, part)[1] for part in ("train", "test"))
        assert not ((train != IGNORE) & (test != IGNORE)).any()
        both = np.where(train != IGNORE, train, test)
        both_valid = np.ones(w.classes.shape, bool)
        both_valid[:33, :43] = False
        np.testing.assert_array_equal(both, np.where(both_valid, w.classes, IGNORE))
        np.testing.assert_array_equal(
            dataset.class_counts("train") + dataset.class_counts("test"), np.bincount(w.classes.ravel())
        )


@pytest.mark.parametrize("sides", [("images", "labels"), ("img_dir", "ann_dir"), ("image", "gt")])
def test_a_folder_of_pairs(tmp_path, sides):
    for side in sides:
        (tmp_path / side).mkdir()
    for i in range(6):
        classes = (
            world.paint(40, 50, seed=i) if i else np.zeros((40, 50), np.uint8)
        )  # the first file knows one class only
        world.write(
            tmp_path / sides[0] / f"tile{i}.png", world.spectra(classes, 3, "uint8"), crs=None, driver="PNG"
        )
        world.write(tmp_path / sides[1] / f"tile{i}_mask.png", classes, crs=None, driver="PNG")
    with open_dataset([tmp_path], shares={"train": 0.5, "test": 0.5}) as dataset:
        assert len(dataset.scenes) == 6
        assert dataset.legend.values == [0, 1, 2]
        assert {p for p in dataset.part_of} == {"train", "test"}
        assert len(dataset.part("train")) + len(dataset.part("test")) == 6
        assert (dataset.class_counts("test") > 0).all()
    (tmp_path / sides[1] / "tile3_mask.png").unlink()
    with pytest.raises(BadInput, match=r"tile3.png has no label file of the same name"):
        open_dataset([tmp_path])


def test_what_does_not_belong_together_is_refused(tmp_path):
    a, b = world.make(tmp_path, name="a"), world.make(tmp_path, bands=4, name="b")
    la, lb = world.label_raster(a, tmp_path / "la.tif"), world.label_raster(b, tmp_path / "lb.tif")
    with pytest.raises(BadInput, match="All training scenes need the same bands"):
        open_dataset([a.scene, b.scene], [la, lb])
    with pytest.raises(BadInput, match="Labels are missing"):
        open_dataset([a.scene])
    with pytest.raises(BadInput, match="3 label files"):
        open_dataset([a.scene, b.scene], [la, lb, la])
    polygons = world.label_polygons(a, tmp_path / "p.gpkg")
    with open_dataset([a.scene], [polygons], spec=LabelRules(class_column="kind")) as dataset:
        assert dataset.report[0].startswith("field: ")
    # Counts are of one scene: of which, where there are several.
    with open_dataset([a.scene, a.scene], [polygons], spec=LabelRules(class_column="kind")) as dataset:
        first = dataset.report.index("of 2 scenes the first, a (data check tells of all):")
        assert dataset.report[first + 1].startswith("field: ")


def test_masks_of_0_and_255_are_not_taken_for_unlabelled(tmp_path):
    w = world.make(tmp_path, 64, 64)
    mask = world.write(tmp_path / "mask.tif", np.where(w.classes == 1, 255, 0).astype(np.uint8))
    with pytest.raises(BadInput, match="`classes={'other': 0, 'building': 255}`"):
        open_dataset([w.scene], [mask])
    with open_dataset(
        [w.scene],
        [mask],
        spec=LabelRules(legend=Legend.of_names(["other", "field"]), classes={"other": 0, "field": 255}),
    ) as dataset:
        np.testing.assert_array_equal(dataset.scenes[0].labels.read(), w.classes == 1)
    with open_dataset([w.scene], [mask], spec=LabelRules(ignore_values=(255,))) as dataset:
        assert dataset.legend.values == [0]


def test_scenes_of_several_crs_and_pixel_sizes_learn_together(tmp_path):
    """One in UTM at 10 m, one in Web Mercator, one at 5 m that is resampled to 10 m: labels follow each
    scene.
    """
    a = world.make(tmp_path, 64, 64, name="a")
    b = world.make(
        tmp_path,
        64,
        64,
        name="b",
        crs=CRS.from_epsg(3857),
        transform=Affine(15.9, 0, 1_600_000, 0, -15.9, 6_800_000),
        seed=1,
    )
    fine = world.make(tmp_path, 128, 128, name="fine", transform=world.NORTH_UP @ Affine.scale(0.5), seed=2)
    labels = [world.label_raster(w, tmp_path / f"{w.scene.stem}_labels.tif") for w in (a, b, fine)]
    with open_dataset([a.scene, b.scene, fine.scene], labels) as dataset:
        assert [s.scene.grid.shape for s in dataset.scenes] == [(64, 64)] * 3
        assert [line for line in dataset.report if "resampled" in line] == [
            "fine is resampled from 5 m to 10 m, the pixel size of the coarsest scene"
        ]
        patch, found = dataset.scenes[2].read(dataset.scenes[2].scene.grid.window)
        means = fine.pixels.reshape(3, 64, 2, 64, 2).mean(axis=(2, 4))
        assert np.abs(patch.pixels - means).max() <= 0.5
        agree = (found[:, :, None, None] == fine.classes.reshape(64, 2, 64, 2).transpose(0, 2, 1, 3)).any(
            axis=(2, 3)
        )
        assert agree.all()
        assert np.array_equal(dataset.scenes[0].scene.read().pixels, a.pixels)
    with open_dataset([a.scene], [labels[0]], pixel_size=20) as dataset:
        assert dataset.scenes[0].scene.grid.shape == (32, 32) and not any(
            "coarsest" in line for line in dataset.report
        )


def test_declared_scales_and_offsets_are_brought_together(tmp_path):
    """Sentinel-2 before and after baseline 04.00: the same ground, values 1000 higher, and both files say
    so.
    """
    old = world.make(tmp_path, 40, 40, name="old")
    new = world.write(
        tmp_path / "new.tif", old.pixels + 1000, transform=world.NORTH_UP @ Affine.translation(100, 0)
    )
    for path, offset in ((old.scene, 0.0), (new, -0.1)):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [0.0001] * 3, [offset] * 3
    labels = [world.label_raster(old, tmp_path / "labels.tif")]
    moved = world.write(
        tmp_path / "moved.tif", old.classes, transform=world.NORTH_UP @ Affine.translation(100, 0)
    )
    with open_dataset([old.scene, new], [*labels, moved]) as dataset:
        assert np.abs(dataset.scenes[1].scene.read().pixels - old.pixels).max() < 1e-2
        assert "new is converted to the scale and offset that old declares" in dataset.report


MERGED = LabelRules(merge={"land": ("class 4", "class 9"), "water": ("class 2",)})


def test_rasters_with_other_values_each_are_merged_together(tmp_path):
    """The first raster lacks what the second has; the classes are those of both."""
    a, b = world.make(tmp_path, 48, 64, name="a"), world.make(tmp_path, 48, 64, name="b", seed=1)
    labels = [
        world.label_raster(a, tmp_path / "la.tif", values=(2, 4, 4)),
        world.label_raster(b, tmp_path / "lb.tif", values=(7, 9, 9)),
    ]
    with open_dataset([a.scene, b.scene], labels, spec=MERGED) as dataset:
        assert dataset.legend == Legend.of_names(["land", "water"])
        np.testing.assert_array_equal(dataset.scenes[0].labels.read(), a.classes == 0)
        np.testing.assert_array_equal(dataset.scenes[1].labels.read(), np.where(b.classes == 0, IGNORE, 0))
    with pytest.raises(UnknownName, match="'class 9'"):
        open_dataset([a.scene, a.scene], [labels[0], labels[0]], spec=MERGED)


def test_polygons_and_rasters_are_merged_together(tmp_path):
    a, b = world.make(tmp_path, 48, 64, name="a"), world.make(tmp_path, 48, 64, name="b", seed=1)
    labels = [
        world.label_raster(a, tmp_path / "la.tif", values=(2, 4, 9)),
        world.label_polygons(b, tmp_path / "lb.gpkg", only=(0, 1)),
    ]
    merge = {"land": ("class 4", "class 9", "field"), "wet": ("class 2", "water")}
    with open_dataset([a.scene, b.scene], labels, spec=LabelRules(merge=merge)) as dataset:
        assert dataset.legend.names == ["land", "wet"]
        np.testing.assert_array_equal(dataset.scenes[0].labels.read(), a.classes == 0)
        expected = np.array([1, 0, IGNORE], np.uint8)[b.classes]
        np.testing.assert_array_equal(dataset.scenes[1].labels.read(), expected)
    with pytest.raises(BadInput, match="Name all classes with `classes`"):
        open_dataset([a.scene, b.scene], labels)


def test_a_folder_of_pairs_is_merged_over_all_its_files(tmp_path):
    for side in ("images", "labels"):
        (tmp_path / side).mkdir()
    painted = [world.paint(40, 50, seed=i) for i in range(4)]
    for i, classes in enumerate(painted):
        values = np.array([(2, 4, 4), (2, 9, 9)][i % 2], np.uint8)[classes]
        pixels = world.spectra(classes, 3, "uint8")
        world.write(tmp_path / "images" / f"{i}.png", pixels, crs=None, driver="PNG")
        world.write(tmp_path / "labels" / f"{i}.png", values, crs=None, driver="PNG")
    with open_dataset([tmp_path], spec=MERGED, shares={"train": 0.5, "test": 0.5}) as dataset:
        assert dataset.legend.names == ["land", "water"]
        for scene, classes in zip(dataset.scenes, painted):
            np.testing.assert_array_equal(scene.labels.read(), classes == 0)


def test_polygon_files_that_lack_a_class_each_learn_together(tmp_path):
    a, b = world.make(tmp_path, 48, 64, name="a"), world.make(tmp_path, 48, 64, name="b", seed=1)
    labels = [
        world.label_polygons(a, tmp_path / "la.gpkg", only=(0, 1)),
        world.label_polygons(b, tmp_path / "lb.gpkg", only=(1, 2)),
    ]
    with open_dataset([a.scene, b.scene], labels) as dataset:
        assert dataset.legend == Legend.of_names(["field", "forest", "water"])
        expected = np.array([2, 0, IGNORE], np.uint8)[a.classes]
        np.testing.assert_array_equal(dataset.scenes[0].labels.read(), expected)


def test_rules_of_labels_may_be_a_mapping(tmp_path):
    w = world.make(tmp_path)
    labels, rules = world.label_polygons(w, tmp_path / "l.gpkg", only=(0, 1)), {"background": "forest"}
    with (
        open_dataset([w.scene], [labels], spec=rules) as one,
        open_dataset([w.scene], [labels], spec=LabelRules(**rules)) as other,
    ):
        assert one.legend == other.legend and one.legend.names[0] == "forest"
    assert check_data([w.scene], [labels], spec=rules) == check_data(
        [w.scene], [labels], spec=LabelRules(**rules)
    )
    for opens in (open_dataset, check_data):
        with pytest.raises(UnknownName, match="'backgroud'. Did you mean 'background'"):
            opens([w.scene], [labels], spec={"backgroud": "forest"})
        with pytest.raises(WrongType, match="spec must be a LabelRules or a mapping of its settings; found"):
            opens([w.scene], [labels], spec="forest")


def test_misspelt_rules_are_answered_with_the_one_that_was_meant():
    with pytest.raises(
        UnknownName, match="No setting of LabelRules is called 'class_colum'. Did you mean 'class_column'"
    ):
        LabelRules(class_colum="kind")
    with pytest.raises(WrongType, match="takes its settings by name"):
        LabelRules("kind")
    rules = LabelRules(class_column="kind", ignore_values=(3,))
    assert rules == copy.deepcopy(rules) == replace(rules) == pickle.loads(pickle.dumps(rules))


def test_an_area_that_no_scene_touches_is_named(tmp_path):
    w = world.make(tmp_path, 64, 64)
    labels = world.write(tmp_path / "labels.tif", w.classes)
    far = replace(w, transform=w.transform @ Affine.translation(500, 0))
    area = world.rectangle(far, tmp_path / "far.geojson", 0, 0, 64, 64)
    with pytest.raises(
        BadInput, match=r"The area .*far.geojson lies outside scene: nothing would be labelled"
    ):
        open_dataset([w.scene], [labels], spec={"area": str(area)}, shares={"train": 0.5, "test": 0.5})
    near = world.rectangle(w, tmp_path / "near.geojson", 0, 0, 8, 16)
    other = world.write(tmp_path / "other.tif", w.pixels, transform=far.transform)
    # Of several scenes one in the area is enough; the others are unlabelled.
    beside = world.write(tmp_path / "beside.tif", w.classes, transform=far.transform)
    with open_dataset([other, w.scene], [beside, labels], spec={"area": str(near)}) as data:
        read = [(scene.labels.read() != IGNORE).sum() for scene in data.scenes]
        assert read == [0, 8 * 16]
