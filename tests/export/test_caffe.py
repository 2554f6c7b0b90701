"""The reader of published Caffe weights, against an interpreter of Caffe's layers that knows nothing of
our networks.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from caffe_weights import WIDTHS, Writer, caffe_network, written
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelscape.errors import BadFile
from labelscape.export.caffe import import_network, read_caffe
from labelscape.export.caffe_format import message_types
from labelscape.nets.catalog import create_model

SHARED = Path(__file__).resolve().parents[3] / "shared"
KINDS = {
    "vaihingen": {"bands": 4, "classes": 5, "downsample": 1},
    "inria": {"bands": 3, "classes": 1, "downsample": 2},
}


def run_caffe(net, image: Tensor) -> Tensor:
    """Every layer of a NetParameter as Caffe computes it in its test phase, in float64. Returns what the
    loss reads.
    """
    blobs = {"data": image}
    for layer in net.layer:
        weights = [torch.tensor(list(b.data), dtype=torch.float64).reshape(*b.shape.dim) for b in layer.blobs]
        bottoms = [blobs.get(name) for name in layer.bottom]
        conv, pool = layer.convolution_param, layer.pooling_param
        if layer.type == "Convolution":
            out = F.conv2d(
                bottoms[0], *weights, stride=(list(conv.stride) or [1])[0], padding=(list(conv.pad) or [0])[0]
            )
        elif layer.type == "Deconvolution":
            out = F.conv_transpose2d(
                bottoms[0], *weights, stride=conv.stride[0], padding=conv.pad[0], groups=conv.group or 1
            )
        elif layer.type == "BatchNorm":
            mean, variance = (v[None, :, None, None] / weights[2] for v in weights[:2])
            out = (bottoms[0] - mean) / (variance + 1e-5).sqrt()
        elif layer.type == "Pooling":
            out = (F.avg_pool2d if pool.pool == 1 else F.max_pool2d)(
                bottoms[0], pool.kernel_size, pool.stride, ceil_mode=True
            )
        elif layer.type == "Split":
            out = bottoms[0]
        elif layer.type in ("ReLU", "Eltwise", "Concat"):
            out = {"ReLU": lambda b: b[0].relu(), "Eltwise": sum, "Concat": lambda b: torch.cat(b, 1)}[
                layer.type
            ](bottoms)
        elif layer.type.endswith("Loss"):
            return bottoms[0]
        else:
            continue
        blobs |= dict.fromkeys(layer.top, out)
    raise AssertionError("no loss")


CASES = [(head, kind, False) for head in ("fcn", "skip", "mlp") for kind in KINDS] + [
    ("mlp", "vaihingen", True)
]


@pytest.mark.parametrize(("head", "kind", "relu"), CASES)
def test_an_imported_network_computes_what_caffe_computes(
    head: str, kind: str, relu: bool, tmp_path: Path
) -> None:
    sizes = KINDS[kind]
    writer = caffe_network(head, **sizes, relu=relu)
    imported = read_caffe(written(writer, tmp_path))
    assert (imported.name, imported.in_channels, imported.classes) == (
        head,
        sizes["bands"],
        max(sizes["classes"], 2),
    )
    assert imported.options["widths"] == WIDTHS
    assert imported.options["downsample"] == sizes["downsample"]
    assert head != "mlp" or (imported.options["hidden"], imported.options["relu"]) == (7, relu)
    assert imported.bands == (
        ("red", "green", "blue") if sizes["bands"] == 3 else ("nir", "red", "green", "ndsm")
    )

    net = create_model(head, in_channels=imported.in_channels, classes=imported.classes, **imported.options)
    net.load_state_dict(imported.weights, strict=True)
    files = (
        torch.rand(2, sizes["bands"], 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * 255
    )
    caffe_order = [2, 1, 0, 3][: sizes["bands"]]
    expected = run_caffe(writer.net, files[:, caffe_order])
    with torch.no_grad():
        found = net.double().eval()(files)
    size = expected.abs().max()
    if sizes["classes"] == 1:
        assert found[:, 0].abs().max() == 0
        assert torch.allclose(found.softmax(1)[:, 1], expected[:, 0].sigmoid(), atol=1e-5)
        found = found[:, 1:]
    assert size > 0.1
    assert (found - expected).abs().max() < 1e-5 * size  # float32 statistics are all that is rounded


def _not_bilinear(w: Writer) -> None:
    w.net.layer[-2].blobs[0].data[5] += 0.01


def _other_order_of_levels(w: Writer) -> None:
    concat = next(layer for layer in w.net.layer if layer.type == "Concat")
    concat.bottom[1], concat.bottom[2] = concat.bottom[2], concat.bottom[1]


def _tap_before_the_second_convolution(w: Writer) -> None:
    split = next(layer for layer in w.net.layer if layer.type == "Split")
    split.bottom[0] = "data"


def _other_eps(w: Writer) -> None:
    next(layer for layer in w.net.layer if layer.type == "BatchNorm").batch_norm_param.eps = 1e-3


def _average_pooling(w: Writer) -> None:
    next(layer for layer in w.net.layer if layer.name == "pool2").pooling_param.pool = 1


def _no_padding(w: Writer) -> None:
    next(layer for layer in w.net.layer if layer.name == "conv3-1").convolution_param.pad[0] = 0


def _narrower_layer(w: Writer) -> None:
    blob = next(layer for layer in w.net.layer if layer.name == "conv3-1").blobs[0]
    blob.shape.dim[0] -= 1
    del blob.data[-WIDTHS[1] * 9 :]


def _fewer_numbers(w: Writer) -> None:
    del next(layer for layer in w.net.layer if layer.name == "conv3-1").blobs[0].data[-1]


def _not_a_number(w: Writer) -> None:
    next(layer for layer in w.net.layer if layer.name == "conv3-1").blobs[0].data[0] = float("nan")


def _flat_filters(w: Writer) -> None:
    blob = next(layer for layer in w.net.layer if layer.name == "conv1-1").blobs[0]
    blob.shape.dim[:] = [len(blob.data)]


def _no_statistics(w: Writer) -> None:
    next(layer for layer in w.net.layer if layer.type == "BatchNorm").ClearField("blobs")


def _norm(w: Writer):
    return next(layer for layer in w.net.layer if layer.type == "BatchNorm").blobs


def _divided_by_almost_nothing(w: Writer) -> None:
    _norm(w)[2].data[0] = 1e-44


def _divided_by_nothing(w: Writer) -> None:
    _norm(w)[2].data[0] = 0


def _divided_by_three_numbers(w: Writer) -> None:
    _norm(w)[2].data.extend([1.0, 1.0])
    _norm(w)[2].shape.dim[:] = [3]


def _variance_below_zero(w: Writer) -> None:
    _norm(w)[1].data[0] = -1e6


def _hundred_axes(w: Writer) -> None:
    blob = next(layer for layer in w.net.layer if layer.name == "conv3-1").blobs[1]
    blob.shape.dim[:] = [1] * 100 + [len(blob.data)]


def _one_layer_more(w: Writer) -> None:
    w.layer("LRN", "lrn", ["output"], "lrn")


def _old_format(w: Writer) -> None:
    w.net.layers.add(name="conv1")


FAULTS = {
    _not_bilinear: "not bilinear",
    _other_order_of_levels: "reads",
    _tap_before_the_second_convolution: "reads",
    _other_eps: "settings",
    _average_pooling: "settings",
    _no_padding: "settings",
    _narrower_layer: "expected",
    _fewer_numbers: "damaged",
    _not_a_number: "damaged",
    _flat_filters: "damaged",
    _no_statistics: "settings",
    _divided_by_almost_nothing: "not finite",
    _divided_by_nothing: "above 0",
    _divided_by_three_numbers: "above 0",
    _variance_below_zero: "below 0",
    _hundred_axes: "axes",
    _one_layer_more: "LRN",
    _old_format: "2015",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_network_that_differs_in_anything_is_refused(fault, tmp_path: Path) -> None:
    writer = caffe_network("mlp", **KINDS["vaihingen"])
    fault(writer)
    path = written(writer, tmp_path)
    with pytest.raises(BadFile, match=FAULTS[fault]) as caught:
        read_caffe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_learned_deconvolution_is_kept_and_a_fixed_one_must_be_bilinear(tmp_path: Path) -> None:
    writer = caffe_network("fcn", **KINDS["inria"])
    learned = next(layer for layer in writer.net.layer if layer.name == "upsample_16").blobs[0].data
    imported = read_caffe(written(writer, tmp_path))
    assert torch.equal(imported.weights["head.up16.weight"][1].flatten(), torch.tensor(list(learned)))
    next(layer for layer in writer.net.layer if layer.name == "upsample_output").blobs[0].data[0] *= 2
    with pytest.raises(BadFile, match="not bilinear"):
        read_caffe(written(writer, tmp_path))


def test_files_that_are_no_caffe_model_are_named_in_one_sentence(tmp_path: Path) -> None:
    content = caffe_network("mlp", **KINDS["inria"]).net.SerializeToString()
    random = np.random.default_rng(3)
    bad = {
        "empty": b"",
        "text": b"name: 'fcn'\nlayer {\n}\n",
        "zeros": bytes(1000),
        "no-text": bytes.fromhex("a206031201ff"),  # a layer whose type is no UTF-8
        "random": random.bytes(5000),
    }
    bad |= {f"cut{share}": content[: int(len(content) * share)] for share in (0.01, 0.1, 0.5, 0.9, 0.99)}
    for name, data in bad.items():
        path = tmp_path / f"{name}.caffemodel"
        path.write_bytes(data)
        with pytest.raises(BadFile, match=name):
            read_caffe(path)
    for path in (tmp_path / "missing.caffemodel", tmp_path):
        with pytest.raises(BadFile, match="cannot be read"):
            read_caffe(path)


def test_damaged_bytes_never_end_in_another_error(tmp_path: Path) -> None:
    content = caffe_network("skip", **KINDS["vaihingen"]).net.SerializeToString()
    random, path, refused = np.random.default_rng(4), tmp_path / "net.caffemodel", 0
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 20):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_caffe(path)  # a changed weight cannot be noticed
        except BadFile:
            refused += 1
    assert refused > 30


CONTENTS = {head: caffe_network(head, **KINDS["inria"]).net.SerializeToString() for head in ("fcn", "skip")}
NUMBERS = st.one_of(
    st.integers(-1, 3), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 1e-44, -1e6, 3e38])
)


def messages(message) -> list:
    """A message and all messages within it, in order."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                found += messages(part)
    return found


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_fields_of_any_value_never_end_in_another_error(data: st.DataObject) -> None:
    """Faults that keep the file readable, which damaged bytes seldom do: single fields with other values."""
    net = message_types()["NetParameter"].FromString(CONTENTS[data.draw(st.sampled_from(sorted(CONTENTS)))])
    for _ in range(data.draw(st.integers(1, 3))):
        message = data.draw(st.sampled_from(range(len(messages(net)))).map(lambda at: messages(net)[at]))
        field = data.draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
        value = data.draw(st.text(max_size=3) if field.type == field.TYPE_STRING else NUMBERS)
        cleared, times = data.draw(st.booleans()), data.draw(st.integers(1, 120))
        with suppress(ValueError, TypeError, OverflowError):  # what the field cannot hold
            if field.message_type is not None or cleared:
                message.ClearField(field.name)
            elif field.is_repeated:
                getattr(message, field.name)[:] = [value] * times
            else:
                setattr(message, field.name, value)
    with suppress(BadFile):
        import_network(net)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.skipif(
    not SHARED.joinpath("weights/caffe").is_dir(), reason="the published weights are not here"
)
def test_the_published_inria_mlp_scores_what_it_scored() -> None:
    import rasterio

    imported = read_caffe(SHARED / "weights/caffe/inria_mlp.caffemodel")
    net = create_model(imported.name, in_channels=3, classes=2, **imported.options).eval()
    net.load_state_dict(imported.weights, strict=True)
    counts = np.zeros((2, 2), np.int64)
    with torch.inference_mode():
        for path in sorted(SHARED.glob("data/inria-patches/images/*.tif")):
            with rasterio.open(path) as image, rasterio.open(path.parents[1] / "gt" / path.name) as label:
                building = (
                    net(torch.from_numpy(image.read().astype(np.float32))[None]).softmax(1)[0, 1].numpy()
                    > 0.5
                )
                counts += np.bincount(
                    2 * (label.read(1).ravel() > 0) + building.ravel(), minlength=4
                ).reshape(2, 2)
    assert counts.sum() == 42 * 256 * 256
    assert counts[1, 1] / (counts.sum() - counts[0, 0]) == pytest.approx(0.515, abs=0.002)
    assert np.trace(counts) / counts.sum() == pytest.approx(0.915, abs=0.002)
