"""A dense block that keeps its stack alone for the backward pass (Pleiss et al. 2017, "Memory-efficient
implementation of DenseNets", which shares the joined inputs in the same way).

    x_i = (x_0, y_1, ..., y_i)      y_{i+1} = layer_{i+1}(x_i)      stack = x_l      total = y_1 + ... + y_l

Every x_i is the beginning of the stack, so that each layer can be computed again from it. Its gradient is
summed in one tensor from the last layer to the first, in the order in which torch sums it of the plain form.
Layers are given copies: sums over a part of a larger tensor would be taken in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import get_device_states, set_device_states


def stacked(layers: Sequence[nn.Module], growth: int, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Layers (N, C, h, w) -> (N, growth, h, w), and the block's input (N, C, h, w) -> its stack (N, C + l
    growth, h, w), and its total (N, growth, h, w). Costs a second forward pass in the backward pass. No
    second derivatives, and none of torch.func, which torch refuses: for these nothing is computed again
    (checkpointing=False).
    """
    parameters = [p for layer in layers for p in layer.parameters()]
    return _Stacked.apply(layers, growth, inputs, *parameters)


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, layers: Sequence[nn.Module], growth: int, inputs: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        images, first, height, width = inputs.shape
        kind = inputs.device.type
        mixed = kind != "meta" and torch.is_autocast_enabled(kind)
        ctx.autocast = (kind, torch.get_autocast_dtype(kind)) if mixed else None
        ctx.layers, ctx.growth, ctx.first, ctx.format = layers, growth, first, format_of(inputs)
        outputs = first + len(layers) * growth
        stack = inputs.new_empty(images, outputs, height, width).contiguous(memory_format=ctx.format)
        stack[:, :first], total, ctx.random = inputs, None, []
        for number, layer in enumerate(layers):
            ctx.random.append(_random_state(inputs) if draws(layer) else None)
            end = first + number * growth
            new = layer(stack[:, :end].contiguous(memory_format=ctx.format))
            stack[:, end : end + growth] = new
            total = new if total is None else total + new
        ctx.save_for_backward(stack)
        return stack, total

    @staticmethod
    @once_differentiable
    def backward(ctx, to_stack: Tensor, to_total: Tensor) -> tuple[Tensor | None, ...]:
        (stack,) = ctx.saved_tensors
        first, growth, layers = ctx.first, ctx.growth, ctx.layers
        to, found = to_stack.clone(), []
        for number, layer in reversed([*enumerate(layers)]):
            end = first + number * growth
            given = stack[:, :end].contiguous(memory_format=ctx.format).detach().requires_grad_()
            with torch.enable_grad(), as_before(ctx.random[number]), StatisticsKept(layer):
                # Mixed precision is not switched on in a backward pass.
                with torch.autocast(*ctx.autocast) if ctx.autocast else nullcontext():
                    new = layer(given)
            own = to[:, end : end + growth]
            # The plain form's total begins as the first output: its gradient comes with the second's.
            own = own if number == 0 and len(layers) > 1 else own + to_total
            wanted = [p for p in layer.parameters() if p.requires_grad]
            back, *rest = torch.autograd.grad(new, [given, *wanted], own.to(new.dtype))
            if number == 1:
                to[:, first : first + growth] += to_total
            to[:, :end] += back
            each = iter(rest)
            found = [next(each) if p.requires_grad else None for p in layer.parameters()] + found
        return None, None, to[:, :first] if ctx.needs_input_grad[2] else None, *found


def format_of(images: Tensor) -> torch.memory_format:
    """The layout in memory."""
    last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def draws(layer: nn.Module) -> bool:
    """Does it draw random numbers?"""
    return any(isinstance(one, nn.Dropout) and one.training and one.p > 0 for one in layer.modules())


def _random_state(like: Tensor) -> tuple:
    return torch.get_rng_state(), *get_device_states(like)


@contextmanager
def as_before(state: tuple | None) -> Iterator[None]:
    """Draw again what was drawn from this state on; afterwards the generators are where they were."""
    if state is None:
        yield
        return
    cpu, devices, states = state
    with torch.random.fork_rng(devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, states)
        yield


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
