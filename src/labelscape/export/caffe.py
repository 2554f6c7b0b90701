"""Import the weights published by the authors of the MLP paper (Caffe, 2017). Caffe itself is not needed.

Reads     https://github.com/emaggiori/CaffeRemoteSensing: RemoteSensingVaihingen (fcn, skip, mlp) and
          InriaBenchmark (fcn, mlp)
Format    see `caffe_format`; the layers that are expected stand in `caffe_layers`
Exact     a file is taken only if its layers, their order, wiring, kernels, strides and pads are those of a
          network we have
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.errors import BadFile, BadOption
from labelscape.export.caffe_format import message_types
from labelscape.export.caffe_layers import ASIDE, HEADS, Row, expected_rows
from labelscape.mistaken import what_it_is

if TYPE_CHECKING:
    from torch import Tensor

BANDS = {3: ("red", "green", "blue"), 4: ("nir", "red", "green", "ndsm")}
"""Caffe read an RGB file as B G R, and an infrared-red-green file with heights as G R IR heights; this is
the files' own order.
"""


@dataclass(frozen=True)
class ImportedNetwork:
    """A published network in our terms: `create_model(name, in_channels=..., classes=..., **options)`
    loads `weights` strictly.
    """

    name: str
    """In the catalogue: fcn, skip or mlp."""
    in_channels: int
    classes: int
    options: dict[str, object]
    weights: dict[str, Tensor]
    """A state_dict of float32 tensors; the network expects raw pixel values 0..255, neither centred nor
    scaled.
    """
    bands: tuple[str, ...]
    """What the published networks of so many bands were trained on, in the order of `weights`."""
    notes: list[str]
    """What was changed on the way in, as sentences for a person."""


def read_caffe(path: str | Path) -> ImportedNetwork:
    """Read a published `.caffemodel`.

    The first three bands are turned from Caffe's B, G, R to the order of the files. A single sigmoid output s
    becomes two classes with the logits 0 and s, whose softmax is that sigmoid. Raises BadFile if the file is
    missing, damaged, or holds another network, BadOption without protobuf.
    """
    try:
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BadOption("Caffe weights need protobuf: pip install 'labelscape[caffe]'.") from error
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        return import_network(message_types()["NetParameter"].FromString(content))
    except (DecodeError, UnicodeDecodeError) as error:
        why = what_it_is(path) or "is not a Caffe model or is damaged: it cannot be parsed"
        raise BadFile(f"{path} {why}.") from error
    except BadFile as error:
        # The checks below know layers, not the file's name.
        raise BadFile(f"{path} {error}") from error


def import_network(net: Any) -> ImportedNetwork:
    """A parsed NetParameter in our terms. Raises BadFile with the rest of a sentence that begins with the
    file's name.
    """
    # `layers` is the old format's field, `layer` the new one's; protobuf parses both without an error.
    if net.layers:
        raise BadFile(
            "is in Caffe's format of before 2015; convert it with Caffe's upgrade_net_proto_binary first."
        )
    if not net.layer:
        raise BadFile("is not a Caffe model: it holds no layers.")
    check_text(net)
    head, relu, downsample = recognise(net)
    rows = expected_rows(head, downsample=downsample, relu=relu)
    layers = [layer for layer in net.layer if layer.type not in ASIDE]
    check_wiring(net, rows)
    for layer, row in zip(layers, rows, strict=True):
        check_layer(layer, row)
    blobs = {
        row.name: [tensor(layer, blob) for blob in layer.blobs]
        for layer, row in zip(layers, rows, strict=True)
    }
    for row in rows:
        if row.type == "Deconvolution" and row.name != "up16":
            check_bilinear(row, blobs[row.name][0])

    in_channels = blobs["conv1_1"][0].shape[1]
    options: dict[str, object] = {
        "widths": tuple(blobs[f"conv{level}_1"][0].shape[0] for level in (1, 2, 3, 4)),
        "downsample": downsample,
    }
    if head == "mlp":
        options |= {"hidden": blobs["mlp1"][0].shape[0], "relu": relu}
    weights, classes, notes = to_state(head, blobs)
    check_fit(head, in_channels, classes, options, weights)
    bands = BANDS.get(in_channels, tuple(str(i + 1) for i in range(in_channels)))
    return ImportedNetwork(head, in_channels, classes, options, weights, bands, notes)


def check_text(net: Any) -> None:
    """Names must be text: protobuf hands out as bytes what is no UTF-8."""
    for layer in net.layer:
        if not all(isinstance(text, str) for text in (layer.type, layer.name, *layer.bottom, *layer.top)):
            raise BadFile(f"is damaged: the name or type of layer {layer.name!r} is no text.")


def recognise(net: Any) -> tuple[str, bool, int]:
    """The head, whether its perceptron has a ReLU, and the factor of the average pooling, recognised
    by the layers' types in file order.
    """
    layers = [layer for layer in net.layer if layer.type not in ASIDE]
    types = [layer.type for layer in layers]
    # A pooling before the first convolution reduces the image; networks without one take it as it is.
    factor = layers[0].pooling_param.stride if types[:1] == ["Pooling"] else 1
    for head, relu in product(HEADS, (False, True)):
        if types == [row.type for row in expected_rows(head, downsample=factor, relu=relu)]:
            return head, relu, factor
    raise BadFile(
        f"holds {len(types)} layers ({', '.join(dict.fromkeys(types)) or 'none that computes'}) that are "
        "not those of the published fcn, "
        "skip or mlp network: only these three can be read, and whole."
    )


def check_wiring(net: Any, rows: list[Row]) -> None:
    """Every layer must read what ours reads. A blob's name is not enough: Caffe computes in place, and
    Split copies.
    """
    expected = iter(rows)
    source: dict[str, str] = {}  # name of a blob -> what was last written to it
    for layer in net.layer:
        read = tuple(source.get(name, "image") for name in layer.bottom)
        if layer.type == "Split":
            source |= dict.fromkeys(layer.top, read[0] if read else "nothing")
        elif layer.type not in ASIDE:
            row = next(expected)
            # A sum has no order; what a concatenation reads has.
            same = sorted(read) == sorted(row.reads) if row.type == "Eltwise" else read == row.reads
            if not same or len(layer.top) != 1:
                raise BadFile(
                    f"is another network: layer {layer.name!r} reads {', '.join(read) or 'nothing'}, not "
                    f"{', '.join(row.reads)}."
                )
            source[layer.top[0]] = row.name


def check_layer(layer: Any, row: Row) -> None:
    """Kernel, stride, pad, groups, the kind of pooling and of sum, and the number of blobs must be those
    of our layer.
    """
    conv, pool, elt = layer.convolution_param, layer.pooling_param, layer.eltwise_param
    blobs = {"Convolution": 2, "BatchNorm": 3, "Deconvolution": 1}.get(row.type, 0)
    found: tuple[object, ...] = (len(layer.blobs),)
    wanted: tuple[object, ...] = (blobs,)
    if row.type in ("Convolution", "Deconvolution"):
        # Caffe takes one number for both sides, two numbers, or _h and _w; a missing stride is 1.
        kernel = tuple(conv.kernel_size) or (conv.kernel_h, conv.kernel_w)
        stride = tuple(conv.stride) or (conv.stride_h or 1, conv.stride_w or 1)
        pad = tuple(conv.pad) or (conv.pad_h, conv.pad_w)
        # Upsampling works channel by channel: as many groups as channels.
        groups = conv.num_output if row.type == "Deconvolution" else 1
        found += (set(kernel), set(stride), set(pad), conv.group or 1, set(conv.dilation) or {1})
        wanted += (*({number} for number in row.shape or ()), groups, {1})
    elif row.type == "Pooling":
        found += (pool.pool, pool.kernel_size, pool.stride or 1, pool.pad)
        wanted += (int(row.name == "small"), *(row.shape or ()))  # 0 is the maximum, 1 the average
    elif row.type == "Eltwise":
        found += (elt.operation if elt.HasField("operation") else 1, list(elt.coeff))
        wanted += (1, [])  # 1 is the sum
    elif row.type == "BatchNorm":
        eps = layer.batch_norm_param.eps if layer.batch_norm_param.HasField("eps") else 1e-5
        found, wanted = (*found, bool(np.isclose(eps, 1e-5))), (*wanted, True)
    if found != wanted:
        raise BadFile(f"is another network: layer {layer.name!r} has the settings {found}, ours {wanted}.")


def tensor(layer: Any, blob: Any) -> Tensor:
    """A blob as a float32 tensor of its shape."""
    import torch

    shape = (
        # Older files give four numbers instead of a shape.
        tuple(blob.shape.dim)
        if blob.HasField("shape")
        else (blob.num, blob.channels, blob.height, blob.width)
    )
    data = np.array(blob.data or blob.double_data, np.float32)
    # Caffe's blobs have four axes at most; numpy and torch fail on far more with errors of their own.
    if len(shape) > 4:
        raise BadFile(f"is damaged: layer {layer.name!r} holds numbers with {len(shape)} axes, not up to 4.")
    if layer.type in ("Convolution", "Deconvolution") and len(shape) != 4 and blob is layer.blobs[0]:
        raise BadFile(f"is damaged: the filters of layer {layer.name!r} have the shape {shape}.")
    if (
        not shape
        or min(shape) < 1
        # As floats: in whole numbers a damaged shape may overflow to the right size.
        or np.prod([float(size) for size in shape]) != data.size
        or not np.isfinite(data).all()
    ):
        raise BadFile(
            f"is damaged: layer {layer.name!r} holds {data.size} numbers for the shape {shape}, or some are "
            "not finite."
        )
    return torch.from_numpy(data.reshape(shape))


def check_bilinear(row: Row, weight: Tensor) -> None:
    """The fixed deconvolutions are no weights of ours: they must be what `upsample` computes."""
    import torch

    size, factor, _ = row.shape or (0, 1, 0)
    # The shape first: a file may declare a kernel of any size, and the ramp has that many numbers.
    same = weight.shape[1:] == (1, size, size)
    if same:
        ramp = 1 - ((torch.arange(size) - (size - 1) / 2) / factor).abs()
        same = torch.allclose(weight, torch.outer(ramp, ramp), atol=1e-5)
    if not same:
        raise BadFile(f"is another network: its upsampling by {factor} (our {row.name}) is not bilinear.")


def statistics(name: str, mean: Tensor, variance: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Running mean and variance. Caffe stores decayed sums and, as third blob, the weight to divide them by.

    Raises BadFile where the network would give no numbers with them.
    """
    import torch

    # 0 in a network of which no step was trained: dividing by it would give NaN in every map.
    if factor.numel() != 1 or factor.item() <= 0:
        raise BadFile(
            f"is damaged or was never trained: the statistics of our {name} are to be divided by "
            f"{factor.flatten()[:3].tolist()}, expected one number above 0."
        )
    mean, variance = mean / factor.item(), variance / factor.item()
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance >= 0).all()):
        raise BadFile(
            f"is damaged: the means and variances of our {name}, divided by {factor.item():.3g}, are not "
            "finite, or a variance is below 0."
        )
    return mean, variance


def to_state(head: str, blobs: dict[str, list[Tensor]]) -> tuple[dict[str, Tensor], int, list[str]]:
    """Weights under our names, the number of classes, and notes on what was changed."""
    import torch

    state: dict[str, Tensor] = {}
    notes = ["The network takes raw pixel values 0..255, as it was trained: neither centred nor scaled."]
    for level, number in product((1, 2, 3, 4), (1, 2)):
        conv, norm = (
            f"encoder.level{level}.conv{level}_{number}",
            f"encoder.level{level}.norm{level}_{number}",
        )
        state[f"{conv}.weight"], state[f"{conv}.bias"] = blobs[f"conv{level}_{number}"]
        state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = statistics(
            f"norm{level}_{number}", *blobs[f"norm{level}_{number}"]
        )
        # Not used at inference, but a strict load asks for it.
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    # The first three bands only: a fourth (heights) keeps its place (see BANDS).
    first = state["encoder.level1.conv1_1.weight"]
    if first.shape[1] in BANDS:
        state["encoder.level1.conv1_1.weight"] = torch.cat([first[:, :3].flip(1), first[:, 3:]], dim=1)
        notes.append(
            f"Bands were turned from Caffe's order to the files' own: {', '.join(BANDS[first.shape[1]])}."
        )

    classifiers = [row.name for row in HEADS[head] if row.type == "Convolution" and row.name != "mlp1"]
    classes = blobs[classifiers[0]][1].numel()
    for name in classifiers:
        weight, bias = blobs[name]
        # One sigmoid output s: two logits 0 and s have a softmax equal to that sigmoid.
        if classes == 1:
            weight, bias = (torch.cat([torch.zeros_like(value), value]) for value in (weight, bias))
        state[f"head.{name}.weight"], state[f"head.{name}.bias"] = weight, bias
    if head == "mlp":
        state["head.mlp1.weight"], state["head.mlp1.bias"] = blobs["mlp1"]
    if head == "fcn":
        learned = blobs["up16"][0]
        # The first logit is 0 everywhere: upsampled by any filter it stays 0.
        state["head.up16.weight"] = torch.cat([learned, learned]) if classes == 1 else learned
    if classes == 1:
        notes.append(
            "The one sigmoid output s became two classes with the logits 0 and s: the softmax of class 1 is "
            "that sigmoid."
        )
    return state, max(classes, 2), notes


def check_fit(
    head: str, in_channels: int, classes: int, options: dict[str, object], weights: dict[str, Tensor]
) -> None:
    """The weights must have the shapes of our network of that name and those options."""
    from labelscape.nets.catalog import create_model
    from labelscape.nets.shapes import shapes_alone

    # Shapes alone: no memory is taken and nothing is initialised.
    with shapes_alone():
        ours = create_model(head, in_channels=in_channels, classes=classes, **options).state_dict()
    for name, value in ours.items():
        if name not in weights or weights[name].shape != value.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise BadFile(
                f"does not fit together: {name} has the shape {found}, expected {tuple(value.shape)}."
            )
