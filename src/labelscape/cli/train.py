"""labelscape train: scenes and labels in, a checkpoint and its score out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)  # fmt: skip

NAME = "train"
Texts = list[str]


def run(
    images: Annotated[Texts, typer.Argument(help="Scenes: files, a folder (or a,b,c) of single-band files, or one folder with images/ and labels/.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint and its log.")],
    labels: Annotated[Texts, typer.Option("--labels", help="Label raster or polygons; one per scene, or one for all.")] = [],
    network: Annotated[str, typer.Option("--network", help="Name of the network (labelscape models).")] = "mlp",
    steps: Annotated[int, typer.Option("--steps", help="Updates of the weights.")] = 400,
    base_steps: Annotated[int | None, typer.Option("--base-steps", help="Steps of the base network before it.", show_default="twice --steps")] = None,
    start: Annotated[str | None, typer.Option("--start", help="Checkpoint whose encoder to start from, instead of a first phase.")] = None,
    batch: Annotated[int, typer.Option("--batch", help="Crops per step.")] = 8,
    crop: Annotated[int, typer.Option("--crop", help="Side of a training crop in pixels.")] = 128,
    rate: Annotated[float, typer.Option("--rate", help="Learning rate at the start.")] = 0.05,
    class_column: Annotated[str | None, typer.Option("--class-column", help="Column of the polygons that names the class.")] = None,
    merge: Annotated[Texts, typer.Option("--merge", help="NEW=OLD,OLD: merge classes; classes not named stay unlabelled. Repeat.")] = [],
    classes: Annotated[Texts, typer.Option("--classes", help="NAME=VALUE of a label raster. Repeat, or separate by commas.")] = [],
    background: Annotated[str | None, typer.Option("--background", help="Class of all that no polygon covers.")] = None,
    area: Annotated[str | None, typer.Option("--area", help="Polygons inside which the labels are complete.")] = None,
    ignore_value: Annotated[list[int], typer.Option("--ignore-value", help="Label value that means 'not labelled'. Repeat.")] = [],
    bands: Annotated[str | None, typer.Option("--bands", help="Bands to use by name, in order: B04,B03,B02.")] = None,
    nodata: Nodata = None,
    block: Annotated[int, typer.Option("--block", help="Side in pixels of the blocks that are held out whole.")] = 256,
    holdout: Annotated[float, typer.Option("--holdout", help="Share of the labels held out for the score.")] = 0.25,
    forest: Annotated[bool, typer.Option("--forest", help="Also score a per-pixel random forest on the same blocks.")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Device = "auto",
    setting: Annotated[Texts, typer.Option("-o", "--set", help="KEY=VALUE for any other setting of the recipe. Repeat.")] = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on scenes with labels and score it on blocks it never saw.

    Examples:

      labelscape train scene.tif --labels fields.gpkg --class-column crop --out runs/a

      labelscape train town.tif --labels buildings.geojson --background other --area surveyed.geojson --out runs/town
    """
    from labelscape.evaluation.text import print_scores
    from labelscape.nets.catalog import entry
    from labelscape.training.forest import score_forest
    from labelscape.training.loop import checkpoint_path, open_recipe_data, train
    from labelscape.training.recipe import make_recipe

    data = {
        "images": [scene_of(i) for i in images], "labels": labels, "class_column": class_column, "merge": pairs_of(merge, "merge"),
        "classes": numbers_of(classes, "classes") or None, "background": background, "area": area, "ignore_values": ignore_value,
        "bands": bands.split(",") if bands else None, "nodata": nodata, "block": block, "holdout": holdout,
    }  # fmt: skip
    if base_steps is None:
        base_steps = 2 * steps if entry(network).start and not start else 0
    fields = dict(network=network, steps=steps, base_steps=base_steps, start=start, batch=batch, crop=crop, rate=rate, seed=seed, device=device)
    more = settings_of(setting)
    recipe = make_recipe(**{**fields, **more, "data": {**data, **more.get("data", {})}})
    checkpoint = train(recipe, out, overwrite=overwrite, say=talk)
    scores = dict(checkpoint.scores)
    if forest and recipe.data.holdout:
        with open_recipe_data(recipe.data, recipe.seed) as dataset:
            scores = {"random forest": score_forest(dataset, seed=seed).metrics, **scores}
    target = checkpoint_path(out, network)
    if as_json:
        print_json({"checkpoint": str(target), "scores": scores})
        return
    if scores:
        print_scores(scores, checkpoint.legend.names)
    print(f"checkpoint: {target}\nmap a scene with: labelscape map {target} SCENE --out map")
