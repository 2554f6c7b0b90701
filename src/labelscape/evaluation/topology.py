"""Are roads connected? clDice (Shit et al. 2021): how much of each skeleton lies inside the other mask.

A gap of a few pixels costs a road its use and IoU next to nothing; a skeleton that is missing there costs
topology sensitivity. Skeletons are thinned by Guo and Hall (1989), which keeps what is connected connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadInput
from labelscape.evaluation.metrics import plain

MOST = 1 << 26
"""Pixels of a scene up to which skeletons are made: one of a part is not that of the whole."""
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


def skeleton(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask thinned to lines of one pixel, 8-connected as the mask was."""
    # A border of zeros, so that every pixel has eight neighbours.
    padded = np.pad(mask, 1)
    height, width = padded.shape
    flat = padded.ravel()
    steps = [row * width + column for row, column in TURN]
    # Only these are looked at: roads are a small part of a scene, and each pass over all of it would cost the
    # same.
    left = np.flatnonzero(flat)
    while True:
        removed = 0
        for removable in REMOVABLE:
            code = np.zeros(len(left), np.uint8)
            for bit, step in enumerate(steps):
                # The neighbourhood as one byte: a table answers what the equations would for each pixel.
                code |= flat[left + step].astype(np.uint8) << np.uint8(bit)
            gone = removable[code]
            # All at once after the pass, as the algorithm is defined: pixels removed one by one could cut a
            # line.
            flat[left[gone]] = False
            left = left[~gone]
            removed += int(gone.sum())
        if not removed:
            return flat.reshape(height, width)[1:-1, 1:-1]


def check_size(pixels: int, name: str) -> None:
    """Raises BadInput where a scene has more pixels than skeletons are made of."""
    if pixels > MOST:
        raise BadInput(
            f"The topology of {name} is measured on whole scenes of up to {MOST:,} pixels; this one has "
            f"{pixels:,}. Leave `topology` out, or score a part of the scene."
        )


def count_topology(truth: np.ndarray, predicted: np.ndarray, name: str) -> TopologyCounts:
    """Skeletons of two masks (H, W), each against the other mask."""
    lines = skeleton(truth), skeleton(predicted)
    return TopologyCounts(
        name,
        int(lines[0].sum()),
        int((lines[0] & predicted).sum()),
        int(lines[1].sum()),
        int((lines[1] & truth).sum()),
    )
