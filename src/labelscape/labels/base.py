"""The labels of one scene on the scene's own pixels, whatever they are read from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.polygons import PolygonIndex


class Labels:
    """The labels of one scene. `legend` says what the indices mean; `report` tells what was read, line by
    line.
    """

    def __init__(self, legend: Legend, grid: Grid, report: Sequence[str] = ()) -> None:
        self.legend, self.grid, self.report = legend, grid, list(report)
        self._area: PolygonIndex | None = None
        self._held: np.ndarray | None = None

    def read(self, window: Window | None = None) -> np.ndarray:
        """(H, W) uint8 class indices of a window, IGNORE where unlabelled."""
        window = window or self.grid.window
        if self._held is not None:
            return self._held[window.inset_of(self.grid.window)].copy()
        indices = self._read(window)
        if self._area is not None:
            indices[self._area.burn(window, np.zeros(window.shape, np.uint8)) == 0] = IGNORE
        return indices

    def hold(self) -> Labels:
        """Keep all labels in memory from now on and let go of the files. Returns itself."""
        if self._held is None:
            self._held = self.read(self.grid.window)
            self.close()
        return self

    def _read(self, window: Window) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files."""
