"""Map a scene with a checkpoint (`map_scene`): class raster, confidence, polygons, areas, report."""

from __future__ import annotations

import datetime
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from labelscape.areas.sieve import SieveSummary
from labelscape.areas.sieve import sieve as merge_small_areas
from labelscape.checkpoint import Checkpoint, load_all
from labelscape.contract.difference import Difference
from labelscape.contract.matching import bands_to_read
from labelscape.errors import LabelscapeError
from labelscape.files import check_folder, written_whole
from labelscape.maps.arriving import in_order
from labelscape.maps.outputs import kind_of, map_name
from labelscape.maps.plan import mark_forced, refuse_unless
from labelscape.maps.rasters import Tally, Tiles, write_rasters
from labelscape.maps.request import MapRequest, MapSettings, Models, request_for, spelt_out
from labelscape.maps.result import MapResult
from labelscape.maps.stac import write_item
from labelscape.maps.work import MapWork, fitting, prepared
from labelscape.progress import bar, print_line
from labelscape.scenes.files import Source, source_paths
from labelscape.scoring.machine import as_many_threads
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scales import tiles_given
from labelscape.scoring.stitch import forward_share
from labelscape.stages import stage
from labelscape.version import __version__, build
from labelscape.workers.calls import ClusterLost

if TYPE_CHECKING:
    from labelscape.areas.polygonize import PolygonSummary

LONG = 10_000_000
"""Pixels of a map from which polygons and sieve show a progress bar (ours)."""


@spelt_out
def map_scene(
    checkpoint: Models | None = None,
    scene: Source | None = None,
    out: str | Path | None = None,
    *,
    request: MapRequest | None = None,
    protocol: Protocol | None = None,
    overwrite: bool = False,
    **settings: Unpack[MapSettings],
) -> MapResult:
    """Map a scene of any size into the folder `out`; memory does not grow with the scene.

    checkpoint  a checkpoint, its file, or several whose probabilities are averaged
    scene       a file, a folder or list of files, a STAC item; also an open rasterio dataset, an
                xarray.DataArray with rioxarray's coordinates, an `ArrayScene`, an open `Scene`
    request     all settings as one value; checkpoint and scene may be in it too
    protocol    `scales`, `tta` and `average` as one value
    overwrite   replace files that exist
    settings    those of `MapRequest`; they change the `request`. With their defaults:

    {settings}

    A map that was interrupted in `out` is resumed, to the same bytes. Where a setting that changes the values
    of its tiles differs, or a file of the scene has changed, it is refused; `overwrite` then deletes its
    tiles. The scene's files are compared again when all tiles are made.

    Raises BadOption with all invalid settings, UnknownName for a `task` that a model did not learn, BadInput
    where the scene does not fit the model (see `check`), BadFile where files cannot be read or written, or
    another run writes the same map. Files are written atomically.
    """
    request = request_for(checkpoint, scene, request, protocol, settings)
    check_folder(out, "The folder of a map (out)")
    with stage("load the checkpoint"):
        models = load_all(checkpoint if checkpoint is not None else request.checkpoint)
    source = scene if scene is not None else request.scene
    return map_with(models, source, Path(out), request, overwrite=overwrite)


def map_with(
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
) -> MapResult:
    """`map_scene` with models that are loaded, and with tiles that may come from elsewhere (`Tiles`) and are
    kept there (`journal`, an address). While another run writes the same map it waits for `patience` seconds.
    `spent` are the seconds that this job took to make the tiles in the journal; None where an earlier run
    made some, or there are none. `in_job`: see `prepared`.
    """
    start = time.monotonic() - (spent or 0)
    how = {"overwrite": overwrite, "patience": patience, "journal": journal, "in_job": in_job}
    with opened_work(models, source, out, request, **how) as (work, findings), _said_where_kept(work):
        with as_many_threads(work.journal.machine):
            tallies = write_rasters(work, tiles)
        # After the rasters are finished: their writer makes the side file that this one adds to.
        # From the finished raster, not from tiles: an area may reach over any number of them.
        for task in work.legends:
            mark_forced(work.paths[kind_of("class", task)], findings)
        made = {task: (_write_sieved(work, task), _write_polygons(work, task)) for task in work.legends}
        facts = _facts(work, _sources(models), source)
        # Counted before this run wrote its own.
        resumed = bool(work.journal.found) and spent is None
        result = _result(work, tallies, facts, made, seconds=time.monotonic() - start, resumed=resumed)
        _write_report(work, result)
        _write_run(work.paths["run"], result, work.overwrite)
        # After all files it lists: it holds their sizes and checksums.
        _write_stac(work, facts)
        # Last: until all files are written an interrupted map must find its tiles.
        work.journal.close()
    return result


@contextmanager
def _said_where_kept(work: MapWork) -> Iterator[None]:
    """Say where the finished tiles are if the map is stopped: by Ctrl-C, by a signal (which the command line
    makes SystemExit), or because the scheduler of its workers is gone.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ClusterLost):
        journal = work.journal
        with suppress(LabelscapeError):  # the server that holds them may be what is gone
            if kept := journal.count():
                tiles = (
                    f"{kept} finished tile{'s are' if kept > 1 else ' is'} kept in {journal.store.address}"
                )
                print_line(f"{work.stem}: {tiles}; the same command resumes the map")
        raise


@contextmanager
def opened_work(
    models: Sequence[Checkpoint],
    source: Source,
    out: Path,
    request: MapRequest,
    *,
    overwrite: bool = False,
    patience: float = 0,
    journal: str | None = None,
    in_job: bool = False,
) -> Iterator[tuple[MapWork, tuple[Difference, ...]]]:
    """A map that can begin, its journal opened, and what was found of its scene. Raises as `map_scene`."""
    models = [one.task(request.task) for one in models]
    with fitting(models[0], source, request) as (opened, findings, watched):
        # Refused here and not in `prepared`: nothing of a refused map may be on disk, not even its folder.
        if not request.force:
            refuse_unless(findings, opened.name, request.task)
        # With `force` the causes of the refusal become notes: they go into report and run file.
        notes = [finding.cause for finding in findings]
        told = {"overwrite": overwrite, "notes": notes, "watched": watched, "patience": patience}
        with prepared(request, models, opened, out, **told, journal=journal, in_job=in_job) as work:
            yield work, findings


@stage("sieve")
def _write_sieved(work: MapWork, task: str) -> SieveSummary | None:
    """Write the map sieved to the minimum mapping unit, where one is set."""
    grid = work.scene.grid
    if not work.request.sieve:
        return None
    named = f"{task} of {work.stem}" if task else work.stem
    with bar(f"sieve {named}", grid.height, "rows", shown=grid.window.pixels > LONG) as tick:
        return merge_small_areas(
            work.paths[kind_of("class", task)],
            work.paths[kind_of("sieved", task)],
            work.legends[task],
            min_area=work.request.sieve,
            overwrite=work.overwrite,
            creation_options=work.request.creation_options,
            tick=tick,
        )


@stage("polygons")
def _write_polygons(work: MapWork, task: str) -> PolygonSummary | None:
    """Polygonize the sieved map where there is one, else the class map."""
    grid, request = work.scene.grid, work.request
    if not request.polygons:
        return None
    from labelscape.areas.polygonize import polygonize

    named = f"{task} of {work.stem}" if task else work.stem
    with bar(f"polygons of {named}", grid.height, "rows", shown=grid.window.pixels > LONG) as tick:
        return polygonize(
            work.paths[kind_of("sieved" if request.sieve else "class", task)],
            work.paths[kind_of("polygons", task)],
            work.legends[task],
            min_area=request.min_area,
            simplify=request.simplify,
            overwrite=work.overwrite,
            tick=tick,
        )


@stage("report")
def _write_report(work: MapWork, result: MapResult) -> None:
    if not work.request.report:
        return
    from labelscape.maps.page import write_map_report

    # The map's legends: they have the class "unknown" where pixels were rejected.
    checkpoint = replace(work.scorer.checkpoint, legend=work.legend)
    if work.task:
        checkpoint = replace(checkpoint, mate=replace(checkpoint.mate, legend=work.legends[work.task]))
    write_map_report(work.paths["report"], checkpoint, work.scene, result, overwrite=work.overwrite)


@stage("STAC item")
def _write_stac(work: MapWork, facts: dict[str, Any]) -> None:
    """A scene without coordinates has no item."""
    if "stac" in work.paths:
        write_item(
            work.paths["stac"],
            work.scene.grid,
            work.legend,
            work.paths,
            facts["when"],
            software=facts["software"],
            overwrite=work.overwrite,
            second=(work.task, work.legends[work.task]) if work.task else None,
        )


def _result(
    work: MapWork,
    tallies: Mapping[str, Tally],
    facts: dict[str, Any],
    made: Mapping[str, tuple[SieveSummary | None, PolygonSummary | None]],
    *,
    seconds: float,
    resumed: bool,
) -> MapResult:
    def of(task: str, paths: dict[str, Path]) -> MapResult:
        tally = tallies[task]
        return MapResult(
            paths,
            tally.areas(),
            int(tally.nodata),
            work.notes,
            seconds,
            tiles_given(work.plan),
            forward_share(work.plan),
            math.nan if tally.seams is None else tally.seams.score,
            facts,
            *made[task],
            resumed=resumed,
            unfamiliar=None
            if tally.unfamiliar is None
            else tally.unfamiliar / max(1, int(tally.pixels.sum())),
        )

    mapped = {
        task: of(
            task, {k.removeprefix(f"{task}_"): p for k, p in work.paths.items() if k.startswith(f"{task}_")}
        )
        for task in tallies
        if task
    }
    return replace(of("", work.paths), tasks=mapped)


def _sources(models: Sequence[Checkpoint]) -> list[dict[str, str | None]]:
    """Paths and SHA-256 of the checkpoints; None for those made or changed in memory."""
    return [{"path": None, "sha256": None} if one.stored is None else asdict(one.stored) for one in models]


def _facts(work: MapWork, models: list[dict[str, str | None]], source: Source) -> dict[str, Any]:
    """Everything needed to make the map again, and the values that settings resolved to."""
    grid, plan, scorer = work.scene.grid, work.plan, work.scorer
    checkpoint = scorer.checkpoint
    return {
        "name": map_name(work.request, work.scene.name),
        "software": f"labelscape {__version__}",
        "build": build(),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scene": source_paths(source) or f"{type(source).__name__} in memory",
        "size": [grid.width, grid.height],
        "crs": grid.crs.to_string() if grid.crs else None,
        "pixel_size_m": grid.ground_pixel_size,
        "network": checkpoint.network,
        **({"task": checkpoint.whole.mate.name} if checkpoint.whole else {}),
        "bands": list(bands_to_read(checkpoint.bands, work.scene)),
        "core": plan.shown.core,
        "halo": plan.shown.halo,
        "blend": plan.shown.fade,
        "tiles": tiles_given(plan),
        "scales": list(scorer.protocol.scales),
        "tta": scorer.protocol.tta,
        "models_averaged": len(scorer.members),
        # As resolved: the request may say "auto".
        "device": str(scorer.device),
        "precision": _precision_of(work),
        "engine": scorer.engine,
        # Tell whether a finished map is still that of its scene.
        "scene_files": work.watched.named(),
        # Of the run that began the map: what the last digits of its values depend on.
        "machine": work.journal.machine,
        "models": models,
        "request": work.request.model_dump(mode="json"),
    }


def _precision_of(work: MapWork) -> str:
    scorer = work.scorer
    return work.request.precision if scorer.dtype is None else str(scorer.dtype).removeprefix("torch.")


def _write_run(path: Path, result: MapResult, overwrite: bool) -> None:
    """Write _run.json. `options` repeats the settings in the form of older versions, for scripts."""
    options = dict(result.facts["request"])
    protocol = {name: options.pop(name) for name in ("scales", "tta", "average")}
    for name in ("checkpoint", "scene", "name"):
        del options[name]
    fields = {
        **result.facts,
        "options": {**options, "protocol": protocol},
        **_counted(result),
        "notes": list(result.notes),
        "seconds": round(result.seconds, 2),
        "speed": None if result.speed is None else result.speed.to_dict(),
        "seam_score": _seam_score(result),
        **({} if result.unfamiliar is None else {"unfamiliar_share": round(result.unfamiliar, 6)}),
        "forward_share": None if math.isnan(result.forward_share) else round(result.forward_share, 4),
    }
    if result.tasks:
        fields["tasks"] = {
            name: {**_counted(one), "seam_score": _seam_score(one)} for name, one in result.tasks.items()
        }
    with written_whole(path, overwrite=overwrite) as part:
        # newline: the same bytes on Windows.
        part.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8", newline="\n")


def _counted(result: MapResult) -> dict[str, Any]:
    """Files and areas of the map of one task, as JSON values."""
    return {
        "files": {kind: p.name for kind, p in result.paths.items()},
        "areas": [asdict(a) for a in result.areas],
        "nodata_pixels": result.nodata_pixels,
        "sieved": None if result.sieved is None else asdict(result.sieved),
    }


def _seam_score(result: MapResult) -> float | None:
    # NaN is not JSON.
    return None if math.isnan(result.seam) else round(result.seam, 4)
