"""labelscape map: a checkpoint and a scene in, a map out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Device, Nodata, Overlap, Overwrite, Precision, TileSize, print_json, scene_of, talk

NAME = "map"


def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    scene: Annotated[str, typer.Argument(help="Scene: a file, or a folder (or a,b,c) of single-band files.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the map's files.")],
    name: Annotated[str | None, typer.Option("--name", help="Stem of the files.", show_default="the scene's")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Also write a band of probabilities per class.")] = False,
    polygons: Annotated[bool, typer.Option("--polygons/--no-polygons", help="Write the map as polygons too.")] = True,
    min_area: Annotated[float, typer.Option("--min-area", help="Hectares below which a polygon is left out.")] = 0.0,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True,
    tile_size: TileSize = None,
    overlap: Overlap = None,
    nodata: Nodata = None,
    device: Device = "auto",
    precision: Precision = "32",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Map a scene of any size: classes, confidence, polygons with areas, a report. The checkpoint knows everything else.

    Example: labelscape map runs/a/mlp.safetensors scene.tif --out map
    """
    from labelscape.maps.run import map_scene

    result = map_scene(
        model, scene_of(scene), out, name=name, proba=proba, polygons=polygons, min_area=min_area, report=report, tile_size=tile_size,
        overlap=overlap, nodata=nodata, device=device, precision=precision, overwrite=overwrite,
    )  # fmt: skip
    for note in result.notes:
        talk(f"note: {note}")
    if as_json:
        print_json({
            "files": {kind: str(path) for kind, path in result.paths.items()}, "areas": [asdict(a) for a in result.areas],
            "nodata_pixels": result.nodata_pixels, "notes": list(result.notes), "seconds": result.seconds,
        })  # fmt: skip
        return
    print_areas(result.areas)
    for kind, path in result.paths.items():
        print(f"{kind:<11}{path}")


def print_areas(areas: tuple) -> None:
    total = max(1, sum(a.pixels for a in areas))
    print(f"{'class':<20}{'pixels':>14}{'share':>9}{'hectares':>14}")
    for a in areas:
        print(f"{a.name:<20}{a.pixels:>14,}{100 * a.pixels / total:>8.2f}%" + (f"{a.hectares:>14,.2f}" if a.hectares is not None else f"{'-':>14}"))
