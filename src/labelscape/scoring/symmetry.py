"""The eight symmetries of the square: test-time augmentation averages over them, training draws one per crop.

An element is a number 0..7: bit 0 flips left-right, bit 1 flips up-down, bit 2 transposes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from labelscape.scoring.arrays import Array

SYMMETRIES = {"none": (0,), "mirror": (0, 1), "flips": (0, 1, 2, 3), "dihedral": tuple(range(8))}
"""Named sets of elements: of `--tta`, and of a recipe's `augment`."""


def turned(image: Array, which: int) -> Array:
    """Apply an element to the last two dimensions: transposed first, then flipped."""
    return _flipped(_transposed(image) if which & 4 else image, which)


def turned_back(image: Array, which: int) -> Array:
    """The inverse of `turned`: flipped first, then transposed."""
    image = _flipped(image, which)
    return _transposed(image) if which & 4 else image


def _transposed(image: Array) -> Array:
    # What both call `transpose` is not the same.
    return image.swapaxes(-1, -2)


def _flipped(image: Array, which: int) -> Array:
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if which & bit]
    # torch copies also where it flips along no axis.
    if not axes:
        return image
    return np.flip(image, tuple(axes)) if isinstance(image, np.ndarray) else image.flip(axes)
