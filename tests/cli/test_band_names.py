"""`--band-names`: near infrared marked as alpha is trained, checked and mapped under its name."""

import json

import numpy as np
import pytest
import rasterio
import world

from labelscape.checkpoint import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A four-band scene as rasterio writes it, and a checkpoint that was trained on it with names."""
    from labelscape.training.recipe import make_recipe
    from labelscape.training.run import train

    folder = tmp_path_factory.mktemp("nir")
    made = world.make(folder, 96, 128, bands=4, dtype="uint8")
    with rasterio.open(made.scene) as file:
        assert file.colorinterp[3].name == "alpha"
    names = ("red", "green", "blue", "nir")
    labels = str(world.label_raster(made, folder / "labels.tif"))
    data = {"images": [str(made.scene)], "labels": [labels], "band_names": names, "block": 32}
    recipe = make_recipe(network="fcn", steps=2, crop=32, batch=2, data=data)
    train(recipe, folder / "run")
    return made, folder / "run" / "fcn.safetensors"


def test_a_named_band_is_trained_on_and_recorded(trained):
    _, model = trained
    checkpoint = load(model)
    assert checkpoint.bands == ("red", "green", "blue", "nir")
    assert checkpoint.recipe["data"]["band_names"] == ["red", "green", "blue", "nir"]


def test_check_and_map_read_the_scene_under_these_names(trained, tmp_path, run_cli):
    made, model = trained
    code, said, _ = run_cli("check", model, made.scene, "--no-timing")
    assert code == 1
    assert "--band-names" in said
    named = ("--band-names", "red,green,blue,nir")
    assert run_cli("check", model, made.scene, "--no-timing", *named)[0] == 0
    code, _, error = run_cli("map", model, made.scene, "--out", tmp_path / "m", "--no-report", *named)
    assert code == 0, error
    run = json.loads((tmp_path / "m" / "scene_run.json").read_text())
    assert run["bands"] == ["red", "green", "blue", "nir"]
    assert run["request"]["band_names"] == ["red", "green", "blue", "nir"]
    assert run["nodata_pixels"] == 0
    with rasterio.open(tmp_path / "m" / "scene_class.tif") as file:
        assert np.isin(file.read(1), (0, 1, 2)).all()
