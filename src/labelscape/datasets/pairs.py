"""A folder of image and label files: which belong together, and the train, val and test split given by the
folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labelscape.datasets.published.layout import PART_FOLDERS, lines_of, part_by_folder
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, BadInput
from labelscape.scenes.files import RASTER_SUFFIXES, Source

SIDES = {
    "images": ("images", "image", "img_dir", "img"),
    "labels": ("labels", "label", "masks", "mask", "gt", "groundtruth", "annotations", "ann_dir"),
}
"""Folder names for the two sides of pairs."""
ENDINGS = ("_mask", "_label", "_labels", "_gt", "_sat", "_image", "_img")
"""Common endings of file names on one side of a pair, ignored when names are compared."""


@dataclass(frozen=True)
class GivenParts:
    """The split of every image as the folder gives it ("left out" for images in none of its lists), and a
    line for the report.
    """

    part_of: tuple[str, ...]
    report: str


def find_pairs(images: Sequence[Source]) -> tuple[list[Path], list[Path]]:
    """Image and label files of one folder: `images/` beside `labels/` (or `masks/`, `gt/`, `annotations/`),
    or both in each of `train/`, `val/`, `test/`.

    Files are paired by their subfolder and name, without suffix and endings such as _mask; where the
    subfolders differ, by name alone. Raises BadInput naming the first image without a label, or two files
    with the same name; BadFile where there are no images.
    """
    if len(images) != 1 or not isinstance(images[0], (str, Path)) or not Path(images[0]).is_dir():
        raise BadInput(
            "Labels are missing: pass `labels` with the scenes, or a single folder that contains "
            "images/ "
            "and labels/."
        )
    root = Path(images[0])
    homes = (
        [root]
        if _sides(root)
        # Sorted: the order of files decides what a seeded split holds out, and file systems list in any
        # order.
        else [f for f in sorted(root.iterdir()) if f.name.lower() in PART_FOLDERS and _sides(f)]
    )
    if not homes:
        raise BadInput(
            f"{root} must contain the folders images/ and labels/ with files of the same names. Otherwise "
            "pass `labels` with the scenes, or `dataset` with the name of a published data set (see "
            "labelscape data list)."
        )
    pairs = [pair for home in homes for pair in _pairs_below(_sides(home))]
    return [image for image, _ in pairs], [label for _, label in pairs]


def parts_given(folder: str | Path, images: Sequence[Path]) -> GivenParts | None:
    """The splits that a folder of pairs gives: by lists of names train.txt, val.txt, test.txt in it, or by
    folders of these names above its files.

    None where it gives none, or where one of training and held-out images would be empty. Raises BadFile for
    a list that is not text.
    """
    folder = Path(folder)
    lists = {part: folder / f"{part}.txt" for part in PARTS if (folder / f"{part}.txt").is_file()}
    if lists:
        # Lists name files with or without suffix and ending.
        listed = {_stem(Path(name)): part for part, file in lists.items() for name in lines_of(file)}
        part_of, source = [listed.get(_stem(image), "left out") for image in images], "its lists of names"
    else:
        # An image outside these folders is for training: held-out ones are set apart on purpose.
        part_of, source = [part_by_folder(image, folder) or "train" for image in images], "its folders"
    counts = Counter(part_of)
    # Folders called train alone, or test alone, are no split; the blocks or files are then split as asked.
    if not counts["train"] or not counts["val"] + counts["test"]:
        return None
    shown = ", ".join(f"{counts[part]} {part}" for part in (*PARTS, "left out") if counts[part])
    return GivenParts(tuple(part_of), f"split given by {source}: {shown} (`split='random'` ignores it)")


def _sides(folder: Path) -> dict[str, Path] | None:
    found = {
        side: next((folder / n for n in names if (folder / n).is_dir()), None)
        for side, names in SIDES.items()
    }
    return None if None in found.values() else found


def _pairs_below(sides: dict[str, Path]) -> list[tuple[Path, Path]]:
    files = {
        side: [f for f in sorted(d.rglob("*")) if f.suffix.lower() in RASTER_SUFFIXES]
        for side, d in sides.items()
    }
    if not files["images"]:
        raise BadFile(f"{sides['images']} contains no images ({' '.join(sorted(RASTER_SUFFIXES))}).")
    keys = {
        side: [(f.relative_to(sides[side]).parts[:-1], _stem(f)) for f in found]
        for side, found in files.items()
    }
    # Images in img/a and labels in gt/b: the names alone must do, and are checked to be unique below.
    if not set(keys["images"]) <= set(keys["labels"]):
        keys = {side: [((), stem) for _, stem in found] for side, found in keys.items()}
    for side, found in keys.items():
        first: dict[object, Path] = {}
        for key, file in zip(found, files[side]):
            # Labels that no image asks for may repeat: they are never read.
            if key in first and (side == "images" or key in keys["images"]):
                raise BadInput(
                    f"{first[key]} and {file} have the same name, so their pair is ambiguous. Rename or "
                    "remove one of them."
                )
            first[key] = file
    labels = dict(zip(keys["labels"], files["labels"]))
    unpaired = [file for key, file in zip(keys["images"], files["images"]) if key not in labels]
    if unpaired:
        raise BadInput(
            f"{unpaired[0]} has no label file of the same name in {sides['labels']} ({len(unpaired)} such "
            "images)."
        )
    return [(file, labels[key]) for key, file in zip(keys["images"], files["images"])]


def _stem(file: Path) -> str:
    # Names with dots and without a suffix, as in lists (`a.b`), keep all of their parts.
    stem = file.stem if file.suffix.lower() in RASTER_SUFFIXES else file.name
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
