"""Batch scripts for SLURM instead of the work: --slurm and --hours of `train` and `map`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import given, talk
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.scenes.scene_list import SceneList

Hours = Annotated[int, typer.Option("--hours", help="Time limit of the SLURM job.")]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A map's batch script instead of the map."""

    slurm: Annotated[
        str | None,
        typer.Option(
            "--slurm",
            metavar="NODESxWORKERS",
            help="Print a SLURM batch script for this command, with so many workers a node, and stop. With "
            "--device cuda each worker has a GPU.",
        ),
    ] = None
    hours: Hours = 24


def nodes_by(text: str, what: str) -> tuple[int, int]:
    """`2x4` -> (2, 4), nodes and what each has. Raises BadOption."""
    nodes, by, each = text.partition("x")
    if not (by and nodes.isdigit() and each.isdigit() and int(nodes) and int(each)):
        raise BadOption(f"--slurm {text!r} must read NODESx{what}, such as 1x4.")
    return int(nodes), int(each)


def typed(verb: str, leave_out: tuple[str, ...]) -> list[str]:
    """The words behind the verb as they were typed, without some options and their values."""
    # Also beneath rio's own command line.
    words = sys.argv[sys.argv.index(verb) + 1 :] if verb in sys.argv else sys.argv[2:]
    left, rest = [], iter(words)
    for word in rest:
        if word in leave_out:
            next(rest, None)
        # `--slurm=1x4` is one word, `--slurm 1x4` two.
        elif not word.startswith(tuple(f"{option}=" for option in leave_out)):
            left.append(word)
    return left


def print_script(
    ctx: typer.Context,
    batch: Batch,
    models: Sequence[Path],
    sources: SceneList,
    out: Path,
    settings: Mapping[str, Any],
) -> bool:
    """Print the script of a map, where it is asked for. Raises BadOption for options that a job cannot have
    and for a file that other machines do not see, and what is wrong with the settings or a single scene: now,
    not after a night in the queue.
    """
    if batch.slurm is None:
        if given(ctx, "hours"):
            raise BadOption("--hours is the time limit of a SLURM job; add --slurm NODESxWORKERS.")
        return False

    from labelscape.maps.slurm import script_of

    nodes, workers = nodes_by(batch.slurm, "WORKERS")
    for option in ("workers", "cluster", "profile"):
        if given(ctx, option):
            raise BadOption(f"--slurm {batch.slurm} starts workers of its own; leave --{option} out.")
    words = typed("map", ("--slurm", "--hours", "--device"))
    size = {"nodes": nodes, "workers": workers, "hours": batch.hours}
    script = script_of(words, models, [scene.source for scene in sources], out, settings, **size)
    print(script.text, end="")
    talk(
        f"{nodes} x {workers} workers, each with about {script.ram / 2**30:.1f} GiB. Submit with: "
        f"mkdir -p {shlex.quote(str(out))} && sbatch FILE"
    )
    return True
