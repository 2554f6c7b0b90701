"""labelscape calibrate: calibrate the predicted probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.given_files import check_models
from labelscape.cli.options import AllowRemote, AsJson, Device, allow_everywhere, print_json, talk
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.model_places import as_given, is_place
from labelscape.text import typed

if TYPE_CHECKING:
    from labelscape.checkpoint import Checkpoint
    from labelscape.datasets.own import Dataset
    from labelscape.evaluation.calibrate import Calibration

NAME = "calibrate"
Unfamiliar = Annotated[
    bool,
    typer.Option(
        "--unfamiliar",
        help="Measure the features of its training data instead, which map --unfamiliar needs.",
    ),
]


def run(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint written by `train`; the temperature is stored in it.")
    ],
    part: Annotated[
        str, typer.Option("--part", help="Blocks of its own training scenes to fit on: val or test.")
    ] = "val",
    unfamiliar: Unfamiliar = False,
    device: Device = "auto",
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:
    """Calibrate the predicted probabilities by temperature scaling.

    Of the pixels with a confidence of 80 %, about 80 in 100 are then right. The temperature is fitted on
    blocks that the network was not trained on, with at most 400,000 of their labelled pixels, each equally
    likely. Classes do not change; probabilities, confidences and what --reject
    rejects do. A second task is calibrated too, on its own labels.
    """
    check_models([model])
    from labelscape.checkpoint import load

    if allow_remote:
        allow_everywhere()
    checkpoint = _not_exported(load(_unpublished(model)), model)
    if part not in ("val", "test"):
        raise BadOption(
            f"--part {part!r} must be val or test: on its training pixels a network is more confident than "
            "it should be."
        )
    if not checkpoint.recipe.get("data"):
        raise BadOption(
            f"{model} does not record its training data, on whose held-out blocks a temperature is fitted."
        )
    if unfamiliar:
        measure_features(checkpoint, model, device, as_json)
        return
    found = {None: fitted(checkpoint, model, None, part, device)}
    last = found[None]
    for task in checkpoint.tasks:
        try:
            # On the checkpoint just calibrated: each fit changes one of the two temperatures.
            found[task] = last = fitted(last.checkpoint, model, task, part, device)
        except BadInput as error:  # nothing of its labels is held out: the first task's fit is worth keeping
            talk(f"warning: the second task {task} is not calibrated. {error}")
    # Before anything is printed: a closed pipe must not lose the temperatures.
    _save(last, found, model)
    for task, one in found.items():
        for note in one.notes:
            talk(f"warning: {note if task is None else f'{task}: {note}'}")
    if as_json:
        tasks = {task: one.to_dict() for task, one in found.items() if task}
        print_json({**found[None].to_dict(), **({"tasks": tasks} if tasks else {})})
        return
    for task, one in found.items():
        name = "" if task is None else f"{task}: "
        sampled = f"fitted on {one.pixels:,} pixels sampled from the part {part}"
        print(f"{name}temperature {one.temperature:.3f}, {sampled}")
        before, after = (f"{100 * error:.2f} %" for error in (one.ece_before, one.ece_after))
        print(f"{name}expected calibration error {before} before, {after} after")


def _save(last: Calibration, found: dict[str | None, Calibration], model: Path) -> None:
    from labelscape.progress import told_where_lost

    told = (f"temperature of {task or 'the classes'}: {one.temperature}" for task, one in found.items())
    with told_where_lost(lambda: told):
        last.save(model)


def _unpublished(model: Path) -> Path:
    """The path, of a checkpoint that may be written to: what was pushed is another file once a temperature
    is in it. Asked before minutes of prediction.
    """
    if is_place(model):
        raise BadOption(
            f"{as_given(model)} is a published model with its SHA-256, and the temperature is stored in the "
            f"checkpoint itself. Copy it (labelscape push {typed(as_given(model))} FOLDER), calibrate the "
            ".safetensors file in FOLDER, and push that file again."
        )
    return model


def _not_exported(checkpoint: Checkpoint, model: Path) -> Checkpoint:
    """The checkpoint. Raises BadOption for an exported model, before minutes of prediction for nothing."""
    if checkpoint.exported is not None:
        raise BadOption(
            f"{model} is {checkpoint.exported.title}, and what is measured is stored in the checkpoint: "
            "calibrate the checkpoint that it was made of, and export it again."
        )
    return checkpoint


def measure_features(checkpoint: Checkpoint, model: Path, device: str, as_json: bool) -> None:
    """Store the features of its training data in a checkpoint. Raises BadInput where none are labelled."""
    from dataclasses import replace

    from labelscape.checkpoint import save
    from labelscape.evaluation.familiar import measure_familiarity

    with training_scenes(checkpoint, model) as dataset:
        features = measure_familiarity(checkpoint, dataset, device=device)
    if features is None:
        raise BadInput(f"No training pixel of {model} is labelled, so that its features cannot be measured.")
    save(replace(checkpoint, familiarity=features), model)
    if as_json:
        print_json(features.describe())
        return
    learned, judged = features.pixels
    print(
        f"features of {learned:,} training pixels; {100 * features.quantile:.0f} % of {judged:,} pixels of "
        f"the part {features.part} lie within the limit"
    )


def training_scenes(checkpoint: Checkpoint, model: Path) -> Dataset:
    """The data that a checkpoint was trained on. Raises BadFile that says from where paths start."""
    from labelscape.training.data import open_recipe_data
    from labelscape.training.recipe_data import stored_data

    try:
        data = stored_data(checkpoint)
        return open_recipe_data(data, checkpoint.recipe.get("seed", 0), checkpoint.legend)
    except BadFile as error:
        # The recipe keeps paths as they were typed: the most frequent reason why scenes are not found.
        where = (
            f"Relative paths start from {Path.cwd()}: run this in the folder where `train` ran, with the "
            "files in place."
        )
        raise BadFile(
            f"The scenes that {model} was trained on are needed to calibrate it. {error} {where}"
        ) from error


def fitted(checkpoint: Checkpoint, model: Path, task: str | None, part: str, device: str) -> Calibration:
    """Calibrate one task on the part of its own training data. Raises BadInput where nothing of it was held
    out.
    """
    from labelscape.evaluation.calibrate import calibrate
    from labelscape.training.recipe_data import stored_data

    one = checkpoint.task(task)
    data = stored_data(one)
    if not data.dataset and data.shares is None:
        option = "val" if task is None else "mate.data.val"
        raise BadInput(
            f"There is no labelled pixel to calibrate on: nothing was held out. Train with `{option}=0.1`."
        )
    with training_scenes(one, model) as dataset:
        return calibrate(one, dataset, part=part, device=device)
