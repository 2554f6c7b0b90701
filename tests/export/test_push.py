"""A published model is the same model wherever it is loaded from, or it is refused; its card and its STAC
item say what it is.
"""

import functools
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import world
from test_export_onnx import made

import labelscape as ls
from labelscape.checkpoint import description, load, save
from labelscape.errors import BadFile, BadOption
from labelscape.export.push import push, write_card
from labelscape.inspection.describe import info

SCHEMAS = Path(__file__).with_name("stac_schemas")
DATA = {"labels": ["fields.gpkg"], "block": 128, "holdout": 0.25, "split": "blocks", "buffer": 8}
SCORES = {
    "fcn": {
        "mean_iou": 0.5,
        "overall_accuracy": 0.75,
        "labelled_pixels": 12345,
        "classes": [
            {"name": "water", "support": 1000, "iou": 0.9, "f1": 0.947, "precision": 0.95, "recall": 0.944},
            {"name": "field", "support": 5000, "iou": 0.41, "f1": 0.58, "precision": 0.6, "recall": 0.56},
            {"name": "forest", "support": 6345, "iou": 0.6, "f1": 0.75, "precision": 0.75, "recall": 0.75},
            {"name": "town", "support": 0, "iou": None, "f1": None, "precision": None, "recall": None},
        ],
    }
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A scored checkpoint of a scene that is still there and one that is gone."""
    folder = tmp_path_factory.mktemp("trained")
    scene = world.make(folder, 64, 96, bands=3).scene
    data = {**DATA, "images": [str(scene), "/gone/north_[a]*.tif"]}
    recipe = {"data": data, "steps": 300, "batch": 8, "crop": 64, "rate": 0.001, "seed": 3}
    path = folder / "fcn.safetensors"
    save(made(recipe=recipe, scores=SCORES), path)
    times = {"seconds_per_step": 3.6, "steps": 300, "device": "cuda", "processes": 2}
    (folder / "fcn_times.json").write_text(json.dumps(times))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSCAPE_CACHE", str(tmp_path / "cache"))


@contextmanager
def served(folder):
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *arguments: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def same(found, path):
    wanted = load(path)
    assert found.describe() == wanted.describe()
    assert found.weights.keys() == wanted.weights.keys()
    for key, value in wanted.weights.items():
        np.testing.assert_array_equal(found.weights[key], value)


def test_a_folder_holds_the_model_byte_for_byte(model, tmp_path):
    done = push(model, tmp_path / "shared")
    assert done.files == ("fcn.safetensors", "README.md", "stac.json", "labelscape.json")
    assert {file.name for file in (tmp_path / "shared").iterdir()} == set(done.files)
    assert (tmp_path / "shared" / "fcn.safetensors").read_bytes() == model.read_bytes()
    same(ls.load(tmp_path / "shared"), model)
    assert description(tmp_path / "shared") == description(model)
    assert info(tmp_path / "shared").kind == info(model).kind == "checkpoint"


def test_a_file_that_is_not_the_one_pushed_is_refused(model, tmp_path):
    push(model, tmp_path / "shared")
    file = tmp_path / "shared" / "fcn.safetensors"
    other = load(file)
    name, values = next(iter(other.weights.items()))
    save(replace(other, weights={**other.weights, name: values + 1}), file)  # a valid file still
    load(file)
    with pytest.raises(BadFile, match="is not the one that was pushed: its SHA-256 is"):
        load(tmp_path / "shared")
    file.unlink()
    with pytest.raises(BadFile, match="names the model fcn.safetensors, which is not there"):
        load(tmp_path / "shared")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": "labelscape-model-1", "model": "../fcn.safetensors", "sha256": "DIGEST"}',
        '{"format": "labelscape-model-1", "model": "fcn.pth", "sha256": "DIGEST"}',
        '{"format": "labelscape-model-2", "model": "fcn.safetensors", "sha256": "DIGEST"}',
        '{"format": "labelscape-model-1", "model": "fcn.safetensors", "sha256": "12"}',
        '{"format": "labelscape-model-1", "model": 7, "sha256": "DIGEST"}',
    ],
)
def test_a_manifest_of_another_kind_reads_nothing(text, tmp_path):
    (tmp_path / "labelscape.json").write_text(text.replace("DIGEST", "0" * 64))
    with pytest.raises(BadFile, match="labelscape.json"):
        load(tmp_path)


def test_a_model_is_replaced_only_where_that_is_asked_for(model, tmp_path):
    push(model, tmp_path / "shared")
    before = (tmp_path / "shared" / "README.md").read_bytes()
    with pytest.raises(BadFile, match="lies in .* already; pass `overwrite=True`"):
        push(model, tmp_path / "shared", name="another")
    assert (tmp_path / "shared" / "README.md").read_bytes() == before
    push(model, tmp_path / "shared", name="another", overwrite=True)
    assert "# another" in (tmp_path / "shared" / "README.md").read_text()


def test_an_address_needs_a_fingerprint_that_it_keeps_to(model, tmp_path):
    digest = push(model, tmp_path / "shared").sha256
    with served(tmp_path / "shared") as address:
        same(load(f"{address}/fcn.safetensors#sha256={digest}"), model)
        same(load(f"{address}/#sha256={digest}"), model)
        with pytest.raises(BadOption, match="needs the SHA-256"):
            load(f"{address}/fcn.safetensors")
        with pytest.raises(BadOption, match="is not encrypted: use https, or add #sha256"):
            load(address)
        with pytest.raises(BadOption, match="after # only sha256="):
            load(f"{address}/fcn.safetensors#md5=3")
        other = "0" * 64
        with pytest.raises(BadFile, match="its SHA-256 is .*, expected 000000000000"):
            load(f"{address}/fcn.safetensors#sha256={other}")
        assert not (tmp_path / "cache" / "models" / other / "fcn.safetensors").exists()
        with pytest.raises(BadFile, match="holds another model"):
            load(f"{address}/#sha256={other}")
        with pytest.raises(BadFile, match="the server answers 404"):
            load(f"{address}/none.safetensors#sha256={other}")
    # From the cache, without the server; and not where the cache was changed.
    kept = tmp_path / "cache" / "models" / digest / "fcn.safetensors"
    same(load(f"{address}/fcn.safetensors#sha256={digest}"), model)
    kept.write_bytes(b"other")
    with pytest.raises(BadFile, match="cannot be read"):
        load(f"{address}/fcn.safetensors#sha256={digest}")


def test_a_model_travels_over_hugging_face(model, hub, tmp_path):
    done = push(model, "hf://owner/fields", license="CC-BY-4.0", private=True)
    assert done.place == "hf://owner/fields" and hub.private["owner/fields"] is True
    commits = hub.commits["owner/fields"]
    assert len(commits) == 2, "the empty repository, and all files at once"
    assert set(commits[-1][1]) == {".gitattributes", *done.files}
    same(ls.load("hf://owner/fields"), model)
    same(ls.load(f"hf:/owner/fields#sha256={done.sha256}"), model)  # as pathlib writes it
    readme = commits[-1][1]["README.md"].decode()
    assert readme.startswith("---\nlibrary_name: labelscape\n") and 'license: "cc-by-4.0"' in readme
    with pytest.raises(BadFile, match="lies in hf://owner/fields already"):
        push(model, "hf://owner/fields")
    assert len(hub.commits["owner/fields"]) == 2


def test_what_is_replaced_on_the_hub_is_refused(model, hub):
    first = push(model, "hf://owner/fields")
    commit = hub.commits["owner/fields"][-1][0]
    hub.commit("owner/fields", {"fcn.safetensors": b"something else"})
    with pytest.raises(BadFile, match="is not the one that was pushed"):
        load("hf://owner/fields")
    same(load(f"hf://owner/fields@{commit}"), model)
    with pytest.raises(BadFile, match="holds another model"):
        load(f"hf://owner/fields@{commit}#sha256={'0' * 64}")
    with pytest.raises(BadFile, match="hf://owner/none cannot be read"):
        load("hf://owner/none")
    with pytest.raises(BadOption, match="hf://owner is no repository"):
        load("hf://owner")
    with pytest.raises(BadOption, match="names a revision"):
        push(model, "hf://owner/fields@v1")
    assert first.sha256


def test_the_card_says_what_the_model_is(model, tmp_path):
    path, _ = write_card(model, tmp_path, license="CC-BY-4.0", name="Fields of the north")
    text = path.read_text()
    for line in (
        "# Fields of the north",
        "- Where on Earth north\\_\\[a\\]\\*.tif lies is not known here: no coordinates, or no such file now",
        "- Training: 300 steps (rate 0.001, batch 8, crop 64, seed 3)",
        "- Time: 18 min of training steps on cuda, 2 processes; energy and carbon were not measured",
        "| red | 4000 | 1500 | 1, 0 |",
        "| 3 | town | #",
        "Held out: 25 % of the labels, in blocks 128 pixels wide, 8 pixels around them unused (seed 3).",
        "12,345 labelled pixels.",
        "| mIoU | 50.00 | mean of IoU = TP / (TP + FP + FN) over the classes present",
        "| field | 41.00 | 58.00 | 60.00 | 56.00 | 5,000 |",
        "- Weak classes, IoU below 50 %: field.",
        "- Not measured, since no held-out pixel had them: town.",
        "## Licence\n\nCC-BY-4.0",
    ):
        assert line in text, line
    # The training scene lies in UTM zone 33, north of 52 degrees.
    assert re.search(r"- \w+\.tif: 1\d\.\d{4} to 1\d\.\d{4} degrees east, [45]\d\.\d{4} to", text)
    assert "/gone/" not in text and str(model.parent) not in text


def test_a_card_without_scores_or_licence_says_so(tmp_path):
    save(made(), tmp_path / "fcn.safetensors")
    text = write_card(tmp_path / "fcn.safetensors")[0].read_text()
    assert "None: the model was not scored" in text and "not stated: ask the authors" in text
    assert "\nlicense:" not in text
    with pytest.raises(BadOption, match="must be an SPDX identifier"):
        write_card(tmp_path / "fcn.safetensors", license="my own: do what you want")


def test_names_that_are_markup_stay_names(tmp_path):
    checkpoint = made(recipe={"data": {"images": ["a|b<script>.tif"]}})
    save(checkpoint, tmp_path / "fcn.safetensors")
    text = write_card(tmp_path / "fcn.safetensors")[0].read_text()
    assert "a\\|b\\<script\\>.tif" in text and "<script>" not in text


def test_the_item_is_one_of_the_extension_for_models(model, tmp_path):
    """As pystac reads it, which knows the extension of its own accord."""
    pystac = pytest.importorskip("pystac")
    from pystac.validation.local_validator import LocalValidator

    push(model, tmp_path / "shared", license="CC-BY-4.0", name="Fields of the north")
    found = json.loads((tmp_path / "shared" / "stac.json").read_text())
    validator = LocalValidator().item_validator(found["stac_version"])
    assert [e.message for e in validator.iter_errors(found)] == []
    fields, assets = found["properties"], found["assets"]
    # What the schema of version 1.5.2 asks for beyond the types of single fields.
    assert {f"mlm:{key}" for key in ("name", "architecture", "tasks", "input", "output")} <= fields.keys()
    assert not {"mlm:artifact_type", "mlm:entrypoint", "mlm:compile_method"} & fields.keys()
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", fields["mlm:name"])
    (given,), (gives,) = fields["mlm:input"], fields["mlm:output"]
    assert given["bands"] == ["red", "green", "nir"]
    # Bands of an input are described by an extension: STAC 1.1 allows none among an item's properties.
    assert [band["name"] for band in assets["model"]["raster:bands"]] == given["bands"]
    assert any("/raster/v1.1.0/" in url for url in found["stac_extensions"]) and "bands" not in fields
    assert given["input"] == {
        "shape": [-1, 3, -1, -1],
        "dim_order": ["batch", "bands", "height", "width"],
        "data_type": "float32",
    }
    assert given["value_scaling"][1] == {"type": "z-score", "mean": 4500.0, "stddev": 1600.0}
    assert gives["result"]["shape"][1] == 4
    assert gives["classification:classes"][0]["name"] == "water"
    assert "mlm:model" in assets["model"]["roles"] and assets["model"]["mlm:artifact_type"]
    assert "mlm:artifact_type" not in assets["card"]
    item = pystac.Item.from_dict(found, preserve_dict=False)
    if (mlm := pytest.importorskip("pystac.extensions.mlm")) is not None:
        ext = mlm.MLMExtension.ext(item, add_if_missing=True)
        assert [one.to_dict()["name"] for one in ext.input] == ["image"]
        assert ext.tasks == ["semantic-segmentation"]
    digest = json.loads((tmp_path / "shared" / "labelscape.json").read_text())["sha256"]
    assert assets["model"]["file:checksum"] == f"1220{digest}"
    west, south, east, north = found["bbox"]
    assert 10 < west < east < 20 and 40 < south < north < 60


def extension_errors(item):
    """What the schemas of an item's extensions say of it, without a connection."""
    jsonschema, referencing = pytest.importorskip("jsonschema"), pytest.importorskip("referencing")
    files = {
        "https://stac-extensions.github.io/{}/{}/schema.json".format(*path.stem.split("-")): json.loads(
            path.read_text()
        )
        for path in SCHEMAS.glob("*.json")
    }
    known = [(address, referencing.Resource.from_contents(content)) for address, content in files.items()]
    registry = referencing.Registry().with_resources(known)
    assert item["stac_extensions"] and set(item["stac_extensions"]) <= files.keys()
    return [
        error.message
        for address in item["stac_extensions"]
        for error in jsonschema.Draft7Validator(files[address], registry=registry).iter_errors(item)
    ]


@pytest.mark.parametrize("known", [True, False])
def test_the_item_is_valid_by_the_schemas_of_its_extensions(known, model, tmp_path):
    if not known:
        save(made(), tmp_path / "fcn.safetensors")
        model = tmp_path / "fcn.safetensors"
    push(model, tmp_path / "shared", license="CC-BY-4.0", name="Fields of the north")
    item = json.loads((tmp_path / "shared" / "stac.json").read_text())
    assert extension_errors(item) == []
    for key, wrong in (("mlm:tasks", ["mapping"]), ("mlm:input", [{}]), ("mlm:name", 3)):
        broken = {**item, "properties": {**item["properties"], key: wrong}}
        assert extension_errors(broken), key
    broken = json.loads(json.dumps(item))
    broken["assets"]["model"]["raster:bands"][0]["data_type"] = "float12"
    broken["assets"]["model"]["file:checksum"] = "sha256"
    assert len(extension_errors(broken)) >= 2


def test_a_model_whose_place_is_not_known_says_so_in_its_item(tmp_path):
    save(made(), tmp_path / "fcn.safetensors")
    item = json.loads(write_card(tmp_path / "fcn.safetensors")[1].read_text())
    assert item["bbox"] == [-180, -90, 180, 90]
    assert "where it was trained is not known" in item["properties"]["description"]
    assert item["properties"]["license"] == "other" and item["properties"]["mlm:name"] == "fcn"


def test_verbs_take_the_place_for_the_model(model, tmp_path, run_cli):
    code, out, _ = run_cli("push", model, tmp_path / "shared", "--json")
    assert code == 0 and json.loads(out)["files"][0] == "fcn.safetensors"
    shown = run_cli("info", tmp_path / "shared")
    assert shown[0] == 0 and shown == run_cli("info", tmp_path / "shared" / "fcn.safetensors")
    code, out, _ = run_cli("export", tmp_path / "shared", "--to", "card", "--out", tmp_path / "cards")
    assert code == 0 and (tmp_path / "cards" / "fcn_card.md").exists()
