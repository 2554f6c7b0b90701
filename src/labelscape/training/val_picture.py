"""The newest map of the validation blocks as a picture beside the state of a run, for those who watch it
(`labelscape serve`): of each block the labels at the left, the map at the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.evaluation.blocks import block_side, blocks_in
from labelscape.files import written_whole
from labelscape.grid import Window
from labelscape.legend import IGNORE, Legend

MOST, ACROSS, SIDE = 12, 3, 192
"""Blocks that are shown, those in a row, and the pixels of a side of each, at most (ours)."""
SEAM, GAP = 2, 12
"""Pixels between the labels and the map of a block, and between two blocks."""


class ValPicture:
    """Follows an evaluation (`watch`): every n-th pixel of the first blocks that have labels, (2, h, w) of
    truth and prediction each.
    """

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Yields what is given every tile's window, truth and prediction."""
        side, whole = block_side(scene), scene.scene.grid.window
        every, room = -(-side // SIDE), MOST - len(self.blocks)
        found: dict[tuple[int, int], np.ndarray] = {}

        def see(window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
            for place, part in blocks_in(window, side):
                inset = part.inset_of(window)
                # Tiles and blocks of other parts have no labels here.
                if (place not in found and len(found) >= room) or (truth[inset] == IGNORE).all():
                    continue
                block = Window(place[0] * side, place[1] * side, side, side) & whole
                size = 2, -(-block.height // every), -(-block.width // every)
                planes = found.setdefault(place, np.full(size, IGNORE, np.uint8))
                top, left = -(-(part.top - block.top) // every), -(-(part.left - block.left) // every)
                down, right = block.top + top * every - part.top, block.left + left * every - part.left
                for plane, tile in zip(planes, (truth, predicted)):
                    values = tile[inset][down::every, right::every]
                    plane[top : top + values.shape[0], left : left + values.shape[1]] = values

        yield see
        self.blocks += [found[place] for place in sorted(found)]

    def save(self, path: Path, legend: Legend) -> None:
        """Write the blocks as a PNG in the legend's colours, transparent where there is no class; nothing
        without blocks. Raises BadFile where it cannot be written.
        """
        from PIL import Image

        if not self.blocks:
            return
        table = np.zeros((256, 4), np.uint8)
        for index, one in enumerate(legend.classes):
            table[index] = (*one.color, 255)
        high, wide = (max(one.shape[axis] for one in self.blocks) for axis in (1, 2))
        down, right = high + GAP, 2 * wide + SEAM + GAP
        columns = min(ACROSS, len(self.blocks))
        sheet = np.full(
            (-(-len(self.blocks) // columns) * down - GAP, columns * right - GAP), IGNORE, np.uint8
        )
        for number, planes in enumerate(self.blocks):
            top, left = number // columns * down, number % columns * right
            for plane, shift in zip(planes, (0, wide + SEAM)):
                part = sheet[top : top + plane.shape[0], left + shift : left + shift + plane.shape[1]]
                part[:] = plane
        with written_whole(path, overwrite=True) as part:
            Image.fromarray(table[sheet]).save(part, "PNG")
