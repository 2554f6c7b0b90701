"""labelscape table: reproduce a table of a paper, and print claimed and measured scores side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, Device, grouped, print_json, talk
from labelscape.cli.parsing import integers_of, settings_of
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.training.reproduce import RowResult

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


@dataclass(frozen=True, kw_only=True)
class Classmate:
    """The data set of the second task (DFCNet's classmate)."""

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
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of a paper: train and score its rows as the paper did, and print claimed and measured
    scores.

    Examples:

      labelscape table

      labelscape table mswbn-1 GID --dataset gid-5 --budget 0.01 -o batch=4 -o options.backbone=resnet18
    """
    if name is None:
        list_tables()
        return
    if data is None:
        print_rows(name)
        return
    from labelscape.training.reproduce import run_table

    if extent.budget <= 0:
        raise BadOption(f"--budget {extent.budget} must be above 0.")
    changes = settings_of(setting)
    options = changes.pop("options", {})
    results = run_table(
        name,
        {"images": [data], "dataset": dataset},
        out,
        budget=extent.budget,
        seeds=integers_of(extent.seeds, "seeds"),
        rows=integers_of(extent.rows, "rows") if extent.rows else None,
        mate=mate.data,
        changes={**changes, "device": device},
        options=options,
        overwrite=overwrite,
        say=talk,
    )
    if as_json:
        print_json([result.as_json() for result in results])
        return
    print_results(name, results, extent.budget, setting)


def list_tables() -> None:
    from labelscape.nets.tables import TABLES

    for key, table in TABLES.items():
        own = sum(not row.quoted for row in table.rows)
        print(f"{key:<12} {own:>3} of {len(table.rows):>2} rows trained   {table.title}. {table.data}")


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
        print(f"{number:>3} {row.label:<56} {claimed}" + ("   (quoted)" if row.quoted else ""))
    print(f"\nTrain and score them: labelscape table {name} FOLDER --dataset NAME")


def print_results(name: str, results: list[RowResult], budget: float, changed: list[str]) -> None:
    from labelscape.nets.tables import TABLES

    metrics = [
        m for m in ("mean_iou", "overall_accuracy", "mean_f1") if any(m in r.row.claimed for r in results)
    ]
    seeds = next((r.seeds for r in results if r.seeds), ())
    print(f"{name}: {TABLES[name].title}. In per cent")
    print(f"claimed   the paper: {TABLES[name].data}")
    for where in dict.fromkeys(r.scored_on for r in results if r.scored_on):
        print(f"measured  here: {where}")
    several = "; the mean and its 95 % interval" if len(seeds) > 1 else ""
    if seeds:
        print(
            (
                f"          {budget:g} of the paper's steps, seed{'s' * (len(seeds) > 1)} "
                f"{', '.join(map(str, seeds))}{several}"
            )
            + (f"; other than the paper: {', '.join(changed)}" if changed else "")
        )
    wide = max((len(r.row.label) for r in results), default=3) + 2
    print(f"\n{'':<{wide + 8}}" + "".join(f"{m:>34}" for m in metrics))
    print(f"{'row':<{wide}}{'steps':>8}" + f"{'claimed':>14}{'measured':>20}" * len(metrics))
    for result in results:
        line = f"{result.row.label:<{wide}}{result.steps or '-':>8}"
        for metric in metrics:
            claimed = result.row.claimed.get(metric)
            line += f"{'-' if claimed is None else f'{claimed:.2f}':>14}{said(result.summary(metric)):>20}"
        print(line + (f"   {result.why_not}" if result.why_not else ""))


def said(summary: tuple[float, float] | None) -> str:
    if summary is None:
        return "-"
    mean, half = summary
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} +- {half:.2f}"
