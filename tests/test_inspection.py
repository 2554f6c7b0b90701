import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import world
from safetensors.numpy import save as to_bytes

from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.contract import Contract
from labelscape.demo import demo_checkpoint
from labelscape.errors import BadFile, BadInput, WrongType
from labelscape.inspection import info
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays


def rows(found):
    """Label -> text of what is printed."""
    pairs = (line.split("  ", 1) for line in found.text.partition("\n\n")[0].splitlines())
    return {label: text.strip() for label, text in pairs}


def test_a_checkpoint_without_its_weights():
    found = info(demo_checkpoint())
    assert found.kind == "checkpoint"
    assert "weights" not in found.facts
    assert found.facts["network"] == "mlp" and found.facts["bands"][0] == "B02"
    assert rows(found)["measured on"] == "held-out blocks of IMG_DATA"
    assert rows(found)["file size"] == f"{demo_checkpoint().stat().st_size / 1e6:.2f} MB"
    assert repr(found) == found.text


def test_torch_is_not_loaded():
    code = (
        "import sys; from labelscape.inspection import info; from labelscape.demo import demo_checkpoint; "
        "info(demo_checkpoint()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_scene_with_and_without_coordinates(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=4, nodata=0)
    with rasterio.open(w.scene, "r+") as file:
        file.scales, file.offsets = [0.0001] * 4, [-0.1] * 4
        file.descriptions = ("red", "green", "blue", "nir")
    found = info(w.scene)
    assert found.kind == "scene"
    assert rows(found) == {
        "scene": str(w.scene),
        "size": "128 x 96 pixels",
        "CRS": "EPSG:32633",
        "pixel size": "10 m (10 m on the ground)",
        "bounds": "400000, 5799040, 401280, 5800000 (left, bottom, right, top)",
        "bands": "4: red, green, blue, nir",
        "data type": "uint16",
        "nodata": "0",
        "units": "declared: value x 0.0001 - 0.1",
        "in memory": "0.10 MB",
    }
    facts = json.loads(json.dumps(found.to_dict()))
    assert (facts["width"], facts["nodata"], facts["units"][3]) == (128, 0, [0.0001, -0.1])
    plain = info(world.write(tmp_path / "plain.tif", w.pixels, crs=None))
    assert rows(plain)["CRS"] == "none: an image without coordinates"
    assert "pixel size" not in rows(plain)
    assert rows(plain)["nodata"] == "none declared"
    degrees = info(world.write(tmp_path / "d.tif", w.pixels, crs="EPSG:4326", transform=world.DEGREES))
    assert rows(degrees)["pixel size"] == "0.0001 degrees (8.742 m on the ground)"


def test_several_files_of_one_scene(tmp_path, run_cli):
    w = world.make(tmp_path, bands=2)
    files = [world.write(tmp_path / f"B0{i}.tif", band) for i, band in enumerate(w.pixels)]
    assert info(files).facts["bands"] == ["B00", "B01"]
    code, out, _ = run_cli("info", ",".join(map(str, files)), "--json")
    assert code == 0 and json.loads(out)["bands"] == ["B00", "B01"]


def test_statistics_of_a_scene_are_those_of_its_pixels(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=2, dtype="float32")
    found = info(w.scene, statistics=True)
    for band, values in zip(found.facts["statistics"], w.pixels, strict=True):
        assert band["mean"] == pytest.approx(values.mean(), rel=1e-4)
        assert (band["min"], band["max"]) == pytest.approx((values.min(), values.max()), rel=1e-6)
    holed = info(world.write(tmp_path / "nan.tif", w.pixels, nodata=np.nan))
    assert (holed.facts["nodata"], rows(holed)["nodata"]) == ("nan", "nan")
    assert "band (sampled)" in found.text and "statistics" not in info(w.scene).facts


@pytest.fixture
def result(tmp_path):
    net = create_model("fcn", in_channels=3, classes=3, widths=[4, 4, 4, 4])
    contract = Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3)
    options = {"widths": [4, 4, 4, 4]}
    model = Checkpoint("fcn", options, state_arrays(net), world.LEGEND, contract)
    scene = world.make(tmp_path, 96, 128, nodata=0).scene
    return map_scene(model, scene, tmp_path / "map", device="cpu", report=False, sieve=0.5)


def test_a_map_by_its_folder_its_settings_and_its_raster(result, run_cli):
    folder = result.paths["run"].parent
    found = info(folder)
    assert found.kind == "map" and found.text == info(result.paths["run"]).text
    assert rows(found)["Network"] == "fcn" and rows(found)["Minimum mapping unit"].startswith("0.5 ha")
    assert "Missing files" not in rows(found)
    printed = {line[:20].strip(): line.split() for line in found.text.partition("\n\n")[2].splitlines()}
    assert [printed[a.name][-3] for a in result.areas] == [f"{a.pixels:,}" for a in result.areas]
    result.paths["polygons"].unlink()
    assert rows(info(folder))["Missing files"] == "scene_polygons.gpkg"
    code, out, _ = run_cli("info", folder, "--json")
    assert code == 0
    assert json.loads(out)["missing_files"] == ["scene_polygons.gpkg"]

    raster = info(result.paths["class"])
    assert raster.kind == "class map"
    assert rows(raster)["classes"] == "0 water, 1 field, 2 forest"
    assert rows(raster)["settings"] == f"labelscape info {result.paths['run']}"
    assert "areas" not in raster.facts
    counted = info(result.paths["class"], statistics=True).facts["areas"]
    assert [a["pixels"] for a in counted] == [a.pixels for a in result.areas]
    assert [a["hectares"] for a in counted] == pytest.approx([a.hectares for a in result.areas], rel=1e-6)
    assert rows(info(result.paths["sieved"]))["made by"].endswith("fcn, sieved to 0.5 ha")


def test_a_class_map_of_another_program(tmp_path):
    values = np.array([[3, 3], [7, 255]], np.uint8)
    path = world.write(tmp_path / "other.tif", values, nodata=255)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {3: (1, 2, 3), 7: (4, 5, 6)})
    found = info(path)
    assert found.kind == "class map" and "made by" not in rows(found)
    counted = info(path, statistics=True).facts["areas"]
    assert [(a["name"], a["pixels"]) for a in counted] == [("class 3", 2), ("class 7", 1)]


def test_a_folder_of_several_is_asked_back(tmp_path):
    for name in ("a", "b"):
        save(load(demo_checkpoint()), tmp_path / "run" / f"{name}.safetensors")
    with pytest.raises(BadInput, match=r"holds checkpoints; pass one of them: .*a\.safetensors, .*b\.saf"):
        info(tmp_path / "run")


@pytest.mark.parametrize("name", ["notes.txt", "polygons.geojson", "empty.tif"])
def test_what_is_nothing_of_all_this_gets_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("" if name == "empty.tif" else "words")
    with pytest.raises(BadFile, match="is not a checkpoint, a map or a scene: ") as said:
        info(tmp_path / name)
    assert len(str(said.value)) < 400 and str(said.value).endswith(".")
    with pytest.raises(BadFile, match=r"none\.tif does not exist\.$"):
        info(tmp_path / "none.tif")
    with pytest.raises(WrongType, match="must be given as a path"):
        info(None)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": None},
        {"options": 5},
        {"legend": [[1]]},
        {"bands": [["1"]]},
        {"recipe": []},
        {"scores": None},
        {"temperature": "warm"},
        {"nodata": [0]},
    ],
)
def test_a_damaged_description_gets_one_sentence(tmp_path, fields):
    path = tmp_path / "m.safetensors"
    described = {**load(demo_checkpoint()).describe(), **fields}
    path.write_bytes(to_bytes({"a": np.zeros(1)}, metadata={"labelscape": json.dumps(described)}))
    with pytest.raises(BadFile, match=r"m\.safetensors has a damaged description \("):
        info(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"files": 1, "areas": [], "software": ""}',
        '{"files": {"class": 5}, "areas": [], "software": ""}',
        '{"files": {}, "areas": [{}], "software": ""}',
        '{"files": {}, "areas": [], "software": "", "seam_score": "low"}',
    ],
)
def test_a_damaged_run_file_gets_one_sentence(tmp_path, text):
    (tmp_path / "a_run.json").write_text(text)
    with pytest.raises(BadFile, match=r"a_run\.json is not the _run\.json of a map, or is damaged \("):
        info(tmp_path / "a_run.json")
    (tmp_path / "a_run.json").write_text("{}")
    with pytest.raises(BadFile, match=r"a_run\.json is not the _run\.json of a map"):
        info(tmp_path)
    (tmp_path / "a_run.json").write_text("[" * 100_000)
    with pytest.raises(BadFile, match=r"cannot be read as JSON"):
        info(tmp_path)


def test_nan_as_nodata_of_a_checkpoint_is_json(tmp_path):
    made = load(demo_checkpoint())
    path = save(
        replace(made, contract=replace(made.contract, nodata=float("nan"))), tmp_path / "m.safetensors"
    )
    facts = json.loads(json.dumps(info(path).to_dict(), allow_nan=False))
    assert facts["nodata"] == "nan" and load(path).contract.nodata != load(path).contract.nodata
