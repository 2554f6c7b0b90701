"""GDAL's creation options of a map's rasters: in all of them, by every verb, and by a map that is resumed."""

import json

import numpy as np
import pytest
import rasterio
import world
from interrupted import stopped_after_a_tile
from rio_cogeo import cog_validate

import labelscape as ls
from labelscape.checkpoint import save
from labelscape.errors import BadFile, BadOption
from labelscape.maps.many import map_scenes

QUICK = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}
PACKED = {"COMPRESS": "LZW", "BLOCKSIZE": 128, "PREDICTOR": 2}
TYPED = ["--co", "COMPRESS=LZW", "--co", "blocksize=128", "--co", "PREDICTOR=2"]


@pytest.fixture
def model(tmp_path):
    return save(world.ten_metre_fcn(), tmp_path / "model.safetensors")


@pytest.fixture
def scene(tmp_path):
    return world.make(tmp_path, 200, 260, nodata=0).scene


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


def is_packed(path):
    with rasterio.open(path) as file:
        assert file.compression.value == "LZW", path
        assert file.block_shapes == [(128, 128)] * file.count
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
    assert cog_validate(path)[0]
    return True


def test_all_rasters_of_a_map_have_them_and_the_same_values(model, scene, tmp_path):
    how = {**QUICK, "proba": True, "entropy": True, "sieve": 0.5}
    plain = ls.map_scene(model, scene, tmp_path / "plain", **how)
    packed = ls.map_scene(model, scene, tmp_path / "packed", **how, creation_options=PACKED)
    names = [path.name for path in (tmp_path / "packed").glob("*.tif")]
    assert len(names) == 5
    for name in names:
        assert is_packed(tmp_path / "packed" / name)
        with (
            rasterio.open(tmp_path / "packed" / name) as one,
            rasterio.open(tmp_path / "plain" / name) as other,
        ):
            np.testing.assert_array_equal(one.read(), other.read())
            assert one.tags() == other.tags() and one.descriptions == other.descriptions
    # What is not given leaves no trace in a run file.
    assert "creation_options" not in json.loads(plain.paths["run"].read_text())["request"]
    said = json.loads(packed.paths["run"].read_text())["request"]["creation_options"]
    assert said == ["BLOCKSIZE=128", "COMPRESS=LZW", "PREDICTOR=2"]
    ls.rerun(packed.paths["run"], tmp_path / "again")
    assert rasters_in(tmp_path / "again") == rasters_in(tmp_path / "packed")


def test_a_map_resumed_with_other_options_has_the_bytes_of_one_made_with_them(
    model, scene, tmp_path, monkeypatch
):
    """Tiles are kept as pixels: which options they were begun with is nowhere in the result."""
    stopped_after_a_tile(monkeypatch, model, scene, tmp_path / "map", **QUICK, creation_options=PACKED)
    assert len(list((tmp_path / "map").glob(".*/*.tif"))) == 1
    other = {"COMPRESS": "DEFLATE", "OVERVIEWS": "NONE"}
    resumed = ls.map_scene(model, scene, tmp_path / "map", **QUICK, creation_options=other)
    assert resumed.resumed
    straight = ls.map_scene(model, scene, tmp_path / "straight", **QUICK, creation_options=other)
    assert not straight.resumed
    assert rasters_in(tmp_path / "map") == rasters_in(tmp_path / "straight")


def test_a_finished_map_of_other_options_is_no_finished_map(model, scene, tmp_path):
    """A job that is started again skips what is as asked for, and never calls something else so."""
    scenes, out = [scene], tmp_path / "maps"
    assert map_scenes(model, scenes, out, **QUICK).counts == {"done": 1}
    plain = rasters_in(out)
    (record,) = map_scenes(model, scenes, out, **QUICK, creation_options=PACKED).records
    assert record.state == "failed" and "exists" in record.cause and rasters_in(out) == plain
    how = {**QUICK, "creation_options": PACKED}
    assert map_scenes(model, scenes, out, **how, overwrite=True).counts == {"done": 1}
    assert is_packed(out / "scene_class.tif")
    spelt = ["predictor=2", "blocksize=128", "compress=lzw"]
    assert map_scenes(model, scenes, out, **QUICK, creation_options=spelt).counts == {"skipped": 1}


def test_wrong_options_are_refused_before_anything_is_opened(tmp_path, run_cli):
    with pytest.raises(BadOption, match="COMPRESS=GZIP is not possible"):
        ls.map_scene("none.safetensors", "none.tif", tmp_path / "map", creation_options={"COMPRESS": "GZIP"})
    with pytest.raises(BadOption, match="COMPRESS=GZIP is not possible"):
        ls.mosaic(["none.tif"], tmp_path / "m.tif", creation_options={"COMPRESS": "GZIP"})
    with pytest.raises(BadOption, match="COMPRESS=GZIP is not possible"):
        ls.sieve("none.tif", tmp_path / "m.tif", min_area=1, creation_options={"COMPRESS": "GZIP"})
    assert not list(tmp_path.iterdir())


def test_verbs_that_write_rasters_take_them(model, tmp_path, run_cli):
    w = world.make(tmp_path, 520, 520)  # nine blocks, which `compare` needs
    labels = world.label_raster(w, tmp_path / "labels.tif")

    def ran(*words):
        code, out, err = run_cli(*words, *TYPED)
        assert code == 0, err
        return out

    where = ["--device", "cpu"]
    ran("map", model, w.scene, "--out", tmp_path / "map", *where, "--no-polygons", "--no-report")
    made = tmp_path / "map" / "scene_class.tif"
    ran("sieve", made, tmp_path / "sieved.tif", "--min-area", 1)
    ran("sieve", made, "--out", tmp_path / "many", "--min-area", 1)
    ran("mosaic", made, "--out", tmp_path / "mosaic.tif", "--method", "first", "--no-report")
    ran("evaluate", model, w.scene, "--labels", labels, "--out", tmp_path / "errors", *where)
    ran("evaluate", made, w.scene, "--labels", labels, "--out", tmp_path / "of_map")
    both = made, tmp_path / "sieved.tif"
    ran("compare", *both, "--labels", labels, "--out", tmp_path / "compared")
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.tif"))
    inputs = ["labels.tif", "scene.tif"]
    assert len(found) - len(inputs) >= 8, found
    assert all(is_packed(tmp_path / name) for name in found if name not in inputs)


def test_options_of_rasters_that_are_not_written_are_refused(model, tmp_path, run_cli):
    w = world.make(tmp_path, 96, 128)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    code, _, err = run_cli("evaluate", model, w.scene, "--labels", labels, *TYPED)
    assert code == 2 and "is for error maps, which are written with --out" in err
    code, _, err = run_cli("compare", labels, labels, "--labels", labels, *TYPED)
    assert code == 2 and "is for difference maps, which are written with --out" in err


def test_many_maps_are_sieved_again_with_other_options(model, scene, tmp_path):
    made = ls.map_scene(model, scene, tmp_path / "map", **QUICK).paths["class"]
    out = tmp_path / "sieved"

    def states(**more):
        return [record.state for record in ls.sieve_maps([made], out, min_area=1, **more)]

    assert states() == ["done"] and states() == ["skipped"]
    assert states(creation_options=PACKED) == ["failed"]  # a file of other options is not replaced unasked
    assert states(creation_options=PACKED, overwrite=True) == ["done"]
    assert states(creation_options=PACKED) == ["skipped"]
    assert is_packed(out / made.name)


def test_a_map_too_large_for_the_tiff_that_was_asked_for_keeps_its_tiles(model, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("labelscape.rasters.cog.CLASSIC_BYTES", 1000)
    with pytest.raises(BadFile, match="BIGTIFF=NO"):
        ls.map_scene(model, scene, tmp_path / "map", **QUICK, creation_options={"BIGTIFF": "NO"})
    assert not list((tmp_path / "map").glob("*.tif"))
    assert ls.map_scene(model, scene, tmp_path / "map", **QUICK).resumed
