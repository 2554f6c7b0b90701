"""labelscape train --dry-run and --slurm: the cost of a run, or a batch script for it, instead of the run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import print_json
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.training.recipe import Recipe


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
    hours: Annotated[int, typer.Option("--hours", help="Time limit of the SLURM job.")] = 24


def print_rehearsal(recipe: Recipe, as_json: bool, *, forest: bool) -> None:
    from labelscape.training.map_size import told
    from labelscape.training.rehearse import rehearse

    found = rehearse(recipe, forest=forest)
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
    if parts:
        print(f"Of all that: {', '.join(parts)} (estimated from one tile and a small forest)")


def lasting(seconds: float) -> str:
    """`95 s`, `7 minutes`, `5.2 hours`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def print_rates(recipe: Recipe, out: Path, as_json: bool) -> None:
    from labelscape.training.rate_search import find_rate, write_search

    found = find_rate(recipe)
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


def print_slurm(ahead: Ahead, out: Path, recipe: Recipe) -> None:
    from labelscape.training.slurm import slurm_script

    nodes, by, gpus = ahead.slurm.partition("x")
    if not (by and nodes.isdigit() and gpus.isdigit() and int(nodes) and int(gpus)):
        raise BadOption(f"--slurm {ahead.slurm!r} must read NODESxGPUS, such as 1x4.")
    words = (
        sys.argv[sys.argv.index("train") + 1 :] if "train" in sys.argv else sys.argv[2:]
    )  # also beneath rio's own command line
    size = {"nodes": int(nodes), "gpus": int(gpus), "hours": ahead.hours}
    # shlex: paths with blanks stay one word in the script.
    command = shlex.join(["labelscape", "train", *without(words, ("--slurm", "--hours"))])
    print(slurm_script(recipe, out, command=command, **size), end="")


def without(words: list[str], options: tuple[str, ...]) -> list[str]:
    """A command line without some options and their values."""
    left, rest = [], iter(words)
    for word in rest:
        if word in options:
            next(rest, None)
        # `--slurm=1x4` is one word, `--slurm 1x4` two.
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            left.append(word)
    return left
