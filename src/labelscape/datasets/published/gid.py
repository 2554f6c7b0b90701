"""GID: 150 Gaofen-2 scenes of 6800 x 7200 at 4 m, 5 or 15 classes; as whole scenes or repackaged as img_dir/
and ann_dir/.

The scenes are distributed in three forms: 8-bit RGB, 8-bit NirRGB, 16-bit with four bands. The form is
detected from the files. No official list of the papers' 120/30 scenes is known; `split_gid` makes a seeded
one by whole scenes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from labelscape.datasets.published.layout import (
    RED_GREEN_BLUE,
    Home,
    Published,
    listed_pairs,
    matched_pairs,
    part_by_folder,
    rasters,
    seeded_parts,
)
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.grid import Window
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import reading

HOME = Home(
    "GID",
    "https://x-ytong.github.io/project/GID.html",
    "Large-scale Classification (5 classes) or Fine Land-cover Classification (15 classes)",
    """
Large-scale Classification_5classes/
  image_RGB/GF2_PMS1__L1A0000564539-MSS1.tif  (or image_NirRGB/)
  label_5classes/GF2_PMS1__L1A0000564539-MSS1_label.tif
Fine Land-cover Classification_15classes/ likewise, label_15classes/..._15label.tif
or, packaged: img_dir/{train,val,test}/NAME.tif, ann_dir/{train,val,test}/NAME_15label.png""",
)
MTL5_HOME = Home(
    "GID patches of 224 pixels",
    HOME.page,
    "patches cut by others",
    "\nimages/NAME.jpg\nlabels/NAME.png\ntrain.txt, val.txt, test.txt",
)

COLORS_5 = {
    "built-up": (255, 0, 0),
    "farmland": (0, 255, 0),
    "forest": (0, 255, 255),
    "meadow": (255, 255, 0),
    "water": (0, 0, 255),
}
COLORS_15 = {
    "industrial land": (200, 0, 0),
    "urban residential": (250, 0, 150),
    "rural residential": (200, 150, 150),
    "traffic land": (250, 150, 150),
    "paddy field": (0, 200, 0),
    "irrigated land": (150, 250, 0),
    "dry cropland": (150, 200, 150),
    "garden plot": (200, 0, 200),
    "arbor woodland": (150, 0, 250),
    "shrub land": (150, 150, 250),
    "natural grassland": (250, 200, 0),
    "artificial grassland": (200, 200, 0),
    "river": (0, 0, 200),
    "lake": (0, 150, 200),
    "pond": (0, 200, 250),
}
LEGENDS = {
    classes: Legend.of_names(list(colors), colors=list(colors.values()))
    for classes, colors in ((5, COLORS_5), (15, COLORS_15))
}

KINDS = {"rgb": (3, "uint8"), "nirrgb": (4, "uint8"), "16bit": (4, "uint16")}
"""Band count and type of the three forms, in order of preference."""
SATELLITE_BANDS = ("blue", "green", "red", "nir")
NO_LIST = (
    "No official list of the 120 training and 30 test scenes is known: this one is a seeded shuffle of the "
    "sorted names, by whole scenes."
)
GRIDS = ("floor", "ceil", "cut", "188")
LABEL_ENDING = re.compile(r"_(\d*)label$", re.IGNORECASE)


def split_gid(names: Iterable[str], *, seed: int = 0) -> dict[str, str]:
    """Scene name -> train or test, 120 and 30 of 150. See `NO_LIST`."""
    return seeded_parts(names, {"train": 120, "test": 30}, seed=seed)


def open_gid(
    root: Path,
    classes: int,
    *,
    images: str = "auto",
    bands: Sequence[str] | None = None,
    seed: int = 0,
    first_value: int = 1,
) -> Published:
    """Scenes or repackaged patches with 5 or 15 classes, in the folder `root`.

    images       "rgb", "nirrgb", "16bit", or "auto": the first of these that exists
    bands        names of the file's bands, where the folder's name does not give them
    first_value  value of the first class in label files with class values instead of colours; 0 is background
                 unless it is the first class

    Raises BadFile where files are missing or are patches with lists, UnknownName for other `images`.
    """
    if images not in (*KINDS, "auto"):
        raise UnknownName("kind of GID images", images, (*KINDS, "auto"))
    _refuse_patches(root)
    labels, by_folder = _sorted_files(root, classes)
    if not labels or not by_folder:
        raise HOME.not_found(
            root, f"scenes GF2_*.tif and labels of {classes} classes (*_label.tif, *_{classes}label.*)"
        )
    pictures, kind = _of_kind(root, by_folder, images)
    names = tuple(bands) if bands is not None else _bands_of(next(iter(pictures.values())), kind)
    folders = {key: part_by_folder(file, root) for key, file in pictures.items()}
    # Only where every image lies in a split's folder; otherwise our seeded split of whole scenes.
    packaged = None not in folders.values()
    part_of = folders if packaged else split_gid(pictures, seed=seed)
    pairs = matched_pairs(
        root, HOME, pictures, labels, part_of.__getitem__, expected=lambda key: f"{key}_label.tif"
    )
    # The first label stands for all: the files of one package are written alike.
    code = code_of(pairs[0].label, classes, first_value)
    return Published(
        f"gid-{classes}", LEGENDS[classes], code, names, pairs, names, notes=() if packaged else (NO_LIST,)
    )


def _refuse_patches(root: Path) -> None:
    """Raises BadFile for patches with lists of names. Class values of repackaged patches may start at 0: read
    as 1 to 5, every class would be another one.
    """
    if any((root / f"{part}.txt").is_file() for part in PARTS) and not any(root.rglob("*label.*")):
        raise BadFile(
            f"{root} has patches with lists of names, not the scenes of GID or their img_dir/ann_dir "
            "form. Read them as the data set gid-mtl5 (five classes from 0) or prepared (made by labelscape "
            "data prepare), or as a folder of pairs without `dataset`."
        )


def _sorted_files(root: Path, classes: int) -> tuple[dict[str, Path], dict[Path, dict[str, Path]]]:
    """The labels of this number of classes by scene name, and the images by folder and name."""
    labels: dict[str, Path] = {}
    by_folder: dict[Path, dict[str, Path]] = {}
    for file in rasters(root):
        # Labels are known by their ending, or by their folder where repackaged files lost it.
        ending = LABEL_ENDING.search(file.stem)
        if ending or any(
            p.lower() in ("ann_dir", "masks", "labels") or p.lower().startswith("label_")
            for p in file.relative_to(root).parts[:-1]
        ):
            if ((ending and ending[1]) or str(classes)) == str(classes) and not _of_other_classes(
                file, root, classes
            ):
                labels[LABEL_ENDING.sub("", file.stem)] = file
        elif not _of_other_classes(file, root, classes):
            # One form of images per folder: img_dir/train and img_dir/val are of one form, and count as one
            # folder.
            folder = file.parent if part_by_folder(file, root) is None else file.parent.parent
            by_folder.setdefault(folder, {})[file.stem] = file
    return labels, by_folder


def open_gid_mtl5(root: Path, *, lists: str = "auto") -> Published:
    """The 1,391 patches of 224 x 224 with images/, labels/ and three lists (or those in the folder `lists`);
    five classes, 255 unlabelled. Raises BadFile where folders, files or lists are missing.
    """
    code = Code({**{value: value for value in range(5)}, IGNORE: IGNORE})
    return Published(
        "gid-mtl5",
        LEGENDS[5],
        code,
        RED_GREEN_BLUE,
        listed_pairs(root, MTL5_HOME, lists=lists),
        RED_GREEN_BLUE,
    )


def code_of(label: Path, classes: int, first_value: int = 1) -> Code:
    """The code of a label file, detected from the file: the published colours, or class values. Background
    (black, or 0 below `first_value`) is unlabelled. Raises BadFile where it cannot be opened.
    """
    colors = [tuple(color) for color in LEGENDS[classes].colors.tolist()]
    with reading(label) as dataset:
        # Published as colours; repackaged, as class values in one band.
        colored = dataset.count >= 3
        if dataset.colorinterp[0].name == "palette":
            # Many tools add a colour table of their own to class values; only the published colours count.
            colored = len({tuple(c[:3]) for c in dataset.colormap(1).values()} & set(colors)) >= 3
    if colored:
        return Code({**{color: index for index, color in enumerate(colors)}, (0, 0, 0): IGNORE})
    return Code(
        {
            IGNORE: IGNORE,
            # 0 is the first class where values start there, and background in all other packages.
            **({0: IGNORE} if first_value else {}),
            **{first_value + index: index for index in range(classes)},
        }
    )


def grid_windows(height: int, width: int, *, size: int = 512, grid: str = "floor") -> list[Window]:
    """Windows of `size` x `size` pixels that cut an image into patches; smaller where the image is.

    floor  whole patches side by side; the rest at the bottom and right is dropped (182 for a GID scene)
    ceil   the whole image, the last row and column moved inwards (210): pixels where patches overlap occur
           twice
    cut    the whole image, each pixel once: the last row and column are smaller
    188    the 182 and six along the longer uncovered edge: the count per scene implied by the totals in the
           MSWBN paper. Which windows its authors cut is not known; only the number is matched

    Raises UnknownName for another grid, BadOption for a size below 1, BadInput for a scene that grid 188 does
    not fit.
    """
    if grid not in GRIDS:
        raise UnknownName("grid", grid, GRIDS)
    if size < 1:
        raise BadOption(f"`size={size}` must be at least 1 pixel.")
    if grid == "cut":
        return list(Window(0, 0, height, width).blocks(size))
    # A scene smaller than a patch is one patch, whatever the grid.
    if grid == "ceil" or height < size or width < size:
        return _ceil(height, width, size)
    found = [
        Window(row * size, column * size, size, size)
        for row in range(height // size)
        for column in range(width // size)
    ]
    if grid == "188":
        if {height, width} != {6800, 7200} or size != 512:
            raise BadInput(
                "`grid='188'` needs scenes of 6800 x 7200 and patches of 512; this scene is "
                f"{height} x {width}, the patches are {size}. Choose floor, ceil or cut."
            )
        # Six windows spread over 7200 pixels overlap nothing but the row they share with the 182.
        places = [round(i * (7200 - size) / 5) for i in range(6)]
        edge = 6800 - size
        found += [
            Window(edge, p, size, size) if height == 6800 else Window(p, edge, size, size) for p in places
        ]
    return found


def _ceil(height: int, width: int, size: int) -> list[Window]:
    # The last window is moved inwards; of an image below `size` it begins at 0.
    tops, lefts = ([min(start, max(0, n - size)) for start in range(0, n, size)] for n in (height, width))
    return [Window(top, left, min(size, height), min(size, width)) for top in tops for left in lefts]


def _of_other_classes(file: Path, root: Path, classes: int) -> bool:
    """Does a folder name give another number of classes (as for `image_RGB` of the 15-class set)?"""
    said = {int(n) for part in file.relative_to(root).parts[:-1] for n in re.findall(r"(\d+)_?class", part)}
    return bool(said) and classes not in said


def _of_kind(root: Path, by_folder: dict[Path, dict[str, Path]], wanted: str) -> tuple[dict[str, Path], str]:
    """The images of the wanted form, and the form. Raises BadFile where there are none, listing those
    found.
    """
    shape_of = {}
    for folder, files in by_folder.items():
        # One header per folder instead of one per scene.
        with reading(next(iter(files.values()))) as dataset:
            shape_of[folder] = dataset.count, dataset.dtypes[0]
    for kind in KINDS if wanted == "auto" else (wanted,):
        found = [folder for folder, shape in shape_of.items() if shape == KINDS[kind]]
        if found:
            return {key: file for folder in found for key, file in by_folder[folder].items()}, kind
    there = "; ".join(
        f"{folder.name}: {count} bands of {dtype}" for folder, (count, dtype) in shape_of.items()
    )
    raise BadFile(
        f"GID in {root}: no {'known kind of' if wanted == 'auto' else wanted} scenes ({KINDS}). Found "
        f"{there}."
    )


def _bands_of(file: Path, kind: str) -> tuple[str, ...]:
    if kind == "rgb":
        return ("nir", "red", "green") if "nir" in file.parent.name.lower() else RED_GREEN_BLUE
    # A folder called NirRGB gives the order; otherwise it is that of the satellite.
    return ("nir", *RED_GREEN_BLUE) if any("nirrgb" in p.lower() for p in file.parts) else SATELLITE_BANDS
