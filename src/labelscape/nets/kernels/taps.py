"""The gradient of a dilated convolution's weights, each tap by itself, over the cells in which it sees the
map.

    dL/dW[:, :, y, x] = sum over images and cells (i, j) of G[:, i, j] F[:, i + dy, j + dx]^T

with (dy, dx) the tap's offset, and F zero outside the map. On a small map the taps of a large dilation see
mostly padding: of 8 x 8 cells, which training at stride 16 has of crops of 128 pixels, eight of the nine
taps of dilation 12 see nothing else. oneDNN leaves padding out of the forward pass and of the gradient of the
map, and multiplies it in this one. Exact: the same products, without those by zero.

Symbols   N images  C width  h x w cells  k kernel size  G the gradient of the result, F the map
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_input

MOST_SEEN = 0.5
"""Share of the products that are not with padding, below which taps go one by one. At 0.56 they take as long
as all together, at 0.33 a third to a half of the time, at 0.1 a tenth (measured on a processor, two threads).
"""


class DilatedConv2d(nn.Conv2d):
    """torch's convolution, of stride 1 and one group, with zeros around the map. On a processor, in full
    precision, the gradient of its weights comes from `by_taps` where that multiplies less.
    """

    def forward(self, level: Tensor) -> Tensor:
        if self._goes_by_taps(level):
            return ByTaps.apply(level, self.weight, self.bias, self.padding, self.dilation)
        return super().forward(level)

    def _goes_by_taps(self, level: Tensor) -> bool:
        # Sizes would be fixed in a traced or compiled network; other precisions round each sum.
        return (
            torch.is_grad_enabled()
            and self.weight.requires_grad
            and level.device.type == "cpu"
            and level.dtype == self.weight.dtype
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and max(self.dilation) > 1  # else oneDNN is fast, whatever the map
            and seen_share(level.shape[-2:], self.kernel_size, self.padding, self.dilation) < MOST_SEEN
        )


class ByTaps(torch.autograd.Function):
    """(N, C, h, w), (C', C, k, k), (C',) or None -> (N, C', h', w')."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        level: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        return torch.conv2d(level, weight, bias, 1, padding, dilation)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        level, weight, _, ctx.padding, ctx.dilation = inputs
        ctx.save_for_backward(level, weight)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Of differentiable operations, for second derivatives.
        level, weight = ctx.saved_tensors
        for_level = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_level = conv2d_input(level.shape, weight, gradient, 1, ctx.padding, ctx.dilation)
        if ctx.needs_input_grad[1]:
            for_weight = by_taps(level, gradient, weight, ctx.padding, ctx.dilation)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((0, 2, 3))
        return for_level, for_weight, for_bias, None, None


def by_taps(
    level: Tensor, gradient: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """The gradient of the weights from the map (N, C, h, w) and the gradient of what was made of it (N, C',
    h', w'): (C', C, k, k), in the layout of `weight`.
    """
    outputs, inputs, *sides = weight.shape
    # In the order of memory of a map whose channels lie side by side, as training has them.
    read, made = level.movedim(1, -1), gradient.movedim(1, -1)
    found = made.new_zeros(outputs, *sides, inputs)
    along = zip(level.shape[-2:], gradient.shape[-2:], sides, padding, dilation, strict=True)
    down, across = ([*seen(*side)] for side in along)
    for (row, (made_rows, read_rows)), (column, (made_columns, read_columns)) in product(
        enumerate(down), enumerate(across)
    ):
        cells = made[:, made_rows, made_columns].reshape(-1, outputs)
        # A tap that sees nothing has no gradient.
        if len(cells):
            found[:, row, column] = cells.T @ read[:, read_rows, read_columns].reshape(-1, inputs)
    found = found.movedim(-1, 1)
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return found if last else found.contiguous()


def seen(length: int, made: int, kernel: int, padding: int, dilation: int) -> Iterator[tuple[slice, slice]]:
    """For each tap along one axis: the cells that are made from what it sees inside the map, and these."""
    for tap in range(kernel):
        offset = tap * dilation - padding
        first, end = max(0, -offset), min(made, length - offset)
        end = max(first, end)
        yield slice(first, end), slice(first + offset, end + offset)


def seen_share(
    shape: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> float:
    """Share of the products of a convolution that are not with padding."""
    share = 1.0
    for length, size, pad, step in zip(shape, kernel, padding, dilation, strict=True):
        made = length + 2 * pad - step * (size - 1)
        if made < 1:
            return 1.0  # torch says what is wrong
        inside = sum(cells.stop - cells.start for cells, _ in seen(length, made, size, pad, step))
        share *= inside / (made * size)
    return share
