"""labelscape map: a checkpoint and a scene in, a map out."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import (
    SCENE,
    AsJson,
    Averaging,
    Extras,
    Machine,
    Outlines,
    Overwrite,
    Reading,
    Tiles,
    given,
    grouped,
    option_of,
    print_json,
    scene_of,
    talk,
)
from labelscape.cli.sieve import print_sieved
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.maps.result import MapResult

NAME = "map"


@grouped
def run(
    ctx: typer.Context,
    model: Annotated[Path | None, typer.Argument(help="Checkpoint.")] = None,
    scene: Annotated[str | None, typer.Argument(help=SCENE)] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the map's files.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Stem of the files.", show_default="the scene's")
    ] = None,
    extras: Extras,
    reject: Annotated[
        float | None,
        typer.Option("--reject", help="Confidence (0..1) below which a pixel becomes the class unknown."),
    ] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons/--no-polygons", help="Write the map as polygons too.")
    ] = True,
    polygons_as: Annotated[
        str, typer.Option("--polygons-as", help="Format of the polygons: gpkg, geojson, fgb or parquet.")
    ] = "gpkg",
    outlines: Outlines,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True,
    tiles: Tiles,
    reading: Reading,
    machine: Machine,
    averaging: Averaging,
    force: Annotated[
        bool, typer.Option("--force", help="Map a scene that `check` refuses; the map carries the findings.")
    ] = False,
    again: Annotated[
        Path | None,
        typer.Option(
            "--rerun", metavar="RUN.json", help="Make the map of this _run.json again; no other arguments."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Map a scene of any size: classes, confidence, polygons with areas, a report. The checkpoint knows
    everything else.

    Stopped or killed, the same command goes on where it was.

    Examples:

      labelscape map runs/a/mlp.safetensors scene.tif --out map

      labelscape map runs/a/mlp.safetensors tiles/ --area district.gpkg --out map

      labelscape map runs/a/mlp.safetensors S2A_33UUU.json --out map --sieve 0.5

      labelscape map --rerun map/scene_run.json --out again

      labelscape map a.safetensors scene.tif --out map --also b.safetensors --tta dihedral --reject 0.6
    """
    if again is not None:
        _only_out(ctx, again)
        from labelscape.maps.rerun import rerun

        _tell(rerun(again, out, overwrite=overwrite), as_json)
        return
    if model is None or scene is None:
        raise BadOption(
            "labelscape map needs a checkpoint and a scene, or --rerun with the _run.json of a map."
        )
    from labelscape.maps.run import map_scene

    result = map_scene(
        [model, *averaging.also],
        scene_of(scene),
        out,
        name=name,
        reject=reject,
        polygons=polygons,
        polygons_as=polygons_as,
        report=report,
        overwrite=overwrite,
        force=force,
        **asdict(extras),
        **asdict(outlines),
        **asdict(tiles),
        **asdict(reading),
        **asdict(machine),
        **averaging.settings,
    )
    _tell(result, as_json)


def _only_out(ctx: typer.Context, again: Path) -> None:
    """Raises BadOption where --rerun stands beside options that the run file answers."""
    said = [
        p.name
        for p in ctx.command.params
        if given(ctx, p.name) and p.name not in ("again", "out", "overwrite", "as_json")
    ]
    if said:
        arguments = {"model": "a checkpoint", "scene": "a scene"}
        named = ", ".join(arguments.get(n) or option_of(ctx, n) for n in said)
        raise BadOption(
            f"--rerun takes every option but --out from {again}, but also found {named}. Leave that out, or "
            "map anew without --rerun."
        )


def _tell(result: MapResult, as_json: bool) -> None:
    for note in result.notes:
        talk(f"note: {note}")
    if as_json:
        print_json(
            {
                "files": {kind: str(path) for kind, path in result.paths.items()},
                "areas": [asdict(a) for a in result.areas],
                "nodata_pixels": result.nodata_pixels,
                "sieved": None if result.sieved is None else asdict(result.sieved),
                "notes": list(result.notes),
                "seam_score": None if math.isnan(result.seam) else result.seam,
                "seconds": result.seconds,
            }
        )
        return
    from labelscape.evaluation.text import print_areas

    print_areas(result.areas)
    if result.sieved is not None:
        print("\nsieved, as the polygons are: ", end="")
        print_sieved(result.sieved)
    if not math.isnan(result.seam):
        print(
            f"seam score {result.seam:.2f}: classes change {result.seam:.2f} times as often where tiles "
            "meet as inside them (1: no trace of tiles)"
        )
    for kind, path in result.paths.items():
        print(f"{kind:<11}{path}")
