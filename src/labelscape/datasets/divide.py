"""Labelled scenes split into train, val and test, and what the split means for the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from labelscape.crs import Unrelated, bounds_in
from labelscape.datasets.labelled import Dataset, LabelledScene
from labelscape.datasets.nearby import REACH, near_counts
from labelscape.datasets.pairs import GivenParts
from labelscape.datasets.split import PARTS, RANDOM_BLOCK, BlockSplit, block_split, fold_split, random_split
from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.legend import Legend
from labelscape.scenes.stamps import same_content

Split = str | tuple[int, int]
"""How blocks are assigned: "blocks", "random", or the fold (k, n) of a cross-validation over blocks."""


def divide(
    scenes: Sequence[LabelledScene],
    legend: Legend,
    shares: Mapping[str, float],
    *,
    given: GivenParts | None,
    by_file: bool,
    split: Split,
    block: int,
    buffer: int,
    seed: int,
) -> tuple[list[LabelledScene], list[str | None], list[str]]:
    """The scenes split as `open_dataset` describes; per scene the split of a whole file (None where its
    blocks are split); and lines for the report.

    given  the splits of a folder that names its own, else None
    split  blocks, random, or the fold (k, n) of a cross-validation over blocks

    Raises BadInput where there are too few blocks or files, or the buffer leaves a class without training
    labels.
    """
    report = []
    if given:
        # A published split is kept as it is: scores are compared with others' on it.
        scenes, part_of = list(scenes), list(given.part_of)
        report.append(given.report)
    else:
        scenes, part_of = _divided(scenes, legend, shares, by_file, split, block, seed)
    if isinstance(split, tuple):
        what = "images" if by_file else f"blocks of {block} pixels"
        report.append(f"fold {split[0]} of {split[1]} over {what} is held out")
    scenes, lines = buffered(scenes, legend, part_of, buffer)
    report += lines
    if split == "random":
        report.append(nearness(scenes, by_file))
    return scenes, part_of, report + overlaps(scenes) + copies(scenes, part_of)


def _divided(
    scenes: Sequence[LabelledScene],
    legend: Legend,
    shares: Mapping[str, float],
    by_file: bool,
    split: Split,
    block: int,
    seed: int,
) -> tuple[list[LabelledScene], list[str | None]]:
    """Whole files, or the blocks of every scene, assigned to splits."""
    if by_file:
        return list(scenes), _splits_of_files(scenes, legend, shares, split, seed)
    # A random split is of small blocks whatever --block says: it imitates splits of single crops.
    side = RANDOM_BLOCK if split == "random" else block
    divided = [
        replace(s, split=_cut(counts_per_block(s, side, len(legend)), side, shares, split, seed))
        for s in scenes
    ]
    return divided, [None] * len(divided)


def _cut(counts: np.ndarray, side: int, shares: Mapping[str, float], split: Split, seed: int) -> BlockSplit:
    if isinstance(split, tuple):
        return fold_split(counts, side, split, val=shares.get("val", 0.0), seed=seed)
    return (random_split if split == "random" else block_split)(counts, side, shares, seed=seed)


def buffered(
    scenes: list[LabelledScene], legend: Legend, part_of: Sequence[str | None], buffer: int
) -> tuple[list[LabelledScene], list[str]]:
    """The scenes with a buffer around held-out blocks, and its cost in training labels. Raises BadInput where
    it leaves a class without any.
    """
    if not buffer:
        return scenes, []
    # All scenes are split alike: blocks in all of them, or whole files.
    if scenes[0].split is None:
        return scenes, [
            "the buffer is not used: image files are held out whole, and their positions are not compared"
        ]
    # Counted before and after: a buffer can remove a rare class altogether, which no later step would notice.
    before = Dataset(tuple(scenes), legend, tuple(part_of)).class_counts("train")
    scenes = [replace(s, split=replace(s.split, buffer=buffer)) for s in scenes]
    after = Dataset(tuple(scenes), legend, tuple(part_of)).class_counts("train")
    lost = [name for name, old, new in zip(legend.names, before, after) if old and not new]
    if lost:
        raise BadInput(
            f"A buffer of {buffer} pixels leaves no training label of {', '.join(lost)}: use larger blocks "
            "(`block`) or a smaller `buffer`."
        )
    taken = 100 - 100 * after.sum() / before.sum()
    return scenes, [f"the buffer of {buffer} pixels removes {taken:.0f} % of the training labels"]


def nearness(scenes: Sequence[LabelledScene], by_file: bool) -> str:
    """How close the held-out pixels of a random split lie to training pixels: a line for the report."""
    if by_file:
        return (
            "a random split of files: their positions are not known; if they are tiles of one scene, "
            "neighbouring tiles are in train and test, and the score is optimistic"
        )
    # Summed over scenes before the division: small scenes do not count as much as large ones.
    near, held = np.sum([near_counts(s.scene.grid.window, s.read_labels) for s in scenes], axis=0)
    return (
        f"a random split: {100 * near / max(1, held):.0f} % of held-out pixels lie within {REACH} pixels of "
        "a training pixel; the score is optimistic"
    )


COPY_HEAD = 2**16
"""Bytes of a file that are compared before all of it."""


def copies(scenes: Sequence[LabelledScene], part_of: Sequence[str | None]) -> list[str]:
    """A line where images of different parts are copies of each other, byte by byte, under other names: what
    is held out was trained on.
    """
    first: dict[tuple[int, bytes], tuple[Path, LabelledScene, str]] = {}
    found = []
    paths = [_only_file(scene) for scene in scenes]
    sizes = [path.stat().st_size if path else None for path in paths]
    alike = Counter(sizes)
    for scene, part, path, size in zip(scenes, part_of, paths, sizes):
        # Most files have a size of their own, and are not read for this.
        if part is None or path is None or alike[size] == 1:
            continue
        with path.open("rb") as file:
            key = size, sha256(file.read(COPY_HEAD)).digest()
        known, other, its_part = first.setdefault(key, (path, scene, part))
        if part != its_part and same_content(known, path):
            found.append(f"{scene.name} ({part}) is a copy of {other.name} ({its_part})")
    more = f", {len(found) - 1} more likewise" if len(found) > 1 else ""
    said = f"{more}: what is held out there is trained on, and the score is optimistic. Remove the copies"
    return [found[0] + said] if found else []


def _only_file(scene: LabelledScene) -> Path | None:
    """The local file that a scene is; None where it is several, or none."""
    files = scene.scene.files
    return Path(files[0]) if len(files) == 1 and Path(files[0]).is_file() else None


def overlaps(scenes: Sequence[LabelledScene]) -> list[str]:
    """A line where scenes overlap: each is split on its own, and one may be trained on what another holds
    out. Bounds are compared in degrees.
    """
    placed, boxes = [], []
    for scene in scenes:
        grid = scene.scene.grid
        # A local CRS without a place on Earth cannot be compared.
        with suppress(Unrelated):
            if grid.is_georeferenced:
                boxes.append(bounds_in(grid.bounds_of(grid.window), grid.crs))
                placed.append(scene)
    # reshape: without a georeferenced scene there are no columns to take.
    boxes = np.array(boxes).reshape(-1, 4)
    # Each pair once, one row of them at a time: memory grows with the scenes, not with their square.
    for i, (west, south, east, north) in enumerate(boxes[:-1]):
        others = boxes[i + 1 :]
        shared = np.clip(np.minimum(east, others[:, 2]) - np.maximum(west, others[:, 0]), 0, None)
        shared = shared * np.clip(np.minimum(north, others[:, 3]) - np.maximum(south, others[:, 1]), 0, None)
        smaller = np.minimum(
            (east - west) * (north - south), (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
        )
        if (
            shared > 0.05 * smaller
        ).any():  # adjacent tiles may share a row, and bounds in degrees are wider than the tiles
            other = placed[i + 1 + int((shared / smaller).argmax())]
            return [
                f"{placed[i].name} and {other.name} overlap, and each is split on its own: pixels held out "
                "in one may be training pixels in the other, and the score is optimistic. Put them into one "
                "folder and pass it as a single scene (a mosaic), or evaluate on other scenes"
            ]
    return []


def counts_per_block(scene: LabelledScene, block: int, classes: int) -> np.ndarray:
    """(rows, columns, K) labelled valid pixels per block and class."""
    whole = scene.scene.grid.window
    # Rounded up: blocks at the lower and right end are smaller, and count too.
    rows, columns = -(-whole.height // block), -(-whole.width // block)
    counts = np.zeros((rows, columns, classes), np.int64)
    # Several blocks a read: label files are compressed in strips of rows, and each read decodes whole strips.
    for band in Window(0, 0, whole.height, whole.width).blocks(max(block, 2048 // block * block)):
        indices = scene.read_labels(band)
        for window in Window(0, 0, band.height, band.width).blocks(block):
            r, c = (band.top + window.top) // block, (band.left + window.left) // block
            counts[r, c] = np.bincount(
                indices[window.inset_of(Window(0, 0, *band.shape))].ravel(), minlength=256
            )[:classes]
    return counts


def _splits_of_files(
    scenes: Sequence[LabelledScene], legend: Legend, shares: Mapping[str, float], split: Split, seed: int
) -> list[str | None]:
    """Each whole file to train, val or test: stratified by class as blocks are, or by chance."""
    counts = np.stack(
        [
            np.bincount(s.read_labels(s.scene.grid.window).ravel(), minlength=256)[: len(legend)]
            for s in scenes
        ]
    )
    # Files as a column of blocks of one pixel: the same stratification serves both.
    found = _cut(counts[:, None, :], 1, shares, split, seed)
    return [PARTS[int(p)] for p in found.parts[:, 0]]
