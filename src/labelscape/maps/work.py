"""Prepare a map: open and adjust the scene, plan its tiles and files, refuse what cannot be done."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from labelscape.areas.polygon_files import check_crs, check_target
from labelscape.areas.polygonize import check_sizes, try_target
from labelscape.checkpoint import Checkpoint
from labelscape.contract.adjust import fitted
from labelscape.contract.compare import compare
from labelscape.contract.difference import Difference
from labelscape.contract.matching import bands_to_read
from labelscape.errors import BadFile, BadInput, Refused
from labelscape.files import check_replaceable, check_written, free_bytes, locked, make_folder, try_to_write
from labelscape.grid import Grid
from labelscape.legend import LandClass, Legend
from labelscape.maps.journal import Journal, engine_begun, files_of_map, is_begun, planes_wanted, tile_key
from labelscape.maps.outputs import (
    RasterOutput,
    bytes_on_disk,
    kind_of,
    leftover_files,
    map_stem,
    paths_of,
    rasters_of,
    room_note,
)
from labelscape.maps.request import MapRequest
from labelscape.maps.stac import footprint
from labelscape.progress import print_line
from labelscape.scenes.files import Source
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene import Scene
from labelscape.scenes.stamps import Watched
from labelscape.scoring.engine_choice import can_use, with_engine
from labelscape.scoring.kept import kept_scorer
from labelscape.scoring.machine import machine_now, unlike_before
from labelscape.scoring.memory import size_warning
from labelscape.scoring.precision import LEAST_EQUAL, agreement, is_checked
from labelscape.scoring.scales import tiles_given
from labelscape.scoring.scorer import Scorer, second_task
from labelscape.scoring.stitch import forward_share, plan_for, windows_read
from labelscape.scoring.tiles import TilePlan
from labelscape.stages import stage
from labelscape.version import build
from labelscape.workers.store import Store, store_for

UNKNOWN = "unknown"
"""Name of the class of pixels whose confidence is below the rejection threshold."""
MANY_TIMES = 4.0
"""Pixels that a tile sees over those it maps, beyond which it is said what that costs (ours): tiles of 64
pixels that overlap by half, as networks of small crops have them, are at it.
"""


@dataclass(frozen=True, eq=False)
class MapWork:
    """A map in progress.

    legends    the map's classes by task, "" the first: the network's, and "unknown" where pixels are rejected
    overwrite  may files be replaced? True also for files that this map had finished when it was interrupted
    notes      findings about the scene and the folder
    watched    the files of the scene, as they were when it was opened
    """

    request: MapRequest
    scorer: Scorer
    scene: Scene
    plan: TilePlan
    legends: dict[str, Legend]
    stem: str
    paths: dict[str, Path]
    outputs: tuple[RasterOutput, ...]
    journal: Journal
    overwrite: bool
    notes: tuple[str, ...]
    watched: Watched

    @property
    def legend(self) -> Legend:
        """The first task's classes."""
        return self.legends[""]

    @property
    def task(self) -> str:
        """Name of the second task that is mapped too; "" where there is none."""
        return _second(self.legends)


def as_stored(checkpoint: Checkpoint, source: Source, request: MapRequest) -> Scene:
    """A scene as its files are, opened for a map. Raises as `open_scene` does."""
    return open_scene(
        source,
        nodata=request.nodata,
        band_names=request.band_names,
        area=request.area,
        wanted=checkpoint.bands,
        asset=request.asset,
        allow_remote=request.allow_remote,
    )


@contextmanager
def opened_for(
    checkpoint: Checkpoint, source: Source, request: MapRequest
) -> Iterator[tuple[Scene, list[Difference], Watched]]:
    """Open a scene and adjust it to the model's contract; also yields what was adjusted, and its files as
    they are now. Raises as `open_scene` does.
    """
    with (
        # Where something is adjusted two scenes are open: the adjusted one reads from the one as stored, and
        # closes first.
        as_stored(checkpoint, source, request) as stored,
        ExitStack() as handles,
    ):
        # Before anything is read: a file replaced from now on is noticed.
        watched = Watched.of(files_of_map(request, stored))
        scene, adjusted = fitted(checkpoint.contract, stored)
        handles.enter_context(scene)
        yield scene, adjusted, watched


@contextmanager
def fitting(
    checkpoint: Checkpoint, source: Source, request: MapRequest, *, stride: int = 1
) -> Iterator[tuple[Scene, tuple[Difference, ...], Watched]]:
    """As `opened_for`, with all that differs from the model's contract."""
    with opened_for(checkpoint, source, request) as (scene, adjusted, watched):
        with stage("check the scene"):
            found = (*adjusted, *compare(checkpoint.contract, scene, stride=stride))
        yield scene, found, watched


@contextmanager
def prepared(
    request: MapRequest,
    models: Sequence[Checkpoint],
    scene: Scene,
    out: Path,
    *,
    overwrite: bool,
    notes: Sequence[str],
    watched: Watched,
    patience: float = 0,
    journal: str | None = None,
    in_job: bool = False,
) -> Iterator[MapWork]:
    """Plan a map, and hold the locks of its files while the block runs, for which it waits `patience`
    seconds. `in_job`: another process of this job holds the one that keeps other runs from them. Tiles are
    kept in `out`, or below the address `journal`. Everything that can fail is checked here, before the first
    tile: raises BadOption, BadInput, BadFile.
    """
    checkpoint, grid = models[0], scene.grid
    bands_to_read(checkpoint.bands, scene)  # a missing band is refused even with `force`
    stem = map_stem(request, scene.name)
    mate = second_task(models)
    task = mate.name if mate else ""
    paths = paths_of(request, out, stem, located=grid.is_on_earth, task=task)
    _check_files(request, scene, paths)
    with stage("load the network"):
        scorer = scorer_of(request, models)
    plan = tiles_of(request, scorer, scene)
    store = store_for(out, stem, journal)
    with stage("choose the engine"):
        scorer, told_of_engine = settled(scorer, plan, request, store)
    if line := _checked_precision(scorer, request, models, scene, plan):
        notes = [*notes, line]
    notes = [*notes, *filter(None, [size_warning(scorer, plan), _overlap_warning(plan)])]
    notes = [*notes, *told_of_engine, *filter(None, [other_scaling(checkpoint)])]
    if mate is None and any(one.mate for one in models):
        notes = [*notes, "the second task is not mapped: not all models learned one of that name and classes"]
    legends = {"": checkpoint.legend} | ({task: mate.legend} if mate else {})
    if request.reject is not None:
        legends = {name: with_unknown(legend) for name, legend in legends.items()}
    key = tile_key(request, models, scene, plan, scorer.device.type, watched, engine=scorer.engine)
    make_folder(out)
    with _locks(out, stem, patience, in_job=in_job):
        wanted = planes_wanted(request, models)
        notes = [*notes, *_room(request, out, store, scene, plan, len(wanted))]
        # Files beside tiles with this very key are this map's own, finished before it was stopped.
        replace = overwrite or is_begun(store, key)
        # Before the journal: a folder that refuses the map must not lose an earlier map's tiles.
        _check_room(paths, replace)
        _try_outputs(request, grid, legends, paths)
        if leftover := leftover_files(out, stem, paths, task):
            verb = "are" if len(leftover) > 1 else "is"
            # Reported, not deleted: only the user knows whether they are still wanted.
            notes = [*notes, f"{', '.join(leftover)} in {out} {verb} from an earlier map, not from this one"]
        kept = Journal(store, key, wanted, machine=machine_now(), overwrite=overwrite)
        notes = [*notes, *filter(None, [kept.deleted]), *unlike_before(kept.machine)]
        made, told = (stem, paths, rasters_of(request, task)), tuple(notes)
        yield MapWork(request, scorer, scene, plan, legends, *made, kept, replace, told, watched)


def _overlap_warning(plan: TilePlan) -> str:
    """Where tiles are mostly what their neighbours see too; empty elsewhere. Border tiles of a scene little
    larger than a tile are no reason.
    """
    least = ((plan.core + 2 * plan.halo) / plan.core) ** 2
    if plan.scaled or least <= MANY_TIMES or len(plan) == 1:
        return ""
    return (
        f"tiles of {plan.core + 2 * plan.halo} pixels see {plan.halo} more on each side than they map: "
        f"{forward_share(plan):.0f} pixels are predicted for each one mapped. Larger tiles (`tile_size`) "
        "take less time; a model exported for one size has to be exported for a larger one (export --size)"
    )


@contextmanager
def _locks(out: Path, stem: str, patience: float, *, in_job: bool) -> Iterator[None]:
    others = nullcontext() if in_job else held_by_job(out, stem, patience=patience)
    with others, locked(out / stem, patience=patience):
        yield


def held_by_job(out: Path, stem: str, *, patience: float) -> AbstractContextManager[None]:
    """The lock that keeps other runs from a map's files and tiles while processes of one job take turns to
    hold the lock of the files. Raises as `locked`, which removes what killed processes left.
    """
    return locked(out / stem, patience=patience, of="job", tidy=False)


def other_scaling(checkpoint: Checkpoint) -> str:
    """What to know of the map of a second task alone, where a map of both would show other classes: there the
    scene is scaled for both tasks as the first one's images. Empty elsewhere.
    """
    both = checkpoint.whole
    if both is None or both.contract.normalisation == checkpoint.contract.normalisation:
        return ""
    return (
        f"scaled as the training images of {both.mate.name}, as `evaluate` scales them; a map of both tasks "
        "scales the scene as those of the first task, and may differ"
    )


LEAST_SHARE = 0.02
"""Share of its largest size that a map takes at least (ours): below it the disk is too small in any case."""


def _room(
    request: MapRequest, out: Path, begun: Store, scene: Scene, plan: TilePlan, layers: int
) -> list[str]:
    """A note where the disk may be too small for the map's rasters of so many `layers`; tiles in the store
    `begun` may be on it already. Raises BadFile where it certainly is, unless the map is forced.
    """
    most = bytes_on_disk(scene.grid.window.pixels, layers, journal=not begun.remote)
    free = free_bytes(out)
    if free is None:
        return []
    free += begun.stored_bytes()
    note = room_note(most, free, out)
    if free < LEAST_SHARE * share_stored(scene, plan) * most and not request.force:
        raise BadFile(
            f"{note[0].upper()}{note[1:]}. Free some space, write to another disk (`out`), or pass "
            "`force=True` to begin anyway."
        )
    return [note] if note else []


def share_stored(scene: Scene, tiles: TilePlan) -> float:
    """Share of the tiles that may hold data: the holes of a sparse file are passed over unread."""
    step = max(1, tiles_given(tiles) // 4096)  # ours: looked up in milliseconds
    looked = [scene.may_hold(window) for window in itertools.islice(windows_read(tiles), 0, None, step)]
    return sum(looked) / max(1, len(looked))


def _second(legends: Mapping[str, Legend]) -> str:
    """Name of the second task; "" where there is none."""
    return next((name for name in legends if name), "")


def _check_files(request: MapRequest, scene: Scene, paths: Mapping[str, Path]) -> None:
    """Raises BadOption or BadFile for a name that no file can have, and for polygons that cannot be written:
    now, not after hours of mapping.
    """
    for path in paths.values():
        check_written(path)
    if request.polygons:
        # The format may need a package that is not installed.
        check_target(paths["polygons"])
        check_crs(paths["polygons"], scene.grid.crs)
        check_sizes(request.min_area, request.simplify, scene.grid, scene.name)


def scorer_of(request: MapRequest, models: Sequence[Checkpoint]) -> Scorer:
    """The models of a map ready for inference: both tasks at once where all of them learned a second."""
    return kept_scorer(
        models,
        device=request.device,
        precision=request.precision,
        protocol=request.protocol,
        both=second_task(models) is not None,
        unfamiliar=request.unfamiliar,
    )


def tiles_of(request: MapRequest, scorer: Scorer, scene: Scene) -> TilePlan:
    """The tiles of a map. Raises BadOption."""
    return plan_for(scorer, scene, tile_size=request.tile_size, overlap=request.overlap, blend=request.blend)


def settled(scorer: Scorer, plan: TilePlan, request: MapRequest, begun: Store) -> tuple[Scorer, list[str]]:
    """The scorer with its engine, and what to know of it. An interrupted map whose tiles lie in the store
    `begun` is resumed with the engine that it was begun with, unless another one is asked for.
    """
    engine = (request.engine == "auto" and engine_begun(begun)) or request.engine
    if engine != request.engine and not can_use(scorer, engine):
        # Begun with what is not installed here, say: the journal then says that the engine differs.
        engine = "torch"
    found = with_engine(scorer, [plan], engine)
    return found.scorer, found.notes


def _checked_precision(
    scorer: Scorer, request: MapRequest, models: Sequence[Checkpoint], scene: Scene, plan: TilePlan
) -> str:
    """How reduced precision compares with full precision on some tiles of the scene; "" where that is not
    measured. Raises Refused where it changes too many classes, unless the map is forced.
    """
    if not is_checked(scorer):
        return ""
    with stage("check the precision"):
        found = agreement(scorer, scorer_of(request.replace(precision="32"), models), [(scene, plan)])
    if found is None:
        return ""
    if not (found.enough or request.force):
        raise Refused(
            f"{found}; at least {100 * LEAST_EQUAL:.0f} % are required. Map with `precision='32'`, or pass "
            "`force=True` to map anyway."
        )
    print_line(str(found))
    return str(found)


def with_unknown(legend: Legend) -> Legend:
    """Append the class "unknown" to the legend. Raises BadInput where the legend has it already or no class
    value is free.
    """
    free = next((value for value in range(254, -1, -1) if value not in legend.values), None)
    if free is None or UNKNOWN in legend.names:
        raise BadInput(
            f"The class {UNKNOWN!r} cannot be added to the legend: "
            f"{'it has one' if UNKNOWN in legend.names else 'no value is free'}."
        )
    return Legend((*legend.classes, LandClass(free, UNKNOWN, (120, 120, 120), "confidence below the limit")))


def _check_room(paths: Mapping[str, Path], overwrite: bool) -> None:
    """Raises BadFile where one of the files exists and may not, or cannot, be replaced. All of them, before
    any work: a report that exists would stop the map at its end.
    """
    taken = [path for path in paths.values() if path.exists()]
    if taken and not overwrite:
        raise BadFile(
            f"{taken[0]} exists{_made_otherwise(paths['run'])}; pass `overwrite=True` to replace it, or "
            "another `out` or `name`."
        )
    for path in taken:
        check_replaceable(path)


def _made_otherwise(run: Path) -> str:
    """By which other code a map was made, as a part of a sentence: a job would else have passed over it."""
    try:
        made = json.loads(run.read_text(encoding="utf-8"))["build"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return f", made by labelscape {made} (this is {build()})" if made != build() else ""


def _try_outputs(
    request: MapRequest, grid: Grid, legends: Mapping[str, Legend], paths: Mapping[str, Path]
) -> None:
    """Write what may fail for its format or its place: a polygon, a footprint, a file of each name. Raises
    BadFile, BadInput or BadOption.
    """
    for path in paths.values():
        try_to_write(path)
    if request.polygons:
        for task, legend in legends.items():
            try_target(paths[kind_of("polygons", task)], grid, legend)
    if "stac" in paths:
        footprint(grid)
