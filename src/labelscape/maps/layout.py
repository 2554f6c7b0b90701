"""How the tiles of a scene are shared among workers: in which blocks. Arithmetic only."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from labelscape.grid import Window
from labelscape.scoring.tiles import TilePlan

PER_BLOCK = 0.15
"""What a block costs beside its tiles, in tiles: its task, and its first tile, which is read while the
network waits (ours).
"""
APART = 0.25
"""Of a block: how far apart workers end that are equally fast and have equally much to do (ours)."""
MANY = 64
"""Blocks a worker from which on the order in which they end no longer matters."""
MOST_TILES = 4096
"""Of a block (ours): about an hour of work."""


@dataclass(frozen=True)
class Blocks:
    """The tiles of a plan in rectangles of `rows` x `columns` tiles, numbered row by row."""

    plan: TilePlan
    rows: int
    columns: int

    @cached_property  # asked for every tile
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = self.plan.along
        return math.ceil(height / self.rows), math.ceil(width / self.columns)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def of(self, answers: Window) -> int:
        """The number of the block that a tile is in, by its window (`Tile.answers`)."""
        row, column = self.plan.place_of(answers)
        return row // self.rows * self.shape[1] + column // self.columns

    @property
    def predicted(self) -> int:
        """Tiles that the network predicts, over all blocks. Of blended tiles those above and at the left of a
        block are predicted again; where tiles are predicted in batches, so are those which share one.
        """
        return sum(count for count, _ in self._each())

    def costs(self) -> list[float]:
        """Of every block, in the time of a whole tile."""
        # Where tiles at the scene's border are cut, they take as much less time.
        return [count * (1 if self.plan.side else share) + PER_BLOCK for count, share in self._each()]

    def _each(self) -> Iterator[tuple[int, float]]:
        """Tiles that are predicted for a block, and the share of their cores that lies in the scene."""
        height, width = self.plan.along
        core, more = self.plan.core, int(self.plan.fade > 0)
        # Of the ground, from its first tile on.
        ground, (row, column) = self.plan.ground, self.plan.first
        below, right = ground.height - row * core, ground.width - column * core
        for top in range(0, height, self.rows):
            for left in range(0, width, self.columns):
                rows, columns = min(self.rows, height - top), min(self.columns, width - left)
                inside = min(rows * core, below - top * core) * min(columns * core, right - left * core)
                above, before = more * (top + row > 0), more * (left + column > 0)
                count = self._in_batches(top - above, left, rows + above, columns + before)
                yield count, inside / (rows * columns * core**2)

    def _in_batches(self, top: int, left: int, rows: int, columns: int) -> int:
        """Tiles that are predicted for these, at most: batches are whole."""
        batch, width = self.plan.batch, self.plan.along[1]
        if columns < width:
            # Each row begins in the middle of a batch, and ends there.
            return rows * (columns + batch - 1)
        # Whole rows follow each other.
        first, last = top * width, min((top + rows) * width, len(self.plan))
        return (-(-last // batch) - first // batch) * batch


def blocks_for(plan: TilePlan, workers: int, scenes: int = 1) -> Blocks:
    """The blocks with which so many workers are likely to end soonest: small ones leave no worker waiting at
    the end, large ones predict fewer tiles twice. Of several `scenes` like this one, mapped at once, only the
    last leaves workers waiting: their blocks are larger.
    """
    height, width = plan.along

    def time(blocks: Blocks) -> float:
        costs = blocks.costs()
        shared, each = sum(costs) / workers, sum(costs) / len(costs)
        # At the end workers wait for the last block.
        last = shared + each / 2 if len(costs) > MANY * workers else _ends(costs, workers)
        return (scenes - 1) * shared + last + APART * each

    sizes = {
        (math.ceil(height / down), math.ceil(width / across))
        for down in _divisors(height)
        for across in _divisors(width)
    }
    fair = {s for s in sizes if s[0] * s[1] <= MOST_TILES} or {(1, min(width, MOST_TILES))}
    # Of equals the wider one: its tiles are written in its order.
    return min((Blocks(plan, *size) for size in sorted(fair, reverse=True)), key=time)


def _ends(costs: list[float], workers: int) -> float:
    """When the last block ends, if whoever is free takes the next one."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def _divisors(length: int) -> list[int]:
    """Into how many parts an axis may be cut: 1, 2, 3, 4, 6, 8, ..., every tile by itself."""
    powers = [2**n for n in range(length.bit_length())]
    return sorted({min(length, n) for power in powers for n in (power, 3 * power // 2)} | {length})


def in_words(blocks: Blocks, workers: int) -> str:
    """How a scene is shared among workers, as a line of the plan."""
    rows, columns = blocks.plan.along
    again = blocks.predicted / (rows * columns) - 1
    twice = f", {100 * again:.0f} % of the tiles predicted twice" if again > 0.005 else ""
    more = "a smaller `tile_size` makes more"
    if blocks.plan.scaled:
        more = f"at several scales they have {blocks.plan.core:,} pixels a side, whatever the `tile_size`"
    size = f"{blocks.rows} x {blocks.columns} tile{'s' * (blocks.rows * blocks.columns > 1)}"
    return (
        f"{counted(len(blocks), 'block')} of up to {size} for {counted(workers, 'worker')}{twice}"
        f"{idle(workers - len(blocks), f'few tiles; {more}')}"
    )


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def idle(workers: int, why: str) -> str:
    """The end of a line of the plan, where so many workers are too many; "" where none is."""
    if workers < 1:
        return ""
    return f"; {counted(workers, 'worker')} will have nothing to do ({why})"
