"""labelscape evaluate: a checkpoint's score on labelled scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import (
    AsJson,
    Averaging,
    Machine,
    Tiles,
    grouped,
    numbers_of,
    print_json,
    scene_of,
    settings_of,
    talk,
)
from labelscape.errors import BadFile, BadInput, BadOption

if TYPE_CHECKING:
    import numpy as np

    from labelscape.checkpoint import Checkpoint
    from labelscape.datasets.own import Dataset, LabelledScene
    from labelscape.training.recipe import Data

NAME = "evaluate"


@grouped
def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Labelled scenes; by default those it was trained on.")
    ] = None,
    *,
    labels: Annotated[
        list[str], typer.Option("--labels", help="Label raster or polygons; one per scene, or one for all.")
    ] = [],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The folder is this published data set (labelscape data list)."),
    ] = None,
    settings: Annotated[
        list[str], typer.Option("-o", "--set", help="Option of the published data set, KEY=VALUE. Repeat.")
    ] = [],
    classes: Annotated[
        list[str],
        typer.Option("--classes", help="NAME=VALUE of a label raster, where it is not the model's own."),
    ] = [],
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            help="train, val, test or all.",
            show_default="what was held out, on its own scenes and published sets; else all",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Also write predictions here in the data set's label format, ready for submission.",
        ),
    ] = None,
    tiles: Tiles,
    machine: Machine,
    averaging: Averaging,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on labelled pixels, tile by tile exactly as `map` maps them.

    Without scenes: the blocks held out of its own training scenes. Labels are read as in training.

    Examples:

      labelscape evaluate runs/a/mlp.safetensors other.tif --labels other_fields.gpkg

      labelscape evaluate runs/v/mlp.safetensors Vaihingen --dataset vaihingen-eroded --part val

      labelscape evaluate runs/c/ifbfnet.safetensors Cityscapes --dataset cityscapes --part test --predictions
        sent
    """
    from labelscape.checkpoint import load
    from labelscape.datasets.split import PARTS
    from labelscape.evaluation.measure import evaluate
    from labelscape.evaluation.text import print_scores
    from labelscape.training.data import open_recipe_data, scored_part
    from labelscape.training.recipe import Data

    checkpoint = load(model)
    stored = checkpoint.recipe.get("data")
    if part not in (None, "all", *PARTS):
        raise BadOption(f"--part {part!r} must be one of train, val, test, all.")
    if not images and not stored:
        raise BadOption(f"{model} does not say what it was trained on: pass scenes and --labels.")
    every = part == "all"
    part = None if every else part
    if dataset is not None:
        if not images or len(images) != 1 or labels or classes:
            raise BadOption(
                "--dataset takes one folder, the published data set's, and brings labels and classes "
                "itself: leave --labels and --classes out."
            )
        data = Data(images=images, dataset=dataset, dataset_options=settings_of(settings))
    elif images:
        how = {
            k: v
            for k, v in (stored or {}).items()
            if k in ("class_column", "merge", "background", "ignore_values", "nodata", "classes", "threshold")
        }
        if classes:
            how["classes"] = numbers_of(classes, "classes")
        data = Data(
            **how,
            **_as_the_model_reads(checkpoint, images),
            images=[scene_of(i) for i in images],
            labels=labels,
            holdout=0,
        )
        if part:
            raise BadOption(
                "--part chooses among the parts of a published data set or of the model's own training "
                "scenes; leave the scenes out."
            )
    else:
        data = Data(**stored)
    if predictions and not data.dataset:
        raise BadOption(
            "--predictions are written in the code of a published data set: name it with --dataset. For "
            "scenes of your own, use map."
        )
    with open_recipe_data(data, checkpoint.recipe.get("seed", 0), checkpoint.legend) as opened:
        if part is None and not every and (data.dataset or not images):
            part = scored_part(opened)
        for line in opened.report:
            talk(line)
        _same_classes(checkpoint, opened)
        keep = (
            _writer(data, opened.scenes if part is None else opened.part(part), predictions)
            if predictions
            else None
        )
        found = evaluate(
            [checkpoint, *map(load, averaging.also)],
            opened,
            part=part,
            protocol=averaging.protocol,
            keep=keep,
            **asdict(tiles),
            **asdict(machine),
        )
    if predictions:
        talk(f"{len(found.per_scene)} predictions in {predictions}")
    if not found.confusion.labelled:
        talk(f"no score: no label in {f'the part {part}' if part else 'any part'}")
        return
    if as_json:
        print_json(
            {
                "part": part or "all",
                **found.metrics,
                "per_scene": {name: c.to_dict() for name, c in found.per_scene.items()},
            }
        )
        return
    print(
        f"{part or 'all'} labels of "
        f"{', '.join(list(found.per_scene)[:5])}{' ...' if len(found.per_scene) > 5 else ''}"
    )
    print_scores({checkpoint.network: found.metrics}, checkpoint.legend.names)


def _writer(
    data: Data, scenes: Sequence[LabelledScene], folder: Path
) -> Callable[[LabelledScene, np.ndarray], None]:
    """What writes a scene's classes as its data set's labels are. Raises BadFile where a file is there
    already.
    """
    from labelscape.datasets.published.catalog import find_published
    from labelscape.datasets.published.predictions import file_name, write_prediction

    published = find_published(data.dataset, str(data.images[0]), **data.dataset_options)
    pair_of = {pair.name: pair for pair in published.pairs}
    there = [path for scene in scenes if (path := folder / file_name(pair_of[scene.name])).exists()]
    if there:
        raise BadFile(
            f"{there[0]} exists{f' and {len(there) - 1} more' if len(there) > 1 else ''}; name another "
            "folder for --predictions."
        )
    return lambda scene, indices: write_prediction(
        published, pair_of[scene.name], indices, scene.scene.grid, folder
    )


def _same_classes(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raises BadInput where the labels' classes are not the model's: the counts would compare places in
    two lists.
    """
    mine, others = checkpoint.legend.names, dataset.legend.names
    if mine != others:
        raise BadInput(
            f"The labels have the classes {', '.join(others)}; the model knows {', '.join(mine)}. Score it "
            "on labels of its own classes."
        )


def _as_the_model_reads(checkpoint: Checkpoint, images: list[str]) -> dict[str, Any]:
    """The checkpoint's bands where the first scene has them by name, else its own order; its pixel size
    where the scene's pixels are finer.
    """
    from labelscape.contract.adjust import is_finer
    from labelscape.contract.matching import match_bands
    from labelscape.scenes.mosaic import open_scene

    if Path(images[0]).is_dir() and any(
        (Path(images[0]) / n).is_dir() for n in ("images", "image", "img_dir", "img")
    ):
        return {}
    with open_scene(scene_of(images[0]), wanted=checkpoint.bands) as scene:
        return {
            "bands": list(checkpoint.bands)
            if match_bands(checkpoint.bands, scene.bands).by == "name"
            else None,
            "pixel_size": checkpoint.pixel_size if is_finer(checkpoint.contract, scene) else None,
        }
