"""labelscape evaluate: score a checkpoint on labelled scenes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.given_files import check_files, check_models
from labelscape.cli.options import (
    LISTS,
    AsJson,
    Averaging,
    Co,
    Inference,
    Labels,
    Overwrite,
    PublishedSet,
    Tiles,
    Workers,
    grouped,
    talk,
)
from labelscape.cli.parsing import settings_of
from labelscape.cli.scenes import scenes_of
from labelscape.cli.scored import Shown, print_evaluation
from labelscape.errors import BadFile, BadOption
from labelscape.files import make_folder

if TYPE_CHECKING:
    import numpy as np

    from labelscape.checkpoint import Checkpoint
    from labelscape.datasets.own import Dataset, LabelledScene
    from labelscape.evaluation.counts import Evaluation
    from labelscape.training.recipe_data import Data

NAME = "evaluate"
Model = Annotated[
    str,
    typer.Argument(
        help="Checkpoint or model of export; or a finished class raster or folder of them, to score on "
        "--labels; or a file of "
        "counts, to which others are added."
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Argument(
        help=f"Labelled scenes; by default its training scenes. {LISTS} After counts: more counts.",
        show_default=False,
    ),
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
Roads = Annotated[
    list[str],
    typer.Option(
        "--apls",
        help="Class of lines, such as road: also score whether routes along it are as long as they should be "
        "(APLS, in metres). Repeat.",
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
CountsFile = Annotated[
    Path | None,
    typer.Option(
        "--counts",
        help="Also write all counts here (JSON): files of scenes, workers or machines add up to the whole.",
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
    apls: Roads = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """As `evaluate_into` takes them; the card needs no counts of its own."""
        return {name: value for name, value in asdict(self).items() if name != "card"}


@dataclass(frozen=True, kw_only=True)
class Written:
    """Which files are written, and how."""

    predictions: Predictions = None
    out: Out = None
    counts: CountsFile = None
    creation_options: Co = field(default_factory=list)
    overwrite: Overwrite = False

    def check(self) -> None:
        """Before hours of scoring, not after: raises BadFile where a file of counts exists, BadOption for
        creation options.
        """
        from labelscape.rasters.creation import of_folder

        of_folder(self.creation_options, self.out, "error maps")
        if self.counts is not None and self.counts.exists() and not self.overwrite:
            raise BadFile(f"{self.counts} exists; pass --overwrite to replace it.")

    @property
    def settings(self) -> dict[str, Any]:
        """As `evaluate` takes them."""
        return {name: getattr(self, name) for name in ("out", "overwrite", "creation_options")}


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
    scores: Scores,
    written: Written,
    tiles: Tiles,
    machine: Inference,
    averaging: Averaging,
    workers: Workers,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on labelled pixels, mapped tile by tile exactly as by `map`; without scenes on the
    held-out blocks of its training scenes. Labels are read as in training, except for the options given here.

    Examples:

      labelscape evaluate runs/a/mlp.safetensors other.tif --labels other_fields.gpkg

      labelscape evaluate runs/v/mlp.safetensors Vaihingen --dataset vaihingen-eroded --part val

      labelscape evaluate runs/both/dfcnet.safetensors --task road

      labelscape evaluate runs/c/ifbfnet.safetensors Cityscapes --dataset cityscapes --part test --predictions
        sent

      labelscape evaluate runs/a/mlp.safetensors "test/*.tif" --labels fields.gpkg --workers 4

      labelscape evaluate map/scene_class.tif --labels fields.gpkg

      labelscape evaluate north.json south.json --counts both.json
    """
    _check_given(model, [*(images or []), *labels.labels])
    from labelscape.checkpoint import load
    from labelscape.training.evaluate import is_own
    from labelscape.training.map_data import is_map

    written.check()
    card, predictions = scores.card or scores.boundaries, written.predictions
    shown = Shown(card, written.out, written.counts, written.overwrite, as_json)
    if is_map(model):
        asked = {"dataset": dataset, "part": part, "task": task, "predictions": predictions}
        _run_given(model, images, labels, scores, shown, asked, (tiles, averaging, workers), written)
        return
    checkpoint = load(model).task(task)
    check_options(checkpoint, model, images, dataset, labels, part)
    failed: dict[str, str] = {}
    data = scored_data(checkpoint, images, dataset, settings, labels, None if workers.hands.alone else failed)
    _check_predictions(predictions, data)
    files = {**scores.settings, "reliability": shown.card, **written.settings}
    files |= {"hands": workers.hands, "failed": failed, "own": is_own(checkpoint, data)}
    asked = part, bool(data.dataset or not images), task, predictions
    _run_checkpoint(checkpoint, data, asked, (tiles, machine, averaging), files, shown)


def _run_checkpoint(
    checkpoint: Checkpoint,
    data: Data,
    asked: tuple[str | None, bool, str | None, Path | None],
    options: tuple[Tiles, Inference, Averaging],
    files: dict[str, Any],
    shown: Shown,
) -> None:
    """Score a checkpoint. `asked`: the part, whether held-out labels are chosen without one, the task, the
    folder of predictions.
    """
    from labelscape.training.data import open_recipe_data

    part, may_choose, task, predictions = asked
    # The seed of training: another one would hold out other blocks, and score on pixels that were learned.
    seed = checkpoint.recipe.get("seed", 0)
    with open_recipe_data(data, seed, checkpoint.legend, hold=files["hands"].alone) as opened:
        for line in opened.report:
            talk(line)
        split = chosen_split(part, opened, may_choose=may_choose)
        checkpoint = _of_labels(checkpoint, opened, task)
        found = _scored(checkpoint, opened, data, split, predictions, options, files)
    print_evaluation(found, shown, checkpoint.network, split or "all", _task_of(checkpoint))


def _task_of(checkpoint: Checkpoint) -> str | None:
    """The name of the second task, where the checkpoint is for that."""
    return checkpoint.whole.mate.name if checkpoint.whole else None


def _check_given(model: str, files: list[str]) -> None:
    # Without that ending it is a finished map or counts, which open as what they are.
    (check_models if model.endswith(".safetensors") else check_files)([model])
    check_files(files)


def _run_given(
    model: str,
    images: list[str] | None,
    labels: Labels,
    scores: Scores,
    shown: Shown,
    asked: dict[str, Any],
    how: tuple[Tiles, Averaging, Workers],
    written: Written,
) -> None:
    """Score a finished map, or add files of counts. Raises BadOption for options of a network."""
    given = [f"--{name}" for name, value in asked.items() if value is not None]
    if how != (Tiles(), Averaging(), Workers()):
        given.append("options of tiles, averaging and workers")
    if given:
        raise BadOption(
            f"{model} is no checkpoint: {', '.join(given)} mean nothing for a finished map or for counts. "
            "Leave them out."
        )
    print_evaluation(_given(model, images, labels, scores, written), shown, Path(model).name, None)


def _given(
    model: str, images: list[str] | None, labels: Labels, scores: Scores, written: Written
) -> Evaluation:
    """The counts of a finished map, or the sum of files of counts."""
    from labelscape.evaluation.counts import Evaluation
    from labelscape.training.evaluate import evaluate

    if Path(model).suffix.lower() == ".json":
        if labels.named or scores.settings != Scores().settings or written.creation_options:
            raise BadOption("Counts are added as they are: leave labels, what is to be counted and --co out.")
        files = [Path(file) for file in (model, *(images or ()))]
        # Counts, not scores: those of parts cannot be averaged to that of the whole.
        found = sum(Evaluation.load(path) for path in files)
        if out := written.out:
            from labelscape.evaluation.page import write_page

            make_folder(out)
            title = ", ".join(path.stem for path in files)
            write_page(out / "report.html", found, title=title, overwrite=written.overwrite)
        return found
    # Any other file may be a map of other software, so only the labels tell what was meant.
    if not labels.labels:
        raise BadOption(
            f"{model} is not a Labelscape checkpoint; to score it as a finished map, pass the --labels."
        )
    settings = {name: value for name, value in labels.settings.items() if name != "labels"}
    scenes = [scene.source for scene in scenes_of(images, asset=labels.asset)] if images else None
    return evaluate(model, scenes, labels.files, spec=settings, **written.settings, **scores.settings)


def check_options(
    checkpoint: Checkpoint,
    model: str,
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
        training_data(checkpoint, model)
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
    checkpoint: Checkpoint,
    images: list[str] | None,
    dataset: str | None,
    settings: list[str],
    labels: Labels,
    failed: dict[str, str] | None = None,
) -> Data:
    """The scenes and labels to score on: a published set, scenes of the user's own, or those of training.
    Where a dict is given for those that `failed`, scenes that cannot be opened are left out and named in it.
    """
    from labelscape.training.evaluate import other_data, present, readable, training_data
    from labelscape.training.recipe_data import Data

    if not images:
        return present(training_data(checkpoint))
    if dataset is not None:
        options = published_options(checkpoint, images[0], dataset, settings_of(settings))
        # An absolute path: workers have another working folder.
        folder = images if failed is None else [os.path.abspath(images[0])]
        return Data(images=folder, dataset=dataset, dataset_options=options)
    scenes, given = [scene.source for scene in scenes_of(images, asset=labels.asset)], labels.settings
    if failed is not None:
        scenes, files, found = readable(scenes, given.get("labels", []), given)
        failed |= found
        given = {**given, **({"labels": files} if files else {})}
    data, notes = other_data(checkpoint, scenes, given)
    for note in notes:
        talk(f"warning: {note}")
    return data


def published_options(
    checkpoint: Checkpoint, folder: str, dataset: str, given: dict[str, Any]
) -> dict[str, Any]:
    """The options of a published data set: those `given`, before those that the model was trained with on the
    same set, eroded or not; else the switch that leads to the model's classes, where one does.
    """
    from labelscape.datasets.published.catalog import find_published, options_of

    def family(name: str) -> str:
        return name.removesuffix("-eroded")

    trained = checkpoint.recipe.get("data") or {}
    if family(trained.get("dataset") or "") == family(dataset):
        chosen = {key: value for key, value in trained.get("dataset_options", {}).items() if key not in given}
    else:
        found = find_published(dataset, folder, **given)
        switches = {key: not value for key, value in options_of(dataset).items() if isinstance(value, bool)}
        fitting = (
            {key: value}
            for key, value in switches.items()
            if key not in given
            and find_published(dataset, folder, **given, **{key: value}).legend.names
            == checkpoint.legend.names
        )
        chosen = {} if found.legend.names == checkpoint.legend.names else next(fitting, {})
    if chosen:
        shown = " ".join(f"-o {key}={_typed(value)}" for key, value in chosen.items())
        talk(f"{dataset} is read as the model learned it: {shown}")
    return {**chosen, **given}


def _typed(value: Any) -> str:
    """A value as it is typed behind -o."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, (list, tuple)) else str(value)


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
    options: tuple[Tiles, Inference, Averaging],
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
    task = _task_of(checkpoint)
    # Members of an ensemble need not have learned the second task.
    also = [one.task(task if task in one.tasks else None) for one in map(load, averaging.also)]
    found = evaluate_into(
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
    if predictions:
        talk(f"{len(found.per_scene)} predictions in {predictions}")
    return found


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
