"""The kernel of the perceptron over four levels against its plain form, which test_maggiori.py holds against
loops.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.nets import maggiori
from labelscape.nets.kernels import perceptron as kernel
from labelscape.nets.maggiori import Perceptron, upsample

WIDTHS = (3, 4, 5, 6)


def head_and_levels(
    border: str = "constant", dtype: torch.dtype = torch.float64, height: int = 40, images: int = 2
) -> tuple[Perceptron, list[Tensor]]:
    """40 rows: two blocks of 16 and one of 8."""
    torch.manual_seed(0)
    head = Perceptron(WIDTHS, 3, border, hidden=70, relu=True).to(dtype)
    levels = [
        torch.randn(images, c, height >> i, 24 >> i, dtype=dtype, requires_grad=True)
        for i, c in enumerate(WIDTHS)
    ]
    return head, levels


def plain(head: Perceptron, levels: list[Tensor]) -> Tensor:
    framed = tuple(F.pad(level, (1, 1, 1, 1), mode=head.border) for level in levels)
    return upsample(head.classify(framed), 2, head.border)


def with_gradients(out: Tensor, head: Perceptron, levels: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, [*levels, *head.parameters()], torch.randn_like(out))]


def agree(found: list[Tensor], wanted: list[Tensor], within: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).abs().max() <= within * other.abs().max()


@pytest.mark.parametrize("border", ["constant", "replicate"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_are_those_of_the_plain_form(
    border: str, dtype: torch.dtype, within: float, layout: torch.memory_format
) -> None:
    head, levels = head_and_levels(border, dtype)
    made = [level.to(memory_format=layout) for level in levels]
    found = with_gradients(head(made), head, levels)
    agree(found, with_gradients(plain(head, levels), head, levels), within)
    with torch.inference_mode():
        agree([head(made)], [found[0]], within)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_by_onednn_are_those_of_torch(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, levels = head_and_levels(dtype=torch.float32)
    made = [level.detach().to(memory_format=layout) for level in levels]
    used: list[bool] = []
    own = kernel._forward

    def forward(*given: object, by_onednn: bool = False, **named: object) -> Tensor:
        used.append(by_onednn)
        return own(*given, by_onednn=by_onednn, **named)

    monkeypatch.setattr(kernel, "_forward", forward)
    with torch.no_grad():
        found = head(made)
        doubles = head.double()([level.double() for level in made])
        monkeypatch.setattr(kernel, "onednn_multiplies", lambda like: False)
        without = head.float()(made)
    with_gradients(head(levels), head, levels)  # sums of a training stay what they were
    here = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert used == [here, False, False, False]
    agree([found], [without], 1e-6)
    agree([found.double()], [doubles], 1e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("columns", [8, 16, 256])
@pytest.mark.parametrize(("strip", "block"), [(1, 2**20), (2**40, 1), (16 * 70 * 24 * 8, 16 * 24 * 8 * 32)])
def test_neither_strips_nor_columns_nor_chunks_nor_threads_change_the_value(
    threads: int, columns: int, strip: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 columns: three pieces of 8, one of 16 and one of 8, or one."""
    monkeypatch.setattr(kernel, "COLUMNS", columns)
    monkeypatch.setattr(kernel, "STRIP_BYTES", strip)
    monkeypatch.setattr(kernel, "BLOCK_BYTES", block)
    torch.set_num_threads(threads)
    head, levels = head_and_levels()
    found = with_gradients(head(levels), head, levels)
    assert torch.get_num_threads() == threads
    again = with_gradients(head(levels), head, levels)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    agree(found, with_gradients(plain(head, levels), head, levels), 1e-13)
    with torch.inference_mode():
        agree([head(levels)], [found[0]], 1e-13)


def test_half_precision_is_rounded_once() -> None:
    head, levels = head_and_levels(dtype=torch.float32)
    exact = head(levels)
    half = [level.bfloat16() for level in levels]
    with torch.autocast("cpu", torch.bfloat16):
        out = head(half)
        rough = plain(head, half)
    assert out.dtype == rough.dtype == torch.bfloat16
    error, plains = ((x.float() - exact).abs().max() for x in (out, rough))
    assert error <= plains and error < 0.02 * exact.abs().max()
    found = with_gradients(out, head, levels)[1:]
    wanted = with_gradients(rough, head, levels)[1:]
    # On average: a unit near 0 that rounding lets through in one form alone has a gradient of its own there.
    assert all((a - b).abs().mean() < 0.03 * b.abs().mean() for a, b in zip(found, wanted, strict=True))


def test_only_what_needs_a_gradient_is_given_one() -> None:
    """The encoder may be frozen, or the head."""
    head, levels = head_and_levels()
    wanted = with_gradients(plain(head, levels), head, levels)[5:]
    frozen = [level.detach() for level in levels]
    out = head(frozen)
    torch.manual_seed(1)
    agree(list(torch.autograd.grad(out, list(head.parameters()), torch.randn_like(out))), wanted, 1e-13)


@pytest.mark.parametrize("columns", [8, 256])
def test_hooks_see_the_hidden_layer_and_change_no_bit(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "COLUMNS", columns)
    monkeypatch.setattr(kernel, "STRIP_BYTES", 1)
    head, levels = head_and_levels()
    seen: list[Tensor] = []
    with torch.inference_mode():
        without = head(levels)
        head.mlp2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        assert torch.equal(head(levels), without)
    assert [tuple(x.shape) for x in seen] == [(1, 70, rows, 24) for rows in (16, 16, 8)] * 2
    strips, seen = torch.cat([torch.cat(seen[n : n + 3], 2) for n in (0, 3)]), []
    head.mlp2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    head(levels)  # with gradients: by the plain form, at once
    agree([strips], [seen[0]], 1e-13)


def test_the_hidden_layer_never_exists_whole() -> None:
    """The largest tensor of a training step, at the paper's number of units, is no larger than the levels."""
    torch.manual_seed(0)
    net = maggiori.mlp(in_channels=3, classes=5, widths=(4, 4, 4, 4))
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, made.nbytes) if isinstance(made, Tensor) else largest
            return made

    with Sizes():
        net(torch.randn(1, 3, 512, 512)).square().sum().backward()
    assert largest < 256 * 256 * 1024 * 4 / 32
