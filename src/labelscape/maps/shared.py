"""Many scenes at once whose tiles are shared among workers: a scene is begun by one of them, its blocks are
scored by all, and one writes its map from the journal, while the next scenes are scored.

A single writer would be the first limit of a large job: while it joins a scene's blocks all workers wait, and
a second of it costs as many seconds of work as there are workers (docs/results/scaling.md).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelscape.errors import LabelscapeError
from labelscape.maps.blocks import BlockTask, Run, Scored, kept_tiles, missing_blocks, score_block, task_of
from labelscape.maps.job import (
    NO_MEMORY,
    PATIENCE,
    Job,
    SceneRecord,
    attempted,
    map_one,
    portable,
    scene_text,
)
from labelscape.maps.journal import Journal
from labelscape.maps.layout import blocks_for
from labelscape.maps.request import MapRequest
from labelscape.maps.run import opened_work
from labelscape.maps.work import held_by_job
from labelscape.progress import Tick
from labelscape.scenes.files import Source
from labelscape.scoring.machine import as_many_threads
from labelscape.workers.calls import Call
from labelscape.workers.pace import Pace
from labelscape.workers.seen import Seen
from labelscape.workers.sent import for_workers, loaded
from labelscape.workers.share import cause_of
from labelscape.workers.store import store_at

# ---------------------------------------------------------------------------------------------- on a worker


@dataclass(frozen=True)
class Begun:
    """A scene whose journal is open: its missing blocks with their pixels, how many tiles an earlier run
    made, and the stem of its map's files.
    """

    task: BlockTask
    missing: Mapping[int, int]
    found: int
    stem: str


def begin_here(
    job: Job, source: Source, request: MapRequest, workers: int, scenes: int
) -> Begun | SceneRecord:
    """Check one of so many scenes, plan its blocks and open its journal, on a worker."""
    with as_many_threads({"threads": job.threads}):
        models, out = loaded(job.models), Path(job.out)

        def make() -> Begun:
            options = {"overwrite": job.overwrite, "patience": PATIENCE}
            with opened_work(models, source, out, request, **options) as (work, _):
                blocks = blocks_for(work.plan, workers, scenes)
                task = task_of(work, job.models, source, blocks)
                return Begun(task, missing_blocks(work, blocks), work.journal.found, work.stem)

        return attempted(make, models, source, out, request, overwrite=job.overwrite)


def write_here(job: Job, source: Source, request: MapRequest, least: int, spent: float | None) -> SceneRecord:
    """Write the map of a scene, of which at least so many tiles are in the journal, on a worker."""
    with as_many_threads({"threads": job.threads}):
        options = {"overwrite": job.overwrite, "patience": PATIENCE, "spent": spent, "in_job": True}
        return map_one(loaded(job.models), source, Path(job.out), request, tiles=kept_tiles(least), **options)


# --------------------------------------------------------------------------- in the process that hands it out


@dataclass(eq=False)
class _Open:
    """A scene that is begun: its blocks that have not ended, the tiles kept so far, and the lock that keeps
    other runs from its map.
    """

    begun: Begun
    waiting: set[int]
    kept: int
    since: float
    lock: ExitStack


@dataclass(eq=False)
class Shared:
    """The scenes of a job on so many workers. Of a scene that is not open only its place in the job is held.

    `calls` runs in another thread than the rest, one step at a time: the containers are changed by single
    operations, which are atomic.
    """

    job: Job
    scenes: Sequence[Source]
    requests: Sequence[MapRequest]
    workers: int
    _beginning: set[int] = field(default_factory=set)
    _open: dict[int, _Open] = field(default_factory=dict)
    _blocks: deque[tuple[int, int]] = field(default_factory=deque)
    _whole: deque[int] = field(default_factory=deque)
    _of: dict[int, tuple[int, int]] = field(default_factory=dict)

    def records(self, run: Run, pace: Pace, tick: Tick) -> Iterator[tuple[int, SceneRecord]]:
        """The record of each scene as it ends; `tick` counts them, and shows the pace of their blocks."""
        blocks = 0

        def took(worker: str, seconds: float, value: Any) -> None:
            if isinstance(value, Scored):  # other calls say nothing of a worker's speed
                pace.took(worker, seconds, value.made)

        try:
            for call, found in run(self._calls(), took):
                scene, block = self._of.pop(call.number)
                if isinstance(found, Scored) and (one := self._open.get(scene)):
                    blocks += 1
                    pace.pixels += one.begun.missing[block]
                    tick(0, blocks=f"{blocks:,}", **pace.facts())
                record = self._taken(call, scene, block, found)
                if record is not None:
                    pace.failed += not record.is_mapped
                    tick(1, **pace.facts())
                    yield scene, record
        finally:
            while self._open:
                _leave(self._open.popitem()[1])

    def _calls(self) -> Iterator[Call | None]:
        """The next call, each time; None where it depends on one that has not ended."""
        coming = deque(range(len(self.scenes)))
        for number in itertools.count():
            call = None
            # First what ends a scene: its tiles take up the disk until its map is written.
            if self._whole:
                scene, block = self._whole.popleft(), -1
                call = Call(number, "write-scene", write_here, self._to_write(scene))
            # Ahead of its blocks, so that no worker waits for a scene to be opened; but no more than that.
            elif coming and len(self._blocks) < self.workers and len(self._beginning) < self.workers:
                scene, block = coming.popleft(), -1
                self._beginning.add(scene)
                what = (*self._one(scene), self.workers, len(self.scenes))
                # Its blocks are compared with what this one finds, as the journal has it.
                call = Call(number, "begin-scene", begin_here, what, seen=Seen.here(what[1]))
            elif self._blocks:
                scene, block = self._blocks.popleft()
                # None of a scene that has failed meanwhile.
                if (one := self._open.get(scene)) is None:
                    continue
                call = Call(number, "score-block", score_block, (one.begun.task, block))
            if call is not None:
                self._of[number] = scene, block
            yield call

    def _one(self, scene: int) -> tuple[Job, Any, MapRequest]:
        return self.job, for_workers(self.scenes[scene]), portable(self.requests[scene])

    def _to_write(self, scene: int) -> tuple:
        one = self._open[scene]
        # Tiles of an earlier run cost this one nothing: its seconds would be no measure.
        spent = None if one.begun.found else time.monotonic() - one.since
        return (*self._one(scene), one.kept, spent)

    def _taken(self, call: Call, scene: int, block: int, found: Any) -> SceneRecord | None:
        """Take what a call returned, or raised: the record of its scene where that has ended with it."""
        self._beginning.discard(scene)
        if isinstance(found, Begun):
            return self._begun(scene, found)
        if isinstance(found, SceneRecord):
            if one := self._open.pop(scene, None):
                one.lock.close()
            return found
        one = self._open.get(scene)
        if isinstance(found, BaseException):
            # The first of its blocks that fails says why; others may still be under way.
            if call.function is score_block and one is None:
                return None
            seconds = 0.0
            if one is not None:
                _leave(self._open.pop(scene))
                seconds = time.monotonic() - one.since
            return self._failed(scene, found, seconds)
        if one is not None:
            one.kept += found.made
            one.waiting.discard(block)
            if not one.waiting:
                self._whole.append(scene)
        return None

    def _begun(self, scene: int, found: Begun) -> SceneRecord | None:
        """Hand out the blocks of a scene; its record where another run has come first."""
        lock = ExitStack()
        try:
            # From here on: a worker has let go of it. A run that came between has the same tiles, or has
            # deleted these, which whoever makes the next one sees.
            lock.enter_context(held_by_job(Path(self.job.out), found.stem, patience=PATIENCE))
        except LabelscapeError as error:
            return self._failed(scene, error)
        self._open[scene] = _Open(found, set(found.missing), found.found, time.monotonic(), lock)
        self._blocks.extend([(scene, number) for number in found.missing])
        if not found.missing:
            self._whole.append(scene)
        return None

    def _failed(self, scene: int, error: BaseException, seconds: float = 0.0) -> SceneRecord:
        text, cause = scene_text(self.scenes[scene]), cause_of(error, NO_MEMORY)
        return SceneRecord(text, "failed", seconds, cause=cause)


def _leave(one: _Open) -> None:
    """Let go of a scene that is not mapped, and remove its journal where it has no tile."""
    task = one.begun.task
    with one.lock, contextlib.suppress(OSError), Journal.of_another(store_at(task.journal), {}, task.planes):
        pass
