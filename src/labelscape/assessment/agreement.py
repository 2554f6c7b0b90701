"""Agreement of two interpreters of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Agreement:
    """Of the points that both answered: their number, the share on which they agree, Cohen's kappa, and the
    numbers of the points on which they differ. NaN where there are none; kappa also where there is
    one class.

    counts  (K, K): rows are the first interpreter's classes, columns the second's
    """

    points: int
    agreement: float
    kappa: float
    counts: np.ndarray
    differ: tuple[int, ...]

    def to_dict(self) -> dict:
        """JSON values."""
        return {
            "points": self.points,
            "agreement": None if np.isnan(self.agreement) else self.agreement,
            "kappa": None if np.isnan(self.kappa) else self.kappa,
            "counts": self.counts.tolist(),
            "points_that_differ": list(self.differ),
        }


def agreement(first: np.ndarray, second: np.ndarray, classes: int) -> Agreement:
    """Compare two interpreters' class indices (N,), -1 for no answer.

    Cohen (1960): kappa = (agreement - chance) / (1 - chance). Unweighted: a statement on the interpreters at
    these points, not on the map.
    """
    both = (first >= 0) & (second >= 0)
    counts = np.bincount(first[both] * classes + second[both], minlength=classes**2).reshape(classes, classes)
    points = int(both.sum())
    # Points are numbered from 1, as the interpreters see them.
    differ = tuple((np.flatnonzero(both & (first != second)) + 1).tolist())
    if not points:
        return Agreement(0, np.nan, np.nan, counts, differ)
    same = float(np.trace(counts) / points)
    # By each interpreter's own shares of classes, as if they had answered independently.
    chance = float(counts.sum(axis=0) @ counts.sum(axis=1) / points**2)
    return Agreement(points, same, (same - chance) / (1 - chance) if chance < 1 else np.nan, counts, differ)
