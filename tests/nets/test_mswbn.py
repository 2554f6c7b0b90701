"""MSWBN against its equations written as loops (float64, value and gradient), its gates, its sizes and its
promises.
"""

from __future__ import annotations

import functools
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadOption, UnknownName
from labelscape.nets.backbones import trunk
from labelscape.nets.count import macs, parameters
from labelscape.nets.mswbn import HWM, LBM, MSWBN, OPERATIONS, Hierarchy, clip_gate, mswbn, scores_from

TINY = {"backbone": "resnet10t", "reduce": 6, "width": 4, "operations": 5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def convolved(image: Tensor, kernel: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """A "same" convolution of (C, h, w) as the sum over taps, zeros outside."""
    outputs, _, side, _ = kernel.shape
    height, width = image.shape[1:]
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            value = torch.zeros(outputs, dtype=image.dtype) if bias is None else bias
            for u in range(side):
                for v in range(side):
                    yy, xx = y + (u - side // 2) * dilation, x + (v - side // 2) * dilation
                    if 0 <= yy < height and 0 <= xx < width:
                        value = value + kernel[:, :, u, v] @ image[:, yy, xx]
            row.append(value)
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def normalised(maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """(N, C, h, w) with the batch's own statistics, channel by channel."""
    out = []
    for c in range(maps.shape[1]):
        mean = maps[:, c].mean()
        spread = ((maps[:, c] - mean) ** 2).mean()
        out.append((maps[:, c] - mean) / (spread + norm.eps).sqrt() * norm.weight[c] + norm.bias[c])
    return torch.stack(out, dim=1)


def assert_same_with_gradients(mine: Tensor, loops: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, loops)
    pull = torch.randn_like(mine)
    for got, wanted in zip(
        torch.autograd.grad(mine, leaves, pull), torch.autograd.grad(loops, leaves, pull), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_the_operations_are_those_of_section_4_2() -> None:
    assert [(op.kernel, op.dilation()) for op in OPERATIONS[8]] == [
        (1, 1),
        (3, 1),
        (5, 1),
        (5, 2),
        (5, 4),
        (7, 1),
        (7, 2),
        (7, 4),
    ]
    assert [op.field() for op in OPERATIONS[8]] == [1, 3, 5, 9, 17, 7, 13, 25]
    assert [op.field("holes") for op in OPERATIONS[8]] == [1, 3, 5, 13, 21, 7, 19, 31]
    assert [op.field() for op in OPERATIONS[5]] == [1, 3, 5, 9, 17]
    assert [sum(op.kernel**2 for op in OPERATIONS[n]) for n in (8, 5)] == [232, 85]


def test_chains_of_two_and_three_operations_have_20_and_32_receptive_fields() -> None:
    fields = [op.field() for op in OPERATIONS[8]]
    two = {a + b - 1 for a in fields for b in fields}
    assert len(two) == 20 and max(two) == 49
    three = {a + b - 1 for a in two for b in fields}
    assert len(three) == 32 and max(three) == 73


def test_weights_are_equation_1() -> None:
    hierarchy = Hierarchy(2, 2, 3, OPERATIONS[5], branch="linear", rate_semantics="rate").double()
    level = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    loops = []
    for image in level:
        squeezed = convolved(image, hierarchy.generator.weight, hierarchy.generator.bias, 1)
        pooled = torch.stack(
            [sum(squeezed[b, y, x] for y in range(4) for x in range(5)) / 20 for b in range(5)]
        )
        loops.append(pooled.exp() / sum(value.exp() for value in pooled))
    assert_same_with_gradients(
        hierarchy.weights(level),
        torch.stack(loops),
        [level, hierarchy.generator.weight, hierarchy.generator.bias],
    )


@pytest.mark.parametrize("branch", ["linear", "bn", "bn_relu"])
@pytest.mark.parametrize("rate_semantics", ["rate", "holes"])
def test_hierarchy_is_equation_2(branch: str, rate_semantics: str) -> None:
    operations = OPERATIONS[8]
    hierarchy = Hierarchy(2, 2, 3, operations, branch=branch, rate_semantics=rate_semantics).double()
    image = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 8, dtype=torch.float64, requires_grad=True)
    total = torch.zeros(2, 2, 5, 4, dtype=torch.float64)
    for index, operation in enumerate(operations):
        step = hierarchy.branches[index]
        dilation = operation.rate + 1 if rate_semantics == "holes" else (operation.rate or 1)
        maps = torch.stack([convolved(one, step[0].weight, step[0].bias, dilation) for one in image])
        if branch != "linear":
            maps = normalised(maps, step[1])
        if branch == "bn_relu":
            maps = torch.where(maps > 0, maps, 0.0)
        total = total + torch.stack([weights[n, index] * maps[n] for n in range(2)])
    kernels = [step[0].weight for step in hierarchy.branches]
    assert_same_with_gradients(hierarchy(image, weights), total, [image, weights, *kernels])


@pytest.mark.parametrize("branch", ["linear", "bn", "bn_relu"])
def test_hierarchies_stack_as_equations_4_and_6(branch: str) -> None:
    hwm = HWM(3, 2, (3, 4, 5), OPERATIONS[5], branch=branch, rate_semantics="rate", theta=0.2).double()
    features = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    weights = [torch.rand(2, 5, dtype=torch.float64).softmax(1) for _ in range(3)]
    read = torch.relu if branch == "bn" else (lambda maps: maps)
    h1 = hwm.hierarchies[0](read(features), clip_gate(weights[0], 0.2))
    h2 = hwm.hierarchies[1](read(h1), clip_gate(weights[1], 0.2))
    h3 = hwm.hierarchies[2](read(h2), clip_gate(weights[2], 0.2))
    torch.testing.assert_close(hwm(features, hwm.gated(weights)), h3)
    if branch == "linear":  # 125 chains of convolutions: without their biases doubling F_b doubles F_h3
        for hierarchy in hwm.hierarchies:
            for step in hierarchy.branches:
                nn.init.zeros_(step[0].bias)
        torch.testing.assert_close(hwm(2 * features, weights), 2 * hwm(features, weights))
    assert (h3 < 0).any() != (branch == "bn_relu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", [0.125, 0.2, 0.5])
def test_gate_is_equation_14_with_gradient_one_at_equality(theta: float, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, theta - 0.01, theta, theta + 0.01, 1.0], dtype=dtype, requires_grad=True)
    out = clip_gate(values, theta)
    torch.testing.assert_close(out, torch.tensor([theta, theta, theta, theta + 0.01, 1.0], dtype=dtype))
    out.sum().backward()
    assert values.grad.tolist() == [0, 0, 1, 1, 1]


def test_uniform_weights_stand_at_the_threshold_and_still_train() -> None:
    for branches in (8, 5):
        scores = torch.full((1, branches), 0.3, requires_grad=True)
        gated = clip_gate(scores.softmax(1), 1 / branches)
        gated[0, 0].backward()
        assert scores.grad.abs().max() > 0


def test_a_weak_branch_teaches_its_kernels_but_not_its_generator() -> None:
    """Eqs. 16 and 18: below theta the kernels get theta times the gradient, what makes the weight gets
    none.
    """
    hierarchy = Hierarchy(2, 2, 3, OPERATIONS[5], branch="linear", rate_semantics="rate").double()
    features = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]], dtype=torch.float64, requires_grad=True)
    out = hierarchy(features, clip_gate(weights, 0.2))
    pull = torch.randn_like(out)
    out.backward(pull)
    assert (weights.grad != 0).tolist() == [[False, True, True, False, True]]
    for index, used in enumerate((0.2, 0.2, 0.3, 0.2, 0.25)):
        step = hierarchy.branches[index]
        alone = torch.autograd.grad(step(features), step[0].weight, pull)[0]
        torch.testing.assert_close(step[0].weight.grad, used * alone)
        if (
            weights.grad[0, index] != 0
        ):  # dLoss/dW_b = sum over positions of O_b dLoss/dF_h, the exact form of eq. 13
            torch.testing.assert_close(weights.grad[0, index], (step(features) * pull).sum())


@pytest.mark.parametrize("theta", [0.5, None])
def test_lbm_is_equations_8_and_9(theta: float | None) -> None:
    lbm = LBM(3, 4, 2, 5, depth=2, theta=theta).double().eval()
    weights = [torch.rand(2, 5, dtype=torch.float64).softmax(1).requires_grad_() for _ in range(3)]
    high = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    level = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    first, second = lbm.mlp[0], lbm.mlp[2]
    out = []
    for n in range(2):
        joined = torch.stack([weight[n, b] for weight in weights for b in range(5)])
        hidden = torch.stack([(first.weight[o] * joined).sum() + first.bias[o] for o in range(15)]).clamp(
            min=0
        )
        pair = torch.stack([(second.weight[o] * hidden).sum() + second.bias[o] for o in range(2)])
        w_bin = pair.exp() / (pair[0].exp() + pair[1].exp())
        used = (
            w_bin
            if theta is None
            else torch.stack([2 * (w if w >= theta else torch.zeros_like(w) + theta) for w in w_bin])
        )
        hidden_low = convolved(level[n], lbm.low[0][0].weight, None, 1)
        norm = lbm.low[0][1]
        hidden_low = torch.stack(
            [
                (c - m) / (v + norm.eps).sqrt()
                for c, m, v in zip(hidden_low, norm.running_mean, norm.running_var)
            ]
        )
        low = convolved(hidden_low.clamp(min=0), lbm.low[1].weight, lbm.low[1].bias, 1)
        out.append(used[0] * high[n] + used[1] * low)
    mine = lbm(high, level, lbm.gated(lbm.weights(weights)))
    assert_same_with_gradients(
        mine, torch.stack(out), [*weights, high, level, first.weight, lbm.low[1].weight]
    )


def test_gradient_to_the_high_scores_is_equation_15() -> None:
    lbm = LBM(3, 4, 4, 5, depth=2, theta=0.5).double()
    high = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    level = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    w_bin = torch.tensor([[0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    out = lbm(high, level, lbm.gated(w_bin))
    label = torch.randint(0, 4, (1, 3, 3))
    F.cross_entropy(out, label, reduction="sum").backward()
    error = out.softmax(1) - F.one_hot(label, 4).movedim(-1, 1)
    torch.testing.assert_close(high.grad, 2 * 0.5 * error)  # cl(0.3) is 0.5
    assert w_bin.grad[0, 0] == 0
    torch.testing.assert_close(
        w_bin.grad[0, 1], 2 * (lbm.low(level) * error).sum()
    )  # eq. 11, with the gate's factor


def decided(net: MSWBN) -> MSWBN:
    """With branch weights far from uniform, on both sides of the threshold, as they are after training."""
    for hierarchy in net.hwm.hierarchies:
        nn.init.normal_(hierarchy.generator.weight, std=0.2)
    return net


def test_the_network_is_figure_1() -> None:
    """The blocks above, put together once more by hand."""
    net = decided(mswbn(in_channels=3, classes=4, **TINY)).double().eval()
    image = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    x4, x8, x16, xs = net.trunk(image)
    w1, w2, w3 = weights = [net.hwm.hierarchies[h].weights(level) for h, level in enumerate((x16, x8, x4))]
    assert all((weight < 0.15).any() and (weight > 0.25).any() for weight in weights)
    features = net.reduce(xs)
    for hierarchy, weight in zip(net.hwm.hierarchies, weights):
        features = hierarchy(features.relu(), torch.where(weight >= 0.2, weight, 0.2))
    high = F.interpolate(net.high(features.relu()), x4.shape[-2:], mode="bilinear")
    w_bin = net.lbm.mlp(torch.cat([w1, w2, w3], 1)).softmax(1)
    used = 2 * torch.where(w_bin >= 0.5, w_bin, 0.5)
    out = used[:, 0, None, None, None] * high + used[:, 1, None, None, None] * net.lbm.low(x4)
    torch.testing.assert_close(net(image), F.interpolate(out, (64, 32), mode="bilinear"))
    for name, weight in zip(("w1", "w2", "w3", "w_bin"), (w1, w2, w3, w_bin), strict=True):
        torch.testing.assert_close(net.branch_weights(image)[name], weight)


def test_gates_and_lbm_can_be_left_out() -> None:
    image = torch.randn(1, 3, 32, 32)
    full = decided(mswbn(in_channels=3, classes=4, **TINY)).eval()
    for options, hwm_gate, lbm_gate in (
        ({"gate_hwm": False}, None, 0.5),
        ({"gate_lbm": False}, 0.2, None),
        ({"theta_hwm": 0.4}, 0.4, 0.5),
    ):
        net = mswbn(in_channels=3, classes=4, **TINY, **options).eval()
        net.load_state_dict(full.state_dict())
        assert (net.hwm.theta, net.lbm.theta) == (hwm_gate, lbm_gate)
        assert not torch.allclose(net(image), full(image), rtol=1e-4, atol=1e-6), options
    net = mswbn(in_channels=3, classes=4, **TINY, lbm=False).eval()
    assert net.lbm is None and "w_bin" not in net.branch_weights(image)
    net.load_state_dict(
        {name: value for name, value in full.state_dict().items() if not name.startswith("lbm.")}
    )
    levels = net.trunk(image)
    weights = net.hwm.gated(net.hwm.weights([levels[2], levels[1], levels[0]]))
    high = net.high(net.hwm(net.reduce(levels[3]), weights).relu())
    torch.testing.assert_close(net(image), F.interpolate(high, (32, 32), mode="bilinear"))


def test_the_mlp_reads_weights_before_or_after_their_gate() -> None:
    image = torch.randn(1, 3, 32, 32)
    raw = decided(mswbn(in_channels=3, classes=4, **TINY)).eval()
    gated = mswbn(in_channels=3, classes=4, **TINY, mlp_input="gated").eval()
    gated.load_state_dict(raw.state_dict())
    weights = [raw.branch_weights(image)[name] for name in ("w1", "w2", "w3")]
    torch.testing.assert_close(
        gated.branch_weights(image)["w_bin"], raw.lbm.weights([clip_gate(w, 0.2) for w in weights])
    )
    assert not torch.equal(gated.branch_weights(image)["w_bin"], raw.branch_weights(image)["w_bin"])


@pytest.mark.parametrize("mlp_input", ["raw", "gated"])
def test_what_the_whole_loss_gives_back_to_weights_below_theta(mlp_input: str) -> None:
    """Eq. 18: nothing where the weights are read through their gate alone; "raw" reads them a second time."""
    net = decided(mswbn(in_channels=3, classes=4, **TINY, mlp_input=mlp_input))
    leaves = []

    def kept(weights: list[Tensor]) -> list[Tensor]:
        leaves.extend(weight.detach().requires_grad_() for weight in weights)
        return leaves

    generated = net.hwm.weights
    net.hwm.weights = lambda levels: kept(generated(levels))
    scores = net(torch.randn(2, 3, 64, 64))
    F.cross_entropy(scores, torch.randint(4, (2, 64, 64))).backward()
    weights, gradients = torch.stack(leaves), torch.stack([leaf.grad for leaf in leaves])
    below = weights < 0.2
    assert below.any() and (~below).any()
    assert gradients[~below].abs().max() > 0
    assert (gradients[below].abs().max() > 0) == (mlp_input == "raw")


def test_weights_belong_to_the_image_not_to_the_batch() -> None:
    net = mswbn(in_channels=3, classes=4, **TINY).eval()
    images = torch.randn(3, 3, 33, 47) * torch.tensor([0.3, 1.0, 3.0])[:, None, None, None]
    together, weights = net(images), net.branch_weights(images)
    for n in range(3):
        torch.testing.assert_close(together[n : n + 1], net(images[n : n + 1]), rtol=1e-4, atol=1e-5)
        assert {name: tuple(w.shape) for name, w in weights.items()} == {
            "w1": (3, 5),
            "w2": (3, 5),
            "w3": (3, 5),
            "w_bin": (3, 2),
        }
        for name, alone in net.branch_weights(images[n : n + 1]).items():
            torch.testing.assert_close(weights[name][n : n + 1], alone)
            torch.testing.assert_close(alone.sum(1), torch.ones(1))
    assert not torch.allclose(weights["w1"][0], weights["w1"][2], atol=1e-4)


def test_the_generators_do_not_start_at_zero() -> None:
    net = mswbn(in_channels=3, classes=4, **TINY)
    for hierarchy in net.hwm.hierarchies:
        assert hierarchy.generator.weight.std() > 0.001
    weights = net.eval().branch_weights(torch.randn(1, 3, 64, 64))
    assert all((weights[name] != 0.2).all() for name in ("w1", "w2", "w3"))


def test_inference_holds_one_branch_at_a_time() -> None:
    hierarchy = Hierarchy(2, 2, 3, OPERATIONS[8], branch="bn", rate_semantics="rate").eval()
    made: list[weakref.ref] = []
    alive: list[int] = []

    def note(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        alive.append(sum(reference() is not None for reference in made))
        made.append(weakref.ref(output))

    for branch in hierarchy.branches:
        branch.register_forward_hook(note)
    with torch.no_grad():
        hierarchy(torch.randn(1, 2, 8, 8), torch.rand(1, 8))
    assert alive == [0] * 8


@functools.cache
def once(name: str, **options: object) -> nn.Module:
    """A trunk without storage, built once for each output stride: building ResNet-101 is what takes time
    here.
    """
    return trunk(name, **options)


@pytest.mark.parametrize(
    ("options", "millions", "giga_macs"),
    [
        ({"width": 64}, 49.05, 61.2),
        ({"width": 96}, 53.45, 66.9),
        ({}, 58.82, 73.5),
        ({"width": 160}, 65.16, 81.2),
        ({"reduce": None, "width": 64}, 75.13, 87.9),
        ({"reduce": None, "width": 96}, 92.84, 107.2),
        ({"reduce": None}, 111.51, 127.5),
        ({"reduce": None, "width": 160}, 131.15, 148.8),
        ({"reduce": None, "output_stride": 32}, 111.51, 63.8),
        ({"reduce": None, "operations": 5}, 68.11, 82.9),
        ({"reduce": None, "operations": 5, "output_stride": 32}, 68.11, 52.5),
        ({"reduce": None, "operations": 5, "output_stride": 32, "lbm": False}, 67.81, 47.5),
    ],
)
def test_published_sizes(
    options: dict, millions: float, giga_macs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelscape.nets.mswbn.trunk", once)
    with torch.device("meta"):
        net = mswbn(in_channels=3, classes=5, **options)
    assert round(parameters(net) / 1e6, 2) == millions
    assert round(macs(net, 512, 512, 3) / 1e9, 1) == giga_macs


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_any_bands_any_size_the_same_size_back(bands: int, training: bool) -> None:
    net = mswbn(in_channels=bands, classes=3, **TINY).train(training)
    for height, width in ((16, 16), (37, 50), (64, 31)):
        heads = net.heads(torch.randn(2, bands, height, width))
        assert list(heads) == ["logits"] and heads["logits"].shape == (2, 3, height, width)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_literal_backbone_at_every_output_stride(stride: int) -> None:
    net = mswbn(in_channels=3, classes=3, **TINY | {"reduce": None, "output_stride": stride}).eval()
    assert net.stride == stride and net.trunk(torch.randn(1, 3, 64, 64))[-1].shape == (
        1,
        512,
        64 // stride,
        64 // stride,
    )
    assert net(torch.randn(1, 3, 45, 41)).shape == (1, 3, 45, 41)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branch": "linear"},
        {"branch": "bn_relu"},
        {"levels": ["layer1", "layer2", "layer3"]},
        {"lbm": False, "depth": 1},
        {"gate_hwm": False, "gate_lbm": False, "rate_semantics": "holes", "align_corners": True},
    ],
)
def test_gradients_reach_every_parameter(options: dict) -> None:
    net = mswbn(in_channels=3, classes=3, **TINY, **options)
    for module in (
        net.trunk.modules()
    ):  # some trunks start with a zero at the end of each residual, which hides what is before it
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    image, label = torch.randn(4, 3, 48, 48), torch.randint(0, 3, (4, 48, 48))
    F.cross_entropy(net(image), label).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_saved_and_loaded_is_the_same_network() -> None:
    first, second = (mswbn(in_channels=2, classes=3, **TINY) for _ in range(2))
    first(torch.randn(2, 2, 32, 32))  # moves the running statistics
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 2, 40, 40)
    assert torch.equal(first.eval()(image), second.eval()(image))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"branch": "bn-relu"}, UnknownName, "bn_relu"),
        ({"operations": 7}, UnknownName, "8, 5"),
        ({"rate_semantics": "hole"}, UnknownName, "holes"),
        ({"mlp_input": "gate"}, UnknownName, "gated"),
        ({"output_stride": 4}, UnknownName, "8, 16, 32"),
        ({"levels": ("layer3", "layer2", "layr1")}, UnknownName, "layer1"),
        ({"levels": "layer1"}, BadOption, "three levels"),
        ({"levels": ("layer1",)}, BadOption, "three levels"),
        ({"width": 0}, BadOption, "width=0"),
        ({"reduce": -1}, BadOption, "or None"),
        ({"depth": True}, BadOption, "depth"),
        ({"theta_lbm": 1.5}, BadOption, "theta_lbm"),
        ({"theta_hwm": -0.1}, BadOption, "theta_hwm"),
        ({"theta_lbm": "0.5"}, BadOption, "theta_lbm"),
        ({"lbm": "no"}, BadOption, "lbm='no'"),
        ({"levels": 3}, BadOption, "three levels"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        mswbn(in_channels=3, classes=3, **{"backbone": "resnet18"} | options)


def test_depth_counts_the_convolutions_of_a_sequence() -> None:
    for depth in (1, 2, 3):
        convolutions = [
            module for module in scores_from(6, 4, 2, depth).modules() if isinstance(module, nn.Conv2d)
        ]
        assert [c.kernel_size for c in convolutions] == [(3, 3)] * depth and convolutions[
            -1
        ].out_channels == 2
