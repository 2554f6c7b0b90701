"""Scores as arrays of torch or of NumPy: a model that `export` wrote is mapped where torch is not installed.

What both call by one name is called through `library_of`; here is the rest. NumPy's forms round the last
digits otherwise, never more: the tests compare them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "Tensor | np.ndarray"


def library_of(values: Array) -> Any:
    """The module that this array is of: torch or numpy."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


@contextmanager
def without_gradients() -> Iterator[None]:
    """torch's inference mode; nothing where torch was not imported, since no array can then be of torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.inference_mode():
        yield


def on_cpu(values: Array) -> bool:
    return isinstance(values, np.ndarray) or values.device.type == "cpu"


def as_numpy(values: Array) -> np.ndarray:
    """The same values as float32, without a copy where they are float32 on the CPU."""
    return (
        values.astype(np.float32, copy=False)
        if isinstance(values, np.ndarray)
        else values.float().cpu().numpy()
    )


def brought(values: Array) -> Array:
    """The same values as float32 in the memory of the processor, without a copy where they are."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float32, copy=False)
    return values.float().cpu()


def copied(values: Array) -> Array:
    return values.copy() if isinstance(values, np.ndarray) else values.clone()


def through(run: Callable[[np.ndarray], np.ndarray], images: Array) -> Array:
    """What a function of NumPy arrays makes of images on the CPU, as an array of their library."""
    if isinstance(images, np.ndarray):
        return run(np.ascontiguousarray(images))
    # Its own order in memory too: torch's images have their channels last.
    return library_of(images).from_numpy(run(images.contiguous().numpy()))


def parts_of(values: Array, sizes: int | tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """Views of consecutive parts along an axis: all of one size but the last, or of these sizes."""
    if not isinstance(values, np.ndarray):
        return values.split(sizes, axis)
    ends = range(sizes, values.shape[axis], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return tuple(np.split(values, ends, axis))


def softmax(logits: Array, axis: int, groups: tuple[int, ...] = ()) -> Array:
    """Probabilities along `axis`; with `groups`, of each group of so many classes by itself."""
    if groups:
        parts = [softmax(part, axis) for part in parts_of(logits, groups, axis)]
        return library_of(logits).concatenate(parts, axis)
    if not isinstance(logits, np.ndarray):
        return logits.softmax(axis)
    # In one copy, changed in place: a tile of many classes is large.
    raised = logits - logits.max(axis=axis, keepdims=True)
    np.exp(raised, out=raised)
    raised /= raised.sum(axis=axis, keepdims=True)
    return raised


def soften(logits: Array, groups: tuple[int, ...] = ()) -> Array:
    """(K, H, W) logits on any device -> float32 probabilities on the CPU."""
    if isinstance(logits, np.ndarray):
        return softmax(logits.astype(np.float32, copy=False), 0, groups)
    with without_gradients():
        # float32 first: half precision rounds small probabilities away, and they no longer sum to 1.
        return softmax(logits.float().contiguous(), 0, groups).cpu()


def back_to_logits(probabilities: Array) -> Array:
    """Logits whose softmax is these probabilities. 1e-20 is the least that float32 logs safely: a class of
    probability 0 does not become -inf.
    """
    library = library_of(probabilities)
    return library.log(library.clip(probabilities, 1e-20, None))


def resized(images: Array, size: tuple[int, int], *, antialias: bool = False) -> Array:
    """Images (N, C, H, W) of another height and width, bilinear; with `antialias` each pixel is the mean of
    all that it covers, as a coarser sensor would average the ground.
    """
    if not isinstance(images, np.ndarray):
        from torch.nn.functional import interpolate

        return interpolate(images, size, mode="bilinear", align_corners=False, antialias=antialias)
    rows, columns = (
        _shares(before, after, antialias) for before, after in zip(images.shape[-2:], size, strict=True)
    )
    return rows @ images @ columns.T


def _shares(before: int, after: int, antialias: bool) -> np.ndarray:
    """(after, before) float32: the share of each old pixel in each new one; rows add up to 1."""
    scale = before / after
    width = max(1.0, scale) if antialias else 1.0
    centres = (np.arange(after) + 0.5) * scale - 0.5
    if not antialias:
        # Beyond the outermost centres their values are repeated.
        centres = np.clip(centres, 0, before - 1)
    # A triangle, 1 at the centre and 0 at a distance of `width`.
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(before)) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
