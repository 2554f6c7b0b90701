"""An exported model maps to the class map of its checkpoint; what is none of ours is refused."""

import io
import json
import os
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
import rasterio
import torch
import world
from interrupted import stopped_after_a_tile

from labelscape import exported_formats
from labelscape.checkpoint import Checkpoint, description, fingerprint, load, save
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.export import model as export
from labelscape.export.model import export_model
from labelscape.maps.plan import check
from labelscape.maps.rerun import rerun
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.scoring.arrays import as_numpy
from labelscape.scoring.engines import build_network, state_arrays
from labelscape.scoring.scorer import Scorer, predict

QUIET = {"polygons": False, "report": False, "force": True, "device": "cpu"}
WIDTHS = {"widths": (4, 6, 8, 10)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def scene(folder):
    """More than one tile of 384 in each direction, with nodata."""
    return world.make(folder, 430, 500, bands=3, name="one", nodata=0).scene


def made(network: str, scene, options: dict, **fields) -> Checkpoint:
    torch.manual_seed(1)
    net = create_model(network, in_channels=3, classes=3, **options)
    with rasterio.open(scene) as file:
        pixels = file.read().astype(float)
    scaling = tuple((float(band.mean()), float(band.std())) for band in pixels)
    contract = replace(world.contract_like(scene), normalisation=scaling)
    return Checkpoint(network, dict(options), state_arrays(net), world.LEGEND, contract, **fields)


@pytest.fixture(scope="module")
def fcn(folder, scene):
    return save(made("fcn", scene, WIDTHS, temperature=1.5), folder / "fcn.safetensors")


def classes_of(model, scene, out, **settings) -> np.ndarray:
    result = map_scene(model, scene, out, **{**QUIET, **settings})
    with rasterio.open(result.paths["class"]) as file:
        return file.read(1)


@pytest.mark.parametrize(
    "how", [{"size": 384}, {"dynamic": True, "normalise": "outside"}], ids=["fixed", "dynamic"]
)
def test_the_map_of_an_exported_model_is_that_of_its_checkpoint(how, fcn, scene, folder, tmp_path):
    wanted = classes_of(fcn, scene, tmp_path / "torch")
    assert len(np.unique(wanted)) >= 3  # nodata too
    exported = export_model(fcn, tmp_path / "m.onnx", **how).path
    result = map_scene(exported, scene, tmp_path / "onnx", **QUIET)
    with rasterio.open(result.paths["class"]) as file:
        np.testing.assert_array_equal(file.read(1), wanted)
    run = json.loads(result.paths["run"].read_text())
    assert run["engine"].startswith("onnxruntime ") and run["network"] == "fcn"
    # Named or not, it is the same engine.
    again = rerun(result.paths["run"], tmp_path / "again")
    assert again.paths["class"].read_bytes() == result.paths["class"].read_bytes()


ENGINES = {".xml": "openvino", ".pt2": "torch"}


@pytest.mark.parametrize("ending", ENGINES)
def test_the_map_of_another_format_is_that_of_the_checkpoint(ending, fcn, scene, tmp_path):
    if ending == ".xml":
        pytest.importorskip("openvino")
    to = {".xml": "openvino", ".pt2": "pt2"}[ending]
    exported = export_model(fcn, tmp_path / f"m{ending}", to=to, size=384).path
    wanted = classes_of(fcn, scene, tmp_path / "torch", engine="torch")
    result = map_scene(exported, scene, tmp_path / "other", **QUIET)
    with rasterio.open(result.paths["class"]) as file:
        assert file.read(1).tobytes() == wanted.tobytes()
    engine = json.loads(result.paths["run"].read_text())["engine"]
    assert engine.partition(" ")[0] == ENGINES[ending]
    again = rerun(result.paths["run"], tmp_path / "again")
    for kind in ("class", "confidence"):
        assert again.paths[kind].read_bytes() == result.paths[kind].read_bytes()
    both = [check(one, scene, timing=False, device="cpu") for one in (exported, fcn)]
    assert both[0].findings == both[1].findings and both[0].plan.tiles == 9
    loaded, checkpoint = load(exported), load(fcn)
    assert (loaded.legend, loaded.contract) == (checkpoint.legend, checkpoint.contract)
    assert loaded.exported.facts.sha256 == fingerprint(checkpoint)


def repacked(path, to, change):
    """A .pt2 file whose parts were changed, by name."""
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"m/{name}", content)
    return to


class Ran:
    """Unpickling it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


PROGRAM, ARRAYS = "models/model.json", "data/weights/model_weights_config.json"
SWAPS = {
    "name": (PROGRAM, b"torch.ops.aten.softmax.int", b"torch.os.system", "calls 'torch.os.system'"),
    "other": (PROGRAM, b"torch.ops.aten.softmax.int", b"torch.ops.prim.Print.default", "no operator"),
    "text": (PROGRAM, b'{"as_int": 1}', b'{"as_string": "/etc/passwd"}', "given the text '/etc/passwd'"),
    "size": (PROGRAM, b'{"as_int": 1}', b'{"as_expr": {"expr_str": "f()"}}', "may run code"),
    "object": (PROGRAM, b'{"as_int": 1}', b'{"as_custom_obj": {}}', "may run code"),
    "shape": (PROGRAM, b"builtins.dict", b"collections.defaultdict", "does not take one image"),
    "pickle": (ARRAYS, b'"use_pickle": false', b'"use_pickle": true', "stored as a pickle"),
    "path": (ARRAYS, b'"weight_0"', b'"../weight_0"', "stored as a pickle"),
    "missing": (ARRAYS, b'"weight_0"', b'"weight_999"', "cannot be used"),
}


@pytest.fixture(scope="module")
def program(fcn, folder):
    return export_model(fcn, folder / "program.pt2", to="pt2", size=64).path


@pytest.mark.parametrize("kind", SWAPS)
def test_a_program_with_more_than_a_network_is_refused(kind, program, tmp_path):
    name, before, after, words = SWAPS[kind]

    def change(parts):
        assert before in parts[name]
        parts[name] = parts[name].replace(before, after, 1)

    changed = repacked(program, tmp_path / "m.pt2", change)
    with pytest.raises(BadFile, match=f"m.pt2 cannot be used.*{words}" if kind != "missing" else words):
        Scorer.of(changed, device="cpu")


def test_pickles_in_a_program_are_not_read(program, fcn, scene, tmp_path):
    place, made = tmp_path / "ran", io.BytesIO()
    torch.save(Ran(place), made)

    def change(parts):
        parts |= dict.fromkeys(("data/sample_inputs/model.pt", "data/weights/model.pt"), made.getvalue())
        parts["data/constants/model.pt"] = made.getvalue()

    changed = repacked(program, tmp_path / "m.pt2", change)
    pixels = np.random.default_rng(1).uniform(50, 200, (3, 64, 64))
    np.testing.assert_allclose(predict(changed, pixels), predict(fcn, pixels), atol=1e-4)
    assert not place.exists()
    with pytest.raises(FileExistsError):  # it would have run
        place.mkdir()
        torch.load(io.BytesIO(made.getvalue()), weights_only=False)


def test_damaged_programs_and_those_of_others_are_refused(program, tmp_path, run_cli):
    code, out, _ = run_cli("info", program)
    assert code == 0 and "water" in out
    half = tmp_path / "half.pt2"
    half.write_bytes(program.read_bytes()[:5000])
    with pytest.raises(BadFile, match="no model of torch.export, or is damaged"):
        load(half)
    other = repacked(program, tmp_path / "other.pt2", lambda parts: parts.pop("extra/labelscape"))
    with pytest.raises(BadFile, match="only files of `labelscape export`"):
        load(other)
    with pytest.raises(BadInput, match="This model of torch.export takes 64 x 64 pixels, and was given 80"):
        Scorer.of(program, device="cpu").members[0].engine.forward(np.zeros((1, 3, 80, 80), np.float32))


def test_an_openvino_model_of_any_size_gives_the_probabilities_of_the_checkpoint(fcn, folder, scene):
    pytest.importorskip("openvino")
    exported = export_model(fcn, folder / "any.xml", to="openvino", dynamic=True, normalise="outside").path
    with rasterio.open(scene) as file:
        pixels = file.read(window=((100, 167), (100, 191)))
    np.testing.assert_allclose(predict(exported, pixels), predict(fcn, pixels), atol=1e-4)


def test_an_openvino_model_without_its_own_weights_is_refused(fcn, scene, tmp_path, monkeypatch, run_cli):
    pytest.importorskip("openvino")
    exported = export_model(fcn, tmp_path / "m.xml", to="openvino", size=64).path
    weights, whole = exported.with_suffix(".bin").read_bytes(), exported.read_bytes()
    code, out, _ = run_cli("info", exported)
    assert code == 0 and "water" in out and f"labelscape map {exported} SCENE" in out
    for damaged in (weights[:-4], weights[:-4] + b"\0\0\0\1"):
        exported.with_suffix(".bin").write_bytes(damaged)
        with pytest.raises(BadFile, match=r"m.bin does not belong to m.xml, or is damaged"):
            load(exported)
    exported.with_suffix(".bin").unlink()
    code, _, said = run_cli("map", exported, scene, "--out", tmp_path / "out")
    assert code and "m.bin beside it, which cannot be read" in said and "Traceback" not in said
    exported.with_suffix(".bin").write_bytes(weights)
    for content, words in (
        (whole[: len(whole) // 2], "no OpenVINO model"),
        (b"<?xml version='1.0'?><Level-2A_User_Product/>", "does not begin as one"),
        (whole.replace(b"labelscape_weights", b"another"), "does not say the SHA-256 of m.bin"),
        (whole.replace(b"labelscape_export", b"others"), "only files of `labelscape export`"),
    ):
        exported.write_bytes(content)
        with pytest.raises(BadFile, match=words):
            load(exported)
    exported.write_bytes(whole)
    with pytest.raises(BadOption, match=r"no effect on an OpenVINO model"):
        map_scene(exported, scene, tmp_path / "out", **QUIET, precision="bf16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    exported_formats._core.cache_clear()
    with pytest.raises(BadOption, match=r"pip install 'labelscape\[openvino\]'"):
        load(exported)


@pytest.mark.long
def test_blended_tiles_of_the_learned_size_are_the_same(scene, tmp_path):
    options = {"backbone": "resnet10t", "spatial": 8}
    checkpoint = save(made("ifbfnet", scene, options, recipe={"crop": 256}), tmp_path / "m.safetensors")
    exported = export_model(checkpoint)
    assert exported.size == 256
    wanted = classes_of(checkpoint, scene, tmp_path / "torch")
    np.testing.assert_array_equal(classes_of(exported.path, scene, tmp_path / "onnx"), wanted)


def test_probabilities_are_calibrated_once_and_any_size_is_padded(fcn, folder, scene):
    exported = export_model(fcn, folder / "any.onnx", dynamic=True).path
    with rasterio.open(scene) as file:
        pixels = file.read(window=((100, 167), (100, 191)))
    np.testing.assert_allclose(predict(exported, pixels), predict(fcn, pixels), atol=1e-4)
    flips = {"protocol": Scorer.of(fcn).protocol.__class__(tta="flips")}
    both = (Scorer.of(one, device="cpu", **flips).score(pixels) for one in (exported, fcn))
    np.testing.assert_allclose(*map(as_numpy, both), atol=1e-4)


def test_what_an_exported_model_cannot_do_is_refused(fcn, folder, scene, tmp_path):
    exported = export_model(fcn, folder / "fixed.onnx", size=384).path
    for settings, words in (
        ({"precision": "bf16"}, "no effect on an ONNX model"),
        ({"device": "cuda"}, "cannot run an ONNX model"),
        ({"engine": "openvino"}, "networks of torch only"),
    ):
        with pytest.raises(BadOption, match=words):
            map_scene(exported, scene, tmp_path / "a", **{**QUIET, **settings})
    with pytest.raises(BadInput, match="takes 384 x 384 pixels, and was given 400"):
        map_scene(exported, scene, tmp_path / "b", **QUIET, tile_size=400)
    with pytest.raises(BadFile, match="an ONNX model, without .* needs the checkpoint that it was made of"):
        map_scene(exported, scene, tmp_path / "b", **QUIET, unfamiliar=True)
    loaded = load(exported)
    with pytest.raises(BadFile, match="needs the checkpoint that it was made of"):
        build_network(loaded)
    with pytest.raises(BadOption, match="cannot be saved"):
        save(loaded, tmp_path / "c.safetensors")
    assert description(exported)["network"] == "fcn"


@pytest.mark.parametrize(("ending", "reader"), [(".onnx", "session"), (".pt2", "pt2_entries")])
def test_too_little_memory_is_no_damage_of_the_file(ending, reader, fcn, program, folder, monkeypatch):
    path = program if ending == ".pt2" else export_model(fcn, folder / "memory.onnx", size=64).path

    def failing(*arguments):
        raise MemoryError

    monkeypatch.setattr(exported_formats, reader, failing)
    with pytest.raises(MemoryError):
        load(path)


def changed(path, to, change):
    model = onnx.load(path)
    fields = {p.key: p.value for p in model.metadata_props}
    change(fields)
    onnx.helper.set_model_props(model, fields)
    onnx.save(model, to)
    return to


def test_it_is_described_and_checked_as_its_checkpoint(fcn, folder, scene, run_cli):
    exported = export_model(fcn, folder / "said.onnx", size=384).path
    code, out, _ = run_cli("info", exported)
    assert code == 0 and "water" in out and f"labelscape map {exported} SCENE" in out
    both = [check(one, scene, timing=False, device="cpu") for one in (exported, fcn)]
    assert both[0].findings == both[1].findings and both[0].plan.tiles == 9


def test_an_interrupted_map_goes_on_with_the_exported_model_alone(fcn, folder, scene, tmp_path, monkeypatch):
    exported = export_model(fcn, folder / "begun.onnx", size=384).path
    whole = map_scene(exported, scene, tmp_path / "whole", **QUIET)
    stopped_after_a_tile(monkeypatch, exported, scene, tmp_path / "out", **QUIET)
    with pytest.raises(BadFile, match="another checkpoint"):
        map_scene(fcn, scene, tmp_path / "out", **QUIET)
    resumed = map_scene(exported, scene, tmp_path / "out", **QUIET)
    assert resumed.resumed
    for kind in ("class", "confidence"):
        assert resumed.paths[kind].read_bytes() == whole.paths[kind].read_bytes()


def test_a_scene_smaller_than_the_images_of_a_model_is_said_to_be_padded(fcn, folder, scene, tmp_path):
    exported = export_model(fcn, folder / "large.onnx", size=448).path
    (line,) = check(exported, scene, timing=False, device="cpu").warnings
    assert "430 pixels are padded to the 448" in line and "--dynamic" in line
    assert check(fcn, scene, timing=False, device="cpu").warnings == ()


def test_an_area_of_a_scene_is_not_said_to_be_padded(fcn, folder, scene, tmp_path):
    """What the network sees lies around it, in tiles of the whole scene."""
    exported, area = export_model(fcn, folder / "of_area.onnx", size=384).path, tmp_path / "area.geojson"
    with rasterio.open(scene) as file:
        x, y = file.transform @ (200, 210)
        ring = [[x, y], [x + 80, y], [x + 80, y - 80], [x, y - 80], [x, y]]
        crs = {"type": "name", "properties": {"name": str(file.crs)}}
    polygon = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    area.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [polygon]}))
    found = check(exported, scene, area=area, timing=False, device="cpu")
    assert found.warnings == () and found.plan.tiles <= 4


def test_images_too_small_for_what_a_class_depends_on_are_said_to_be_blended(fcn, folder, scene):
    exported = export_model(fcn, folder / "tiny.onnx", size=64, overwrite=True).path
    (line,) = check(exported, scene, timing=False, device="cpu").warnings
    assert "images of 64 pixels" in line and "tiles are blended" in line and "(--dynamic)" in line


@pytest.mark.parametrize("size", [128, 256, 320])
def test_images_of_another_size_than_the_checkpoint_maps_with_are_told(size, scene, tmp_path):
    """Smaller and larger ones: of a network that sees the whole image both give another map."""
    options = {"backbone": "resnet10t", "spatial": 8}
    checkpoint = save(made("ifbfnet", scene, options, recipe={"crop": 256}), tmp_path / "m.safetensors")
    exported = export_model(checkpoint, size=size).path
    lines = check(exported, scene, timing=False, device="cpu").warnings
    if size == 256:
        assert not lines
        return
    (line,) = lines
    assert f"images of {size} pixels" in line and "of 256 pixels (--size)" in line
    assert "Leave the tile size out" not in line


OTHERS = {
    "a class less": (
        "labelscape",
        lambda f: f["legend"].pop(),
        r"gives .*3, .* by the description \(any, 2, ",
    ),
    "a band more": (
        "labelscape",
        lambda f: (f["bands"].append("4"), f["normalisation"].append([1.0, 1.0])),
        r"takes .*3, .* by the description \(any, 4, ",
    ),
    "another size": ("labelscape_export", lambda f: f.update(size=96), r"takes .*64, .*96, 96\)"),
}


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_description_of_another_graph_is_refused_before_anything_is_mapped(
    other, ending, fcn, tmp_path, monkeypatch
):
    key, change, words = OTHERS[other]
    real = export._metadata

    def told(*given, **more):
        fields = json.loads((found := real(*given, **more))[key])
        change(fields)
        return {**found, key: json.dumps(fields)}

    monkeypatch.setattr(export, "_metadata", told)
    to = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}[ending]
    exported = export_model(fcn, tmp_path / f"m{ending}", to=to, size=64).path
    for read in (load, description):
        with pytest.raises(BadFile, match=f"not the model that its description tells of: its graph {words}"):
            read(exported)


def test_what_a_graph_does_not_say_of_itself_is_seen_when_it_is_run(fcn, folder):
    exported = load(export_model(fcn, folder / "says.onnx", size=64).path)
    engine = Scorer.of(exported, device="cpu").members[0].engine
    odd = replace(engine, classes=2)
    with pytest.raises(BadFile, match="it is not the one of 2 classes that its description tells of"):
        odd.forward(np.zeros((1, 3, 64, 64), np.float32))


def test_weights_in_another_file_are_not_read(fcn, tmp_path):
    """Whatever they name: the message says what to do."""
    model = onnx.load(export_model(fcn, tmp_path / "m.onnx", size=64).path)
    onnx.save_model(
        model, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0
    )
    with pytest.raises(
        BadFile, match=r"another file \(external data\), which is not read: save the model as"
    ):
        load(tmp_path / "e.onnx")


@pytest.mark.parametrize("more", [(), ("--unfamiliar",)])
def test_an_exported_model_is_not_calibrated(more, scene, folder, run_cli):
    """Told before minutes of prediction, whose result could not be stored."""
    recipe = {"data": {"images": [str(scene)], "labels": ["gone.gpkg"]}}
    checkpoint = save(made("fcn", scene, WIDTHS, recipe=recipe), folder / f"learned{len(more)}.safetensors")
    exported = export_model(checkpoint, folder / "learned.onnx", size=64, overwrite=True).path
    code, _, err = run_cli("calibrate", exported, *more)
    assert code == 2 and "is an ONNX model" in err and "calibrate the checkpoint that it was made of" in err


@pytest.mark.parametrize("ending", [".onnx", ".bin", ".pt2"])
def test_a_byte_of_the_weights_that_is_another_is_seen(ending, fcn, folder, tmp_path):
    to, name = {".onnx": ("onnx", "b.onnx"), ".bin": ("openvino", "b.xml"), ".pt2": ("pt2", "b.pt2")}[ending]
    model = export_model(fcn, tmp_path / name, to=to, size=64).path
    load(model)
    file = model.with_suffix(ending)
    content = bytearray(file.read_bytes())
    # In the middle of a file lie weights, of which any bytes are numbers.
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadFile, match="damaged"):
        load(model)


def test_models_of_others_and_damaged_ones_are_refused(fcn, folder, tmp_path):
    exported = export_model(fcn, folder / "good.onnx", size=64).path
    (tmp_path / "half.onnx").write_bytes(exported.read_bytes()[:1000])
    (tmp_path / "no.onnx").write_text("no model")
    damages = {
        "other": (lambda f: f.pop("labelscape"), "only files of `labelscape export`"),
        "later": (
            lambda f: f.update(labelscape=f["labelscape"].replace("labelscape-1", "labelscape-9")),
            "version",
        ),
        "json": (lambda f: f.update(labelscape="{"), "damaged description"),
        "facts": (
            lambda f: f.update(labelscape_export=f["labelscape_export"].replace("16", "-16")),
            "damaged",
        ),
    }
    for name, (change, words) in damages.items():
        with pytest.raises(BadFile, match=words):
            load(changed(exported, tmp_path / f"{name}.onnx", change))
    for name in ("half", "no"):
        with pytest.raises(BadFile, match="no ONNX model that onnxruntime can run"):
            load(tmp_path / f"{name}.onnx")
    with pytest.raises(BadFile, match="does not exist"):
        load(tmp_path / "nowhere.onnx")
