"""Map many scenes with one model: what became of each scene is a `SceneRecord`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from labelscape.checkpoint import Checkpoint, StoredAs
from labelscape.errors import BadOption, Refused
from labelscape.files import remove_abandoned
from labelscape.maps.arriving import in_order
from labelscape.maps.finished import finished_map
from labelscape.maps.rasters import Tiles
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_with
from labelscape.scenes.files import Source, source_paths, source_text
from labelscape.scenes.scene_list import unique_names
from labelscape.scoring.machine import as_many_threads
from labelscape.workers.calls import ClusterLost
from labelscape.workers.sent import for_workers, loaded
from labelscape.workers.share import cause_of

State = Literal["done", "skipped", "refused", "failed"]
"""What became of a scene of a job: mapped in this run; mapped by an earlier run with the same settings;
refused by the check; or its map failed.
"""
NO_MEMORY = "Out of memory. Use smaller tiles (`tile_size`)."
Made = TypeVar("Made")
PATIENCE = 60.0
"""Seconds that a worker waits while another one still holds a scene's files: one that was given up for lost
may end later than its work is given away (ours).
"""


@dataclass(frozen=True)
class SceneRecord:
    """What became of one scene of a job, of which no pixel is held.

    scene    as it was given: a path or address; several files of one scene are joined by commas
    seconds  from opening it to the last of its files; 0 where it was skipped
    pixels   with a class in the finished map; 0 where there is none
    seam     seam score of its map; NaN for a single tile, and where there is no map
    cause    why it was refused or failed, as a sentence; "" otherwise
    files    of its finished map: kind (as in `MapResult.paths`) -> path
    """

    scene: str
    state: State
    seconds: float = 0.0
    pixels: int = 0
    seam: float = math.nan
    cause: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_mapped(self) -> bool:
        """Is there a finished map, of this run or an earlier one?"""
        return self.state in ("done", "skipped")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the seam score is None where there is none."""
        return {**asdict(self), "seam": None if math.isnan(self.seam) else self.seam}


@dataclass(frozen=True)
class Job:
    """What all scenes of a job on workers have in common: small, because it is sent with each of them.

    models   files of the checkpoints, which every worker reads once
    threads  of a worker
    """

    models: tuple[StoredAs, ...]
    out: str
    overwrite: bool
    threads: int = 1


@dataclass(frozen=True)
class JobResult:
    """The result of `map_scenes`: a record for each scene, in the order in which they were given.

    seconds  of this run
    grain    what one piece of work was: a "scene", or a "block" of tiles
    workers  processes that mapped; 0 where this one did
    """

    records: tuple[SceneRecord, ...]
    out: Path
    seconds: float
    grain: str = "scene"
    workers: int = 0

    @property
    def is_whole(self) -> bool:
        """Has every scene a finished map?"""
        return all(record.is_mapped for record in self.records)

    @property
    def counts(self) -> dict[str, int]:
        """Scenes by what became of them, without those that did not occur: {"done": 9, "failed": 1}."""
        states = [record.state for record in self.records]
        return {state: states.count(state) for state in get_args(State) if state in states}

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"<JobResult {len(self.records)} scenes in {self.out}: {counts}>"


def scene_text(source: Source) -> str:
    """A scene as it was given, in one line."""
    paths = source_paths(source)
    return ",".join(paths) if isinstance(paths, tuple) else paths or source_text(source)


def missing_text(records: Iterable[SceneRecord], scenes: int) -> str:
    """How far a job of so many scenes came before it was stopped, and how it is resumed."""
    mapped = sum(record.is_mapped for record in records)
    return (
        f"{mapped} of {scenes} scenes are finished; repeat the command to map what is missing (finished "
        "tiles are kept)"
    )


def names_for(scenes: Sequence[Source]) -> list[str | None]:
    """Stems for the files of each scene's map: None for the scene's own, which is its file's name; with as
    many of its folders before it as tell it apart where two scenes have the same (`unique_names`). Raises
    BadOption for two scenes in memory of one name.
    """
    places = [scene_text(scene).partition(",")[0] for scene in scenes]
    unnamed: dict[str, Source] = {}
    for place, scene in zip(places, scenes):
        # The same object twice is one map; two objects of one name would overwrite each other.
        if source_paths(scene) is None and unnamed.setdefault(place, scene) is not scene:
            raise BadOption(
                f"The maps of two scenes in memory, {place}, would have the same file names. Map one of them "
                "into another folder (`out`), or name it (`name`)."
            )
    distinct = list(dict.fromkeys(places))
    given = [(os.path.abspath(place), Path(place).stem) for place in distinct]
    names = dict(zip(distinct, unique_names(given)))
    return [None if names[place] == Path(place).stem else names[place] for place in places]


def map_one(
    models: Sequence[Checkpoint],
    source: Source,
    out: Path,
    request: MapRequest,
    *,
    overwrite: bool = False,
    tiles: Tiles = in_order,
    patience: float = 0,
    spent: float | None = None,
    journal: str | None = None,
    in_job: bool = False,
) -> SceneRecord:
    """Map one scene of a job, unless an earlier run has finished it. Whatever is wrong with the scene becomes
    its record: the other scenes do not suffer. For the options see `map_with`.
    """

    def make() -> SceneRecord:
        options = {"overwrite": overwrite, "tiles": tiles, "patience": patience, "spent": spent}
        result = map_with(models, source, out, request, **options, journal=journal, in_job=in_job)
        return SceneRecord(
            scene_text(source),
            "done",
            result.seconds,
            sum(area.pixels for area in result.areas),
            result.seam,
            files={kind: str(path) for kind, path in result.paths.items()},
        )

    return attempted(make, models, source, out, request, overwrite=overwrite)


def attempted(
    make: Callable[[], Made],
    models: Sequence[Checkpoint],
    source: Source,
    out: Path,
    request: MapRequest,
    *,
    overwrite: bool,
) -> Made | SceneRecord:
    """What is made of a scene of a job; or its record, where an earlier run has finished its map, or it is
    refused or fails. Raises ClusterLost.
    """
    start, text = time.monotonic(), scene_text(source)
    try:
        if not overwrite and (kept := finished_map(request, models, source, out)):
            pixels, seam, files = kept
            # The last moment of the run that finished it may have been a kill: no other will tidy up.
            remove_abandoned(out)
            return SceneRecord(text, "skipped", pixels=pixels, seam=seam, files=files)
        return make()
    except ClusterLost:
        raise  # no fault of this scene, and the next one would meet it too
    # Of any kind: GDAL, torch and file systems raise their own, and one bad file of a thousand must not end a
    # job that runs overnight.
    except Exception as error:
        state = "refused" if isinstance(error, Refused) else "failed"
        return SceneRecord(text, state, time.monotonic() - start, cause=cause_of(error, NO_MEMORY))


def map_here(job: Job, source: Source, request: MapRequest) -> SceneRecord:
    """Map one scene of a job, on a worker."""
    with as_many_threads({"threads": job.threads}):
        models, out = loaded(job.models), Path(job.out)
        return map_one(models, source, out, request, overwrite=job.overwrite, patience=PATIENCE)


def portable(request: MapRequest) -> MapRequest:
    """The request with paths that hold in another working folder."""
    return request.replace(
        scene=for_workers(request.scene),
        checkpoint=tuple(map(for_workers, request.checkpoint)),
        area=None if request.area is None else for_workers(request.area),
    )
