"""Confusion matrices as integer counts, from which every score is computed. Counts of parts add up to the
counts of the whole, as scores would not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadInput
from labelscape.legend import IGNORE

CHUNK = 1 << 17
"""Pixels counted at a time: the joint indices of a chunk stay in the CPU's cache, and memory does not grow
with the window.
"""


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix: pixels by true and predicted class, as read-only int64 arrays.

    counts       (K, K): rows are the true class, columns the predicted
    unpredicted  (K,): labelled pixels of each class without a prediction
    names        of the classes, where known; counts of differently named classes cannot be added

    Raises BadInput where the arrays are not K x K and K whole numbers from 0 up.
    """

    counts: np.ndarray
    unpredicted: np.ndarray
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts, unpredicted = np.array(self.counts), np.array(self.unpredicted)
        classes = unpredicted.size
        if not classes or counts.shape != (classes, classes) or unpredicted.shape != (classes,):
            raise BadInput(
                f"Confusion counts must be K x K beside K unpredicted; found {counts.shape} beside "
                f"{unpredicted.shape}."
            )
        for field, array in (("counts", counts), ("unpredicted", unpredicted)):
            if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > np.iinfo(np.int64).max:
                raise BadInput(
                    f"Confusion counts must be whole numbers from 0 to 2^63 - 1; {field} ({array.dtype}) "
                    "holds others."
                )
            # A copy, and read-only: a frozen value whose arrays could be changed would not be one.
            array = array.astype(np.int64)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
            if len(self.names) != classes:
                raise BadInput(
                    f"{len(self.names)} class names were given for counts of {classes} classes; give one "
                    "name per class."
                )

    @classmethod
    def empty(cls, classes: int, names: tuple[str, ...] | None = None) -> Confusion:
        return cls(np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64), names)

    def __add__(self, other: Confusion) -> Confusion:
        """The counts of both. Raises BadInput where they are counts of different classes."""
        # Without this check numpy would broadcast one class over many.
        if len(self) != len(other):
            raise BadInput(
                f"Counts of {len(self)} and of {len(other)} classes cannot be added; score both with one "
                "legend."
            )
        if self.names and other.names and self.names != other.names:
            mine, others = ", ".join(self.names), ", ".join(other.names)
            raise BadInput(f"Counts of {mine} and of {others} cannot be added; score both with one legend.")
        return Confusion(
            self.counts + other.counts, self.unpredicted + other.unpredicted, self.names or other.names
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        same = np.array_equal(self.counts, other.counts) and np.array_equal(
            self.unpredicted, other.unpredicted
        )
        return same and self.names == other.names

    # Equal by value and made of arrays: a hash by identity would contradict that.
    __hash__ = None

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.unpredicted)

    @property
    def support(self) -> np.ndarray:
        """(K,) labelled pixels of each class, predicted or not."""
        return self.counts.sum(axis=1) + self.unpredicted

    @property
    def labelled(self) -> int:
        """Number of labelled pixels."""
        return int(self.support.sum())

    def to_dict(self) -> dict:
        """JSON values; "names" only where they are known."""
        named = {"names": list(self.names)} if self.names else {}
        return {"counts": self.counts.tolist(), "unpredicted": self.unpredicted.tolist(), **named}

    @classmethod
    def from_dict(cls, fields: Mapping) -> Confusion:
        """The inverse of `to_dict`. Raises BadInput where the fields are not those."""
        try:
            counts, unpredicted, names = (
                np.array(fields["counts"]),
                np.array(fields["unpredicted"]),
                fields.get("names"),
            )
            names = None if names is None else tuple(names)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadInput(
                'These are not confusion counts: expected {"counts": K lists of K numbers, "unpredicted": K '
                "numbers}."
            ) from error
        return cls(counts, unpredicted, names)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Confusion:
        """The inverse of `to_json`. Raises BadInput where the text is not JSON, or not confusion counts."""
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(
                f"Confusion counts must be JSON; this text is not (line {error.lineno}: {error.msg})."
            ) from error
        return cls.from_dict(fields)


def count_groups(
    groups: np.ndarray, truth: np.ndarray, predicted: np.ndarray, classes: int, number: int
) -> list[Confusion]:
    """The counts (see `count`) of the pixels of each of `number` groups, given by their numbers (H, W)."""
    return [count(np.where(groups == k, truth, IGNORE), predicted, classes) for k in range(number)]


def count(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
    """Count the confusion matrix of two arrays of class indices of one shape, of any integer type.

    Pixels whose truth is 255 are ignored. A prediction of 255 is no class: the pixel counts as `unpredicted`.
    Other indices outside 0..classes-1 raise AssertionError.
    """
    assert truth.shape == predicted.shape, f"{truth.shape} against {predicted.shape}"
    assert 0 < classes <= IGNORE, f"{classes} classes"
    for array in (truth, predicted):
        assert array.dtype.kind in "iub", f"class indices are integers, not {array.dtype}"
    # Two more places than classes, for 255 and for invalid indices, so that one bincount counts and checks.
    side = classes + 2
    table = np.zeros(side * side, np.int64)
    truth, predicted = truth.ravel(), predicted.ravel()
    # uint32: 257 x 257 joint indices just overflow uint16; int64 would double the memory that is read.
    place = np.full(256, classes + 1, np.uint32)
    place[:classes], place[IGNORE] = np.arange(classes), classes
    for start in range(0, truth.size, CHUNK):
        rows, columns = (
            place[_as_bytes(array[start : start + CHUNK], classes)] for array in (truth, predicted)
        )
        table += np.bincount(rows * np.uint32(side) + columns, minlength=side * side)
    table = table.reshape(side, side)
    assert not table[-1].any(), f"{table[-1].sum()} pixels have a truth beyond the {classes} classes"
    assert not table[:classes, -1].any(), (
        f"{table[:classes, -1].sum()} labelled pixels have a prediction beyond the {classes} classes"
    )
    # The row of 255, ignored truth, is left out, whatever was predicted there.
    return Confusion(table[:classes, :classes], table[:classes, classes])


def _as_bytes(indices: np.ndarray, classes: int) -> np.ndarray:
    """Indices as uint8 for table look-up; those that do not fit become an index without a class."""
    if indices.dtype == np.uint8:
        return indices
    if indices.dtype == bool:
        return indices.astype(np.uint8)
    fits = (indices >= 0) & (indices <= IGNORE)
    # With 255 classes every byte means something, so nothing is left to stand for a value that does not fit.
    assert classes < IGNORE or fits.all(), "indices outside 0..255"
    # `classes` itself is looked up as invalid.
    return np.where(fits, indices, classes).astype(np.uint8)
