"""Street scenes and everyday pictures in their published layouts, and the tables of their classes."""

import json

import numpy as np
import pytest
import world

from labelscape.datasets.published import ade20k, cityscapes, pascal_context
from labelscape.datasets.published.catalog import find_published, open_published
from labelscape.datasets.published.predictions import as_published
from labelscape.errors import BadFile
from labelscape.legend import IGNORE

# id -> train id as the benchmark's own table has it, written down independently of the module's legend.
TRAIN_ID = {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
    27: 14,
    28: 15,
    31: 16,
    32: 17,
    33: 18,
}

# The values trainval_merged.json uses for the 59 classes and background; conversion (b) numbers them in
# ascending order.
JSON_IDS = (
    0,
    2,
    259,
    260,
    415,
    324,
    9,
    258,
    144,
    18,
    19,
    22,
    23,
    397,
    25,
    284,
    158,
    159,
    416,
    33,
    162,
    420,
    454,
    295,
    296,
    427,
    44,
    45,
    46,
    308,
    59,
    440,
    445,
    31,
    232,
    65,
    354,
    424,
    68,
    326,
    72,
    458,
    34,
    207,
    80,
    355,
    85,
    347,
    220,
    349,
    360,
    98,
    187,
    104,
    105,
    366,
    189,
    368,
    113,
    115,
)
# The published 59_labels.txt, as it spells them.
TEXT_59 = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor bag bed bench book "
    "building cabinet ceiling clothes computer cup door fence floor flower food grass ground keyboard light "
    "mountain mouse curtain platform sign plate road "
    "rock shelves sidewalk sky snow bedcloth track tree truck wall water window wood"
)
PUBLISHED_59 = TEXT_59.split()


# ------------------------------------------------------------------------------------------------- Cityscapes


def test_cityscapes_ids_become_train_ids_and_go_back(tmp_path):
    drawn = world.cityscapes(tmp_path)
    table = np.array([TRAIN_ID.get(i, IGNORE) for i in range(34)], np.uint8)
    with open_published("cityscapes", tmp_path) as dataset:
        parts = dict(zip(dataset.part_of, dataset.scenes))
        assert {part: s.name.split("_")[0] for part, s in parts.items()} == {
            "train": "aachen",
            "val": "lindau",
            "test": "berlin",
        }
        for part in ("train", "val"):
            np.testing.assert_array_equal(parts[part].labels.read(), table[drawn[parts[part].name]])
        assert (parts["test"].labels.read() == IGNORE).all()
        assert not dataset.class_counts("test").any()
        indices = parts["val"].labels.read()
        (sent,) = as_published(find_published("cityscapes", tmp_path), indices)
        scored = indices != IGNORE
        np.testing.assert_array_equal(sent[scored], drawn[parts["val"].name][scored])
        assert (sent[~scored] == 0).all() and sent.dtype == np.uint8
        np.testing.assert_array_equal(
            dataset.legend.decode(indices)[scored], sent[scored]
        )  # maps already hold label ids


def test_cityscapes_train_ids_where_only_these_are(tmp_path):
    drawn = world.cityscapes(tmp_path, train_ids=True)
    with open_published("cityscapes", tmp_path) as dataset:
        for scene in dataset.part("train") + dataset.part("val"):
            np.testing.assert_array_equal(scene.labels.read(), drawn[scene.name] % 19)
    with pytest.raises(BadFile, match=r"gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"):
        find_published("cityscapes", tmp_path, labels="ids")


def test_cityscapes_missing_labels_are_named(tmp_path):
    world.cityscapes(tmp_path)
    next(tmp_path.rglob("lindau*labelIds.png")).unlink()
    with pytest.raises(
        BadFile, match="1 label files not found: gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png"
    ):
        find_published("cityscapes", tmp_path)


def test_cityscapes_names_and_colours():
    assert cityscapes.LEGEND.names == [
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert dict(zip(cityscapes.LEGEND.values, range(19))) == TRAIN_ID
    assert tuple(cityscapes.LEGEND.colors[13]) == (0, 0, 142)


# --------------------------------------------------------------------------------------------- PASCAL Context


def test_context_classes_are_the_published_59_in_order():
    assert [pascal_context.RENAMED.get(name, name) for name in PUBLISHED_59] == list(pascal_context.NAMES)
    assert sorted(pascal_context.ID_459.values()) == sorted(JSON_IDS)[1:]
    alphabetical = sorted(pascal_context.NAMES)
    assert [pascal_context.ID_459[n] for n in alphabetical] == sorted(JSON_IDS)[
        1:
    ]  # the 459 are in alphabetical order


@pytest.mark.parametrize("classes", [59, 60])
def test_context_conversions_agree_class_by_class(tmp_path, classes):
    ids = np.array(sorted(JSON_IDS))
    drawn = world.pascal_context(tmp_path / "a", ids, mat=True)
    assert all(
        (drawn[n] == again).all() for n, again in world.pascal_context(tmp_path / "b", ids, mat=False).items()
    )
    name_of = {number: name for name, number in pascal_context.ID_459.items()} | {0: "background"}
    with (
        open_published(f"pascal-context-{classes}", tmp_path / "a") as a,
        open_published(f"pascal-context-{classes}", tmp_path / "b") as b,
    ):
        assert a.legend == b.legend and len(a.legend) == classes
        assert a.part_of == b.part_of == ("train", "val")
        for one, other in zip(a.scenes, b.scenes):
            read = one.labels.read()
            np.testing.assert_array_equal(read, other.labels.read())
            names = np.array([*a.legend.names] + [""] * (256 - classes))[read]
            expected = np.vectorize(name_of.get)(drawn[one.name])
            np.testing.assert_array_equal(
                names, np.where((expected == "background") & (classes == 59), "", expected)
            )


def test_context_takes_the_numbers_of_a_labels_txt(tmp_path):
    drawn = world.pascal_context(tmp_path, np.array(sorted(JSON_IDS)), mat=True)
    swapped = {
        **pascal_context.ID_459,
        "dog": pascal_context.ID_459["cat"],
        "cat": pascal_context.ID_459["dog"],
    }
    spelled = {"table": "dining table", "pottedplant": "potted plant"}
    (tmp_path / "trainval" / "labels.txt").write_text(
        "".join(f"{n}: {spelled.get(k, k)}\n" for k, n in swapped.items())
    )
    with open_published("pascal-context-59", tmp_path) as dataset:
        for scene in dataset.scenes:
            cats = scene.labels.read() == dataset.legend.index("cat")
            np.testing.assert_array_equal(cats, drawn[scene.name] == pascal_context.ID_459["dog"])
    (tmp_path / "trainval" / "labels.txt").write_text("1: accordion\n")
    with pytest.raises(BadFile, match="not the list of 459 classes"):
        find_published("pascal-context-59", tmp_path)


def test_context_says_what_is_missing(tmp_path):
    world.pascal_context(tmp_path, np.array(sorted(JSON_IDS)), mat=True)
    (tmp_path / "trainval" / "2008_000001.mat").write_bytes(
        b"no matlab file, though long enough to be looked at" * 9
    )
    with (
        open_published("pascal-context-60", tmp_path, part="val") as dataset,
        pytest.raises(BadFile, match=r"2008_000001.mat is not a label file"),
    ):
        dataset.class_counts()
    (tmp_path / "trainval" / "2008_000001.mat").unlink()
    with pytest.raises(BadFile, match="1 label files not found: trainval/2008_000001.mat"):
        find_published("pascal-context-60", tmp_path)
    (tmp_path / "trainval").rename(tmp_path / "gone")
    (tmp_path / "VOC2010" / "trainval_merged.json").write_text("{}")
    with pytest.raises(BadFile, match="has only trainval_merged.json"):
        find_published("pascal-context-60", tmp_path)


# ------------------------------------------------------------------------------------------ ADE20K and CamVid


def test_ade20k_zero_is_not_scored(tmp_path):
    base = tmp_path / "ADEChallengeData2016"
    sides = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    names = {"train": ["ADE_train_00000001", "ADE_train_00000002"], "val": ["ADE_val_00000001"]}
    drawn = world.pairs(base, sides, names, 150, suffix=".jpg")
    with open_published("ade20k", tmp_path) as dataset:
        assert dict(zip((s.name for s in dataset.scenes), dataset.part_of)) == {
            n: part for part, listed in names.items() for n in listed
        }
        for scene in dataset.scenes:
            values = drawn[scene.name].astype(int)
            np.testing.assert_array_equal(scene.labels.read(), np.where(values == 0, IGNORE, values - 1))
        counts = np.bincount(np.concatenate([drawn[n].ravel() for n in names["train"]]), minlength=151)[1:]
        np.testing.assert_array_equal(dataset.class_counts("train"), counts)
    (base / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(BadFile, match="annotations/training/ADE_train_00000002.png"):
        find_published("ade20k", tmp_path)


def test_ade20k_names_stand_where_the_challenge_has_them():
    names = dict(enumerate(ade20k.LEGEND.names, start=1))
    assert len(names) == 150
    known = {
        1: "wall",
        2: "building",
        13: "person",
        21: "car",
        22: "water",
        27: "sea",
        46: "counter",
        55: "runway",
        60: "stairway",
        76: "swivel chair",
        90: "television",
        100: "buffet",
        110: "swimming pool",
        117: "minibike",
        128: "bicycle",
        131: "screen",
        142: "crt screen",
        150: "flag",
    }
    assert {i: names[i] for i in known} == known
    assert ade20k.LEGEND.values == list(range(1, 151))


def test_camvid_void_is_not_labelled(tmp_path):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    names = {"train": ["0001TP_1", "0001TP_2"], "val": ["0016E5_1"], "test": ["Seq05VD_1"]}
    drawn = world.pairs(tmp_path / "CamVid", sides, names, 11)
    with open_published("camvid", tmp_path) as dataset:
        assert dataset.part_of == ("train", "train", "val", "test")
        for scene in dataset.scenes:
            np.testing.assert_array_equal(
                scene.labels.read(), np.where(drawn[scene.name] == 11, IGNORE, drawn[scene.name])
            )
    (tmp_path / "CamVid/testannot/Seq05VD_1.png").unlink()
    with pytest.raises(BadFile, match="testannot/Seq05VD_1.png"):
        find_published("camvid", tmp_path)


def test_lists_must_name_what_is_there(tmp_path):
    sides = {"train": ("images", "labels"), "test": ("images", "labels")}
    world.pairs(tmp_path, sides, {"train": ["water_1", "water_2"], "test": ["forest_1"]}, 4)
    (tmp_path / "train.txt").write_text("water_1\nwater_2\n\n")
    (tmp_path / "test.txt").write_text("forest_1\n")
    with open_published("gid-mtl5", tmp_path) as dataset:
        assert [(s.name, p) for s, p in zip(dataset.scenes, dataset.part_of)] == [
            ("water_1", "train"),
            ("water_2", "train"),
            ("forest_1", "test"),
        ]
    (tmp_path / "test.txt").write_text("forest_1\nforest_2\n")
    with pytest.raises(BadFile, match=r"1 images not found: .*forest_2"):
        find_published("gid-mtl5", tmp_path)
    (tmp_path / "test.txt").write_text("forest_1\n")
    (tmp_path / "classes.json").write_text(json.dumps([{"value": 0}]))
    with pytest.raises(BadFile, match=r"classes.json is not a valid list of classes"):
        find_published("prepared", tmp_path)
