"""Confusion counts by block: what says where a model is right, and how sure a score is.

Pixels of one place are alike, so they are no independent observations; blocks of some hundred pixels nearly
are. Every block keeps counts, never scores: blocks add up to their scene, and scores of any selection of
blocks are those of the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadInput
from labelscape.evaluation.confusion import Confusion, count
from labelscape.grid import Window

BLOCK = 256
"""Side of a block in pixels where the scene was not split into blocks."""
MOST = 1 << 14
"""Blocks per scene (ours): beyond, their side is doubled, so that memory does not grow with the scene."""


@dataclass(frozen=True, eq=False)
class BlockCounts:
    """The counts of one block: `window` in pixels of the scene that is called `scene`.

    Counts are kept sparse (a block holds few of the K x K pairs of classes): `cells` (N,) are places in the
    table [truth, predicted or K where nothing was], row by row, `pixels` (N,) how many each holds.
    """

    scene: str
    window: Window
    classes: int
    cells: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, scene: str, window: Window, counts: Confusion) -> BlockCounts:
        table = np.column_stack([counts.counts, counts.unpredicted]).ravel()
        cells = np.flatnonzero(table)
        return cls(scene, window, len(counts), cells, table[cells])

    @property
    def counts(self) -> Confusion:
        table = np.zeros(self.classes * (self.classes + 1), np.int64)
        table[self.cells] = self.pixels
        table = table.reshape(self.classes, -1)
        return Confusion(table[:, :-1], table[:, -1])

    @property
    def labelled(self) -> int:
        """Number of labelled pixels."""
        return int(self.pixels.sum())

    def __add__(self, other: BlockCounts) -> BlockCounts:
        """The counts of two parts of one block."""
        assert (self.scene, self.window) == (other.scene, other.window), "counts of different blocks"
        return BlockCounts.of(self.scene, self.window, self.counts + other.counts)

    def to_dict(self) -> dict:
        """JSON values: "window" is [top, left, height, width]."""
        w = self.window
        return {"scene": self.scene, "window": [w.top, w.left, w.height, w.width], **self.counts.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping) -> BlockCounts:
        """The inverse of `to_dict`. Raises BadInput where the fields are not those."""
        try:
            scene, window = str(fields["scene"]), Window(*map(int, fields["window"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                'These are not counts of a block: expected {"scene": name, "window": [top, left, height, '
                'width], "counts": ..., "unpredicted": ...}.'
            ) from error
        return cls.of(scene, window, Confusion.from_dict(fields))


def block_side(scene: LabelledScene) -> int:
    """Side of the blocks of a scene: of its own split, else BLOCK, doubled until MOST suffice."""
    side = BLOCK if scene.split is None else scene.split.block
    height, width = scene.scene.grid.shape
    while -(-height // side) * -(-width // side) > MOST:
        # Doubled, so that larger blocks are made of whole smaller ones and held-out blocks are not cut.
        side *= 2
    return side


def blocks_in(window: Window, side: int) -> Iterator[tuple[tuple[int, int], Window]]:
    """((row, column), part of `window`) of every block of the scene's lattice that the window reaches."""
    for row in range(window.top // side, -(-window.bottom // side)):
        for column in range(window.left // side, -(-window.right // side)):
            yield (row, column), window & Window(row * side, column * side, side, side)


@dataclass
class BlockTally:
    """Counts of one scene's blocks as its tiles come in; a tile may hold parts of many blocks."""

    side: int
    whole: Window
    classes: int
    # Only cells that occur: tables of 150 classes would take 3 GB for a scene of MOST blocks.
    _blocks: dict[tuple[int, int], Counter[int]] = field(default_factory=dict)

    def add(self, window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count a window's class indices (H, W), 255 for unlabelled truth and for no prediction."""
        for place, part in blocks_in(window, self.side):
            inside = part.inset_of(window)
            found = BlockCounts.of("", part, count(truth[inside], predicted[inside], self.classes))
            # Blocks without a label take no memory.
            if found.cells.size:
                tally = self._blocks.setdefault(place, Counter())
                tally.update(dict(zip(found.cells.tolist(), found.pixels.tolist())))

    def named(self, scene: str) -> list[BlockCounts]:
        """The counts of all blocks with a label, row by row."""
        found = []
        # Tiles come in the scorer's order, and models are compared block by block: one order for all of them.
        for (row, column), tally in sorted(self._blocks.items()):
            window = self.whole & Window(row * self.side, column * self.side, self.side, self.side)
            cells = np.array(sorted(tally), np.int64)
            pixels = np.array([tally[cell] for cell in cells.tolist()], np.int64)
            found.append(BlockCounts(scene, window, self.classes, cells, pixels))
        return found
