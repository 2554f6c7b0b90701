"""labelscape tune: search the settings of a training that score best on validation blocks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.given_files import check_files
from labelscape.cli.options import AsJson, Labels, Overwrite, grouped, print_json, talk
from labelscape.cli.second_task import SecondTask
from labelscape.cli.train import (
    CONFIG_FILE,
    Config,
    Corrected,
    Holdout,
    Images,
    Schedule,
    Setting,
    Texts,
    settings_given,
    tell_overruled,
    with_file,
)
from labelscape.errors import BadOption
from labelscape.text import typed

if TYPE_CHECKING:
    from labelscape.training.tune_result import Tuning

NAME = "tune"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is varied, how often, and how trials are compared."""

    over: Annotated[
        Texts,
        typer.Option(
            "--over",
            help="NAME=LOW:HIGH[:log|:STEP] or NAME=A,B,C: vary this setting of the recipe. Repeat.",
            show_default="the rate, weight decay, crop and class weights",
        ),
    ] = field(default_factory=list)
    trials: Annotated[
        int, typer.Option("--trials", help="Trials in all, of all processes that share the folder.")
    ] = 20
    hours: Annotated[float | None, typer.Option("--hours", help="Begin no trial after so many hours.")] = None
    score: Annotated[
        str,
        typer.Option(
            "--score", help="Score on validation blocks: mean_iou, overall_accuracy, mean_f1 or kappa."
        ),
    ] = "mean_iou"
    pruner: Annotated[
        str, typer.Option("--pruner", help="How trials that are behind are ended: median, hyperband or none.")
    ] = "median"
    train_best: Annotated[
        int | None,
        typer.Option(
            "--train-best", metavar="STEPS", help="Train the winner anew for so many steps (weight updates)."
        ),
    ] = None


@grouped
def run(
    ctx: typer.Context,
    images: Images = None,
    *,
    config: Config = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the search; one that is there goes on.")],
    search: Search,
    labels: Labels,
    schedule: Schedule,
    holdout: Holdout,
    second: SecondTask,
    corrected: Corrected,
    setting: Setting = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Search the settings of a training that score best: hyper-parameter search by Optuna.

    Each trial is a training of --steps, scored on validation blocks (--val, here 0.2 unless given). The
    winner alone is scored on the held-out test blocks. The same command continues an interrupted search;
    started several times, it shares one. Other options are those of train.

    Examples:

      labelscape tune scene.tif --labels fields.gpkg --class-column crop --steps 200 --out search

      labelscape tune scene.tif --labels fields.gpkg --over rate=1e-4:1e-2:log --over crop=64,128
        --over network=mlp,smp/Unet --over losses=cross-entropy,cross-entropy+dice --trials 40
        --train-best 2000 --out search
    """
    images = images or []
    check_files([*images, *labels.labels, labels.area, *corrected.corrections])
    told: Texts = []
    settings = settings_given(images, labels, schedule, holdout, second, setting, corrected.corrections)
    settings = with_file(settings, file := ctx.meta.get(CONFIG_FILE), told, NAME)
    if file is not None:
        tell_overruled(ctx, file, told)
    how = {**asdict(search), "over": space_given(search.over) or None}
    from labelscape.training.tune import tune

    found = tune(settings, out, overwrite=overwrite, say=talk, **how)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, out)


def space_given(over: Texts) -> dict[str, str]:
    """`rate=1e-4:1e-2:log` -> {"rate": "1e-4:1e-2:log"}. Raises BadOption."""
    found: dict[str, str] = {}
    for text in over:
        name, equals, values = text.partition("=")
        if not (name and equals and values) or name in found:
            raise BadOption(
                f"--over {text!r} must read NAME=LOW:HIGH[:log|:STEP] or NAME=A,B,C, each setting once."
            )
        found[name] = values
    return found


def _print(found: Tuning, out: Path) -> None:
    from labelscape.training.tune_result import shown

    print(f"{'trial':>5}{found.score_name + ' %':>20}{'step':>7}{'minutes':>9}  {'state':<9} settings")
    for one in found.trials:
        score = "-" if one.score is None else f"{100 * one.score:.2f}"
        minutes = "-" if one.minutes is None else f"{one.minutes:.1f}"
        settings = " ".join(f"{name}={shown(value)}" for name, value in one.settings.items())
        print(f"{one.number:>5}{score:>20}{one.step:>7}{minutes:>9}  {one.state:<9} {settings}")
    best = found.best
    print(f"best: trial {best.number}, {found.score_name} {100 * best.score:.2f} % on validation blocks")
    if found.test:
        print(f"on the test blocks, which no trial was scored on: {100 * found.test[found.score]:.2f} %")
    print(f"train it again with: {found.command}")
    if found.checkpoint:
        print(f"checkpoint: {found.checkpoint}, report: {out / 'tune.html'}")
        print(f"map a scene with: labelscape map {typed(found.checkpoint)} SCENE --out map")
