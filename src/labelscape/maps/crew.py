"""Map a job's scenes on the workers of a cluster, by scene or by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadOption, LabelscapeError, UnknownName
from labelscape.maps.blocks import Run, from_workers
from labelscape.maps.job import (
    NO_MEMORY,
    Job,
    SceneRecord,
    map_here,
    map_one,
    missing_text,
    portable,
    scene_text,
)
from labelscape.maps.layout import counted, idle
from labelscape.maps.request import MapRequest
from labelscape.maps.shared import Shared
from labelscape.maps.work import opened_for
from labelscape.progress import bar, print_line
from labelscape.scenes.files import Source
from labelscape.scoring.devices import pick_device
from labelscape.scoring.machine import as_many_threads
from labelscape.scoring.memory import EXACT_TILE
from labelscape.workers import cluster
from labelscape.workers.calls import Call, Took
from labelscape.workers.pace import Pace
from labelscape.workers.probe import Crew, Needs, check_workers
from labelscape.workers.seen import Seen
from labelscape.workers.sent import files_of, for_workers
from labelscape.workers.share import THREADS, cause_of, check_limit, followed, of_the_crew, said_where_stopped

if TYPE_CHECKING:
    from distributed import Client

GRAINS = ("auto", "scene", "block")
SCENES_PER_WORKER = 2
"""From so many on workers get whole scenes: with fewer, some would wait for the last scene alone (ours)."""


@dataclass(frozen=True, eq=False)
class Work:
    """The scenes of a job, with the request of each. `journal` is the address at which tiles are kept, where
    that is not `out`. Raises BadOption for another grain or limit.
    """

    models: Sequence[Checkpoint]
    scenes: Sequence[Source]
    requests: Sequence[MapRequest]
    out: Path
    overwrite: bool
    grain: str
    limit: float | None
    journal: str | None = None

    def __post_init__(self) -> None:
        if self.journal is not None and self.grain == "scene":
            raise BadOption(
                "`journal` holds tiles of blocks; workers with `grain='scene'` write whole maps to `out`, "
                "which they must share. Leave one of the two out."
            )
        if self.grain not in GRAINS:
            raise UnknownName("`grain`", self.grain, GRAINS)
        check_limit(self.limit)


def on_workers(
    client: Client, work: Work, finished: Callable[[SceneRecord], None]
) -> tuple[list[SceneRecord], str, int]:
    """Map the scenes on a client's workers: the records, the grain, and the number of workers; `finished` is
    called with each record when it is known. Raises BadInput where a worker cannot do the job, ClusterLost.
    """
    job = Job(files_of(work.models), str(work.out.absolute()), work.overwrite, THREADS)
    # Of a journal elsewhere workers need no more: `out` may be a disk that only this process has.
    first = Seen.here(for_workers(work.scenes[0]))
    needs = Needs(Path(job.out), job.models, work.requests[0].device, work.journal, first)
    crew = check_workers(client, needs)
    count = len(crew.hosts)
    grain = grain_for(work, count, crew)
    for line in _plan(client, work, grain, crew):
        print_line(line)
    by = _by_scene if grain == "scene" else _by_block
    records: dict[int, SceneRecord] = {}
    with (
        said_where_stopped(lambda: missing_text(records.values(), len(work.scenes))),
        as_many_threads({"threads": THREADS}),
    ):
        for number, record in by(client, work, job, count):
            # As it was given: a worker knows it by its full path.
            records[number] = replace(record, scene=scene_text(work.scenes[number]))
            finished(records[number])
    return [records[number] for number in range(len(work.scenes))], grain, count


def grain_for(work: Work, workers: int, crew: Crew) -> str:
    """What a worker is given: a "scene" or a "block". Raises BadOption where blocks cannot be joined."""
    many = len(work.scenes) >= SCENES_PER_WORKER * workers
    auto = work.grain == "auto" and work.journal is None
    if work.grain == "scene" or (auto and (many or _all_are_small(work))):
        return "scene"
    # Tiles of another device have other last digits, and other batches. Of several scenes workers plan the
    # tiles too.
    here = pick_device(work.requests[0].device).type
    if here == crew.device or (len(work.scenes) > 1 and work.journal is None):
        return "block"
    if not auto:
        other = "" if work.journal else ", or `grain='scene'`"
        raise BadOption(
            f"The workers compute on {crew.device}, and this process, which plans the tiles, on {here}. Pass "
            f"`device='cpu'`{other}, or start it on a machine with {crew.device}."
        )
    return "scene"


def _all_are_small(work: Work) -> bool:
    """Is none of the scenes larger than one large tile? There is nothing to share in them then."""
    for scene, request in zip(work.scenes, work.requests):
        try:
            with opened_for(work.models[0], scene, request) as (opened, *_):
                height, width = opened.grid.shape
        except LabelscapeError:  # its record will say so
            continue
        if height * width > EXACT_TILE**2:
            return False
    return True


def _plan(client: Client, work: Work, grain: str, crew: Crew) -> Iterator[str]:
    scenes = len(work.scenes)
    one = "each maps whole scenes"
    if grain == "block":
        one = "they share its tiles" if scenes == 1 else "they share the tiles of each scene"
    too_many = idle(len(crew.hosts) - scenes, "more workers than scenes") if grain == "scene" else ""
    yield f"{counted(scenes, 'scene')}, {crew.in_words(THREADS)}: {one}{too_many}"
    yield from of_the_crew(client, crew, work.limit)


def _by_scene(client: Client, work: Work, job: Job, workers: int) -> Iterator[tuple[int, SceneRecord]]:
    calls = (
        Call(n, "map-scene", map_here, (job, sent, portable(request)), seen=Seen.here(sent))
        for n, (sent, request) in enumerate(zip(map(for_workers, work.scenes), work.requests))
    )

    def pixels(found: SceneRecord) -> float | None:
        return found.pixels * (found.state == "done") if found.is_mapped else None

    total = len(work.scenes), "scenes"
    for call, found in followed(
        client, calls, work.limit, f"map {len(work.scenes)} scenes", total, pixels=pixels
    ):
        text = scene_text(work.scenes[call.number])
        if isinstance(found, SceneRecord):
            record = found
        else:
            record = SceneRecord(text, "failed", cause=cause_of(found, NO_MEMORY))
        yield call.number, record


def _by_block(client: Client, work: Work, job: Job, workers: int) -> Iterator[tuple[int, SceneRecord]]:
    pace = Pace()

    def run(calls: Iterable[Call | None], took: Took) -> Iterator:
        return cluster.outcomes(client, calls, limit=work.limit, took=took)

    # They write to `out`, which workers with a journal elsewhere need not have.
    if len(work.scenes) > 1 and work.journal is None:
        shared = Shared(job, work.scenes, work.requests, workers)
        with bar(f"map {len(work.scenes)} scenes", len(work.scenes), "scenes") as tick:
            yield from shared.records(run, pace, tick)
        return
    yield from one_after_another(run, work, job, workers, pace)


def one_after_another(
    run: Run, work: Work, job: Job, workers: int, pace: Pace
) -> Iterator[tuple[int, SceneRecord]]:
    """Map scenes whose blocks are scored by workers, and written here while they arrive."""
    for n, (scene, request) in enumerate(zip(work.scenes, work.requests)):
        text = scene_text(scene)
        count = f"scene {n + 1} of {len(work.scenes)}, " if len(work.scenes) > 1 else ""
        tiles = from_workers(
            run,
            job.models,
            scene,
            workers=workers,
            say=lambda line, t=f"{count}{text}": print_line(f"{t}: {line}"),
            pace=pace,
        )
        how = {"overwrite": work.overwrite, "tiles": tiles, "journal": work.journal}
        record = map_one(work.models, scene, work.out, request, **how)
        # Shown beside the blocks of the scenes that follow.
        pace.failed += not record.is_mapped
        yield n, record
