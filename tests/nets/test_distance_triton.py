"""DGCW's Triton kernel against loops and the torch form, on the processor under Triton's interpreter, for
which `pip install triton` is enough. On a GPU it is compiled: `tests/gpu`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from labelscape.nets import kernels
from labelscape.nets.kernels import distance
from labelscape.nets.kernels.distance import EPS, WEIGHTINGS, relation_sum

MODULE = "labelscape.nets.kernels.distance_triton"
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 2e-6)]
SIZES = [
    (2, 5, 7, 3, None),
    (1, 33, 130, 3, None),
    (1, 2, 3, 66, None),
    (1, 16, 16, 16, 16),
    (2, 17, 18, 17, 16),
]
"""Images, channels, outputs, pixels, and how many of the last three a block has (None: as on a GPU): less
than one block, exactly one, and a little more than one.
"""

every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


@pytest.fixture(scope="module")
def kernel() -> Iterator[ModuleType]:
    """The kernel as the interpreter runs it."""
    # Triton's own functions are made for a GPU or for the interpreter too, and torch may have imported it.
    before = forget()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pytest.importorskip(
                "triton", reason="Triton is not installed: torch for processors comes without it"
            )
            made, errors = map(importlib.import_module, (MODULE, "triton.runtime.errors"))
            try:
                made.fused_sum(*five(1, 2, 2, 3, torch.float32), "dbs", EPS)
            except errors.InterpreterError as error:
                if "0-dimensional arrays" not in str(error):
                    raise
                pytest.skip("this Triton's interpreter does not know this NumPy")  # 3.6 beside 2.4
            yield made
    finally:
        forget()
        sys.modules.update(before)


def forget() -> dict[str, ModuleType]:
    """The next import runs the kernel's module and Triton anew. -> Triton's modules, but for its library,
    which is loaded once.
    """
    sys.modules.pop(MODULE, None)
    vars(kernels).pop("distance_triton", None)
    names = [name for name in sys.modules if name.split(".")[0] == "triton" and "._C" not in name]
    return {name: sys.modules.pop(name) for name in names}


def five(images: int, channels: int, outputs: int, pixels: int, dtype: torch.dtype) -> list[Tensor]:
    """Q, K, V, W1 and b1 at random."""
    torch.manual_seed(0)
    shapes = [(images, channels, pixels)] * 3 + [(outputs, channels), (outputs,)]
    return [torch.randn(*shape, dtype=dtype) for shape in shapes]


def by_loops(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str
) -> Tensor:
    """Eqs. 2 to 5 up to the second convolution, pair by pair."""
    sums = torch.zeros(len(query), len(weight), query.shape[-1], dtype=query.dtype)
    for n in range(len(query)):
        for i in range(query.shape[-1]):
            for j in range(query.shape[-1]):
                m = (query[n, :, i] - key[n, :, j]) ** 2
                if weighting == "dbs":
                    share = m / (m.sum() + EPS)
                else:
                    share = m.softmax(0) if weighting == "softmax" else m.tanh()
                sums[n, :, i] += (weight @ (share * value[n, :, i]) + bias).clamp(min=0)
    return sums


def deviation(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


@every_weighting
@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_is_what_loops_add_up(
    kernel: ModuleType,
    size: tuple[int, ...],
    dtype: torch.dtype,
    within: float,
    weighting: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    *size, block = size
    if block:
        for name in ("PARTNERS", "OUTPUTS"):
            monkeypatch.setattr(kernel, name, block)
        monkeypatch.setitem(kernel.BEFORE, "CHANNELS", block)
    given = five(*size, dtype)
    found = kernel.fused_sum(*given, weighting, EPS)
    assert found.dtype == dtype
    # Near 0 its tanh is a series that ends before the last digits of float64.
    within = 1e-6 if weighting == "tanh" else within
    assert deviation(found, by_loops(*(tensor.double() for tensor in given), weighting)) <= within


@every_weighting
def test_with_the_kernel_before_it_the_gradient_is_that_of_the_loops(
    kernel: ModuleType, weighting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "_kernel_for", lambda tensor: kernel)
    leaves = [tensor.requires_grad_() for tensor in five(2, 5, 7, 6, torch.float64)]
    found, wanted = relation_sum(*leaves, weighting=weighting), by_loops(*leaves, weighting)
    assert deviation(found, wanted) <= 1e-6
    pull = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, leaves, pull), torch.autograd.grad(wanted, leaves, pull), strict=True
    ):
        assert deviation(one, other) <= 1e-12


@every_weighting
def test_a_nan_stays_one(kernel: ModuleType, weighting: str) -> None:
    query, *rest = five(1, 5, 7, 6, torch.float32)
    query[0, 2, 3] = float("nan")
    found = kernel.fused_sum(query, *rest, weighting, EPS)
    assert found[..., 3].isnan().all() and found[..., :3].isfinite().all()


def test_pixels_that_agree_in_every_channel_leave_the_bias(kernel: ModuleType) -> None:
    query, _, value, weight, bias = five(1, 5, 7, 6, torch.float32)
    flat = torch.ones_like(query)
    found = kernel.fused_sum(flat, flat, value, weight, bias, "dbs", EPS)
    torch.testing.assert_close(found[0], (6 * bias.clamp(min=0))[:, None].expand(-1, 6))


def test_a_kernel_that_deviates_or_fails_is_not_used_and_that_is_said_once(
    kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "_kernel_for", lambda tensor: kernel)
    right, given = kernel.fused_sum, five(1, 5, 7, 40, torch.float32)
    wanted = distance._forward(*given, "dbs", 7)

    def failing(*given: object) -> Tensor:
        raise RuntimeError("no compiler\nmore")

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the interpreter has others, of NumPy
        torch.manual_seed(1)
        assert deviation(relation_sum(*given), wanted.double()) <= 2e-6  # as it is, nothing is said
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)  # nor is a random number drawn
    for wrong, said in (
        (lambda *given: right(*given) * (1 + 1e-4), "deviates there by"),
        (failing, r"fails there \(RuntimeError: no compiler\)"),
    ):
        monkeypatch.setattr(kernel, "fused_sum", wrong)
        kernel._fitting.clear()
        with torch.no_grad(), pytest.warns(UserWarning, match=f"not used on cpu: it {said}"):
            assert torch.equal(relation_sum(*given), distance._forward(*given, "dbs", len(given[0][0][0])))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            relation_sum(*given)
            relation_sum(*given, weighting="tanh")
    kernel._fitting.clear()


def test_tensors_of_a_processor_do_not_ask_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    monkeypatch.delattr(kernels, "distance_triton", raising=False)
    relation_sum(*five(1, 5, 7, 6, torch.float32))
    assert distance._kernel_for(torch.empty(1)) is None


def test_without_triton_a_gpu_has_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        is_cuda, dtype = True, torch.float32

    monkeypatch.setitem(sys.modules, MODULE, None)
    monkeypatch.delattr(kernels, "distance_triton", raising=False)
    assert distance._kernel_for(OnGpu()) is None
