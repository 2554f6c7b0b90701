"""A user's own data: scenes with labels, or a folder of image and label pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from labelscape.contract.matching import match_pixels
from labelscape.datasets.doctor.labels import is_soft_mask, tally
from labelscape.datasets.nearby import REACH, near_counts
from labelscape.datasets.pairs import find_pairs, parts_given
from labelscape.datasets.split import PARTS, RANDOM_BLOCK, BlockSplit, block_split, random_split
from labelscape.errors import BadInput, BadOption
from labelscape.grid import Window
from labelscape.labels.labels import Labels, classes_of, open_labels
from labelscape.labels.rules import ClassTable, LabelRules, is_vector
from labelscape.labels.values import look_like_masks
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import Source
from labelscape.scenes.mosaic import open_scene, seen_as
from labelscape.scenes.placing import declares
from labelscape.scenes.raster import Patch, Scene, Units

HOLD_BYTES = 1 << 30
"""Scenes up to this many bytes in all are kept in memory while training; larger ones are read window by
window.
"""


@dataclass(frozen=True)
class LabelledScene:
    """A scene, its labels and, where it was split, which blocks belong to which part."""

    scene: Scene
    labels: Labels
    split: BlockSplit | None = None

    @property
    def name(self) -> str:
        return self.scene.name

    def read_labels(self, window: Window, part: str | None = None) -> np.ndarray:
        """(H, W) uint8 class indices; 255 outside `part`'s blocks and wherever nothing is labelled."""
        indices = self.labels.read(window)
        if part is not None and self.split is not None:
            indices[~self.split.mask(window, part)] = IGNORE
        return indices

    def read(self, window: Window, part: str | None = None) -> tuple[Patch, np.ndarray]:
        """Pixels and labels of a window; labels are 255 on invalid pixels too."""
        patch = self.scene.read(window)
        indices = self.read_labels(window, part)
        indices[~patch.valid] = IGNORE
        return patch, indices


@dataclass(frozen=True)
class Dataset:
    """Labelled scenes of one kind: the same bands and one legend. Close it when done, or use it as a context
    manager.

    Scenes with blocks are split by block; scenes of a folder of pairs are split whole: `part_of` then names
    each scene's part.
    """

    scenes: tuple[LabelledScene, ...]
    legend: Legend
    part_of: tuple[str | None, ...]
    report: tuple[str, ...] = ()

    def part(self, part: str) -> list[LabelledScene]:
        """The scenes that hold anything of a part."""
        return [s for s, own in zip(self.scenes, self.part_of) if own in (None, part)]

    def learned_from(self) -> list[LabelledScene]:
        """The scenes that hold anything of the training part, else all: those held out whole must not tell
        even their brightness.
        """
        return self.part("train") or list(self.scenes)

    @property
    def bands(self) -> tuple[str, ...]:
        return self.scenes[0].scene.bands

    def held(self, tick: Callable[[], object] = lambda: None) -> Dataset:
        """The same with all pixels and labels in memory; `tick` is called after every scene."""
        scenes = []
        for one in self.scenes:
            one.labels.hold()
            scenes.append(replace(one, scene=one.scene.hold()))
            tick()
        return replace(self, scenes=tuple(scenes))

    def class_counts(self, part: str | None = None) -> np.ndarray:
        """(K,) labelled pixels per class."""
        scenes = self.scenes if part is None else self.part(part)
        counts = np.zeros(256, np.int64)
        for scene in scenes:
            for window in scene.scene.grid.window.blocks(2048):
                counts += np.bincount(scene.read_labels(window, part).ravel(), minlength=256)
        return counts[: len(self.legend)]

    def is_labelled(self, part: str) -> bool:
        """Is there a labelled pixel in a part? Looks no further than the first."""
        windows = ((s, window) for s in self.part(part) for window in s.scene.grid.window.blocks(2048))
        return any((s.read_labels(window, part) != IGNORE).any() for s, window in windows)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for scene in self.scenes:
            scene.scene.close()
            scene.labels.close()


def open_dataset(
    images: Sequence[Source],
    labels: Sequence[str | Path] = (),
    *,
    spec: LabelRules = LabelRules(),
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    block: int = 256,
    shares: Mapping[str, float] | None = None,
    buffer: int = 0,
    split: Literal["blocks", "random"] = "blocks",
    seed: int = 0,
    pixel_size: float | None = None,
    tick: Callable[[str], None] | None = None,
) -> Dataset:
    """Open scenes with their labels and split them into blocks.

    images  scenes; or one folder of image and label pairs, and then no `labels` (see `find_pairs`)
    labels  one label file per scene, or a single one that serves all
    block   side of a block in pixels; pairs of files are split file by file instead
    shares  part -> share of the labels, e.g. {"train": 0.75, "test": 0.25}; None splits nothing. A folder of
            pairs that says its parts itself (`parts_given`) keeps them, unless a random split is asked for
    buffer  training labels within this many pixels of a block of another part are dropped
    pixel_size  metres to resample all scenes to; by default those with finer pixels than others are taken to
                the widest among them
    split   blocks: large blocks, balanced over classes; random: blocks of 32 pixels by chance, and `report`
            says how close the parts lie
    """
    if buffer < 0:
        raise BadOption(f"buffer={buffer} is a distance in pixels; it cannot be below 0.")
    if split not in ("blocks", "random"):
        raise BadOption(f"split={split!r} must be 'blocks' or 'random'.")
    by_file = False
    if not labels:
        folder = images[0] if images else None
        images, labels = find_pairs(images)
        by_file = len(images) > 1
    if len(labels) == 1:
        labels = list(labels) * len(images)
    if len(labels) != len(images):
        raise BadInput(
            f"{len(images)} scenes and {len(labels)} label files: pass one label file per scene, or one for "
            "all."
        )
    rasters = [f for f in labels if not is_vector(f)]
    _refuse_soft_masks(rasters, spec)
    if look_like_masks(rasters, spec):
        raise BadInput(
            f"{rasters[0]} holds only 0 and 255, and 255 usually means 'not labelled'. If it is a mask, "
            "name both classes with "
            "--classes other=0,building=255; if 255 is unlabelled, say so with --ignore-value 255."
        )
    table = classes_of(labels, spec) if len(labels) > 1 else None
    with ExitStack() as opened:
        scenes, resampled = _of_one_kind(
            images,
            labels,
            spec,
            table,
            {"nodata": nodata, "bands": bands},
            pixel_size,
            opened,
            tick or (lambda name: None),
        )
        legend = scenes[0].labels.legend
        part_of: list[str | None] = [None] * len(scenes)
        given = parts_given(folder, images) if by_file and shares is not None and split != "random" else None
        if given:
            part_of = list(given.part_of)
        elif shares is not None and by_file:
            part_of = _parts_of_files(scenes, legend, shares, split, seed)
        elif shares is not None:
            cut, side = (random_split, RANDOM_BLOCK) if split == "random" else (block_split, block)
            scenes = [
                replace(s, split=cut(_counts_per_block(s, side, len(legend)), side, shares, seed=seed))
                for s in scenes
            ]
        report = [
            *resampled,
            *(line for s in scenes[:1] for line in s.labels.report),
            *([given.report] if given else []),
        ]
        if shares is not None:
            scenes, lines = _buffered(scenes, legend, part_of, buffer)
            report += lines
            if split == "random":
                report.append(_nearness(scenes, by_file))
            report += _overlaps(scenes)
        opened.pop_all()
    return Dataset(tuple(scenes), legend, tuple(part_of), tuple(report))


def _refuse_soft_masks(rasters: Sequence[str | Path], spec: LabelRules) -> None:
    """Raises BadInput where every grey of a mask's smoothed edges would become a class of its own; the
    first file tells.
    """
    if rasters and spec.threshold is None and is_soft_mask(found := tally(rasters[0])):
        raise BadInput(
            f"{rasters[0]} is a black and white mask with {len(found.counts)} grey values: it was saved "
            "lossily (JPEG) or resized with smoothing. Say from "
            "which value on it is white, and name both classes: --threshold 128 --classes other=0,road=1."
        )


def _of_one_kind(
    images: Sequence[Source],
    labels: Sequence[str | Path],
    spec: LabelRules,
    table: ClassTable | None,
    options: Mapping,
    pixel_size: float | None,
    opened: ExitStack,
    tick: Callable[[str], None],
) -> tuple[list[LabelledScene], list[str]]:
    """Scenes with their labels, of one pixel size and in one unit, and a line for each that had another.

    A network learns sizes in pixels: scenes whose pixels differ by more than a quarter are resampled to
    `pixel_size`, else to the widest among them, which keeps what all can show. Values are brought to the
    scale and offset that the first scene declares.
    """
    asked = [pixel_size] * len(images)
    scenes = _opened(images, labels, spec, table, options, asked, None, opened, tick)
    sizes, first = [s.scene.grid.ground_pixel_size for s in scenes], scenes[0].scene
    widest = max((size for size in sizes if size), default=0)
    finer = {n for n, size in enumerate(sizes) if match_pixels(widest, size).is_finer}
    strange = {
        n
        for n, s in enumerate(scenes)
        if declares(first.units) and declares(s.scene.units) and s.scene.units != first.units
    }
    lines = [
        (
            f"{scenes[n].name} is resampled from {sizes[n]:.3g} m to {widest:.3g} m, the pixels of the "
            "widest "
            "scene"
        )
        for n in sorted(finer)
    ]
    lines += [
        (
            f"{scenes[n].name} declares another scale or offset than {first.name}; its values are brought to "
            "those"
        )
        for n in sorted(strange)
    ]
    if lines:
        opened.close()
        wanted = [widest if n in finer else asked[n] for n in range(len(images))]
        scenes = _opened(
            images, labels, spec, table, options, wanted, first.units if strange else None, opened, tick
        )
    return scenes, lines


def _opened(
    images: Sequence[Source],
    labels: Sequence[str | Path],
    spec: LabelRules,
    table: ClassTable | None,
    options: Mapping,
    pixel_sizes: Sequence[float | None],
    units: Units | None,
    opened: ExitStack,
    tick: Callable[[str], None],
) -> list[LabelledScene]:
    """Every scene with its labels, in memory as far as HOLD_BYTES go. Raises BadInput where bands differ."""
    scenes: list[LabelledScene] = []
    held = 0
    for source, label, size in zip(images, labels, pixel_sizes):
        scene = open_scene(source, pixel_size=size, **options)
        if units not in (None, scene.units) and declares(scene.units):
            with scene as as_declared:
                scene = seen_as(as_declared, units=units)
        opened.enter_context(scene)
        own = open_labels(label, scene.grid, spec, table=table, scene_name=scene.name)
        opened.callback(own.close)
        if scenes and scene.bands != scenes[0].scene.bands:
            raise BadInput(
                f"{scene.name} has the bands {' '.join(scene.bands)}, {scenes[0].name} has "
                f"{' '.join(scenes[0].scene.bands)}: train on one kind of scene."
            )
        held += scene.nbytes + scene.grid.window.pixels
        if held <= HOLD_BYTES:
            scene = opened.enter_context(scene.hold())
            own.hold()
        scenes.append(LabelledScene(scene, own))
        tick(scene.name)
    return scenes


def _buffered(
    scenes: list[LabelledScene], legend: Legend, part_of: Sequence[str | None], buffer: int
) -> tuple[list[LabelledScene], list[str]]:
    """The scenes with a buffer around held-out blocks, and what it costs. Raises BadInput where it leaves
    nothing to learn from.
    """
    if not buffer:
        return scenes, []
    if scenes[0].split is None:
        return scenes, [
            "the buffer is not used: files of pairs are held out whole, and where they touch is not known"
        ]
    before = Dataset(tuple(scenes), legend, tuple(part_of)).class_counts("train")
    scenes = [replace(s, split=replace(s.split, buffer=buffer)) for s in scenes]
    after = Dataset(tuple(scenes), legend, tuple(part_of)).class_counts("train")
    lost = [name for name, old, new in zip(legend.names, before, after) if old and not new]
    if lost:
        raise BadInput(
            f"A buffer of {buffer} pixels leaves no training label of {', '.join(lost)}: use larger blocks "
            "(--block) or a smaller --buffer."
        )
    return scenes, [
        (
            f"the buffer of {buffer} pixels takes {100 - 100 * after.sum() / before.sum():.0f} % of the "
            "training labels"
        )
    ]


def _nearness(scenes: Sequence[LabelledScene], by_file: bool) -> str:
    """What a random split has to be told with."""
    if by_file:
        return (
            "a random split of files: where they lie is not known; tiles cut from one scene are neighbours, "
            "and then the score will flatter"
        )
    near, held = np.sum([near_counts(s.scene.grid.window, s.read_labels) for s in scenes], axis=0)
    return (
        f"a random split: {100 * near / max(1, held):.0f} % of held-out pixels lie within {REACH} pixels of "
        "a training pixel; the score will flatter"
    )


def _overlaps(scenes: Sequence[LabelledScene]) -> list[str]:
    """A line where scenes show the same ground: each is split on its own, and one may learn what another
    holds out.
    """
    placed, boxes = [], []
    for scene in scenes:
        grid = scene.scene.grid
        with suppress(
            RasterioError, ValueError
        ):  # a CRS that lies nowhere on Earth overlaps nothing we could tell
            if grid.is_georeferenced:
                boxes.append(transform_bounds(grid.crs, "EPSG:4326", *grid.bounds_of(grid.window)))
                placed.append(scene)
    boxes = np.array(boxes).reshape(-1, 4)
    for i, (west, south, east, north) in enumerate(boxes[:-1]):
        others = boxes[i + 1 :]
        shared = np.clip(np.minimum(east, others[:, 2]) - np.maximum(west, others[:, 0]), 0, None)
        shared = shared * np.clip(np.minimum(north, others[:, 3]) - np.maximum(south, others[:, 1]), 0, None)
        smaller = np.minimum(
            (east - west) * (north - south), (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
        )
        if (shared > 0.05 * smaller).any():  # neighbours may touch, and their boxes in degrees a little more
            other = placed[i + 1 + int((shared / smaller).argmax())]
            return [
                f"{placed[i].name} and {other.name} show the same ground, and each is split on its own: "
                "what one holds out the other may learn from, and "
                "the score will flatter. Put them into one folder and give that as the scene, a mosaic; or "
                "score on other scenes"
            ]
    return []


def _counts_per_block(scene: LabelledScene, block: int, classes: int) -> np.ndarray:
    """(rows, columns, K) labelled valid pixels per block and class."""
    whole = scene.scene.grid.window
    rows, columns = -(-whole.height // block), -(-whole.width // block)
    counts = np.zeros((rows, columns, classes), np.int64)
    # Read several blocks at once: label files are decoded in bands of rows.
    for band in Window(0, 0, whole.height, whole.width).blocks(max(block, 2048 // block * block)):
        indices = scene.read_labels(band)
        for window in Window(0, 0, band.height, band.width).blocks(block):
            r, c = (band.top + window.top) // block, (band.left + window.left) // block
            counts[r, c] = np.bincount(
                indices[window.inset_of(Window(0, 0, *band.shape))].ravel(), minlength=256
            )[:classes]
    return counts


def _parts_of_files(
    scenes: Sequence[LabelledScene], legend: Legend, shares: Mapping[str, float], split: str, seed: int
) -> list[str | None]:
    """Each whole file to one part: balanced over classes as blocks are, or by chance."""
    counts = np.stack(
        [
            np.bincount(s.read_labels(s.scene.grid.window).ravel(), minlength=256)[: len(legend)]
            for s in scenes
        ]
    )
    found = (random_split if split == "random" else block_split)(counts[:, None, :], 1, shares, seed=seed)
    return [PARTS[int(p)] for p in found.parts[:, 0]]
