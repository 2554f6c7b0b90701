"""Predictions are written as the published labels are."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import world
from affine import Affine

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.datasets.published import cityscapes
from labelscape.datasets.published.catalog import find_published, open_published
from labelscape.datasets.published.predictions import as_published, file_name
from labelscape.legend import IGNORE
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays

SETS = {
    "deepglobe-land": world.deepglobe_land,
    "vaihingen": world.vaihingen,
    "potsdam": world.potsdam,
    "cityscapes": world.cityscapes,
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_written_reads_back_as_labels(name, tmp_path):
    SETS[name](tmp_path)
    found = find_published(name, tmp_path)
    indices = np.random.default_rng(0).integers(0, len(found.legend), (9, 7)).astype(np.uint8)
    written = as_published(found, indices)
    assert written.dtype == np.uint8 and written.shape[0] == (3 if found.code.by_color else 1)
    np.testing.assert_array_equal(found.code.encode(written if found.code.by_color else written[0]), indices)
    assert not as_published(found, np.full((2, 2), IGNORE, np.uint8)).any()
    names = [file_name(pair) for pair in found.pairs]
    assert len(set(names)) == len(names)


def test_servers_that_count_otherwise(tmp_path):
    world.cityscapes(tmp_path, train_ids=True)  # read as train ids, sent as label ids
    found = find_published("cityscapes", tmp_path)
    np.testing.assert_array_equal(
        as_published(found, np.arange(19, dtype=np.uint8)[None])[0, 0], cityscapes.LABEL_IDS
    )
    loveda = replace(found, name="loveda", legend=replace(found.legend, classes=found.legend.classes[:7]))
    np.testing.assert_array_equal(as_published(loveda, np.arange(7, dtype=np.uint8)[None])[0, 0], range(7))


def model(tmp_path, dataset, bands):
    torch.manual_seed(0)
    options = {"widths": [4, 4, 8, 8]}
    net = create_model("fcn", in_channels=len(bands), classes=len(dataset.legend), **options)
    for _ in range(5):
        net(torch.randn(2, len(bands), 32, 32))
    checkpoint = Checkpoint(
        network="fcn",
        options=options,
        weights=state_arrays(net),
        legend=dataset.legend,
        contract=Contract(bands=bands, dtype="uint8", normalisation=((120.0, 60.0),) * len(bands)),
    )
    return save(checkpoint, tmp_path / "m.safetensors")


def test_cityscapes_test_pictures_have_no_labels_and_are_predicted_all_the_same(tmp_path, run_cli):
    world.cityscapes(tmp_path / "set")
    with open_published("cityscapes", tmp_path / "set") as dataset:
        path = model(tmp_path, dataset, ("red", "green", "blue"))
    command = (
        "evaluate",
        path,
        tmp_path / "set",
        "--dataset",
        "cityscapes",
        "--predictions",
        tmp_path / "sent",
        "--device",
        "cpu",
    )
    code, out, err = run_cli(*command, "--part", "test")
    assert code == 0 and out == "" and "no score: there are no labels in the test split" in err
    (file,) = (tmp_path / "sent").iterdir()
    assert file.name.startswith("berlin_000002_000019") and file.suffix == ".png"
    with rasterio.open(file) as sent:
        values = sent.read()
    map_scene(
        path,
        tmp_path / "set" / "leftImg8bit" / "test" / "berlin" / "berlin_000002_000019_leftImg8bit.png",
        tmp_path / "map",
        device="cpu",
    )
    with rasterio.open(next((tmp_path / "map").glob("*_class.tif"))) as mapped:
        np.testing.assert_array_equal(values, mapped.read())
    code, out, _ = run_cli(*command, "--part", "val")
    assert code == 0 and "kappa" in out and len(list((tmp_path / "sent").iterdir())) == 2
    code, _, err = run_cli(*command, "--part", "val")
    assert code == 1 and "exists" in err and "another folder" in err


def test_colours_and_coordinates_are_those_of_the_labels(tmp_path, run_cli):
    world.potsdam(tmp_path / "set")
    with open_published("potsdam", tmp_path / "set", bands=("red", "green", "blue")) as dataset:
        path = model(tmp_path, dataset, ("red", "green", "blue"))
    code, _, err = run_cli(
        "evaluate",
        path,
        tmp_path / "set",
        "--dataset",
        "potsdam",
        "-o",
        "bands=red,green,blue",
        "--part",
        "val",
        "--predictions",
        tmp_path / "sent",
        "--device",
        "cpu",
    )
    assert code == 0, err
    (file,) = (tmp_path / "sent").iterdir()
    assert file.name == "top_potsdam_2_11_label.tif"
    with (
        rasterio.open(file) as sent,
        rasterio.open(tmp_path / "set" / "4_Ortho_RGBIR" / "top_potsdam_2_11_RGBIR.tif") as picture,
    ):
        assert (sent.count, sent.shape, sent.crs, sent.transform) == (
            3,
            picture.shape,
            picture.crs,
            picture.transform,
        )
        assert sent.transform != Affine.identity()
        found = find_published("potsdam", tmp_path / "set", bands=("red", "green", "blue"))
        assert found.code.encode(sent.read()).max() < 6


def test_tiles_of_the_benchmark_without_labels_are_predicted_under_the_names_it_asks_for(tmp_path, run_cli):
    world.vaihingen(tmp_path / "set", (1, 11, 2, 4))
    for tile in (2, 4):
        for file in (tmp_path / "set").glob(f"gts*/top_mosaic_09cm_area{tile}*.tif"):
            file.unlink()
    (tmp_path / "set" / "ndsm" / "dsm_09cm_matching_area4_normalized.jpg").unlink()
    with open_published("vaihingen", tmp_path / "set") as dataset:
        assert dict(zip((s.name for s in dataset.scenes), dataset.part_of)) == {
            "vaihingen_1": "train",
            "vaihingen_2": "test",
            "vaihingen_11": "val",
        }
        assert "1 test tile without labels: can be predicted, not scored." in dataset.report
        assert not dataset.is_labelled("test")
        path = model(tmp_path, dataset, ("nir", "red", "green", "ndsm"))
    words = [
        "evaluate",
        path,
        tmp_path / "set",
        "--dataset",
        "vaihingen",
        "--part",
        "test",
        "--device",
        "cpu",
    ]
    code, out, err = run_cli(*words, "--predictions", tmp_path / "sent")
    assert code == 0 and out == "" and "no score: there are no labels in the test split" in err
    (file,) = (tmp_path / "sent").iterdir()
    assert file.name == "top_mosaic_09cm_area2.tif"
    with rasterio.open(file) as sent:
        assert (sent.count, sent.shape) == (3, (12, 14))
        values = find_published("vaihingen", tmp_path / "set").code.encode(sent.read())
    # The same tile mapped as a scene of its own: its files, and the names of their bands.
    top, heights = (
        tmp_path / "set" / name
        for name in ("top/top_mosaic_09cm_area2.tif", "ndsm/dsm_09cm_matching_area2_normalized.jpg")
    )
    words = ["map", path, f"{top},{heights}", "--out", tmp_path / "map", "--device", "cpu", "--no-polygons"]
    code, _, err = run_cli(*words)
    assert code == 1 and "--band-names" in err
    code, _, err = run_cli(*words, "--band-names", "nir,red,green,ndsm")
    assert code == 0, err
    with rasterio.open(next((tmp_path / "map").glob("*_class.tif"))) as mapped:
        np.testing.assert_array_equal(values, mapped.read(1))
    with open_published("vaihingen", tmp_path / "set", bands=("nir", "red")) as dataset:
        assert [s.name for s in dataset.scenes][-1] == "vaihingen_11" and len(dataset.scenes) == 4


def test_scenes_of_ones_own_are_mapped_instead(tmp_path, run_cli):
    world.cityscapes(tmp_path / "set")
    with open_published("cityscapes", tmp_path / "set") as dataset:
        path = model(tmp_path, dataset, ("red", "green", "blue"))
    mask = next((tmp_path / "set" / "gtFine").rglob("*_labelIds.png"))
    image = next((tmp_path / "set").rglob("aachen*_leftImg8bit.png"))
    code, _, err = run_cli("evaluate", path, image, "--labels", mask, "--predictions", tmp_path / "sent")
    assert code != 0 and "use labelscape map" in err
