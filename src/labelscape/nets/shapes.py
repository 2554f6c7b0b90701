"""Networks of shapes alone: nothing is computed, and they take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from labelscape.nets.compiler import compiler_later


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Tensors made while the block runs are on torch's "meta" device."""
    with torch.device("meta"), compiler_later():
        yield


def needs_numbers(error: Exception) -> bool:
    """Did a network fail in `shapes_alone` because it computes with numbers, as some transformers do?"""
    why = error.__cause__ or error
    return isinstance(why, NotImplementedError) or "meta" in str(why)
