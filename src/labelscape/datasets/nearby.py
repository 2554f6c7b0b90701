"""Spatial autocorrelation between splits: the share of held-out labels that have a training label nearby."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import maximum_filter1d

from labelscape.grid import Window
from labelscape.legend import IGNORE

REACH = 64
"""Pixels along rows and columns within which a training label counts as nearby."""

Read = Callable[[Window, str], np.ndarray]


def near_counts(whole: Window, read: Read, *, reach: int = REACH) -> tuple[int, int]:
    """The number of held-out labelled pixels (val and test) of a scene within `reach` pixels of a training
    label, and the number of all held-out ones.

    `read(window, split)` gives (H, W) class indices, 255 where the split has no label. Windows are read with
    a margin, so that the result does not depend on how the scene is cut into them.
    """
    near = held = 0
    for window in whole.blocks(2048):
        scored = (read(window, "test") != IGNORE) | (read(window, "val") != IGNORE)
        if scored.any():
            # Read with a margin: training labels across the window's edge are nearby too.
            wide = window.grown(reach, whole)
            learned = (read(wide, "train") != IGNORE).astype(np.uint8)
            # A square's maximum is that of rows, then of columns: the cost does not grow with its area.
            for axis in (0, 1):
                learned = maximum_filter1d(learned, 2 * reach + 1, axis=axis, mode="constant")
            near += int((scored & (learned[window.inset_of(wide)] > 0)).sum())
            held += int(scored.sum())
    return near, held
