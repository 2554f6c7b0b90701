"""Errors by distance: to the training labels, and to each other.

Held-out labels next to training labels are easier than those of a new place. How far "next to" reaches is
read from the errors themselves: the distance at which two pixels are no more often wrong together than any
two (the range of their indicator variogram).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadInput
from labelscape.evaluation.confusion import Confusion, count_groups
from labelscape.evaluation.metrics import mean_iou, overall_accuracy, plain
from labelscape.grid import Window
from labelscape.legend import IGNORE

DISTANCES = (8, 16, 32, 64, 128, 256)
"""Outer distances in pixels to the nearest training label by which errors are counted; the last group lies
farther.
"""
LAGS = (1, 2, 4, *DISTANCES)
"""Distances in pixels, along rows and columns, at which errors are compared."""
SILL = 0.95
"""Share of the variance of errors at which they count as unrelated (usual for ranges of variograms)."""
NEAR = 0.5
"""Share of the scored labels near training labels from which there is a warning (ours)."""


@dataclass(frozen=True, eq=False)
class DistanceCounts:
    """Counts of errors by distance; they add up.

    per_distance  counts by distance to the nearest training label of the same scene (DISTANCES, then what
                  lies farther); scenes that were not split into blocks do not count
    pairs         (LAGS,) pairs of labelled pixels at each lag, and `differing`, those of which one is right
                  and one wrong
    """

    per_distance: tuple[Confusion, ...]
    pairs: np.ndarray
    differing: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> DistanceCounts:
        # One frozen value several times: counts are added to new ones, never changed.
        zeros = np.zeros(len(LAGS), np.int64)
        return cls((Confusion.empty(classes),) * (len(DISTANCES) + 1), zeros, zeros)

    def __add__(self, other: DistanceCounts) -> DistanceCounts:
        """The counts of both. Raises BadInput where they are counts of different classes."""
        added = tuple(mine + theirs for mine, theirs in zip(self.per_distance, other.per_distance))
        return DistanceCounts(added, self.pairs + other.pairs, self.differing + other.differing)

    @property
    def correlation_length(self) -> int | None:
        """Pixels beyond which errors are unrelated; None where they are related up to the longest lag."""
        return correlation_length(self.pairs, self.differing)

    @property
    def longest(self) -> int:
        """The longest of LAGS at which there is a pair of labelled pixels; 0 without any."""
        return max((lag for lag, n in zip(LAGS, self.pairs) if n), default=0)

    @property
    def reach(self) -> int:
        """Pixels up to which a label counts as near a training label: the correlation length, but no less
        than the first of DISTANCES.
        """
        length = self.correlation_length
        # Where errors are alike everywhere, everything that was measured is near.
        return max(LAGS[-1] if length is None else length, DISTANCES[0])

    @property
    def near(self) -> float | None:
        """Share of the scored labels within `reach` of a training label; None without distances."""
        counts = [group.labelled for group in self.per_distance]
        if not sum(counts):
            return None
        return sum(n for n, far in zip(counts, DISTANCES) if far <= self.reach) / sum(counts)

    @property
    def warning(self) -> str | None:
        """What a score means whose labels lie next to training labels."""
        near, length = self.near, self.correlation_length
        if near is None or near < NEAR:
            return None
        alike = f"more than {self.longest}" if length is None else f"{length}"
        return (
            f"{100 * near:.0f} % of the scored labels lie within {self.reach} pixels of a training label, "
            f"and errors are alike over {alike} pixels: the score is that of places next to training labels, "
            "and may be lower elsewhere. Hold out larger blocks (`block`), or leave out training labels "
            "around them (`buffer`)."
        )

    def by_distance(self) -> list[dict]:
        """Scores by distance to the nearest training label, JSON values: "within" is None for what lies
        farther than the last distance. Empty where no scene was split into blocks.
        """
        if not any(group.labelled for group in self.per_distance):
            return []
        return [
            {
                "within": within,
                "overall_accuracy": plain(overall_accuracy(group)),
                "mean_iou": plain(mean_iou(group)),
                "labelled_pixels": group.labelled,
                **group.to_dict(),
            }
            for within, group in zip((*DISTANCES, None), self.per_distance)
        ]

    def to_dict(self) -> dict:
        """JSON values: "per_distance", scores and counts, and "errors", the pairs by lag."""
        errors = {
            "lags": list(LAGS),
            "pairs": self.pairs.tolist(),
            "differing": self.differing.tolist(),
            "correlation_length": self.correlation_length,
        }
        return {"per_distance": self.by_distance(), "errors": errors}

    @classmethod
    def from_dict(cls, fields: Mapping, classes: int) -> DistanceCounts:
        """The inverse of `to_dict`. Raises KeyError, TypeError, ValueError or BadInput for other fields."""
        errors, groups = fields["errors"], fields["per_distance"]
        known = [(None if one["within"] is None else int(one["within"])) for one in groups]
        if tuple(errors["lags"]) != LAGS or (known and tuple(known) != (*DISTANCES, None)):
            raise BadInput("These counts are by other distances than this version has.")
        counts = tuple(map(Confusion.from_dict, groups)) or cls.empty(classes).per_distance
        return cls(counts, *(np.array(errors[name], np.int64) for name in ("pairs", "differing")))


def count_distances(
    scene: LabelledScene, window: Window, truth: np.ndarray, predicted: np.ndarray, classes: int
) -> DistanceCounts:
    """The counts of a window's class indices (H, W), 255 for unlabelled truth and for no prediction."""
    known = truth != IGNORE
    pairs, differing = pairs_of(known, known & (truth != predicted))
    if scene.split is None:
        return DistanceCounts(DistanceCounts.empty(classes).per_distance, pairs, differing)
    groups = distance_groups(scene, window)
    counted = count_groups(groups, truth, predicted, classes, len(DISTANCES) + 1)
    return DistanceCounts(tuple(counted), pairs, differing)


def pairs_of(known: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of known pixels (H, W) at each of LAGS along rows and columns, and those of which exactly one is
    wrong. Pairs across two tiles are left out.
    """
    pairs, differing = np.zeros(len(LAGS), np.int64), np.zeros(len(LAGS), np.int64)
    for k, lag in enumerate(LAGS):
        for one, other in ((np.s_[lag:], np.s_[:-lag]), (np.s_[:, lag:], np.s_[:, :-lag])):
            # Along rows and columns only: diagonal lags would be no whole pixels.
            both = known[one] & known[other]
            pairs[k] += both.sum()
            differing[k] += (both & (wrong[one] != wrong[other])).sum()
    return pairs, differing


def correlation_length(pairs: np.ndarray, differing: np.ndarray) -> int | None:
    """The first lag at which half the share of differing pairs reaches SILL of its largest value, the plateau
    of the indicator variogram; 0 without an error, None where it still rises at the longest lag with a pair.
    """
    known = pairs > 0
    if not known.any() or not differing.any():
        return 0
    values = differing[known] / pairs[known]
    lags = np.array(LAGS)[known]
    reached = int(np.flatnonzero(values >= SILL * values.max())[0])
    # The longest lag may still lie on the slope: that it is the largest value says nothing.
    return None if reached == len(lags) - 1 else int(lags[reached])


def distance_groups(scene: LabelledScene, window: Window) -> np.ndarray:
    """(H, W) number of the group of DISTANCES of each pixel, by its distance to the scene's training
    labels.
    """
    # With a halo as wide as the largest distance: the nearest label may lie outside of the tile.
    around = window.grown(DISTANCES[-1], scene.scene.grid.window)
    trained = scene.read_labels(around, "train") != IGNORE
    if not trained.any():
        return np.full(window.shape, len(DISTANCES))
    far = distance_transform_edt(~trained)[window.inset_of(around)]
    return np.searchsorted(DISTANCES, far, side="left")
