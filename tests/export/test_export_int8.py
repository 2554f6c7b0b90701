"""A network in 8-bit integers is scored beside full precision on its own held-out labels, and kept only where
it is as good; the file is mapped and scored as others are.
"""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
from small_networks import SMALL

from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadInput, BadOption
from labelscape.export import int8
from labelscape.export.int8 import Check
from labelscape.export.model import export_model
from labelscape.export.quantised import scoring_nodes
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import predict
from labelscape.training.evaluate import evaluate

NAMES = ("water", "field", "forest")


def made(recipe: dict | None = None) -> Checkpoint:
    torch.manual_seed(0)
    net = create_model("fcn", in_channels=3, classes=3, **SMALL["fcn"])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    contract = Contract(bands=("red", "green", "blue"), dtype="uint8", normalisation=((100.0, 40.0),) * 3)
    legend = Legend.of_names(NAMES)
    return Checkpoint("fcn", dict(SMALL["fcn"]), state_arrays(net), legend, contract, recipe=recipe or {})


def smooth(seed: int, side: int = 256) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(20, 180, (3, side // 16, side // 16))
    return coarse.repeat(16, 1).repeat(16, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Checkpoint, np.ndarray]:
    """A checkpoint whose recipe names a scene, with the classes it predicts there for labels."""
    folder = tmp_path_factory.mktemp("int8")
    pixels = smooth(0)
    classes = predict(made(), pixels).argmax(0).astype(np.uint8)
    profile = {"driver": "GTiff", "width": 256, "height": 256, "dtype": "uint8"}
    with rasterio.open(folder / "scene.tif", "w", count=3, **profile) as file:
        file.write(pixels)
    with rasterio.open(folder / "labels.tif", "w", count=1, **profile) as file:
        file.write(classes, 1)
    data = {
        "images": [str(folder / "scene.tif")],
        "labels": [str(folder / "labels.tif")],
        "classes": {name: value for value, name in enumerate(NAMES)},
        "block": 64,
    }
    path = save(made({"data": data, "seed": 0}), folder / "fcn.safetensors")
    return load(path), pixels


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export_model(
        trained[0], tmp_path_factory.mktemp("out") / "m.onnx", size=64, dtype="int8", force=True
    )


def test_both_scores_are_those_of_evaluate(trained, exported, tmp_path):
    full = export_model(trained[0], tmp_path / "full.onnx", size=64)
    check = exported.check
    assert check.images == "test" and check.float32["mean_iou"] > 0.3
    for path, scores in ((full.path, check.float32), (exported.path, check.int8)):
        found = evaluate(path, show=False).metrics
        assert {name: found[name] for name in scores} == scores
    # Labels are what float32 predicts in one piece; some pixels change in 8 bits, and most do not.
    assert 0.9 < check.equal < 1


def test_the_check_stands_in_the_file(exported):
    facts = load(exported.path).exported.facts
    assert facts.dtype == "int8" and facts.check == exported.check.describe()
    meta = onnxruntime.InferenceSession(exported.path).get_modelmeta().custom_metadata_map
    assert json.loads(meta["labelscape_export"])["check"]["int8"] == exported.check.int8


def test_info_prints_the_check(exported, run_cli):
    code, out, err = run_cli("info", exported.path)
    assert code == 0, err
    said = " ".join("; ".join(exported.check.lines()).replace(":;", ":").split())
    assert said in out and "an ONNX model, int8" in out, out
    code, out, _ = run_cli("info", exported.path, "--json")
    assert json.loads(out)["exported"]["check"]["int8"] == exported.check.int8


def test_layers_are_integers_and_what_gives_scores_is_not(exported):
    graph = onnx.load(exported.path).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    makers = {name: node.op_type for node in graph.node for name in node.output}
    whole = [node for node in convolutions if kinds.get(node.input[1]) == onnx.TensorProto.FLOAT]
    assert len(convolutions) - len(whole) > len(whole) >= 1
    assert {node.name for node in whole} <= set(scoring_nodes(graph))
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    assert makers[softmax.input[0]] != "DequantizeLinear"
    assert [one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)] == [1, 1]
    # A scale for each output channel.
    scales = {one.name: one.dims for one in graph.initializer if one.name.endswith("weight_scale")}
    assert all(len(dims) == 1 and dims[0] > 1 for dims in scales.values())


def test_a_score_that_falls_too_far_is_refused_unless_forced(trained, tmp_path, monkeypatch):
    right = int8.quantised

    def damaged(model, images, name):
        model = onnx.load_from_string(right(model, images, name))
        for one in model.graph.initializer:
            if one.name.endswith("weight_scale"):
                values = onnx.numpy_helper.to_array(one)
                one.CopyFrom(onnx.numpy_helper.from_array(values[::-1] * np.float32(5), one.name))
        return model.SerializeToString()

    monkeypatch.setattr(int8, "quantised", damaged)
    with pytest.raises(
        BadInput, match=r"In int8 mean IoU falls by .* points \(.*float32 +mIoU .*Nothing was written"
    ):
        export_model(trained[0], tmp_path / "m.onnx", size=64, dtype="int8")
    assert list(tmp_path.iterdir()) == []
    done = export_model(trained[0], tmp_path / "m.onnx", size=64, dtype="int8", force=True)
    assert done.path.exists() and done.check.failure


def test_without_its_data_classes_are_compared_on_drawn_images(tmp_path):
    done = export_model(made(), tmp_path / "m.onnx", size=64, dtype="int8", force=True)
    check = load(done.path).exported.facts.check
    assert check["images"] == "drawn" and check["float32"] == {} and check["pixels"] == 3 * 64 * 64
    assert "no score on real pixels could be measured (The checkpoint does not say" in done.check.lines()[0]


@pytest.mark.parametrize(
    ("check", "failure"),
    [
        (Check("test", 9, 0.5, {"mean_iou": 0.700}, {"mean_iou": 0.691}), ""),
        (Check("test", 9, 1.0, {"mean_iou": 0.700}, {"mean_iou": 0.689}), "mean IoU falls by 1.10 points"),
        (
            Check("test", 9, 1.0, {"mean_iou": 0.7}, {"mean_iou": float("nan")}),
            "mean IoU falls by nan points",
        ),
        (Check("drawn", 9, 0.991, {}, {}), ""),
        (Check("drawn", 9, 0.989, {}, {}), "only 98.90 % of classes stay the same"),
    ],
)
def test_what_is_refused(check, failure):
    assert check.failure == failure


def test_calibration_reads_training_tiles_alone(trained, monkeypatch):
    from labelscape.exported import Facts

    facts = Facts("inside", "float32", 64, 16, None, ((64 * 64, 10**6),), "")
    held_out = []
    with int8.calibration_data(trained[0]) as (dataset, why):
        assert why == ""
        monkeypatch.setattr(int8, "Scorer", _Plain)
        monkeypatch.setattr(int8, "plan_for", lambda scorer, scene: _tiles(scene))
        checkpoint = int8.as_exported(trained[0], b"", facts)
        found = list(int8.training_tiles(checkpoint, dataset))
        scene = dataset.scenes[0]
        for tile in _tiles(scene.scene):
            if (scene.read_labels(tile.core, "test") != 255).all():
                held_out.append(scene.scene.read(tile.seen).pixels)
    assert found and held_out and all(image.shape == (1, 3, 64, 64) for image in found)
    assert not any(np.array_equal(image[0], block) for image in found for block in held_out)


class _Plain:
    @classmethod
    def of(cls, models, device):
        return cls()

    def prepare(self, pixels, valid):
        return [pixels[None].astype(np.float32)]


def _tiles(scene):
    from labelscape.scoring.tiles import Tile

    return [Tile(window, window, window, window) for window in scene.grid.window.blocks(64)]


def test_integers_are_written_as_onnx_alone(tmp_path):
    with pytest.raises(BadOption, match="as ONNX alone"):
        export_model(made(), tmp_path / "m.xml", to="openvino", dtype="int8")


def test_the_command_line_prints_both_scores(trained, run_cli, tmp_path):
    args = ("export", trained[0].stored.path, "--dtype", "int8", "--size", 64, "--force")
    code, out, _ = run_cli(*args, "--out", tmp_path / "m.onnx")
    assert code == 0 and "float32  mIoU " in out and "int8     mIoU " in out and "the class of float32" in out
    code, out, _ = run_cli(*args, "--out", tmp_path / "n.onnx", "--json")
    assert json.loads(out)["check"]["images"] == "test"
    # The same network and tiles give the same bytes.
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "n.onnx").read_bytes()
