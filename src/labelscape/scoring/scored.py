"""The prediction for one window of a scene: logits, probabilities, classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scoring.arrays import Array, as_numpy, library_of, on_cpu, parts_of, soften

SOFTENED_ROWS = 64
"""Rows of a tile turned into probabilities at once: a second copy of all classes of a whole tile would set
the peak memory of a map.
"""


@dataclass(frozen=True)
class ScoredTile:
    """The prediction for one window (a tile's `answers`): logits (K, h, w), and (h, w) which are valid."""

    window: Window
    logits: Array
    valid: np.ndarray

    def tasks(self, groups: tuple[int, ...]) -> tuple[ScoredTile, ...]:
        """One tile for each task, whose classes are these numbers of channels; itself where there is one."""
        if not groups:
            return (self,)
        parts = parts_of(self.logits, groups, 0)
        return tuple(ScoredTile(self.window, logits, self.valid) for logits in parts)

    @cached_property
    def probabilities(self) -> Array:
        """(K, h, w) float32 class probabilities, computed at first use: in the thread that writes, while the
        network runs on the next tile.
        """
        if not on_cpu(self.logits):
            return soften(self.logits)
        library = library_of(self.logits)
        made = library.empty(self.logits.shape, dtype=library.float32)
        for rows, out in zip(_strips_of(self.logits), _strips_of(made)):
            out[:] = soften(rows)
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
        for strip in map(as_numpy, self.strips()):
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

    def strips(self) -> Iterator[Array]:
        """Probabilities (K, rows, w) float32 of some rows at a time; those of all rows are not kept."""
        if not on_cpu(self.logits) or "probabilities" in self.__dict__:
            yield from _strips_of(self.probabilities)
        else:
            yield from (soften(rows) for rows in _strips_of(self.logits))


def _strips_of(values: Array) -> tuple[Array, ...]:
    """(K, h, w) -> some rows of it each."""
    return parts_of(values, SOFTENED_ROWS, 1)
