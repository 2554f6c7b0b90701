"""Cityscapes: 2048 x 1024 street scenes, 2975/500/1525, nineteen of thirty-four classes are scored.

The legend's values are the label ids, so a finished map is in the benchmark's format, ready for submission.
"""

from __future__ import annotations

from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Pair,
    Published,
    keyed,
    part_by_folder,
    rasters,
)
from labelscape.errors import UnknownName
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, LandClass, Legend

HOME = Home(
    "Cityscapes",
    "https://www.cityscapes-dataset.com/downloads/",
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
    """
leftImg8bit/{train,val,test}/CITY/CITY_000000_000294_leftImg8bit.png
gtFine/{train,val,test}/CITY/CITY_000000_000294_gtFine_labelIds.png
                             (or ..._gtFine_labelTrainIds.png)""",
)

LEGEND = Legend(
    (
        LandClass(7, "road", (128, 64, 128)),
        LandClass(8, "sidewalk", (244, 35, 232)),
        LandClass(11, "building", (70, 70, 70)),
        LandClass(12, "wall", (102, 102, 156)),
        LandClass(13, "fence", (190, 153, 153)),
        LandClass(17, "pole", (153, 153, 153)),
        LandClass(19, "traffic light", (250, 170, 30)),
        LandClass(20, "traffic sign", (220, 220, 0)),
        LandClass(21, "vegetation", (107, 142, 35)),
        LandClass(22, "terrain", (152, 251, 152)),
        LandClass(23, "sky", (70, 130, 180)),
        LandClass(24, "person", (220, 20, 60)),
        LandClass(25, "rider", (255, 0, 0)),
        LandClass(26, "car", (0, 0, 142)),
        LandClass(27, "truck", (0, 0, 70)),
        LandClass(28, "bus", (0, 60, 100)),
        LandClass(31, "train", (0, 80, 100)),
        LandClass(32, "motorcycle", (0, 0, 230)),
        LandClass(33, "bicycle", (119, 11, 32)),
    )
)
LABEL_IDS = tuple(LEGEND.values)
"""Train id (index in the tuple) -> label id."""

UNSCORED = tuple(i for i in range(34) if i not in LABEL_IDS)
IDS_CODE = Code(
    {
        **{i: IGNORE for i in UNSCORED},
        **{label: train for train, label in enumerate(LABEL_IDS)},
        255: IGNORE,
        -1: IGNORE,
    }
)  # 255: -1 in uint8
TRAIN_IDS_CODE = Code({**{i: i for i in range(19)}, 255: IGNORE})


def open_cityscapes(root: Path, *, labels: str = "auto") -> Published:
    """Cityscapes in the folder `root`.

    labels  "ids" reads ..._labelIds.png, "train-ids" ..._labelTrainIds.png, "auto" the first that is complete

    Images of the test split may have no labels: the benchmark keeps them. Raises BadFile where folders or
    label files are missing, UnknownName for another value of `labels`.
    """
    if labels not in ("auto", "ids", "train-ids"):
        raise UnknownName("kind of Cityscapes labels", labels, ("auto", "ids", "train-ids"))
    images = keyed(rasters(root / "leftImg8bit"), r"(?P<key>.+_\d{6}_\d{6})_leftImg8bit\.png", HOME)
    if not images or not (root / "gtFine").is_dir():
        raise HOME.not_found(root, "leftImg8bit/PART/CITY/*_leftImg8bit.png and gtFine/")
    # The split is that of leftImg8bit: its folders name it.
    part_of = {key: part_by_folder(file, root) or "train" for key, file in images.items()}
    masks = rasters(root / "gtFine")
    kinds = {"ids": ("labelIds", IDS_CODE), "train-ids": ("labelTrainIds", TRAIN_IDS_CODE)}
    lacking: dict[str, list[str]] = {}
    # Label ids first: the archives hold them, train ids are made by the benchmark's scripts.
    for kind in kinds if labels == "auto" else (labels,):
        ending, code = kinds[kind]
        found = keyed(masks, rf"(?P<key>.+_\d{{6}}_\d{{6}})_gtFine_{ending}\.png", HOME)
        lacking[kind] = [
            f"gtFine/{part_of[k]}/{k.split('_')[0]}/{k}_gtFine_{ending}.png"
            for k in sorted(images)
            # The benchmark keeps the labels of its test split.
            if k not in found and part_of[k] != "test"
        ]
        if not lacking[kind]:
            pairs = tuple(Pair(key, images[key], found.get(key), part_of[key]) for key in sorted(images))
            return Published(
                "cityscapes",
                LEGEND,
                code,
                RED_GREEN_BLUE,
                pairs,
                RED_GREEN_BLUE,
                notes=(f"Labels: {ending}.",),
            )
    # The kind with fewest files missing is the one the user has.
    raise HOME.incomplete(root, "label files", min(lacking.values(), key=len))
