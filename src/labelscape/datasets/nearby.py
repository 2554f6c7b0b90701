"""How far what is scored lies from what was learned: the share of held-out labels that have a training
label close by.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import maximum_filter1d

from labelscape.grid import Window
from labelscape.legend import IGNORE

REACH = 64
"""Pixels: within this distance, along rows and columns, a training label counts as close by."""

Read = Callable[[Window, str], np.ndarray]


def near_counts(whole: Window, read: Read, *, reach: int = REACH) -> tuple[int, int]:
    """Held-out labelled pixels (val and test) of a scene that lie within `reach` pixels of a training label,
    and all of them.

    `read(window, part)` gives (H, W) class indices, 255 where the part has no label; a scene is read in
      windows with a margin.
    """
    near = held = 0
    for window in whole.blocks(2048):
        scored = (read(window, "test") != IGNORE) | (read(window, "val") != IGNORE)
        if scored.any():
            wide = window.grown(reach, whole)
            learned = (read(wide, "train") != IGNORE).astype(np.uint8)
            for axis in (0, 1):
                learned = maximum_filter1d(learned, 2 * reach + 1, axis=axis, mode="constant")
            near += int((scored & (learned[window.inset_of(wide)] > 0)).sum())
            held += int(scored.sum())
    return near, held
