"""The prediction for one window of a scene: logits, probabilities, classes."""

from __future__ import annotations

from collections.abc import Iterator
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
        return self._marked(self._best[0])

    def percent(self) -> np.ndarray:
        """(h, w) uint8 probability of the most probable class in per cent (the confidence), 255 on invalid
        pixels.
        """
        return self._marked(self._best[1])

    def _marked(self, values: np.ndarray) -> np.ndarray:
        """A copy, which may be changed."""
        return values.copy() if self.valid.all() else np.where(self.valid, values, np.uint8(IGNORE))

    @cached_property
    def _best(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) uint8 each: index of the most probable class, of equals the first; its per cent.

        Both in one pass over strips that stay in the processor's cache, a quarter of the time of two over the
        whole tile (measured); probabilities of all classes are not kept.
        """
        index, percent = (np.empty(self.logits.shape[1:], np.uint8) for _ in range(2))
        place = 0
        for strip in self._strips():
            best, chosen = strip[0].copy(), index[place : place + strip.shape[1]]
            chosen[:] = 0
            higher = np.empty(chosen.shape, bool)
            numbers = higher.view(np.uint8)
            for k, plane in enumerate(strip[1:], start=1):
                np.greater(plane, best, out=higher)
                numbers *= k  # ascending, so that the larger of two numbers is the later class
                np.maximum(chosen, numbers, out=chosen)
                np.maximum(best, plane, out=best)
            best *= 100
            percent[place : place + len(best)] = np.rint(best, out=best)
            place += len(best)
        return index, percent

    def _strips(self) -> Iterator[np.ndarray]:
        """Probabilities (K, rows, w) float32 of some rows at a time."""
        if self.logits.device.type != "cpu" or "probabilities" in self.__dict__:
            parts = self.probabilities.split(SOFTENED_ROWS, dim=1)
        else:
            parts = (soften(rows) for rows in self.logits.split(SOFTENED_ROWS, dim=1))
        for part in parts:
            yield part.numpy()
