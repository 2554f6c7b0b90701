"""The prediction for one window of a scene: logits, probabilities, classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scoring.scorer import soften

SOFTENED_ROWS = 64
"""Rows of a tile turned into probabilities at once: a second copy of all classes of a whole tile would set
the peak memory of a map.
"""


@dataclass(frozen=True)
class ScoredTile:
    """The prediction for one window (a tile's `answers`): logits (K, h, w), and (h, w) which are valid."""

    window: Window
    logits: Tensor
    valid: np.ndarray

    def tasks(self, groups: tuple[int, ...]) -> tuple[ScoredTile, ...]:
        """One tile for each task, whose classes are these numbers of channels; itself where there is one."""
        if not groups:
            return (self,)
        return tuple(ScoredTile(self.window, logits, self.valid) for logits in self.logits.split(groups))

    @cached_property
    def probabilities(self) -> Tensor:
        """(K, h, w) float32 class probabilities, computed at first use: in the thread that writes, while the
        network runs on the next tile.
        """
        if self.logits.device.type != "cpu":
            return soften(self.logits)
        made = torch.empty(self.logits.shape)
        for rows, out in zip(self.logits.split(SOFTENED_ROWS, dim=1), made.split(SOFTENED_ROWS, dim=1)):
            out.copy_(soften(rows))
        return made

    def classes(self) -> np.ndarray:
        """(h, w) uint8 index of the most probable class, 255 on invalid pixels."""
        # Plane by plane: torch's own argmax over the first dimension takes as long as a small network. The
        # first of equals wins.
        best = self.probabilities[0].clone()
        indices = torch.zeros(best.shape, dtype=torch.uint8)
        for k, plane in enumerate(self.probabilities[1:], start=1):
            indices.masked_fill_(plane > best, k)
            torch.maximum(best, plane, out=best)
        indices = indices.numpy()
        if not self.valid.all():
            indices[~self.valid] = IGNORE
        return indices

    def percent(self) -> np.ndarray:
        """(h, w) uint8 probability of the most probable class in per cent (the confidence), 255 on invalid
        pixels.
        """
        best = self.probabilities.amax(dim=0).mul(100).round_().to(torch.uint8).numpy()
        if not self.valid.all():
            best[~self.valid] = IGNORE
        return best
