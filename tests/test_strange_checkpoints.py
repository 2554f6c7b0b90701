"""Checkpoints of strangers: odd metadata, weights that are no numbers, networks larger than the memory,
options that name files and servers. Refused with a sentence when they are loaded, and never obeyed.
"""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import world
from safetensors.numpy import load_file, save_file

import labelscape.nets.backbones as backbones
import labelscape.nets.baselines as baselines
from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.bands import QUANTILES
from labelscape.errors import BadFile, LabelscapeError
from labelscape.inspection import info
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import NETWORKS, create_model, options_of, stored_model
from labelscape.scoring.engines import TorchEngine, state_arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save(world.tiny_checkpoint("fcn"), tmp_path_factory.mktemp("model") / "m.safetensors")


def changed(path: Path, whole: Path, change=lambda fields: None, weights=None) -> Path:
    fields = world.description_of(whole)
    change(fields)
    content = {**load_file(whole), **(weights or {})}
    save_file(content, path, metadata={"labelscape": json.dumps(fields)})
    return path


BAND = {"name": "1", "mean": 1.0, "std": 1.0, "min": 0.0, "max": 2.0, "quantiles": [1.0] * len(QUANTILES)}
ODD = {
    "options are a list": ({"options": ["widths"]}, "options"),
    "widths beyond the memory": ({"options": {"widths": [10**5] * 4}}, "the number 100000"),
    "widths deep inside": ({"options": {"a": {"b": [[10**9]]}}}, "the number 1e\\+09"),
    "a colour out of range": ({"legend": [{"value": 0, "name": "a", "color": [1, 2, 256]}]}, "at most 255"),
    "a colour of text": ({"legend": [{"value": 0, "name": "a", "color": "red"}]}, "color"),
    "a value out of range": ({"legend": [{"value": 255, "name": "a", "color": [1, 2, 3]}]}, "at most 254"),
    "no classes": ({"legend": []}, "legend"),
    "two classes of one name": (
        {"legend": [{"value": v, "name": "a", "color": [0] * 3} for v in (0, 1)]},
        "a",
    ),
    "an escape in a name": (
        {"legend": [{"value": 0, "name": "\x1b[2Ja", "color": [1, 2, 3]}]},
        "visible characters",
    ),
    "statistics of two of three bands": ({"statistics": [BAND] * 2}, "3 bands, 2 statistics"),
    "short quantiles": ({"statistics": [{**BAND, "quantiles": [1.0]}] * 3}, "quantiles"),
    "statistics that are no numbers": ({"statistics": [{**BAND, "mean": float("nan")}] * 3}, "finite"),
    "a deviation of NaN": ({"normalisation": [[0, 1], [0, float("nan")], [0, 1]]}, "finite"),
    "a deviation below 0": ({"normalisation": [[0, 1], [0, -1], [0, 1]]}, "at least 0"),
    "a mean beyond float32": ({"normalisation": [[1e39, 1], [0, 1], [0, 1]]}, "finite"),
    "a temperature of 0": ({"temperature": 0}, "above 0"),
    "a temperature of NaN": ({"temperature": float("nan")}, "finite"),
    "an infinite pixel": ({"pixel_size": float("inf")}, "finite"),
    "a pixel below 0": ({"pixel_size": -10}, "above 0"),
    "units of scale 0": ({"units": [[0, 0]] * 3}, "scale 0"),
    "a type that is none": ({"dtype": "uint7"}, "type of numbers"),
    "a type of text": ({"dtype": "U10"}, "type of numbers"),
    "bands of numbers": ({"bands": [1, 2, 3]}, "text"),
    "scores are text": ({"scores": "good"}, "scores"),
    "scores of text": ({"scores": {"fcn": {"mean_iou": "good"}}}, "mean_iou"),
    "a confusion of another size": (
        {"scores": {"fcn": {"classes": [{"name": "a"}], "confusion": {"counts": [[1, 2], [3, 4]]}}}},
        "confusion matrix",
    ),
    "a history of text": ({"history": ["fell"]}, "history"),
    "a history without steps": ({"history": [{"loss": 1.0}]}, "step"),
    "a recipe that is a list": ({"recipe": [1]}, "recipe"),
    "images that are numbers": ({"recipe": {"data": {"images": [7]}}}, "images"),
    "colours of other bands": (
        {"colours": {"floor": 1, "weights": [1.0], "means": [[1.0]], "covariances": [[[1.0]]], "limits": []}},
        "do not fit 3 bands",
    ),
    "deep lists": ({"recipe": {"data": json.loads("[" * 200 + "]" * 200)}}, "too deep"),
    "tile sizes that descend": (
        {
            "tile_sizes": {
                "crop": 64,
                "sides": [96, 64],
                **{name: [0.5, 0.5] for name in ("mean_iou", "overall_accuracy", "loss", "error")},
            }
        },
        "ascend",
    ),
    "no network": ({"network": None}, "network"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_metadata_is_refused_with_a_sentence(case, whole, tmp_path):
    change, said = ODD[case]
    path = changed(tmp_path / "odd.safetensors", whole, lambda fields: fields.update(change))
    with pytest.raises(BadFile, match=said) as told:
        load(path)
    assert len(str(told.value)) < 700 and "\x1b" not in str(told.value)


@pytest.mark.parametrize("field", ["network", "options", "legend", "bands", "dtype", "recipe", "scores"])
def test_a_missing_field_is_named(field, whole, tmp_path):
    path = changed(tmp_path / "odd.safetensors", whole, lambda fields: fields.pop(field))
    with pytest.raises(BadFile, match=field):
        load(path)


def test_json_deeper_than_python_goes_is_refused(whole, tmp_path):
    save_file({"x": np.zeros(1)}, tmp_path / "deep", metadata={"labelscape": "[" * 200_000 + "]" * 200_000})
    with pytest.raises(BadFile, match="damaged description"):
        load(tmp_path / "deep")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_no_finite_numbers_are_refused(value, half, whole, tmp_path):
    name, weights = next((k, v.copy()) for k, v in load_file(whole).items() if v.ndim == 4)
    weights.flat[3] = value
    weights = weights.astype(np.float16) if half else weights
    path = changed(tmp_path / "odd.safetensors", whole, weights={name: weights})
    with pytest.raises(BadFile, match=f"weights '{name}' hold values that are no finite numbers"):
        load(path)


def test_weights_of_another_network_are_refused_before_it_is_built(whole, tmp_path, monkeypatch):
    larger = changed(tmp_path / "a", whole, lambda f: f["options"].update(widths=[4000] * 4))
    built = []
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_: built.append(1))
    with pytest.raises(BadFile, match=r"holds the weights of another network: .* are missing or of another"):
        TorchEngine.of(load(larger))
    extra = changed(tmp_path / "b", whole, weights={"more.weight": np.zeros(3, np.float32)})
    with pytest.raises(BadFile, match=r"'more.weight' \(shape \(3,\), expected none\)"):
        TorchEngine.of(load(extra))
    assert built == []


@pytest.mark.parametrize(
    "options", [{"widths": "abcd"}, {"widths": None}, {"widths": [{}]}, {"widths": [0, -1, 2, 3]}, {"no": 1}]
)
def test_options_that_make_no_network_are_refused(options, whole, tmp_path):
    path = changed(tmp_path / "odd", whole, lambda f: f.update(options=options))
    with pytest.raises(LabelscapeError):
        TorchEngine.of(load(path))


def test_scores_without_counts_and_losses_of_none_still_make_a_report(whole, tmp_path):
    def few(fields):
        fields["scores"] = {"fcn": {"mean_iou": 0.5}, "other": {}}
        fields["history"] = [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]

    scene = world.make(tmp_path, 96, 128).scene
    result = map_scene(
        changed(tmp_path / "m.safetensors", whole, few), scene, tmp_path / "map", device="cpu", force=True
    )
    assert "50.00" in result.paths["report"].read_text()
    assert "50.00" in info(tmp_path / "m.safetensors").text


# ------------------------------------------------------------------- a checkpoint looks for no other weights


@pytest.fixture
def nothing_outside(monkeypatch):
    """No network, and no published weights in packages."""

    def refused(*given, **options):
        raise AssertionError(f"asked for {given}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name in ("package_file", "read_weights", "check_reachable"):
        monkeypatch.setattr(backbones, name, refused)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)


OF_WEIGHTS = [name for name in NETWORKS if "pretrained" in options_of(name)] + [
    f"smp/{name}" for name in baselines.smp_names() if name != "DPT"
]


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_no_network_looks_for_weights_when_it_is_loaded(name, nothing_outside):
    known = options_of(name)
    trunk = {key: "resnet18" for key in ("backbone", "encoder") if key in known}
    # DFCNet's `encoder` is the lengths of its blocks.
    trunk = {} if name in ("fc-densenet", "classmate", "dfcnet") else trunk
    tried = 0
    for extra in ({"pretrained": True}, {"weights": "/etc/passwd"}, {"encoder_weights": "imagenet"}):
        if set(extra) <= {*known, "encoder_weights"} and ("encoder_weights" not in extra or trunk):
            stored_model(name, in_channels=4, classes=3, options={**trunk, **extra})
            tried += 1
    assert tried


def test_a_stored_tag_and_a_file_are_not_looked_for(nothing_outside):
    for options in (
        {"backbone": "resnet18.a1_in1k", "pretrained": True},
        {"backbone": "resnet18.no_such_tag", "weights": "https://nowhere.invalid/a.pth"},
    ):
        net = stored_model("pspnet", in_channels=3, classes=3, options=options)
        plain = create_model("pspnet", classes=3, backbone="resnet18")
        assert {k: v.shape for k, v in net.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }
        made = Checkpoint(
            "pspnet", options, state_arrays(net), world.LEGEND, world.tiny_checkpoint().contract
        )
        TorchEngine.of(made, device="cpu")
