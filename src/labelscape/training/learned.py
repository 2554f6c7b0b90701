"""Was a model trained on the labels that it is scored on? Its score is too good there.

Scenes are the same where their files are, or are copies of each other under other names; and where they show
the same ground, in whatever file, of whatever date. Without coordinates only a copy to the byte is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.crs import Unrelated
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.split import PARTS, UNUSED
from labelscape.errors import BadFile, BadInput, LabelscapeError
from labelscape.evaluation.predicted import map_of
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.made_by import made_by
from labelscape.scenes.stamps import same_content
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe_data import Data, stored_data
from labelscape.training.same_ground import all_files, around, given_files, is_near, pixels_under, tiles_of

PLACES = 1024
"""Labelled pixels of a window whose place is looked up in the training labels (ours): a share of them is
exact to a few per cent.
"""


class Trained(Protocol):
    """What is asked of a model: its recipe, as JSON values, and its classes."""

    @property
    def recipe(self) -> Mapping[str, Any]: ...

    @property
    def legend(self) -> Legend: ...


@dataclass(frozen=True)
class Maker:
    """The model that made a finished map, as far as its checkpoint is described."""

    recipe: Mapping[str, Any]
    legend: Legend


@dataclass(frozen=True)
class Overlap:
    """Share of the scored labelled pixels that are training labels, 0 to 1; and, where their files differ,
    how the scenes are known to be the same.
    """

    share: float
    how: str = ""


def learned(
    name: str,
    models: Iterable[Trained],
    dataset: Dataset,
    part: str | None,
    shown: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """A warning where models, called `name`, were trained on labelled pixels of `part`. `shown`: files of the
    scene that a scored file, a finished map, stands for.
    """
    # Keys of a dict: in order, and once where the seeds of one model have the same.
    notes: dict[str, None] = {}
    for one in models:
        if not one.recipe.get("data"):
            continue
        try:
            found = overlap(one, dataset, part, shown or {})
        except LabelscapeError as problem:
            said = f"{name} was trained on the same files, and its split cannot be read: {problem}"
            notes[said] = None
            continue
        if found.share:
            percent = f"{100 * found.share:.0f}" if found.share >= 0.005 else "less than 1"
            notes[
                f"{name} was trained on {percent} % of the labelled pixels that it is scored on"
                f"{f' ({found.how})' if found.how else ''}: its score is too good there. Use labels that no "
                "model has seen"
            ] = None
    return list(notes)


def learned_by_makers(path: str | Path, dataset: Dataset, part: str | None) -> list[str]:
    """As `learned`, of the models that made a class raster, or those of a folder, by their `_run.json`."""
    makers: dict[str, Maker] = {}
    shown: dict[str, Sequence[str]] = {}
    for scene in dataset.scenes if part is None else dataset.part(part):
        raster = map_of(path, scene.name)
        made = made_by(raster)
        shown[str(Path(raster).absolute())] = made.scene
        for model, about in made.models.items():
            legend = Legend.from_json(json.dumps(about["legend"]))
            makers[model] = Maker(about.get("recipe") or {}, legend)
    title = Path(path).name
    return [
        note
        for model, maker in makers.items()
        for note in learned(f"{Path(model).name}, which made {title},", [maker], dataset, part, shown)
    ]


def trained_share(checkpoint: Checkpoint, dataset: Dataset, part: str | None) -> float:
    """Share of the labelled pixels of `part` that are training labels of the checkpoint, 0 to 1. Raises
    LabelscapeError where its data cannot be read again.
    """
    return overlap(checkpoint, dataset, part, {}).share


def overlap(
    model: Trained, dataset: Dataset, part: str | None, shown: Mapping[str, Sequence[str]]
) -> Overlap:
    """How many of the labelled pixels of `part` a model was trained on. Raises as `trained_share`."""
    data = stored_data(model)
    scored = list(dataset.scenes if part is None else dataset.part(part))
    files = {id(scene): _files_of(scene, shown) for scene in scored}
    copies = _copies({file for own in files.values() for file in own}, data)
    # Most models share neither a file nor ground with what they are scored on: nothing is opened then.
    near = is_near([scene.scene.grid for scene in scored], data)
    if not near and not any(file in copies for own in files.values() for file in own):
        return Overlap(0.0)
    labelled, seen, how = 0, 0.0, ""
    # With its own seed and classes: others would hold out other blocks. Its pixels are not needed.
    with open_recipe_data(data, model.recipe.get("seed", 0), model.legend, hold=False) as own:
        trained = own.part("train")
        by_files = {_absolute(scene.scene.files): scene for scene in trained}
        pairs = []
        for scene in scored:
            mine = by_files.get(tuple(copies.get(file, file) for file in files[id(scene)]))
            others = [mine] if mine is not None else around(scene.scene.grid, trained)
            pairs.append((scene, mine, others))
            if others and not how:
                how = _how(scene, files[id(scene)], mine, others)
        # Nor are labels read where all scenes are held out, as in published data sets.
        if not any(others for _, _, others in pairs):
            return Overlap(0.0)
        for scene, mine, others in pairs:
            exact = mine is not None and mine.scene.grid.shape == scene.scene.grid.shape
            if mine is not None and not exact and not scene.scene.grid.is_on_earth:
                raise BadInput(f"{scene.name} was resampled to another pixel size")
            for window in scene.scene.grid.window.blocks(2048):
                known = scene.read_labels(window, part) != IGNORE
                labelled += int(known.sum())
                if not others or not known.any():
                    continue
                if exact:
                    seen += int((known & (mine.read_labels(window, "train") != IGNORE)).sum())
                else:
                    seen += known.sum() * _share_at_places(scene.scene.grid, window, known, others)
    return Overlap(float(seen / labelled) if labelled else 0.0, how)


def _files_of(scene: LabelledScene, shown: Mapping[str, Sequence[str]]) -> tuple[Path, ...]:
    """The scene's files; of a finished map those of the scene that it shows."""
    own = _absolute(scene.scene.files)
    return _absolute(shown[str(own[0])]) if len(own) == 1 and shown.get(str(own[0])) else own


def _how(
    scene: LabelledScene, files: Sequence[Path], mine: LabelledScene | None, others: Sequence[LabelledScene]
) -> str:
    """How a scored scene is known to be one of training, where it has other files."""
    if mine is None:
        return f"{scene.name} shows the ground of its training scene {others[0].name}"
    if _absolute(mine.scene.files) != tuple(files):
        return f"{scene.name} is a copy of its training scene {mine.name}"
    return ""


def _absolute(paths: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(path).absolute() for path in paths)


def _copies(files: Iterable[Path], data: Data) -> dict[Path, Path]:
    """Each file that is among those of training -> the one that it is, or that it is a copy of."""
    found: dict[Path, Path] = {}
    others: dict[int, list[Path]] = {}
    for file in files:
        if any(file.is_relative_to(path) for path in given_files(data)):
            found[file] = file
        elif file.is_file():
            others.setdefault(file.stat().st_size, []).append(file)
    if not others:
        return found
    for own in all_files(data):
        # The size first: it costs no reading, and data sets have many thousands of files.
        for file in others.get(own.stat().st_size, ()) if own.is_file() else ():
            if file not in found and same_content(own, file):
                found[file] = own
    return found


def _share_at_places(grid: Grid, window: Window, known: np.ndarray, others: Sequence[LabelledScene]) -> float:
    """Share of the known pixels (H, W) of a window whose centre lies on a training label."""
    places = np.flatnonzero(known)
    places = places[np.linspace(0, len(places) - 1, min(PLACES, len(places))).astype(int)]
    rows, columns = np.divmod(places, window.width)
    hit = np.zeros(len(places), bool)
    for other in others:
        try:
            row, column = pixels_under(grid, window.top + rows, window.left + columns, other.scene.grid)
        except Unrelated:
            continue
        for part, mine in tiles_of(other.scene.grid, row, column):
            labels = other.read_labels(part, "train")
            hit[mine] |= labels[row[mine] - part.top, column[mine] - part.left] != IGNORE
    return float(hit.mean())


@dataclass(frozen=True, eq=False)
class LabelsAt:
    """What the training data of a model say of N places: class index in its legend, 255 without a label; and
    the part of the split that the label belongs to, an index into PARTS: UNUSED in the buffer around held-out
    blocks, or beyond the share of blocks that was trained on.
    """

    classes: np.ndarray
    parts: np.ndarray


def labels_at(
    model: Trained, grid: Grid, rows: np.ndarray, columns: np.ndarray, shown: Sequence[str] = ()
) -> LabelsAt:
    """The labels of a model's training scenes at pixels (N,) of another grid, such as that of a map of
    `shown`, files of a scene. Without coordinates only those of that very scene. Raises LabelscapeError where
    the data cannot be read again.
    """
    data = stored_data(model)
    if gone := next((file for file in given_files(data) if not file.exists()), None):
        raise BadFile(f"{gone} does not exist.")
    found = LabelsAt(np.full(len(rows), IGNORE, np.uint8), np.full(len(rows), UNUSED, np.uint8))
    own_files = _absolute(shown)
    # Labels are read and blocks assigned again only where a training scene lies there.
    if not is_near([grid], data) and not (set(own_files) & set(_copies(own_files, data))):
        return found
    # With its own seed and classes, as in `overlap`: others would hold out other blocks.
    with open_recipe_data(data, model.recipe.get("seed", 0), model.legend, hold=False) as own:
        for scene, whole in zip(own.scenes, own.part_of):
            theirs = scene.scene.grid
            if grid.is_on_earth and theirs.is_on_earth:
                try:
                    row, column = pixels_under(grid, rows, columns, theirs)
                except Unrelated:
                    continue
            elif _absolute(scene.scene.files) == own_files and theirs.shape == grid.shape:
                row, column = rows, columns
            else:
                continue
            for window, mine in tiles_of(theirs, row, column):
                at = row[mine] - window.top, column[mine] - window.left
                _add(found, mine, scene.read_labels(window)[at], _parts(scene, window, whole)[at])
    return found


def _parts(scene: LabelledScene, window: Window, whole: str | None) -> np.ndarray:
    """(H, W) uint8: the part of the split of each pixel of a window; `whole` is that of the file."""
    found = np.full(window.shape, UNUSED, np.uint8)
    for number, part in enumerate(PARTS):
        if whole == part or (whole is None and scene.split is None and part == "train"):
            found[:] = number
        elif scene.split is not None:
            found[scene.split.mask(window, part)] = number
    return found


def _add(found: LabelsAt, mine: np.ndarray, classes: np.ndarray, parts: np.ndarray) -> None:
    """The labels of a scene at the places `mine`. Of overlapping scenes one that was trained on decides."""
    train = PARTS.index("train")
    new = (classes != IGNORE) & ((found.classes[mine] == IGNORE) | (parts == train))
    found.classes[mine[new]], found.parts[mine[new]] = classes[new], parts[new]
