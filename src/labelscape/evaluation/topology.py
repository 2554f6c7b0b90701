"""Are roads connected? clDice (Shit et al. 2021): how much of each skeleton lies inside the other mask.

A gap of a few pixels costs a road its use and IoU next to nothing; a skeleton that is missing there costs
topology sensitivity. Skeletons are thinned by Guo and Hall (1989), which keeps what is connected connected.
Memory grows with the pixels of the class, some 20 bytes each, not with the scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelscape.errors import BadInput
from labelscape.evaluation.kept import zeros
from labelscape.evaluation.metrics import plain
from labelscape.files import temporary_folder

STRIP = 1 << 22
"""Pixels of a mask that are read at once."""
CHUNK = 1 << 20
"""Pixels of the class whose neighbourhoods are looked up at once."""
TURN = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours, clockwise from the one above: bits 0 to 7 of a neighbourhood."""


@dataclass(frozen=True)
class TopologyCounts:
    """Counts of one class, which add up: skeleton pixels of the truth and those that the prediction covers,
    skeleton pixels of the prediction and those that the truth covers.
    """

    name: str
    true: int
    covered: int
    predicted: int
    right: int

    def __add__(self, other: TopologyCounts) -> TopologyCounts:
        """The counts of both. Raises BadInput where they are of different classes."""
        if self.name != other.name:
            raise BadInput(f"Skeletons of {self.name} and of {other.name} cannot be added.")
        mine, others = ((c.true, c.covered, c.predicted, c.right) for c in (self, other))
        return TopologyCounts(self.name, *(a + b for a, b in zip(mine, others)))

    @property
    def sensitivity(self) -> float:
        """Share of the true skeleton inside the prediction; NaN without any."""
        return self.covered / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predicted skeleton inside the truth; NaN without any."""
        return self.right / self.predicted if self.predicted else float("nan")

    @property
    def cldice(self) -> float:
        """Their harmonic mean; NaN where either is."""
        summed = self.sensitivity + self.precision
        # NaN of either stays NaN in the sum, and NaN is true: only 0 + 0 takes the other branch.
        return 2 * self.sensitivity * self.precision / summed if summed else 0.0

    def to_dict(self) -> dict:
        """JSON values: scores as fractions, None where undefined, and their counts."""
        scores = {name: plain(getattr(self, name)) for name in ("cldice", "precision", "sensitivity")}
        counts = {name: getattr(self, name) for name in ("true", "covered", "predicted", "right")}
        return {"class": self.name, **scores, **counts}

    @classmethod
    def from_dict(cls, fields: Mapping) -> TopologyCounts:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for other fields."""
        return cls(fields["class"], *(int(fields[k]) for k in ("true", "covered", "predicted", "right")))


def _removable() -> np.ndarray:
    """(2, 256) bool: for both passes, whether a pixel with these neighbours is removed. Guo and Hall (1989),
    algorithm A1, whose p2..p9 are bits 0..7 of TURN.
    """
    p2, p3, p4, p5, p6, p7, p8, p9 = ((np.arange(256) >> bit & 1).astype(bool) for bit in range(8))
    crossings = (~p2 & (p3 | p4)).astype(int) + (~p4 & (p5 | p6)) + (~p6 & (p7 | p8)) + (~p8 & (p9 | p2))
    one = (p9 | p2).astype(int) + (p3 | p4) + (p5 | p6) + (p7 | p8)
    two = (p2 | p3).astype(int) + (p4 | p5) + (p6 | p7) + (p8 | p9)
    fewer = np.minimum(one, two)
    edge = (crossings == 1) & (fewer >= 2) & (fewer <= 3)
    return np.stack([edge & ~((p6 | p7 | ~p9) & p8), edge & ~((p2 | p3 | ~p5) & p4)])


REMOVABLE = _removable()


class ClassMask:
    """Where a class is true (`side` 0) or predicted (1) among kept classes (2, H, W), index + 1, 0 for none;
    on labelled pixels alone. Read by parts, as an array (H, W) of bool is: a large scene is kept in a file.
    """

    def __init__(self, kept: np.ndarray, index: int, side: int) -> None:
        self._kept, self._index, self._side = kept, index, side
        self.shape = kept.shape[1:]

    def __getitem__(self, place: Any) -> np.ndarray:
        found = self._kept[self._side][place] == self._index + 1
        return found & (self._kept[0][place] > 0) if self._side else found


Mask = np.ndarray | ClassMask
"""What is thinned: (H, W) bool."""


def skeleton(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask thinned to lines of one pixel, 8-connected as the mask was."""
    lines = np.zeros(mask.shape, bool)
    lines[thinned(mask)] = True
    return lines


def thinned(mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (N,) of the pixels of a mask's skeleton, row by row."""
    height, width = mask.shape
    # A border of zeros, so that every pixel has eight neighbours.
    across = width + 2
    steps = [row * across + column for row, column in TURN]
    with temporary_folder() as folder:
        padded = zeros((height + 2, across), folder / "mask")
        # Only pixels of the class are looked at: roads are a small part of a scene, and each pass over all of
        # it would cost the same.
        found, rows = [], max(1, STRIP // width)
        for top in range(0, height, rows):
            part = mask[top : top + rows]
            padded[top + 1 : top + 1 + len(part), 1:-1] = part
            row, column = np.nonzero(part)
            found.append((row + top + 1) * across + column + 1)
        left = np.concatenate(found)
        flat = padded.reshape(-1)
        while len(left):
            before = len(left)
            for removable in REMOVABLE:
                gone = np.concatenate([removable[_codes(flat, some, steps)] for some in _chunks(left)])
                # All at once after the pass, as the algorithm is defined: pixels removed one by one could cut
                # a line.
                flat[left[gone]] = 0
                left = left[~gone]
                if not len(left):
                    break
            if len(left) == before:
                break
        # Else the file could not be removed on systems that keep open ones.
        del padded, flat
    row, column = np.divmod(left, across)
    return row - 1, column - 1


def _chunks(left: np.ndarray) -> list[np.ndarray]:
    return [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]


def _codes(flat: np.ndarray, some: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """(N,) the neighbourhood of each pixel as one byte: a table answers what the equations would for each."""
    code = np.zeros(len(some), np.uint8)
    for bit, step in enumerate(steps):
        code |= flat[some + step] << np.uint8(bit)
    return code


def count_topology(truth: Mask, predicted: Mask, name: str) -> TopologyCounts:
    """Skeletons of two masks (H, W), each against the other mask."""
    # One after the other: of the first only two numbers are kept.
    true = thinned(truth)
    covered = int(predicted[true].sum())
    lines = thinned(predicted)
    return TopologyCounts(name, len(true[0]), covered, len(lines[0]), int(truth[lines].sum()))
