"""Share the tiles of one scene among workers: a block of tiles is scored by one of them, and kept in the
map's journal, from which one process writes the map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadInput, BadOption, LabelscapeError
from labelscape.grid import Window
from labelscape.maps.cluster import Call
from labelscape.maps.job import for_workers, loaded, portable
from labelscape.maps.journal import Journal, differences, tile_key
from labelscape.maps.machine import as_many_threads
from labelscape.maps.outputs import RasterOutput, rasters_of
from labelscape.maps.rasters import Item, one_behind, planes_of
from labelscape.maps.request import MapRequest
from labelscape.maps.work import MapWork, opened_for, scorer_of
from labelscape.progress import bar
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.scorer import Scorer, second_task
from labelscape.scoring.stitch import plan_for, score_tiles
from labelscape.scoring.tiles import TilePlan

PER_BLOCK = 0.5
"""What a block costs beside its tiles, in tiles: its task, and its first tile, which is read while the
network waits (ours).
"""
MOST_TILES = 4096
"""Of a block (ours): about an hour of work."""

Run = Callable[[Iterable[Call]], Iterator[tuple[Call, Any]]]
"""Runs calls on workers and yields each with what it returned or raised (`cluster.outcomes`)."""


@dataclass(frozen=True)
class Blocks:
    """The tiles of a plan in rectangles of `rows` x `columns` tiles, numbered row by row."""

    plan: TilePlan
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = tiles_along(self.plan)
        return math.ceil(height / self.rows), math.ceil(width / self.columns)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def of(self, answers: Window) -> int:
        """The number of the block that a tile is in, by its window (`Tile.answers`)."""
        plan = self.plan
        # The window begins up to half a core before the core does.
        row = -(-(answers.top - plan.whole.top) // plan.core) // self.rows
        column = -(-(answers.left - plan.whole.left) // plan.core) // self.columns
        return row * self.shape[1] + column

    @property
    def predicted(self) -> int:
        """Tiles that the network predicts, over all blocks. Of blended tiles those above and at the left of a
        block are predicted again; where tiles are predicted in batches, so are those which share one.
        """
        height, width = tiles_along(self.plan)
        more, total = int(self.plan.fade > 0), 0
        for top in range(0, height, self.rows):
            for left in range(0, width, self.columns):
                rows = min(self.rows, height - top) + more * (top > 0)
                columns = min(self.columns, width - left) + more * (left > 0)
                total += self._in_batches(top - more * (top > 0), left, rows, columns)
        return total

    def _in_batches(self, top: int, left: int, rows: int, columns: int) -> int:
        """Tiles that are predicted for these, at most: batches are whole."""
        batch, width = self.plan.batch, tiles_along(self.plan)[1]
        if columns < width:
            # Each row begins in the middle of a batch, and ends there.
            return rows * (columns + batch - 1)
        # Whole rows follow each other.
        first, last = top * width, min((top + rows) * width, len(self.plan))
        return (-(-last // batch) - first // batch) * batch


def tiles_along(plan: TilePlan) -> tuple[int, int]:
    """Rows and columns of a plan's tiles."""
    return math.ceil(plan.whole.height / plan.core), math.ceil(plan.whole.width / plan.core)


def blocks_for(plan: TilePlan, workers: int) -> Blocks:
    """The blocks with which so many workers are likely to end soonest: small ones leave no worker waiting at
    the end, large ones predict fewer tiles twice.
    """
    height, width = tiles_along(plan)

    def time(blocks: Blocks) -> float:
        cost = blocks.predicted + PER_BLOCK * len(blocks)
        # At the end workers wait for the last block, half of one on average.
        return cost / workers + cost / len(blocks) / 2

    sizes = {
        (math.ceil(height / down), math.ceil(width / across))
        for down in _divisors(height)
        for across in _divisors(width)
    }
    fair = [s for s in sizes if s[0] * s[1] <= MOST_TILES] or [(1, min(width, MOST_TILES))]
    # Of equals the wider one: its tiles are written in its order.
    return min((Blocks(plan, *size) for size in sorted(fair, reverse=True)), key=time)


def _divisors(length: int) -> list[int]:
    """Into how many parts an axis may be cut: 1, 2, 3, 4, 6, 8, ..., every tile by itself."""
    powers = [2**n for n in range(length.bit_length())]
    return sorted({min(length, n) for power in powers for n in (power, 3 * power // 2)} | {length})


# ---------------------------------------------------------------------------------------------- on a worker


@dataclass(frozen=True)
class BlockTask:
    """What all blocks of a map have in common: small, because it is sent with each of them."""

    models: tuple
    source: Any
    request: MapRequest
    journal: str
    planes: tuple[str, ...]
    threads: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class _Ready:
    """A map whose blocks are scored here: kept from block to block."""

    task: BlockTask
    handles: ExitStack
    scene: Scene
    scorer: Scorer
    plan: TilePlan
    outputs: tuple[RasterOutput, ...]
    journal: Journal


_kept: list[_Ready] = []
"""The map that this worker worked on last, or nothing."""


def score_block(task: BlockTask, number: int) -> int:
    """Score the tiles of a block that are not in the journal, and keep them there, on a worker. Returns their
    number. Raises BadFile, BadInput, BadOption.
    """
    try:
        with as_many_threads({"threads": task.threads}):
            return _score_block(_ready(task), number)
    except BaseException as error:
        # A file that could not be read is opened again for the next block.
        _forget()
        if isinstance(error, LabelscapeError):
            raise _as_sent(error) from None
        raise


def _score_block(ready: _Ready, number: int) -> int:
    scene, plan, journal = ready.scene, ready.plan, ready.journal
    blocks = Blocks(plan, ready.task.rows, ready.task.columns)

    def wanted(answers: Window) -> bool:
        return blocks.of(answers) == number and scene.may_hold(answers) and not journal.has(answers)

    def keep(tile: ScoredTile) -> None:
        planes = planes_of(tile, ready.outputs, ready.task.request.reject, ready.scorer.groups)
        journal.save(tile.window, planes)

    with bar(f"block {number}", ready.task.rows * ready.task.columns, "tiles") as tick:
        return one_behind(score_tiles(ready.scorer, scene, plan, wanted=wanted), keep, tick)


def _ready(task: BlockTask) -> _Ready:
    if _kept and _kept[0].task == task:
        return _kept[0]
    _forget()
    with ExitStack() as stack:
        made = _opened(task, [one.task(task.request.task) for one in loaded(task.models)], stack)
        made.handles.push(stack.pop_all())
    _kept.append(made)
    return made


def _opened(task: BlockTask, models: list[Checkpoint], stack: ExitStack) -> _Ready:
    request = task.request
    scene, _, watched = stack.enter_context(opened_for(models[0], task.source, request))
    scorer, mate = scorer_of(request, models), second_task(models)
    tiling = {"tile_size": request.tile_size, "overlap": request.overlap, "blend": request.blend}
    plan = plan_for(scorer, scene, **tiling)
    key = tile_key(request, models, scene, plan, scorer.device.type, watched)
    # As the process that writes the map sees it: else its tiles would be of another map.
    if different := differences(Path(task.journal), key):
        raise BadInput(f"A worker sees another map than the one begun ({'; '.join(different)}).")
    outputs = rasters_of(request, mate.name if mate else "")
    journal = Journal.of_another(Path(task.journal), task.planes)
    return _Ready(task, ExitStack(), scene, scorer, plan, outputs, journal)


def _forget() -> None:
    while _kept:
        _kept.pop().handles.close()


def _as_sent(error: LabelscapeError) -> LabelscapeError:
    """An error that can be sent to another process: some are made of other things than their message."""
    kind = next((k for k in (BadFile, BadInput, BadOption) if isinstance(error, k)), LabelscapeError)
    return kind(str(error))


# ------------------------------------------------------------------------------- in the process that writes


def from_workers(
    run: Run, models: tuple, source: Source, *, workers: int, say: Callable[[str], None]
) -> Callable[[MapWork], Iterator[Item]]:
    """Where a map's tiles come from (`rasters.Tiles`) when `run` has them scored by workers, which read the
    `models` (a `StoredAs` each) and the scene for themselves.
    """

    def tiles(work: MapWork) -> Iterator[Item]:
        blocks = blocks_for(work.plan, workers)
        say(in_words(blocks, workers))
        machine = work.journal.machine
        task = BlockTask(
            models,
            for_workers(source),
            portable(work.request.replace(device=work.scorer.device.type)),
            str(work.journal.folder.absolute()),
            work.journal.planes,
            int(machine.get("threads") or 1),
            blocks.rows,
            blocks.columns,
        )
        yield from _arriving(work, blocks, task, run)

    return tiles


def _arriving(work: MapWork, blocks: Blocks, task: BlockTask, run: Run) -> Iterator[Item]:
    """Every tile with valid pixels in the plan's order, as soon as its block is finished."""
    scene, plan, journal = work.scene, work.plan, work.journal
    kept = {tile.answers for tile in plan if journal.has(tile.answers)} if journal.found else set()
    missing = dict.fromkeys(  # in the order in which they are written
        blocks.of(tile.answers) for tile in plan if tile.answers not in kept and scene.may_hold(tile.answers)
    )
    calls = (Call(number, f"block-of-{work.stem}", score_block, (task, number)) for number in missing)
    ends, waiting = run(calls), set(missing)
    for tile in plan:
        number = blocks.of(tile.answers)
        while number in waiting:
            call, found = next(ends)
            if isinstance(found, BaseException):
                raise found
            waiting.discard(call.number)
        # Not there after all: it holds no valid pixel.
        if tile.answers in kept or (number in missing and journal.has(tile.answers)):
            planes = journal.load(tile.answers)
            if planes is not None:
                yield tile.answers, planes
                continue
            # A damaged file: this tile alone is scored, here.
            yield from score_tiles(
                work.scorer, scene, plan, wanted=lambda window, damaged=tile.answers: window == damaged
            )


def in_words(blocks: Blocks, workers: int) -> str:
    """How a scene is shared among workers, as a line of the plan."""
    rows, columns = tiles_along(blocks.plan)
    again = blocks.predicted / (rows * columns) - 1
    twice = f", {100 * again:.0f} % of the tiles predicted twice" if again > 0.005 else ""
    return (
        f"{len(blocks):,} blocks of up to {blocks.rows} x {blocks.columns} tiles for {workers} "
        f"worker{'s' * (workers != 1)}{twice}"
    )
