"""The gradient of a dilated convolution's weights, tap by tap, against torch's own and against loops."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import labelscape as ls
from labelscape.nets.kernels import taps
from labelscape.nets.kernels.taps import ByTaps, DilatedConv2d, by_taps, seen_share

LAYOUTS = torch.contiguous_format, torch.channels_last


def made_of(level: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    return F.conv2d(level, weight, None, 1, padding, dilation)


def test_gradient_of_the_weights_is_the_sum_of_the_equation():
    torch.manual_seed(0)
    level, weight = torch.randn(2, 3, 5, 4).double(), torch.randn(2, 3, 3, 3).double()
    made = made_of(level, weight, 4, 4)
    gradient = torch.randn_like(made)
    wanted = torch.zeros_like(weight)
    for y, x, i, j in itertools.product(range(3), range(3), range(made.shape[2]), range(made.shape[3])):
        row, column = i + 4 * y - 4, j + 4 * x - 4
        if 0 <= row < 5 and 0 <= column < 4:
            wanted[..., y, x] += gradient[..., i, j].T @ level[..., row, column]
    torch.testing.assert_close(by_taps(level, gradient, weight, (4, 4), (4, 4)), wanted)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    kernel=st.sampled_from([1, 3, 5, 7]),
    dilation=st.integers(1, 9),
    short=st.integers(0, 2),
    bias=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    double=st.booleans(),
)
def test_all_gradients_are_torchs(height, width, kernel, dilation, short, bias, layout, double):
    padding = max(0, dilation * (kernel - 1) // 2 - short)  # less than "same" too
    if min(height, width) + 2 * padding < dilation * (kernel - 1) + 1:
        return
    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    found = []
    level = torch.randn(2, 3, height, width, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.randn(4, 3, kernel, kernel, dtype=dtype).contiguous(memory_format=layout)
    shift = torch.randn(4, dtype=dtype) if bias else None
    for by_tap in (True, False):
        given_ = [one.clone().requires_grad_() for one in (level, weight, *([shift] if bias else []))]
        how = (padding, padding), (dilation, dilation)
        rest = given_[2] if bias else None
        made = (
            ByTaps.apply(*given_[:2], rest, *how)
            if by_tap
            else F.conv2d(*given_[:2], rest, 1, padding, dilation)
        )
        (made * torch.linspace(-1, 1, made.numel(), dtype=dtype).view_as(made)).sum().backward()
        found.append((made.detach(), *(one.grad for one in given_)))
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(
            mine, its, rtol=1e-5 if not double else 1e-10, atol=1e-4 if not double else 1e-10
        )
        # An optimizer's state, and a state of a training, are in the layout of the weights.
        assert mine.stride() == its.stride() or 1 in mine.shape


def test_first_and_second_derivatives():
    torch.manual_seed(0)
    level = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def run(level: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ByTaps.apply(level, weight, bias, (2, 2), (2, 2))

    assert torch.autograd.gradcheck(run, (level, weight, bias))
    assert torch.autograd.gradgradcheck(run, (level, weight, bias))


def test_gradient_of_each_image_by_torch_func():
    torch.manual_seed(0)
    conv = DilatedConv2d(2, 3, 3, padding=6, dilation=6)
    images = torch.randn(4, 2, 5, 5)

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(conv.weight.detach(), images)
    for found, image in zip(each, images, strict=True):
        weight = conv.weight.detach().requires_grad_()
        made = F.conv2d(image[None], weight, conv.bias.detach(), 1, 6, 6)
        torch.testing.assert_close(found, torch.autograd.grad(made.square().sum(), weight)[0])


@pytest.mark.parametrize(
    ("length", "kernel", "dilation"), [(8, 3, 12), (16, 7, 4), (1, 5, 2), (5, 3, 4), (64, 3, 6)]
)
def test_share_of_products_inside_the_map_is_counted(length, kernel, dilation):
    padding = dilation * (kernel - 1) // 2
    # Of ones: how many cells each place of the result has seen.
    ones = torch.ones(1, 1, length, length, dtype=torch.float64)
    inside = made_of(ones, torch.ones(1, 1, kernel, kernel).double(), padding, dilation).sum()
    share = float(inside) / (length**2 * kernel**2)
    found = seen_share((length, length), (kernel, kernel), (padding, padding), (dilation, dilation))
    assert found == pytest.approx(share)


def uses_taps(conv: nn.Module, level: Tensor) -> bool:
    made = conv(level)
    return made.grad_fn is not None and type(made.grad_fn).__name__ == "ByTapsBackward"


def test_taken_where_it_multiplies_less_and_nowhere_else():
    conv = DilatedConv2d(2, 3, 3, padding=12, dilation=12)
    small, large = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 80, 80)
    assert uses_taps(conv, small)
    assert not uses_taps(conv, large)
    with torch.no_grad():
        assert not uses_taps(conv, small)
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_taps(conv, small)
        assert conv(small).dtype == torch.bfloat16
    conv.requires_grad_(False)
    assert not uses_taps(conv, small.requires_grad_())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mswbn", {"backbone": "resnet50"}),
        ("mswbn", {"backbone": "resnet50", "branch": "linear"}),
        ("deeplabv3plus", {"backbone": "resnet50"}),
        ("ifbfnet", {"backbone": "resnet50"}),
        ("dgcwnet", {"backbone": "resnet50", "base": "aspp"}),
    ],
)
def test_networks_have_the_gradients_that_torch_has(name, options, monkeypatch):
    torch.manual_seed(0)
    net = ls.create_model(name, in_channels=3, classes=4, **options, pretrained=False).double()
    net = net.to(memory_format=torch.channels_last).train()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    image, label = torch.randn(2, 3, 96, 64).double(), torch.randint(0, 4, (2, 96, 64))
    used, gradients = [], []
    for most in (taps.MOST_SEEN, 0.0):
        monkeypatch.setattr(taps, "MOST_SEEN", most)
        net.zero_grad()
        with patch.object(taps, "by_taps", side_effect=by_taps) as called:
            F.cross_entropy(net.heads(image)["logits"], label).backward()
        used.append(called.call_count)
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert used[0] > 0
    assert used[1] == 0
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-10)
