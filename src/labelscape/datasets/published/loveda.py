"""LoveDA: 1024 x 1024 pictures at 0.3 m, rural and urban, seven classes."""

from __future__ import annotations

from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Published,
    matched_pairs,
    part_by_folder,
    rasters,
)
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

HOME = Home(
    "LoveDA",
    "https://zenodo.org/records/5706578",
    "Train.zip and Val.zip",
    """
Train/{Rural,Urban}/images_png/0.png    Train/{Rural,Urban}/masks_png/0.png
Val/...
or, packaged: img_dir/{train,val}/0.png, ann_dir/{train,val}/0.png""",
)
COLORS = {
    "background": (255, 255, 255),
    "building": (255, 0, 0),
    "road": (255, 255, 0),
    "water": (0, 0, 255),
    "barren": (159, 129, 183),
    "forest": (0, 255, 0),
    "agriculture": (255, 195, 128),
}
LEGEND = Legend.of_names(list(COLORS), values=range(1, 8), colors=list(COLORS.values()))
CODE = Code(
    {0: IGNORE, IGNORE: IGNORE, **{value: value - 1 for value in range(1, 8)}}
)  # 0 is nodata; background is a class
SIDES = {"images_png": "images", "img_dir": "images", "masks_png": "labels", "ann_dir": "labels"}


def open_loveda(root: Path) -> Published:
    """LoveDA in the folder `root`; images in no split's folder are "train". Raises BadFile where folders or
    label files are missing.
    """
    found: dict[str, dict[str, Path]] = {"images": {}, "labels": {}}
    for file in rasters(root):
        folders = file.relative_to(root).parts[:-1]
        side = next((SIDES[f] for f in folders if f in SIDES), None)
        if side is not None:
            # File numbers start again in each folder: the key is the whole path, without images_png or
            # masks_png.
            found[side]["_".join([*(f for f in folders if f not in SIDES), file.stem])] = file
    images = {
        key: f
        for key, f in found["images"].items()
        # Images of Test/ have no masks.
        if key in found["labels"] or part_by_folder(f, root) != "test"
    }
    if not images or not found["labels"]:
        raise HOME.not_found(root, "images_png/ and masks_png/ (or img_dir/ and ann_dir/)")
    pairs = matched_pairs(
        root,
        HOME,
        images,
        found["labels"],
        lambda key: part_by_folder(images[key], root) or "train",
        expected=lambda key: f"mask {key}.png",
    )
    return Published("loveda", LEGEND, CODE, RED_GREEN_BLUE, pairs, RED_GREEN_BLUE)
