"""Was a model trained on the labels that it is scored on? Its score is too good there.

Scenes are the same where their files are, or are copies of each other under other names; and where they show
the same ground, in whatever file, of whatever date. Without coordinates only a copy to the byte is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.crs import Unrelated, bounds_in, transformed
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.errors import BadInput, LabelscapeError
from labelscape.evaluation.predicted import map_of
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.made_by import made_by
from labelscape.scenes.files import is_local, reading
from labelscape.scenes.stamps import same_content
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe_data import Data, stored_data

PLACES = 1024
"""Labelled pixels of a window whose place is looked up in the training labels (ours): a share of them is
exact to a few per cent.
"""
TILE = 256
"""Side of the windows of training labels that such places are read in."""
RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".jpg", ".jpeg", ".png")
"""Files of a folder that may be a training scene."""


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
    near = _near([scene.scene.grid for scene in scored], data)
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
            others = [mine] if mine is not None else _around(scene.scene.grid, trained)
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


def _given(data: Data) -> Iterator[Path]:
    """Local files and folders of the training scenes, as the recipe names them."""
    for image in data.images:
        for path in [image] if isinstance(image, str) else image:
            if is_local(path):
                yield Path(path).absolute()


def _all_files(data: Data) -> Iterator[Path]:
    """Every local file that may belong to a training scene."""
    for path in _given(data):
        if path.is_dir():
            for folder, _, names in os.walk(path):
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield path


def _copies(files: Iterable[Path], data: Data) -> dict[Path, Path]:
    """Each file that is among those of training -> the one that it is, or that it is a copy of."""
    found: dict[Path, Path] = {}
    others: dict[int, list[Path]] = {}
    for file in files:
        if any(file.is_relative_to(path) for path in _given(data)):
            found[file] = file
        elif file.is_file():
            others.setdefault(file.stat().st_size, []).append(file)
    if not others:
        return found
    for own in _all_files(data):
        # The size first: it costs no reading, and data sets have many thousands of files.
        for file in others.get(own.stat().st_size, ()) if own.is_file() else ():
            if file not in found and same_content(own, file):
                found[file] = own
    return found


def _near(grids: Sequence[Grid], data: Data) -> bool:
    """Does a training scene show some of the ground of these grids? By the headers of its files."""
    boxes = [box for grid in grids if (box := _box(grid)) is not None]
    if not boxes:
        return False
    for file in _all_files(data):
        if file.suffix.lower() not in RASTERS:
            continue
        try:
            with reading(file) as opened:
                own = _box(Grid(opened.crs, opened.transform, opened.height, opened.width))
        except LabelscapeError:
            continue  # no raster: not a scene
        if own is not None and any(_meet(own, box) for box in boxes):
            return True
    return False


def _around(grid: Grid, scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """The scenes that show some of the ground of a grid."""
    box = _box(grid)
    if box is None:
        return []
    return [one for one in scenes if (own := _box(one.scene.grid)) is not None and _meet(own, box)]


def _box(grid: Grid) -> tuple[float, float, float, float] | None:
    """Bounds in degrees; None where it is not known where on Earth the pixels lie."""
    if not grid.is_on_earth:
        return None
    try:
        return bounds_in(grid.bounds_of(grid.window), grid.crs)
    except Unrelated:
        return None


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _share_at_places(grid: Grid, window: Window, known: np.ndarray, others: Sequence[LabelledScene]) -> float:
    """Share of the known pixels (H, W) of a window whose centre lies on a training label."""
    places = np.flatnonzero(known)
    places = places[np.linspace(0, len(places) - 1, min(PLACES, len(places))).astype(int)]
    rows, columns = np.divmod(places, window.width)
    x, y = grid.transform @ (window.left + columns + 0.5, window.top + rows + 0.5)
    hit = np.zeros(len(places), bool)
    for other in others:
        theirs = other.scene.grid
        try:
            there = ~theirs.transform @ transformed(x, y, grid.crs, theirs.crs)
        except Unrelated:
            continue
        # Places without coordinates there are infinite, which is no whole number.
        column, row = (np.floor(np.nan_to_num(v, nan=-1, posinf=-1, neginf=-1)).astype(int) for v in there)
        inside = (row >= 0) & (column >= 0) & (row < theirs.height) & (column < theirs.width)
        # Read by the tile, once for all places in it: the training scene may have far smaller pixels.
        tile = row // TILE * (theirs.width // TILE + 1) + column // TILE
        for one in np.unique(tile[inside & ~hit]):
            mine = np.flatnonzero(inside & (tile == one))
            down, across = divmod(int(one), theirs.width // TILE + 1)
            part = Window(down * TILE, across * TILE, TILE, TILE) & theirs.window
            labels = other.read_labels(part, "train")
            hit[mine] |= labels[row[mine] - part.top, column[mine] - part.left] != IGNORE
    return float(hit.mean())
