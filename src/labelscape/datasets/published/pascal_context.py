"""PASCAL Context: VOC 2010 pictures with 59 classes and background, 4998 train and 5105 val.

Two conversions are in use: (a) the original .mat files of 459 classes, (b) the PNG files others made from
trainval_merged.json, which number the classes in the order of their 459-ids. Both are read to one order of
classes, the published 59-class list, by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Pair,
    Published,
    first_folder,
    lines_of,
    rasters,
)
from labelscape.errors import BadFile, UnknownName
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

HOME = Home(
    "PASCAL Context",
    "https://cs.stanford.edu/~roozbeh/pascal-context/ and http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
    (
        "VOCtrainval_03-May-2010.tar, and trainval.tar.gz (459 classes, .mat) or PNG files made from "
        "trainval_merged.json"
    ),
    """
VOC2010/
  JPEGImages/2008_000002.jpg
  ImageSets/Main/{train,val}.txt                   (or ImageSets/SegmentationContext/)
  trainval/2008_000002.mat, labels.txt             (conversion a; may lie beside VOC2010)
  SegmentationClassContext/2008_000002.png         (conversion b)""",
)

# In the order of the published list of 59 classes, named as among the 459, with the place of each among the
# 459 (labels.txt counts from 1).
ID_459 = {
    "aeroplane": 2,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "bottle": 34,
    "bus": 45,
    "car": 59,
    "cat": 65,
    "chair": 72,
    "cow": 98,
    "table": 397,
    "dog": 113,
    "horse": 207,
    "motorbike": 258,
    "person": 284,
    "pottedplant": 308,
    "sheep": 347,
    "sofa": 368,
    "train": 416,
    "tvmonitor": 427,
    "bag": 9,
    "bed": 18,
    "bench": 22,
    "book": 33,
    "building": 44,
    "cabinet": 46,
    "ceiling": 68,
    "cloth": 80,
    "computer": 85,
    "cup": 104,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "keyboard": 220,
    "light": 232,
    "mountain": 259,
    "mouse": 260,
    "curtain": 105,
    "platform": 296,
    "sign": 355,
    "plate": 295,
    "road": 324,
    "rock": 326,
    "shelves": 349,
    "sidewalk": 354,
    "sky": 360,
    "snow": 366,
    "bedclothes": 19,
    "track": 415,
    "tree": 420,
    "truck": 424,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
NAMES = tuple(ID_459)
RENAMED = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Names of the 59-class list -> names among the 459."""


def legend_of(classes: int) -> Legend:
    """59 or 60 classes; the first of 60 is background. Values are those of the 59-class list, 0 the
    background.
    """
    return Legend.of_names(
        (["background"] if classes == 60 else []) + list(NAMES), values=range(60 - classes, 60)
    )


def code_of_459(classes: int, ids: dict[str, int] = ID_459) -> Code:
    """Conversion (a): values of a .mat LabelMap -> class indices. All other of the 459 are background."""
    first = classes - 59
    background = 0 if classes == 60 else IGNORE
    return Code(
        {
            # 0 to 459 all known: any other value is damage, not background.
            **{value: background for value in range(460)},
            **{ids[name]: first + k for k, name in enumerate(NAMES)},
        }
    )


def code_of_png(classes: int) -> Code:
    """Conversion (b): values 0..59 in the order of the 459-ids, 0 background -> class indices."""
    first = classes - 59
    by_id = sorted(NAMES, key=ID_459.__getitem__)
    background = 0 if classes == 60 else IGNORE
    return Code(
        {
            0: background,
            **{1 + place: first + NAMES.index(name) for place, name in enumerate(by_id)},
            IGNORE: IGNORE,
        }
    )


def ids_of(labels_txt: Path) -> dict[str, int]:
    """Name -> value from a labels.txt (`397: table`). Raises BadFile where one of the 59 is not in it."""
    found = {}
    for line in labels_txt.read_text(encoding="utf-8").splitlines():
        number, colon, name = line.partition(":")
        if colon and number.strip().isdigit():
            name = name.replace(" ", "").strip()
            found[RENAMED.get(name, name)] = int(number)
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise BadFile(
            f"{labels_txt} has no {', '.join(missing[:5])}: it is not the list of 459 classes of PASCAL "
            "Context."
        )
    return found


def read_mat(file: Path) -> np.ndarray:
    """(H, W) LabelMap of a .mat file. Raises BadFile where it has none or cannot be read."""
    import scipy.io

    try:
        return np.asarray(scipy.io.loadmat(file)["LabelMap"])
    # MATLAB 7.3 files are HDF5, which SciPy refuses with NotImplementedError.
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError) as error:
        raise BadFile(
            f"{file} is not a label file of PASCAL Context (a MATLAB file with LabelMap): {error}."
        ) from error


def open_pascal_context(root: Path, classes: int, *, labels: str = "auto") -> Published:
    """PASCAL Context with 59 or 60 classes; `labels` is "mat" (conversion a), "png" (b), or "auto": mat if it
    exists.

    Raises BadFile where images, lists or label files are missing, UnknownName for another value of `labels`.
    """
    if labels not in ("auto", "mat", "png"):
        raise UnknownName("kind of PASCAL Context labels", labels, ("auto", "mat", "png"))
    # The archive unpacks to VOCdevkit/VOC2010; users pass any of the three.
    base = first_folder(
        *(f for f in (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010") if (f / "JPEGImages").is_dir())
    )
    if base is None:
        raise HOME.not_found(root, "JPEGImages/")
    folders = dict.fromkeys([root, base, base.parent, base.parent.parent, root / "context", base / "context"])
    mats = first_folder(*(f / "trainval" for f in folders)) if labels in ("auto", "mat") else None
    pngs = (
        first_folder(*(f / "SegmentationClassContext" for f in folders))
        if labels in ("auto", "png")
        else None
    )
    if mats is None and pngs is None:
        if any((f / "trainval_merged.json").is_file() for f in folders):
            raise BadFile(
                f"{root} has only trainval_merged.json. Create SegmentationClassContext/*.png from it "
                "with the "
                "Detail API, or download the .mat files of 459 classes."
            )
        raise HOME.not_found(root, "trainval/*.mat or SegmentationClassContext/*.png")
    if mats is not None:
        names = next((f / "labels.txt" for f in (mats, mats.parent) if (f / "labels.txt").is_file()), None)
        # The folder's own list where there is one; ID_459 is that of the published archive.
        code = code_of_459(classes, ids_of(names) if names else ID_459)
        found = {f.stem: f for f in mats.glob("*.mat")}
    else:
        code, found = code_of_png(classes), {f.stem: f for f in rasters(pngs)}
    pairs = _listed(
        root, base, found, "trainval/%s.mat" if mats is not None else "SegmentationClassContext/%s.png"
    )
    return Published(
        f"pascal-context-{classes}",
        legend_of(classes),
        code,
        RED_GREEN_BLUE,
        pairs,
        RED_GREEN_BLUE,
        reader=read_mat if mats is not None else None,
    )


def _listed(root: Path, base: Path, labels: dict[str, Path], called: str) -> tuple[Pair, ...]:
    lists = first_folder(base / "ImageSets" / "SegmentationContext", base / "ImageSets" / "Main")
    if lists is None or not all((lists / f"{part}.txt").is_file() for part in ("train", "val")):
        raise HOME.not_found(root, "ImageSets/Main/train.txt and val.txt")
    # Listed once instead of asking for each of 10,103 files.
    images = {f.stem: f for f in (base / "JPEGImages").iterdir() if f.suffix.lower() == ".jpg"}
    named = [(name, part) for part in ("train", "val") for name in lines_of(lists / f"{part}.txt", images)]
    for what, there, like in (("pictures", images, "JPEGImages/%s.jpg"), ("label files", labels, called)):
        missing = [like % name for name, _ in named if name not in there]
        if missing:
            raise HOME.incomplete(root, what, missing)
    return tuple(Pair(name, images[name], labels[name], part) for name, part in named)
