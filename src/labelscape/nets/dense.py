"""Dense blocks: each layer is fed with the outputs of all layers before it. What dfcnet and tiramisu share.

Symbols   N images  C width  k growth  l layers
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labelscape.nets.blocks import is_recorded
from labelscape.nets.kernels.stacks import StatisticsKept, stacked


class Grown(NamedTuple):
    """The output of a dense block."""

    stack: Tensor
    """(N, C + l k, h, w): its input and the outputs of its l layers."""
    new: Tensor
    """(N, l k, h, w): the outputs alone, a view of the stack."""
    total: Tensor
    """(N, k, h, w): the sum of the outputs."""

    def of(self, images: slice) -> Grown:
        return Grown(self.stack[images], self.new[images], self.total[images])


class DenseLayer(nn.Module):
    """DenseNet's bottleneck layer, before its output is joined to its input: (N, C, h, w) -> (N, k, h, w)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        narrow = self.conv1(F.relu(self.norm1(inputs), inplace=True))  # (N, 4 k, h, w)
        return self.conv2(F.relu(self.norm2(narrow), inplace=True))  # (N, k, h, w)


class DenseBlock(nn.Module):
    """`length` layers, each made by `layer(inputs, growth)`. (N, C, h, w) -> Grown.

    With `checkpointing` nothing but the stack is kept for the backward pass, which computes all else again
    (`kernels.stacks`).
    """

    def __init__(
        self,
        inputs: int,
        length: int,
        growth: int,
        *,
        checkpointing: bool = False,
        layer: Callable[[int, int], nn.Module] = DenseLayer,
    ) -> None:
        super().__init__()
        self.new, self.outputs = length * growth, inputs + length * growth
        self.layers = nn.ModuleList(layer(inputs + before * growth, growth) for before in range(length))
        self.checkpointing = checkpointing

    def forward(self, inputs: Tensor) -> Grown:
        if self.checkpointing and torch.is_grad_enabled() and not is_recorded():
            stack, total = stacked(self.layers, self.new // len(self.layers), inputs)
            return Grown(stack, stack[:, inputs.shape[1] :], total)
        # filled() writes into one tensor, which autograd, compilation and tracing cannot follow.
        if torch.is_grad_enabled() or is_recorded() or not inputs.is_contiguous():
            return self.joined(inputs)
        return self.filled(inputs)

    def joined(self, inputs: Tensor) -> Grown:
        """Every layer's input joined anew: what the backward pass can follow."""
        parts, total = [inputs], None
        for layer in self.layers:
            new = layer(torch.cat(parts, dim=1))
            total = new if total is None else total + new  # (N, k, h, w)  summed on the way
            parts.append(new)
        stack = torch.cat(parts, dim=1)  # (N, C + l k, h, w)
        return Grown(stack, stack[:, inputs.shape[1] :], total)

    def filled(self, inputs: Tensor) -> Grown:
        """The same with one stack that is filled layer by layer: joining anew costs 8 % of a network's
        time.
        """
        images, first, height, width = inputs.shape
        stack, total = inputs.new_empty(images, self.outputs, height, width), None
        stack[:, :first], filled = inputs, first
        for layer in self.layers:
            # A view, not a copy: the layer reads what earlier ones wrote into the same memory.
            new = layer(stack[:, :filled])  # (N, k, h, w)
            total = new if total is None else total + new
            stack[:, filled : filled + new.shape[1]] = new
            filled += new.shape[1]
        return Grown(stack, stack[:, first:], total)


def recomputed(module: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`run(*inputs)`, a pass through `module` of which the inputs and the output alone are kept for the
    backward pass.
    """
    return checkpoint(
        run, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), StatisticsKept(module))
    )
