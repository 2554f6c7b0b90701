"""DGCWNet against its equations written as loops (float64, value and gradient), the fast form of eqs. 2-5,
its sizes and promises.
"""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labelscape.errors import BadOption, UnknownName
from labelscape.nets import dgcwnet as dgcwnet_module
from labelscape.nets.backbones import trunk
from labelscape.nets.count import macs, parameters
from labelscape.nets.dgcwnet import (
    ChannelWeighting,
    GlobalPool,
    NonLocal,
    Relation,
    SqueezeExcite,
    convolve,
    dgcwnet,
    shrink,
    to_pixels,
)
from labelscape.nets.kernels.distance import EPS, relation_sum, weigh

TINY = {"backbone": "resnet10t", "width": 4, "base_width": 4, "head_width": 6, "aux_width": 5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def point(conv: nn.Conv2d, vector: Tensor) -> Tensor:
    """A 1x1 convolution at one pixel."""
    return conv.weight[:, :, 0, 0] @ vector + conv.bias


def shares(distance: Tensor, weighting: str) -> Tensor:
    """f of eq. 3 for one pair of pixels."""
    if weighting == "dbs":
        return distance / (sum(distance) + EPS)
    return torch.tanh(distance) if weighting == "tanh" else distance.exp() / sum(distance.exp())


def paper_module(module: ChannelWeighting, features: Tensor, weighting: str, agg: str) -> Tensor:
    """Eqs. 1 to 5, pair of pixels by pair of pixels."""
    out = []
    for image in features.flatten(2):
        pixels = image.shape[1]
        columns = []
        for i in range(pixels):
            own = point(module.value, image[:, i])
            total = torch.zeros_like(own)
            for j in range(pixels):
                distance = (point(module.query, image[:, i]) - point(module.key, image[:, j])) ** 2
                total = total + point(
                    module.second, point(module.first, shares(distance, weighting) * own).clamp(min=0)
                )
            columns.append(image[:, i] + (total / pixels if agg == "mean" else total))
        out.append(torch.stack(columns, dim=-1))
    return torch.stack(out).view_as(features)


def plain_sum(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str
) -> Tensor:
    """What relation_sum promises, with all N x C x P x P tensors alive."""
    distance = (query[..., :, None] - key[..., None, :]) ** 2
    if weighting == "dbs":
        share = distance / (distance.sum(1, keepdim=True) + EPS)
    else:
        share = distance.softmax(1) if weighting == "softmax" else distance.tanh()
    return F.conv2d(share * value[..., None], weight[:, :, None, None], bias).relu().sum(-1)


def assert_same_with_gradients(mine: Tensor, loops: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, loops)
    pull = torch.randn_like(mine)
    for got, wanted in zip(
        torch.autograd.grad(mine, leaves, pull), torch.autograd.grad(loops, leaves, pull), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def five(
    pixels: int, channels: int = 5, outputs: int = 5, images: int = 2, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Q, K, V, W1 and b1 at random, leaves."""
    shapes = [(images, channels, pixels)] * 3 + [(outputs, channels), (outputs,)]
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("agg", ["sum", "mean"])
@pytest.mark.parametrize("weighting", ["dbs", "softmax", "tanh"])
def test_the_module_is_equations_1_to_5(weighting: str, agg: str) -> None:
    module = ChannelWeighting(4, weighting=weighting, agg=agg).double()
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert_same_with_gradients(
        module(features), paper_module(module, features, weighting, agg), [features, *module.parameters()]
    )


@pytest.mark.parametrize("weighting", ["conv", "conv-input"])
def test_the_ablation_is_g_of_v_or_of_f_without_partners(weighting: str) -> None:
    module = ChannelWeighting(4, weighting=weighting).double()
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    out = []
    for image in features.flatten(2):
        own = [
            image[:, i] if weighting == "conv-input" else point(module.value, image[:, i]) for i in range(6)
        ]
        out.append(
            torch.stack(
                [
                    image[:, i] + point(module.second, point(module.first, own[i]).clamp(min=0))
                    for i in range(6)
                ],
                dim=-1,
            )
        )
    assert_same_with_gradients(
        module(features), torch.stack(out).view_as(features), [features, *module.parameters()]
    )


@pytest.mark.parametrize("chunk_bytes", [1, 1500, 2**30])
@pytest.mark.parametrize("weighting", ["dbs", "softmax", "tanh"])
def test_the_fast_form_is_the_plain_form(weighting: str, chunk_bytes: int) -> None:
    leaves = five(pixels=11, channels=5, outputs=7)
    fast = relation_sum(*leaves, weighting=weighting, chunk_bytes=chunk_bytes)
    assert_same_with_gradients(fast, plain_sum(*leaves, weighting), leaves)
    with torch.no_grad():
        assert torch.equal(relation_sum(*leaves, weighting=weighting, chunk_bytes=chunk_bytes), fast)


@pytest.mark.parametrize("weighting", ["dbs", "softmax", "tanh"])
def test_the_fast_form_agrees_with_finite_differences(weighting: str) -> None:
    assert torch.autograd.gradcheck(
        lambda *leaves: relation_sum(*leaves, weighting=weighting, chunk_bytes=400),
        five(pixels=4, channels=3),
    )


def test_offsets_common_to_query_and_key_do_no_harm() -> None:
    """Expanding the square would lose float32 here: error 3e-3 where the mean is 60 times the spread."""
    exact = five(pixels=40, channels=16, outputs=16)
    with torch.no_grad():
        exact[0] += 60
        exact[1] += 60
        single = [leaf.float() for leaf in exact]
        reference = plain_sum(*[leaf.double() for leaf in single], "dbs")
        assert ((relation_sum(*single).double() - reference).abs().max() / reference.abs().max()) < 2e-6


def test_pixels_that_agree_in_every_channel_give_no_nan() -> None:
    query, key, value, weight, bias = five(pixels=6)
    same = query.detach().clone()
    same[:, :, 1] = same[:, :, 0]
    query, key = same.clone().requires_grad_(), same.clone().requires_grad_()
    out = relation_sum(query, key, value, weight, bias)
    out.square().sum().backward()
    assert out.isfinite().all() and all(
        leaf.grad.isfinite().all() for leaf in (query, key, value, weight, bias)
    )
    flat = torch.ones(1, 5, 3, dtype=torch.float64)  # all pixels alike: W is 0 and only the bias is left
    torch.testing.assert_close(relation_sum(flat, flat, flat, weight, bias)[0, :, 0], 3 * bias.clamp(min=0))


@pytest.mark.parametrize(("deviation", "lowered"), [(1e-3, 0.4), (1e-4, 28)])
def test_the_number_added_to_the_sum_changes_as_much_as_differs_says(
    deviation: float, lowered: float
) -> None:
    query, key = (deviation * torch.randn(128, 200, dtype=torch.float64) for _ in range(2))
    distance = (query - key).square()
    share, _ = weigh(distance.clone(), "dbs")
    exact = distance / distance.sum(0)
    assert 100 * float((1 - share / exact).mean()) == pytest.approx(lowered, rel=0.05)
    text = " ".join(dgcwnet_module.__doc__.split())
    assert f"{EPS:.0e}".replace("e-0", "e-") in text and f"{lowered:g} %" in text


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize("weighting", ["dbs", "softmax", "tanh"])
def test_memory_does_not_grow_with_the_square_of_the_pixels(weighting: str) -> None:
    for pixels in (60, 240):
        leaves = five(pixels, channels=8, outputs=8, images=1, dtype=torch.float32)
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = relation_sum(*leaves, weighting=weighting, chunk_bytes=4 * 8 * pixels * 5)
            out.sum().backward()
        assert largest.elements <= 8 * pixels * 5  # five queries at a time
        assert kept == sum(
            leaf.numel() for leaf in leaves
        )  # nothing but the inputs waits for the backward pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sum_over_partners_stays_in_float32_under_autocast(dtype: torch.dtype) -> None:
    module = ChannelWeighting(8)
    features = torch.randn(1, 8, 40, 40)
    with torch.no_grad():
        wanted = module(features)
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(module(features), wanted)
            half = module(features.to(dtype))
    assert half.dtype == torch.float32  # cast back, the sum's spatial differences would be rounded away
    torch.testing.assert_close(half, module(features.to(dtype).float()))
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in five(pixels=6, dtype=torch.float32)]
    out = relation_sum(*leaves)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(leaf.grad.dtype == dtype for leaf in leaves)


def inner_error(found: Tensor, wanted: Tensor) -> float:
    """Deviation from `wanted` as a share of its spatial deviation, away from the zero padding."""
    found, wanted = (x.float()[..., 1:-1, 1:-1] for x in (found, wanted))
    return float((found - wanted).std() / wanted.std((2, 3)).mean())


def test_bfloat16_keeps_the_spatial_differences_of_the_large_sum() -> None:
    """625 pixels of a context whose mean is 90 times its spatial deviation, beside features of mean 0."""
    conv, norm = nn.Conv2d(8 + 16, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
    features = torch.cat([torch.randn(2, 8, 25, 25), 90 + torch.randn(2, 16, 25, 25)], dim=1)
    with torch.no_grad():
        wanted = norm(conv(features))
        with torch.autocast("cpu", torch.bfloat16):
            found, plain = norm(convolve(conv, features, exact=16)), norm(conv(features))
            all_exact = norm(convolve(conv, features, exact=24))
    assert inner_error(found, wanted) < 0.005
    assert inner_error(plain, wanted) > 0.1
    torch.testing.assert_close(all_exact, wanted)


@pytest.mark.parametrize("fuse", ["concat", "upsample", "none"])
def test_the_head_takes_the_context_in_float32_under_autocast(fuse: str) -> None:
    net = dgcwnet(in_channels=3, classes=4, **TINY, fuse=fuse).eval()
    other = net.context.width - 4
    features = torch.cat([torch.randn(2, other, 25, 25), 90 + torch.randn(2, 4, 25, 25)], dim=1)
    seen: list[Tensor] = []
    first = net.head if fuse == "none" else net.head[0][1]  # the normalisation, with what it has to subtract
    if fuse != "none":
        first.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        outputs = [net.head(features)]
        with torch.autocast("cpu", torch.bfloat16):
            outputs += [net.headed(features), net.head(features)]
    wanted, found, plain = seen or outputs
    assert inner_error(found, wanted) < 0.01
    assert inner_error(plain, wanted) > 5 * inner_error(found, wanted)


@pytest.mark.parametrize("scaled", [True, False])
def test_non_local_is_equation_6(scaled: bool) -> None:
    module = NonLocal(4, scaled=scaled).double()
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    out = []
    for image in features.flatten(2):
        columns = []
        for i in range(6):
            products = torch.stack(
                [point(module.query, image[:, i]) @ point(module.key, image[:, j]) for j in range(6)]
            )
            share = (products / (2 if scaled else 1)).exp()
            mixed = sum(share[j] / share.sum() * point(module.value, image[:, j]) for j in range(6))
            columns.append(image[:, i] + point(module.out, mixed))
        out.append(torch.stack(columns, dim=-1))
    assert_same_with_gradients(
        module(features), torch.stack(out).view_as(features), [features, *module.parameters()]
    )


def mean_of(image: Tensor) -> Tensor:
    """(C, 2, 4) -> (C,)."""
    return torch.stack([sum(channel[y, x] for y in range(2) for x in range(4)) / 8 for channel in image])


def test_gap_and_se_are_section_4_4_1() -> None:
    x8 = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    gap, se = GlobalPool(3, 2).double(), SqueezeExcite(3, 2).double()
    joined = [
        torch.cat([image, point(gap.squeeze, mean_of(image))[:, None, None].expand(2, 2, 4)]) for image in x8
    ]
    assert_same_with_gradients(gap(x8), torch.stack(joined), [x8, *gap.parameters()])
    shares_of = [
        1 / (1 + (-point(se.excite, point(se.squeeze, mean_of(image)).clamp(min=0))).exp()) for image in x8
    ]
    weighted = [torch.stack([image[c] * share[c] for c in range(3)]) for image, share in zip(x8, shares_of)]
    assert_same_with_gradients(se(x8), torch.stack(weighted), [x8, *se.parameters()])


@pytest.mark.parametrize("how", ["bilinear", "max", "avg"])
def test_downsampling_by_four(how: str) -> None:
    for side, wanted in ((97, 25), (64, 16), (65, 17), (5, 2), (4, 1), (1, 1)):
        assert shrink(torch.randn(1, 2, side, 3), 4, how, True).shape == (1, 2, wanted, 1)
    ramp = torch.arange(10.0).expand(1, 1, 9, 10)
    cells = {"bilinear": [0, 4.5, 9], "max": [3, 7, 9], "avg": [1.5, 5.5, 8.5]}[how]
    torch.testing.assert_close(shrink(ramp, 4, how, True)[0, 0, 0], torch.tensor(cells, dtype=torch.float32))
    torch.testing.assert_close(
        shrink(torch.arange(9.0).expand(1, 1, 9, 9), 4, "bilinear", True)[0, 0, 0],
        torch.tensor([0.0, 4.0, 8.0]),
    )
    assert shrink(ramp, 1, how, True) is ramp


@pytest.mark.parametrize("fuse", ["concat", "upsample", "none"])
def test_relation_fuses_as_told(fuse: str) -> None:
    module = (
        Relation(
            3,
            2,
            nn.Identity(),
            ratio=4,
            reduce_kernel=1,
            downsample="bilinear",
            fuse=fuse,
            align_corners=True,
        )
        .double()
        .eval()
    )
    x8 = torch.randn(1, 3, 9, 13, dtype=torch.float64)
    small = module.reduce(x8)[..., ::4, ::4]  # with 4k + 1 cells and aligned corners every fourth cell
    context = F.interpolate(small, (9, 13), mode="bilinear", align_corners=True)
    wanted = {"concat": torch.cat([x8, context], dim=1), "upsample": context, "none": small}[fuse]
    torch.testing.assert_close(module(x8), wanted)
    assert module.width == wanted.shape[1]


def test_cells_stand_on_every_eighth_pixel_whatever_the_size() -> None:
    logits = torch.randn(1, 2, 4, 3)
    for height, width in ((32, 24), (25, 17)):
        image = torch.empty(1, 3, height, width)
        out = to_pixels(logits, image, 8, True)
        assert out.shape == (1, 2, height, width)
        torch.testing.assert_close(out[..., ::8, ::8], logits)
    torch.testing.assert_close(
        out, F.interpolate(logits, (25, 17), mode="bilinear", align_corners=True)
    )  # 8k + 1: the usual reading
    other = to_pixels(logits, torch.empty(1, 3, 32, 24), 8, False)
    torch.testing.assert_close(other, F.interpolate(logits, scale_factor=8, mode="bilinear"))


def test_the_network_is_figure_2() -> None:
    """The blocks above, put together once more by hand."""
    net = dgcwnet(in_channels=3, classes=4, **TINY).double().eval()
    image = torch.randn(1, 3, 72, 40, dtype=torch.float64)
    x8 = net.trunk(image)[-1]
    assert x8.shape == (1, 512, 9, 5)
    x32 = net.context.reduce(x8)[..., ::4, ::4]
    x32 = paper_module(net.context.update, x32, "dbs", "sum")
    joined = torch.cat([x8, F.interpolate(x32, (9, 5), mode="bilinear", align_corners=True)], dim=1)
    torch.testing.assert_close(
        net(image)[..., :65, :33],
        F.interpolate(net.head(joined), (65, 33), mode="bilinear", align_corners=True),
    )


@functools.cache
def once(name: str, **options: object) -> nn.Module:
    """A trunk without storage, built once: building ResNet-101 is what takes time here."""
    return trunk(name, **options)


def training_macs(net: nn.Module, side: int) -> int:
    """Multiply-accumulates as the sizes below count them: with the auxiliary head, which does not run in
    evaluation, and with the second convolution of g on every pair of pixels, where the fast form has it once
    for each pixel.
    """
    cells = (-(-side // 8)) ** 2
    total = macs(net, side, side, 3) + cells * (9 * 1024 * 512 + 512 * 19)
    if isinstance(net.context, Relation):
        pixels = (-(-side // 32)) ** 2
        total += pixels**2 * 128**2 - pixels * 128**2
    return total


@pytest.mark.parametrize(
    ("options", "millions", "giga_macs"),
    [
        ({"context": "none"}, 56.80, 242.4),
        ({}, 59.83, 256.6),
        ({"fuse": "none"}, 49.80, 215.5),
        ({"base": "ppm", "context": "none"}, 70.44, 281.1),
        ({"base": "ppm"}, 75.83, 305.0),
        ({"base": "aspp", "context": "none"}, 81.45, 339.0),
        ({"base": "aspp"}, 82.71, 346.0),
    ],
)
def test_published_sizes(
    options: dict, millions: float, giga_macs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelscape.nets.dgcwnet.trunk", once)
    with torch.device("meta"):
        net = dgcwnet(in_channels=3, classes=19, stem="deep", **options)
    assert round(parameters(net) / 1e6, 2) == millions
    assert training_macs(net, 512) / 1e9 == pytest.approx(giga_macs, abs=0.06)
    if not options:  # 769 is padded to 776, which the first levels feel by 0.4 G
        assert training_macs(net, 769) / 1e9 == pytest.approx(597, abs=1)


def test_the_standard_stem_saves_123776_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelscape.nets.dgcwnet.trunk", once)
    with torch.device("meta"):
        deep, standard = (dgcwnet(in_channels=3, classes=19, stem=stem) for stem in ("deep", "standard"))
    assert parameters(deep) - parameters(standard) == 123_776


def test_the_module_has_five_convolutions_of_128_channels() -> None:
    assert parameters(ChannelWeighting(128)) == 82_560 == 5 * (128**2 + 128)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base": "ppm"},
        {"base": "aspp"},
        {"weighting": "softmax", "agg": "mean"},
        {"weighting": "tanh"},
        {"weighting": "conv"},
        {"weighting": "conv-input"},
        {"context": "gap"},
        {"context": "se"},
        {"context": "nl-h"},
        {"context": "nl-d", "nl_scaled": True},
        {"context": "none"},
        {"fuse": "upsample", "downsample": "max"},
        {"fuse": "none", "downsample": "avg"},
        {"align_corners": False, "reduce_kernel": 1},
    ],
)
def test_same_size_back_and_gradients_reach_every_parameter(options: dict) -> None:
    net = dgcwnet(in_channels=4, classes=3, **TINY, **options)
    for module in (
        net.trunk.modules()
    ):  # some trunks start with a zero at the end of each residual, which hides what is before it
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    image, label = torch.randn(2, 4, 37, 50), torch.randint(0, 3, (2, 37, 50))
    heads = net.heads(image)
    assert {name: tuple(logits.shape) for name, logits in heads.items()} == {
        "logits": (2, 3, 37, 50),
        "aux": (2, 3, 37, 50),
    }
    (F.cross_entropy(heads["logits"], label) + 0.4 * F.cross_entropy(heads["aux"], label)).backward()  # eq. 7
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # softmax over the pixels is blind to what all its arguments have in common
        assert parameter.grad.abs().max() > 0 or name.endswith("update.key.bias"), name
    heads = net.eval().heads(image)
    assert list(heads) == ["logits"] and heads["logits"].shape == (2, 3, 37, 50)


@pytest.mark.parametrize("base", ["plain", "ppm", "aspp"])
def test_one_stride_is_enough_and_any_bands(base: str) -> None:
    for bands in (1, 5):
        net = dgcwnet(in_channels=bands, classes=2, **TINY, base=base).eval()
        for size in ((8, 8), (9, 31)):
            assert net(torch.randn(1, bands, *size)).shape == (1, 2, *size)


def test_saved_and_loaded_is_the_same_network() -> None:
    first, second = (dgcwnet(in_channels=2, classes=3, **TINY) for _ in range(2))
    first(torch.randn(2, 2, 40, 40))  # moves the running statistics
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 2, 41, 39)
    assert torch.equal(first.eval()(image), second.eval()(image))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"base": "asp"}, UnknownName, "'aspp'"),
        ({"context": "nl"}, UnknownName, "nl-h"),
        ({"weighting": "DBS"}, UnknownName, "dbs"),
        ({"fuse": "concatenate"}, UnknownName, "'concat'"),
        ({"agg": "max"}, UnknownName, "mean"),
        ({"downsample": "linear"}, UnknownName, "'bilinear'"),
        ({"reduce_kernel": 2}, UnknownName, "1, 3"),
        ({"width": 0}, BadOption, "width=0"),
        ({"head_width": 1.5}, BadOption, "head_width"),
        ({"nl_scaled": 1}, BadOption, "True or False"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        dgcwnet(in_channels=3, classes=3, **{"backbone": "resnet18"} | options)


def test_an_unknown_weighting_of_the_kernel_is_named() -> None:
    with pytest.raises(UnknownName, match="softmax"):
        relation_sum(*five(pixels=2), weighting="softmx")


def test_it_is_exported_for_any_size() -> None:
    """The loop over queries was as long as that of the example: no other size went through."""
    net = dgcwnet(in_channels=3, classes=4, backbone="resnet10t", width=8, head_width=8, aux_width=8).eval()
    rows, columns = (8 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    program = torch.export.export(
        net, (torch.randn(1, 3, 64, 64),), dynamic_shapes=({2: rows, 3: columns},)
    ).module()
    for height, width in ((64, 64), (96, 128), (200, 72)):
        image = torch.randn(1, 3, height, width)
        torch.testing.assert_close(program(image), net(image), rtol=1e-4, atol=1e-5)
