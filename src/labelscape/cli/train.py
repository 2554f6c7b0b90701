"""labelscape train: train a network on labelled scenes, and score it on held-out blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.given_files import check_files
from labelscape.cli.options import (
    PRECISION,
    AsJson,
    Device,
    Labels,
    Overwrite,
    given,
    grouped,
    is_first_process,
    print_json,
    talk,
)
from labelscape.cli.parsing import labelled_scenes, settings_of
from labelscape.cli.second_task import SecondTask
from labelscape.cli.train_ahead import Ahead, print_instead
from labelscape.errors import BadOption
from labelscape.text import typed

if TYPE_CHECKING:
    from labelscape.checkpoint import Checkpoint
    from labelscape.cli.config import ConfigFile
    from labelscape.training.recipe import Recipe

NAME = "train"
CONFIG_FILE = "labelscape.config"
"""Where the command line's context keeps the file of --config."""
Texts = list[str]
Setting = Annotated[
    Texts, typer.Option("-o", "--set", help="KEY=VALUE for any other setting of the recipe. Repeat.")
]

# Options that are not given stay out of the recipe, whose defaults are the only ones; a test holds what help
# shows equal to them. (Reading them from the recipe here would import pydantic and torch for every --help.)


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """What is held out of training for scores, and how."""

    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The folder is this published data set (labelscape data list)."),
    ] = None
    block: Annotated[
        int | None,
        typer.Option(
            "--block", help="Side in pixels of the blocks that the split holds out.", show_default="256"
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="blocks, or random: small blocks at random, which gives optimistic scores.",
            show_default="blocks",
        ),
    ] = None
    fold: Annotated[
        str | None,
        typer.Option(
            "--fold", help="K/N: hold out fold K of N instead of --holdout (cross-validation over blocks)."
        ),
    ] = None
    buffer: Annotated[
        int | None,
        typer.Option(
            "--buffer",
            help="Width in pixels of the band around held-out blocks that is not trained on.",
            show_default="0",
        ),
    ] = None
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout", help="Share of the labels held out for the test score.", show_default="0.25"
        ),
    ] = None
    val: Annotated[
        float | None,
        typer.Option(
            "--val",
            help="Share of the labels held out for validation; the weights with the best score are kept.",
            show_default="0.0",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The network and its optimisation."""

    network: Annotated[
        str | None,
        typer.Option("--network", help="Name of the network (labelscape models).", show_default="mlp"),
    ] = None
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps (weight updates).", show_default="400")
    ] = None
    base_steps: Annotated[
        int | None,
        typer.Option(
            "--base-steps",
            help="Steps of the base network that is trained first.",
            show_default="twice --steps",
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            help="Checkpoint, or a state dict of the same encoder (.pth): weights that fit are taken over.",
        ),
    ] = None
    freeze: Annotated[
        str | None,
        typer.Option(
            "--freeze", help="encoder: its weights stay as they start, the rest learns.", show_default="none"
        ),
    ] = None
    encoder_factor: Annotated[
        float | None,
        typer.Option(
            "--encoder-factor", help="Factor on the learning rate of the encoder.", show_default="1.0"
        ),
    ] = None
    layer_decay: Annotated[
        float | None,
        typer.Option(
            "--layer-decay",
            help="Factor on the learning rate from each stage of the encoder to the one before it.",
            show_default="1.0",
        ),
    ] = None
    batch: Annotated[
        int | None, typer.Option("--batch", help="Batch size: crops per step.", show_default="8")
    ] = None
    crop: Annotated[
        int | None, typer.Option("--crop", help="Side of a training crop in pixels.", show_default="128")
    ] = None
    map_size: Annotated[
        int | None,
        typer.Option(
            "--map-size",
            help=(
                "Side in pixels of a map's tiles, where they are larger than --crop: batch normalisation's "
                "statistics are estimated at this size after the last step."
            ),
            show_default="none",
        ),
    ] = None
    map_steps: Annotated[
        int | None,
        typer.Option(
            "--map-steps",
            help="How many of the last steps run at larger crops, for --map-size.",
            show_default="0",
        ),
    ] = None
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Initial learning rate.", show_default="that of the network"),
    ] = None
    base_rate: Annotated[
        float | None,
        typer.Option(
            "--base-rate", help="Initial learning rate of the base network.", show_default="that of --rate"
        ),
    ] = None
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="sgd or adamw.", show_default="that of the network")
    ] = None
    precision: Annotated[str | None, typer.Option("--precision", help=PRECISION, show_default="32")] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Random seed of the weights, the held-out blocks and the crops.", show_default="0"
        ),
    ] = None
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic",
            help="Deterministic algorithms alone, meant to give the same weights on a GPU too; slower.",
        ),
    ] = None
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """Labels that replace others."""

    corrections: Annotated[
        list[str],
        typer.Option(
            "--corrections",
            help=(
                "Answered review file (labelscape review), or polygons with a column class: they replace the "
                "labels of training blocks. Repeat."
            ),
        ),
    ] = field(default_factory=list)


Images = Annotated[
    Texts | None,
    typer.Argument(
        metavar="IMAGES",
        help="Scenes: files, folders (or a,b,c) of bands or tiles, STAC items; or one folder with "
        "images/ and labels/.",
    ),
]
Forest = Annotated[
    bool,
    typer.Option("--forest", help="Also score a per-pixel random forest on the same blocks, as a baseline."),
]
Log = Annotated[
    Texts, typer.Option("--log", help="Log to tensorboard, wandb (Weights & Biases) or mlflow too. Repeat.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="As --log tensorboard.")]


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    if path is not None and not ctx.resilient_parsing:
        from labelscape.cli.config import read_config_file

        file = ctx.meta[CONFIG_FILE] = read_config_file(path)
        # What the file says stands for options that are not given.
        ctx.default_map = {**(ctx.default_map or {}), **file.defaults}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        # Before all other options, for which it may stand.
        callback=_read_config,
        is_eager=True,
        help="Configuration file (.yaml, .toml, .json) with these options and settings of the recipe as "
        "keys; options given here overrule it.",
    ),
]


@grouped
def run(
    ctx: typer.Context,
    images: Images = None,
    *,
    config: Config = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint and its log.")],
    labels: Labels,
    schedule: Schedule,
    holdout: Holdout,
    second: SecondTask,
    corrected: Corrected,
    ahead: Ahead,
    forest: Forest = False,
    log: Log = [],
    tensorboard: TensorBoard = False,
    setting: Setting = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on labelled scenes and score it on held-out blocks.

    Examples:

      labelscape train scene.tif --labels fields.gpkg --class-column crop --out runs/a

      labelscape train town.tif --labels roofs.gpkg --background other --area surveyed.gpkg --out runs/town

      labelscape train scene.tif --labels old.gpkg --corrections review.gpkg --start runs/a/fcn.safetensors
        --network fcn --rate 0.0002 --out runs/b

      labelscape train land --network dfcnet --mate roads --mate-threshold 128 --mate-classes other=0,road=1
        --out runs/both

      labelscape train --config train.yaml --steps 1000
    """
    images = images or []
    if ahead.slurm is None:  # a batch script may name files of another machine
        check_files([*images, *labels.labels, labels.area, *corrected.corrections])
    file, told = ctx.meta.get(CONFIG_FILE), []
    recipe = recipe_of(images, labels, schedule, holdout, second, setting, corrected.corrections, file, told)
    if file is not None and is_first_process():
        tell_overruled(ctx, file, told)
    if print_instead(recipe, ahead, out, as_json, ctx.params):
        return
    from labelscape.training.run import train

    checkpoint = train(recipe, out, overwrite=overwrite, log=log, tensorboard=tensorboard, say=talk)
    scores = {**(forest_score(recipe, out) if forest and recipe.data.holdout else {}), **checkpoint.scores}
    print_trained(out, recipe, scores, checkpoint, as_json)


def tell_overruled(ctx: typer.Context, file: ConfigFile, settings: Texts) -> None:
    """One line for what the command line has instead of the file; of the recipe these are the `settings`."""
    from labelscape.cli.config import change

    options = [
        line
        for name, value in file.options.items()
        if given(ctx, name) and (line := change(name, value, ctx.params[name]))
    ]
    if lines := [*options, *settings]:
        talk(f"{file.path}: the command line overrules {', '.join(lines)}")


def recipe_of(
    images: Texts,
    labels: Labels,
    schedule: Schedule,
    holdout: Holdout,
    second: SecondTask,
    setting: Texts,
    corrections: Texts = [],
    file: ConfigFile | None = None,
    told: Texts | None = None,
) -> Recipe:
    """The recipe of the command line, whose options override those of the `file`: what they replace in it is
    added to `told`.
    """
    from labelscape.training.data import val_interval
    from labelscape.training.recipe import make_recipe

    settings = settings_given(images, labels, schedule, holdout, second, setting, corrections)
    settings = with_file(settings, file, [] if told is None else told, NAME)
    # Only with the recipe made: the steps, batch and crop that were not given count too.
    if (holdout.val or (file is not None and file.val)) and settings.get("val_every") is None:
        recipe = make_recipe(**{**settings, "val_every": 1})
        return recipe.replace(val_every=val_interval(recipe))
    return make_recipe(**settings)


def with_file(settings: dict[str, Any], file: ConfigFile | None, told: Texts, verb: str) -> dict[str, Any]:
    """The settings over those of a configuration file; what they replace in it is added to `told`. Raises
    BadOption where neither names a scene.
    """
    if file is not None:
        from labelscape.cli.config import overruled

        settings, lines = overruled(file.settings, settings)
        told += lines
    if not settings["data"].get("images"):
        raise BadOption(
            f"labelscape {verb} needs scenes: name them, or a configuration file (--config) that does."
        )
    return settings


def settings_given(
    images: Texts,
    labels: Labels,
    schedule: Schedule,
    holdout: Holdout,
    second: SecondTask,
    setting: Texts,
    corrections: Texts = [],
) -> dict[str, Any]:
    """The settings of the recipe that the command line names; `-o` overrides the other options."""
    more = settings_of(setting)
    # Without scenes, those of a configuration file hold.
    data = {**({"images": labelled_scenes(images)} if images else {}), **labels.settings, **named(holdout)}
    if corrections:
        data["corrections"] = corrections
    if its := second.settings:
        own = more.get("mate", {})
        more["mate"] = {**its, **own, "data": {**its["data"], **own.get("data", {})}}
    return {**named(schedule), **more, "data": {**data, **more.get("data", {})}}


def named(group: Holdout | Schedule) -> dict[str, Any]:
    """The options of a group that were given."""
    values = {option.name: getattr(group, option.name) for option in fields(group)}
    return {name: value for name, value in values.items() if value is not None}


def forest_score(recipe: Recipe, out: Path) -> dict[str, Any]:
    """The metrics of a random forest on the same blocks; their counts are written beside the network's."""
    from labelscape.training.data import open_recipe_data
    from labelscape.training.forest import score_forest
    from labelscape.training.outputs import counts_path

    # With the seed of the network's training, so that both are scored on the same blocks.
    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        found = score_forest(dataset, seed=recipe.seed)
    found.save(counts_path(out, "random-forest"), overwrite=True)
    return {"random forest": found.metrics}


def print_trained(
    out: Path, recipe: Recipe, scores: Mapping[str, Any], checkpoint: Checkpoint, as_json: bool
) -> None:
    from labelscape.evaluation.text import print_scores
    from labelscape.training.outputs import checkpoint_path
    from labelscape.training.run import best_network

    target, best = checkpoint_path(out, recipe.network), best_network(recipe, scores)
    # A base network may score better than what was trained from it: the better one is recommended.
    use = checkpoint_path(out, best)
    mate = checkpoint.mate
    if as_json:
        tasks = {"tasks": {mate.name: mate.scores}} if mate else {}
        print_json({"checkpoint": str(target), "best": str(use), "scores": scores, **tasks})
        return
    tables = [("", scores, checkpoint.legend)] + (
        [(f"{mate.name}: ", mate.scores, mate.legend)] if mate else []
    )
    for name, found, legend in tables:
        if found:
            pixels = next(iter(found.values()))["labelled_pixels"]
            print(f"{name}on {pixels:,} labelled pixels that were held out:\n")
            print_scores(found, legend.names)
    print(f"checkpoint: {target}")
    if best != recipe.network:
        better, last = (f"{name} {100 * scores[name]['mean_iou']:.2f} %" for name in (best, recipe.network))
        print(f"the base network scored better (mean IoU: {better}, {last}): {use}")
    print(f"map a scene with: labelscape map {typed(use)} SCENE --out map")
