"""DeepLabV3+, PSPNet, the modules they share with the papers' networks, and the architectures of
segmentation_models_pytorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from labelscape.errors import BadFile, BadOption, UnknownName
from labelscape.nets import baselines
from labelscape.nets.baselines import deeplabv3plus, pspnet, smp_names, smp_network, smp_options
from labelscape.nets.blocks import Network
from labelscape.nets.context import ASPP, OneValueNorm, PyramidPooling
from labelscape.nets.count import macs, on_meta, parameters


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def settled(net: nn.Module) -> nn.Module:
    """In eval mode, float64, with weights and statistics that are not those of a fresh network."""
    for key, value in net.double().eval().state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if key.endswith("var") else value.uniform_(-1, 1)
    return net


def normed(values: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Running statistics, scale and shift, ReLU, channel by channel: (C, ...) -> (C, ...)."""
    out = torch.empty_like(values)
    for c in range(values.shape[0]):
        out[c] = (values[c] - norm.running_mean[c]) / (norm.running_var[c] + norm.eps).sqrt() * norm.weight[
            c
        ] + norm.bias[c]
    return out.clamp(min=0)


def dilated_by_loops(level: Tensor, weight: Tensor, rate: int) -> Tensor:
    """(C, h, w) and (C', C, k, k) -> (C', h, w): taps `rate` apart around each pixel, nothing beyond the
    border.
    """
    _, height, width = level.shape
    reach = weight.shape[-1] // 2
    out = torch.zeros(weight.shape[0], height, width, dtype=level.dtype)
    for y in range(height):
        for x in range(width):
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    row, column = y + i * rate, x + j * rate
                    if 0 <= row < height and 0 <= column < width:
                        out[:, y, x] += weight[:, :, i + reach, j + reach] @ level[:, row, column]
    return out


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({}, 5),
        ({"rates": (2, 4), "outputs": 3}, 4),
        ({"rates": (1, 3, 5), "pointwise": False}, 4),
        ({"rates": (2,), "pooling": False}, 2),
    ],
)
def test_aspp_is_its_branches_joined(options: dict, branches: int) -> None:
    aspp = settled(ASPP(3, 2, **options))
    level = torch.randn(1, 3, 9, 7, dtype=torch.float64)
    rates = options.get("rates", (6, 12, 18))
    kernels = ([(1, 1)] if options.get("pointwise", True) else []) + [(3, rate) for rate in rates]
    views = []
    for (kernel, rate), (conv, norm, _) in zip(kernels, aspp.branches, strict=True):
        assert conv.kernel_size == (kernel, kernel)
        views.append(normed(dilated_by_loops(level[0], conv.weight, rate), norm))
    if options.get("pooling", True):
        _, conv, norm, _ = aspp.pool
        mean = torch.tensor(
            [sum(level[0, c, y, x] for y in range(9) for x in range(7)) / 63 for c in range(3)]
        )
        views.append(normed(conv.weight[:, :, 0, 0] @ mean, norm)[:, None, None].expand(-1, 9, 7))
    assert len(views) == branches
    conv, norm, _ = aspp.join
    wanted = normed(dilated_by_loops(torch.cat(views), conv.weight, 1), norm)
    assert wanted.shape[0] == options.get("outputs", 2)
    torch.testing.assert_close(aspp(level)[0], wanted)


def enlarged_by_loops(cells: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Bilinear (C, n, n) -> (C, h, w)."""
    side = cells.shape[-1]

    def place(pixel: int, count: int) -> tuple[int, int, float]:
        if align_corners:
            at = pixel * (side - 1) / (count - 1)
        else:
            at = min(max((pixel + 0.5) * side / count - 0.5, 0), side - 1)
        low = min(int(at), side - 1)
        return low, min(low + 1, side - 1), at - low

    out = torch.empty(cells.shape[0], height, width, dtype=cells.dtype)
    for y in range(height):
        for x in range(width):
            (top, bottom, down), (left, right, across) = place(y, height), place(x, width)
            upper = cells[:, top, left] * (1 - across) + cells[:, top, right] * across
            lower = cells[:, bottom, left] * (1 - across) + cells[:, bottom, right] * across
            out[:, y, x] = upper * (1 - down) + lower * down
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("height", "width"), [(12, 18), (7, 11), (5, 3)])
def test_pyramid_pooling_is_means_of_parts(height: int, width: int, align_corners: bool) -> None:
    pooling = settled(PyramidPooling(3, 2, bins=(1, 2, 3, 6), align_corners=align_corners))
    level = torch.randn(1, 3, height, width, dtype=torch.float64)
    wanted = [level[0]]
    for bins, (_, conv, norm, _) in zip((1, 2, 3, 6), pooling.parts, strict=True):
        means = torch.empty(3, bins, bins, dtype=torch.float64)
        for i in range(bins):
            for j in range(bins):
                rows = slice(math.floor(i * height / bins), math.ceil((i + 1) * height / bins))
                columns = slice(math.floor(j * width / bins), math.ceil((j + 1) * width / bins))
                means[:, i, j] = level[0, :, rows, columns].mean((1, 2))
        reduced = normed(torch.einsum("oc,cij->oij", conv.weight[:, :, 0, 0], means), norm)
        wanted.append(enlarged_by_loops(reduced, height, width, align_corners))
    out = pooling(level)
    assert out.shape == (1, 3 + 4 * 2, height, width)
    torch.testing.assert_close(out[0], torch.cat(wanted))


def test_one_value_is_normalised_with_running_statistics() -> None:
    norm, plain = OneValueNorm(3).double(), nn.BatchNorm2d(3).double()
    for each in (norm, plain):
        each.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        each.running_var.copy_(torch.tensor([4.0, 9.0, 16.0]))
    values = torch.randn(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    out = norm(values)
    torch.testing.assert_close(out, plain.eval()(values))
    out.sum().backward()
    assert values.grad.all()
    assert norm.running_mean.tolist() == [1, 2, 3]
    assert norm.num_batches_tracked == 0
    for shape in ((2, 3, 1, 1), (1, 3, 2, 1)):  # with two values it is ordinary
        more = torch.randn(shape, dtype=torch.float64)
        other = nn.BatchNorm2d(3).double()
        other.load_state_dict(norm.state_dict())
        torch.testing.assert_close(norm(more), other(more))
        assert torch.equal(norm.running_var, other.running_var)


def test_deeplabv3plus_has_the_published_size() -> None:
    with torch.device("meta"):
        net = deeplabv3plus(in_channels=3, classes=5)
    assert parameters(net) == 59_340_197
    assert round(macs(net, 512, 512) / 1e9, 2) == 88.55
    convs = [branch[0] for branch in net.context[0].branches]
    assert [(conv.kernel_size[0], conv.dilation[0], conv.groups) for conv in convs] == [
        (1, 1, 1),
        (3, 6, 1),
        (3, 12, 1),
        (3, 18, 1),
    ]
    assert net.stride == 16


@pytest.mark.parametrize(("stem", "trunk"), [("standard", 42_500_160), ("deep", 42_623_936)])
def test_pspnet_has_the_size_of_its_parts(stem: str, trunk: int) -> None:
    with torch.device("meta"):
        net = pspnet(in_channels=3, classes=19, stem=stem)
    pool, head, aux = (
        4 * (2048 * 512 + 1024),
        4096 * 512 * 9 + 1024 + 512 * 19 + 19,
        1024 * 256 * 9 + 512 + 256 * 19 + 19,
    )
    assert parameters(net) == trunk + pool + head + aux
    assert net.stride == 8
    if stem == "deep":
        return
    at_8 = (4096 * 512 * 9 + 512 * 19) * 64 * 64 + 2048 * 512 * (
        1 + 4 + 9 + 36
    )  # the auxiliary head does not run in evaluation
    assert macs(net, 512, 512) == macs(net.trunk, 512, 512) + at_8


NETWORKS: dict[str, Callable[..., Network]] = {
    "deeplabv3plus resnet18": lambda **sizes: deeplabv3plus(backbone="resnet18", width=8, **sizes),
    "deeplabv3plus lite0 corners": lambda **sizes: deeplabv3plus(
        backbone="tf_efficientnet_lite0", width=8, align_corners=True, **sizes
    ),
    "pspnet resnet18": lambda **sizes: pspnet(backbone="resnet18", width=8, aux_width=8, **sizes),
    "smp/Unet": lambda **sizes: smp_network("Unet", encoder="resnet18", **sizes),
    "smp/DeepLabV3Plus": lambda **sizes: smp_network("DeepLabV3Plus", encoder="resnet18", **sizes),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    net = NETWORKS[request.param](in_channels=4, classes=3)
    for module in net.modules():  # timm starts the last normalisation of a block at zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net


def test_any_size_in_train_and_eval_mode(network: Network) -> None:
    stride = network.stride
    assert (network.in_channels, network.classes, network.reach) == (4, 3, None)
    for height, width in ((stride, stride), (stride + 1, 2 * stride - 1)):
        image = torch.zeros(2, 4, height, width, device="meta")
        assert on_meta(network, image).shape == (2, 3, height, width)
    network.train()
    heads = network.heads(torch.randn(2, 4, stride + 1, 2 * stride - 1))
    assert set(heads) == {"logits", "aux"} if hasattr(network, "aux") else {"logits"}
    assert {logits.shape for logits in heads.values()} == {(2, 3, stride + 1, 2 * stride - 1)}


def test_gradients_reach_every_parameter(network: Network) -> None:
    network.train().zero_grad()
    side = max(64, network.stride)
    heads = network.heads(torch.randn(2, 4, side, side - 5))
    sum((logits * torch.randn_like(logits)).sum() for logits in heads.values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if key.endswith("weight"):
            assert parameter.grad.any(), key


def test_an_image_alone(network: Network) -> None:
    side = max(64, network.stride)
    image = torch.randn(2, 4, side, side)
    with torch.no_grad():
        network.train()(image[:1])  # one value for each channel of a pooled map
        network.eval()
        assert network.heads(image).keys() == {"logits"}
        both, alone = network(image), network(image[:1])
    assert both.isfinite().all()
    torch.testing.assert_close(alone, both[:1], atol=1e-3 * both.abs().max().item(), rtol=0)


def test_every_architecture_of_the_library() -> None:
    strides = {}
    for name in smp_names():
        encoder = "tu-vit_tiny_patch16_224" if name == "DPT" else "resnet18"
        with torch.device("meta"):
            net = smp_network(name, in_channels=4, classes=5, encoder=encoder)
        strides[name] = net.stride
        size = (net.stride + 1, 2 * net.stride + 3)
        assert on_meta(net, torch.zeros(1, 4, *size, device="meta")).shape == (1, 5, *size), name
        side = max(64, net.stride)
        assert net.train()(torch.zeros(1, 4, side, side, device="meta")).shape == (1, 5, side, side), (
            name
        )  # one image, in training
        assert {"encoder", "pretrained"} <= set(smp_options(name))
        assert not {
            "encoder_name",
            "encoder_weights",
            "in_channels",
            "classes",
            "activation",
            "kwargs",
        } & set(smp_options(name))
    assert (strides["Unet"], strides["DeepLabV3Plus"], strides["PSPNet"]) == (32, 16, 8)
    assert strides["PAN"] == 128  # it pools three times more


def test_options_of_the_library_reach_it() -> None:
    with torch.device("meta"):
        small = smp_network(
            "Unet", in_channels=1, classes=2, encoder="resnet18", encoder_depth=3, decoder_channels=[16, 8, 4]
        )
    assert small.stride == 8
    assert small.net.segmentation_head[0].in_channels == 4
    assert smp_options("Unet")["encoder_depth"].default == 5


@pytest.mark.parametrize(
    ("architecture", "options", "error", "words"),
    [
        ("Unt", {}, UnknownName, "Did you mean 'Unet'"),
        ("Unet", {"encoder": "resnet19"}, UnknownName, "Did you mean 'resnet1[08]'"),
        ("Unet", {"encoder": "tu-resnet1"}, UnknownName, "Did you mean 'tu-resnet"),
        ("Unet", {"encoder_dept": 3}, UnknownName, "'encoder_depth'"),
        ("Unet", {"activation": "softmax"}, UnknownName, "activation"),
        ("Unet", {"decoder_channels": (8, 4)}, BadOption, "smp/Unet refuses encoder='resnet18'.*5"),
        ("DPT", {}, BadOption, "tu-"),
        ("UnetPlusPlus", {"encoder": "mit_b0"}, BadOption, "mit_b0"),
        ("Unet", {"encoder": "tu-vit_tiny_patch16_224"}, BadOption, "vit_tiny"),
    ],
)
def test_what_the_library_cannot_do_is_refused(
    architecture: str, options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        smp_network(architecture, in_channels=3, classes=2, **{"encoder": "resnet18"} | options)


def test_library_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**options: object) -> nn.Module:
        assert options["encoder_weights"] == "imagenet"
        raise OSError("Name or service not known\nand a long story")

    monkeypatch.setattr(baselines, "smp_class", lambda name: unreachable)
    with pytest.raises(
        BadFile, match=r"^The published weights of resnet18 are .*not known\)\. Pass pretrained=False"
    ):
        smp_network("Unet", in_channels=3, classes=2, encoder="resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (deeplabv3plus, {"rates": ()}, "rates=()"),
        (deeplabv3plus, {"rates": 6}, "rates=6"),
        (deeplabv3plus, {"rates": (6, 0)}, "rates"),
        (deeplabv3plus, {"width": 0}, "width=0"),
        (deeplabv3plus, {"low_width": True}, "low_width=True"),
        (deeplabv3plus, {"dropout": 1}, "dropout=1"),
        (pspnet, {"bins": (1, 2.5)}, "bins"),
        (pspnet, {"aux_width": "8"}, "aux_width='8'"),
        (pspnet, {"dropout": -0.1}, "dropout"),
        (pspnet, {"backbone": "densenet121"}, "output_stride=32"),
    ],
)
def test_options_that_cannot_be_are_refused(build: Callable[..., Network], options: dict, words: str) -> None:
    with pytest.raises(BadOption, match=words.replace("(", r"\(").replace(")", r"\)")):
        build(in_channels=3, classes=2, **options)


def test_deeplabv3plus_reads_layer1_and_layer4() -> None:
    net = (
        deeplabv3plus(in_channels=2, classes=3, backbone="resnet18", width=4, low_width=3, rates=(1, 2, 3))
        .double()
        .eval()
    )
    image = torch.randn(1, 2, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        layer1, _, _, layer4 = net.trunk(image)
        assert (layer1.shape[2:], layer4.shape[2:]) == ((8, 12), (2, 3))
        wide = torch.nn.functional.interpolate(
            net.context(layer4), (8, 12), mode="bilinear", align_corners=False
        )
        x4 = torch.cat([wide, net.low(layer1)], dim=1)
        logits = net.score(net.fuse[1](net.fuse[0](x4)))
        wanted = torch.nn.functional.interpolate(logits, (32, 48), mode="bilinear", align_corners=False)
        torch.testing.assert_close(net(image), wanted)


def test_pspnet_reads_layer3_beside_layer4() -> None:
    net = pspnet(in_channels=2, classes=3, backbone="resnet18", width=4, aux_width=4).double().eval()
    image = torch.randn(1, 2, 48, 56, dtype=torch.float64)
    with torch.no_grad():
        *_, layer3, layer4 = net.trunk(image)
        wanted = torch.nn.functional.interpolate(
            net.head(net.pool(layer4)), (48, 56), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(net(image), wanted)
        seen = []
        net.aux.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
        net(image)
        assert seen == []  # in training only
        net.train().heads(image)
        assert seen == [layer3.shape]
