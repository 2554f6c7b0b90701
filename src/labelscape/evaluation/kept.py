"""Classes of a whole scene while it is evaluated: in memory, of a large scene in a temporary file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

IN_MEMORY = 1 << 26
"""Pixels up to which a scene's classes are kept in memory, not in a file."""


def zeros(shape: tuple[int, ...], file: Path) -> np.ndarray:
    """An array of bytes, all 0, whose last two dimensions are a scene's. What is never written takes neither
    memory nor disk; `file` is used for large scenes only, and is the caller's to remove.
    """
    if math.prod(shape[-2:]) > IN_MEMORY:
        return np.memmap(file, np.uint8, "w+", shape=shape)
    return np.zeros(shape, np.uint8)
