"""Polygons of two classes on the same ground: by the order in the file one of them wins, which nobody may
have meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from labelscape.contract.bands import spread_blocks
from labelscape.datasets.doctor.findings import share
from labelscape.datasets.labelled import LabelledScene
from labelscape.grid import Window
from labelscape.labels.polygons import PolygonLabels
from labelscape.legend import IGNORE
from labelscape.scenes.polygons import PolygonIndex

WINDOWS = 16
"""Windows of 2048 pixels that overlaps are looked for in, over all scenes (ours)."""
LEAST = 0.01
"""Share of the labelled pixels from which overlaps are told (ours): edges that were drawn twice are less."""
CURE = "Remove the overlaps, or sort the polygons so that those which shall win come last."


def windows_in(whole: Window, scenes: int = 1) -> list[Window]:
    """Windows spread over one of so many scenes."""
    return spread_blocks(whole, block=2048, most=max(1, WINDOWS // scenes))


def two_classes(polygons: PolygonIndex, windows: Iterable[Window]) -> tuple[int, int]:
    """Pixels under polygons, and of these the pixels that polygons of two classes cover."""
    orders, labelled, both = (polygons, polygons.reversed), 0, 0
    for window in windows:
        top, below = (one.burn(window, np.full(window.shape, IGNORE, np.uint8)) for one in orders)
        labelled += int((top != IGNORE).sum())
        both += int((top != below).sum())
    return labelled, both


def overlap_text(labelled: int, both: int) -> str:
    """A sentence where overlaps are worth telling, else ""."""
    if both <= LEAST * labelled:
        return ""
    return (
        f"{share(both, labelled)} of the pixels under polygons are under polygons of two classes, and have "
        "the class of the later one in the file."
    )


def overlap_lines(scenes: Sequence[LabelledScene], files: Sequence[str | Path]) -> list[str]:
    """A line for each of the label `files` in which classes overlap, judged on some of the scenes."""
    numbers = np.unique(np.linspace(0, len(scenes) - 1, min(WINDOWS, len(scenes))).round().astype(int))
    found: dict[str, tuple[int, int]] = {}
    for one, file in ((scenes[number], str(files[number])) for number in numbers):
        if isinstance(one.labels, PolygonLabels):
            windows = windows_in(one.labels.grid.window, len(numbers))
            counts = two_classes(one.labels.polygons, windows)
            labelled, both = found.get(file, (0, 0))
            found[file] = labelled + counts[0], both + counts[1]
    return [f"{file}: {text} {CURE}" for file, counts in found.items() if (text := overlap_text(*counts))]
