"""Verbs that take one class map, or many of them: their arguments, and what is printed of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import LISTS, Workers, as_options, print_json
from labelscape.errors import BadOption
from labelscape.files import names_file

if TYPE_CHECKING:
    from labelscape.areas.many import RasterRecord
    from labelscape.legend import Legend

Rasters = Annotated[
    list[str],
    typer.Argument(
        metavar="RASTER",
        help="A class map (one band of class values, 255 = nodata), then the file to write (OUT). With --out "
        f"any number of them, and folders of class maps. {LISTS}",
    ),
]
ManyOut = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder for the results of many class maps, a file of its own name each; of one class map also "
        "the file to write.",
    ),
]


def one_target(rasters: list[str], verb: str) -> tuple[str, str]:
    """The raster and the file to write, where no folder is given. Raises BadOption."""
    if len(rasters) != 2:
        what = f"{len(rasters)} arguments" if len(rasters) > 1 else "one argument"
        raise BadOption(
            f"labelscape {verb} takes a class map and the file to write; found {what}. For many class maps "
            "give a folder for the results: --out FOLDER."
        )
    return rasters[0], rasters[1]


def of_one_file(rasters: list[str], out: str | None) -> tuple[list[str], str | None]:
    """Of `RASTER --out FILE`, as other programs have it, the arguments `RASTER FILE`; all else as it is."""
    from labelscape.areas.polygon_files import is_database

    one = out is not None and len(rasters) == 1 and Path(rasters[0]).is_file()
    if one and (is_database(out) or names_file(out)):
        return [rasters[0], out], None
    return rasters, out


def print_records(records: Sequence[RasterRecord], as_json: bool, said: Callable[[Any], str]) -> None:
    """Print what became of each of many class maps; `said` puts a summary into words. Exit code 1 unless all
    are done.
    """
    failed = sum(record.state == "failed" for record in records)
    if as_json:
        print_json([asdict(record) for record in records])
    else:
        for record in records:
            if record.state == "failed":
                print(f"{record.state:<7} {record.raster}: {as_options(record.cause)}")
            else:
                print(f"{record.state:<7} {record.raster}: {said(record.summary)}; {record.out}")
        skipped = sum(record.state == "skipped" for record in records)
        rasters = f"{len(records)} raster{'s' * (len(records) != 1)}"
        counts = [f"{len(records) - failed - skipped} done"]
        counts += [f"{skipped} finished by an earlier run"] * bool(skipped) + [f"{failed} failed"] * bool(
            failed
        )
        print(f"{rasters}: {', '.join(counts)}")
    if failed:
        raise typer.Exit(1)


def only_with_out(workers: Workers, polygons_as: bool = False) -> None:
    """Raises BadOption for options of many class maps where no folder is given."""
    if workers != Workers() or polygons_as:
        raise BadOption(
            "--workers, --cluster, --block-timeout and --polygons-as are for many class maps: give a folder "
            "for the results (--out FOLDER)."
        )


def legend_in(checkpoint: Path | None) -> Legend | None:
    """The classes of a checkpoint, where one is given."""
    if checkpoint is None:
        return None
    from labelscape.checkpoint import load

    return load(checkpoint).legend
