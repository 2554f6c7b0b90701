"""Networks of shapes alone: nothing is computed, and they take no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWING = {Tensor.normal_, Tensor.uniform_, Tensor.random_}
"""What fills a tensor with random numbers; all of `torch.nn.init` that draws ends in these."""


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Tensors made while the block runs are on torch's "meta" device, and weights are not drawn: torch would
    load its compiler for that, which takes a second.
    """
    with torch.device("meta"), _Undrawn():
        yield


def needs_numbers(error: Exception) -> bool:
    """Did a network fail in `shapes_alone` because it computes with numbers, as some transformers do?"""
    why = error.__cause__ or error
    return isinstance(why, NotImplementedError) or "meta" in str(why)


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in DRAWING and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


def result_of(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operator of torch makes of tensors on the "meta" device. Those of which torch has no rule but a
    program in Python, for which it would load its compiler, are answered here.
    """
    rule = RULES.get(function)
    made = rule(*args) if rule is not None and not kwargs else None
    return function(*args, **kwargs) if made is None else made


def _normalised(
    image: Tensor, weight: object, bias: object, mean: Tensor, variance: Tensor, training: bool, *_: object
) -> tuple[Tensor, Tensor, Tensor] | None:
    if training:
        return None
    return torch.empty_like(image), mean.new_empty(mean.shape), mean.new_empty(mean.shape)


def _resized(image: Tensor, size: Sequence[int], *_: object) -> Tensor:
    return image.new_empty((*image.shape[:2], *size))


def _unpooled(image: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    return image.new_empty((*image.shape[:-2], *size))


def _added(one: Tensor, other: object) -> Tensor | None:
    if not isinstance(other, Tensor):
        return None
    shape = torch.broadcast_shapes(one.shape, other.shape)
    return one.new_empty(shape, dtype=torch.result_type(one, other))


def _joined(tensors: Sequence[Tensor], axis: int = 0) -> Tensor | None:
    first = tensors[0]
    if any(tensor.dim() != first.dim() or tensor.dtype != first.dtype for tensor in tensors):
        return None
    shape = list(first.shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return first.new_empty(shape)


RULES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_batch_norm.default: _normalised,
    torch.ops.aten.upsample_bilinear2d.default: _resized,
    torch.ops.aten.max_unpool2d.default: _unpooled,
    torch.ops.aten.add.Tensor: _added,
    torch.ops.aten.cat.default: _joined,
}
