"""Share the tiles of one scene among workers: a block of tiles is scored by one of them, and kept in the
map's journal, from which one process writes the map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadInput, BadOption, LabelscapeError
from labelscape.grid import Window
from labelscape.maps.arriving import Corner, arriving, in_order, kept_of
from labelscape.maps.job import portable
from labelscape.maps.journal import Journal, differences, tile_key
from labelscape.maps.layout import Blocks, blocks_for, in_words
from labelscape.maps.outputs import RasterOutput, rasters_of
from labelscape.maps.rasters import Item, Tiles, one_behind, planes_of
from labelscape.maps.request import MapRequest
from labelscape.maps.work import MapWork, opened_for, scorer_of, tiles_of
from labelscape.progress import Tick, bar
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene
from labelscape.scoring.engine_choice import with_engine
from labelscape.scoring.heap import memory_kept
from labelscape.scoring.machine import as_many_threads
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.scorer import Scorer, second_task
from labelscape.scoring.stitch import score_tiles
from labelscape.scoring.tiles import TilePlan
from labelscape.workers.calls import Call, Took
from labelscape.workers.pace import Pace
from labelscape.workers.sent import for_workers, loaded
from labelscape.workers.store import store_at

Run = Callable[[Iterable[Call | None], Took], Iterator[tuple[Call, Any]]]
"""Runs calls on workers and yields each with what it returned or raised (`cluster.outcomes`)."""


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


@dataclass(frozen=True)
class Scored:
    """What became of a block: the number of tiles made just now, and the corners of all that are in the
    journal now; others of the block hold no valid pixel.
    """

    made: int
    there: tuple[Corner, ...]


def score_block(task: BlockTask, number: int) -> Scored:
    """Score the tiles of a block that are not in the journal, and keep them there, on a worker. Raises
    BadFile, BadInput, BadOption.
    """
    try:
        with as_many_threads({"threads": task.threads}):
            return _score_block(_ready(task), number)
    except BaseException as error:
        # A file that could not be read is opened again for the next block.
        _forget()
        if not isinstance(error, LabelscapeError):
            raise
        failed = _as_sent(error)
    # Out here, where it has no context: Dask sends that too, or only the text where it cannot.
    raise failed


def _score_block(ready: _Ready, number: int) -> Scored:
    scene, plan, journal = ready.scene, ready.plan, ready.journal
    blocks = Blocks(plan, ready.task.rows, ready.task.columns)

    # Of this moment: no other worker makes tiles of this block, but one that died may have made some.
    finished, there = journal.lookup(), set[Corner]()

    def wanted(answers: Window) -> bool:
        if blocks.of(answers) != number or not scene.may_hold(answers):
            return False
        if finished(answers):
            there.add((answers.top, answers.left))
            return False
        return True

    def keep(tile: ScoredTile) -> None:
        planes = planes_of(tile, ready.outputs, ready.task.request.reject, ready.scorer.groups)
        journal.save(tile.window, planes)
        there.add((tile.window.top, tile.window.left))

    with bar(f"block {number}", ready.task.rows * ready.task.columns, "tiles") as tick:
        made = one_behind(score_tiles(ready.scorer, scene, plan, wanted=wanted), keep, tick)
    return Scored(made, tuple(there))


def _ready(task: BlockTask) -> _Ready:
    if _kept and _kept[0].task == task:
        return _kept[0]
    _forget()
    with ExitStack() as stack:
        # From block to block, not for each: a block is a few tiles.
        stack.enter_context(memory_kept())
        made = _opened(task, [one.task(task.request.task) for one in loaded(task.models)], stack)
        made.handles.push(stack.pop_all())
    _kept.append(made)
    return made


def _opened(task: BlockTask, models: list[Checkpoint], stack: ExitStack) -> _Ready:
    request = task.request
    scene, _, watched = stack.enter_context(opened_for(models[0], task.source, request))
    scorer, mate = scorer_of(request, models), second_task(models)
    plan = tiles_of(request, scorer, scene)
    # The engine that was chosen by who began the map, by its name.
    scorer = with_engine(scorer, [plan], request.engine).scorer
    key = tile_key(request, models, scene, plan, scorer.device.type, watched, engine=scorer.engine)
    # As the process that writes the map sees it: else its tiles would be of another map.
    store = store_at(task.journal)
    if different := differences(store, key):
        raise BadInput(f"A worker sees another map than the one begun ({'; '.join(different)}).")
    outputs = rasters_of(request, mate.name if mate else "")
    journal = Journal.of_another(store, key, task.planes)
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
    run: Run, models: tuple, source: Source, *, workers: int, say: Callable[[str], None], pace: Pace
) -> Tiles:
    """Where a map's tiles come from when `run` has them scored by workers, which read the `models` (a
    `StoredAs` each) and the scene for themselves. `pace` is that of the whole job.
    """

    def tiles(work: MapWork, tick: Tick) -> Iterator[Item]:
        blocks = blocks_for(work.plan, workers)
        say(in_words(blocks, workers))
        kept = kept_of(work)
        missing = _missing(work, blocks, kept)
        task = task_of(work, models, source, blocks)
        calls = (Call(number, f"block-of-{work.stem}", score_block, (task, number)) for number in missing)
        pace.forget()

        def took(worker: str, seconds: float, found: Scored) -> None:
            pace.took(worker, seconds, found.made)

        yield from arriving(work, blocks, kept, missing, run(calls, took), pace, tick)

    return tiles


def kept_tiles(least: int) -> Tiles:
    """Where a map's tiles come from when workers have scored all its blocks, and kept at least so many."""

    def tiles(work: MapWork, tick: Tick) -> Iterator[Item]:
        # Someone removed some of them meanwhile: without a look at the scene they would become nodata.
        if work.journal.found < least:
            yield from in_order(work, tick)
        else:
            whole = Blocks(work.plan, 1, 1)
            yield from arriving(work, whole, kept_of(work), {}, iter(()), Pace(), tick)

    return tiles


def task_of(work: MapWork, models: tuple, source: Source, blocks: Blocks) -> BlockTask:
    """What the blocks of a map have in common."""
    return BlockTask(
        models,
        for_workers(source),
        portable(
            work.request.replace(device=work.scorer.device.type, engine=work.scorer.engine.partition(" ")[0])
        ),
        work.journal.store.address,
        work.journal.planes,
        int(work.journal.machine.get("threads") or 1),
        blocks.rows,
        blocks.columns,
    )


def missing_blocks(work: MapWork, blocks: Blocks) -> dict[int, int]:
    """The blocks with tiles that may hold data and are not in the journal, in the order in which they are
    written, with the pixels of these tiles.
    """
    return _missing(work, blocks, kept_of(work))


def _missing(work: MapWork, blocks: Blocks, kept: Set[Window]) -> dict[int, int]:
    missing = Counter[int]()
    for tile in work.plan:
        if tile.answers not in kept and work.scene.may_hold(tile.answers):
            missing[blocks.of(tile.answers)] += tile.answers.pixels
    return dict(missing)
