"""A path that is misspelt, or names a folder, is met with what was probably meant."""

import shutil
from pathlib import Path

import pytest
import world

from labelscape.checkpoint import save
from labelscape.contract.difference import REFUSED, Difference
from labelscape.errors import Refused
from labelscape.maps.plan import refuse_unless
from labelscape.mistaken import no_such_file


def test_the_file_that_was_meant_is_named(tmp_path, monkeypatch):
    (tmp_path / "maps").mkdir()
    for name in (
        "landuse.gpkg",
        "scene.tif",
        "Fields.shp",
        ".landuse.gpk",
        "maps/a_class.tif",
        "bad\nname.tif",
    ):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("landuse.gpk", " Did you mean landuse.gpkg?"),
        ("landuze.gpkg", " Did you mean landuse.gpkg?"),
        ("scene.tiff", " Did you mean scene.tif?"),
        ("scene.jp2", " Did you mean scene.tif?"),
        ("fields.shp", " Did you mean Fields.shp?"),
        ("maps/a_clas.tif", " Did you mean maps/a_class.tif?"),
        ("bad name.tif", ""),
        ("other.tif", ""),
        ("map/a_class.tif", " There is no folder map."),
        ("run/map/a_class.tif", " There is no folder run."),
        ("scene.tif/a.tif", " scene.tif is no folder."),
        ("a\0b", ""),
    ):
        assert no_such_file(given) == f"{given} does not exist.{meant}", given
    assert no_such_file(tmp_path / "scen.tif").endswith(f"Did you mean {tmp_path / 'scene.tif'}?")


@pytest.fixture
def folder(tmp_path):
    w = world.make(tmp_path, 64, 96)
    shutil.copy(world.label_polygons(w, tmp_path / "fields.gpkg"), tmp_path / "crops.gpkg")
    (tmp_path / "run").mkdir()
    save(world.tiny_checkpoint(like=w.scene), tmp_path / "run" / "fcn.safetensors")
    (tmp_path / "run" / "mlp.state.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "scena.tif", "--labels", "fields.gpkg", "--out", "r"), "Did you mean scene.tif?"),
        (("train", "scene.tif", "--labels", "field.gpkg", "--out", "r"), "Did you mean fields.gpkg?"),
        (("info", "run/fcm.safetensors"), "Did you mean run/fcn.safetensors?"),
        (("map", "run/fcm.safetensors", "scene.tif", "--out", "m"), "Did you mean run/fcn.safetensors?"),
        (("map", "run/fcn.safetensors", "scen.tif", "--out", "m"), "Did you mean scene.tif?"),
        (
            ("map", "run/fcn.safetensors", "scene.tif", "--area", "crop.gpkg", "--out", "m"),
            "Did you mean crops.gpkg?",
        ),
        (("map", "run", "scene.tif", "--out", "m"), "expected, such as run/fcn.safetensors."),
        (("map", "run/fcn.safetensors", "scene.tif", "--out", "crops.gpkg"), "crops.gpkg is a file."),
        (("polygonize", "scen.tif", "p.gpkg"), "Did you mean scene.tif?"),
        (("serve", "scen.tif"), "Did you mean scene.tif?"),
    ],
)
def test_commands_name_it(folder, run_cli, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    code, out, err = run_cli(*arguments)
    assert code in (1, 2) and not out and said in " ".join(err.split()), err
    assert not Path("r").exists() and not Path("m").exists()


def test_a_scene_without_the_bands_cannot_be_forced_and_no_message_says_so():
    values = Difference("values", REFUSED, "the values differ")
    bands = Difference("band count", REFUSED, "scene has 3 bands")
    with pytest.raises(Refused, match="the values differ. Fix it, or pass `force=True`"):
        refuse_unless((values,), "scene")
    for findings in ((bands,), (bands, values)):
        with pytest.raises(Refused) as said:
            refuse_unless(findings, "scene")
        assert "force" not in str(said.value)
