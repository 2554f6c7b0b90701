"""The classes that models give to one scene, side by side: predicted, or read from finished maps.

Every model's classes are kept while a scene is compared, one byte per pixel, in a file where the scene is
large: models differ in their tiles, so that they cannot be predicted in step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.blocks import BlockTally, block_side
from labelscape.evaluation.kept import zeros
from labelscape.grid import Window
from labelscape.labels.base import Labels
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.write import MapWriter

if TYPE_CHECKING:
    from labelscape.scoring.scorer import Scorer

STRIP = 2048
"""Side in pixels of what is counted at a time."""
MAP_ENDINGS = ("_class.tif", ".tif", ".png")
"""Of a scene's class raster in a folder of maps, in the order in which they are looked for."""


def indices_by_name(theirs: Legend, mine: Legend, model: str) -> np.ndarray:
    """(256,) uint8: the index of each of their classes in `mine`, by name; IGNORE stays. Raises BadInput
    where the names are not the same.
    """
    if set(theirs.names) != set(mine.names):
        raise BadInput(
            f"{model} has the classes {', '.join(theirs.names)}; the labels it is compared on have "
            f"{', '.join(mine.names)}. Only models of the same classes can be compared: train both on labels "
            "that are merged alike, or rename the classes of a map in its attribute table (.aux.xml)."
        )
    found = np.full(256, IGNORE, np.uint8)
    found[: len(theirs)] = [mine.names.index(name) for name in theirs.names]
    return found


@dataclass(frozen=True)
class Classes:
    """One model's classes of a scene; `is_map` where they come from a finished raster."""

    read: Callable[[Window], np.ndarray]
    """Window -> (H, W) uint8 class indices, 255 without a prediction."""
    is_map: bool


def predicted_classes(
    scorer: Scorer,
    scene: LabelledScene,
    part: str | None,
    legend: Legend,
    tiles: Mapping[str, object],
    file: Path,
) -> Classes:
    """Predict the tiles with a label, as `evaluate` does. `file` holds the classes of a large scene."""
    from labelscape.scoring.stitch import plan_for, score_tiles

    # Index + 1: what is never written reads as 0, and takes neither memory nor disk.
    place = indices_by_name(scorer.checkpoint.legend, legend, scorer.checkpoint.network) + np.uint8(1)
    whole = scene.scene.grid.window
    kept = zeros(whole.shape, file)

    def wanted(window: Window) -> bool:
        return bool((scene.read_labels(window, part) != IGNORE).any())

    plan = plan_for(scorer, scene.scene, **tiles)
    for tile in score_tiles(scorer, scene.scene, plan, wanted=wanted, by_part=True):
        kept[tile.window.inset_of(whole)] = place[tile.classes()]
    # 0 - 1 is 255 in bytes: no prediction.
    return Classes(lambda window: kept[window.inset_of(whole)] - np.uint8(1), is_map=False)


def map_classes(path: Path | str, scene: LabelledScene, legend: Legend) -> tuple[Classes, Labels]:
    """The classes of a finished raster, or of the scene's raster in a folder; also what must be closed.

    Raises BadFile where it cannot be read, BadInput where its classes are others or it lies elsewhere.
    """
    path = map_of(path, scene.name)
    own, _ = legend_of(path)
    # Maps of other software have values without names: the values of the labels are then meant.
    if all(name == f"class {value}" for name, value in zip(own.names, own.values)):
        values = set(own.values)
        own = legend if values <= set(legend.values) else own
        if own is legend and (codes := [v for v in sorted(values) if legend.code_of_another(v)]):
            raise BadInput(
                f"{path} names no classes: its value {codes[0]} may be the class '{codes[0]}', or "
                f"{legend.names[legend.values.index(codes[0])]!r}, which has the value {codes[0]} in the "
                "labels. Store the names of its classes with it (a raster attribute table, as QGIS makes it)."
            )
    indices_by_name(own, legend, Path(path).name)
    rules = LabelRules(legend=legend, classes=dict(zip(own.names, own.values)))
    labels = open_labels(path, scene.scene.grid, rules, scene_name=scene.name)
    return Classes(labels.read, is_map=True), labels


def map_of(path: Path | str, scene: str) -> Path | str:
    """The class raster of a scene: the path itself, or a file of the scene's name in that folder. Raises
    BadFile where there is none.
    """
    if not os.path.isdir(path):
        return path
    tried = [Path(path, f"{scene}{ending}") for ending in MAP_ENDINGS]
    found = next((file for file in tried if file.exists()), None)
    if found is None:
        raise BadFile(
            f"{path} has no map of the scene {scene}: expected {tried[0].name} or {tried[1].name} in this "
            "folder."
        )
    return found


def count_scene(
    scene: LabelledScene,
    part: str | None,
    sides: Sequence[Sequence[Classes]],
    maps: Sequence[MapWriter],
    *,
    valid_only: bool,
) -> tuple[list[list[BlockTally]], np.ndarray]:
    """Counts by block of every member of every side, and (sides - 1, 4) pixels by outcome (both right, only
    the first, only the other, neither) of the first members of the first side and each other.

    maps  writers of the outcomes, one for each other side; or none
    valid_only  labels where the scene has nodata do not count
    """
    whole, classes = scene.scene.grid.window, len(scene.labels.legend)
    tallies = [[BlockTally(block_side(scene), whole, classes) for _ in side] for side in sides]
    outcomes = np.zeros((len(sides) - 1, 4), np.int64)
    has_model = any(not one.is_map for side in sides for one in side)
    for window in whole.blocks(STRIP):
        truth = scene.read_labels(window, part)
        if not (truth != IGNORE).any():
            continue
        given = [[one.read(window) for one in side] for side in sides]
        if has_model:
            # A model predicts every valid pixel: those it leaves out are nodata, for all of them.
            for side, arrays in zip(sides, given):
                for one, array in zip(side, arrays):
                    if not one.is_map:
                        truth[array == IGNORE] = IGNORE
        elif valid_only:
            truth[~scene.scene.read(window).valid] = IGNORE
        for mine, arrays in zip(tallies, given):
            for tally, array in zip(mine, arrays):
                tally.add(window, truth, array)
        # Of the first members: McNemar's test compares two maps, not two means.
        right = [arrays[0] == truth for arrays in given]
        for k, other in enumerate(right[1:]):
            # 0 both, 1 only the first, 2 only the other, 3 neither: the order of COLOURS in `compare`.
            outcome = 2 * (~right[0]).astype(np.uint8) + (~other).astype(np.uint8)
            outcome[truth == IGNORE] = IGNORE
            outcomes[k] += np.bincount(outcome.ravel(), minlength=256)[:4]
            if maps:
                maps[k].write(window, outcome)
    return tallies, outcomes
