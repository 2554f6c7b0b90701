"""Shared by all published data sets: pairs of files, finding them, download addresses, and errors for missing
files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelscape.datasets.name_lists import named_in
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, UnknownName
from labelscape.labels.coded import Code, Reader
from labelscape.legend import Legend
from labelscape.scenes.files import RASTER_SUFFIXES, Source, rasters_below
from labelscape.text import some

RED_GREEN_BLUE = ("red", "green", "blue")
PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "training_data": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "test_data": "test",
}
"""Folder names, in lower case, and the split they stand for."""


@dataclass(frozen=True)
class Pair:
    """One image, a file or several, and its label file; None where none was published. `part` is its split:
    train, val or test. `asked` is the name that the benchmark wants for the prediction of an image without
    labels, where that is not the image's.
    """

    name: str
    image: Source
    label: Path | None
    part: str
    asked: str | None = None


@dataclass(frozen=True)
class Published:
    """A published data set found on disk.

    bands       names of the bands that are used, in order
    file_bands  names of all bands in an image's files, in file order
    padded      whether labels may be smaller than their image by up to two rows or columns
    reader      reads label files that GDAL cannot read
    notes       what matters for results: missing tiles, the origin of the split
    """

    name: str
    legend: Legend
    code: Code
    bands: tuple[str, ...]
    pairs: tuple[Pair, ...]
    file_bands: tuple[str, ...]
    padded: bool = False
    reader: Reader | None = None
    notes: tuple[str, ...] = ()

    def part(self, part: str) -> tuple[Pair, ...]:
        """The pairs of the split train, val or test. Raises UnknownName for another."""
        if part not in PARTS:
            raise UnknownName("part", part, PARTS)
        return tuple(p for p in self.pairs if p.part == part)


@dataclass(frozen=True)
class Home:
    """Where a published data set can be downloaded, and the folders and files it must have; both are part of
    error messages.
    """

    title: str
    """Its full name."""
    page: str
    """URL of its page."""
    download: str
    """What to download there."""
    tree: str
    """An example of its folders and files, one a line."""

    def not_found(self, root: Path, looked_for: str) -> BadFile:
        """The error (returned, not raised) for a folder `root` that lacks `looked_for`."""
        # A wrong path and an incomplete download need different cures.
        found = f"{root} {'does not exist' if not root.exists() else 'does not contain it completely'}"
        tree = "\n".join(f"    {line}" for line in self.tree.strip("\n").splitlines())
        return BadFile(
            f"{self.title} not found: {found}.\nLooked for: {looked_for}.\nDownload: {self.download}, from "
            f"{self.page}.\n"
            f"Unpack it so that it looks like\n{tree}"
        )

    def incomplete(self, root: Path, what: str, missing: Sequence[str]) -> BadFile:
        """The error (returned, not raised) for missing files of pairs; `what` names them: "label files"."""
        return BadFile(
            f"{self.title} in {root}: {len(missing)} {what} not found: {some(missing, 5)}. Was an archive "
            f"unpacked incompletely? Download: {self.page}."
        )


rasters = rasters_below


def keyed(files: Iterable[Path], pattern: str, home: Home) -> dict[str, Path]:
    """Files by the common part of image and label names: the group `key` of a regular expression that the
    whole name must match, ignoring case. Other files are skipped. Raises BadFile where two files have the
    same key.
    """
    found: dict[str, Path] = {}
    for file in files:
        matched = re.fullmatch(pattern, file.name, re.IGNORECASE)
        if matched:
            key = matched["key"]
            if key in found:
                raise BadFile(
                    f"{home.title}: {found[key]} and {file} are the same image or label, {key}. Pass a "
                    "folder "
                    "that contains the data set only once."
                )
            found[key] = file
    return found


def part_by_folder(file: Path, root: Path) -> str | None:
    """The split given by the nearest folder between `root` and the file, by its name or its ending
    (`land-train`); None where none does.
    """
    # From the file upwards, and never above `root`: a data set kept in /data/test/ is not all test.
    for folder in reversed(file.relative_to(root).parts[:-1]):
        for word in (folder.lower(), re.split(r"[-_ ]", folder.lower())[-1]):
            if word in PART_FOLDERS:
                return PART_FOLDERS[word]
    return None


def first_folder(*candidates: Path) -> Path | None:
    """The first of several folders that exists."""
    return next((folder for folder in candidates if folder.is_dir()), None)


def lines_of(file: Path, known: Mapping[str, object]) -> list[str]:
    """The names that a list gives, without folder and suffix; of a line with several columns the first that
    is in `known`. Raises BadFile where it is not text.
    """

    def bare(name: Path) -> str:
        return name.stem if name.suffix.lower() in RASTER_SUFFIXES else name.name

    return named_in(file, known, bare)


def seeded_parts(ids: Iterable[str], counts: Mapping[str, int], *, seed: int = 0) -> dict[str, str]:
    """The split of each id, by a seeded shuffle of the sorted ids.

    counts  split -> number in the publication; with fewer or more ids, the same proportions
    """
    # Sorted: file systems list in any order, and the split must be the same everywhere.
    names = sorted(ids)
    # Splits must be the same on every machine: of Python and NumPy, only random.random() guarantees the same
    # numbers in every version.
    rng = random.Random(seed)
    drawn = {name: rng.random() for name in names}
    # Cumulative, then rounded: the numbers always add up to all ids.
    ends = np.round(np.cumsum(list(counts.values())) * len(names) / sum(counts.values())).astype(int)
    part_of = {}
    for place, name in enumerate(sorted(names, key=drawn.__getitem__)):
        part_of[name] = list(counts)[int(np.searchsorted(ends, place, side="right"))]
    return part_of


def listed_pairs(root: Path, home: Home, *, lists: str = "auto") -> tuple[Pair, ...]:
    """Pairs of a folder with images/, labels/ and lists of names train.txt, val.txt, test.txt (those that
    exist), in it or in the folder `lists`. Raises BadFile where folders, listed files or all lists are
    missing.
    """
    image_folder, label_folder = (first_folder(root / n) for n in ("images", "labels"))
    place = root if lists == "auto" else Path(lists)
    listed = [part for part in PARTS if (place / f"{part}.txt").is_file()]
    if lists != "auto" and not listed:
        raise BadFile(
            f"{place} contains none of the lists train.txt, val.txt, test.txt (labelscape data split or "
            "resample writes them with --out)."
        )
    if image_folder is None or label_folder is None or not listed:
        raise home.not_found(root, "images/, labels/ and at least one of train.txt, val.txt, test.txt")
    pictures = {f.stem: f for f in rasters(image_folder)}
    masks = {f.stem: f for f in rasters(label_folder)}
    named = [(name, part) for part in listed for name in lines_of(place / f"{part}.txt", pictures)]
    for what, found, folder in (("images", pictures, image_folder), ("label files", masks, label_folder)):
        # A list names what belongs to the split: a file too few changes the score, and is an error.
        missing = [str(folder / name) for name, _ in named if name not in found]
        if missing:
            raise home.incomplete(root, what, missing)
    return tuple(Pair(name, pictures[name], masks[name], part) for name, part in named)


def matched_pairs(
    root: Path,
    home: Home,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    part_of: Callable[[str], str],
    *,
    expected: Callable[[str], str],
) -> tuple[Pair, ...]:
    """Pairs with equal keys, sorted by key. Raises BadFile for missing label files, under the names that
    `expected` gives them, and for labels without an image.
    """
    missing = [expected(key) for key in sorted(images) if key not in labels]
    if missing:
        raise home.incomplete(root, "label files", missing)
    # A label without an image means an incomplete download, which would pass for a smaller data set.
    missing = [str(labels[key]) for key in sorted(labels) if key not in images]
    if missing:
        raise home.incomplete(root, "images of these label files", missing)
    return tuple(Pair(key, images[key], labels[key], part_of(key)) for key in sorted(images))
