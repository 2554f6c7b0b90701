"""labelscape evaluate: score a checkpoint on labelled scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import (
    LISTS,
    AsJson,
    Averaging,
    Labels,
    Machine,
    Overwrite,
    PublishedSet,
    Tiles,
    grouped,
    print_json,
    talk,
)
from labelscape.cli.parsing import settings_of
from labelscape.cli.scenes import scenes_of
from labelscape.errors import BadFile, BadOption

if TYPE_CHECKING:
    import numpy as np

    from labelscape.checkpoint import Checkpoint
    from labelscape.datasets.own import Dataset, LabelledScene
    from labelscape.evaluation.measure import Evaluation
    from labelscape.training.recipe_data import Data

NAME = "evaluate"
Model = Annotated[Path, typer.Argument(help="Checkpoint.")]
Images = Annotated[
    list[str] | None,
    typer.Argument(help=f"Labelled scenes; by default its training scenes. {LISTS}", show_default=False),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--part",
        help="train, val, test or all.",
        show_default="held-out blocks of its own scenes, test or val of a published set, else all",
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        help="Also write predictions here in the data set's label format, ready for submission.",
    ),
]
Card = Annotated[
    bool,
    typer.Option(
        "--card",
        help="Also print the score under each convention in use (which classes enter a mean, absent classes, "
        "pooled or per image), with who reports it so.",
    ),
]
Boundaries = Annotated[
    bool,
    typer.Option(
        "--boundaries",
        help="Also score by distance to the borders of the reference, and on a reference eroded by 3 pixels. "
        "Implies --card.",
    ),
]
Things = Annotated[
    list[str],
    typer.Option(
        "--objects",
        help="Class of things, such as building: also score its objects (matched at IoU 0.5) and borders. "
        "Repeat.",
    ),
]
Tolerance = Annotated[
    int, typer.Option("--tolerance", help="Of boundary F1 and boundary IoU, in pixels (with --objects).")
]
Lines = Annotated[
    list[str],
    typer.Option(
        "--topology",
        help="Class of lines, such as road: also score whether they are connected (clDice). Repeat.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for where it is wrong: error maps, blocks ranked by their errors (CSV, GeoPackage), all "
        "counts (JSON) and a report.",
    ),
]
Settings = Annotated[
    list[str], typer.Option("-o", "--set", help="Option of the published data set, KEY=VALUE. Repeat.")
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Name of the model's second task (labelscape info), to score it instead of the first.",
        show_default="the first; of a published data set that whose classes it has",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is scored beside classes of pixels."""

    card: Card = False
    boundaries: Boundaries = False
    objects: Things = field(default_factory=list)
    tolerance: Tolerance = 2
    topology: Lines = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """As `evaluate_into` takes them; the card needs no counts of its own."""
        return {name: value for name, value in asdict(self).items() if name != "card"}


@grouped
def run(
    model: Model,
    images: Images = None,
    *,
    labels: Labels,
    dataset: PublishedSet = None,
    settings: Settings = [],
    part: Split = None,
    task: Task = None,
    predictions: Predictions = None,
    scores: Scores,
    out: Out = None,
    overwrite: Overwrite = False,
    tiles: Tiles,
    machine: Machine,
    averaging: Averaging,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on labelled pixels, mapped tile by tile exactly as by `map`.

    Without scenes, it is scored on the held-out blocks of its own training scenes. Labels are read as in
    training, except for the options given here.

    Examples:

      labelscape evaluate runs/a/mlp.safetensors other.tif --labels other_fields.gpkg

      labelscape evaluate runs/v/mlp.safetensors Vaihingen --dataset vaihingen-eroded --part val

      labelscape evaluate runs/both/dfcnet.safetensors --task road

      labelscape evaluate runs/c/ifbfnet.safetensors Cityscapes --dataset cityscapes --part test --predictions
        sent
    """
    from labelscape.checkpoint import load
    from labelscape.training.data import open_recipe_data

    checkpoint = load(model).task(task)
    check_options(checkpoint, model, images, dataset, labels, part)
    data = scored_data(checkpoint, images, dataset, settings, labels)
    _check_predictions(predictions, data)
    # The seed of training: another one would hold out other blocks, and score on pixels that were learned.
    with open_recipe_data(data, checkpoint.recipe.get("seed", 0), checkpoint.legend) as opened:
        for line in opened.report:
            talk(line)
        split = chosen_split(part, opened, may_choose=bool(data.dataset or not images))
        checkpoint = _of_labels(checkpoint, opened, task)
        files = {**scores.settings, "out": out, "overwrite": overwrite}
        found = _scored(checkpoint, opened, data, split, predictions, (tiles, machine, averaging), files)
    if predictions:
        talk(f"{len(found.per_scene)} predictions in {predictions}")
    _print(found, checkpoint, split, as_json)
    # As JSON all of these are part of the result.
    if not as_json:
        _print_more(found, scores.card or scores.boundaries)
    if out:
        talk(f"where it is wrong: {out / 'report.html'}")


def check_options(
    checkpoint: Checkpoint,
    model: Path,
    images: Sequence[str] | None,
    dataset: str | None,
    labels: Labels,
    part: str | None,
) -> None:
    """Raises BadOption where options do not belong together."""
    from labelscape.datasets.split import PARTS
    from labelscape.training.evaluate import training_data

    named = ", ".join(labels.named)
    if part not in (None, "all", *PARTS):
        raise BadOption(f"--part {part!r} must be one of train, val, test, all.")
    if not images:
        # Raises where the checkpoint does not say what it was trained on, before anything is opened.
        training_data(checkpoint, str(model))
    if dataset is not None and (not images or len(images) != 1 or named):
        raise BadOption(
            "--dataset takes one folder, that of the published data set, which has its own labels and classes"
            f"{f': leave {named} out' if named else ''}."
        )
    if not images and named:
        raise BadOption(
            f"{named} describe{'s' * (len(labels.named) == 1)} the labels of other scenes, but no scene is "
            "given. Pass the scenes too, or leave it out to score on the model's own training scenes."
        )
    if images and dataset is None and part not in (None, "all"):
        raise BadOption(
            "--part selects a split of a published data set or of the model's own training scenes; leave the "
            "scenes out, or leave --part out."
        )


def _check_predictions(predictions: Path | None, data: Data) -> None:
    """Raises BadOption where predictions are asked for data that have no label format."""
    # Each published set has its own values, colours and file names; a user's own scene has none.
    if predictions and not data.dataset:
        raise BadOption(
            "--predictions writes the label format of a published data set: name it with --dataset. For "
            "your own scenes, use labelscape map."
        )


def scored_data(
    checkpoint: Checkpoint, images: list[str] | None, dataset: str | None, settings: list[str], labels: Labels
) -> Data:
    """The scenes and labels to score on: a published set, scenes of the user's own, or those of training."""
    from labelscape.training.evaluate import other_data, training_data
    from labelscape.training.recipe_data import Data

    if not images:
        return training_data(checkpoint)
    if dataset is not None:
        return Data(images=images, dataset=dataset, dataset_options=settings_of(settings))
    scenes = [scene.source for scene in scenes_of(images)]
    data, notes = other_data(checkpoint, scenes, labels.settings)
    for note in notes:
        talk(f"warning: {note}")
    return data


def chosen_split(part: str | None, dataset: Dataset, *, may_choose: bool) -> str | None:
    """The split to score: the one asked for, else what was held out where `may_choose`; None for all."""
    from labelscape.training.data import scored_part

    if part is None and may_choose:
        return scored_part(dataset)
    return None if part == "all" else part


def _of_labels(checkpoint: Checkpoint, dataset: Dataset, task: str | None) -> Checkpoint:
    """The checkpoint for the task that was named, else the one whose classes the labels have."""
    from labelscape.evaluation.measure import for_labels

    # By the classes of the labels: a published set of roads is scored on the second task unasked.
    found = for_labels([checkpoint], dataset)[0]
    if task is None and found.whole is not None:
        talk(f"scoring the second task {found.whole.mate.name}, whose classes these labels have")
    return found


def _scored(
    checkpoint: Checkpoint,
    dataset: Dataset,
    data: Data,
    split: str | None,
    predictions: Path | None,
    options: tuple[Tiles, Machine, Averaging],
    files: dict[str, Any],
) -> Evaluation:
    """The counts, with every scene's prediction written where that is asked for."""
    from labelscape.checkpoint import load
    from labelscape.training.evaluate import evaluate_into

    tiles, machine, averaging = options
    keep = None
    if predictions:
        scenes = dataset.scenes if split is None else dataset.part(split)
        # Before scoring, since it refuses files that exist.
        keep = _writer(data, scenes, predictions)
    task = checkpoint.whole.mate.name if checkpoint.whole else None
    # Members of an ensemble need not have learned the second task.
    also = [one.task(task if task in one.tasks else None) for one in map(load, averaging.also)]
    return evaluate_into(
        files.pop("out"),
        [checkpoint, *also],
        dataset,
        split,
        protocol=averaging.protocol,
        keep=keep,
        **files,
        **asdict(tiles),
        **asdict(machine),
    )


def _print(found: Evaluation, checkpoint: Checkpoint, split: str | None, as_json: bool) -> None:
    from labelscape.evaluation.text import print_scores

    for note in found.notes:
        talk(f"warning: {note}")
    # A score of nothing is NaN in every column; the reason is what helps.
    if not found.confusion.labelled:
        talk(f"no score: there are no labels in {f'the {split} split' if split else 'any split'}")
        return
    task = checkpoint.whole.mate.name if checkpoint.whole else None
    if as_json:
        per_scene = {name: counts.to_dict() for name, counts in found.per_scene.items()}
        card = [asdict(line) for line in found.card]
        rings = [counts.to_dict() for counts in found.per_ring]
        print_json(
            {
                **({"task": task} if task else {}),
                "part": split or "all",
                **found.metrics,
                "per_scene": per_scene,
                "per_block": [block.to_dict() for block in found.per_block],
                "card": card,
                **({"objects": [one.to_dict() for one in found.objects]} if found.objects else {}),
                **({"topology": [one.to_dict() for one in found.topology]} if found.topology else {}),
                **({"per_ring": rings, "trimap": found.trimap} if rings else {}),
                "notes": list(found.notes),
            }
        )
        return
    names = list(found.per_scene)
    print(f"{split or 'all'} labels of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    name = f"{checkpoint.network}: {task}" if task else checkpoint.network
    print_scores({name: found.metrics}, checkpoint.legend.names)


def _print_more(found: Evaluation, card: bool) -> None:
    """The scores under each convention if asked for, and those of objects and of lines."""
    from labelscape.evaluation.text import print_card, print_objects, print_topology

    if card and found.confusion.labelled:
        print_card(found.card, found.trimap)
    print_objects(found.objects)
    print_topology(found.topology)


def _writer(
    data: Data, scenes: Sequence[LabelledScene], folder: Path
) -> Callable[[LabelledScene, np.ndarray], None]:
    """A function that writes a scene's classes in its data set's label format. Raises BadFile where a file
    exists already: found before hours of scoring, not after.
    """
    from labelscape.datasets.published.catalog import find_published
    from labelscape.datasets.published.predictions import file_name, write_prediction

    published = find_published(data.dataset, str(data.images[0]), **data.dataset_options)
    pair_of = {pair.name: pair for pair in published.pairs}
    there = [path for scene in scenes if (path := folder / file_name(pair_of[scene.name])).exists()]
    if there:
        raise BadFile(
            f"{there[0]} already exists{f', and {len(there) - 1} more' if len(there) > 1 else ''}. Choose "
            "another folder for --predictions."
        )
    return lambda scene, indices: write_prediction(
        published, pair_of[scene.name], indices, scene.scene.grid, folder
    )
