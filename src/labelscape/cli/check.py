"""labelscape check: check that a scene fits a model, and estimate the cost of its map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import (
    SCENE,
    AsJson,
    Averaging,
    Extras,
    Machine,
    Reading,
    Tiles,
    as_options,
    grouped,
    print_json,
)
from labelscape.cli.parsing import scene_of

if TYPE_CHECKING:
    from labelscape.maps.plan import CheckResult

NAME = "check"


@grouped
def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    scene: Annotated[str, typer.Argument(help=SCENE)],
    *,
    extras: Extras,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time the network on one block of the scene.")
    ] = True,
    tiles: Tiles,
    reading: Reading,
    machine: Machine,
    averaging: Averaging,
    as_json: AsJson = False,
) -> None:
    """Check that a scene fits a model before mapping it, and estimate the time, memory and disk space of the
    map.

    The exit code is 1 if the scene is refused. The estimate depends on the options of the map: give the same
    ones here as to `map`.

    Examples:

      labelscape check runs/a/mlp.safetensors scene.tif

      labelscape check runs/a/mlp.safetensors scene.tif --tta dihedral --proba
    """
    from labelscape.maps.plan import check

    result = check(
        [model, *averaging.also],
        scene_of(scene),
        timing=timing,
        **asdict(extras),
        **asdict(tiles),
        **reading.settings,
        **asdict(machine),
        **averaging.settings,
    )
    if as_json:
        # A refusal is a result too: machines get it as JSON, and the exit code below.
        print_json(result.to_dict())
    else:
        print_check(result)
    if result.verdict == "REFUSED":
        raise typer.Exit(1)


def print_check(result: CheckResult) -> None:
    """Print the verdict, the findings and the estimate."""
    print(result.verdict)
    for finding in result.findings:
        mark = {"REFUSED": "wrong", "FITS AFTER": "adjusted", "FITS": "note"}[finding.level]
        # Causes name settings of the library; here they are options.
        print(f"  {mark:<9}{finding.kind}: {as_options(finding.cause)}")
    plan = result.plan
    # A scene may be refused before its tiles are planned.
    if plan is None:
        return
    seen = f"{plan.forward_share:.2f} pixels predicted for each mapped"
    print(
        f"{'tiles':<9}{plan.tiles:,}, each {plan.core} pixels wide and seeing {plan.halo} more on each side "
        f"({seen})"
    )
    for warning in result.warnings:
        print(f"{'warning':<9}{warning}")
    # Only networks that see the whole tile have them, where they were measured after training.
    if result.tile_sizes is not None:
        print("scores by tile size, measured on held-out pixels after training:")
        print("\n".join(result.tile_sizes.lines()))
    memory = f"about {plan.ram / 2**30:.1f} GiB" + (
        f", on {plan.device} {plan.gpu / 2**30:.1f} GiB" if plan.gpu else ""
    )
    print(f"{'memory':<9}{memory}")
    print(f"{'disk':<9}at most {_size(plan.disk)}, and the polygons")
    if plan.minutes is not None:
        # Never 0 s: the estimate is coarse, and nothing is free.
        time = f"{plan.minutes:.0f} minutes" if plan.minutes >= 2 else f"{max(1, round(60 * plan.minutes))} s"
        print(f"{'time':<9}about {time} on {plan.device}")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"
