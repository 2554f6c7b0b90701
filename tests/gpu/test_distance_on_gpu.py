"""DGCW's Triton kernel as a GPU runs it, against the torch form in float64."""

from __future__ import annotations

import warnings

import pytest
import torch

from labelscape.nets.kernels import distance
from labelscape.nets.kernels.distance import EPS, WEIGHTINGS, relation_sum

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)
SIZES = [(1, 128, 128, 625), (2, 33, 130, 67), (1, 5, 7, 3), (3, 64, 200, 129)]


def drawn(images: int, channels: int, outputs: int, pixels: int) -> list[torch.Tensor]:
    """Q, K, V, W1 and b1 at random, on the GPU."""
    shapes = [(images, channels, pixels)] * 3 + [(outputs, channels), (outputs,)]
    return [torch.randn(*shape, device="cuda") for shape in shapes]


@every_weighting
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_torch_form_and_is_used(size: tuple[int, ...], weighting: str) -> None:
    kernel = pytest.importorskip("labelscape.nets.kernels.distance_triton", reason="Triton is not installed")
    given = drawn(*size)
    wanted = distance._forward(*(tensor.double() for tensor in given), weighting, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that is not used says so
        found = relation_sum(*given, weighting=weighting)
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 1e-6
    assert kernel.fits(given[1], given[3], weighting, EPS, lambda *some: some)  # tried once


@every_weighting
def test_the_gradient_behind_it_is_the_torch_forms(weighting: str) -> None:
    given = drawn(2, 32, 24, 100)
    found, wanted = (
        [tensor.to(dtype, copy=True).requires_grad_() for tensor in given]
        for dtype in (torch.float32, torch.float64)
    )
    direction = torch.randn(2, 24, 100, device="cuda")
    for tensors in (found, wanted):
        total = relation_sum(*tensors, weighting=weighting)
        (total * direction.to(total.dtype)).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        assert float((one.grad - other.grad).abs().max() / other.grad.abs().max()) <= 1e-5


@every_weighting
def test_a_nan_stays_one(weighting: str) -> None:
    given = drawn(1, 8, 8, 40)
    given[1][0, 3, 7] = float("nan")
    assert relation_sum(*given, weighting=weighting).isnan().any()
