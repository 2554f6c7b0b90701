"""Two class maps of the same windows beside each other: counts of their pairs (also near borders and by
confidence), pictures, and the figure of the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from labelscape.checkpoint import Checkpoint
from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.drawing import INK, blank
from labelscape.explanation.windows import Seen
from labelscape.legend import IGNORE, Legend

NEAR = 3
"""Pixels from a border between classes within which two maps differ by where they draw it (ours)."""
SHOWN = 6
"""Windows whose pictures are on the page."""
GAP = 6
"""White pixels between pictures."""
BINS = 20
"""Of confidences."""


@torch.no_grad()
def probabilities(net: nn.Module, image: Tensor, of: Checkpoint) -> np.ndarray:
    """(K, H, W), calibrated as maps show them: confidences of two models could not be compared otherwise."""
    return (net(image)[0] / of.temperature).softmax(0).cpu().numpy()


def near_border(classes: np.ndarray, distance: int = NEAR) -> np.ndarray:
    """(H, W) bool: is there another class within so many pixels, along the axes or diagonally? What is
    unlabelled is no other class.
    """
    from scipy import ndimage

    side = 2 * distance + 1
    highest = ndimage.maximum_filter(np.where(classes == IGNORE, 0, classes), side)
    # IGNORE is the largest value: it is never the smallest of a square that has a class.
    return (ndimage.minimum_filter(classes, side) != highest) & (classes != IGNORE)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Counts of pixels, over all windows.

    table          (K, K) by the class of the one map and that of the other
    at_border      (2, 2) near a border of classes or not, by agreeing or not
    by_confidence  (M, 2, BINS) of each model, by agreeing or not, by its confidence
    """

    table: np.ndarray
    at_border: np.ndarray
    by_confidence: np.ndarray

    @classmethod
    def none(cls, classes: int, models: int) -> Pairs:
        return cls(
            np.zeros((classes, classes), np.int64),
            np.zeros((2, 2), np.int64),
            np.zeros((models, 2, BINS), np.int64),
        )

    def add(
        self, one: np.ndarray, other: np.ndarray, near: np.ndarray, confidences: list[np.ndarray]
    ) -> None:
        """Maps (P,) of pixels that have a class in both, whether they are near a border, and the confidences
        (P,) of each model.
        """
        np.add.at(self.table, (one, other), 1)
        differ = one != other
        for kind, which in enumerate((~differ, differ)):
            self.at_border[:, kind] += (near & which).sum(), (~near & which).sum()
            for model, sure in enumerate(confidences):
                bins = np.minimum((sure[which] * BINS).astype(int), BINS - 1)
                self.by_confidence[model, kind] += np.bincount(bins, minlength=BINS)

    @property
    def pixels(self) -> int:
        return int(self.table.sum())

    @property
    def differing(self) -> int:
        return int(self.table.sum() - np.trace(self.table))

    @property
    def mean_confidences(self) -> np.ndarray:
        """(M, 2) of each model, where the maps agree and where not; 0 where there is no such pixel."""
        middles = (np.arange(BINS) + 0.5) / BINS
        return (self.by_confidence * middles).sum(-1) / np.maximum(1, self.by_confidence.sum(-1))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.table, "by_confidence": self.by_confidence, "at_border": self.at_border}


def four_pictures(legend: Legend, seen: Seen, other: np.ndarray, differ: np.ndarray) -> np.ndarray:
    """The scene and the predicted classes; below, in black, where they differ from another map of it (H, W),
    and that.
    """
    marked = np.where(differ[..., None], 0, 220).astype(np.uint8).repeat(3, 2)
    height, width = differ.shape
    together = np.full((2 * height + GAP, 2 * width + GAP, 3), 255, np.uint8)
    together[:height, :width], together[:height, -width:] = seen.picture, legend.paint(seen.classes)
    together[-height:, :width], together[-height:, -width:] = marked, legend.paint(other)
    return together


def window_picture(number: int, pixels: np.ndarray, text: str, alt: str) -> Picture:
    return Picture(f"Window {number}", pixels, text, f"Window {number} {alt}")


def counts_figure(
    title: str, names: list[str], table: np.ndarray, rows: str, columns: str, text: str
) -> Figure:
    """A table (K, K) of pixels in % of all of them; the diagonal, where both agree, has no colour."""
    shares = 100 * table / max(1, table.sum())
    off = np.where(np.eye(len(names), dtype=bool), np.nan, shares)
    drawing = blank(1.8 + 0.7 * len(names), 1.4 + 0.6 * len(names))
    axes = drawing.add_subplot()
    axes.imshow(off, cmap="Blues", vmin=0)
    for (row, column), value in np.ndenumerate(shares):
        dark = np.inf if row == column else 0.6 * np.nanmax(off)
        colour = "white" if value > dark else INK
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(
        range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel(columns, fontsize=9)
    axes.set_ylabel(rows, fontsize=9)
    axes.spines[:].set_visible(False)
    return Figure(title, drawing, text)
