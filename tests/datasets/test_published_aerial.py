"""The aerial sets in their published layouts: every class index is what was drawn, every tile in its part."""

import numpy as np
import pytest
import rasterio
import world

from labelscape.datasets.published.catalog import find_published, open_published
from labelscape.datasets.published.gid import grid_windows, split_gid
from labelscape.datasets.published.isprs import POTSDAM_SPLIT, VAIHINGEN_SPLIT
from labelscape.datasets.published.layout import seeded_parts
from labelscape.errors import BadFile, BadInput, BadOption, LabelscapeError, UnknownName
from labelscape.grid import Window
from labelscape.legend import IGNORE


def ignoring(drawn, index):
    """What was drawn, with one class not labelled."""
    return np.where(drawn == index, IGNORE, drawn)


def same_labels(dataset, drawn):
    for scene, expected in zip(dataset.scenes, drawn, strict=True):
        np.testing.assert_array_equal(scene.labels.read(), expected, err_msg=scene.name)


# -------------------------------------------------------------------------------------------------------- GID


@pytest.mark.parametrize(
    ("bands", "dtype", "folder", "names"),
    [
        (3, "uint8", "image_RGB", ("red", "green", "blue")),
        (4, "uint8", "image_NirRGB", ("nir", "red", "green", "blue")),
        (4, "uint16", "Image_16bit_BGRNir", ("blue", "green", "red", "nir")),
    ],
)
def test_gid_scenes_are_read_as_they_lie(tmp_path, bands, dtype, folder, names):
    drawn = world.gid_scenes(tmp_path, bands=bands, dtype=dtype, folder=folder)
    with open_published("gid-5", tmp_path) as dataset:
        assert dataset.bands == names
        assert dataset.legend.names == ["built-up", "farmland", "forest", "meadow", "water"]
        by_name = sorted(zip((s.name for s in dataset.scenes), dataset.scenes))
        assert len(by_name) == 5
        order = sorted(range(5), key=lambda i: f"GF2_PMS{1 + i % 2}__L1A00005645{i:02d}")
        same_labels(dataset, [ignoring(drawn[i], 5) for i in order])
        assert dataset.scenes[0].scene.dtype == dtype
        assert sorted(dataset.part_of) == ["test", "train", "train", "train", "train"]  # 120 to 30
        assert "No official list" in dataset.report[0]
        counts = sum(np.bincount(d.ravel(), minlength=6) for d in drawn)[:5]
        np.testing.assert_array_equal(dataset.class_counts(), counts)


def test_gid_with_both_kinds_prefers_rgb_and_answers_to_the_other(tmp_path):
    world.gid_scenes(tmp_path)
    world.gid_scenes(tmp_path, bands=4, folder="image_NirRGB")
    assert find_published("gid-5", tmp_path).bands == ("red", "green", "blue")
    assert find_published("gid-5", tmp_path, images="nirrgb").bands[0] == "nir"
    with pytest.raises(BadFile, match="no 16bit scenes"):
        find_published("gid-5", tmp_path, images="16bit")
    with pytest.raises(BadFile, match="GID not found"):
        find_published("gid-15", tmp_path)
    (
        tmp_path / "Large-scale Classification_5classes/label_5classes/GF2_PMS2__L1A0000564503-MSS2_label.tif"
    ).unlink()
    with pytest.raises(BadFile, match="1 label files not found: GF2_PMS2__L1A0000564503-MSS2_label.tif"):
        find_published("gid-5", tmp_path)


def test_packaged_gid_15_has_its_own_parts_and_numbers(tmp_path):
    drawn = {}
    for i, part in enumerate(("train", "val", "test")):
        world.picture(tmp_path / "GID" / "img_dir" / part / f"p{i}.tif", 9, 9, seed=i)
        drawn[f"p{i}"] = world.draw(16, 9, 9, seed=i)
        world.codes(tmp_path / "GID" / "ann_dir" / part / f"p{i}_15label.png", drawn[f"p{i}"])
    with open_published("gid-15", tmp_path) as dataset:
        assert dataset.part_of == ("train", "val", "test")
        same_labels(dataset, [np.where(d == 0, IGNORE, d - 1) for d in drawn.values()])
        assert dataset.report == ()
    with (
        open_published("gid-15", tmp_path, first_value=0) as dataset,
        pytest.raises(BadInput, match="values without a class: 15"),
    ):
        dataset.class_counts()


@pytest.mark.parametrize("published_colors", [True, False])
def test_gid_palettes_count_only_where_they_are_the_published_ones(tmp_path, published_colors):
    drawn = world.draw(6, 9, 9, seed=0)
    place = (
        {c: i for i, c in enumerate((3, 5, 0, 1, 4, 2))}
        if published_colors
        else {c: (c + 1) % 6 for c in range(6)}
    )
    world.picture(tmp_path / "img_dir/train/a.tif", 9, 9)
    (tmp_path / "ann_dir/train").mkdir(parents=True)
    with rasterio.open(
        tmp_path / "ann_dir/train/a.png", "w", driver="PNG", width=9, height=9, count=1, dtype="uint8"
    ) as file:
        colors = {v: (40 * v, 9, 9) for v in range(6)}
        if published_colors:
            colors = {place[c]: tuple(world.GID_COLORS[c].tolist()) for c in range(6)}
        file.write_colormap(1, colors)
        file.write(np.vectorize(place.get)(drawn).astype(np.uint8), 1)
    with open_published("gid-5", tmp_path) as dataset:
        same_labels(dataset, [ignoring(drawn, 5)])


def test_gid_split_is_120_and_30_and_does_not_change():
    names = [f"scene{i:03d}" for i in range(150)]
    parts = split_gid(reversed(names))
    assert sum(p == "train" for p in parts.values()) == 120
    assert parts == split_gid(names)
    assert parts != split_gid(names, seed=1)
    assert [n for n in names if parts[n] == "test"][:6] == [
        "scene000",
        "scene010",
        "scene016",
        "scene017",
        "scene019",
        "scene022",
    ]


def test_gid_grids_count_as_the_dossier_says():
    counted = {grid: grid_windows(6800, 7200, grid=grid) for grid in ("floor", "ceil", "188", "cut")}
    assert {grid: len(windows) for grid, windows in counted.items()} == {
        "floor": 182,
        "ceil": 210,
        "188": 188,
        "cut": 210,
    }
    for grid, windows in counted.items():
        seen = np.zeros((6800 // 16, 7200 // 16), int)
        for w in windows:
            assert w & Window(0, 0, 6800, 7200) == w
            assert grid == "cut" or w.shape == (512, 512)
            seen[w.top // 16 : w.bottom // 16, w.left // 16 : w.right // 16] += 1
        assert grid not in ("ceil", "cut") or seen.min() == 1
        assert grid not in ("floor", "cut") or seen.max() == 1
    assert {(w.top, w.left) for w in counted["188"]} - {(w.top, w.left) for w in counted["floor"]} == {
        (6288, 0),
        (6288, 1338),
        (6288, 2675),
        (6288, 4013),
        (6288, 5350),
        (6288, 6688),
    }
    assert len(set(grid_windows(7200, 6800, grid="188"))) == 188
    assert grid_windows(100, 700) == [Window(0, 0, 100, 512), Window(0, 188, 100, 512)]
    with pytest.raises(BadInput, match="needs scenes of 6800 x 7200"):
        grid_windows(5000, 5000, grid="188")
    with pytest.raises(UnknownName, match="'flor'.*'floor'"):
        grid_windows(9, 9, grid="flor")


# -------------------------------------------------------------------------------------------------- DeepGlobe


@pytest.mark.parametrize("mirror", [False, True])
def test_deepglobe_land_colours_are_cut_at_128(tmp_path, mirror):
    drawn = world.deepglobe_land(tmp_path, mirror=mirror)
    with open_published("deepglobe-land", tmp_path) as dataset:
        assert [s.name for s in dataset.scenes] == ["100", "101", "102", "103"]
        assert sorted(dataset.part_of) == ["test", "train", "train", "train"]
        same_labels(dataset, [ignoring(d, 6) for d in drawn])
    next(tmp_path.rglob("102_mask.png")).unlink()
    with pytest.raises(BadFile, match="102_mask.png"):
        find_published("deepglobe-land", tmp_path)


def test_deepglobe_sets_side_by_side_are_told_apart(tmp_path):
    world.deepglobe_land(tmp_path)
    world.picture(tmp_path / "road-train" / "100_sat.jpg", 16, 16)
    world.codes(tmp_path / "road-train" / "100_mask.png", world.draw(2, 16, 16, seed=0))
    assert [len(find_published(f"deepglobe-{kind}", tmp_path).pairs) for kind in ("land", "road")] == [4, 1]


@pytest.mark.parametrize("folder", ["deepglobe-{}/train", "DeepGlobe {} Dataset/train", "{}s"])
def test_each_deepglobe_task_takes_its_own_files_of_one_folder(tmp_path, folder):
    for kind, key in (("land", 1), ("road", 2)):
        world.picture(tmp_path / folder.format(kind) / f"{key}_sat.jpg", 16, 16)
        world.codes(tmp_path / folder.format(kind) / f"{key}_mask.png", world.draw(2, 16, 16, seed=0))
    found = {kind: find_published(f"deepglobe-{kind}", tmp_path).pairs for kind in ("land", "road")}
    assert {kind: [pair.name for pair in pairs] for kind, pairs in found.items()} == {
        "land": ["1"],
        "road": ["2"],
    }


def test_deepglobe_tasks_that_cannot_be_told_apart_are_refused(tmp_path):
    for folder, side in (("a", 24), ("b", 10)):
        world.picture(tmp_path / folder / f"{folder}_sat.jpg", side, side)
        world.codes(tmp_path / folder / f"{folder}_mask.png", world.draw(2, side, side, seed=0))
    for kind in ("land", "road"):
        with pytest.raises(BadFile, match=rf"of both tasks.*call its folder {kind}-train"):
            find_published(f"deepglobe-{kind}", tmp_path)


def test_deepglobe_road_masks_are_pictures_of_grey(tmp_path):
    drawn = world.draw(256, 16, 16, seed=0)
    world.picture(tmp_path / "train" / "7_sat.jpg", 16, 16)
    world.codes(tmp_path / "train" / "7_mask.png", np.repeat(drawn[..., None], 3, axis=2))
    with open_published("deepglobe-road", tmp_path) as dataset:
        same_labels(dataset, [drawn >= 128])


def test_seeded_parts_have_the_papers_counts():
    for ids, counts in ((803, {"train": 600, "test": 203}), (6226, {"train": 5000, "test": 1226})):
        parts = seeded_parts([str(i) for i in range(ids)], counts)
        assert {part: list(parts.values()).count(part) for part in counts} == counts


# ------------------------------------------------------------------------------------------------------ ISPRS


def test_vaihingen_full_and_eroded(tmp_path):
    drawn = world.vaihingen(tmp_path, (1, 3, 11, 2))
    with (
        open_published("vaihingen", tmp_path) as full,
        open_published("vaihingen-eroded", tmp_path) as eroded,
    ):
        assert [s.name for s in full.scenes] == ["vaihingen_1", "vaihingen_2", "vaihingen_3", "vaihingen_11"]
        assert full.part_of == eroded.part_of == ("train", "test", "train", "val")
        assert full.bands == ("nir", "red", "green", "ndsm")
        same_labels(full, [drawn[t] for t in (1, 2, 3, 11)])
        same_labels(eroded, [np.vstack([np.full((2, 14), IGNORE), drawn[t][2:]]) for t in (1, 2, 3, 11)])
        pixels = full.scenes[0].scene.read().pixels
        photo = np.random.default_rng(1).integers(1, 200, (3, 12, 14))
        np.testing.assert_array_equal(pixels[:3], photo)
        assert (
            np.abs(pixels[3].astype(int) - np.random.default_rng(1).integers(1, 200, (12, 14))).max() < 12
        )  # JPEG
        assert "13 of the 16 train and val tiles" in full.report[0]
    with open_published("vaihingen", tmp_path, bands=("red", "nir")) as dataset:
        np.testing.assert_array_equal(dataset.scenes[0].scene.read().pixels, photo[[1, 0]])
    with pytest.raises(UnknownName, match="'blue'"):
        find_published("vaihingen", tmp_path, bands=("blue",))
    (tmp_path / "ndsm/dsm_09cm_matching_area3_normalized.jpg").unlink()
    with pytest.raises(BadFile, match=r"tile 3\. .*Or use only bands=nir,red,green"):
        find_published("vaihingen", tmp_path)
    (tmp_path / "gts_for_participants/top_mosaic_09cm_area11.tif").unlink()
    with pytest.raises(BadFile, match="gts_for_participants/top_mosaic_09cm_area11.tif"):
        find_published("vaihingen", tmp_path, bands="nir,red,green")


def test_vaihingen_unpacked_archive_by_archive(tmp_path):
    drawn = world.vaihingen(tmp_path, by_archive=True)
    for name, rows in (("vaihingen", 0), ("vaihingen-eroded", 2)):
        with open_published(name, tmp_path, hold=True) as dataset:
            same_labels(
                dataset, [np.vstack([np.full((rows, 14), IGNORE), drawn[t][rows:]]) for t in (1, 3, 11)]
            )


def test_potsdam_with_the_faults_of_two_tiles(tmp_path):
    drawn, photos = world.potsdam(tmp_path)
    with open_published("potsdam", tmp_path) as dataset:
        assert [s.name for s in dataset.scenes] == [
            "potsdam_2_10",
            "potsdam_2_11",
            "potsdam_3_13",
            "potsdam_4_12",
        ]
        assert dataset.part_of == ("train", "val", "test", "train")
        same_labels(dataset, [drawn[t] for t in ("2_10", "2_11", "3_13", "4_12")])
        short = dataset.scenes[2].scene.read()
        np.testing.assert_array_equal(short.pixels[:3], photos["3_13"][[3, 0, 1]])
        # The column that the height model lacks was not measured.
        assert short.valid[:, :15].all() and not short.valid[:, 15].any()
        assert short.pixels.shape == (4, 16, 16)
    with pytest.raises(BadFile, match=r"eroded label files 5_Labels_for_participants_no_Boundary"):
        find_published("potsdam-eroded", tmp_path)


def test_isprs_parts_are_the_papers():
    assert {k: len(v) for k, v in VAIHINGEN_SPLIT.items()} == {"train": 11, "val": 5}
    assert {k: len(v) for k, v in POTSDAM_SPLIT.items()} == {"train": 17, "val": 7}
    rows = {f"{r}_{c}" for r in range(2, 6) for c in range(10, 13)} | {
        f"{r}_{c}" for r in (6, 7) for c in range(7, 13)
    }
    assert set(POTSDAM_SPLIT["train"]) | set(POTSDAM_SPLIT["val"]) == rows and len(rows) == 24


def test_isprs_patches_of_others_keep_our_parts(tmp_path):
    names = ["2_10_0_0_512_512", "7_10_0_512_512_1024", "3_13_0_0_512_512"]
    drawn = {}
    for i, name in enumerate(names):
        drawn[name] = world.draw(7, 9, 9, seed=i)
        world.picture(tmp_path / "img_dir" / "val" / f"{name}.png", 9, 9)
        world.codes(tmp_path / "ann_dir" / "val" / f"{name}.png", drawn[name])
    with open_published("potsdam-eroded", tmp_path) as dataset:
        assert dict(zip((s.name for s in dataset.scenes), dataset.part_of)) == dict(
            zip(names, ("train", "val", "test"))
        )
        same_labels(dataset, [np.where(drawn[n] == 0, IGNORE, drawn[n] - 1) for n in sorted(names)])
        assert dataset.bands == ("red", "green", "blue")
        whole = dataset.scenes[0].scene.read().pixels
    with open_published("potsdam-eroded", tmp_path, bands=("blue", "red")) as dataset:
        np.testing.assert_array_equal(dataset.scenes[0].scene.read().pixels, whole[[2, 0]])
    with pytest.raises(UnknownName, match="'ndsm'"):
        find_published("potsdam-eroded", tmp_path, bands=("red", "ndsm"))
    with pytest.raises(BadOption, match="eroded labels, 0 on boundaries. Read them as potsdam-eroded"):
        find_published("potsdam", tmp_path)


# ------------------------------------------------------------------------------------------- Inria and LoveDA


def test_inria_holds_out_tiles_1_to_5_of_each_city(tmp_path):
    drawn = {}
    for name in ("austin5", "austin6", "tyrol-w1", "vienna36", "chicago15"):
        world.picture(tmp_path / "AerialImageDataset/train/images" / f"{name}.tif", 8, 8)
        drawn[name] = world.draw(2, 8, 8, seed=len(drawn))
        world.codes(tmp_path / "AerialImageDataset/train/gt" / f"{name}.tif", drawn[name] * np.uint8(255))
    world.picture(tmp_path / "AerialImageDataset/test/images/bellingham1.tif", 8, 8)
    with open_published("inria", tmp_path) as dataset:
        parts = dict(zip((s.name for s in dataset.scenes), dataset.part_of))
        assert parts == {
            "austin5": "val",
            "austin6": "train",
            "tyrol-w1": "val",
            "vienna36": "train",
            "chicago15": "train",
        }
        same_labels(dataset, [drawn[n] for n in sorted(drawn)])
    with open_published("inria", tmp_path, part="val") as dataset:
        assert [s.name for s in dataset.scenes] == ["austin5", "tyrol-w1"]
    (tmp_path / "AerialImageDataset/train/images/austin6.tif").unlink()
    with pytest.raises(BadFile, match=r"images of these label files not found: .*austin6.tif"):
        find_published("inria", tmp_path)


def test_loveda_tells_equal_numbers_apart(tmp_path):
    drawn = []
    for i, (part, place) in enumerate((("Train", "Rural"), ("Train", "Urban"), ("Val", "Urban"))):
        world.picture(tmp_path / part / place / "images_png" / "0.png", 8, 8)
        drawn.append(world.draw(8, 8, 8, seed=i))
        world.codes(tmp_path / part / place / "masks_png" / "0.png", drawn[-1])
    with open_published("loveda", tmp_path) as dataset:
        assert [s.name for s in dataset.scenes] == ["Train_Rural_0", "Train_Urban_0", "Val_Urban_0"]
        assert dataset.part_of == ("train", "train", "val")
        same_labels(dataset, [np.where(d == 0, IGNORE, d - 1) for d in drawn])


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "name",
    [
        "gid-5",
        "gid-mtl5",
        "deepglobe-land",
        "deepglobe-road",
        "vaihingen",
        "potsdam",
        "inria",
        "loveda",
        "cityscapes",
        "pascal-context-59",
        "ade20k",
        "camvid",
        "prepared",
    ],
)
def test_an_empty_folder_is_answered_with_where_to_get_it(tmp_path, name):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            BadFile,
            match=(
                r"not found: .*\nLooked for: .*\nDownload: .*, from .*\nUnpack it so that it looks like\n   "
                r" \S"
            ),
        ) as error:
            find_published(name, root)
        assert ("does not exist" in str(error.value)) == (root != tmp_path)


def test_wrong_names_and_options_are_refused(tmp_path):
    world.gid_scenes(tmp_path, 2)
    for error, name, options, text in (
        (UnknownName, "gid5", {}, "Did you mean 'gid-5'"),
        (BadOption, "gid-5", {"sed": 1}, "no option 'sed'; it has images, bands, seed"),
        (BadOption, "gid-5", {"seed": "x"}, "must have the same type as its default, 0"),
        (UnknownName, "gid-5", {"images": "RGBN"}, "kind of GID images"),
    ):
        with pytest.raises(error, match=text):
            find_published(name, tmp_path, **options)
    with pytest.raises(LabelscapeError, match="no images in the val split; it has train"):
        open_published("gid-5", tmp_path, part="val")
