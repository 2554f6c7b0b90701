"""ISPRS semantic labelling: Vaihingen (9 cm, near infrared, red, green, height) and Potsdam (5 cm, blue as
well).

Files are found by their published names in any subfolder, because archives differ. Labels are full, or
eroded: black around class boundaries, which are then not scored. Train and validation tiles are those of the
MLP paper; all others are "test", with labels or, as the benchmark kept them back, without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labelscape.datasets.published.layout import Home, Pair, Published, keyed, matched_pairs, rasters
from labelscape.errors import BadOption, UnknownName
from labelscape.labels.coded import Code
from labelscape.legend import IGNORE, Legend

PAGE = "https://www.isprs.org/education/benchmarks/UrbanSemLab/"
VAIHINGEN_HOME = Home(
    "ISPRS Vaihingen",
    PAGE,
    "ISPRS_semantic_labeling_Vaihingen.zip and its _ground_truth and _ground_truth_eroded archives",
    """
top/top_mosaic_09cm_area1.tif
ndsm/dsm_09cm_matching_area1_normalized.jpg        (Gerke's normalised heights)
gts_for_participants/top_mosaic_09cm_area1.tif
gts_eroded_for_participants/top_mosaic_09cm_area1_noBoundary.tif""",
)
POTSDAM_HOME = Home(
    "ISPRS Potsdam",
    PAGE,
    "the archives 1_DSM_normalisation, 4_Ortho_RGBIR (or 3_Ortho_IRRG) and 5_Labels_*",
    """
1_DSM_normalisation/dsm_potsdam_02_10_normalized_lastools.jpg
4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif           (or 3_Ortho_IRRG, 2_Ortho_RGB)
5_Labels_for_participants/top_potsdam_2_10_label.tif
5_Labels_for_participants_no_Boundary/top_potsdam_2_10_label_noBoundary.tif""",
)

COLORS = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}
LEGEND = Legend.of_names(list(COLORS), colors=list(COLORS.values()))
TABLE = {**{color: index for index, color in enumerate(COLORS.values())}, (0, 0, 0): IGNORE}
VAIHINGEN_CODE = Code(TABLE)
# The colours of Potsdam's tile 4_12 are off by a few levels: matched exactly, all of it would be unlabelled.
POTSDAM_CODE = Code(TABLE, threshold=128, refuse=False)

VAIHINGEN_SPLIT = {
    "train": ["1", "3", "5", "7", "13", "17", "21", "23", "26", "32", "37"],
    "val": ["11", "15", "28", "30", "34"],
}
POTSDAM_SPLIT = {
    "train": [
        "2_10",
        "3_10",
        "3_11",
        "3_12",
        "4_11",
        "4_12",
        "5_10",
        "5_12",
        "6_8",
        "6_9",
        "6_10",
        "6_11",
        "6_12",
        "7_7",
        "7_9",
        "7_11",
        "7_12",
    ],
    "val": ["2_11", "2_12", "4_10", "5_11", "6_7", "7_8", "7_10"],
}
HEIGHT = "ndsm"
BANDS = ("nir", "red", "green", HEIGHT)
ORTHOPHOTOS = {
    "RGBIR": ("red", "green", "blue", "nir"),
    "IRRG": ("nir", "red", "green"),
    "RGB": ("red", "green", "blue"),
}
"""Bands of Potsdam's orthophotos by the ending of their names, those with most bands first."""


def open_vaihingen(
    root: Path, *, eroded: bool = False, bands: Sequence[str] | None = None, clutter: bool = True
) -> Published:
    """Vaihingen in the folder `root`.

    bands    of nir, red, green, ndsm: all of them unless given
    clutter  False leaves that class unlabelled, as in the MLP paper (sec. V-B: too little of it to learn
    from)

    Raises BadFile where images, heights or labels are missing, UnknownName for another band, BadOption for
    full labels of patches in img_dir/ and ann_dir/, which are published with eroded ones.
    """
    found = _vaihingen(root, eroded, bands)
    return found if clutter else _without_clutter(found)


def _without_clutter(found: Published) -> Published:
    last = LEGEND.index("clutter")
    code = replace(
        found.code,
        table={value: IGNORE if index == last else index for value, index in found.code.table.items()},
    )
    return replace(found, legend=Legend(LEGEND.classes[:last]), code=code)


def _vaihingen(root: Path, eroded: bool, bands: Sequence[str] | None) -> Published:
    if (root / "img_dir").is_dir():
        layout = _PatchLayout(
            "vaihingen", VAIHINGEN_HOME, r"area(?P<tile>\d+)", VAIHINGEN_SPLIT, ORTHOPHOTOS["IRRG"]
        )
        return _patches(root, layout, eroded, bands)
    files = rasters(root)
    # Images and labels have the same file names and differ only by folder. "semantic_labeling" in the
    # name of an archive does not mean labels.
    truths = [
        f
        for f in files
        if any(
            re.match(r"gts|labels?(_|$)|.*ground_truth", p, re.IGNORECASE)
            for p in f.relative_to(root).parts[:-1]
        )
    ]
    name = r"top_mosaic_09cm_area(?P<key>\d+)"
    # Vaihingen has one kind of orthophoto.
    photos = {"IRRG": keyed((f for f in files if f not in set(truths)), rf"{name}\.tif", VAIHINGEN_HOME)}
    # The normalised heights are Gerke's, published apart from the benchmark, whose own DSM is not normalised.
    heights = keyed(files, r"dsm_09cm_matching_area(?P<key>\d+)_normalized\.(jpg|tif)", VAIHINGEN_HOME)
    labels = keyed(_one_folder(truths), rf"{name}{'_noBoundary' if eroded else ''}\.tif", VAIHINGEN_HOME)
    label_name = (
        f"gts{'_eroded' * eroded}_for_participants/top_mosaic_09cm_area%s{'_noBoundary' * eroded}.tif"
    )
    return _published(
        "vaihingen",
        root,
        VAIHINGEN_HOME,
        VAIHINGEN_CODE,
        VAIHINGEN_SPLIT,
        photos,
        heights,
        labels,
        label_name,
        BANDS if bands is None else bands,
        eroded,
    )


def open_potsdam(root: Path, *, eroded: bool = False, bands: Sequence[str] | None = None) -> Published:
    """Potsdam in the folder `root`; `bands` of nir, red, green, blue, ndsm: BANDS unless given. Raises as
    `open_vaihingen`.
    """
    if (root / "img_dir").is_dir():
        layout = _PatchLayout(
            "potsdam", POTSDAM_HOME, r"(?P<tile>\d+_\d+)", POTSDAM_SPLIT, ORTHOPHOTOS["RGB"]
        )
        return _patches(root, layout, eroded, bands)
    files = rasters(root)
    photos = {
        kind: keyed(files, rf"top_potsdam_(?P<key>\d+_\d+)_{kind}\.tif", POTSDAM_HOME) for kind in ORTHOPHOTOS
    }
    found = keyed(files, r"dsm_potsdam_(?P<key>\d+_\d+)_normalized_lastools\.jpg", POTSDAM_HOME)
    heights = {
        "_".join(str(int(n)) for n in key.split("_")): file for key, file in found.items()
    }  # 02_10 is tile 2_10
    labels = keyed(
        _one_folder(files), rf"top_potsdam_(?P<key>\d+_\d+)_label{'_noBoundary' * eroded}\.tif", POTSDAM_HOME
    )
    label_name = (
        f"5_Labels_for_participants{'_no_Boundary' * eroded}/top_potsdam_%s_label{'_noBoundary' * eroded}.tif"
    )
    return _published(
        "potsdam",
        root,
        POTSDAM_HOME,
        POTSDAM_CODE,
        POTSDAM_SPLIT,
        photos,
        heights,
        labels,
        label_name,
        BANDS if bands is None else bands,
        eroded,
    )


@dataclass(frozen=True)
class _PatchLayout:
    """One of the two data sets as patches in img_dir/ and ann_dir/: `tile` finds the tile in a name, `bands`
    are those of the files.
    """

    name: str
    home: Home
    tile: str
    split: Mapping[str, Sequence[str]]
    bands: tuple[str, ...]


def _patches(root: Path, layout: _PatchLayout, eroded: bool, bands: Sequence[str] | None) -> Published:
    """Patches as repackaged by others: img_dir/, ann_dir/ with 1..6 in our order of classes and 0 on
    boundaries, so the labels are eroded. The split is still that of the whole tiles.
    """
    if not eroded:
        raise BadOption(
            f"The patches in {root} (img_dir/, ann_dir/) are published with eroded labels, 0 on boundaries. "
            f"Read them as {layout.name}-eroded, or pass the folder of the whole tiles."
        )
    unknown = next((band for band in bands or () if band not in layout.bands), None)
    if unknown or (bands is not None and not bands):
        raise UnknownName(f"band of the patches of {layout.home.title}", unknown or "", layout.bands)
    pattern = rf"(?P<key>{layout.tile}_\d+_\d+_\d+_\d+)\.png"
    images, labels = (keyed(rasters(root / side), pattern, layout.home) for side in ("img_dir", "ann_dir"))
    if not images or not labels:
        raise layout.home.not_found(root, "img_dir/ and ann_dir/ with patches called TILE_X_Y_X_Y.png")
    # Patches of one tile share a split: neighbours in train and test would leak.
    part_of = {t: part for part, tiles in layout.split.items() for t in tiles}
    pairs = matched_pairs(
        root,
        layout.home,
        images,
        labels,
        lambda key: part_of.get(re.match(layout.tile, key)["tile"], "test"),
        expected=lambda key: f"ann_dir/{key}.png",
    )
    code = Code({0: IGNORE, IGNORE: IGNORE, **{value: value - 1 for value in range(1, 7)}})
    return Published(f"{layout.name}-eroded", LEGEND, code, tuple(bands or layout.bands), pairs, layout.bands)


def _one_folder(files: Sequence[Path]) -> list[Path]:
    """Labels were published for participants and, later, for all tiles: of several files with one name,
    which are identical, the first.
    """
    return list({f.name: f for f in reversed(files)}.values())


def _published(
    name: str,
    root: Path,
    home: Home,
    code: Code,
    split: Mapping[str, Sequence[str]],
    photos: Mapping[str, Mapping[str, Path]],
    heights: Mapping[str, Path],
    labels: Mapping[str, Path],
    label_name: str,
    bands: Sequence[str],
    eroded: bool,
) -> Published:
    colors = [b for b in bands if b != HEIGHT]
    known = dict.fromkeys(b for kind in photos for b in ORTHOPHOTOS[kind])
    unknown = next((b for b in bands if b not in (*known, HEIGHT)), None)
    if unknown or not colors:
        raise UnknownName(f"band of {home.title}", unknown or "", (*known, HEIGHT))
    # The first kind that has all the bands asked for; RGBIR is before the others in ORTHOPHOTOS.
    kind = next((k for k, found in photos.items() if found and set(colors) <= set(ORTHOPHOTOS[k])), None)
    if kind is None:
        raise home.not_found(root, f"orthophotos with {', '.join(colors)}")
    published = {tile: part for part, tiles in split.items() for tile in tiles}
    # Of the benchmark's own test tiles the labels were kept back for years: some folders have them.
    here = sorted((t for t in photos[kind] if t in published or t in labels), key=_tile_order)
    missing = [label_name % tile for tile in here if tile not in labels]
    # No label at all is another folder or another archive; some missing is an incomplete one.
    if not here or (not labels and missing):
        raise home.not_found(root, f"{'eroded ' * eroded}label files {label_name % 'TILE'}")
    if missing:
        raise home.incomplete(root, "label files", missing)
    if HEIGHT in bands and not all(tile in heights for tile in here):
        tiles = [tile for tile in here if tile not in heights]
        error = home.incomplete(root, "normalised heights", [f"tile {tile}" for tile in tiles])
        raise type(error)(f"{error} Or use only bands={','.join(colors)}.")
    # To be predicted for the benchmark; one that lacks its heights cannot be, and is no fault of the others.
    unlabelled = [t for t in photos[kind] if t not in here and (HEIGHT not in bands or t in heights)]
    pairs = tuple(
        Pair(
            f"{name}_{tile}",
            (photos[kind][tile], heights[tile]) if HEIGHT in bands else photos[kind][tile],
            labels.get(tile),
            published.get(tile, "test"),
            asked=Path(label_name % tile).name,
        )
        for tile in sorted([*here, *unlabelled], key=_tile_order)
    )
    absent = [tile for tile in published if tile not in here]
    notes = (
        (f"{len(absent)} of the {len(published)} train and val tiles are missing: {', '.join(absent)}.",)
        if absent
        else ()
    )
    if unlabelled:
        s = "s" * (len(unlabelled) > 1)
        notes += (f"{len(unlabelled)} test tile{s} without labels: can be predicted, not scored.",)
    file_bands = (*ORTHOPHOTOS[kind], *([HEIGHT] if HEIGHT in bands else []))
    return Published(
        name + "-eroded" * eroded, LEGEND, code, tuple(bands), pairs, file_bands, padded=True, notes=notes
    )


def _tile_order(tile: str) -> tuple[int, ...]:
    # As numbers: 2_10 after 2_9.
    return tuple(int(n) for n in tile.split("_"))
