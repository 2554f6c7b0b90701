"""Training crops: where they are taken and how they are augmented. Crop i of step s depends on (seed, s, i)
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scenes.files import gdal
from labelscape.scoring.arrays import Array
from labelscape.scoring.scorer import normalise
from labelscape.scoring.symmetry import SYMMETRIES, turned_back
from labelscape.training.map_size import Larger, larger, mate_batch
from labelscape.training.recipe import Recipe

CACHE_BYTES = 512 * 2**20
"""GDAL's block cache while crops are read: they lie at random places, so decoded blocks are used again.
(Mapping reads each block once and needs far less.)
"""

CELL = 64
"""Labels are indexed in cells of this side: fine enough to find them, coarse enough for the largest scene."""

FEW = 4
"""Labelled pixels of a cell, at most, that are kept one by one (ours), and that crops are laid around: those
of point labels. Crops laid anywhere around such a cell miss them: of 64 pixels 47 in 100 would hold no label.
"""


@dataclass(frozen=True)
class CropIndex:
    """How many labelled training pixels of each class lie in each cell of each scene: counts (cells, K),
    cells (cells, 3).
    """

    scenes: tuple[LabelledScene, ...]
    cells: np.ndarray
    """scene, top, left"""
    counts: np.ndarray
    points: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Number of a cell with no more than FEW labelled pixels -> (n, 3): row and column of each, in pixels of
    the scene, and its class.
    """

    @cached_property
    def class_counts(self) -> np.ndarray:
        """(K,) labelled training pixels per class."""
        return self.counts.sum(axis=0)

    @cached_property
    def chances(self) -> np.ndarray:
        """(K + 1, cells) cumulative distribution over the cells, one row for each class and the last for all
        classes: a cell is drawn by looking a random number up in it.
        """
        weights = np.concatenate([self.counts.T, self.counts.sum(axis=1)[None]]).astype(np.float64)
        totals = weights.sum(axis=1, keepdims=True)
        running = (weights / np.where(totals > 0, totals, 1)).cumsum(axis=1)
        # A cumulative sum ends a rounding error beside 1, and a number drawn beyond it would find no cell.
        return running / np.where(running[:, -1:] > 0, running[:, -1:], 1)


def index_crops(dataset: Dataset) -> CropIndex:
    """Find the labelled cells of the training part. Raises BadInput where there is none."""
    scenes, classes = tuple(dataset.part("train")), len(dataset.legend)
    cells, counts, points = [], [], {}
    for number, scene in enumerate(scenes):
        for band in scene.scene.grid.window.blocks(2048):
            indices = scene.read_labels(band, "train")
            for cell in band.blocks(CELL):
                # 256 bins and the first K of them: 255 (not labelled) is counted in none.
                mine = np.bincount(indices[cell.inset_of(band)].ravel(), minlength=256)[:classes]
                if 0 < mine.sum() <= FEW:
                    found = indices[cell.inset_of(band)]
                    rows, columns = np.nonzero(found < classes)
                    places = rows + cell.top, columns + cell.left, found[rows, columns]
                    points[len(cells)] = np.stack(places, axis=1)
                if mine.any():
                    cells.append((number, cell.top, cell.left))
                    counts.append(mine)
    if not scenes:
        there = ", ".join(dict.fromkeys(p for p in dataset.part_of if p))
        raise BadInput(f"There is nothing to train on: the data has no part train (parts here: {there}).")
    if not cells:
        raise BadInput(
            "No labelled pixel to train on. Check where the labels lie and their classes, or hold out less."
        )
    return CropIndex(scenes, np.array(cells), np.array(counts, np.int64), points)


@dataclass(frozen=True)
class Drawing:
    """How crops of one data set are drawn: the recipe's settings for it, and the mean and deviation per
    band.
    """

    index: CropIndex
    normalisation: tuple[tuple[float, float], ...]
    seed: int
    batch: int
    crop: int
    sampling: str = "labelled"
    augment: str = "none"
    scale_range: tuple[float, float] | None = None
    scale_set: tuple[float, ...] = ()
    resampling: str = "bilinear"
    larger: Larger | None = None
    """The last steps, whose crops are larger."""
    task: int = 0
    """0: the recipe's own data, 1: that of the second task. Each has random numbers of its own."""

    @classmethod
    def of(cls, recipe: Recipe, index: CropIndex, normalisation: tuple[tuple[float, float], ...]) -> Drawing:
        same = {
            "seed": recipe.seed,
            "crop": recipe.crop,
            "sampling": recipe.sampling,
            "augment": recipe.augment,
            "resampling": recipe.resampling,
        }
        return cls(
            index,
            normalisation,
            batch=recipe.batch,
            larger=larger(recipe),
            scale_range=recipe.scale_range,
            scale_set=recipe.scale_set,
            **same,
        )

    @classmethod
    def of_mate(
        cls, recipe: Recipe, index: CropIndex, normalisation: tuple[tuple[float, float], ...]
    ) -> Drawing:
        last = larger(recipe)
        same = {
            "seed": recipe.seed,
            "crop": recipe.crop,
            "sampling": recipe.sampling,
            "augment": recipe.augment,
            "resampling": recipe.resampling,
        }
        return cls(
            index,
            normalisation,
            batch=recipe.mate.batch or recipe.batch,
            larger=last and replace(last, batch=mate_batch(recipe)),
            scale_range=recipe.mate.scale_range,
            task=1,
            **same,
        )

    def part(self, step: int, part: int, parts: int) -> tuple[Tensor, Tensor]:
        """Image (n, B, crop, crop) float32 and label (n, crop, crop) uint8 of the part-th of `parts` equal
        parts of a step's batch. Raises as `LabelledScene.read`.
        """
        crops = Crops(self, step, part, parts)
        crops.draw()
        return crops.drawn()

    def at(self, step: int) -> Drawing:
        """How the crops of one step are drawn."""
        last = self.larger
        if last is None or step < last.first:
            return self
        return replace(self, crop=last.crop, batch=last.batch, larger=None)

    def stream(self, step: int, number: int) -> np.random.SeedSequence:
        """The random numbers of one crop. Those of the second task are of another stream: scenes of one size
        would otherwise be cropped at the same places.
        """
        # A spawn key, not another number among the entropy: NumPy pads entropy with zeros to four words, so
        # that (seed, 1, step) and (seed, 1, step, 0) are one stream; a key follows the padding.
        return np.random.SeedSequence((self.seed, step, number), spawn_key=(self.task,) * bool(self.task))


class Crops:
    """A part of a batch, as `Drawing.part` has it, that one thread or several draw."""

    def __init__(self, drawing: Drawing, step: int, part: int, parts: int) -> None:
        self._drawing, self._step = drawing.at(step), step
        size = self._drawing.batch // parts
        self._first, shape = part * size, (self._drawing.crop, self._drawing.crop)
        self._left: dict[int, Placed] | None = None
        self._errors: dict[int, Exception] = {}
        self._lock = Lock()
        bands = len(drawing.normalisation)
        # In the order that networks are trained in. (Of one band both orders are one, and torch tells them
        # apart by strides alone: these decide which of its kernels rounds.)
        order = torch.channels_last if bands > 1 else torch.contiguous_format
        self._images = torch.empty((size, bands, *shape), memory_format=order)
        self._labels = torch.empty((size, *shape), dtype=torch.uint8)

    def draw(
        self,
        own: Callable[[LabelledScene], LabelledScene] = lambda scene: scene,
        thread: int = 0,
        threads: int = 1,
    ) -> None:
        """Draw crops, as the thread-th of `threads`, until none is left that no other has taken. `own` gives
        a scene as this thread may read it.
        """
        with gdal(GDAL_CACHEMAX=CACHE_BYTES):
            while (taken := self._next(thread, threads)) is not None:
                number, crop = taken
                try:
                    image, label = draw(self._drawing, crop, own)
                    # Band by band, and by NumPy: torch would take threads away from the network for it.
                    for into, band in zip(self._images.numpy()[number], image):
                        into[...] = band
                    self._labels.numpy()[number] = label
                except Exception as error:
                    self._errors[number] = error

    def _next(self, thread: int, threads: int) -> tuple[int, Placed] | None:
        """A crop that nobody has taken: one of the thread's own part of its scene, which GDAL has decoded for
        this thread's files, or, where none is left, one of another's part.
        """
        with self._lock:
            if self._left is None:
                self._place()
            # None after one that cannot be read: all before it are, and the first error is raised.
            wanted = [n for n in self._left if n < min(self._errors, default=n + 1)]
            mine = (n for n in wanted if self._left[n].part(threads) == thread)
            number = next(mine, wanted[0] if wanted else None)
            return None if number is None else (number, self._left.pop(number))

    def _place(self) -> None:
        self._left = {}
        for number in range(len(self._labels)):
            # Seeded per crop: a batch is the same whatever processes, parts and threads draw it.
            rng = np.random.default_rng(self._drawing.stream(self._step, self._first + number))
            try:
                self._left[number] = placed(self._drawing, rng)
            except Exception as error:  # a scene that is opened when its size is asked for
                self._errors[number] = error
                break

    def drawn(self) -> tuple[Tensor, Tensor]:
        """Images and labels, once all are drawn. Raises the error of the first crop that could not be."""
        if self._errors:
            raise self._errors[min(self._errors)]
        return self._images, self._labels


@dataclass(frozen=True)
class Placed:
    """Where a crop lies: a window of a scene, smaller than `side` where the scene is."""

    scene: LabelledScene
    window: Window
    side: int
    rng: np.random.Generator
    """Of this crop, as far as it was used."""

    def part(self, parts: int) -> int:
        """Which of so many parts of the scene, from the top down, it lies in."""
        return (2 * self.window.top + self.window.height) * parts // (2 * self.scene.scene.grid.height)


def placed(drawing: Drawing, rng: np.random.Generator) -> Placed:
    """Choose the place of a crop, and its scale."""
    # The order of these draws is part of a recipe: in another a seed would give other crops and weights.
    scale = 1.0
    if drawing.scale_range:
        scale = float(rng.uniform(*drawing.scale_range))
    elif drawing.scale_set:
        scale = float(drawing.scale_set[rng.integers(len(drawing.scale_set))])
    side = max(1, round(drawing.crop / scale))  # enlarging by 2 shows half as much ground
    return Placed(*place_crop(drawing, side, rng), side, rng)


def draw(
    drawing: Drawing, crop: Placed, own: Callable[[LabelledScene], LabelledScene]
) -> tuple[np.ndarray, np.ndarray]:
    """One crop: read, padded where its scene is smaller, resized to scale, flipped or rotated. Image (B,
    crop, crop) and label (crop, crop), which may be views.
    """
    patch, labels = own(crop.scene).read(crop.window, "train")
    image = normalise(patch.pixels, patch.valid, tuple(drawing.normalisation))
    image, label = _padded(image, torch.from_numpy(labels), crop.side)
    if crop.side != drawing.crop:
        image, label = _resized(image, label, drawing.crop, drawing.resampling == "antialiased")
    turns = SYMMETRIES[drawing.augment]
    # The last of a crop's draws.
    which = turns[int(crop.rng.integers(len(turns)))] if len(turns) > 1 else 0
    return _turned(image.numpy(), label.numpy(), which)


def place_crop(drawing: Drawing, side: int, rng: np.random.Generator) -> tuple[LabelledScene, Window]:
    """A square window of this side inside a scene (smaller where the scene is)."""
    index = drawing.index
    if drawing.sampling == "uniform":
        scene = index.scenes[rng.integers(len(index.scenes))]
        whole = scene.scene.grid.window
        row, column = (int(rng.integers(max(1, n - side + 1))) + side // 2 for n in whole.shape)
    else:
        chosen = -1  # all classes
        if drawing.sampling == "balanced":
            # One class is as likely as another, however rare; within it all its pixels are.
            present = np.nonzero(index.class_counts)[0]
            chosen = int(present[rng.integers(len(present))])
        # side="right": a cell without a pixel of the class adds nothing to the sum and is never drawn.
        cell = int(index.chances[chosen].searchsorted(rng.random(), side="right"))
        number, top, left = index.cells[cell]
        scene = index.scenes[number]
        whole = scene.scene.grid.window
        # Jitter of a quarter of the side (ours): what is labelled must not always lie in the middle.
        if cell in index.points:
            points = index.points[cell]
            points = points[points[:, 2] == chosen] if chosen >= 0 else points
            point, most = points[rng.integers(len(points))], side // 4
            row, column = (int(o + rng.integers(-most, most + 1)) for o in point[:2])
        else:
            row, column = (
                int(o + rng.integers(CELL) + rng.integers(-side // 4, side // 4 + 1)) for o in (top, left)
            )
    height, width = min(side, whole.height), min(side, whole.width)
    top = int(np.clip(row - height // 2, 0, whole.height - height))
    left = int(np.clip(column - width // 2, 0, whole.width - width))
    return scene, Window(top, left, height, width)


def _padded(image: Tensor, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Fill a crop of a scene smaller than the crop: images with 0, the mean; labels with 255."""
    down, right = size - label.shape[0], size - label.shape[1]
    if not (down or right):
        return image, label
    return F.pad(image, (0, right, 0, down)), F.pad(label, (0, right, 0, down), value=IGNORE)


def _resized(image: Tensor, label: Tensor, size: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """Bilinear for images, nearest for labels, corners not aligned: a pixel of either covers the same
    ground. `antialias` matters when reducing: without it a reduced crop keeps the noise that multi-scale
    inference (scorer._resized) averages out.
    """
    shape, smooth = (size, size), antialias and size < image.shape[-1]
    image = F.interpolate(image[None], shape, mode="bilinear", align_corners=False, antialias=smooth)[0]
    # nearest-exact: torch's "nearest" moves labels by up to half a pixel against a bilinear image.
    return image, F.interpolate(label[None, None], (size, size), mode="nearest-exact")[0, 0]


def _turned(image: Array, label: Array, which: int) -> tuple[Array, Array]:
    """One of the eight symmetries of the square, applied as its inverse: a seed gives the crops it always
    gave.
    """
    return turned_back(image, which), turned_back(label, which)
