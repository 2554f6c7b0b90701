"""Integer confusion counts: what every score is computed from. Counts of parts add up to the counts of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelscape.legend import IGNORE


@dataclass(frozen=True)
class Confusion:
    """counts (K, K) int64: rows are truth, columns prediction. unpredicted (K,) int64: labelled pixels that got no class."""

    counts: np.ndarray
    unpredicted: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Confusion:
        return cls(np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts, self.unpredicted + other.unpredicted)

    @property
    def labelled(self) -> int:
        """Pixels with a truth."""
        return int(self.counts.sum() + self.unpredicted.sum())

    def to_dict(self) -> dict:
        return {"counts": self.counts.tolist(), "unpredicted": self.unpredicted.tolist()}

    @classmethod
    def from_dict(cls, fields: dict) -> Confusion:
        return cls(np.array(fields["counts"], np.int64), np.array(fields["unpredicted"], np.int64))


def count(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
    """Counts over two integer arrays of one shape; pixels whose truth is 255 never count, a prediction of 255 is no class.

    Indices other than 0..classes-1 and 255 are our own mistake.
    """
    assert truth.shape == predicted.shape, f"{truth.shape} against {predicted.shape}"
    labelled = truth != IGNORE
    rows, columns = truth[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
    columns[columns == IGNORE] = classes
    assert not rows.size or (rows.max() < classes and columns.max() <= classes), "an index beyond the classes"
    table = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    return Confusion(table[:, :classes], table[:, classes])
