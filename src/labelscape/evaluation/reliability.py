"""Do confidences mean what they say? Pixels and those that are right by bins of confidence (Guo et al. 2017).

Counts, not shares: reliability of parts adds up to that of the whole, and the expected calibration error is
computed from the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadInput
from labelscape.evaluation.metrics import plain

BINS = 15
"""Bins of confidence, as in Guo et al."""
UNIT = 1 << 20
"""Confidences are summed as whole numbers of this fraction (ours): sums of floats would depend on their
order.
"""


def usual_limit(classes: int) -> int:
    """Below it a confidence is low: half way between chance and certainty (ours), in per cent rounded to 5,
    which people read.
    """
    return 5 * round((50 + 50 / max(2, classes)) / 5)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Counts of labelled pixels by bins of confidence, at one temperature.

    temperature   that the logits were divided by; None where several networks or augmented predictions were
                  averaged, and each has its own
    pixels        (BINS,) pixels with a prediction, and `right` (BINS,), those that are
    confidence    (BINS,) sum of their confidences, in 1 / UNIT
    """

    temperature: float | None
    pixels: np.ndarray
    right: np.ndarray
    confidence: np.ndarray

    @classmethod
    def empty(cls, temperature: float | None) -> Reliability:
        return cls(temperature, *(np.zeros(BINS, np.int64) for _ in range(3)))

    @classmethod
    def of(cls, confidence: np.ndarray, right: np.ndarray, temperature: float | None) -> Reliability:
        """Count pixels with these confidences (N,), 0 to 1, of which those that are `right` (N,) bool."""
        # A confidence of exactly 1 belongs to the last bin.
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        whole = np.rint(confidence.astype(np.float64) * UNIT)
        counted = (np.bincount(bins, weights=w, minlength=BINS) for w in (right.astype(float), whole))
        # float64 holds whole numbers up to 2^53, far more than a tile's pixels times UNIT.
        return cls(temperature, np.bincount(bins, minlength=BINS), *(c.astype(np.int64) for c in counted))

    def __add__(self, other: Reliability) -> Reliability:
        """The counts of both. Raises BadInput where they are of two temperatures."""
        if self.temperature != other.temperature:
            raise BadInput(
                f"Reliability at temperature {self.temperature} and at {other.temperature} cannot be added."
            )
        return Reliability(
            self.temperature,
            self.pixels + other.pixels,
            self.right + other.right,
            self.confidence + other.confidence,
        )

    @property
    def called(self) -> str:
        """Its temperature in words."""
        if self.temperature is None:
            return "averaged predictions"
        return "without temperature" if self.temperature == 1 else f"temperature {self.temperature:.3g}"

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - accuracy| of the bins, weighted by their pixels (Guo et
        al., eq. 3); NaN without pixels.
        """
        total = self.pixels.sum()
        # |confidence - accuracy| of a bin times its pixels is the difference of the two sums.
        return float(np.abs(self.confidence / UNIT - self.right).sum() / total) if total else float("nan")

    @property
    def curve(self) -> np.ndarray:
        """(BINS, 3) mean confidence, accuracy and share of the pixels of each bin; NaN where it is empty."""
        some = np.where(self.pixels > 0, self.pixels, np.nan)
        share = self.pixels / max(1, self.pixels.sum())
        return np.stack([self.confidence / UNIT / some, self.right / some, share], axis=1)

    def to_dict(self) -> dict:
        """JSON values: the counts, and the error that follows from them."""
        named = ("pixels", "right", "confidence")
        return {
            "temperature": self.temperature,
            "ece": plain(self.ece),
            **{name: getattr(self, name).tolist() for name in named},
            "confidence_unit": 1 / UNIT,
        }

    @classmethod
    def from_dict(cls, fields: Mapping) -> Reliability:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for other fields."""
        counts = [np.array(fields[name], np.int64) for name in ("pixels", "right", "confidence")]
        if (
            any(one.shape != (BINS,) or one.min() < 0 for one in counts)
            or fields["confidence_unit"] != 1 / UNIT
        ):
            raise ValueError("other bins")
        return cls(fields["temperature"], *counts)
