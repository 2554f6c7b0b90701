"""The labels of one scene on the scene's grid, whatever file they come from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.polygons import PolygonIndex


class Labels:
    """The labels of one scene. `legend` gives the class of each index; `report` says what was read, line by
    line, and `notes` are those of its lines that say what was decided or left out.
    """

    notes: tuple[str, ...] = ()
    elsewhere: str = ""
    """Why no polygon of the file lies in the scene, as a sentence; all of it is background then."""
    renumbered: str = ""
    """Which values classes have in maps, where the labels have others (`rules.renumbered`)."""
    files: tuple[str, ...] = ()
    """The files that they are read from, that of the area included."""

    def __init__(self, legend: Legend, grid: Grid, report: Sequence[str] = ()) -> None:
        self.legend, self.grid, self.report = legend, grid, list(report)
        self._area: PolygonIndex | None = None
        self._held: np.ndarray | None = None

    def read(self, window: Window | None = None) -> np.ndarray:
        """(H, W) uint8 class indices of a window, of the whole scene without one; IGNORE where unlabelled.

        Raises BadFile where the file is damaged, BadInput for values that have no class.
        """
        window = window or self.grid.window
        if self._held is not None:
            return self._held[window.inset_of(self.grid.window)].copy()  # callers write IGNORE into it
        indices = self._read(window)
        # After reading, so that the area holds for rasters and polygons alike, background included.
        if self._area is not None:
            indices[self._area.burn(window, np.zeros(window.shape, np.uint8)) == 0] = IGNORE
        return indices

    @property
    def outside_area(self) -> bool:
        """Is there an area, and none of it in the scene? Then nothing is labelled."""
        return self._area is not None and not self._area.touches(self.grid.window)

    def for_thread(self, opened: ExitStack) -> Labels:
        """The same labels for another thread, where need be with files of its own, which `opened` closes: a
        GDAL dataset serves one thread at a time.
        """
        return self

    def hold(self) -> Labels:
        """Load all labels into memory (a byte per pixel) and close the files. Returns itself."""
        if self._held is None:
            self._held = self.read(self.grid.window)
            # A held scene needs no open file: training on hundreds of pairs would run out of them.
            self.close()
        return self

    def _read(self, window: Window) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        """Close the files."""
