"""Inria Aerial Image Labeling: buildings in five cities, 36 tiles of 5000 x 5000 each, 0.3 m."""

from __future__ import annotations

import re
from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Published,
    keyed,
    matched_pairs,
    rasters,
)
from labelscape.labels.coded import Code
from labelscape.legend import Legend

HOME = Home(
    "Inria Aerial Image Labeling",
    "https://project.inria.fr/aerialimagelabeling/",
    "AerialImageDataset",
    """
AerialImageDataset/
  train/images/austin1.tif ... vienna36.tif
  train/gt/austin1.tif ... vienna36.tif
  test/images/... (without labels, not used)""",
)
CITIES = ("austin", "chicago", "kitsap", "tyrol-w", "vienna")
HELD_OUT = range(1, 6)
"""The authors hold out tiles 1 to 5 of each city for validation."""

LEGEND = Legend.of_names(["background", "building"])
CODE = Code({0: 0, 255: 1})
NAME = rf"(?P<key>(?:{'|'.join(CITIES)})\d+(?:_\w+)?)\.\w+"


def open_inria(root: Path) -> Published:
    """Inria tiles, or patches of them called TILE_SOMETHING, in the folder `root`. Raises BadFile where
    folders, images or labels are missing.
    """
    files = rasters(root)
    folders = {f: f.relative_to(root).parts[:-1] for f in files}
    # Images of test/ have no labels.
    images = keyed((f for f in files if "images" in folders[f] and "test" not in folders[f]), NAME, HOME)
    labels = keyed((f for f in files if "gt" in folders[f]), NAME, HOME)
    if not images or not labels:
        raise HOME.not_found(root, "images/CITY1.tif and gt/CITY1.tif")
    pairs = matched_pairs(root, HOME, images, labels, part_of_tile, expected=lambda key: f"gt/{key}.tif")
    return Published("inria", LEGEND, CODE, RED_GREEN_BLUE, pairs, RED_GREEN_BLUE)


def part_of_tile(name: str) -> str:
    """`austin1` or its patch `austin1_12` -> val, `austin6` -> train."""
    # The first number: patches add more of them after the tile's.
    number = int(re.match(r"\D+(\d+)", name)[1])
    return "val" if number in HELD_OUT else "train"
