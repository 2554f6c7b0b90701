"""Objects of other libraries, checked and mapped: the same bytes as the file they came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import world
from affine import Affine

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput
from labelscape.maps.journal import Journal
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.scenes.array import ArrayScene

QUICK = {"report": False, "polygons": False, "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return world.ten_metre_fcn()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> world.World:
    return world.make(tmp_path_factory.mktemp("made"), 150, 210, nodata=0)


def ways(made):
    """Name -> the scene's own form."""
    with rasterio.open(made.scene) as dataset:
        yield "dataset", dataset
    with rasterio.MemoryFile(made.scene.read_bytes()) as memory, memory.open() as dataset:
        yield "memory", dataset
    yield "array", ArrayScene(made.pixels, made.transform, made.crs, nodata=0)
    try:
        import rioxarray
    except ImportError:
        return
    yield "xarray", rioxarray.open_rasterio(made.scene)


def test_each_is_mapped_to_the_same_bytes(model, made, tmp_path):
    expected = map_scene(model, made.scene, tmp_path / "file", **QUICK)
    for name, scene in ways(made):
        assert check(model, scene, timing=False).verdict == check(model, made.scene, timing=False).verdict
        result = map_scene(model, scene, tmp_path / name, **QUICK)
        assert result.paths["class"].name == "scene_class.tif"
        assert result.paths["class"].read_bytes() == expected.paths["class"].read_bytes()
        said = json.loads(result.paths["run"].read_text())["scene"]
        assert said == str(made.scene) if name == "dataset" else said.endswith(" in memory")
    named = map_scene(
        model, ArrayScene(made.pixels, made.transform, made.crs), tmp_path / "b", name="mine", **QUICK
    )
    assert named.paths["class"].name == "mine_class.tif"


def test_an_interrupted_map_does_not_go_on_with_another_array(model, made, tmp_path, monkeypatch):
    """Two arrays of one shape have no file whose time tells them apart."""
    pixels = np.tile(made.pixels, (1, 2, 2))
    options = {**QUICK, "tile_size": 256}
    scenes = [ArrayScene(p, made.transform, made.crs, nodata=0) for p in (pixels, pixels[:, ::-1])]
    expected = map_scene(model, scenes[1], tmp_path / "whole", **options)
    fail = {"after": 3}

    def failing(*given, **more):
        fail["after"] -= 1
        if fail["after"] < 0:
            raise KeyboardInterrupt
        return original(*given, **more)

    original = Journal.save
    monkeypatch.setattr(Journal, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scenes[0], tmp_path / "map", **options)
    monkeypatch.undo()
    assert list((tmp_path / "map").glob(".scene.unfinished/*.tif"))
    with pytest.raises(BadFile, match="3 finished tiles .*pixels has changed.*overwrite=True"):
        map_scene(model, scenes[1], tmp_path / "map", **options)
    result = map_scene(model, scenes[1], tmp_path / "map", overwrite=True, **options)
    assert any("3 finished tiles" in note and "were deleted" in note for note in result.notes)
    assert result.paths["class"].read_bytes() == expected.paths["class"].read_bytes()


def test_arrays_are_learned_from(made, tmp_path):
    labels = world.label_raster(made, tmp_path / "labels.tif")
    scene = ArrayScene(made.pixels, made.transform, made.crs, nodata=0)
    with open_dataset([scene], [labels]) as mine, open_dataset([made.scene], [labels]) as theirs:
        window = theirs.scenes[0].scene.grid.window
        for one, other in zip(mine.scenes[0].read(window), theirs.scenes[0].read(window)):
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other)
            else:
                np.testing.assert_array_equal(one.pixels, other.pixels)


def test_finer_arrays_are_averaged_as_files_are(model, tmp_path):
    fine = world.make(tmp_path, 120, 160, transform=Affine(5, 0, 400_000, 0, -5, 5_800_000), nodata=0)
    expected = map_scene(model, fine.scene, tmp_path / "a", force=True, **QUICK)
    array = ArrayScene(fine.pixels, fine.transform, fine.crs, nodata=0)
    result = map_scene(model, array, tmp_path / "b", force=True, **QUICK)
    assert result.paths["class"].read_bytes() == expected.paths["class"].read_bytes()
    with rasterio.open(result.paths["class"]) as file:
        assert file.shape == (60, 80)


def test_what_is_no_scene_is_answered(model, tmp_path):
    with pytest.raises(BadInput, match=r"shape \(3, 40, 50\) without coordinates.*ArrayScene"):
        map_scene(model, np.zeros((3, 40, 50)), tmp_path / "map", **QUICK)
    with pytest.raises(BadInput, match="An int"):
        check(model, 3)
