"""`labelscape data`: list, describe, prepare, split - on tiny sets and, where they are, on real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import world

from labelscape.datasets.own import open_dataset
from labelscape.datasets.published import ade20k
from labelscape.datasets.published.catalog import PUBLISHED, SUMMARY, find_published, open_published
from labelscape.datasets.published.prepare import write_patches
from labelscape.legend import IGNORE
from labelscape.scenes.raster import FileScene

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(folder: str) -> Path:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"the real data {folder} are not here")
    return SHARED / folder


def test_list_names_every_set_and_its_options(run_cli):
    code, out, _ = run_cli("data", "list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(PUBLISHED) == list(SUMMARY)
    rows = {row["name"]: row["options"] for row in json.loads(run_cli("data", "list", "--json")[1])}
    assert rows["potsdam-eroded"] == {"bands": None}
    assert rows["gid-15"] == {"images": "auto", "bands": None, "seed": 0, "first_value": 1}


def test_describe_counts_what_was_drawn(tmp_path, run_cli):
    drawn, _ = world.potsdam(tmp_path)
    code, out, err = run_cli("data", "describe", "potsdam", tmp_path, "--json")
    told = json.loads(out)
    assert code == 0 and "counting: 4 images" in err
    parts = {p["part"]: p for p in told["parts"]}
    expected = np.bincount(np.concatenate([drawn["2_10"], drawn["4_12"]]).ravel(), minlength=6)
    assert [c["pixels"] for c in parts["train"]["classes"].values()] == expected.tolist()
    assert [c["share"] for c in parts["train"]["classes"].values()] == pytest.approx(expected / 512)
    assert (
        parts["train"]["sizes"] == {"16 x 16": 2}
        and parts["train"]["pixels"] == 512
        and parts["train"]["unlabelled"] == 0
    )
    assert parts["val"]["images"] == parts["test"]["images"] == 1
    assert parts["val"]["bands"] == ["nir", "red", "green", "ndsm"] and parts["val"]["dtypes"] == ["uint8"]
    text = run_cli("data", "describe", "potsdam", tmp_path)[1]
    assert "21 of the 24 train and val tiles are missing" in text
    assert next(line.split()[-2] for line in text.splitlines() if line.strip().startswith("car ")) == str(
        expected[4]
    )


def test_describe_with_a_limit_looks_at_so_many_of_each_part(tmp_path, run_cli):
    drawn = world.deepglobe_land(tmp_path, 8)
    told = json.loads(run_cli("data", "describe", "deepglobe-land", tmp_path, "--limit", 2, "--json")[1])
    train = next(p for p in told["parts"] if p["part"] == "train")
    names = [p.name for p in find_published("deepglobe-land", tmp_path).part("train")]
    assert (train["images"], train["looked_at"]) == (6, 2)
    seen = np.concatenate([drawn[int(names[0]) - 100], drawn[int(names[-1]) - 100]])
    assert train["unlabelled"] == (seen == 6).sum() and train["pixels"] == 512


def test_prepare_cuts_every_pixel_and_place_of_a_scene(tmp_path, run_cli):
    drawn, photos = world.potsdam(tmp_path / "in", ("2_10", "2_11"))
    out = tmp_path / "out"
    code, said, err = run_cli(
        "data",
        "prepare",
        "potsdam",
        tmp_path / "in",
        "--out",
        out,
        "--size",
        6,
        "-o",
        "bands=nir,red,green,blue",
    )
    assert (code, said) == (0, f"{out}: 9 train patches, 9 val patches\n")
    assert "data describe prepared" in err
    with rasterio.open(out / "images" / "potsdam_2_11_00006_00010.tif") as file:
        np.testing.assert_array_equal(file.read(), photos["2_11"][[3, 0, 1, 2], 6:12, 10:16])
        assert file.crs == world.UTM and file.transform == world.NORTH_UP @ rasterio.Affine.translation(10, 6)
        assert file.descriptions == ("nir", "red", "green", "blue")
    with rasterio.open(out / "labels" / "potsdam_2_11_00006_00010.tif") as file:
        np.testing.assert_array_equal(file.read(1), drawn["2_11"][6:12, 10:16])
        assert file.colormap(1)[4][:3] == (255, 255, 0) and file.nodata == IGNORE
    with open_published("prepared", out) as dataset:
        assert dataset.bands == ("nir", "red", "green", "blue") and dataset.legend.names[1] == "building"
        starts = (0, 6, 10)  # the last patch is moved inwards
        expected = sum(
            np.bincount(drawn["2_10"][y : y + 6, x : x + 6].ravel(), minlength=6)
            for y in starts
            for x in starts
        )
        np.testing.assert_array_equal(dataset.class_counts("train"), expected)
    with open_dataset([out]) as own:  # and it is a folder of pairs
        assert len(own.scenes) == 18 and own.legend.values == [0, 1, 2, 3, 4, 5]
    code, _, err = run_cli("data", "prepare", "potsdam", tmp_path / "in", "--out", out)
    assert code == 1 and "is not empty; choose another folder, or pass --overwrite" in err


def test_prepared_gid_is_cut_without_overlap_and_keeps_nothing_of_the_edge(tmp_path):
    drawn = world.gid_scenes(tmp_path / "in", 3, bands=4, dtype="uint16", folder="image_NirRGB_16bit")
    found = find_published("gid-5", tmp_path / "in")
    ticks = []
    patches = write_patches(found, tmp_path / "out", size=8, tick=lambda: ticks.append(1))
    assert patches == {"train": 2 * 6, "test": 6} and len(ticks) == 3  # 2 x 3 of 20 x 30
    with open_published("prepared", tmp_path / "out") as dataset:
        inner = sum(np.bincount(d[:16, :24].ravel(), minlength=6) for d in drawn)
        np.testing.assert_array_equal(dataset.class_counts(), inner[:5])
        assert dataset.scenes[0].scene.dtype == np.uint16 and dataset.bands == found.bands
    one = next(p for p in found.pairs if p.name.endswith("00-MSS1"))
    with (
        rasterio.open(one.image) as whole,
        rasterio.open(tmp_path / "out/images" / f"{one.name}_00008_00016.tif") as patch,
    ):
        np.testing.assert_array_equal(patch.read(), whole.read()[:, 8:16, 16:24])


def test_prepare_never_reads_a_whole_tile(tmp_path, monkeypatch):
    world.gid_scenes(tmp_path / "in", 2)
    windows, read = [], FileScene.read
    monkeypatch.setattr(
        FileScene,
        "read",
        lambda self, window=None, bands=None: windows.append(window) or read(self, window, bands),
    )
    write_patches(find_published("gid-5", tmp_path / "in"), tmp_path / "out", size=4)
    assert {w.shape for w in windows} == {(4, 30)}


def test_plain_photographs_become_png_and_unlabelled_stays_255(tmp_path):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    drawn = world.pairs(tmp_path / "in", sides, {"train": ["a"], "val": ["b"], "test": ["c"]}, 11)
    write_patches(find_published("camvid", tmp_path / "in"), tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out/labels").iterdir()) == [
        "a.png",
        "b.png",
        "c.png",
    ]  # smaller than a patch: whole
    with rasterio.open(tmp_path / "out/labels/b.png") as file:
        np.testing.assert_array_equal(file.read(1), np.where(drawn["b"] == 11, 255, drawn["b"]))
    with (
        rasterio.open(tmp_path / "out/images/b.png") as out,
        rasterio.open(tmp_path / "in/val/b.png") as there,
    ):
        np.testing.assert_array_equal(out.read(), there.read())


def test_split_prints_and_writes_the_lists(tmp_path, run_cli):
    world.vaihingen(tmp_path)
    code, out, _ = run_cli("data", "split", "vaihingen", tmp_path)
    assert (code, out) == (0, "train\tvaihingen_1\ntrain\tvaihingen_3\nval\tvaihingen_11\n")
    code, out, err = run_cli("data", "split", "vaihingen", tmp_path, "--out", tmp_path / "lists", "--json")
    assert json.loads(out) == {"train": ["vaihingen_1", "vaihingen_3"], "val": ["vaihingen_11"]}
    assert (tmp_path / "lists/train.txt").read_text() == "vaihingen_1\nvaihingen_3\n" and "val.txt: 1" in err
    code, _, err = run_cli("data", "split", "vaihingen", tmp_path, "--out", tmp_path / "lists")
    assert code == 1 and "pass --overwrite" in err


def test_mistakes_get_one_answer_and_no_traceback(tmp_path, run_cli):
    for argv, code, text in (
        (("describe", "camvd", tmp_path), 2, "Did you mean 'camvid'?"),
        (("describe", "camvid", tmp_path / "no"), 1, "does not exist"),
        (("split", "inria", tmp_path, "-o", "seed=1"), 2, "has no option 'seed'; it has none"),
        (("prepare", "ade20k", tmp_path, "--out", tmp_path / "o"), 1, "ADEChallengeData2016.zip"),
    ):
        ended, out, err = run_cli("data", *argv)
        assert (ended, out) == (code, "") and text in err and "Traceback" not in err


# -------------------------------------------------------------------------------------------------- real data


def test_real_gid_patches_have_the_known_counts_and_shares():
    with open_published("gid-mtl5", real("gid-mtl5")) as dataset:
        assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [905, 163, 323]
        counts = dataset.class_counts()
        pixels = sum(s.scene.grid.window.pixels for s in dataset.scenes)
        np.testing.assert_allclose(1000 * counts / counts.sum(), [197, 283, 122, 62, 336], atol=0.8)
        assert counts.sum() / pixels == pytest.approx(1 - 0.156, abs=0.001)


def test_real_camvid_is_the_segnet_split():
    with open_published("camvid", real("camvid")) as dataset:
        assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [367, 101, 233]
        scene = dataset.part("train")[0]
        with rasterio.open(real("camvid") / "trainannot" / f"{scene.name}.png") as file:
            raw = file.read(1)
        assert (
            scene.read(scene.scene.grid.window)[1] == np.where(raw == 11, IGNORE, raw)
        ).all() and raw.max() == 11


def test_real_masks_of_roads_and_buildings():
    for name, folder, count, pattern in (
        ("deepglobe-road", "deepglobe-road", 4, "*_mask.png"),
        ("inria", "inria-patches", 42, "gt/*.tif"),
    ):
        files = sorted(real(folder).rglob(pattern))
        white = 0
        for file in files:
            with rasterio.open(file) as raster:
                white += int((raster.read(1) == 255).sum())
        with open_published(name, real(folder)) as dataset:
            assert len(dataset.scenes) == count == len(files)
            assert dataset.class_counts()[1] == white


def test_real_cityscapes_ids_are_the_published_train_ids():
    root = real("samples/cityscapes")
    with (
        open_published("cityscapes", root) as ids,
        open_published("cityscapes", root, labels="train-ids") as train_ids,
    ):
        # The two files of the sample were made smaller each on its own: single pixels on edges differ.
        assert (ids.scenes[0].labels.read() != train_ids.scenes[0].labels.read()).mean() < 0.003
        assert ids.part_of == ("val",) and len(np.unique(ids.scenes[0].labels.read())) == 11


@pytest.mark.parametrize(
    ("name", "part", "bands"),
    [
        ("potsdam-eroded", "train", ("red", "green", "blue")),
        ("vaihingen-eroded", "train", ("nir", "red", "green")),
        ("loveda", "train", ("red", "green", "blue")),
    ],
)
def test_real_patches_of_others(name, part, bands):
    folder = real(f"samples/{name.removesuffix('-eroded')}")
    with open_published(name, folder) as dataset:
        assert set(dataset.part_of) == {part} and dataset.bands == bands
        for scene in dataset.scenes:
            with rasterio.open(folder / "ann_dir" / f"{scene.name}.png") as file:
                raw = file.read(1)
            np.testing.assert_array_equal(scene.labels.read(), np.where(raw == 0, IGNORE, raw - 1))


def test_the_full_ade20k_is_told_from_sceneparsing():
    with pytest.raises(Exception, match="is the full ADE20K") as error:
        ade20k.open_ade20k(real("samples/ade20k_full_format"))
    assert "ADEChallengeData2016.zip" in str(error.value)


def test_resample_reaches_the_shares_and_writes_lists_that_can_be_read_again(tmp_path, run_cli):
    """Ten pictures of water and ten of fields to learn from; the test part is to hold one field to two
    waters.
    """
    root = tmp_path / "set"
    for side in ("images", "labels"):
        (root / side).mkdir(parents=True)
    for n in range(20):
        world.write(root / "images" / f"p{n:02d}.tif", np.full((3, 8, 8), 50 + n, np.uint8))
        world.write(root / "labels" / f"p{n:02d}.tif", np.full((8, 8), n % 2, np.uint8))
    names = [f"p{n:02d}" for n in range(20)]
    (root / "train.txt").write_text("p00\np01\n")
    (root / "test.txt").write_text("\n".join(names[2:]) + "\n")
    (root / "classes.json").write_text(world.LEGEND.to_json())
    code, out, err = run_cli(
        "data",
        "resample",
        "prepared",
        root,
        "--share",
        "water=2",
        "--share",
        "field=1",
        "--tolerance",
        "20",
        "--json",
    )
    assert code == 0, err
    found = json.loads(out)
    assert (
        len(found["parts"]["test"]) == 12 and sum(int(name[1:]) % 2 for name in found["parts"]["test"]) == 4
    )
    code, out, err = run_cli(
        "data",
        "resample",
        "prepared",
        root,
        "--share",
        "water=2",
        "--share",
        "field=1",
        "--tolerance",
        "20",
        "--out",
        root,
    )
    assert code == 1 and "exists" in err
    options = ("--tolerance", "20", "--out", root, "--overwrite", "--to", "none")
    code, out, _ = run_cli(
        "data", "resample", "prepared", root, "--share", "water=2", "--share", "field=1", *options
    )
    assert code == 0 and out.splitlines()[-1] == "train: 2 images, test: 12 images"
    told = json.loads(run_cli("data", "describe", "prepared", root, "--json")[1])
    assert {part["part"]: part["images"] for part in told["parts"]} == {"train": 2, "test": 12}
    code, out, _ = run_cli("data", "resample", "prepared", root, "--share", "forest=1")
    assert code == 1 and "NOT reached" in out
    for wrong, said in (
        (["--share", "water"], "CLASS=NUMBER"),
        ([], "--table-6"),
        (["--share", "sea=1"], "sea"),
    ):
        code, _, err = run_cli("data", "resample", "prepared", root, *wrong)
        assert code == 2 and said in err
