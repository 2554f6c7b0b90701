"""Every network of the catalogue as ONNX gives what torch gives, or nothing is written; the metadata are what
QGIS Deepness and GeoDeep read.
"""

import copy
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import HEADS, SMALL

from labelscape.checkpoint import Checkpoint, SecondTask, load, save
from labelscape.checkpoint_schema import check_description
from labelscape.contract.contract import Contract
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.export import model as export
from labelscape.export.model import export_model
from labelscape.exported import Facts
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.onnx_graph import MatrixPool, shares
from labelscape.scoring.scorer import predict

BANDS = ("red", "green", "nir")


def made(network="fcn", bands=BANDS, **fields) -> Checkpoint:
    torch.manual_seed(0)
    options = SMALL[network]
    net = create_model(network, in_channels=len(bands), classes=4, **options)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    scaling = tuple((4000.0 + 500 * n, 1500.0 + 100 * n) for n in range(len(bands)))
    contract = Contract(bands=bands, dtype="uint16", normalisation=scaling, pixel_size=10.0)
    legend = Legend.of_names(["water", "field", "forest", "town"])
    return Checkpoint(network, dict(options), state_arrays(net), legend, contract, **fields)


def ran(path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.astype(np.float32)})[0]


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(500, 9000, (len(BANDS), height, width)).astype(np.uint16)


OWN_FORMS = ("unpooling", "dgcwnet", "pspnet", "dfcnet")
"""Networks with an operator that torch's exporter does not know, or whose number of images it would fix."""


@pytest.mark.parametrize(
    "network", [n if n in OWN_FORMS else pytest.param(n, marks=pytest.mark.long) for n in SMALL]
)
def test_onnxruntime_gives_what_torch_gives(network, tmp_path):
    checkpoint = made(network, temperature=1.7)
    done = export_model(checkpoint, tmp_path / "m.onnx", size=64)
    pixels = [scene(64, 64, seed) for seed in range(3)]
    found = ran(done.path, np.stack(pixels))  # three at once: the batch is free
    for one, wanted in zip(found, pixels):
        np.testing.assert_allclose(one, predict(checkpoint, wanted), atol=1e-4)
    assert done.difference <= 1e-4 and done.changed == 0


@pytest.mark.parametrize("network", ["fcn", "unpooling", "dgcwnet"])
def test_a_dynamic_network_takes_any_multiple_of_its_stride(network, tmp_path):
    checkpoint = made(network)
    done = export_model(checkpoint, tmp_path / "m.onnx", dynamic=True)
    for height, width in ((96, 160), (32, 224)):
        pixels = scene(height, width)
        np.testing.assert_allclose(ran(done.path, pixels[None])[0], predict(checkpoint, pixels), atol=1e-4)


@pytest.mark.parametrize("network", ["fcn", "ifbfnet", "dfcnet"])
def test_images_that_are_no_multiple_of_the_stride_are_padded_as_in_torch(network, tmp_path):
    """`ifbfnet` pads to less than its stride, `dfcnet` by one pixel more."""
    checkpoint, pixels = made(network), scene(75, 109)
    done = export_model(checkpoint, tmp_path / "m.onnx", dynamic=True)
    np.testing.assert_allclose(predict(load(done.path), pixels), predict(checkpoint, pixels), atol=1e-5)


def test_a_network_whose_sizes_are_fixed_is_refused_with_a_cure(tmp_path):
    with pytest.raises(BadInput, match=r"pspnet cannot be exported.*adaptive_avg_pool2d.*fixed `size`"):
        export_model(made("pspnet"), tmp_path / "m.onnx", dynamic=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_gives_something_else_is_not_kept(tmp_path, monkeypatch):
    checkpoint = made()
    right = export.Graph.forward
    monkeypatch.setattr(export.Graph, "forward", lambda self, image: right(self, image.flip(1)))
    with pytest.raises(BadInput, match="not what torch computes.*differ from torch's by up to"):
        export_model(checkpoint, tmp_path / "m.onnx", size=64)
    assert list(tmp_path.iterdir()) == []


def with_loud_scores(times):
    """A network whose scores are so large that rounding shows in their probabilities."""
    checkpoint = made()
    louder = {
        name: value * np.float32(times) if name.startswith("head.score") else value
        for name, value in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=louder)


@pytest.mark.parametrize(("off", "kept"), [(0.0, True), (0.01, False)])
def test_what_rounds_otherwise_than_torch_is_kept_where_it_is_as_near_to_the_truth(
    off, kept, tmp_path, monkeypatch
):
    checkpoint = with_loud_scores(20_000)
    written = export._written

    def in_64_bits(to, graph, *more):
        """The best of all files: it has no rounding of its own."""
        net = copy.deepcopy(graph.net).double()

        def run(images):
            return net(graph.scaled(images).double()).softmax(1).float() + off

        return written(to, graph, *more)[0], run

    monkeypatch.setattr(export, "_written", in_64_bits)
    if not kept:
        with pytest.raises(BadInput, match="not what torch computes"):
            export_model(checkpoint, tmp_path / "m.onnx", size=64)
        return
    done = export_model(checkpoint, tmp_path / "m.onnx", size=64)
    assert done.difference > 2e-4  # of torch, which is what is said


def test_an_operator_without_a_form_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export.Graph, "forward", lambda self, image: torch.fft.fft2(image).real)
    with pytest.raises(BadInput, match=r"fcn cannot be exported to ONNX \(opset 17\).*fft"):
        export_model(made(), tmp_path / "m.onnx", size=64)


@pytest.mark.parametrize(
    ("scaling", "given"),
    [
        ("inside", lambda pixels, mean, std: pixels),
        ("outside", lambda pixels, mean, std: (pixels - mean) / std),
        ("unit", lambda pixels, mean, std: pixels / np.float32(255)),
    ],
)
def test_the_input_is_scaled_as_asked_for(scaling, given, tmp_path):
    checkpoint = made()
    mean, std = (np.array(c, np.float32).reshape(-1, 1, 1) for c in zip(*checkpoint.contract.normalisation))
    done = export_model(checkpoint, tmp_path / "m.onnx", size=64, normalise=scaling)
    pixels = scene(64, 64)
    images = given(pixels.astype(np.float32), mean, std)[None]
    np.testing.assert_allclose(ran(done.path, images)[0], predict(checkpoint, pixels), atol=1e-4)


@pytest.mark.parametrize("opset", [14, 20])
def test_the_version_of_the_operators_is_that_asked_for(opset, tmp_path):
    checkpoint = made()
    done = export_model(checkpoint, tmp_path / "m.onnx", size=64, opset=opset)
    assert [one.version for one in onnx.load(done.path).opset_import if not one.domain] == [opset]
    pixels = scene(64, 64)
    np.testing.assert_allclose(ran(done.path, pixels[None])[0], predict(checkpoint, pixels), atol=1e-4)


def test_half_precision_is_half_the_size_and_near(tmp_path):
    checkpoint = made("mlp")
    full = export_model(checkpoint, tmp_path / "full.onnx", size=64)
    half = export_model(checkpoint, tmp_path / "half.onnx", size=64, dtype="float16")
    assert half.bytes < 0.9 * full.bytes and 1e-4 < half.difference < 0.02


DEEPNESS = {"model_type", "class_names", "resolution", "tile_size", "tiles_size", "tiles_overlap"}
DEEPNESS |= {"seg_thresh", "seg_small_segment", "standardization_mean", "standardization_std"}


def test_metadata_are_what_deepness_and_geodeep_read(tmp_path):
    done = export_model(made(), tmp_path / "m.onnx", size=64, normalise="outside")
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    read = {key: json.loads(text) for key, text in meta.items()}
    assert read["model_type"] == "Segmentor"
    assert read["class_names"] == {"0": "water", "1": "field", "2": "forest", "3": "town"}
    assert read["resolution"] == 1000  # centimetres
    assert read["tile_size"] == read["tiles_size"] == 64
    assert isinstance(read["tiles_overlap"], int) and 0 < read["tiles_overlap"] <= 50  # per cent
    assert read["seg_thresh"] == 0 and read["seg_small_segment"] == 0
    assert read.keys() == DEEPNESS | {"labelscape", "labelscape_export", "labelscape_graph"}
    # GeoDeep reads some as they stand, without JSON.
    assert all(float(meta[key]) == read[key] for key in ("resolution", "tiles_overlap"))
    # Deepness: (value / 255 - mean) / std
    np.testing.assert_allclose(read["standardization_mean"], np.array([4000, 4500, 5000]) / 255)
    np.testing.assert_allclose(read["standardization_std"], np.array([1500, 1600, 1700]) / 255)
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    assert session.get_outputs()[0].shape[1:] == [4, 64, 64]


def test_the_checkpoints_own_header_travels_along(tmp_path):
    checkpoint = made()
    meta = onnxruntime.InferenceSession(export_model(checkpoint, tmp_path / "m.onnx").path)
    meta = meta.get_modelmeta().custom_metadata_map
    fields = json.loads(meta["labelscape"])
    assert fields == json.loads(json.dumps(checkpoint.describe()))
    fields.pop("format")
    check_description(fields)
    facts = Facts.from_dict(json.loads(meta["labelscape_export"]))
    assert (facts.size, facts.stride, facts.normalise, facts.dtype) == (512, 16, "inside", "float32")


def test_the_same_network_gives_the_same_bytes(tmp_path):
    paths = [export_model(made(), tmp_path / f"{n}.onnx", size=64).path for n in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_second_task_is_exported_alone(tmp_path):
    legend = Legend.of_names(["other", "road"])
    checkpoint = made("dfcnet")
    mate = SecondTask("road", legend, replace(checkpoint.contract, pixel_size=1.0))
    both = replace(checkpoint, mate=mate)
    path = save(both, tmp_path / "both.safetensors")
    done = export_model(path, task="road", size=64)
    assert done.path.name == "both_road.onnx"
    pixels = scene(64, 64)
    np.testing.assert_allclose(ran(done.path, pixels[None])[0], predict(path, pixels, task="road"), atol=1e-4)
    assert HEADS["dfcnet"]["mate"] == len(legend)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"to": "tflite"}, UnknownName, "tflite"),
        ({"dtype": "int4"}, UnknownName, "int4"),
        ({"normalise": "both"}, UnknownName, "both"),
        ({"opset": 9}, BadOption, "from 14 to 20"),
        ({"size": 64, "dynamic": True}, BadOption, "exclude each other"),
        ({"size": 100}, BadOption, "multiple of 16 for fcn; try 96"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_model(made(), tmp_path / "m.onnx", **settings)


def test_a_file_that_exists_is_kept(tmp_path):
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(BadFile, match="exists"):
        export_model(made(), tmp_path / "m.onnx")
    with pytest.raises(BadOption, match="`out` is needed"):
        export_model(made())


@pytest.mark.parametrize(("pixels", "cells"), [(16, 6), (7, 3), (6, 6), (64, 1), (2, 3)])
def test_shares_are_torchs_adaptive_pooling(pixels, cells):
    line = torch.randn(1, 2, pixels, 5)
    wanted = torch.nn.functional.adaptive_avg_pool2d(line, (cells, 2))
    torch.testing.assert_close(MatrixPool(cells, 2)(line), wanted)
    torch.testing.assert_close(shares(pixels, cells).sum(1), torch.ones(cells))


def test_memory_between_two_sizes_lies_on_the_line():
    facts = Facts("inside", "float32", None, 8, 84, ((100, 1000), (300, 2000)), "")
    assert [facts.peak_bytes(n) for n in (100, 200, 300, 500)] == [1000, 1500, 2000, 3000]


def test_the_command_line_exports_beside_the_checkpoint(run_cli, tmp_path):
    path = save(made(), tmp_path / "m.safetensors")
    code, out, _ = run_cli("export", path, "--size", 64, "--json")
    assert code == 0 and json.loads(out)["path"] == str(tmp_path / "m.onnx")
    assert json.loads(out)["size"] == 64
    assert run_cli("export", path, "--size", 64)[0] == 1  # it exists
    code, out, _ = run_cli("export", path, "--dynamic", "--overwrite")
    assert code == 0 and "any multiple of 16 pixels" in out
    assert load(path).network == "fcn"
