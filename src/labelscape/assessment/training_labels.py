"""Were a sample's points among the labels that a map's model was trained with? As far as files can tell.

The checkpoint records its data and how they were split, so that the same blocks are held out again: labels in
them were not learned, and may be the reference. Where its scenes are gone, the label files alone tell where
labels are, not which of them were learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.assessment.answers import Answers
from labelscape.assessment.points import Design
from labelscape.crs import transformed
from labelscape.datasets.split import PARTS, UNUSED
from labelscape.errors import BadInput, LabelscapeError
from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.made_by import MadeBy
from labelscape.scenes.files import reading
from labelscape.scenes.stamps import same_content
from labelscape.scenes.vectors import VectorSource, is_vector, read_features
from labelscape.training.learned import LabelsAt, Maker, labels_at

ENOUGH = 20
"""Answers that all equal the training labels there from which these are taken to be their source (ours)."""


@dataclass(frozen=True)
class Learned:
    """A label file that a model was trained with. Only the inside of `area` (polygons) was used, where there
    is one; with `fills` also what is unlabelled in it, as background.
    """

    label: str
    area: str | None = None
    fills: bool = False


@dataclass(frozen=True, eq=False)
class Met:
    """The labels of a model's training files that N points of a sample lie on.

    parts    (N,) index into PARTS of the split that the label belongs to; UNUSED for none (the buffer around
             held-out blocks); -1 without a label
    classes  (N,) the label's class, an index in the legend of the sample; -1 without, or for another class
    """

    parts: np.ndarray
    classes: np.ndarray

    def number(self, part: int) -> int:
        return int((self.parts == part).sum())


def labels_of(made: MadeBy) -> list[Learned]:
    """Label files of the models that made a map, as its `_run.json` and their checkpoints name them; none
    where those are gone.
    """
    found = [label for model in made.models.values() for label in _labels(model.get("recipe") or {})]
    return list(dict.fromkeys(found))


def _labels(recipe: Mapping[str, Any]) -> list[Learned]:
    data = recipe.get("data") or {}
    given, area = data.get("labels") or (), data.get("area")
    fills = bool(area and data.get("background"))
    return [
        Learned(str(one), area, fills)
        for one in ([given] if isinstance(given, str) else given)
        if isinstance(one, (str, Path))
    ]


def check_not_training(points: str | Path, labels: Sequence[Learned]) -> None:
    """Raises BadInput where the points are a file of training labels."""
    for label in labels:
        path = Path(VectorSource.of(label.label).path)
        # By another path, through a link or under another name, it is the same file.
        if path.exists() and (path.samefile(points) or same_content(path, Path(points))):
            raise BadInput(
                f"{points} holds the labels that this map's model was trained with: a score on them says how "
                "well they were learned, not how good the map is. Draw a sample with `labelscape sample`."
            )


def label_notes(design: Design, answers: Answers, made: MadeBy, independent: bool) -> tuple[str, ...]:
    """What to say of points on labels of the training files. Raises BadInput where the answers on labels that
    were trained with are these labels, unless somebody is said to have interpreted them independently.
    """
    if not (labels := labels_of(made)) and not any(_has_data(one) for one in made.models.values()):
        return ()
    try:
        met = _met(design, made)
    except (LabelscapeError, OSError, ValueError) as problem:
        return _by_files(design, labels, problem)
    if not independent:
        _check_independent(design, answers, met)
    return _in_words(met, len(design))


def _has_data(model: Mapping[str, Any]) -> bool:
    return bool((model.get("recipe") or {}).get("data"))


def _met(design: Design, made: MadeBy) -> Met:
    """The training labels at the points. Raises as `labels_at`."""
    met = Met(np.full(len(design), -1), np.full(len(design), -1))
    for about in made.models.values():
        if not _has_data(about):
            continue
        model = Maker(about["recipe"], Legend.from_json(json.dumps(about["legend"])))
        found = labels_at(model, design.grid, design.rows, design.columns, made.scene)
        _add(met, found, model.legend, design.legend)
    return met


def _add(met: Met, found: LabelsAt, theirs: Legend, ours: Legend) -> None:
    """The labels of one model. Of an ensemble one member that was trained on a label decides."""
    train = PARTS.index("train")
    new = (found.classes != IGNORE) & ((met.parts < 0) | (found.parts == train))
    by_name = {name: index for index, name in enumerate(ours.names)}
    # By name: the map may be of other software's legend or order.
    table = np.array([by_name.get(name, -1) for name in theirs.names])
    met.parts[new] = found.parts[new]
    met.classes[new] = table[found.classes[new]]


def _check_independent(design: Design, answers: Answers, met: Met) -> None:
    """Raises BadInput where all answers on training labels are these labels."""
    asked = (met.parts == PARTS.index("train")) & answers.answered
    if asked.sum() < ENOUGH or (answers.classes[asked] != met.classes[asked]).any():
        return
    raise BadInput(
        f"{asked.sum()} of {len(design)} points lie on labels that the model was trained with, and all their "
        f"answers in {answers.path} are these labels: the map would be compared with what it was taught. "
        "Interpret these points without the labels, or assess a map of ground that training did not see "
        "(`labelscape map --area`). If they were interpreted without the labels, pass `independent=True`."
    )


def _in_words(met: Met, drawn: int) -> tuple[str, ...]:
    trained, beside = met.number(PARTS.index("train")), met.number(UNUSED)
    held = {part: met.number(PARTS.index(part)) for part in ("test", "val")}
    notes = []
    if trained:
        notes.append(
            f"{trained} of {drawn} points lie on labels that the model was trained with. Their answers must "
            "not come from those labels: the map would be compared with what it was taught."
        )
    if sum(held.values()):
        parts = ", ".join(f"{count} in {part}" for part, count in held.items() if count)
        notes.append(
            f"{sum(held.values())} of {drawn} points lie on labels that were held out from training "
            f"({parts}): the model did not learn them, and they may be the reference."
        )
    if beside:
        notes.append(
            f"{beside} of {drawn} points lie on labels that belong to no part of the model's split, such as "
            "those in the buffer around held-out blocks: the model did not learn them."
        )
    return tuple(notes)


def _by_files(design: Design, labels: Sequence[Learned], problem: Exception) -> tuple[str, ...]:
    """What the label files alone tell, where the training scenes cannot be read again."""
    hits = _on_label_files(design, labels)
    if not hits:
        return ()
    why = str(problem).rstrip(".")
    return (
        f"{hits} of {len(design)} points lie on labels of the files that the model was trained with; "
        f"which of them it held out is unknown ({why}). Their answers must not come from labels that it "
        "learned: the map would be compared with what it was taught.",
    )


def _on_label_files(design: Design, labels: Sequence[Learned]) -> int:
    """Number of points that lie on labels of files that can be read."""
    hit = np.zeros(len(design), bool)
    # One area for all label files of a model: its polygons are read once.
    inside = {area: _inside(design, area) for area in dict.fromkeys(label.area for label in labels)}
    for label in labels:
        try:
            hit |= _on_labels(design, label, inside[label.area])
        # Moved or deleted since: what can be read is checked.
        except (LabelscapeError, OSError, ValueError):
            continue
    return int(hit.sum())


def _on_labels(design: Design, one: Learned, inside: np.ndarray | None) -> np.ndarray:
    """(N,) bool: the points that lie on labels that were learned, of points `inside` the area."""
    on = _on_polygons(design, one.label) if is_vector(one.label) else _on_raster(design, one.label)
    if inside is None:
        return on
    return inside if one.fills else on & inside


def _inside(design: Design, area: str | None) -> np.ndarray | None:
    """(N,) bool: the points in an area; None without one, or where it is gone: all labels may have been used
    then.
    """
    try:
        return None if area is None else _on_polygons(design, area)
    except (LabelscapeError, OSError, ValueError):
        return None


def _moved(design: Design, crs: str | None) -> np.ndarray:
    """Centres of the points (N, 2) in another CRS."""
    centres = design.centres
    # Without a CRS on both sides there is nothing to transform: coordinates are taken to be the map's.
    if crs is None or design.grid.crs is None:
        return centres
    return np.column_stack(transformed(centres[:, 0], centres[:, 1], design.grid.crs, crs))


def _on_polygons(design: Design, label: str) -> np.ndarray:
    features = read_features(label)
    shapes = features.geometries[[g is not None for g in features.geometries]]
    tree = shapely.STRtree(shapes)
    hits = tree.query(shapely.points(_moved(design, features.crs)), predicate="intersects")[0]
    return np.isin(np.arange(len(design)), hits)


def _on_raster(design: Design, label: str) -> np.ndarray:
    with reading(label) as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
        xy = _moved(design, grid.crs.to_wkt() if grid.crs else None)
        # In the label raster's own pixels: its grid need not be the map's.
        columns, rows = (np.floor(v).astype(int) for v in ~grid.transform @ (xy[:, 0], xy[:, 1]))
        inside = (rows >= 0) & (columns >= 0) & (rows < grid.height) & (columns < grid.width)
        values = np.array([v[0] for v in file.sample(xy[inside])]) if inside.any() else np.zeros(0)
        labelled = np.zeros(len(design), bool)
        labelled[inside] = (values != IGNORE) & (values != file.nodata)
    return labelled
