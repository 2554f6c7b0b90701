"""labelscape table: reproduce a table of a paper, and print claimed and measured scores side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import (
    AsJson,
    Device,
    given,
    grouped,
    is_first_process,
    option_of,
    print_json,
    talk,
)
from labelscape.cli.parsing import integers_of, settings_of
from labelscape.cli.table_print import print_costs, print_results, print_times
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.training.reproduce import RowResult
    from labelscape.training.timing import Time

NAME = "table"


Settings = Annotated[
    list[str],
    typer.Option(
        "-o", "--set", help="KEY=VALUE: a setting to use instead of the paper's, for all rows. Repeat."
    ),
]
OverwriteRows = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Run rows again that are unfinished in --out, or were run there with other settings.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what each row will cost (parameters, steps, memory, time), and stop."
    ),
]
Times = Annotated[
    bool,
    typer.Option(
        "--times",
        help="Only measure the times that the paper prints (mswbn-1, maggiori-6); no data is needed.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Which rows are run, how long and how often."""

    budget: Annotated[
        float, typer.Option("--budget", help="Training steps as a share of the paper's: 0.01 is a hundredth.")
    ] = 1.0
    rows: Annotated[
        str | None, typer.Option("--rows", help="Numbers of the rows, from 1: 1,3.", show_default="all")
    ] = None
    seeds: Annotated[
        str, typer.Option("--seeds", help="Random seeds, as 0,1,2: each row is run once for each.")
    ] = "0"
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            help="Parts of the data set to train on: train,val.",
            show_default="train; train,val for rows that say so",
        ),
    ] = None
    tile_size: Annotated[
        str | None,
        typer.Option(
            "--tile-size",
            help="Side of the test's tiles in pixels; crop: the training crop's; whole: whole pictures.",
            show_default="as the paper tests; printed",
        ),
    ] = None
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Run on another data set than the table's, and say so.")
    ] = False

    @property
    def tiles(self) -> int | str | None:
        """As `run_table` takes it. Raises BadOption for what is neither a number nor one of the words."""
        if self.tile_size is None or self.tile_size in ("crop", "whole"):
            return self.tile_size
        if self.tile_size.isdigit() and int(self.tile_size):
            return int(self.tile_size)
        raise BadOption(f"--tile-size {self.tile_size!r} must be a number of pixels, crop or whole.")


@dataclass(frozen=True, kw_only=True)
class Classmate:
    """The data set of the second task (DFCNet's classmate): a published set, or with `-o mate.data...`
    another.
    """

    mate: Annotated[
        str | None, typer.Option("--mate", help="Folder of the second task's data set (dfcnet-1).")
    ] = None
    mate_dataset: Annotated[
        str | None, typer.Option("--mate-dataset", help="Name of the second task's published data set.")
    ] = None

    @property
    def data(self) -> dict[str, Any] | None:
        return {"images": [self.mate], "dataset": self.mate_dataset} if self.mate else None


@grouped
def run(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Table: mswbn-1, dfcnet-1, ...; without it the tables are listed.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(help="Folder of the data set; without it the rows of the table are listed."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Name of the published data set (labelscape data list).")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for checkpoints and scores; rows finished in it are not run again."
        ),
    ] = Path("tables"),
    extent: Extent = Extent(),
    mate: Classmate = Classmate(),
    device: Device = "auto",
    setting: Settings = [],
    overwrite: OverwriteRows = False,
    dry_run: DryRun = False,
    times: Times = False,
    short: Annotated[bool, typer.Option("--short", help="Print means only, no classes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of a paper: train and score its rows as the paper did, and print claimed and measured
    scores.

    Examples:

      labelscape table

      labelscape table mswbn-1 GID --dataset gid-5 --budget 0.01 -o batch=4 -o options.backbone=resnet18

      labelscape table mswbn-1 --times -o batch=1 -o crop=128
    """
    # Less given, less done: the tables, then a table's rows, then the run.
    if name is not None and times:
        print_measured_times(name, extent, device, setting, as_json)
        return
    if name is None or data is None:
        _refuse_options(ctx, name)
        list_tables() if name is None else print_rows(name)
        return
    how = _how(extent, mate, device, setting)
    place, seeds = {"images": [data], "dataset": dataset}, integers_of(extent.seeds, "seeds")
    if dry_run:
        print_table_costs(name, place, how, len(seeds), as_json)
        return
    from labelscape.training.reproduce import run_table

    results = run_table(name, place, out, seeds=seeds, overwrite=overwrite, say=talk, **how)
    # Every process has the results; as many copies of the table would be printed.
    if is_first_process():
        timed = _times_of(results, name, how["changes"], how["options"], device)
        _print(name, results, timed, extent.budget, setting, short=short, as_json=as_json)


def _refuse_options(ctx: typer.Context, name: str | None) -> None:
    """Raises BadOption for options given where tables or rows are only listed: what they ask for would be
    left undone in silence.
    """
    options = (p.name for p in ctx.command.params if p.name not in ("name", "data"))
    asked = [option_of(ctx, option) for option in options if given(ctx, option)]
    if not asked:
        return
    listed, missing = ("rows are", "FOLDER") if name else ("tables are", "NAME FOLDER")
    raise BadOption(
        f"{', '.join(asked)} cannot be followed: without {missing} {listed} only listed. Name the data set, "
        f"labelscape table {name or 'NAME'} FOLDER --dataset NAME (with --dry-run it need not exist), "
        "or leave the options out."
    )


def _how(extent: Extent, mate: Classmate, device: str, setting: list[str]) -> dict[str, Any]:
    """What `run_table` is given beside the data. Raises BadOption for a budget that trains nothing."""
    # Checked here: every row would train no step and be scored all the same.
    if extent.budget <= 0:
        raise BadOption(f"--budget {extent.budget} must be above 0.")
    changes = settings_of(setting)
    options = changes.pop("options", {})
    if extent.parts:
        # `-o data.train_on` wins over --parts, as `-o` does everywhere.
        changes["data"] = {"train_on": extent.parts.split(","), **changes.get("data", {})}
    return {
        "budget": extent.budget,
        "rows": integers_of(extent.rows, "rows") if extent.rows else None,
        "mate": mate.data,
        "changes": changes,
        "options": options,
        "tiles": extent.tiles,
        "other_data": extent.other_data,
        "device": device,
    }


def _print(
    name: str,
    results: list[RowResult],
    timed: list[Time],
    budget: float,
    setting: list[str],
    *,
    short: bool,
    as_json: bool,
) -> None:
    if as_json:
        rows = dict.fromkeys(t.number for t in timed)
        times_of = {row: [t.as_json() for t in timed if t.number == row] for row in rows}
        print_json([{**r.as_json(), "times": times_of.get(r.number, [])} for r in results])
        return
    print_results(name, results, budget, setting, short=short)
    if timed:
        print()
        print_times(name, timed, setting)


def _times_of(
    results: list[RowResult], name: str, changes: dict[str, Any], options: dict[str, Any], device: str
) -> list[Time]:
    """The times of rows whose paper prints some beside their scores; by a single process only."""
    from labelscape.training.timing import measure_times

    # Only where the paper has times to compare with.
    rows = [r.number for r in results if r.measured and "seconds_per_step" in r.row.claimed]
    # Processes on one machine would slow each other down.
    if not rows or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return []
    return measure_times(name, rows=rows, changes=changes, options=options, device=device)


def print_table_costs(
    name: str, data: dict[str, Any], given: dict[str, Any], seeds: int, as_json: bool
) -> None:
    from labelscape.training.table_cost import table_costs

    costs, told, left_out = table_costs(name, data, **given)
    if not is_first_process():
        return
    if as_json:
        # Costs are those of one seed.
        rows = [{**cost.as_json(), "seconds": seeds * cost.seconds} for cost in costs]
        print_json({"chosen": told, "not_run": left_out, "rows": rows})
        return
    print_costs(name, costs, told, left_out, seeds)


def print_measured_times(name: str, extent: Extent, device: str, setting: list[str], as_json: bool) -> None:
    from labelscape.training.timing import measure_times

    changes = settings_of(setting)
    options = changes.pop("options", {})
    rows = integers_of(extent.rows, "rows") if extent.rows else None
    found = measure_times(name, rows=rows, changes=changes, options=options, device=device)
    if as_json:
        print_json([one.as_json() for one in found])
        return
    print_times(name, found, setting)


def list_tables() -> None:
    from labelscape.nets.tables import TABLES

    for key, table in TABLES.items():
        # Quoted rows are other papers' numbers, for which there is no network here.
        scored, timed = sum(r.is_scored for r in table.rows), sum(bool(r.times) for r in table.rows)
        own, what = (scored, "trained") if scored else (timed, "timed  ")
        print(f"{key:<12} {own:>3} of {len(table.rows):>2} rows can be {what}   {table.title}. {table.data}")


def print_rows(name: str) -> None:
    from labelscape.errors import UnknownName
    from labelscape.nets.tables import TABLES

    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    table = TABLES[name]
    print(f"{name}: {table.title}. {table.data}\n")
    for number, row in enumerate(table.rows, start=1):
        claimed = "  ".join(
            f"{metric} {value:g}" for metric, value in row.claimed.items() if "/" not in metric
        )
        said = claimed or "no claim: a control of ours"
        print(f"{number:>3} {row.label:<56} {said}" + ("   (quoted)" if row.quoted else ""))
    print()
    if any(row.is_scored for row in table.rows):
        print(f"Train and score them: labelscape table {name} FOLDER --dataset NAME")
    if any(row.times for row in table.rows):
        print(f"Measure their times here: labelscape table {name} --times")
