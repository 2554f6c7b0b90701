"""Folders of pairs: no file is lost to another of its name, and parts that a folder says itself are kept."""

import json

import numpy as np
import pytest
import world

from labelscape.datasets.own import open_dataset
from labelscape.datasets.pairs import find_pairs, pairs_of_folder, parts_given
from labelscape.errors import BadInput
from labelscape.labels.rules import LabelRules

HALVES = {"train": 0.5, "test": 0.5}


def pair(folder, image, label, seed):
    for name in (image, label):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    classes = world.paint(40, 50, seed=seed)
    world.write(folder / image, world.spectra(classes, 3, "uint8", seed=seed), crs=None, driver="PNG")
    world.write(folder / label, classes, crs=None, driver="PNG")


def test_files_of_one_name_in_several_folders_are_all_there(tmp_path):
    for i, place in enumerate(("rural", "urban")):
        pair(tmp_path, f"images/{place}/0.png", f"labels/{place}/0_mask.png", i)
    images, labels = find_pairs([tmp_path])
    assert [f.parent.name for f in images] == [f.parent.name for f in labels] == ["rural", "urban"]


def test_a_name_that_two_files_have_is_refused_where_folders_do_not_tell(tmp_path):
    pair(tmp_path, "images/rural/0.png", "labels/0.png", 0)
    pair(tmp_path, "images/urban/0.png", "labels/1.png", 1)
    with pytest.raises(BadInput, match="have the same name, so their pair is ambiguous"):
        find_pairs([tmp_path])


@pytest.mark.parametrize("layout", ["sides first", "parts first", "lists"])
def test_parts_that_the_folder_says_are_kept(tmp_path, layout):
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    for part, names in parts.items():
        for name in names:
            image, label = {
                "sides first": (f"images/{part}/{name}.png", f"labels/{part}/{name}.png"),
                "parts first": (f"{part}/img/{name}.png", f"{part}/gt/{name}.png"),
                "lists": (f"images/{name}.png", f"labels/{name}.png"),
            }[layout]
            pair(tmp_path, image, label, ord(name))
        if layout == "lists":
            (tmp_path / f"{part}.txt").write_text("".join(f"{name}.png\n" for name in names))
    if layout == "lists":
        pair(tmp_path, "images/e.png", "labels/e.png", 5)
    with open_dataset([tmp_path], shares=HALVES) as dataset:
        assert {part: [s.name for s in dataset.part(part)] for part in parts} == parts
        assert f"2 train, 1 val, 1 test{', 1 left out' if layout == 'lists' else ''}" in dataset.report[-1]
    with open_dataset([tmp_path], shares=HALVES, split="random") as dataset:
        assert "val" not in dataset.part_of
    with open_dataset([tmp_path]) as dataset:
        assert set(dataset.part_of) == {None}


def test_a_folder_with_a_training_part_alone_is_split(tmp_path):
    for i in range(4):
        pair(tmp_path, f"images/train/{i}.png", f"labels/train/{i}.png", i)
    with open_dataset([tmp_path], shares=HALVES) as dataset:
        assert sorted(dataset.part_of) == ["test", "test", "train", "train"]


def names(folder, images, labels):
    """Empty files below images/ and labels/: pairing reads names only."""
    for side, files in (("images", images), ("labels", labels)):
        for name in files:
            (folder / side / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / side / name).touch()
    return folder


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("X.tif", "X.mask.tif"),
        ("X.tif", "X_label_greyscale_mask.jpg"),
        ("X.tif", "X_gt.png"),
        ("image_X.tif", "label_X.tif"),
        ("X_rgb.tif", "X.tif"),
        ("aerial_photo_X.tif", "aerial_classes_X.tif"),
        ("top_X_area.tif", "gt-X.png"),
        ("forest/X.tif", "forest/X_classes.tif"),
        ("img/X.tif", "gt/X_classes.tif"),
        ("X/photo.tif", "X/classes.tif"),
        ("a/X.tif", "X_classes.tif"),
        ("\u00e9t\u00e9_X.tif", "e\u0301te\u0301_X_classes.tif"),
    ],
)
@pytest.mark.parametrize("ids", [("1", "2", "10", "11"), ("a", "ab", "b", "ba"), ("t_07",)])
def test_one_constant_difference_of_names_pairs_all(tmp_path, image, label, ids):
    both = [image.replace("X", x) for x in ids], [label.replace("X", x) for x in ids]
    if len(ids) == 1 and image.split("/")[-1] not in ("X.tif", "X_rgb.tif"):
        pytest.skip("a single pair has a constant difference whatever its names are")
    names(tmp_path, *both)
    (tmp_path / "labels" / "legend.png").touch()
    found = pairs_of_folder([tmp_path])
    pairs = {
        str(i.relative_to(tmp_path / "images")): str(j.relative_to(tmp_path / "labels"))
        for i, j in zip(found.images, found.labels)
    }
    assert pairs == dict(zip(*both))
    if label != "X_gt.png":  # an ending that is known
        assert "paired by names that differ in one way" in found.report[0]
        assert "1 label file without an image" in found.report[0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["1.tif", "2.tif"], ["1_a.tif", "2_a.tif", "1_b.tif", "2_b.tif"], "in 2 ways: 1.tif with 1_a.tif"),
        (["1.tif", "2.tif"], ["a_1.tif", "a_2.tif", "1_b.tif", "2_b.tif"], "in 2 ways"),
        (["1.tif", "2.tif", "3.tif"], ["1_a.tif", "2_a.tif"], "no label file of the same name"),
        (["1.tif", "2.tif", "3.tif"], ["1_a.tif", "2_a.tif", "3_b.tif"], "no label file of the same name"),
        (["1.tif", "2.tif"], ["1.tif", "2_a.tif"], "2.tif has no label file.*1 such"),
        (["a.tif"], ["zebra.tif", "b.tif"], "no label file of the same name"),
        (["scene.tif"], ["truth.tif"], "no label file of the same name"),
    ],
)
def test_names_that_leave_the_pairs_open_are_refused(tmp_path, images, labels, message):
    with pytest.raises(BadInput, match=message):
        find_pairs([names(tmp_path, images, labels)])


def test_hidden_files_and_folders_are_no_pairs(tmp_path):
    names(
        tmp_path,
        ["1.png", "2.png", "._1.png", ".DS_Store", ".ipynb_checkpoints/1.png", "__MACOSX/3.png"],
        ["1.png", "2.png", "._1.png", "._2.png", "__MACOSX/._1.png"],
    )
    images, labels = find_pairs([tmp_path])
    assert [f.name for f in images] == [f.name for f in labels] == ["1.png", "2.png"]


LISTS = {
    "plain": ("t0\nt1\nt2\nt3\n", "t4\n", "t5\n"),
    "suffixes and blank lines": ("t0.png\nt1.tif\n\n t2\nt3\n", "t4.PNG\n", "t5.png   \r\n"),
    "byte-order marks": ("\ufefft0\r\nt1\r\nt2\r\nt3\r\n", "\ufeffimages\\t4.png\r\n", "t5"),
    "old mac": ("t0\rt1\rt2\rt3", "t4", "t5"),
    "tabs and classes": ("t0.png\tforest\t3\nt1.png\tx\nt2.png\tx\nt3.png\t", "t4\t1", "t5\t1"),
    "pairs": ("images/t0.png labels/t0.png\nimages/t1.png labels/t1.png\nt2 t2\nt3", "./t4.png t4", "t5 1"),
    "tables": ("filename,class\nt0.png,1\nt1.png,2\n't2.png',3\n\"t3.png\",1", "image\nt4", "# note\nt5"),
    "absolute": (
        "/data/x/images/t0.png\nC:\\x\\images\\t1.png\nt2\nt3",
        "labels\\t4.png",
        "..\\images\\t5.png",
    ),
    "endings": ("t0_mask.png\nt1_label\nt2\nt3", "t4_gt.png", "t5_img"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_in_any_form_give_the_split(tmp_path, kind, encoding):
    names(tmp_path, *2 * [[f"t{i}.png" for i in range(6)]])
    for name, text in zip(("train.txt", "Val.txt", "testing.txt"), LISTS[kind]):
        (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "._train.txt").write_bytes(b"\0\5\x16\7")
    given = parts_given(tmp_path, find_pairs([tmp_path])[0])
    assert given.part_of == ("train",) * 4 + ("val", "test")


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("t0\nt9\nt1\n", "t2", r"train.txt lists 1 name that no image has: 't9'"),
        ("t0\nt1", "t1\nt2", r"'t1' is in .*train.txt and in .*val.txt"),
        ("t0\nt1", "", "give no split: no image is in val.txt or test.txt"),
        ("", "t0\nt1", "give no split: no image is in train.txt"),
        ("filename\nt0", "t1\nfilename", "val.txt lists 1 name that no image has: 'filename'"),
        ("b/t0", "t1", "train.txt lists 1 name that no image has: 'b/t0'"),
    ],
)
def test_lists_that_cannot_be_followed_are_refused(tmp_path, train, val, message):
    place = "a/" if "b/" in train else ""
    names(tmp_path, *2 * [[f"{place}t{i}.png" for i in range(3)]])
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "val.txt").write_text(val)
    with pytest.raises(BadInput, match=message):
        parts_given(tmp_path, find_pairs([tmp_path])[0])


def test_lists_name_folders_where_names_repeat(tmp_path):
    names(tmp_path, *2 * [["a/my tile 1.png", "b/my tile 1.png", "b/2.png"]])
    (tmp_path / "train.txt").write_text("images/a/my tile 1.png\n2\n")
    (tmp_path / "test.txt").write_text("b\\my tile 1\n")
    images = find_pairs([tmp_path])[0]
    assert parts_given(tmp_path, images).part_of == ("train", "train", "test")
    (tmp_path / "test.txt").write_text("my tile 1\n")
    with pytest.raises(BadInput, match="'my tile 1' in .*test.txt may be a/my tile 1 or b/my tile 1"):
        parts_given(tmp_path, images)


def test_greys_of_a_smoothed_mask_are_no_classes(tmp_path, run_cli):
    pair(tmp_path, "images/a.png", "labels/a.png", 0)
    soft = np.where(world.paint(40, 50) == 1, 255, 0).astype(np.uint8)
    soft[::9, ::9] = np.arange(30, dtype=np.uint8).reshape(5, 6) + 100
    soft[1::9, 1::9] = 240
    world.write(tmp_path / "labels" / "a.png", soft, crs=None, driver="PNG")
    with pytest.raises(BadInput, match="grey values.*`threshold=128`, `classes={'other': 0, 'road': 1}`"):
        open_dataset([tmp_path])
    with open_dataset([tmp_path], spec=LabelRules(threshold=128)) as dataset:
        assert dataset.class_counts().tolist() == [int((soft < 128).sum()), int((soft >= 128).sum())]
    code, out, _ = run_cli("data", "check", tmp_path)
    assert code == 1
    assert "--threshold 128" in out
    code, out, _ = run_cli(
        "data", "check", tmp_path, "--threshold", "128", "--classes", "other=0,road=1", "--json"
    )
    assert code == 0, out
    assert any("2 classes, 2,000 labelled pixels" in f["text"] for f in json.loads(out)["findings"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "lst"])
def test_lists_with_other_endings_give_the_split(tmp_path, ending):
    names(tmp_path, *2 * [["#1.png", "t1.png", "t2.png"]])
    (tmp_path / f"train.{ending}").write_text(
        "image,label\nimages/#1.png,labels/#1.png\n#t2 is blurred\nt1,t1"
    )
    (tmp_path / f"test.{ending}").write_text("image,label\nimages/t2.png,labels/t2.png")
    assert parts_given(tmp_path, find_pairs([tmp_path])[0]).part_of == ("train", "train", "test")


UNREAD = ["split.json", "train_list.txt", "splits/val.csv", "ImageSets/Main/trainval.txt"]


@pytest.mark.parametrize("file", UNREAD)
def test_a_split_that_is_not_read_is_named(tmp_path, run_cli, file):
    for i in range(3):
        pair(tmp_path, f"images/t{i}.png", f"labels/t{i}.png", i)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("t0")
    (tmp_path / "requirements-testing1.txt").write_text("")
    expected = f"{file} in {tmp_path} may hold a split and is not read: lists are train.txt"
    with open_dataset([tmp_path], shares=HALVES) as data:
        assert [line for line in data.report if line.startswith(expected)]
    assert expected[:40] in run_cli("data", "check", tmp_path)[1].replace("\n", " ")
    with open_dataset([tmp_path], shares=HALVES, split="random") as data:  # asked for, and nothing to say
        assert not [line for line in data.report if "may hold a split" in line]


def test_folders_in_capitals_and_links_that_lead_back(tmp_path):
    names(tmp_path, *2 * [["a/1.png", "a/2.png"]])
    (tmp_path / "images").rename(tmp_path / "Images")
    (tmp_path / "labels").rename(tmp_path / "MASKS")
    (tmp_path / "Images" / "a" / "back").symlink_to(tmp_path / "Images", target_is_directory=True)
    (tmp_path / "Images" / "own").symlink_to(".", target_is_directory=True)
    images, labels = find_pairs([tmp_path])
    assert images == [tmp_path / "Images" / "a" / f"{i}.png" for i in (1, 2)]
    assert labels == [tmp_path / "MASKS" / "a" / f"{i}.png" for i in (1, 2)]


def test_polygons_for_each_image(tmp_path):
    """As in data sets of building outlines: one polygon file beside each image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    painted = []
    for i in range(3):
        classes = world.paint(40, 50, seed=i)
        world.write(tmp_path / "images" / f"t.{i}.tif", world.spectra(classes, 3, "uint8", seed=i))
        drawn = world.World(tmp_path, classes, None, world.UTM, world.NORTH_UP)
        world.label_polygons(drawn, tmp_path / "labels" / f"t.{i}.geojson")
        painted.append(classes)
    (tmp_path / "train.txt").write_text("t.0.geojson\nt.1")
    (tmp_path / "test.txt").write_text("t.2.tif")
    with open_dataset([tmp_path], spec=LabelRules(class_column="kind"), shares=HALVES) as data:
        assert data.part_of == ("train", "train", "test")
        for scene, classes in zip(data.scenes, painted):
            named = np.array(world.LEGEND.names)[classes]
            np.testing.assert_array_equal(np.array(data.legend.names)[scene.labels.read()], named)


@pytest.mark.parametrize(("images", "labels"), [("imgs", "msks"), ("img", "msk"), ("IMGS", "Msk")])
def test_short_names_of_the_two_sides(tmp_path, images, labels):
    for i in range(2):
        pair(tmp_path, f"{images}/{i}.png", f"{labels}/{i}.png", i)
    found, masks = find_pairs([tmp_path])
    assert [str(f.relative_to(tmp_path)) for f in found] == [f"{images}/0.png", f"{images}/1.png"]
    assert [str(f.relative_to(tmp_path)) for f in masks] == [f"{labels}/0.png", f"{labels}/1.png"]


def test_labels_without_an_image_are_counted(tmp_path):
    for i, name in enumerate("ab"):
        pair(tmp_path, f"imgs/{name}.png", f"msk/{name}.png", i)
    assert pairs_of_folder([tmp_path]).report == ()
    for name in "cd":
        (tmp_path / "msk" / f"{name}.png").write_bytes((tmp_path / "msk" / "a.png").read_bytes())
    found = pairs_of_folder([tmp_path])
    assert [file.name for file in found.labels] == ["a.png", "b.png"]
    assert found.report == ("2 of the label files belong to no image, such as c.png",)
