"""A folder of image and label files: which belong together, and the train, val and test split given by the
folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labelscape.datasets.name_lists import parts_listed
from labelscape.datasets.name_pairs import constant_pairs
from labelscape.datasets.published.layout import PART_FOLDERS, part_by_folder
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, BadInput
from labelscape.scenes.files import RASTER_SUFFIXES, Source, rasters_below
from labelscape.scenes.vectors import VECTOR_SUFFIXES
from labelscape.text import some

SIDES = {
    "images": ("images", "image", "img_dir", "img", "imgs"),
    "labels": (
        *("labels", "label", "masks", "mask", "gt", "groundtruth", "annotations", "ann_dir"),
        *("msk", "msks"),
    ),
}
"""Folder names for the two sides of pairs."""
LISTS = (".txt", ".csv", ".tsv", ".lst")
"""Endings of lists of names."""
SPLIT_WORDS = {"train", "training", "trainval", "val", "valid", "validation", "test", "split", "splits"}
"""Words in the names of files that may hold a split."""
ENDINGS = ("_mask", "_label", "_labels", "_gt", "_sat", "_image", "_img")
"""Common endings of file names on one side of a pair, ignored when names are compared."""


ONLY_CASE = "images and labels are paired by names that differ in upper and lower case only"


@dataclass(frozen=True)
class GivenParts:
    """The split of every image as the folder gives it ("left out" for images in none of its lists), and a
    line for the report.
    """

    part_of: tuple[str, ...]
    report: str


@dataclass(frozen=True)
class Pairs:
    """Image and label files of one folder, one label for each image; `report` says where names differ."""

    images: list[Path]
    labels: list[Path]
    report: tuple[str, ...] = ()


def find_pairs(images: Sequence[Source]) -> tuple[list[Path], list[Path]]:
    """The image and label files of `pairs_of_folder`."""
    found = pairs_of_folder(images)
    return found.images, found.labels


def listed(given: str | Path | Sequence[Source]) -> Sequence[Source]:
    """A path by itself as a list of one: its letters are no files."""
    return [given] if isinstance(given, (str, os.PathLike)) else given


def pairs_of_folder(images: Sequence[Source]) -> Pairs:
    """Image and label files of one folder: `images/` beside `labels/` (or `masks/`, `gt/`, `annotations/`),
    or both in each of `train/`, `val/`, `test/`.

    Files are paired by their subfolder and name, without suffix and endings such as _mask; where the
    subfolders differ, by name alone; where the names do too, by the one constant difference that pairs all
    (`constant_pairs`). Raises BadInput naming the first image without a label, two files with the same name,
    or two such differences; BadFile where there are no images.
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
        else [
            f for f in sorted(root.iterdir()) if f.name.lower() in PART_FOLDERS and f.is_dir() and _sides(f)
        ]
    )
    if not homes:
        raise BadInput(
            f"{root} must contain the folders images/ and labels/ with files of the same names. Otherwise "
            "pass `labels` with the scenes, or `dataset` with the name of a published data set (see "
            "labelscape data list)."
        )
    found = [_pairs_below(_sides(home)) for home in homes]
    return Pairs(
        [image for one in found for image in one.images],
        [label for one in found for label in one.labels],
        tuple(line for one in found for line in one.report),
    )


def parts_given(folder: str | Path, images: Sequence[Path]) -> GivenParts | None:
    """The splits that a folder of pairs gives: by lists of names train.txt, val.txt, test.txt (or .csv, .tsv,
    .lst) in it, or by folders of these names above its files.

    None where it gives none, or where folders leave training or held-out images empty. Raises BadInput where
    the lists do, where they name what is no image, or an image twice; BadFile for a list that is not text.
    """
    folder = Path(folder)
    lists = {
        file: PART_FOLDERS[file.stem.lower()]
        for file in sorted(folder.iterdir())
        if _is_list(file) and file.stem.lower() in PART_FOLDERS
    }
    sides = [name for names in SIDES.values() for name in names]
    # Pascal's sets list both together; where they are listed each by itself, that says more.
    both = [f for f in sorted(folder.iterdir()) if _is_list(f) and f.stem.lower() == "trainval"]
    if lists and "train" not in lists.values():
        lists |= dict.fromkeys(both, "train")
    if lists:
        places = [
            (
                tuple(f for f in image.relative_to(folder).parts[:-1] if f.lower() not in sides),
                stem_of_pair(image),
            )
            for image in images
        ]
        part_of = [part or "left out" for part in parts_listed(lists, places, sides, stem_of_pair)]
        source = "its lists of names"
    else:
        # An image outside these folders is for training: held-out ones are set apart on purpose.
        part_of, source = [part_by_folder(image, folder) or "train" for image in images], "its folders"
    counts = Counter(part_of)
    if not counts["train"] or not counts["val"] + counts["test"]:
        if lists:
            missing = "val.txt or test.txt" if counts["train"] else "train.txt"
            raise BadInput(
                f"The lists {', '.join(file.name for file in lists)} in {folder} give no split: no image is "
                f"in {missing}. Add it, or pass `split='random'` to do without the lists."
            )
        # Folders called train alone, or test alone, are no split; the files are then split as asked.
        return None
    _check_links(images, part_of)
    shown = ", ".join(f"{counts[part]} {part}" for part in (*PARTS, "left out") if counts[part])
    return GivenParts(tuple(part_of), f"split given by {source}: {shown} (`split='random'` ignores it)")


def _is_list(file: Path) -> bool:
    return file.suffix.lower() in LISTS and file.is_file()


def _check_links(images: Sequence[Path], part_of: Sequence[str]) -> None:
    """Raises BadInput where one file is in two splits, by a link."""
    first: dict[tuple[int, int], tuple[Path, str]] = {}
    for image, part in zip(images, part_of):
        about = image.stat()
        other, its = first.setdefault((about.st_dev, about.st_ino), (image, part))
        if part not in (its, "left out") and its != "left out":
            raise BadInput(
                f"{image} ({part}) and {other} ({its}) are the same file, by a link: the score would be "
                "optimistic (data leakage). Keep it in one of them, or pass `split='random'` to do without "
                "this split."
            )


def split_unread(folder: str | Path) -> tuple[str, ...]:
    """A line on files of a folder without a given split whose names say that they hold one, in a form or a
    place that is not read.
    """
    sides, seen = {name for names in SIDES.values() for name in names}, []
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        # Two levels down, as `ImageSets/Segmentation` of the Pascal sets.
        deeper = depth < 2
        folders[:] = [f for f in sorted(folders) if deeper and f[0] != "." and f.lower() not in sides]
        seen += [
            str(Path(place, name).relative_to(folder))
            for name in sorted(names)
            if Path(name).suffix.lower() in (*LISTS, ".json", ".yaml", ".yml")
            and SPLIT_WORDS & {*re.split("[^a-z]+", Path(name).stem.lower())}
        ]
    if not seen:
        return ()
    return (
        f"{some(seen, 3)} in {folder} may hold a split and {'is' if len(seen) == 1 else 'are'} "
        "not read: lists are train.txt, val.txt and test.txt (or .csv) beside images/, a name per line",
    )


def _sides(folder: Path) -> dict[str, Path] | None:
    # The last of equal names in small letters, where a file system tells them apart.
    inside = {f.name.lower(): f for f in sorted(folder.iterdir()) if f.is_dir()}
    found = {side: next((inside[n] for n in names if n in inside), None) for side, names in SIDES.items()}
    return None if None in found.values() else found


def _pairs_below(sides: dict[str, Path]) -> Pairs:
    files = {side: rasters_below(d) for side, d in sides.items()}
    if not files["labels"]:
        files["labels"] = _polygons_below(sides["labels"])
    if not files["images"]:
        raise BadFile(f"{sides['images']} contains no images ({' '.join(sorted(RASTER_SUFFIXES))}).")
    report: tuple[str, ...] = ()
    keys = {
        side: [(f.relative_to(sides[side]).parts[:-1], stem_of_pair(f)) for f in found]
        for side, found in files.items()
    }
    # Images in img/a and labels in gt/b: the names alone must do, and are checked to be unique below.
    if not set(keys["images"]) <= set(keys["labels"]):
        by_name = {side: [((), stem) for _, stem in found] for side, found in keys.items()}
        folded = {side: [(f, stem.casefold()) for f, stem in found] for side, found in keys.items()}
        fitting = (one for one in (by_name, folded) if set(one["images"]) <= set(one["labels"]))
        if (other := next(fitting, None)) is None:
            return _pairs_by_difference(sides, files)
        keys, report = other, (ONLY_CASE,) if other is folded else ()
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
    paired = [labels[key] for key in keys["images"]]
    # An image that was not copied is missed by nobody else.
    used = set(paired)
    if left := [file for file in files["labels"] if file not in used]:
        report += (f"{len(left)} of the label files belong to no image, such as {left[0].name}",)
    return Pairs(files["images"], paired, report)


def _polygons_below(folder: Path) -> list[Path]:
    """Polygon files, one for each image, as data sets of building outlines have them; those of one format."""
    by_format: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in VECTOR_SUFFIXES and not file.name.startswith(".") and file.is_file():
            by_format.setdefault(file.suffix.lower(), []).append(file)
    return max(by_format.values(), key=len, default=[])


def _pairs_by_difference(sides: dict[str, Path], files: dict[str, list[Path]]) -> Pairs:
    """Pairs whose names differ in one constant way; raises BadInput where there is none, or more than one."""
    keys = {
        side: [(f.relative_to(sides[side]).parts[:-1], normalized(_bare(f))) for f in found]
        for side, found in files.items()
    }
    ways = constant_pairs(keys["images"], keys["labels"])
    if len(ways) > 1:
        first, second = (files["labels"][mapped[0]].name for mapped, _ in ways[:2])
        raise BadInput(
            f"The labels in {sides['labels']} can be paired with the images in {len(ways)} ways: "
            f"{files['images'][0].name} with {first} or with {second}. Keep one set of labels there."
        )
    if not ways:
        there = {stem_of_pair(file) for file in files["labels"]}
        unpaired = [file for file in files["images"] if stem_of_pair(file) not in there]
        raise BadInput(
            f"{unpaired[0]} has no label file of the same name in {sides['labels']} ({len(unpaired)} such "
            f"images; label files there: {', '.join(f.name for f in files['labels'][:3]) or 'none'}), nor do "
            "the names differ in one constant way that pairs all."
        )
    mapped, words = ways[0]
    left = len(files["labels"]) - len(mapped)
    unused = f"; {left} label file{'s' * (left > 1)} without an image" if left else ""
    report = f"images and labels are paired by names that differ in one way: {words}{unused}"
    return Pairs(files["images"], [files["labels"][n] for n in mapped], (report,))


def _bare(file: Path) -> str:
    # Names with dots and without a suffix, as in lists (`a.b`), keep all of their parts.
    return file.stem if file.suffix.lower() in RASTER_SUFFIXES | VECTOR_SUFFIXES else file.name


def normalized(name: str) -> str:
    """A name in one Unicode form: macOS stores accents in another one than everybody types."""
    return unicodedata.normalize("NFC", name)


def stem_of_pair(file: Path) -> str:
    """The name by which files of a pair find each other: without suffix and common endings."""
    stem = normalized(_bare(file))
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
