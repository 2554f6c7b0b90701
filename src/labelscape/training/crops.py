"""Training crops: where they are taken and how they are turned. Crop i of step s depends on (seed, s, i) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scores import normalise
from labelscape.training.recipe import Recipe

CELL = 64
"""Labels are indexed in cells of this side: fine enough to find them, coarse enough for the largest scene."""


@dataclass(frozen=True)
class CropIndex:
    """How many labelled training pixels of each class lie in each cell of each scene: counts (cells, K), cells (cells, 3)."""

    scenes: tuple[LabelledScene, ...]
    cells: np.ndarray
    """scene, top, left"""
    counts: np.ndarray

    @property
    def class_counts(self) -> np.ndarray:
        return self.counts.sum(axis=0)


def index_crops(dataset: Dataset) -> CropIndex:
    """Find the labelled cells of the training part. Raises BadInput where there is none."""
    scenes, classes = tuple(dataset.part("train")), len(dataset.legend)
    cells, counts = [], []
    for number, scene in enumerate(scenes):
        for band in scene.scene.grid.window.blocks(2048):
            indices = scene.read_labels(band, "train")
            for cell in band.blocks(CELL):
                mine = np.bincount(indices[cell.inset_of(band)].ravel(), minlength=256)[:classes]
                if mine.any():
                    cells.append((number, cell.top, cell.left))
                    counts.append(mine)
    if not cells:
        raise BadInput("No labelled pixel to train on. Check the labels' place and classes, or hold less out.")
    return CropIndex(scenes, np.array(cells), np.array(counts, np.int64))


def batches(index: CropIndex, recipe: Recipe, normalisation: tuple[tuple[float, float], ...], first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Image (N, B, crop, crop) float32 and label (N, crop, crop) uint8 batches from step `first` on, one batch prepared ahead."""

    def make(step: int) -> tuple[Tensor, Tensor]:
        crops = [_crop(index, recipe, normalisation, np.random.default_rng((recipe.seed, step, i))) for i in range(recipe.batch)]
        images, labels = zip(*crops)
        return torch.stack(images), torch.stack(labels)

    with ThreadPoolExecutor(1, thread_name_prefix="crops") as reader:
        ahead = reader.submit(make, first)
        for step in range(first, recipe.steps):
            batch, ahead = ahead.result(), reader.submit(make, step + 1)
            yield batch


def _crop(index: CropIndex, recipe: Recipe, normalisation: Sequence[tuple[float, float]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    scene, window = _place(index, recipe, rng)
    patch, labels = scene.read(window, "train")
    image = normalise(patch.pixels, patch.valid, tuple(normalisation))
    image, label = _padded(image, torch.from_numpy(labels), recipe.crop)
    if recipe.augment != "none":
        image, label = _turned(image, label, int(rng.integers(8 if recipe.augment == "dihedral" else 4)))
    return image, label


def _place(index: CropIndex, recipe: Recipe, rng: np.random.Generator) -> tuple[LabelledScene, Window]:
    """A window of the crop's size inside a scene (smaller where the scene is)."""
    if recipe.sampling == "uniform":
        scene = index.scenes[rng.integers(len(index.scenes))]
        whole = scene.scene.grid.window
        row, column = (int(rng.integers(max(1, n - recipe.crop + 1))) + recipe.crop // 2 for n in whole.shape)
    else:
        weights = index.counts.sum(axis=1)
        if recipe.sampling == "balanced":
            present = np.nonzero(index.class_counts)[0]
            weights = index.counts[:, present[rng.integers(len(present))]]
        number, top, left = index.cells[rng.choice(len(weights), p=weights / weights.sum())]
        scene = index.scenes[number]
        whole = scene.scene.grid.window
        # The labelled cell lies anywhere in the crop, not always in its middle.
        row, column = (int(o + rng.integers(CELL) + rng.integers(-recipe.crop // 4, recipe.crop // 4 + 1)) for o in (top, left))
    height, width = min(recipe.crop, whole.height), min(recipe.crop, whole.width)
    top = int(np.clip(row - height // 2, 0, whole.height - height))
    left = int(np.clip(column - width // 2, 0, whole.width - width))
    return scene, Window(top, left, height, width)


def _padded(image: Tensor, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Fill a crop of a scene smaller than the crop: images with 0, the mean; labels with 255."""
    down, right = size - label.shape[0], size - label.shape[1]
    if not (down or right):
        return image, label
    pad = torch.nn.functional.pad
    return pad(image, (0, right, 0, down)), pad(label, (0, right, 0, down), value=IGNORE)


def _turned(image: Tensor, label: Tensor, which: int) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square: bit 0 flips left-right, bit 1 up-down, bit 2 transposes."""
    flips = [axis for bit, axis in ((1, -1), (2, -2)) if which & bit]
    image, label = image.flip(flips), label.flip(flips)
    return (image.transpose(-1, -2), label.transpose(-1, -2)) if which & 4 else (image, label)
