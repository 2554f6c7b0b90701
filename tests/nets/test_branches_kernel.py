"""Merged kernels of parallel branches and the mean of a convolution, against loops and the plain form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.nets import mswbn
from labelscape.nets.kernels import branches as kernel
from labelscape.nets.kernels.branches import Linear, mean_of_convolution, saves, weighted_sum
from labelscape.nets.mswbn import OPERATIONS, Hierarchy

PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 2e-5)]


def convolved_by_loops(image: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """(C, h, w) and (C', C, k, k) -> (C', h, w), zeros around."""
    out = torch.zeros(len(weight), *image.shape[1:], dtype=image.dtype)
    half = weight.shape[-1] // 2
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            for i in range(weight.shape[-1]):
                for j in range(weight.shape[-1]):
                    row, column = y + dilation * (i - half), x + dilation * (j - half)
                    if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                        out[:, y, x] += weight[:, :, i, j] @ image[:, row, column]
    return out


def close(found: Tensor, wanted: Tensor, within: float) -> None:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert (found - wanted).abs().max() <= within * wanted.abs().max()


def test_a_weighted_sum_of_branches_is_what_loops_add_up() -> None:
    torch.manual_seed(0)
    features, c = torch.randn(2, 2, 5, 6, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    made = [
        Linear(torch.randn(3, 2, k, k, dtype=torch.float64), d, s, b)
        for (k, d), s, b in zip(
            ((1, 1), (3, 1), (5, 2), (3, 2)),
            (None, *torch.randn(3, 3, dtype=torch.float64)),
            (*torch.randn(3, 3, dtype=torch.float64), None),
            strict=True,
        )
    ]
    wanted = torch.zeros(2, 3, 5, 6, dtype=torch.float64)
    for n in range(2):
        for k, (weight, dilation, scale, shift) in enumerate(made):
            term = convolved_by_loops(features[n], weight, dilation)
            term = term if scale is None else scale[:, None, None] * term
            wanted[n] += c[n, k] * (term if shift is None else term + shift[:, None, None])
    close(weighted_sum(features, c, made), wanted, 1e-13)


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
@pytest.mark.parametrize("branch", ["bn", "linear", "bn_relu"])
@pytest.mark.parametrize("rates", ["rate", "holes"])
def test_a_hierarchy_in_evaluation_is_its_branches_added(
    branch: str, rates: str, dtype: torch.dtype, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    hierarchy = Hierarchy(4, 5, 3, OPERATIONS[8], branch=branch, rate_semantics=rates).to(dtype).eval()
    for module in hierarchy.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data.uniform_(0.5, 2)
    features, c = torch.randn(2, 4, 20, 21, dtype=dtype), torch.rand(2, 8, dtype=dtype)
    called = []
    monkeypatch.setattr(mswbn, "weighted_sum", lambda *given: called.append(1) or weighted_sum(*given))
    wanted = hierarchy(features, c)  # with gradients on: the plain form
    assert not called
    with torch.inference_mode():
        close(hierarchy(features, c), wanted.detach(), within)
    assert bool(called) == (branch != "bn_relu")
    hierarchy.train()
    with torch.no_grad():
        hierarchy(features, c)
    # Statistics of the batch are not known before the branch is computed; "linear" has none.
    assert len(called) == {"bn": 1, "linear": 2, "bn_relu": 0}[branch]


def test_gradients_pass_through_merged_kernels() -> None:
    torch.manual_seed(0)
    hierarchy = Hierarchy(3, 4, 3, OPERATIONS[5], branch="bn", rate_semantics="rate").double().eval()
    features = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    c = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    inputs = [features, c, *(p for p in hierarchy.branches.parameters())]
    made = [mswbn.as_linear(branch) for branch in hierarchy.branches]
    outs = weighted_sum(features, c, made), hierarchy(features, c)
    found, wanted = (torch.autograd.grad(out.square().sum(), inputs) for out in outs)
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 1e-11)


def test_merged_kernels_are_made_where_they_pay() -> None:
    sizes = [(o.kernel, o.dilation()) for o in OPERATIONS[8]]
    # 232 taps become 3 x 49: 85 fewer for each cell, and 232 are made.
    least = kernel.CELLS_PER_TAP * 232 // 85
    assert not saves(sizes, least) and saves(sizes, least + 1)
    assert not saves([(3, 1), (3, 2)], 10**9)


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 6)])
def test_the_mean_of_a_convolution_needs_no_convolution(
    size: tuple[int, int], layout: torch.memory_format, dtype: torch.dtype, within: float
) -> None:
    torch.manual_seed(0)
    level = torch.randn(2, 4, *size, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight = torch.randn(5, 4, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    found = mean_of_convolution(level, weight, bias)
    wanted = F.conv2d(level, weight, bias, padding=1).mean((2, 3))
    close(found, wanted, within)
    loops = torch.stack([convolved_by_loops(image, weight, 1).mean((1, 2)) for image in level]) + bias
    close(found, loops, within)
    inputs = (level, weight, bias)
    gradients = (torch.autograd.grad(out.square().sum(), inputs) for out in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        close(one, other, 10 * within)


def test_the_mean_is_as_exact_in_half_precision() -> None:
    torch.manual_seed(0)
    level, weight, bias = torch.randn(1, 4, 64, 64) + 1, torch.randn(5, 4, 3, 3), torch.randn(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_of_convolution(level.bfloat16(), weight, bias)
    wanted = F.conv2d(level, weight, bias, padding=1).mean((2, 3))
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 0.002 * wanted.abs().max()
