"""The networks of Maggiori et al. against their equations written as loops, and what a network of the
catalogue promises.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.nets import maggiori
from labelscape.nets.maggiori import (
    Features,
    HighResolution,
    Mirror,
    Perceptron,
    Score,
    Skip,
    bilinear_deconv,
    start_from,
    upsample,
)

SMALL = (3, 4, 5, 6)
BUILDERS = {"fcn": maggiori.fcn, "unpooling": maggiori.unpooling, "skip": maggiori.skip, "mlp": maggiori.mlp}
VARIANTS = [
    (name, downsample, upsampling)
    for name in BUILDERS
    for downsample, upsampling in ((1, "deconv"), (2, "deconv"), (3, "interpolate"))
]


def small(name: str, *, in_channels: int = 2, classes: int = 3, **options: object) -> HighResolution:
    hidden = {"hidden": 9} if name == "mlp" and "variant" not in options else {}
    torch.manual_seed(0)
    return BUILDERS[name](in_channels=in_channels, classes=classes, **{"widths": SMALL, **hidden, **options})


def features(height: int = 32, width: int = 48, images: int = 1) -> Features:
    torch.manual_seed(1)
    levels = [
        torch.randn(images, c, height >> i, width >> i, dtype=torch.float64)
        for i, c in enumerate(SMALL, start=1)
    ]
    places = tuple(F.max_pool2d(level, 2, return_indices=True)[1] for level in levels[:3])
    return Features(*levels, places)


def upsampled_by_loops(level: Tensor, factor: int) -> Tensor:
    """Bilinear deconvolution as a sum: every input adds a triangle 2 factor wide around its centre;
    nothing comes from beyond the border.
    """
    _, channels, height, width = level.shape
    out = torch.zeros(1, channels, height * factor, width * factor, dtype=level.dtype)
    for y in range(height * factor):
        for x in range(width * factor):
            for i in range(height):
                for j in range(width):
                    down, right = (y + 0.5) / factor - (i + 0.5), (x + 0.5) / factor - (j + 0.5)
                    if abs(down) < 1 and abs(right) < 1:
                        out[0, :, y, x] += (1 - abs(down)) * (1 - abs(right)) * level[0, :, i, j]
    return out


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_bilinear_deconvolution_is_a_sum_of_triangles(factor: int) -> None:
    level = torch.randn(1, 2, 3, 2, dtype=torch.float64)
    assert torch.allclose(upsample(level, factor), upsampled_by_loops(level, factor), atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_both_readings_of_bilinear_are_torchs(factor: int) -> None:
    level = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    deconv = bilinear_deconv(3, factor).double()
    assert torch.allclose(
        upsample(level, factor), deconv(level), atol=1e-6
    )  # its weights were made in float32
    wide = F.interpolate(level, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample(level, factor, "replicate"), wide, atol=1e-12)
    inside = (..., slice(factor, -factor), slice(factor, -factor))
    assert torch.allclose(
        upsample(level, factor)[inside], wide[inside], atol=1e-12
    )  # they differ at the border only
    assert (upsample(level, factor) - wide).abs().max() > 0.1


@pytest.mark.parametrize("border", ["constant", "replicate"])
def test_skip_adds_scores_from_coarse_to_fine(border: str) -> None:
    x2, x4, x8, x16, _ = levels = features()
    head = Skip(SMALL, 2, border).double()

    def score(conv: nn.Conv2d, level: Tensor) -> Tensor:
        out = torch.zeros(1, 2, *level.shape[-2:], dtype=torch.float64)
        for k in range(2):
            out[0, k] = conv.bias[k] + sum(
                conv.weight[k, c, 0, 0] * level[0, c] for c in range(level.shape[1])
            )
        return out

    total = score(head.score4, x16)
    for conv, level in ((head.score3, x8), (head.score2, x4), (head.score1, x2)):
        total = upsample(total, 2, border) + score(conv, level)
    assert torch.allclose(head(levels), upsample(total, 2, border), atol=1e-12)


@pytest.mark.parametrize("relu", [True, False])
def test_the_perceptron_is_one_and_the_same_at_every_pixel(relu: bool) -> None:
    levels = features()
    head = Perceptron(SMALL, 2, "constant", hidden=7, relu=relu).double()
    raised = [
        upsampled_by_loops(level, 2**i) if level.shape[-1] < 8 else upsample(level, 2**i)
        for i, level in enumerate(levels[:4])
    ]
    x2 = torch.zeros(1, 2, 16, 24, dtype=torch.float64)
    first, second = head.mlp1.weight.flatten(1), head.mlp2.weight.flatten(1)
    for y in range(16):
        for x in range(24):
            pool = torch.cat([level[0, :, y, x] for level in raised])
            hidden = first @ pool + head.mlp1.bias
            x2[0, :, y, x] = second @ (hidden.clamp(min=0) if relu else hidden) + head.mlp2.bias
    expected = upsample(x2, 2)
    assert torch.allclose(head(levels), expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(head.eval()(levels), expected, atol=1e-12)


@pytest.mark.parametrize("border", ["constant", "replicate"])
@pytest.mark.parametrize(("limit", "rows"), [(1, [8] * 5), (160_000, [16, 16, 8]), (2**40, [40])])
def test_strips_are_the_whole(
    border: str, limit: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maggiori, "STRIP_BYTES", limit)
    head = Perceptron(SMALL, 2, border, hidden=33, relu=True).double().eval()
    levels = tuple(F.pad(level, (1, 1, 1, 1), mode=border) for level in features(80, 48, images=2)[:4])
    sizes = []
    head.mlp1.register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape)))
    whole = head.classify(levels)
    with torch.no_grad():
        strips = head.classify_in_strips(levels)
    assert torch.allclose(whole, strips, atol=1e-12)
    assert sizes == [
        (2, 33, 40, 24),
        *[(1, 33, count, 24) for count in rows] * 2,
    ]  # 16 rows of 18 + 33 float64 channels: 156,672 bytes


def test_unpooling_puts_values_back_where_the_maxima_were() -> None:
    levels = features()
    head = Mirror(SMALL, 2, affine=False, bn_momentum=0.1).double().eval()

    def unpooled(value: Tensor, fine: Tensor) -> Tensor:
        out = torch.zeros(1, value.shape[1], *fine.shape[-2:], dtype=torch.float64)
        for c in range(value.shape[1]):
            for y in range(value.shape[2]):
                for x in range(value.shape[3]):
                    place = int(fine[0, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].argmax())
                    out[0, c, 2 * y + place // 2, 2 * x + place % 2] = value[0, c, y, x]
        return out

    x8 = unpooled(head.level4(levels.x16), levels.x8)
    x4 = unpooled(head.level3(x8), levels.x4)
    x2 = head.level1(unpooled(head.level2(x4), levels.x2))
    assert torch.allclose(head(levels), head.score(x2), atol=1e-12)
    # the last deconvolution, 5 x 5 of stride 2, as a sum at some pixels
    out, weight = head(levels), head.score.weight
    for y, x in ((0, 0), (1, 5), (17, 30), (31, 47)):
        total = head.score.bias.clone()
        for i in range(16):
            for j in range(24):
                if 0 <= y + 2 - 2 * i < 5 and 0 <= x + 2 - 2 * j < 5:
                    total += weight[:, :, y + 2 - 2 * i, x + 2 - 2 * j].T @ x2[0, :, i, j]
        assert torch.allclose(out[0, :, y, x], total, atol=1e-12)


def test_the_fcn_upsamples_one_score_and_learns_how() -> None:
    levels = features()
    head = Score(SMALL, 2, "constant").double()
    assert torch.allclose(head(levels), upsample(head.score(levels.x16), 16), atol=1e-6)
    assert head.up16.weight.requires_grad
    assert [name for name, _ in Score(SMALL, 2, "replicate").named_parameters()] == [
        "score.weight",
        "score.bias",
    ]


def test_the_encoder_is_table_1() -> None:
    table = [
        (4, 32, 5, 2, 2),
        (32, 32, 3, 1, 1),
        (32, 64, 3, 1, 1),
        (64, 64, 3, 1, 1),
        (64, 96, 3, 1, 1),
        (96, 96, 3, 1, 1),
        (96, 128, 3, 1, 1),
        (128, 128, 3, 1, 1),
    ]
    encoder = maggiori.fcn(in_channels=4, classes=5).encoder
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in convs
    ] == table
    assert all(m.bias is not None for m in convs)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(m.eps, m.momentum, m.affine) for m in norms] == [(1e-5, 0.1, False)] * 8
    assert sum(p.numel() for p in encoder.parameters()) == 464_640


@pytest.mark.parametrize(
    ("name", "options", "five", "six"),
    [
        ("fcn", {}, 470_405, 471_558),
        ("skip", {}, 466_260, 466_584),
        ("unpooling", {}, 929_957, 930_758),
        ("mlp", {}, 798_469, 799_494),
        ("mlp", {"variant": "released"}, 506_373, 506_502),
    ],
)
def test_parameter_counts(name: str, options: dict, five: int, six: int) -> None:
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in BUILDERS[name](in_channels=4, classes=k, **options).parameters())
            for k in (5, 6)
        ]
    assert counts == [five, six]


def test_weights_start_as_he_et_al_and_biases_at_zero() -> None:
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        net = build(in_channels=4, classes=5)
        for where, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                fan_in = module.in_channels * math.prod(module.kernel_size)
                assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2), (
                    name,
                    where,
                )
                assert not module.bias.any()
        if name == "fcn":
            assert torch.allclose(net.head.up16.weight.sum(), torch.tensor(5 * 16.0**2))


@pytest.mark.parametrize(("name", "downsample", "upsampling"), VARIANTS)
def test_any_size_in_train_and_eval_with_gradients_everywhere(
    name: str, downsample: int, upsampling: str
) -> None:
    net = small(name, downsample=downsample, upsampling=upsampling)
    assert net.stride == 16 * downsample
    assert (net.in_channels, net.classes) == (2, 3)
    for height, width in ((net.stride, net.stride), (net.stride + 1, 2 * net.stride - 1), (33, 71), (1, 5)):
        image = torch.randn(2, 2, height, width)
        net.train()
        net.zero_grad()
        logits = net(image)
        assert logits.shape == (2, 3, height, width)
        (logits * torch.randn_like(logits)).sum().backward()
        for key, parameter in net.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        if (height, width) == (33, 71):
            assert all(p.grad.any() for key, p in net.named_parameters() if key.endswith("weight"))
        net.eval()
        with torch.no_grad():
            alone, strips = net(image[:1]), net(image)
        assert alone.shape == (1, 3, height, width)
        assert torch.allclose(alone, strips[:1], atol=1e-5)
        assert torch.allclose(net(image), strips, atol=1e-4)


def settled(net: HighResolution) -> HighResolution:
    """Weights that let no path through the network die or cancel out: all positive, in float64."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in net.double().eval().parameters():
            parameter.uniform_(0.1, 0.2)
    return net


# The sums stand beside each `reach`; with averaging by d: d times that, and (3 d - 2) // 2 for average and
# upsampling.
REACHES = [
    ("fcn", 1, 83),
    ("unpooling", 1, 134),
    ("skip", 1, 90),
    ("mlp", 1, 84),
    ("fcn", 2, 168),
    ("mlp", 3, 255),
]


@pytest.mark.parametrize(("name", "downsample", "reach"), REACHES)
def test_no_output_looks_farther_than_reach(name: str, downsample: int, reach: int) -> None:
    net = settled(small(name, in_channels=1, classes=1, downsample=downsample))
    assert net.reach == reach
    width = math.ceil((2 * reach + 2) / net.stride + 2) * net.stride
    image = torch.randn(1, 1, net.stride, width, dtype=torch.float64)
    with torch.no_grad():
        here = net(image)
        for column in range(width // 2, width // 2 + net.stride):  # every phase of the strides
            other = image.clone()
            other[..., column + reach + 1 :] += 50
            other[..., : column - reach] -= 50
            assert torch.equal(here[..., column], net(other)[..., column])


@pytest.mark.parametrize(("name", "downsample", "reach"), REACHES)
def test_some_output_looks_as_far_as_reach(name: str, downsample: int, reach: int) -> None:
    net = settled(small(name, in_channels=1, classes=1, downsample=downsample))
    width = net.stride * math.ceil((2 * reach + 2) / net.stride + 3)
    image = torch.zeros(1, 1, net.stride, width, dtype=torch.float64)
    changed = []
    with torch.no_grad():
        before = net(image)
        for source in range(width // 2, width // 2 + net.stride):
            other = image.clone()
            other[..., source] = 1e6
            columns = (net(other) != before)[0, 0].any(0).nonzero().flatten()
            changed += [source - int(columns[0]), int(columns[-1]) - source]
    assert max(changed) == reach


def test_a_derived_network_starts_from_the_base_encoder() -> None:
    base = small("fcn")
    base.train()(torch.randn(2, 2, 32, 32))  # statistics that differ from fresh ones
    for name in ("unpooling", "skip", "mlp"):
        torch.manual_seed(5)
        net = BUILDERS[name](in_channels=2, classes=4, widths=SMALL)
        head = {key: value.clone() for key, value in net.head.state_dict().items()}
        copied = start_from(net, base.state_dict())
        assert copied == [f"encoder.{key}" for key in base.encoder.state_dict()]
        assert all(torch.equal(net.state_dict()[key], base.state_dict()[key]) for key in copied)
        assert all(torch.equal(value, head[key]) for key, value in net.head.state_dict().items())
        image = torch.randn(1, 2, 32, 32)
        assert torch.equal(net.eval().encoder(image).x16, base.eval().encoder(image).x16)


def test_a_start_that_does_not_fit_is_refused_with_its_sizes() -> None:
    net = small("mlp")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(BadInput, match=r"4 bands and widths \(3, 4, 5, 6\), this one 2 bands"):
        start_from(net, small("fcn", in_channels=4).state_dict())
    with pytest.raises(BadInput, match=r"widths \(3, 4, 5, 7\), this one 2 bands and widths \(3, 4, 5, 6\)"):
        start_from(net, small("fcn", widths=(3, 4, 5, 7)).state_dict())
    with pytest.raises(BadInput, match="affine"):
        start_from(net, small("fcn", affine=True).state_dict())
    with pytest.raises(BadInput, match="no encoder"):
        start_from(net, {"trunk.weight": torch.zeros(1)})
    with pytest.raises(BadInput, match="no encoder"):
        start_from(nn.Conv2d(1, 1, 1), net.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": (1, 2, 3)},
        {"widths": (1, 2, 3, 0)},
        {"downsample": 0},
        {"downsample": 1.5},
        {"upsampling": "deconvolution"},
        {"bn_momentum": 0},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict) -> None:
    for name in BUILDERS:
        with pytest.raises(BadOption, match=next(iter(wrong))):
            small(name, **wrong)


def test_the_variants_of_the_perceptron() -> None:
    with pytest.raises(UnknownName, match="released"):
        maggiori.mlp(in_channels=3, classes=2, variant="release")
    with pytest.raises(BadOption, match="hidden"):
        maggiori.mlp(in_channels=3, classes=2, hidden=0)
    for options, hidden, relu in (
        ({}, 1024, True),
        ({"variant": "released"}, 128, False),
        ({"hidden": 256, "relu": False}, 256, False),
    ):
        with torch.device("meta"):
            head = maggiori.mlp(in_channels=3, classes=2, **options).head
        assert head.mlp1.out_channels == hidden
        assert isinstance(head.relu, nn.ReLU) == relu
