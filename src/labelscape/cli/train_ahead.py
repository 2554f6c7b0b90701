"""labelscape train --dry-run and --slurm: the cost of a run, or a batch script for it, instead of the run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.batch import Hours, nodes_by, typed
from labelscape.cli.options import as_options, is_first_process, print_json
from labelscape.progress import DAY

if TYPE_CHECKING:
    from labelscape.training.recipe import Recipe


def print_schema(asked: bool) -> None:
    if asked:
        from labelscape.cli.config_print import config_schema

        print_json(config_schema())
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """Output instead of training."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate time and memory from three real steps, and stop.")
    ] = False
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-rate",
            help="Learning-rate range test: 100 steps at rising rates, the curve written to --out, and stop.",
        ),
    ] = False
    slurm: Annotated[
        str | None,
        typer.Option(
            "--slurm", metavar="NODESxGPUS", help="Print a SLURM batch script for this command and stop."
        ),
    ] = None
    curve: Annotated[
        str | None,
        typer.Option(
            "--curve",
            metavar="SHARES",
            help="Learning curve: train on these shares of the labels, 0.1,0.25,0.5,1, and say if more help.",
        ),
    ] = None
    seeds: Annotated[
        int, typer.Option("--seeds", help="Trainings of each share of --curve, for an interval.")
    ] = 1
    hours: Hours = 24
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the complete configuration of this command, to be edited, and stop."
        ),
    ] = False
    config_schema: Annotated[
        bool,
        typer.Option(
            "--config-schema",
            callback=print_schema,
            is_eager=True,
            help="Print the JSON Schema of configuration files, for editors, and stop.",
        ),
    ] = False


def print_instead(recipe: Recipe, ahead: Ahead, out: Path, as_json: bool, values: Mapping[str, Any]) -> bool:
    """Print what is asked for instead of training; False where nothing is. `values` are those of all options,
    by parameter.
    """
    if ahead.print_config:
        from labelscape.cli.config_print import config_text

        print(config_text(recipe, values), end="")
        return True
    # First: the script repeats the command with the other options.
    if ahead.slurm is not None:
        print_slurm(ahead, out, recipe)
    elif ahead.dry_run:
        print_rehearsal(recipe, as_json, forest=values["forest"])
    elif ahead.find_rate:
        print_rates(recipe, out, as_json)
    elif ahead.curve is not None:
        print_curve(recipe, ahead, out, as_json, overwrite=values["overwrite"])
    else:
        return False
    return True


def print_rehearsal(recipe: Recipe, as_json: bool, *, forest: bool) -> None:
    from labelscape.training.map_size import told
    from labelscape.training.rehearse import rehearse

    found = rehearse(recipe, forest=forest)
    if not is_first_process():
        return
    if as_json:
        print_json({**asdict(found), "seconds": found.seconds})
        return
    print(
        f"{recipe.network}: {found.parameters:,} parameters, {found.labelled_pixels:,} labelled training "
        "pixels"
    )
    print(
        f"{found.steps:,} steps of {recipe.batch} crops of {recipe.crop} x {recipe.crop}: {found.crops:,} "
        "crops" + (f", and {found.mate_crops:,} of the second task" if found.mate_crops else "")
    )
    for line in told(recipe):
        print(line)
    memory = (
        "Memory cannot be measured here"
        if found.peak_bytes is None
        else f"{found.peak_bytes / 2**30:.1f} GiB of memory"
    )
    base = (
        f" ({found.base_seconds_per_step:.2f} s in the base network's {found.base_steps:,})"
        if found.base_steps
        else ""
    )
    print(
        f"{found.seconds_per_step:.2f} s a step{base}, about {lasting(found.seconds)} in all, "
        f"{lasting(found.seconds_before)} of it to read the data. {memory}"
    )
    parts = [f"{lasting(found.scoring_seconds)} to score the held-out part"] if found.scoring_seconds else []
    if found.val_scores:
        times = f"{found.val_scores} time{'s' * (found.val_scores > 1)}"
        parts.append(f"{lasting(found.val_seconds)} to score the part val {times}")
    if found.forest_seconds:
        parts.append(f"{lasting(found.forest_seconds)} for the random forest")
    if found.statistics_seconds:
        tiles = f"{recipe.map_tiles} tiles of {recipe.map_size}"
        parts.append(f"{lasting(found.statistics_seconds)} for batch normalisation over {tiles}")
    if found.map_seconds:
        parts.append(f"{lasting(found.map_seconds)} for features of the data and scores by tile size")
    if parts:
        forest = " and a small forest" if found.forest_seconds else ""
        print(f"Of all that: {', '.join(parts)} (estimated from one tile{forest})")


def lasting(seconds: float) -> str:
    """`95 s`, `7 minutes`, `5.2 hours`, `1,713 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 3 * DAY else f"{seconds / DAY:,.0f} days"


def print_rates(recipe: Recipe, out: Path, as_json: bool) -> None:
    from labelscape.progress import told_where_lost
    from labelscape.training.rate_search import find_rate, write_search

    found = find_rate(recipe)
    if not is_first_process():
        return
    with told_where_lost(lambda: [f"suggested: --rate {found.suggested:g}", json.dumps(asdict(found))]):
        numbers, picture = write_search(found, out)
    if as_json:
        print_json({**asdict(found), "files": [str(numbers), str(picture)]})
        return
    print("      rate     loss   running mean")
    # About twenty lines: the whole curve is in the file.
    every = max(1, len(found.rates) // 20)
    for rate, loss, mean in list(zip(found.rates, found.losses, found.smoothed))[::every]:
        print(f"{rate:10.2g} {loss:8.3f} {mean:14.3f}")
    print(f"suggested: --rate {found.suggested:g} (a tenth of the rate with the lowest running mean)")
    print(f"curve: {picture}, numbers: {numbers}")


def print_curve(recipe: Recipe, ahead: Ahead, out: Path, as_json: bool, *, overwrite: bool) -> None:
    from labelscape.cli.options import talk
    from labelscape.cli.parsing import numbers_between
    from labelscape.training.curve import learning_curve

    shares = numbers_between(ahead.curve, "curve")
    found = learning_curve(recipe, out, shares=shares, seeds=ahead.seeds, overwrite=overwrite, say=talk)
    if as_json:
        print_json(found.to_dict())
        return
    print(f"{'labels':>7}{'pixels':>13}{'trainings':>11}{'mIoU %':>9}{'95 % interval':>18}{'OA %':>9}")
    for one in found.shares:
        if one.mean_iou is None:
            print(f"{100 * one.share:>5g} %{one.pixels:>13,}{0:>11}{'-':>9}{'-':>18}{'-':>9}")
            continue
        bounds = "-" if one.low is None else f"{100 * one.low:.2f} to {100 * one.high:.2f}"
        scores = f"{100 * one.mean_iou:>9.2f}{bounds:>18}{100 * one.overall_accuracy:>9.2f}"
        print(f"{100 * one.share:>5g} %{one.pixels:>13,}{one.trainings:>11}{scores}")
    print(as_options(found.answer))
    print(f"curve: {out / 'curve.png'}, trainings: {out / 'curve.csv'}, {out / 'curve.json'}")


def print_slurm(ahead: Ahead, out: Path, recipe: Recipe) -> None:
    from labelscape.training.slurm import slurm_script

    nodes, gpus = nodes_by(ahead.slurm, "GPUS")
    # shlex: paths with blanks stay one word in the script.
    command = shlex.join(["labelscape", "train", *typed("train", ("--slurm", "--hours"))])
    print(slurm_script(recipe, out, nodes=nodes, gpus=gpus, hours=ahead.hours, command=command), end="")
