"""labelscape polygonize: convert a class raster to polygons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, Outlines, Overwrite, PolygonsAs, Workers, grouped, print_json, talk
from labelscape.cli.rasters import (
    ManyOut,
    Rasters,
    legend_in,
    of_one_file,
    one_target,
    only_with_out,
    print_records,
)

if TYPE_CHECKING:
    from labelscape.areas.polygonize import PolygonSummary

NAME = "polygonize"


@grouped
def run(
    rasters: Rasters,
    *,
    out: ManyOut = None,
    polygons_as: PolygonsAs = "gpkg",
    outlines: Outlines,
    legend: Annotated[
        Path | None,
        typer.Option(
            "--legend", help="Checkpoint to take the class names from.", show_default="the raster's own names"
        ),
    ] = None,
    workers: Workers,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert class rasters to polygons with class, pixels and hectares (measured on the ellipsoid).

    OUT is a file (.gpkg, .geojson, .fgb or .parquet) or postgresql://user@host/db?table=name. Of many class
    maps one that fails does not stop the others; the exit code is then 1.

    Examples:

      labelscape polygonize map/scene_class.tif fields.parquet --sieve 0.1 --simplify 20

      labelscape polygonize map/scene_class.tif "postgresql://gis@localhost/maps?table=land_cover"

      labelscape polygonize maps --out polygons --polygons-as fgb --workers 4
    """
    settings = {**asdict(outlines), "overwrite": overwrite}
    rasters, out = of_one_file(rasters, out)
    if out is None:
        only_with_out(workers, polygons_as != "gpkg")
        _polygonize_one(*one_target(rasters, NAME), legend, settings, as_json)
        return
    from labelscape.areas.many import polygonize_maps

    records = polygonize_maps(
        rasters, out, legend_in(legend), polygons_as=polygons_as, **settings, **asdict(workers)
    )
    print_records(records, as_json, lambda done: _said(done, outlines.min_area))


def _polygonize_one(
    raster: str, out: str, legend: Path | None, settings: dict[str, Any], as_json: bool
) -> None:
    from labelscape.areas.polygon_files import is_database
    from labelscape.areas.polygonize import polygonize
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of

    names, rows = legend_of(raster, legend)
    # A sieve counts all rows once more, before the polygons; said, since more rows than the map has look like
    # a mistake.
    passes = 2 if settings["sieve"] else 1
    with bar(f"polygons of {Path(raster).name} (passes: {passes})", rows * passes, "rows") as tick:
        done = polygonize(raster, out, names, **settings, tick=tick)
    if as_json:
        print_json({"out": out, **asdict(done)})
        return
    print(_said(done, settings["min_area"]))
    # Not the address of a database, which may hold a password.
    print(f"{'polygons':<11}{'the database' if is_database(out) else out}")
    if done.mostly_tiny:
        talk(
            f"{done.tiny:,} of them are smaller than {done.tiny_pixels} pixels: a minimum mapping unit "
            "(--sieve) merges such areas into their neighbours."
        )


def _said(done: PolygonSummary, min_area: float) -> str:
    left = (
        f", {done.left_out:,} below {min_area:g} ha dropped, leaving gaps (use --sieve to avoid them)"
        if done.left_out
        else ""
    )
    return f"{done.written:,} polygon{'s' * (done.written != 1)}{left}"
