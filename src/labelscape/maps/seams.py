"""The seam score: do classes change more often where tiles meet than inside them?

A network of stride 16 computes one row of cells for 16 rows of pixels, and between cells classes change more
often than within them, in whole scenes too. Tiles begin on the stride, so their borders lie between cells:
compared with all lines inside, a map without seams would seem to have some.

How tiles are blended so that they do not is `scoring.fade`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from labelscape.grid import Window
from labelscape.legend import IGNORE


@dataclass
class Seams:
    """Counts pairs of neighbouring valid pixels, and pairs that differ in class, across tile borders and
    inside tiles. Tiles are added row by row.

    stride  pixels of a cell of the network; inside tiles, lines at whole strides from a border of tiles count
    first   row and column of a border of tiles, or of the end of what the network sees, which may lie outside
            of what is mapped
    """

    stride: int = 1
    first: tuple[int, int] = (0, 0)
    border_pairs: int = 0
    border_changes: int = 0
    inside_pairs: int = 0
    inside_changes: int = 0
    _right: tuple[Window, np.ndarray] | None = None
    _above: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """(bottom, left) of a core -> its last row."""

    def add(self, core: Window, classes: np.ndarray) -> None:
        """One core's class indices (h, w), 255 invalid. Cores come in the order of the plan."""
        step = self.stride
        # From the core's own start, which is a border of tiles unless a part of a scene begins there.
        down, right = (1 + (own - 1) % step for own in (self.first[0] - core.top, self.first[1] - core.left))
        for one, other in (
            (classes[down::step], classes[down - 1 : -1 : step]),
            (classes[:, right::step], classes[:, right - 1 : -1 : step]),
        ):
            pairs, changes = _compared(one, other)
            self.inside_pairs, self.inside_changes = self.inside_pairs + pairs, self.inside_changes + changes
        if self._right is not None:
            # The tile to the left, unless it was skipped as nodata or this one begins a row.
            before, edge = self._right
            if before.top == core.top and before.right == core.left:
                self._border(edge, classes[:, 0])
        # Popped: each lower border is compared once, and its row is freed.
        above = self._above.pop((core.top, core.left), None)
        if above is not None:
            self._border(above, classes[0])
        # Copies: a slice would keep the whole tile in memory.
        self._right = core, classes[:, -1].copy()
        self._above[core.bottom, core.left] = classes[-1].copy()
        # Rows of tiles above the last one are not needed any more: memory does not grow with the scene.
        if len(self._above) > 2:
            self._above = {place: row for place, row in self._above.items() if place[0] >= core.top}

    def _border(self, one: np.ndarray, other: np.ndarray) -> None:
        pairs, changes = _compared(one, other)
        self.border_pairs, self.border_changes = self.border_pairs + pairs, self.border_changes + changes

    @property
    def score(self) -> float:
        """The rate of changes across borders over the rate inside: 1 where tiles leave no seams; NaN without
        borders, without changes, or in tiles smaller than two strides.
        """
        if not (self.border_pairs and self.inside_changes):
            return math.nan
        return self.border_changes / self.border_pairs / (self.inside_changes / self.inside_pairs)


def _compared(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    valid = (one != IGNORE) & (other != IGNORE)
    return int(np.count_nonzero(valid)), int(np.count_nonzero(valid & (one != other)))
