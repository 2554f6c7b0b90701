"""Files of the data that change under an unfinished run."""

import os
import shutil

import numpy as np
import pytest
import rasterio
import world

from labelscape.errors import BadFile
from labelscape.training.data import blank_checkpoint, open_both
from labelscape.training.loop import run_phase
from labelscape.training.recipe import make_recipe


@pytest.fixture
def begun(tmp_path):
    """A run of two of four steps; a function that continues it, and returns what it said."""
    (tmp_path / "data").mkdir()
    w = world.make(tmp_path / "data", 96, 128)
    labels = world.label_raster(w, tmp_path / "data" / "labels.tif")

    def go_on(folder=tmp_path / "data", until=None, meanwhile=lambda: None):
        recipe = make_recipe(
            data={"images": [str(folder / "scene.tif")], "labels": [str(folder / labels.name)], "block": 32},
            network="fcn",
            options={"widths": [2, 2, 2, 2]},
            **{"batch": 2, "crop": 32, "steps": 4, "device": "cpu", "measure_tile_sizes": False},
        )
        said = []

        def say(line):
            said.append(line)
            if line.startswith("continuing"):
                meanwhile()

        with open_both(recipe) as (dataset, _):
            blank = blank_checkpoint(recipe, dataset)
            run_phase(recipe, dataset, blank, tmp_path / "out", until=until, say=say)
        return said

    (tmp_path / "out").mkdir()
    go_on(until=2)
    return w, labels, go_on


def exchanged(scene):
    """The same pixels in other places: means and deviations stay."""
    with rasterio.open(scene, "r+") as file:
        file.write(np.ascontiguousarray(file.read()[:, ::-1]))


def test_a_scene_of_the_same_statistics_is_another_one(begun):
    w, _, go_on = begun
    exchanged(w.scene)
    with pytest.raises(BadFile, match=r"other data.*\(scene.tif differs\).*overwrite=True"):
        go_on()


def test_a_mask_put_beside_a_scene_is_noticed(begun):
    w, _, go_on = begun
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(w.scene, "r+") as file:
        file.write_mask(np.ones(file.shape, bool))
    with pytest.raises(BadFile, match=r"scene.tif.msk"):
        go_on()


def test_a_copy_of_the_data_with_times_of_its_own_is_the_same_data(begun, tmp_path):
    """As clusters copy it to the disk of each job."""
    w, labels, go_on = begun
    for number, file in enumerate((w.scene, labels)):
        shutil.copyfile(file, tmp_path / "spare")
        os.replace(tmp_path / "spare", file)
        os.utime(file, ns=(10**18 + number, 10**18 + number))
    assert any("continuing from" in line for line in go_on())


def test_a_file_rewritten_with_its_own_size_beside_others_is_noticed(begun):
    w, _, go_on = begun
    os.utime(w.scene, ns=(10**18, 10**18))
    with pytest.raises(BadFile, match="scene.tif differs"):
        go_on()


def test_a_file_that_changes_during_training_is_said(begun):
    w, _, go_on = begun
    said = go_on(meanwhile=lambda: exchanged(w.scene))
    assert said[-1].startswith(f"warning: {w.scene} was changed during training")


def test_states_of_earlier_versions_have_no_stamps_and_are_continued():
    from labelscape.training.state import _other_data

    facts = {"data: labelled pixels per class": [1, 2]}
    assert _other_data(facts, facts | {"files": [["a", 1, 2, "x"]]}) == []
    assert _other_data(facts, {"data: labelled pixels per class": [1, 3]}) == list(facts)
    old = {"files": [["a", 1, 2, "x"], ["b", None]]}
    assert _other_data(old, {"files": [["a", 1, 2, "x"], ["b", 1, 2, "y"]]}) == ["b"]
    assert _other_data({"files": [["a", 1, 2, "x"]]}, {"files": [["a", 1, 3, "x"]]}) == []
    assert _other_data({"files": [["a", 1, 2, "x"]]}, {"files": [["a", 1, 3, "y"]]}) == ["a"]
