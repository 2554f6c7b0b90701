"""labelscape train: scenes and labels in, a checkpoint and its score out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import (
    AsJson,
    Device,
    Nodata,
    Overwrite,
    numbers_of,
    pairs_of,
    print_json,
    scene_of,
    settings_of,
    talk,
)

if TYPE_CHECKING:
    from labelscape.training.recipe import Recipe

NAME = "train"
Texts = list[str]


def run(
    images: Annotated[
        Texts,
        typer.Argument(
            help=(
                "Scenes: files, folders (or a,b,c) of bands or tiles, STAC items; or one folder with "
                "images/ and labels/."
            )
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint and its log.")],
    labels: Annotated[
        Texts, typer.Option("--labels", help="Label raster or polygons; one per scene, or one for all.")
    ] = [],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The folder is this published data set (labelscape data list)."),
    ] = None,
    network: Annotated[
        str, typer.Option("--network", help="Name of the network (labelscape models).")
    ] = "mlp",
    steps: Annotated[int, typer.Option("--steps", help="Updates of the weights.")] = 400,
    base_steps: Annotated[
        int | None,
        typer.Option(
            "--base-steps", help="Steps of the base network before it.", show_default="twice --steps"
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Checkpoint whose encoder to start from, instead of a first phase."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Crops per step.")] = 8,
    crop: Annotated[int, typer.Option("--crop", help="Side of a training crop in pixels.")] = 128,
    rate: Annotated[float, typer.Option("--rate", help="Learning rate at the start.")] = 0.05,
    class_column: Annotated[
        str | None, typer.Option("--class-column", help="Column of the polygons that names the class.")
    ] = None,
    merge: Annotated[
        Texts,
        typer.Option(
            "--merge", help="NEW=OLD,OLD: merge classes; classes not named stay unlabelled. Repeat."
        ),
    ] = [],
    classes: Annotated[
        Texts, typer.Option("--classes", help="NAME=VALUE of a label raster. Repeat, or separate by commas.")
    ] = [],
    background: Annotated[
        str | None, typer.Option("--background", help="Class of all that no polygon covers.")
    ] = None,
    area: Annotated[
        str | None, typer.Option("--area", help="Polygons inside which the labels are complete.")
    ] = None,
    ignore_value: Annotated[
        list[int], typer.Option("--ignore-value", help="Label value that means 'not labelled'. Repeat.")
    ] = [],
    threshold: Annotated[
        int | None,
        typer.Option(
            "--threshold", help="Label rasters are grey masks: from this value up is the second class."
        ),
    ] = None,
    bands: Annotated[
        str | None, typer.Option("--bands", help="Bands to use by name, in order: B04,B03,B02.")
    ] = None,
    nodata: Nodata = None,
    block: Annotated[
        int, typer.Option("--block", help="Side in pixels of the blocks that are held out whole.")
    ] = 256,
    split: Annotated[
        str, typer.Option("--split", help="blocks, or random: small blocks by chance, whose score flatters.")
    ] = "blocks",
    buffer: Annotated[
        int, typer.Option("--buffer", help="Pixels around held-out blocks whose labels are not trained on.")
    ] = 0,
    holdout: Annotated[
        float, typer.Option("--holdout", help="Share of the labels held out for the score.")
    ] = 0.25,
    forest: Annotated[
        bool, typer.Option("--forest", help="Also score a per-pixel random forest on the same blocks.")
    ] = False,
    val: Annotated[
        float,
        typer.Option(
            "--val", help="Share of the labels held out to watch training with; the best weights are kept."
        ),
    ] = 0.0,
    mate: Annotated[
        Texts,
        typer.Option(
            "--mate", help="Scenes of a second task, learned in the same batches (classmate, dfcnet)."
        ),
    ] = [],
    mate_labels: Annotated[
        Texts, typer.Option("--mate-labels", help="Its labels; more with -o mate.data.KEY=VALUE.")
    ] = [],
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run will cost, from three real steps, and stop.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the log as TensorBoard event files too.")
    ] = False,
    slurm: Annotated[
        str | None,
        typer.Option(
            "--slurm", metavar="NODESxGPUS", help="Print a SLURM batch script for this command and stop."
        ),
    ] = None,
    setting: Annotated[
        Texts, typer.Option("-o", "--set", help="KEY=VALUE for any other setting of the recipe. Repeat.")
    ] = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on scenes with labels and score it on blocks it never saw.

    Examples:

      labelscape train scene.tif --labels fields.gpkg --class-column crop --out runs/a

      labelscape train town.tif --labels buildings.geojson --background other --area surveyed.geojson --out
        runs/town
    """
    from labelscape.evaluation.text import print_scores
    from labelscape.nets.catalog import entry
    from labelscape.training.data import open_recipe_data
    from labelscape.training.forest import score_forest
    from labelscape.training.outputs import checkpoint_path
    from labelscape.training.recipe import make_recipe
    from labelscape.training.run import train

    data = {
        "images": [scene_of(i) for i in images],
        "labels": labels,
        "class_column": class_column,
        "merge": pairs_of(merge, "merge"),
        "classes": numbers_of(classes, "classes") or None,
        "background": background,
        "area": area,
        "ignore_values": ignore_value,
        "threshold": threshold,
        "bands": bands.split(",") if bands else None,
        "nodata": nodata,
        "block": block,
        "holdout": holdout,
        "split": split,
        "buffer": buffer,
    }
    if base_steps is None:
        base_steps = 2 * steps if entry(network).start and not start else 0
    fields = dict(
        network=network,
        steps=steps,
        base_steps=base_steps,
        start=start,
        batch=batch,
        crop=crop,
        rate=rate,
        seed=seed,
        device=device,
    )
    more = settings_of(setting)
    data |= {"val": val, "dataset": dataset}
    if val:
        fields |= {"val_every": max(1, steps // 10)}
    if mate:
        second = {"images": [scene_of(i) for i in mate], "labels": mate_labels, "holdout": 0.0}
        more["mate"] = {**more.get("mate", {}), "data": {**second, **more.get("mate", {}).get("data", {})}}
    recipe = make_recipe(**{**fields, **more, "data": {**data, **more.get("data", {})}})
    if slurm is not None:
        print_slurm(slurm, out, recipe)
        return
    if dry_run:
        print_rehearsal(recipe, as_json)
        return
    checkpoint = train(recipe, out, overwrite=overwrite, tensorboard=tensorboard, say=talk)
    scores = dict(checkpoint.scores)
    if forest and recipe.data.holdout:
        with open_recipe_data(recipe.data, recipe.seed) as dataset:
            scores = {"random forest": score_forest(dataset, seed=seed).metrics, **scores}
    target = checkpoint_path(out, network)
    if as_json:
        print_json({"checkpoint": str(target), "scores": scores})
        return
    if scores:
        print(f"on {next(iter(scores.values()))['labelled_pixels']:,} labelled pixels that were held out:\n")
        print_scores(scores, checkpoint.legend.names)
    print(f"checkpoint: {target}\nmap a scene with: labelscape map {target} SCENE --out map")


def print_rehearsal(recipe: Recipe, as_json: bool) -> None:
    from dataclasses import asdict

    from labelscape.training.rehearse import rehearse

    found = rehearse(recipe)
    if as_json:
        print_json({**asdict(found), "seconds": found.seconds})
        return
    print(
        f"{recipe.network}: {found.parameters:,} parameters, {found.labelled_pixels:,} labelled training "
        "pixels"
    )
    print(
        f"{found.steps:,} steps of {recipe.batch} crops of {recipe.crop} x {recipe.crop}: {found.crops:,} "
        "crops"
    )
    base = (
        f" ({found.base_seconds_per_step:.2f} s in the base network's {found.base_steps:,})"
        if found.base_steps
        else ""
    )
    print(
        f"{found.seconds_per_step:.2f} s a step{base}, about {lasting(found.seconds)} in all, "
        f"{lasting(found.seconds_before)} of it to read the data; "
        f"the score comes on top. {found.peak_bytes / 2**30:.1f} GiB of memory"
    )


def lasting(seconds: float) -> str:
    """`95 s`, `7 minutes`, `5.2 hours`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def print_slurm(size: str, out: Path, recipe: Recipe) -> None:
    from labelscape.errors import BadOption
    from labelscape.training.rehearse import slurm_script

    nodes, by, gpus = size.partition("x")
    if not (by and nodes.isdigit() and gpus.isdigit() and int(nodes) and int(gpus)):
        raise BadOption(f"--slurm {size!r} must read NODESxGPUS, such as 1x4.")
    words = (
        sys.argv[sys.argv.index(NAME) + 1 :] if NAME in sys.argv else sys.argv[2:]
    )  # also beneath rio's own command line
    at = words.index("--slurm") if "--slurm" in words else None
    kept = [
        w
        for i, w in enumerate(words)
        if not w.startswith("--slurm=") and (at is None or i not in (at, at + 1))
    ]
    print(
        slurm_script([shlex.quote(w) for w in kept], out, recipe, nodes=int(nodes), gpus=int(gpus), hours=24),
        end="",
    )
