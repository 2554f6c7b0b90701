"""DeepGlobe 2018: land cover (803 labelled, 2448 x 2448) and roads (6226 labelled, 1024 x 1024), 0.5 m.

Masks were compressed lossily: each channel counts as 255 from 128 on, as the challenge's own text says.
"""

from __future__ import annotations

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
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

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
    refuse=False,
)
ROAD = Legend.of_names(["background", "road"])
ROAD_CODE = Code({0: 0, 255: 1}, threshold=128)

LAND_SPLIT = {"train": 600, "test": 203}
ROAD_SPLIT = {"train": 5000, "test": 1226}
NO_LIST = "The paper gives no list of its split: this one is a seeded shuffle of the sorted ids."


def open_deepglobe(root: Path, kind: str, *, seed: int = 0) -> Published:
    """DeepGlobe in the folder `root`; `kind` is "land" or "road". Raises BadFile where there are no pairs,
    or a mask is missing outside valid/ and test/.
    """
    home, legend, code, counts = (
        (LAND_HOME, LAND, LAND_CODE, LAND_SPLIT)
        if kind == "land"
        else (ROAD_HOME, ROAD, ROAD_CODE, ROAD_SPLIT)
    )
    other = "road" if kind == "land" else "land"
    files = [
        f
        for f in rasters(root)
        if not any(p.lower().startswith(other) for p in f.relative_to(root).parts[:-1])
    ]
    labels = keyed(files, r"(?P<key>.+)_mask\.\w+", home)
    found = keyed(files, r"(?P<key>.+)_sat\.\w+", home)
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
