"""DeepGlobe 2018: land cover (803 labelled, 2448 x 2448) and roads (6226 labelled, 1024 x 1024), 0.5 m.

Masks were compressed lossily: each channel counts as 255 from 128 on, as the challenge's own text says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Published,
    keyed,
    matched_pairs,
    part_by_folder,
    rasters,
    seeded_parts,
)
from labelscape.errors import BadFile
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import reading

PAGE = "http://deepglobe.org/challenge.html (CodaLab: land cover 18468, roads 18467)"
TREE = """
{name}-train/100694_sat.jpg, {name}-train/100694_mask.png, ...
{name}-valid/..., {name}-test/... (without masks, not used)
or, as mirrors have it:
data/training_data/images/100694_sat.jpg
data/training_data/masks/100694_mask.png"""
LAND_HOME = Home("DeepGlobe land cover", PAGE, "land-train.zip", TREE.format(name="land"))
ROAD_HOME = Home("DeepGlobe roads", PAGE, "road-train.zip", TREE.format(name="road"))

COLORS = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
}
LAND = Legend.of_names(list(COLORS), colors=list(COLORS.values()))
LAND_CODE = Code(
    {**{color: index for index, color in enumerate(COLORS.values())}, (0, 0, 0): IGNORE},
    threshold=128,
    # Blurred edges of masks give colours that no class has, such as (255, 0, 0): such pixels are unlabelled.
    refuse=False,
)
ROAD = Legend.of_names(["background", "road"])
ROAD_CODE = Code({0: 0, 255: 1}, threshold=128)

LAND_SPLIT = {"train": 600, "test": 203}
ROAD_SPLIT = {"train": 5000, "test": 1226}
NO_LIST = "The paper gives no list of its split: this one is a seeded shuffle of the sorted ids."


def open_deepglobe(root: Path, kind: str, *, seed: int = 0) -> Published:
    """DeepGlobe in the folder `root`; `kind` is "land" or "road". Raises BadFile where there are no pairs, a
    mask is missing outside valid/ and test/, or files of both tasks cannot be told apart.
    """
    home, legend, code, counts = (
        (LAND_HOME, LAND, LAND_CODE, LAND_SPLIT)
        if kind == "land"
        else (ROAD_HOME, ROAD, ROAD_CODE, ROAD_SPLIT)
    )
    files = [file for file in rasters(root) if _task_of(file, root) in (kind, None)]
    _refuse_both_tasks(files, root, kind, home)
    labels = keyed(files, r"(?P<key>.+)_mask\.\w+", home)
    found = keyed(files, r"(?P<key>.+)_sat\.\w+", home)
    # Images of valid/ and test/ were published without masks: they are left out and are no error.
    images = {
        key: f for key, f in found.items() if key in labels or part_by_folder(f, root) not in ("val", "test")
    }
    if not images or not labels:
        raise home.not_found(root, "ID_sat.jpg and ID_mask.png")
    part_of = seeded_parts(images, counts, seed=seed)
    pairs = matched_pairs(
        root, home, images, labels, part_of.__getitem__, expected=lambda key: f"{key}_mask.png"
    )
    return Published(
        f"deepglobe-{kind}", legend, code, RED_GREEN_BLUE, pairs, RED_GREEN_BLUE, notes=(NO_LIST,)
    )


def _task_of(file: Path, root: Path) -> str | None:
    """land or road, where a folder between `root` and the file has that word in its name (`road-train`,
    `deepglobe-road`); None where none has.
    """
    # The nearest folder decides: `deepglobe-land/road-train` is of roads.
    for folder in reversed(file.relative_to(root).parts[:-1]):
        words = re.split(r"[^a-z]+", folder.lower())
        for kind in ("land", "road"):
            # Whole words: `island` is no land cover.
            if any(word in (kind, f"{kind}s", f"{kind}cover") for word in words):
                return kind
    return None


def _refuse_both_tasks(files: Sequence[Path], root: Path, kind: str, home: Home) -> None:
    """Raises BadFile where folders that do not name their task hold images of different sizes: land images
    are 2448 pixels wide, road images 1024, and the masks of the one are nonsense as masks of the other.
    """
    folders: dict[Path, Path] = {}
    for file in files:
        if re.fullmatch(r".+_sat\.\w+", file.name, re.IGNORECASE):
            folders.setdefault(file.parent, file)
    if len(folders) < 2 or all(_task_of(file, root) == kind for file in folders.values()):
        return
    sizes = {}
    for folder, file in folders.items():  # one header of each folder: reading all would take minutes
        with reading(file) as image:
            sizes.setdefault(image.width, folder)
    if len(sizes) > 1:
        shown = ", ".join(f"{folder} ({width} pixels wide)" for width, folder in sizes.items())
        raise BadFile(
            f"{home.title} in {root}: images of several sizes were found: {shown}. Do files of both tasks, "
            f"land cover and roads, lie here? Pass the folder of one, or call its folder {kind}-train."
        )
