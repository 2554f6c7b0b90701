"""Map many scenes with one model (`map_scenes`), in this process or on the workers of a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from labelscape.checkpoint import load_all
from labelscape.errors import BadOption, WrongType
from labelscape.files import check_folder, check_local
from labelscape.maps.crew import Work, on_workers
from labelscape.maps.job import JobResult, SceneRecord, map_one, missing_text, names_for, scene_text
from labelscape.maps.job_report import JobReport
from labelscape.maps.request import MapRequest, MapSettings, Models, request_for, spelt_out
from labelscape.progress import print_line
from labelscape.scenes.files import Source, source_paths
from labelscape.scenes.scene_list import SceneList
from labelscape.scoring.kept import networks_kept
from labelscape.scoring.protocol import Protocol
from labelscape.workers.cluster import connected
from labelscape.workers.share import TIME_LIMIT, said_where_stopped
from labelscape.workers.store import check_journal

if TYPE_CHECKING:
    from distributed import Client


@spelt_out
def map_scenes(
    checkpoint: Models | None,
    scenes: Iterable[Source] | SceneList,
    out: str | Path,
    *,
    request: MapRequest | None = None,
    protocol: Protocol | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | Client | None = None,
    grain: str = "auto",
    block_timeout: float | None = TIME_LIMIT,
    journal: str | None = None,
    **settings: Unpack[MapSettings],
) -> JobResult:
    """Map many scenes into the folder `out`, each as `map_scene` does. A scene that is refused or fails is
    reported in its record, and the others are mapped.

    checkpoint  a checkpoint, its file, or several whose probabilities are averaged
    scenes      what `find_scenes` found, which reads globs, lists, tables and catalogues; or a list, each a
                file, a folder or list of files of one scene, or a STAC item
    request     all settings as one value
    protocol    `scales`, `tta` and `average` as one value
    overwrite   replace files that exist
    workers     processes on this machine that share the work, of one thread each; by default none
    cluster     instead: the address or scheduler file of a Dask cluster, or a `distributed.Client` of one
    grain       what a worker is given: a "scene", a "block" of a scene's tiles, or "auto": blocks where there
                are fewer than two scenes per worker, unless all are small
    block_timeout
                seconds without progress after which a worker is ended, and its work given to another one;
                None for no limit
    journal     s3://BUCKET/PREFIX for finished tiles, until a map is complete: workers then need not share
                `out`, where they lie by default. Server and credentials: AWS_* of the environment
    settings    those of `MapRequest`, for all scenes; `name` only where there is one. With their defaults:

    {settings}

    Started again with the same settings, it maps only what is missing: finished maps are skipped, and
    unfinished ones resumed. Where two scenes have the same file name, their maps have the name of the scene's
    folder before it.

    Of several scenes `out` gets a report while they finish: job.html, job.json, and footprints, job.gpkg.

    Raises BadOption with all invalid settings, where two scenes would have the same files, and where Dask or
    s3fs is needed and not installed; UnknownName for a `task` that a model did not learn; BadFile where a
    checkpoint cannot be read, `out` is an address, or `journal` cannot be written to; BadInput where a worker
    cannot do the job (another version, no checkpoint, no access); ClusterLost where the scheduler is gone.
    """
    start = time.monotonic()
    check_folder(out, "The folder of the maps (out)")
    check_local(out)  # this process writes the files, also where the journal is on S3
    several = listed(scenes)
    request = request_for(checkpoint, several[0], request, protocol, settings)
    models = load_all(checkpoint if checkpoint is not None else request.checkpoint)
    for model in models:
        model.task(request.task)  # an unknown one is wrong of all scenes
    requests = _requests(request, several, scenes.names if isinstance(scenes, SceneList) else None)
    work = Work(models, several, requests, Path(out), overwrite, grain, block_timeout, journal)
    records, grain, count = _mapped(work, workers, cluster, page=request.report)
    return JobResult(tuple(records), work.out, time.monotonic() - start, grain, count)


def _mapped(
    work: Work, workers: int | None, cluster: str | Client | None, *, page: bool
) -> tuple[list[SceneRecord], str, int]:
    """Map the scenes here or on workers, keeping the job's report: the records, the grain, and the number of
    workers.
    """
    if work.journal is not None:
        # Before a scene is opened: else every one of them fails at its first tile.
        work = replace(work, journal=check_journal(work.journal))
    with networks_kept(), _reported(work, page=page) as finished:
        if workers is None and cluster is None:
            return list(_one_by_one(work, finished)), "scene", 0
        with connected(workers, cluster) as client:
            return on_workers(client, work, finished)


def listed(scenes: Iterable[Source] | SceneList) -> list[Source]:
    """The scenes, each once. Raises WrongType for a single path, BadOption where there is none."""
    if isinstance(scenes, SceneList):
        return [scene.source for scene in scenes]
    if isinstance(scenes, (str, os.PathLike)):
        given = repr(str(scenes))
        raise WrongType(
            f"Scenes must be a list: pass [{given}] for one scene, or labelscape.find_scenes({given}) for "
            "all that a glob, a folder, a list, a table or a catalogue names."
        )
    # A scene in memory has no path: it is itself.
    found = {source_paths(scene) or id(scene): scene for scene in scenes}
    if not found:
        raise BadOption("No scene is given: the list of scenes is empty.")
    return list(found.values())


def _requests(
    request: MapRequest, scenes: Sequence[Source], names: Sequence[str | None] | None
) -> list[MapRequest]:
    """The request of each scene's map; `names` are those of a list of scenes. Raises BadOption where two maps
    would have the same name.
    """
    if request.name is not None and len(scenes) > 1:
        raise BadOption("`name` is for one scene; maps of several are named after their scenes.")
    names = names_for(scenes) if names is None else names
    names = names if len(scenes) > 1 else [request.name]
    return [request.replace(scene=source_paths(s), name=name) for s, name in zip(scenes, names)]


@contextmanager
def _reported(work: Work, *, page: bool) -> Iterator[Callable[[SceneRecord], None]]:
    """Yields what tells the job's report of a finished scene; of one scene the map's own report says all."""
    if len(work.scenes) == 1:
        yield lambda record: None
        return
    with JobReport(work.out, len(work.scenes), page=page, overwrite=work.overwrite) as report:
        yield report.add


def _one_by_one(work: Work, finished: Callable[[SceneRecord], None]) -> Iterator[SceneRecord]:
    records: list[SceneRecord] = []
    with said_where_stopped(lambda: missing_text(records, len(work.scenes))):
        for number, (scene, request) in enumerate(zip(work.scenes, work.requests), start=1):
            print_line(f"scene {number} of {len(work.scenes)}: {scene_text(scene)}")
            how = {"overwrite": work.overwrite, "journal": work.journal}
            records.append(map_one(work.models, scene, work.out, request, **how))
            # Before the next scene: the report of a job that is killed says how far it came.
            finished(records[-1])
            yield records[-1]
