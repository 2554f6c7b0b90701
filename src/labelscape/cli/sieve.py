"""labelscape sieve: apply a minimum mapping unit to a class map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, Co, Overwrite, Workers, grouped, print_json
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
    from labelscape.areas.sieve import SieveSummary

NAME = "sieve"


@grouped
def run(
    rasters: Rasters,
    *,
    out: ManyOut = None,
    min_area: Annotated[
        float,
        typer.Option("--min-area", help="Minimum mapping unit in hectares (pixels without coordinates)."),
    ],
    legend: Annotated[
        Path | None,
        typer.Option(
            "--legend", help="Checkpoint to take the class names from.", show_default="the raster's own names"
        ),
    ] = None,
    workers: Workers,
    overwrite: Overwrite = False,
    creation_options: Co = [],
    as_json: AsJson = False,
) -> None:
    """Merge areas smaller than a minimum mapping unit into a neighbour; no gaps are left.

    The smallest areas are merged first, each into the class with which it shares the longest border; the area
    it joins grows by it. Areas are 4-connected. Nodata is never changed and never a neighbour. OUT is a
    GeoTIFF (COG). Of many class maps one that fails does not stop the others; the exit code is then 1.

    Examples:

      labelscape sieve map/scene_class.tif map/scene_half_hectare.tif --min-area 0.5

      labelscape sieve "maps/*_class.tif" --out sieved --min-area 0.5 --workers 4
    """
    rasters, out = of_one_file(rasters, out)
    if out is None:
        only_with_out(workers)
        how = {"overwrite": overwrite, "creation_options": creation_options}
        _sieve_one(*one_target(rasters, NAME), min_area, legend, as_json, how)
        return
    from labelscape.areas.many import sieve_maps

    how = {"min_area": min_area, "overwrite": overwrite, "creation_options": creation_options}
    how |= asdict(workers)
    records = sieve_maps(rasters, out, legend_in(legend), **how)
    print_records(records, as_json, lambda done: f"{done.given:,} areas merged")


def _sieve_one(
    raster: str, out: str, min_area: float, legend: Path | None, as_json: bool, how: dict[str, Any]
) -> None:
    from labelscape.areas.sieve import check_minimum, sieve
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of
    from labelscape.rasters.creation import as_texts

    # Before the names: without an attribute table those take a pass over all pixels.
    check_minimum(min_area)
    as_texts(how["creation_options"])
    names, rows = legend_of(raster, legend)
    with bar(f"sieve {Path(raster).name}", rows, "rows") as tick:
        done = sieve(raster, out, names, min_area=min_area, **how, tick=tick)
    if as_json:
        print_json({"out": out, **asdict(done)})
        return
    print_sieved(done)
    print(f"{'sieved':<11}{out}")


def print_sieved(done: SieveSummary) -> None:
    """Print how many areas were merged, and the area of each class before and after."""
    from labelscape.evaluation.units import area_unit

    pixels = sum(c.pixels for c in done.classes)
    # 0 pixels are possible: a map of nothing but nodata.
    share = 100 * done.changed_pixels / max(1, pixels)
    changed = f"{done.changed_pixels:,} pixels changed class ({share:.2f} %)"
    print(f"{done.given:,} areas merged into a neighbour; {changed}")
    if done.left:
        print(f"{done.left:,} smaller areas remain: they are surrounded by nodata")
    # All classes or none: it depends on the raster's coordinates alone.
    known = done.classes[0].hectares is not None
    unit = area_unit((c.pixels_before, c.hectares_before) for c in done.classes)
    name = unit.name if known else "pixels"
    print(f"{'class':<20}{name + ' before':>18}{'after':>16}{'change':>14}")
    for c in done.classes:
        if known:
            before, after = unit.text(c.hectares_before), unit.text(c.hectares)
            change = unit.text(c.hectares - c.hectares_before, sign=True)
        else:
            before, after = f"{c.pixels_before:,}", f"{c.pixels:,}"
            change = f"{c.pixels - c.pixels_before:+,}"
        print(f"{c.name:<20}{before:>18}{after:>16}{change:>14}")
