"""What a network's score does when it sees larger tiles than the crops it learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

LEAST_LOSS = 0.005
"""Half a point of mean IoU: what a user of a map would not notice, whatever its standard error."""


@dataclass(frozen=True)
class TileSizes:
    """Held-out scores by tile size, the same pixels at every size.

    crop              side of the training crops, in pixels
    sides             sides of the measured tiles, ascending; the first is the crop in whole strides
    mean_iou          fractions 0..1, one for each side
    overall_accuracy  the same
    loss              mean IoU at the crop less that at the side; below 0 where larger tiles score better
    error             standard error of the loss, from a paired bootstrap over held-out blocks or images

    Raises ValueError where these do not fit together.
    """

    crop: int
    sides: tuple[int, ...]
    mean_iou: tuple[float, ...]
    overall_accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    error: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.mean_iou, self.overall_accuracy, self.loss, self.error)
        if not self.sides or any(len(column) != len(self.sides) for column in columns):
            raise ValueError(
                "tile sizes: expected a score, a loss and an error for each of one or more sides"
            )
        if self.crop < 1 or self.sides[0] < 1 or list(self.sides) != sorted(set(self.sides)):
            raise ValueError(f"tile sizes: sides {self.sides} must ascend from 1 or more")
        if not all(math.isfinite(value) for column in columns for value in column):
            raise ValueError("tile sizes: expected finite scores")

    @property
    def default(self) -> int:
        """The largest side that costs nothing: its loss is within one standard error and below half a point.

        Both: with few held-out blocks the standard error is several points and would excuse a real loss; a
        loss of a third of a point that many blocks agree on is still a loss, and the crop is there for free.
        """
        free = (
            side
            for side, loss, error in zip(self.sides, self.loss, self.error)
            if side == self.sides[0] or (loss <= error and loss < LEAST_LOSS)
        )
        return max(free)

    def loss_at(self, side: int) -> float:
        """Expected loss of mean IoU in tiles of `side` pixels: interpolated between the measured sides,
        constant beyond them.
        """
        return float(np.interp(side, self.sides, self.loss))

    def to_dict(self) -> dict:
        """JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping) -> TileSizes:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for what is none."""
        columns = {
            name: tuple(float(value) for value in fields[name])
            for name in ("mean_iou", "overall_accuracy", "loss", "error")
        }
        return cls(int(fields["crop"]), tuple(int(side) for side in fields["sides"]), **columns)

    def lines(self) -> list[str]:
        """The curve as a table, in per cent and points."""
        rows = [f"{'tile':>6}{'mIoU %':>9}{'OA %':>9}{'lost':>8}{'error':>8}"]
        for side, iou, accuracy, loss, error in zip(
            self.sides, self.mean_iou, self.overall_accuracy, self.loss, self.error
        ):
            mark = "  (default)" if side == self.default else ""
            rows.append(
                f"{side:>6}{100 * iou:>9.2f}{100 * accuracy:>9.2f}{100 * loss:>8.2f}{100 * error:>8.2f}{mark}"
            )
        return [*rows, "  (lost: points of mIoU below the first size; error: standard error of that)"]

    def __str__(self) -> str:
        each = ", ".join(f"{side}: mIoU {100 * iou:.2f} %" for side, iou in zip(self.sides, self.mean_iou))
        return f"{each}; default {self.default}"
