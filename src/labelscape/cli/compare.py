"""labelscape compare: is another model better than the first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.evaluate import Settings, Split, Task, check_options, chosen_split, scored_data
from labelscape.cli.given_files import check_files
from labelscape.cli.options import (
    AsJson,
    Average,
    Co,
    Labels,
    Machine,
    Overwrite,
    PublishedSet,
    Scales,
    Tiles,
    Tta,
    grouped,
    print_json,
    talk,
)
from labelscape.cli.parsing import scales_of
from labelscape.cli.scenes import scenes_of
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.datasets.labelled import Dataset
    from labelscape.evaluation.compare import Comparison, Pair, Side
    from labelscape.legend import Legend
    from labelscape.training.recipe_data import Data

NAME = "compare"


Models = Annotated[
    list[str],
    typer.Argument(
        help="Two or more: checkpoints or models of export, class rasters, or folders of class rasters. "
        "Trainings with "
        "several seeds are one model: a0.safetensors,a1.safetensors."
    ),
]
LabelledScenes = Annotated[
    list[str],
    typer.Option(
        "--scenes", help="Labelled scene. Repeat.", show_default="the training scenes of the first checkpoint"
    ),
]
Level = Annotated[float, typer.Option("--level", help="Level of the intervals.")]
Replicates = Annotated[int, typer.Option("--replicates", help="Draws of the bootstrap.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Folder for comparison.json and, for each scene, a map of which model is right where."
    ),
]


@grouped
def run(
    models: Models,
    *,
    scenes: LabelledScenes = [],
    labels: Labels,
    dataset: PublishedSet = None,
    settings: Settings = [],
    part: Split = None,
    task: Task = None,
    tiles: Tiles,
    machine: Machine,
    tta: Tta = "none",
    scales: Scales = "1",
    average: Average = "probabilities",
    level: Level = 0.95,
    replicates: Replicates = 2000,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    creation_options: Co = [],
    as_json: AsJson = False,
) -> None:
    """Compare models with the first one on the same labelled pixels: is the new model better?

    Prints the differences of OA, mIoU and IoU with intervals from a paired block bootstrap, and one sentence.
    Without scenes, models are scored on the held-out blocks of the first checkpoint. Labels are read as in
    its training, except for the options given here.

    Examples:

      labelscape compare runs/old/mlp.safetensors runs/new/dfcnet.safetensors

      labelscape compare a0.safetensors,a1.safetensors b0.safetensors,b1.safetensors --scenes other.tif
        --labels other_fields.gpkg --out compared

      labelscape compare old_class.tif new_class.tif --labels fields.gpkg
    """
    check_files([*(part for text in models for part in text.split(",")), *scenes, *labels.labels])
    from labelscape.evaluation.compare import Drawing
    from labelscape.training.compare import checkpoints_of, compare_on, sides_of
    from labelscape.training.data import open_recipe_data

    # A comma always separates: a file with one in its name has to be renamed first.
    sides = sides_of([text.split(",") if "," in text else text for text in models])
    checkpoints, drawing = checkpoints_of(sides), Drawing(level, replicates, seed)
    if checkpoints:
        first = checkpoints[0].task(task)
        check_options(first, models[0], scenes, dataset, labels, part)
        data = scored_data(first, scenes, dataset, settings, labels)
        legend, split_seed = first.legend, first.recipe.get("seed", 0)
    else:
        data, legend, split_seed = _data_for_maps(sides, scenes, labels, task, dataset or part)
    with open_recipe_data(data, split_seed, legend) as opened:
        _talk_of(opened, pictures=bool(checkpoints or scenes))
        split = chosen_split(part, opened, may_choose=bool(checkpoints and (data.dataset or not scenes)))
        test = {"tta": tta, "scales": scales_of(scales), "average": average, **asdict(machine)}
        files = {"out": out, "overwrite": overwrite, "show": True, "task": task}
        files |= {"creation_options": creation_options}
        found = compare_on(sides, opened, split, tiles=asdict(tiles), test=test, drawing=drawing, **files)
    _print(found, split, out, as_json)


def _talk_of(opened: Dataset, *, pictures: bool) -> None:
    """What was read. A map that stands for its own scene is no picture: it is read as classes, whatever its
    file has of colours and bands.
    """
    unsaid = set() if pictures else {note for one in opened.scenes for note in one.scene.notes}
    for line in opened.report:
        if line not in unsaid:
            talk(line)


def _data_for_maps(
    sides: Sequence[Side], scenes: list[str], labels: Labels, task: str | None, other: str | None
) -> tuple[Data, Legend | None, int]:
    """What finished maps are compared on: scenes and labels, their classes where known, the seed of the
    split. Raises BadOption without labels, or where an `other` choice of them was made.
    """
    from labelscape.training.compare import data_for

    if other or not labels.labels:
        raise BadOption(
            "Finished maps are compared on --labels, without --dataset and --part; pass --scenes too "
            "where there are several."
        )
    # Only --labels' settings: the files themselves go by their own argument.
    given = {name: value for name, value in labels.settings.items() if name != "labels"}
    found = [scene.source for scene in scenes_of(scenes, asset=labels.asset)] if scenes else None
    return data_for(sides, found, labels.files, given, task)[:3]


def _print(found: Comparison, split: str | None, out: Path | None, as_json: bool) -> None:
    for note in found.notes:
        talk(f"warning: {note}")
    if as_json:
        print_json({"part": split or "all", **found.to_dict()})
        return
    for pair in found.pairs:
        _print_pair(pair, split)
    if out:
        print(f"{'written':<11}{out}")


def _print_pair(pair: Pair, split: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labelscape.evaluation.text import interval, percent

    level = f"{100 * pair.level:g} % interval"
    # Trainings with other seeds are rare: without them the column would be empty.
    over_seeds = any(line.seeds_low is not None for line in pair.lines)
    table = Table(title=f"{split or 'all'} labels, {pair.units} {pair.kind}, in per cent")
    heads = ("", pair.first, pair.other, "difference", level, *(["over trainings"] if over_seeds else []))
    for n, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if n else "left", no_wrap=True)
    for line in pair.lines:
        row = [line.metric, percent(line.first), percent(line.other), percent(line.difference)]
        row.append(interval(line.low, line.high))
        if over_seeds:
            row.append(interval(line.seeds_low, line.seeds_high))
        # Text: rich would read the brackets of a name as markup.
        table.add_row(*map(Text, row))
    # soft_wrap: in a pipe rich would cut cells at 80 columns.
    Console().print(table, soft_wrap=True)
    test = pair.mcnemar
    # Below the smallest number of a computer.
    p = f"= {test.p_value:.2g}" if test.p_value else "< 1e-300"
    print(
        f"pixels that only {pair.first} has right: {test.only_first:,}; only {pair.other}: "
        f"{test.only_other:,} (McNemar p {p}, too small: neighbouring pixels are alike)"
    )
    print(pair.sentence)
