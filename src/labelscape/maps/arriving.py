"""The tiles of a map in the order of its rasters: those in its journal, kept by an earlier run or just now by
workers, and those that are scored here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from labelscape.grid import Window
from labelscape.maps.layout import Blocks
from labelscape.maps.rasters import Item
from labelscape.maps.work import MapWork
from labelscape.progress import Tick
from labelscape.scoring.stitch import score_tiles
from labelscape.workers.calls import Call
from labelscape.workers.pace import Pace

Corner = tuple[int, int]
"""First row and column of a tile."""
AT_ONCE = 8
"""Tiles that are read from a server at a time (ours): each is held in memory until it is written."""


def kept_of(work: MapWork) -> set[Window]:
    """The tiles of an earlier run."""
    journal = work.journal
    return {t.answers for t in work.plan if journal.had(t.answers)} if journal.found else set()


def in_order(work: MapWork, _: Tick) -> Iterator[Item]:
    """Every tile with valid pixels in the plan's order: from the journal where it is complete, else scored.
    Tiles without stored blocks are skipped.
    """
    kept, holds = kept_of(work), work.scene.may_hold
    # One generator over all that is missing, so that the tile after a kept one is already being read.
    scored = score_tiles(
        work.scorer, work.scene, work.plan, wanted=lambda core: core not in kept and holds(core)
    )
    ahead = next(scored, None)
    with _Loading(work) as loading:
        for tile in work.plan:
            if tile.answers in kept:
                yield from loading.next(tile.answers)
            elif ahead is not None and ahead.window == tile.answers:
                yield from loading.all()
                yield ahead
                ahead = next(scored, None)
        yield from loading.all()


def arriving(
    work: MapWork,
    blocks: Blocks,
    kept: Set[Window],
    missing: Mapping[int, int],
    ends: Iterator[tuple[Call, Any]],
    pace: Pace,
    tick: Tick,
) -> Iterator[Item]:
    """Every tile with valid pixels in the plan's order, as soon as its block is finished; `kept` are those of
    an earlier run.
    """
    waiting, there = set(missing), set[Corner]()
    with _Loading(work) as loading:
        for tile in work.plan:
            number = blocks.of(tile.answers)
            while number in waiting:
                # First what can be written already.
                yield from loading.all()
                call, found = next(ends)
                if isinstance(found, BaseException):
                    raise found
                waiting.discard(call.number)
                there.update(found.there)
                pace.pixels += missing[call.number]
                tick(0, blocks=f"{len(missing) - len(waiting):,}/{len(missing):,}", **pace.facts())
            # By what the worker said, not by what is there: a tile that was lost since must not become a
            # hole. Others hold no valid pixel.
            if tile.answers in kept or (tile.answers.top, tile.answers.left) in there:
                yield from loading.next(tile.answers)
        yield from loading.all()


class _Loading:
    """Tiles on their way from the journal, in their order: from a server several at a time, since each takes
    the time of an answer, whatever its size.
    """

    def __init__(self, work: MapWork) -> None:
        self._work, self._ahead = work, deque[tuple[Window, Callable[[], np.ndarray | None]]]()
        self._most = AT_ONCE if work.journal.store.remote else 0

    def __enter__(self) -> _Loading:
        self._pool = ThreadPoolExecutor(max(1, self._most))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self, window: Window) -> Iterator[Item]:
        """Begin to load a tile; and the one before it whose turn it is."""
        load = partial(self._work.journal.load, window)
        self._ahead.append((window, self._pool.submit(load).result if self._most else load))
        if len(self._ahead) > self._most:
            yield from self._first()

    def all(self) -> Iterator[Item]:
        """Those that were begun."""
        while self._ahead:
            yield from self._first()

    def _first(self) -> Iterator[Item]:
        window, load = self._ahead.popleft()
        planes = load()
        if planes is not None:
            yield window, planes
            return
        # A file that is damaged or gone: this tile alone is scored, here.
        work = self._work
        yield from score_tiles(work.scorer, work.scene, work.plan, wanted=lambda one: one == window)
