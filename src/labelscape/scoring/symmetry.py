"""The eight symmetries of the square: test-time augmentation averages over them, training draws one per crop.

An element is a number 0..7: bit 0 flips left-right, bit 1 flips up-down, bit 2 transposes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SYMMETRIES = {"none": (0,), "mirror": (0, 1), "flips": (0, 1, 2, 3), "dihedral": tuple(range(8))}
"""Named sets of elements: of `--tta`, and of a recipe's `augment`."""


def turned(image: Tensor, which: int) -> Tensor:
    """Apply an element to the last two dimensions: transposed first, then flipped."""
    return _flipped(image.transpose(-1, -2) if which & 4 else image, which)


def turned_back(image: Tensor, which: int) -> Tensor:
    """The inverse of `turned`: flipped first, then transposed."""
    image = _flipped(image, which)
    return image.transpose(-1, -2) if which & 4 else image


def _flipped(image: Tensor, which: int) -> Tensor:
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if which & bit]
    # torch copies also where it flips along no axis.
    return image.flip(axes) if axes else image
