"""labelscape polygonize: convert a class raster to polygons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Outlines, Overwrite, grouped, print_json, talk

NAME = "polygonize"


@grouped
def run(
    raster: Annotated[str, typer.Argument(help="Class map: one band of class values, 255 = nodata.")],
    out: Annotated[
        str,
        typer.Argument(help=".gpkg, .geojson, .fgb or .parquet, or postgresql://user@host/db?table=name."),
    ],
    *,
    outlines: Outlines,
    legend: Annotated[
        Path | None,
        typer.Option(
            "--legend", help="Checkpoint to take the class names from.", show_default="the raster's own names"
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert a class raster to polygons with class, pixels and hectares (measured on the ellipsoid).

    Examples:

      labelscape polygonize map/scene_class.tif fields.parquet --sieve 0.1 --simplify 20

      labelscape polygonize map/scene_class.tif "postgresql://gis@localhost/maps?table=land_cover"
    """
    from labelscape.areas.polygon_files import is_database
    from labelscape.areas.polygonize import polygonize
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of

    names, rows = legend_of(raster, legend)
    # A sieve counts all rows once more, before the polygons.
    with bar(f"polygons of {Path(raster).name}", rows * (2 if outlines.sieve else 1), "rows") as tick:
        done = polygonize(raster, out, names, **asdict(outlines), overwrite=overwrite, tick=tick)
    if as_json:
        print_json({"out": out, **asdict(done)})
        return
    left = (
        f", {done.left_out:,} below {outlines.min_area:g} ha dropped, leaving gaps "
        "(use --sieve to avoid them)"
        if done.left_out
        else ""
    )
    print(f"{done.written:,} polygon{'s' * (done.written != 1)}{left}")
    # Not the address of a database, which may hold a password.
    print(f"{'polygons':<11}{'the database' if is_database(out) else out}")
    if done.mostly_tiny:
        talk(
            f"{done.tiny:,} of them are smaller than {done.tiny_pixels} pixels: a minimum mapping unit "
            "(--sieve) merges such areas into their neighbours."
        )
