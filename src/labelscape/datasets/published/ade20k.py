"""ADE20K SceneParsing (the challenge of 2016): 150 classes, 20,210/2,000 pictures of many sizes."""

from __future__ import annotations

from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Pair,
    Published,
    keyed,
    matched_pairs,
    rasters,
)
from labelscape.errors import BadFile
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

HOME = Home(
    "ADE20K SceneParsing",
    "http://sceneparsing.csail.mit.edu/",
    "ADEChallengeData2016.zip",
    """
ADEChallengeData2016/
  images/training/ADE_train_00000001.jpg         images/validation/ADE_val_00000001.jpg
  annotations/training/ADE_train_00000001.png    annotations/validation/ADE_val_00000001.png""",
)

# In the order of the challenge's objectInfo150.txt, the first name of each. Values in label files
# count from 1: 1 is wall.
NAMES = (
    "wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth door "
    "table mountain plant curtain chair car water "
    "painting sofa shelf house sea mirror rug field armchair seat fence desk rock wardrobe lamp bathtub "
    "railing cushion base box column signboard "
    "chest_of_drawers counter sand sink skyscraper fireplace refrigerator grandstand path stairs runway "
    "case pool_table pillow screen_door stairway river "
    "bridge bookcase blind coffee_table toilet flower book hill bench countertop stove palm kitchen_island "
    "computer swivel_chair boat bar arcade_machine "
    "hovel bus towel light truck tower chandelier awning streetlight booth television airplane dirt_track "
    "apparel pole land bannister escalator ottoman "
    "bottle buffet poster stage van ship fountain conveyer_belt canopy washer plaything swimming_pool stool "
    "barrel basket waterfall tent bag minibike "
    "cradle oven ball food step tank trade_name microwave pot animal bicycle lake dishwasher screen blanket "
    "sculpture hood sconce vase traffic_light tray "
    "ashcan fan pier crt_screen plate monitor bulletin_board shower radiator glass clock flag"
)
LEGEND = Legend.of_names([name.replace("_", " ") for name in NAMES.split()], values=range(1, 151))
CODE = Code({0: IGNORE, **{value: value - 1 for value in range(1, 151)}})  # 0 is "other": not scored


def open_ade20k(root: Path) -> Published:
    """SceneParsing in the folder `root`. Raises BadFile where folders or annotations are missing, and for the
    full ADE20K, whose label files have another format.
    """
    if (root / "ADEChallengeData2016").is_dir():
        root = root / "ADEChallengeData2016"
    pairs: list[Pair] = []
    for folder, part in (("training", "train"), ("validation", "val")):
        images = keyed(rasters(root / "images" / folder), r"(?P<key>ADE_(train|val)_\d{8})\.jpg", HOME)
        labels = keyed(rasters(root / "annotations" / folder), r"(?P<key>ADE_(train|val)_\d{8})\.png", HOME)
        if not images or not labels:
            # The full set has the same name and other labels; people download the one for the other.
            if root.is_dir() and next(root.rglob("ADE_*_seg.png"), None):
                raise BadFile(
                    f"{root} is the full ADE20K (files ..._seg.png with thousands of object names). The "
                    "papers use its 150-class SceneParsing "
                    f"version: {HOME.download}, from {HOME.page}."
                )
            raise HOME.not_found(root, f"images/{folder}/*.jpg and annotations/{folder}/*.png")
        pairs += matched_pairs(
            root,
            HOME,
            images,
            labels,
            lambda _, part=part: part,
            expected=lambda key, folder=folder: f"annotations/{folder}/{key}.png",
        )
    return Published("ade20k", LEGEND, CODE, RED_GREEN_BLUE, tuple(pairs), RED_GREEN_BLUE)
