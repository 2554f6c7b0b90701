"""Scores near and far from class borders: labels there are the least certain, and papers differ in whether
they count.

Pixels are sorted by their distance to the nearest labelled pixel of another class. Counts by ring of distance
add up like all counts: the sum of the outer rings is the score on an eroded reference, that of the inner ones
the trimap accuracy of a band width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import mean_iou, overall_accuracy, plain
from labelscape.legend import IGNORE

RINGS = (1, 2, 3, 5, 8)
"""Outer radii of the rings in pixels; a last ring holds what lies farther."""


def ring_of(labels: np.ndarray, *, radii: Sequence[int] = RINGS) -> np.ndarray:
    """(H, W) uint8: 0 for pixels within radii[0] of another class, ..., len(radii) for those beyond the last.

    `labels` holds class indices, 255 for unlabelled: unlabelled pixels are no border (nobody said that
    another class begins there). Distances are Euclidean, between pixel centres; a direct neighbour lies at 1.
    Only the inner part whose distance to the array's edge exceeds the last radius is exact: give a halo of
    radii[-1] pixels and cut it off.
    """
    rings = np.full(labels.shape, len(radii), np.uint8)
    present = [k for k in np.unique(labels) if k != IGNORE]
    # Without another class there is no zero to measure to, and the transform's values mean nothing.
    if len(present) < 2:
        return rings
    # A transform for each class, since "another class" is something else for each: the cost grows with K.
    for k in present:
        own = labels == k
        others = ~own & (labels != IGNORE)
        # The transform measures to the nearest zero, so the other classes are made zeros.
        far = distance_transform_edt(~others)
        # left: a pixel exactly at a radius lies within it.
        rings[own] = np.searchsorted(radii, far[own], side="left")
    return rings


def trimap(rings: Sequence[Confusion], names: Sequence[str]) -> list[dict]:
    """Scores in bands around the borders of the reference, JSON values: {"within": radius or None for all
    pixels, "overall_accuracy", "mean_iou", "labelled_pixels"}, fractions. `rings` are counts by `ring_of`.
    """
    lines, together = [], Confusion.empty(len(names))
    for radius, ring in zip((*RINGS, None), rings):
        together = together + ring
        lines.append(
            {
                "within": radius,
                "overall_accuracy": plain(overall_accuracy(together)),
                "mean_iou": plain(mean_iou(together)),
                "labelled_pixels": together.labelled,
            }
        )
    return lines
