"""labelscape check: check that a scene fits a model, and estimate the cost of its map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.given_files import check_files, check_models
from labelscape.cli.options import (
    LISTS,
    SCENE,
    AsJson,
    Averaging,
    ClusterAt,
    Each,
    Extras,
    Inference,
    Reading,
    Tiles,
    as_options,
    grouped,
    print_json,
)
from labelscape.cli.scenes import scenes_of
from labelscape.cli.train_ahead import lasting
from labelscape.errors import BadOption
from labelscape.files import bytes_text

if TYPE_CHECKING:
    from labelscape.maps.plan import CheckResult
    from labelscape.scenes.scene_list import SceneList

NAME = "check"
WorkersAsked = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="How would so many workers share the scene, with how much memory? Several scenes are checked by "
        "so many processes.",
    ),
]


@grouped
def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    scenes: Annotated[list[str], typer.Argument(metavar="SCENE", help=f"{SCENE} {LISTS}")],
    *,
    each: Each = False,
    extras: Extras,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time the network on one block of the scene.")
    ] = True,
    tiles: Tiles,
    reading: Reading,
    machine: Inference,
    averaging: Averaging,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder that the map will be written to: is there room for it?"),
    ] = None,
    workers: WorkersAsked = None,
    cluster: ClusterAt = None,
    as_json: AsJson = False,
) -> None:
    """Check that scenes fit a model before mapping them, and estimate the time, memory and disk space of the
    maps.

    The exit code is 1 if a scene is refused. The estimate depends on the options of the map: give the same
    ones here as to `map`.

    Examples:

      labelscape check runs/a/mlp.safetensors scene.tif

      labelscape check runs/a/mlp.safetensors scene.tif --tta dihedral --proba

      labelscape check runs/a/mlp.safetensors scenes.txt --no-timing --workers 4
    """
    check_models([model, *averaging.also], scenes)
    check_files([*scenes, reading.area])
    settings: dict[str, Any] = {**reading.settings, **averaging.settings}
    for group in (extras, tiles, machine):
        settings |= asdict(group)
    found = scenes_of(scenes, each=each, settings=settings)
    settings |= {"timing": timing, "out": out, "workers": workers}
    files = [model, *averaging.also]
    if len(found) > 1:
        _check_each(files, found, settings, cluster, as_json)
        return
    if cluster is not None:
        raise BadOption("--cluster checks several scenes at once, and one was given: leave it out.")
    from labelscape.maps.plan import check

    result = check(files, found[0].source, **settings)
    if as_json:
        # A refusal is a result too: machines get it as JSON, and the exit code below.
        print_json(result.to_dict())
    else:
        print_check(result)
    if result.verdict == "REFUSED":
        raise typer.Exit(1)


def _check_each(
    files: list[Path], scenes: SceneList, settings: dict[str, Any], cluster: str | None, as_json: bool
) -> None:
    from labelscape.checkpoint import load_all
    from labelscape.maps.check_many import check_scenes
    from labelscape.workers.share import Hands

    # A cluster has workers of its own; beside it `workers` only asks how a scene would be shared.
    hands = Hands(None if cluster else settings["workers"], cluster)
    checked = check_scenes(load_all(files), [scene.source for scene in scenes], settings, hands)
    _tell_each(scenes.names, checked, as_json)


def _tell_each(names: Sequence[str], checked: Iterable[CheckResult | str], as_json: bool) -> None:
    """Print scene after scene what was found, or why it cannot be opened. Exit code 1 where one does not
    fit.
    """
    results: list[dict[str, Any]] = []
    for name, found in zip(names, checked):
        if isinstance(found, str):
            results.append({"scene": name, "verdict": "UNREADABLE", "cause": found})
            causes = [found]
        else:
            results.append({"scene": name, **found.to_dict()})
            causes = [f.cause for f in found.findings if f.level != "FITS"]
        if not as_json:
            print(f"{results[-1]['verdict']:<11} {name}")
            for cause in causes:
                print(f"{'':<12}{as_options(cause)}")
    verdicts = Counter(result["verdict"] for result in results)
    wrong = verdicts["REFUSED"] + verdicts["UNREADABLE"]
    if as_json:
        print_json(results)
    else:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        print(f"{len(results)} scenes: {counts}")
        plans = [result["plan"] for result in results if result.get("plan")]
        if plans:
            print_total(plans)
    if wrong:
        raise typer.Exit(1)


def print_total(plans: Sequence[Mapping[str, Any]]) -> None:
    """Print what the maps of several scenes cost one after another."""
    print(f"{'memory':<9}about {max(plan['ram'] for plan in plans) / 2**30:.1f} GiB, of the largest")
    print(f"{'disk':<9}at most {bytes_text(sum(plan['disk'] for plan in plans))}, and the polygons")
    if all(plan["minutes"] is not None for plan in plans):
        minutes = sum(plan["minutes"] for plan in plans)
        print(f"{'time':<9}about {lasting(max(1, 60 * minutes))} on {plans[0]['device']}, one after another")


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
    # One tile holds all of the scene, or of the area: no grid and no overlap is seen.
    tiles = (
        "1: all of it at once"
        if plan.tiles == 1
        else f"{plan.tiles:,}, each {plan.core} pixels wide and seeing {plan.halo} more on each side"
    )
    print(f"{'tiles':<9}{tiles} ({seen})")
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
    print(f"{'disk':<9}at most {bytes_text(plan.disk)}, and the polygons")
    if plan.minutes is not None:
        print(f"{'time':<9}about {lasting(max(1, 60 * plan.minutes))} on {plan.device}")
    if result.shared:
        print(f"{'workers':<9}{result.shared}")
