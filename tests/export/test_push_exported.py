"""Exported models are published as checkpoints are, with a card that says what they are given, and are scored
and compared as their checkpoint is.
"""

import json

import numpy as np
import onnxruntime
import pytest
import rasterio
import world
from test_export_onnx import made
from test_model_places import files_under
from test_push import extension_errors, served

import labelscape as ls
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile
from labelscape.export.model import export_model
from labelscape.export.push import push
from labelscape.model_places import local_model

SIZES = {".onnx": {"dynamic": True}, ".xml": {"dynamic": True}, ".pt2": {"size": 64}}
FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def scene(folder):
    return world.make(folder, 200, 330, name="one", nodata=0)


@pytest.fixture(scope="module")
def checkpoint(folder, scene):
    """Calibrated, of a scene with labels of which blocks are held out."""
    labels = world.label_raster(scene, folder / "labels.tif")
    data = {"images": [str(scene.scene)], "labels": [str(labels)], "holdout": 0.5, "block": 64}
    data |= {"classes": {name: value for value, name in enumerate(world.LEGEND.names)}}
    recipe = {"data": data, "seed": 0}
    made = world.tiny_checkpoint("fcn", like=scene.scene, temperature=1.5, recipe=recipe)
    return save(made, folder / "fcn.safetensors")


@pytest.fixture(scope="module")
def models(checkpoint, folder):
    pytest.importorskip("openvino")
    return {
        ending: export_model(checkpoint, folder / f"m{ending}", to=to, **SIZES[ending]).path
        for ending, to in FORMATS.items()
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSCAPE_CACHE", str(tmp_path / "cache"))


def same(found, path):
    assert found.describe() == load(path).describe()
    assert (found.exported.model, found.exported.weights) == (
        path.read_bytes(),
        path.with_suffix(".bin").read_bytes() if path.suffix == ".xml" else b"",
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_a_folder_and_its_address_hold_the_model_byte_for_byte(ending, models, tmp_path):
    done = push(models[ending], tmp_path / "shared")
    weights = ["m.bin"] * (ending == ".xml")
    assert done.files == (f"m{ending}", *weights, "README.md", "stac.json", "labelscape.json")
    assert files_under(tmp_path / "shared") == sorted(done.files)
    same(ls.load(tmp_path / "shared"), models[ending])
    with served(tmp_path / "shared") as address:
        same(load(f"{address}#sha256={done.sha256}"), models[ending])
        same(load(f"{address}/m{ending}#sha256={done.sha256}"), models[ending])
    # From the cache, without the server.
    same(load(f"{address}/m{ending}#sha256={done.sha256}"), models[ending])
    kept = [f"models/{done.sha256}/{name}" for name in (f"m{ending}", *weights)]
    assert files_under(tmp_path / "cache") == sorted(kept)


def test_weights_that_are_not_those_of_the_model_are_refused(models, tmp_path):
    done = push(models[".xml"], tmp_path / "shared")
    weights, whole = tmp_path / "shared" / "m.bin", models[".xml"].with_suffix(".bin").read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadFile, match=r"m.bin does not belong to m.xml, or is damaged"):
        load(tmp_path / "shared")
    with served(tmp_path / "shared") as address:
        place = f"{address}/m.xml#sha256={done.sha256}"
        with pytest.raises(BadFile, match="is not the one that was pushed: its SHA-256 is"):
            load(place)
        assert files_under(tmp_path / "cache") == [f"models/{done.sha256}/m.xml"]
        weights.unlink()
        with pytest.raises(BadFile, match=r"m.bin cannot be read: the server answers 404"):
            load(place)
        weights.write_bytes(whole)
        same(load(place), models[".xml"])
    # What lies in the cache is compared each time.
    (local_model(place).with_suffix(".bin")).write_bytes(b"other")
    with pytest.raises(BadFile, match="cannot be read"):
        load(place)


@pytest.mark.parametrize("ending", [".xml", pytest.param(".pt2", marks=pytest.mark.long)])
def test_an_exported_model_travels_over_hugging_face(ending, models, hub):
    done = push(models[ending], "hf://owner/fields")
    assert set(hub.commits["owner/fields"][-1][1]) == {".gitattributes", *done.files}
    same(load("hf://owner/fields"), models[ending])
    weights = "m.bin" if ending == ".xml" else f"m{ending}"
    hub.commit("owner/fields", {weights: b"something else"})
    with pytest.raises(BadFile, match="is not the one that was pushed"):
        load("hf://owner/fields")


def test_an_openvino_model_travels_over_s3(models, bucket):
    done = push(models[".xml"], "s3://models/fields")
    assert {one.key for one in bucket.objects.all()} == {f"fields/{name}" for name in done.files}
    same(load("s3://models/fields"), models[".xml"])


@pytest.mark.parametrize("name", ["my model (2).onnx", "Größe.onnx", "M.ONNX", "-.onnx"])
def test_a_model_of_any_name_can_be_loaded_where_it_was_pushed(name, models, tmp_path):
    path = tmp_path / name
    path.write_bytes(models[".onnx"].read_bytes())
    done = push(path, tmp_path / "shared")
    same(load(tmp_path / "shared"), path)
    with served(tmp_path / "shared") as address:
        same(load(f"{address}#sha256={done.sha256}"), path)


@pytest.mark.parametrize("ending", FORMATS)
def test_card_and_item_say_what_the_file_is(ending, models, tmp_path):
    push(models[ending], tmp_path / "shared", name="Fields")
    size = "64 x 64 pixels" if ending == ".pt2" else "any multiple of 16 pixels"
    text, item = ((tmp_path / "shared" / name).read_text() for name in ("README.md", "stac.json"))
    title = {".onnx": "an ONNX model", ".xml": "an OpenVINO model", ".pt2": "a model of torch.export"}[ending]
    for line in (
        f"A `fcn` network as {title} (float32) that gives each pixel",
        f"labelscape map m{ending} scene.tif --out map",
        f"The file is given images of {size}, values as the scene has them. The network reads",
        "- Confidences: calibrated by temperature scaling (temperature 1.5).",
    ):
        assert line in text, line
    assert ("Keep both together" in text) == (ending == ".xml") and "0 weights" not in text
    item = json.loads(item)
    assert extension_errors(item) == []
    fields, asset = item["properties"], item["assets"]["model"]
    assert fields["mlm:framework"] == {".onnx": "ONNX", ".xml": "OpenVINO", ".pt2": "PyTorch"}[ending]
    (given,), (gives,) = fields["mlm:input"], fields["mlm:output"]
    shape = [1, 3, 64, 64] if ending == ".pt2" else [-1, 3, -1, -1]
    assert given["input"]["shape"] == gives["result"]["shape"] == shape
    assert given["value_scaling"] is None and gives["name"] == "probabilities"
    assert asset["href"] == f"./m{ending}" and "mlm:total_parameters" not in fields
    assert ("weights" in item["assets"]) == (ending == ".xml")


@pytest.mark.parametrize(
    ("scaling", "first"),
    [
        ("outside", {"type": "z-score", "mean": 4000.0, "stddev": 1500.0}),
        ("unit", {"type": "min-max", "minimum": 0, "maximum": 255}),
    ],
)
def test_the_item_says_how_values_are_scaled_for_the_file(scaling, first, tmp_path):
    export_model(made(), tmp_path / "m.onnx", dynamic=True, normalise=scaling)
    push(tmp_path / "m.onnx", tmp_path / "shared")
    item = json.loads((tmp_path / "shared" / "stac.json").read_text())
    (given,) = item["properties"]["mlm:input"]
    assert given["value_scaling"][0] == first and given["input"]["shape"] == [-1, 3, -1, -1]
    assert extension_errors(item) == []


TILES = ["--tile-size", 96, "--overlap", 16, "--blend", "hann", "--device", "cpu"]


def scores(model, given, run_cli):
    # An exported model is run by the library of its format; the other has to be told.
    engine = ["--engine", "torch"] if model.suffix == ".safetensors" else []
    code, out, err = run_cli("evaluate", model, *given, *engine, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_scores_are_those_of_the_checkpoint(ending, models, checkpoint, scene, run_cli):
    """On its own held-out blocks, which the file knows too, and on a scene with labels."""
    for given in ([], [scene.scene, "--labels", checkpoint.parent / "labels.tif"]):
        first, second = (scores(model, [*given, *TILES], run_cli) for model in (checkpoint, models[ending]))
        assert first["confusion"] == second["confusion"] and first["part"] == second["part"]
        assert first["labelled_pixels"] > 0


@pytest.mark.long
@pytest.mark.parametrize("ending", FORMATS)
def test_scores_of_images_of_one_size_are_those_of_the_checkpoint(ending, folder, checkpoint, run_cli):
    """On a scene larger than these, so that both cut it alike, with blocks enough to be compared on."""
    large = world.make(folder, 400, 700, name="large", nodata=0)
    labels = world.label_raster(large, folder / "large_labels.tif")
    model = export_model(checkpoint, folder / f"one{ending}", to=FORMATS[ending], size=384).path
    first, second = (scores(m, [large.scene, "--labels", labels], run_cli) for m in (checkpoint, model))
    assert first["confusion"] == second["confusion"]
    code, out, err = run_cli(
        "compare", checkpoint, model, "--scenes", large.scene, "--labels", labels, "--json"
    )
    assert code == 0, err
    assert {line["difference"] for line in json.loads(out)["pairs"][0]["differences"]} == {0.0}


def test_models_are_compared_wherever_they_lie(models, checkpoint, hub, tmp_path, run_cli):
    push(models[".xml"], "hf://owner/fields")
    push(models[".onnx"], tmp_path / "shared")
    others = ["hf://owner/fields", tmp_path / "shared"]
    code, out, err = run_cli("compare", checkpoint, *others, *TILES, "--replicates", 100, "--json")
    assert code == 0, err
    pairs = json.loads(out)["pairs"]
    assert len(pairs) == 2
    for pair in pairs:
        assert pair["mcnemar"]["only_first"] == pair["mcnemar"]["only_other"] == 0
        assert {line["difference"] for line in pair["differences"]} <= {0.0, None}


@pytest.mark.parametrize("ending", FORMATS)
def test_info_tells_what_an_exported_model_takes(ending, models, run_cli):
    code, out, err = run_cli("info", models[ending])
    assert code == 0, err
    rows = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in out.splitlines()}
    size = "64 x 64 pixels" if ending == ".pt2" else "any multiple of 16 pixels"
    assert rows["images"].startswith(f"{size}; a class depends on ")
    assert rows["is given"] == "values as the scene has them" and "float32" in rows["format"]
    assert rows["confidences"] == "calibrated by temperature scaling (temperature 1.5)"
    code, out, _ = run_cli("info", models[ending], "--json")
    found = json.loads(out)
    assert found["exported"]["size"] == (64 if ending == ".pt2" else None)
    assert found["exported"]["normalise"] == "inside"
    assert found["temperature"] == 1.5


def test_info_lists_what_deepness_and_geodeep_read(tmp_path, run_cli):
    """Each key with its value as the library of the format gives it; of the other formats there are none."""
    done = export_model(made(), tmp_path / "m.onnx", size=64, normalise="unit")
    stored = onnxruntime.InferenceSession(done.path).get_modelmeta().custom_metadata_map
    wanted = {key: value for key, value in stored.items() if not key.startswith("labelscape")}
    assert {"model_type", "class_names", "resolution", "tile_size", "standardization_mean"} <= wanted.keys()
    _, out, _ = run_cli("info", done.path)
    listed = out.partition("metadata that other programs read (QGIS Deepness, GeoDeep):\n")[2]
    assert dict(line.split(None, 1) for line in listed.splitlines()) == wanted
    assert json.loads(run_cli("info", done.path, "--json")[1])["exported"]["metadata"] == wanted
    other = export_model(made(), tmp_path / "m.pt2", to="pt2", size=64)
    assert "metadata" not in run_cli("info", other.path)[1]


def test_the_map_of_a_place_is_that_of_the_checkpoint(models, checkpoint, scene, hub, tmp_path, run_cli):
    push(models[".xml"], "hf://owner/fields")
    quick = [*TILES, "--no-report", "--no-polygons"]
    maps = []
    for name, model in (("a", checkpoint), ("b", "hf://owner/fields")):
        code, _, err = run_cli("map", model, scene.scene, "--out", tmp_path / name, "--force", *quick)
        assert code == 0, err
        with rasterio.open(tmp_path / name / "one_class.tif") as file:
            maps.append(file.read(1))
    np.testing.assert_array_equal(*maps)
    assert len(np.unique(maps[0])) >= 3
