"""Derivatives of a kernel that keeps its inputs alone: of the first order by the kernel, of higher ones by
torch from the plain form, whose memory the kernel saves.

Transforms of `torch.func` (grad, vjp, jacrev, vmap) see through it too; those of forward mode (jvp, jacfwd)
are refused by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from labelscape.nets.blocks import is_recorded


@dataclass(frozen=True)
class Form:
    """A function of tensors.

    value     tensors -> its value, by the kernel
    gradient  tensors, and the gradient of the value -> the gradients of the tensors, by the kernel
    plain     tensors -> the same value, by operations that torch differentiates
    """

    value: Callable[..., Tensor]
    gradient: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., Tensor]


def applied(form: Form, *tensors: Tensor) -> Tensor:
    """The value, with its derivatives."""
    # A network is recorded as the operations themselves where no gradient is asked for.
    if is_recorded() and not (torch.is_grad_enabled() and any(one.requires_grad for one in tensors)):
        return form.value(*tensors)
    return Value.apply(form, *tensors)


class Value(torch.autograd.Function):
    """The value of a form, which keeps the tensors and nothing else for its gradient."""

    @staticmethod
    def forward(form: Form, *tensors: Tensor) -> Tensor:
        return form.value(*tensors)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.form = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *Gradient.apply(ctx.form, gradient, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        return torch.stack(_one_by_one(Value.apply, info.batch_size, in_dims, given)), 0


class Gradient(torch.autograd.Function):
    """The gradients of a form, which torch differentiates as those of its plain form."""

    @staticmethod
    def forward(form: Form, gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(form.gradient(*tensors, gradient))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.form = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: FunctionCtx, *above: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(ctx.form.plain, *tensors)[1](gradient)

        return None, *torch.func.vjp(gradients, *ctx.saved_tensors)[1](above)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *given: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        each = _one_by_one(Gradient.apply, info.batch_size, in_dims, given)
        made = tuple(torch.stack(some) for some in zip(*each))
        return made, (0,) * len(made)


def _one_by_one(
    apply: Callable[..., Any], count: int, in_dims: tuple[int | None, ...], given: tuple[Any, ...]
) -> list[Any]:
    """What a function gives for each place of a batch: kernels fill tensors in place, which a batch of them
    is not.
    """
    return [
        apply(*(one if dim is None else one.select(dim, n) for one, dim in zip(given, in_dims)))
        for n in range(count)
    ]
