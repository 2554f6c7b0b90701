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
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from labelscape.nets.blocks import is_recorded


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

    With `checkpointing` a layer's inner maps are computed again in the backward pass instead of being kept:
    for dfcnet at 257 pixels 0.54 of the memory and 1.17 of the time (`benchmarks/kernels.py`).
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
        # filled() writes into one tensor, which autograd, compilation and tracing cannot follow.
        if torch.is_grad_enabled() or is_recorded() or not inputs.is_contiguous():
            return self.joined(inputs)
        return self.filled(inputs)

    def joined(self, inputs: Tensor) -> Grown:
        """Every layer's input joined anew: what the backward pass can follow."""
        parts, total = [inputs], None
        for layer in self.layers:
            new = (
                recomputed(layer, parts)
                if self.checkpointing and torch.is_grad_enabled()
                else layer(torch.cat(parts, dim=1))
            )
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
            new = layer(stack[:, :filled])  # (N, k, h, w)
            total = new if total is None else total + new
            stack[:, filled : filled + new.shape[1]] = new
            filled += new.shape[1]
        return Grown(stack, stack[:, first:], total)


def recomputed(layer: nn.Module, parts: list[Tensor]) -> Tensor:
    """`layer(torch.cat(parts, 1))`, of which only the parts and the output are kept for the backward pass."""

    def run(*parts: Tensor) -> Tensor:
        return layer(torch.cat(parts, dim=1))

    return checkpoint(
        run, *parts, use_reentrant=False, context_fn=lambda: (nullcontext(), StatisticsKept(layer))
    )


class StatisticsKept:
    """While entered, the normalisations of a module add the batch's statistics to copies of their running
    ones.

    A second forward over the same batch would count it twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]

    def __enter__(self) -> None:
        self.kept = [
            (norm, name, buffer) for norm in self.norms for name, buffer in norm.named_buffers(recurse=False)
        ]
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer.clone())

    def __exit__(self, *failure: object) -> None:
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer)
