"""labelscape mosaic: join class maps of many scenes into one map."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, Co, Overwrite, grouped, print_json, talk

if TYPE_CHECKING:
    from labelscape.areas.mosaic import MosaicSummary

NAME = "mosaic"


Maps = Annotated[
    list[str],
    typer.Argument(
        metavar="MAP", help="Class maps (_class.tif), folders of them, globs in quotes, lists, or a job.gpkg."
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="How a pixel is decided that several maps answer: proba (highest mean probability), confidence "
        "(the most confident map), first or last.",
        show_default="proba where all maps have it, else confidence",
    ),
]


@dataclass(frozen=True, kw_only=True)
class NamedGrid:
    """The grid of the mosaic, instead of that of the maps."""

    like: Annotated[
        str | None, typer.Option("--like", help="A raster whose grid the mosaic gets (CRS, pixels, extent).")
    ] = None
    crs: Annotated[
        str | None, typer.Option("--crs", help="CRS of the mosaic, such as EPSG:3035; with --pixel-size.")
    ] = None
    pixel_size: Annotated[
        float | None, typer.Option("--pixel-size", help="Pixel size of the mosaic in units of its CRS.")
    ] = None


@grouped
def run(
    maps: Maps,
    *,
    out: Annotated[Path, typer.Option("--out", help="The mosaic, a GeoTIFF (COG).")],
    method: Method = None,
    grid: NamedGrid,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Classes of one name are one class, whatever their values.")
    ] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the HTML report.")] = True,
    overwrite: Overwrite = False,
    creation_options: Co = [],
    as_json: AsJson = False,
) -> None:
    """Join the class maps of many scenes into one: every place once, with the areas of the whole.

    Maps with the same pixels are joined as they are. Maps of several UTM zones become one file a zone, in
    which no place is twice, unless --like or --crs names one grid: then they are sampled at its pixels.

    Examples:

      labelscape mosaic maps --out country.tif

      labelscape mosaic "maps/*_class.tif" --out country.tif --crs EPSG:3035 --pixel-size 10

      labelscape sieve country.tif country_1ha.tif --min-area 1
    """
    from labelscape.maps.mosaic import mosaic
    from labelscape.progress import bar

    settings = {"by_name": by_name, "report": report, "overwrite": overwrite, **asdict(grid)}
    settings |= {"creation_options": creation_options}
    done = mosaic(maps, out, method=method, **settings, progress=bar)
    for note in done.notes:
        talk(f"note: {note}")
    if as_json:
        print_json(_facts(done))
    else:
        _print(done)


def _print(done: MosaicSummary) -> None:
    from labelscape.areas.mosaic import METHODS
    from labelscape.evaluation.text import print_areas

    print_areas(done.areas)
    print(f"\n{done.maps:,} maps; where several answer, {METHODS[done.method]}")
    for file in done.files:
        width, height = file.size
        share = 100 * file.disputed / max(1, file.overlapped)
        differ = f"{file.overlapped:,} pixels of several maps, whose classes differ in {share:.1f} %"
        print(f"{file.path}: {width:,} x {height:,} pixels in {file.crs}; {differ}")
    if done.report is not None:
        print(f"report {done.report}")


def _facts(done: MosaicSummary) -> dict[str, Any]:
    return {
        "maps": done.maps,
        "method": done.method,
        "areas": [asdict(area) for area in done.areas],
        "files": [{**asdict(file), "path": str(file.path)} for file in done.files],
        "report": None if done.report is None else str(done.report),
        "notes": list(done.notes),
    }
