"""The newest map of the part "val" as a picture beside the state of a run, for those who watch it
(`labelscape serve`): the labels at the left, the map at the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.files import written_whole
from labelscape.grid import Window
from labelscape.legend import IGNORE, Legend

MOST, SIDE, GAP = 4, 480, 8
"""Scenes that are shown, the pixels of a side of each, and those between them (ours)."""


class ValPicture:
    """Follows an evaluation (`watch`): every n-th pixel of the first scenes that have labels."""

    def __init__(self) -> None:
        self.scenes: list[np.ndarray] = []

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Yields what is given every tile's window, truth and prediction."""
        height, width = scene.scene.grid.shape
        every = -(-max(height, width) // SIDE)
        seen = np.full((2, -(-height // every), -(-width // every)), IGNORE, np.uint8)

        def see(window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
            # Tiles of other parts have no labels here.
            if len(self.scenes) < MOST and (truth != IGNORE).any():
                top, left = -(-window.top // every), -(-window.left // every)
                down, right = top * every - window.top, left * every - window.left
                for plane, tile in zip(seen, (truth, predicted)):
                    values = tile[down::every, right::every]
                    plane[top : top + values.shape[0], left : left + values.shape[1]] = values

        yield see
        rows, columns = np.nonzero(seen[1] != IGNORE)
        if len(rows) and len(self.scenes) < MOST:
            self.scenes.append(seen[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])

    def save(self, path: Path, legend: Legend) -> None:
        """Write the pictures below each other as a PNG in the legend's colours, transparent without a class.
        Raises BadFile where it cannot be written.
        """
        from PIL import Image

        if not self.scenes:
            return
        table = np.zeros((256, 4), np.uint8)
        for index, one in enumerate(legend.classes):
            table[index] = (*one.color, 255)
        wide = max(2 * one.shape[2] + GAP for one in self.scenes)
        whole = np.full((sum(one.shape[1] + GAP for one in self.scenes) - GAP, wide), IGNORE, np.uint8)
        top = 0
        for truth, made in self.scenes:
            height, width = truth.shape
            whole[top : top + height, :width] = truth
            whole[top : top + height, width + GAP : 2 * width + GAP] = made
            top += height + GAP
        with written_whole(path, overwrite=True) as part:
            Image.fromarray(table[whole]).save(part, "PNG")
