"""Compare models on the first one's own held-out blocks or on other scenes, and warn where a model was
trained on what it is scored on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.checkpoint import Checkpoint, load
from labelscape.datasets.own import Dataset
from labelscape.datasets.split import known_part
from labelscape.errors import BadOption, WrongType
from labelscape.evaluation.compare import Comparison, Drawing, Side, compare_sides
from labelscape.evaluation.measure import check_dataset, for_labels
from labelscape.evaluation.paired import REPLICATES
from labelscape.legend import Legend
from labelscape.rasters.creation import Given
from labelscape.scenes.files import Source, as_path
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.evaluate import asked_for, one_protocol
from labelscape.training.fits import misfits
from labelscape.training.learned import learned, learned_by_makers
from labelscape.training.map_data import data_of_maps, is_map
from labelscape.training.recipe_data import Data

if TYPE_CHECKING:
    from labelscape.scoring.scorer import Scorer

Model = Checkpoint | str | Path


def compare(
    models: Sequence[Model | Sequence[Model]],
    dataset: Dataset | Source | Sequence[Source] | None = None,
    labels: str | Path | Sequence[str | Path] | None = None,
    *,
    spec: Mapping[str, Any] | None = None,
    part: str | None = None,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
    device: str = "auto",
    precision: str = "32",
    tta: str = "none",
    scales: Sequence[float] | float = (1.0,),
    average: str = "probabilities",
    task: str | None = None,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    creation_options: Given = None,
    show: bool = True,
) -> Comparison:
    """Is another model better than the first? Scores of two or more models on the same labelled pixels, and
    their differences with intervals.

        ls.compare(["old.safetensors", "new.safetensors"])          # held-out blocks of the first
        ls.compare(["a.safetensors", "b.safetensors"], "other.tif", "other.gpkg")
        ls.compare([["a0.safetensors", "a1.safetensors"], ["b0.safetensors", "b1.safetensors"]])

    models   two or more: a checkpoint or its file, a finished class raster, a folder of class rasters (one of
             each scene's name), or a list of these: trainings with other seeds, whose scores are averaged
    dataset, labels, spec, part  what they are scored on, as `evaluate` has them for the first checkpoint
    level, replicates, seed  of the paired block bootstrap
    out      folder for comparison.json and difference maps (with GDAL's `creation_options`)
    Other settings are those of `evaluate`.

    Warns where a model was trained on pixels that it is scored on. Raises BadInput where classes differ or
    fewer than 5 blocks are labelled; BadOption for fewer than two models; else as `evaluate` does.
    """
    sides = sides_of(models)
    known_part(part)
    drawing = Drawing(level, replicates, seed)
    tiles = {"tile_size": tile_size, "overlap": overlap, "blend": blend}
    test = {"tta": tta, "scales": scales, "average": average, "device": device, "precision": precision}
    rest = {"out": Path(out) if out else None, "overwrite": overwrite, "show": show, "task": task}
    rest |= {"creation_options": creation_options}
    if isinstance(dataset, Dataset) or (dataset is not None and labels is None):
        check_dataset(dataset, "compare models")
        return compare_on(sides, dataset, part, tiles=tiles, test=test, drawing=drawing, **rest)
    data, legend, split_seed, notes = data_for(sides, dataset, labels, spec or {}, task)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    with open_recipe_data(data, split_seed, legend) as opened:
        if part is None and dataset is None:
            part = scored_part(opened)
        return compare_on(sides, opened, part, tiles=tiles, test=test, drawing=drawing, **rest)


def sides_of(models: Sequence[Model | Sequence[Model]]) -> list[Side]:
    """The models with their files loaded. Raises BadOption for fewer than two, WrongType for what is none."""
    if isinstance(models, (str, Path, Checkpoint)) or len(models) < 2:
        raise BadOption("Two or more models are compared, as a list: [first, other].")
    sides = []
    for number, given in enumerate(models, start=1):
        members = [given] if isinstance(given, (str, os.PathLike, Checkpoint)) else list(given)
        if not members:
            raise BadOption(f"Model {number} is an empty list; give a checkpoint, or one for each training.")
        sides.append(Side(_name(members[0]), tuple(map(_member, members))))
    # Equal names would be one key of the scores: the folder tells them apart, else a number.
    names = [side.name for side in sides]
    longer = [_name(given if not _several(given) else given[0], folder=True) for given in models]
    chosen = [long if names.count(name) > 1 else name for name, long in zip(names, longer)]
    return [
        Side(name if chosen.count(name) == 1 else f"{name} ({n})", side.members)
        for n, (name, side) in enumerate(zip(chosen, sides), start=1)
    ]


def _several(given: object) -> bool:
    return not isinstance(given, (str, os.PathLike, Checkpoint))


def _name(given: Model, *, folder: bool = False) -> str:
    if isinstance(given, Checkpoint):
        return given.network
    path = Path(given)
    return f"{path.absolute().parent.name}/{path.stem}" if folder else path.stem


def _member(given: Model) -> Checkpoint | Path | str:
    if isinstance(given, Checkpoint):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise WrongType(
            "A model is a checkpoint, or the path of one or of a class raster; found a "
            f"{type(given).__name__}."
        )
    return as_path(given) if is_map(given) else load(given)


def checkpoints_of(sides: Sequence[Side]) -> list[Checkpoint]:
    return [one for side in sides for one in side.members if isinstance(one, Checkpoint)]


def data_for(
    sides: Sequence[Side],
    scenes: Source | Sequence[Source] | None,
    labels: str | Path | Sequence[str | Path] | None,
    spec: Mapping[str, Any],
    task: str | None,
) -> tuple[Data, Legend | None, int, list[str]]:
    """What the models are scored on, its classes where they are known, the seed of its split, and warnings.
    By the first checkpoint's recipe, as `evaluate` has it; maps alone need scenes (any of the maps is one)
    and labels.
    """
    checkpoints = checkpoints_of(sides)
    if checkpoints:
        first = checkpoints[0].task(task)
        data, notes = asked_for(first, scenes, labels, spec)
        return data, first.legend, first.recipe.get("seed", 0), notes
    if labels is None:
        raise BadOption(
            "Finished maps are compared on `labels`; pass them, and scenes where there are several."
        )
    data, legend = data_of_maps([one for side in sides for one in side.members], scenes, labels, spec)
    return data, legend, 0, []


def compare_on(
    sides: Sequence[Side],
    dataset: Dataset,
    part: str | None,
    *,
    tiles: Mapping[str, object],
    test: Mapping[str, Any],
    drawing: Drawing,
    out: Path | None,
    overwrite: bool,
    show: bool,
    task: str | None = None,
    creation_options: Given = None,
) -> Comparison:
    """Compare on an open data set; `test` holds `tta`, `scales`, `average`, `device` and `precision`."""
    from labelscape.scoring.scorer import Scorer

    # Both mean every label; the functions below know None alone.
    part = None if part == "all" else part
    protocol = one_protocol(None, test["tta"], test["scales"], test["average"])

    def scorer_of(one: Checkpoint) -> Scorer:
        return Scorer.of([one], device=test["device"], precision=test["precision"], protocol=protocol)

    chosen = [
        Side(
            s.name,
            # Each by itself: they may have learned different second tasks, or none.
            tuple(for_labels([m], dataset, task)[0] if isinstance(m, Checkpoint) else m for m in s.members),
        )
        for s in sides
    ]
    notes = [note for side in chosen for note in _trained_on(side, dataset, part)]
    if len(sides) > 2:
        notes.append(
            f"{len(sides) - 1} models are compared with {sides[0].name}: each interval holds at "
            f"{100 * drawing.level:g} % by itself, and that one of several excludes 0 by chance is likelier"
        )
    maps = [one for side in chosen for one in side.members if not isinstance(one, Checkpoint)]
    # Where a map stands for the scene, its nodata is a missing prediction, not missing imagery.
    scenes = {Path(f).absolute() for s in dataset.scenes for f in s.scene.files}
    valid_only = not {Path(m).absolute() for m in maps} & scenes
    return compare_sides(
        chosen,
        dataset,
        part=part,
        scorer_of=scorer_of,
        tiles=tiles,
        drawing=drawing,
        valid_only=valid_only,
        out=out,
        overwrite=overwrite,
        creation_options=creation_options,
        show=show,
        notes=notes,
    )


def _trained_on(side: Side, dataset: Dataset, part: str | None) -> list[str]:
    """Warnings where checkpoints of a side, or those that made its maps, were trained on pixels of `part`, or
    do not say on what; and where the scenes are not such as they are for.
    """
    checkpoints = [one for one in side.members if isinstance(one, Checkpoint)]
    unknown = [one for one in checkpoints if not one.recipe.get("data")]
    said = f"{side.name} does not say what it was trained on: these labels may be among it"
    maps = [one for one in side.members if not isinstance(one, Checkpoint)]
    made = [note for one in maps for note in learned_by_makers(one, dataset, part)]
    unlike = [note for one in checkpoints for note in misfits(side.name, one, dataset, part)]
    notes = [*([said] if unknown else []), *learned(side.name, checkpoints, dataset, part), *made, *unlike]
    return list(dict.fromkeys(notes))
