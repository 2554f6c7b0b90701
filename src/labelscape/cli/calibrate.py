"""labelscape calibrate: calibrate the predicted probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Device, print_json, talk
from labelscape.errors import BadFile, BadOption

NAME = "calibrate"


def run(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint written by `train`; the temperature is stored in it.")
    ],
    part: Annotated[
        str, typer.Option("--part", help="Blocks of its own training scenes to fit on: val or test.")
    ] = "val",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Calibrate the predicted probabilities by temperature scaling.

    Of the pixels with a confidence of 80 %, about 80 in 100 are then right. The temperature is fitted on
    blocks that the network was not trained on, with at most 400,000 of their labelled pixels, sampled evenly
    from all tiles. Classes do not change; probabilities, confidences and what
    --reject rejects do.
    """
    from labelscape.checkpoint import load
    from labelscape.evaluation.calibrate import calibrate
    from labelscape.training.data import open_recipe_data
    from labelscape.training.recipe_data import Data

    checkpoint = load(model)
    if part not in ("val", "test"):
        raise BadOption(
            f"--part {part!r} must be val or test: on its training pixels a network is more confident than "
            "it should be."
        )
    if not checkpoint.recipe.get("data"):
        raise BadOption(
            f"{model} does not record its training data, on whose held-out blocks a temperature is fitted."
        )
    try:
        opened = open_recipe_data(
            Data(**checkpoint.recipe["data"]), checkpoint.recipe.get("seed", 0), checkpoint.legend
        )
    except BadFile as error:
        where = (
            f"Relative paths start from {Path.cwd()}: run this in the folder where `train` ran, with the "
            "files in place."
        )
        raise BadFile(
            f"The scenes that {model} was trained on are needed to calibrate it. {error} {where}"
        ) from error
    with opened as dataset:
        found = calibrate(checkpoint, dataset, part=part, device=device)
    found.save(model)
    for note in found.notes:
        talk(f"warning: {note}")
    if as_json:
        print_json(found.to_dict())
        return
    print(
        f"temperature {found.temperature:.3f}, fitted on {found.pixels:,} pixels sampled from the part {part}"
    )
    before, after = (f"{100 * error:.2f} %" for error in (found.ece_before, found.ece_after))
    print(f"expected calibration error {before} before, {after} after")
