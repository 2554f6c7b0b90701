"""labelscape map: map a scene with a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.batch import Batch, print_script
from labelscape.cli.given_files import check_files, check_models
from labelscape.cli.options import (
    LISTS,
    SCENE,
    AsJson,
    Averaging,
    Co,
    Each,
    Extras,
    Inference,
    Outlines,
    Overwrite,
    PolygonsAs,
    Reading,
    Tiles,
    Workers,
    as_options,
    given,
    grouped,
    option_of,
    print_json,
    talk,
)
from labelscape.cli.scenes import scenes_of
from labelscape.cli.sieve import print_sieved
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.maps.job import JobResult
    from labelscape.maps.result import MapResult
    from labelscape.scenes.scene_list import SceneList

NAME = "map"


@dataclass(frozen=True, kw_only=True)
class Products:
    """Which files are written, and which pixels become unknown."""

    name: Annotated[
        str | None, typer.Option("--name", help="Stem of the file names.", show_default="the scene's")
    ] = None
    reject: Annotated[
        float | None,
        typer.Option("--reject", help="Confidence (0..1) below which a pixel becomes the class unknown."),
    ] = None
    polygons: Annotated[
        bool, typer.Option("--polygons/--no-polygons", help="Write the map as polygons too.")
    ] = True
    polygons_as: PolygonsAs = "gpkg"
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True
    creation_options: Co = field(default_factory=list)
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Map a scene that `check` refuses; the findings are recorded with the map."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Shared(Workers):
    """Who does the work, and what a worker is given."""

    grain: Annotated[
        str,
        typer.Option(
            "--grain",
            help="What a worker is given: scene, block (of a scene's tiles) or auto (by number and size).",
        ),
    ] = "auto"
    journal: Annotated[
        str | None,
        typer.Option(
            "--journal",
            metavar="s3://BUCKET/PREFIX",
            help="Keep finished tiles on S3: the workers then need no folder in common.",
            show_default="in --out",
        ),
    ] = None


Profiled = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Print what takes the time, and write OUT/map_trace.json, which ui.perfetto.dev opens.",
    ),
]
TRACE = "map_trace.json"
Again = Annotated[
    Path | None,
    typer.Option(
        "--rerun",
        metavar="RUN.json",
        help="Repeat the map of this _run.json; takes --out and no other settings.",
    ),
]


@grouped
def run(
    ctx: typer.Context,
    model: Annotated[Path | None, typer.Argument(help="Checkpoint.")] = None,
    scenes: Annotated[list[str] | None, typer.Argument(metavar="SCENE", help=f"{SCENE} {LISTS}")] = None,
    *,
    each: Each = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the map's files.")],
    products: Products,
    extras: Extras,
    outlines: Outlines,
    tiles: Tiles,
    reading: Reading,
    machine: Inference,
    averaging: Averaging,
    workers: Shared,
    batch: Batch,
    profile: Profiled = False,
    again: Again = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Map scenes of any size: class and confidence rasters, polygons with areas, a report.

    Bands, scaling, classes and colours come from the checkpoint. An interrupted or killed map is resumed by
    the same command. Of several scenes one that fails does not stop the others; the same command then maps
    what is missing.

    Examples:

      labelscape map runs/a/mlp.safetensors scene.tif --out map

      labelscape map runs/a/mlp.safetensors tiles/ --area district.gpkg --out map

      labelscape map runs/a/mlp.safetensors S2A_33UUU.json --out map --sieve 0.5

      labelscape map runs/a/mlp.safetensors "archive/**/*.tif" --out maps --workers 4

      labelscape map runs/a/mlp.safetensors search.json --each --asset visual --out maps

      labelscape map --rerun map/scene_run.json --out again

      labelscape map runs/both/dfcnet.safetensors scene.tif --out roads --task road

      labelscape map a.safetensors scene.tif --out map --also b.safetensors --tta dihedral --reject 0.6
    """
    if again is not None:
        _repeat(ctx, again, out, overwrite, as_json)
        return
    # Optional for typer only because --rerun takes neither.
    if model is None or not scenes:
        raise BadOption("labelscape map needs a checkpoint and a scene, or --rerun with a map's _run.json.")
    check_models([model, *averaging.also], scenes)
    check_files([*scenes, reading.area])
    settings = averaging.settings | reading.settings
    settings |= {k: v for g in (products, extras, outlines, tiles, machine) for k, v in asdict(g).items()}
    sources = scenes_of(scenes, each=each, settings=settings)
    if print_script(ctx, batch, [model, *averaging.also], sources, out, settings):
        return
    mapped = _profiled if profile else _map
    mapped([model, *averaging.also], sources, out, workers, as_json, {**settings, "overwrite": overwrite})


def _repeat(ctx: typer.Context, again: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    # Options beside --rerun would be ignored, and the map taken for one made with them.
    _only_out(ctx, again)
    from labelscape.maps.rerun import rerun

    _tell(rerun(again, out, overwrite=overwrite), as_json)


def _profiled(
    models: list[Path],
    sources: SceneList,
    out: Path,
    workers: Workers,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Map, then print the stages to stderr and write the trace."""
    import json

    from labelscape.files import check_replaceable, written_whole
    from labelscape.stages import profiled

    if workers.workers is not None or workers.cluster is not None:
        raise BadOption("--profile times this process, and workers are others: leave one of them out.")
    trace = out / TRACE
    if trace.exists():  # now, not after hours of mapping
        check_replaceable(trace)
    with profiled() as profile:
        _map(models, sources, out, workers, as_json, settings)
    talk(profile.table())
    with written_whole(trace, overwrite=True) as part:
        part.write_text(json.dumps(profile.trace()), encoding="utf-8")
    talk(f"trace    {trace} (open it at https://ui.perfetto.dev)")


def _map(
    models: list[Path],
    sources: SceneList,
    out: Path,
    workers: Shared,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Map one scene or many, and print what was made."""
    alone = workers.workers is None and workers.cluster is None and workers.journal is None
    if len(sources) == 1 and alone:
        from labelscape.maps.run import map_scene

        _tell(map_scene(models, sources[0].source, out, **settings), as_json)
        return
    from labelscape.maps.many import map_scenes

    _tell_job(map_scenes(models, sources, out, **asdict(workers), **settings), as_json)


def _only_out(ctx: typer.Context, again: Path) -> None:
    """Raises BadOption where --rerun is given with options that the run file holds already."""
    said = [
        p.name
        for p in ctx.command.params
        if given(ctx, p.name) and p.name not in ("again", "out", "overwrite", "as_json")
    ]
    if said:
        arguments = {"model": "a checkpoint", "scenes": "a scene"}
        named = ", ".join(arguments.get(n) or option_of(ctx, n) for n in said)
        raise BadOption(
            f"--rerun takes every option but --out from {again}, but also found {named}. Leave that out, or "
            "run map without --rerun."
        )


def _tell(result: MapResult, as_json: bool) -> None:
    for note in result.notes:
        talk(f"note: {note}")
    if as_json:
        print_json(
            {
                **_facts(result),
                "notes": list(result.notes),
                # JSON has no NaN: null where a map has no seams.
                "seam_score": None if math.isnan(result.seam) else result.seam,
                "seconds": result.seconds,
                "speed": None if result.speed is None else result.speed.to_dict(),
                **(
                    {"tasks": {name: _facts(one) for name, one in result.tasks.items()}}
                    if result.tasks
                    else {}
                ),
            }
        )
        return
    from labelscape.evaluation.text import print_areas
    from labelscape.maps.page import unfamiliar_text

    for name, one in {"": result, **result.tasks}.items():
        if name:
            print(f"\n{name}:")
        print_areas(one.areas)
        if one.unfamiliar is not None:
            print(unfamiliar_text(one.unfamiliar))
        if one.sieved is not None:
            print("\nsieved map, of which the polygons are made: ", end="")
            print_sieved(one.sieved)
    # A map of one tile has no seams.
    if not math.isnan(result.seam):
        print(
            f"seam score {result.seam:.2f}: classes change {result.seam:.2f} times as often where tiles "
            "meet as inside them (1: no seams)"
        )
    if result.speed is not None:
        print(f"{result.speed}")
    for kind, path in result.paths.items():
        print(f"{kind:<{max(map(len, result.paths)) + 1}}{path}")


def _tell_job(result: JobResult, as_json: bool) -> None:
    """Print what became of each scene. The exit code is 1 unless all have a map."""
    if as_json:
        print_json({"scenes": [record.to_dict() for record in result.records], "seconds": result.seconds})
    else:
        for record in result.records:
            cause = f": {as_options(record.cause)}" if record.cause else ""
            print(f"{record.state:<8} {record.scene}{cause}")
        counts = ", ".join(f"{count} {state}" for state, count in result.counts.items())
        scenes = f"{len(result.records)} scene{'s' * (len(result.records) != 1)}"
        print(f"{scenes} in {result.seconds:.0f} s: {counts}")
        for what, ending in (("report", "html"), ("footprints", "gpkg")):
            if len(result.records) > 1 and (path := result.out / f"job.{ending}").exists():
                print(f"{what:<11}{path}")
    if not result.is_whole:
        raise typer.Exit(1)


def _facts(result: MapResult) -> dict[str, Any]:
    """Files and areas of the map of one task."""
    return {
        "files": {kind: str(path) for kind, path in result.paths.items()},
        "areas": [asdict(a) for a in result.areas],
        "nodata_pixels": result.nodata_pixels,
        "sieved": None if result.sieved is None else asdict(result.sieved),
        **({} if result.unfamiliar is None else {"unfamiliar_share": result.unfamiliar}),
    }
