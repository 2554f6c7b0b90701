"""A share of the training blocks or images, for learning curves: what a small share has, larger ones have
too, and what is held out stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labelscape.datasets.divide import counts_per_block
from labelscape.datasets.labelled import LabelledScene
from labelscape.datasets.split import UNUSED
from labelscape.errors import BadInput, BadOption
from labelscape.legend import Legend

UNUSED_FILE = "unused"
"""Part of an image that is neither trained on nor held out."""


def trained_share(
    scenes: Sequence[LabelledScene], part_of: Sequence[str | None], legend: Legend, share: float, seed: int
) -> tuple[list[LabelledScene], list[str | None], list[str]]:
    """The scenes with only a share of their labelled training blocks, or images where these are split as
    whole files; the part of each image; a line for the report.

    The seed draws an order of all blocks. First come one block of each class, rare classes first, so that a
    small share lacks no class that it has room for; the share is the beginning of that order. Raises
    BadOption for a share that is none, BadInput where nothing is divided.
    """
    if not 0 < share <= 1:
        raise BadOption(f"`train_share={share}` must be above 0 and at most 1.")
    by_file = any(part_of)
    if not by_file and any(scene.split is None for scene in scenes):
        raise BadInput("A share of the training blocks needs held-out ones: give `holdout` above 0.")
    units, counts = _units(scenes, part_of, len(legend), by_file=by_file)
    if not len(units):
        raise BadInput("There is no labelled training block to take a share of.")
    order = nested_order(counts, seed)
    # A share that is a whole number of units stays it: 0.07 * 100 is a little above 7 in floating point.
    kept = order[: max(1, math.ceil(share * len(order) - 1e-9))]
    chosen = {tuple(units[place]) for place in kept.tolist()}
    what = "images" if by_file else "blocks"
    line = f"{len(kept)} of {len(order)} labelled training {what} are used ({100 * share:g} %)"
    if by_file:
        parts = [
            UNUSED_FILE if part == "train" and (number,) not in chosen else part
            for number, part in enumerate(part_of)
        ]
        return list(scenes), parts, [line]
    cut = []
    for number, scene in enumerate(scenes):
        parts = scene.split.parts.copy()
        for row, column in scene.split.blocks("train"):
            if (number, row, column) not in chosen:
                parts[row, column] = UNUSED
        cut.append(replace(scene, split=replace(scene.split, parts=parts)))
    return cut, list(part_of), [line]


def nested_order(counts: np.ndarray, seed: int) -> np.ndarray:
    """An order (N,) of units with labelled pixels (N, K) per class: at random, but first one unit of each
    class, rare classes first.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(counts))
    first: dict[int, None] = {}
    # Rare classes first: what is chosen for them mostly holds the common ones too.
    for index in np.argsort(counts.sum(axis=0), kind="stable").tolist():
        having = order[counts[order, index] > 0]
        # A class that a chosen unit has already needs no other.
        if len(having) and not any(counts[place, index] for place in first):
            first[int(having[0])] = None
    rest = [place for place in order.tolist() if place not in first]
    return np.array([*first, *rest])


def _units(
    scenes: Sequence[LabelledScene], part_of: Sequence[str | None], classes: int, *, by_file: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Training units that have labels, as (scene,) or (scene, row, column), and their pixels per class."""
    units, counts = [], []
    for number, scene in enumerate(scenes):
        if by_file:
            if part_of[number] == "train":
                whole = scene.read_labels(scene.scene.grid.window)
                units.append((number,))
                counts.append(np.bincount(whole.ravel(), minlength=256)[:classes])
            continue
        found = counts_per_block(scene, scene.split.block, classes)
        for row, column in scene.split.blocks("train"):
            units.append((number, row, column))
            counts.append(found[row, column])
    counts = np.array(counts, np.int64).reshape(-1, classes)
    labelled = counts.sum(axis=1) > 0
    return np.array(units)[labelled] if len(units) else np.zeros((0, 1), int), counts[labelled]
