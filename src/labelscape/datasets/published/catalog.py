"""The published data sets by name, and how one of them becomes a `Dataset`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.published.ade20k import open_ade20k
from labelscape.datasets.published.camvid import open_camvid
from labelscape.datasets.published.cityscapes import open_cityscapes
from labelscape.datasets.published.deepglobe import open_deepglobe
from labelscape.datasets.published.gid import open_gid, open_gid_mtl5
from labelscape.datasets.published.inria import open_inria
from labelscape.datasets.published.isprs import open_potsdam, open_vaihingen
from labelscape.datasets.published.layout import Pair, Published
from labelscape.datasets.published.loveda import open_loveda
from labelscape.datasets.published.pascal_context import open_pascal_context
from labelscape.datasets.published.prepared import open_prepared
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.labels.coded import CodedLabels, NoLabels
from labelscape.labels.labels import Labels
from labelscape.scenes.lazy import LazyScene

PUBLISHED: dict[str, Callable[..., Published]] = {
    "gid-5": partial(open_gid, classes=5),
    "gid-15": partial(open_gid, classes=15),
    "gid-mtl5": open_gid_mtl5,
    "deepglobe-land": partial(open_deepglobe, kind="land"),
    "deepglobe-road": partial(open_deepglobe, kind="road"),
    "vaihingen": open_vaihingen,
    "vaihingen-eroded": partial(open_vaihingen, eroded=True),
    "potsdam": open_potsdam,
    "potsdam-eroded": partial(open_potsdam, eroded=True),
    "inria": open_inria,
    "cityscapes": open_cityscapes,
    "pascal-context-59": partial(open_pascal_context, classes=59),
    "pascal-context-60": partial(open_pascal_context, classes=60),
    "ade20k": open_ade20k,
    "camvid": open_camvid,
    "loveda": open_loveda,
    "prepared": open_prepared,
}

SUMMARY = {
    "gid-5": "GID, 150 Gaofen-2 scenes 6800 x 7200, 5 classes",
    "gid-15": "GID, fine land cover, 15 classes",
    "gid-mtl5": "GID, patches 224 x 224 with three lists, 5 classes",
    "deepglobe-land": "DeepGlobe land cover 2448 x 2448, 6 classes",
    "deepglobe-road": "DeepGlobe roads 1024 x 1024",
    "vaihingen": "ISPRS Vaihingen, full labels, 6 classes",
    "vaihingen-eroded": "ISPRS Vaihingen, boundaries not scored",
    "potsdam": "ISPRS Potsdam 6000 x 6000, full labels, 6 classes",
    "potsdam-eroded": "ISPRS Potsdam, boundaries not scored",
    "inria": "Inria buildings 5000 x 5000, tiles 1-5 of each city held out",
    "cityscapes": "Cityscapes 2048 x 1024, 19 classes",
    "pascal-context-59": "PASCAL Context, background not scored",
    "pascal-context-60": "PASCAL Context with background",
    "ade20k": "ADE20K SceneParsing, 150 classes",
    "camvid": "CamVid 480 x 360 (SegNet's split), 11 classes",
    "loveda": "LoveDA 1024 x 1024, 7 classes",
    "prepared": "patches written by labelscape data prepare",
}


def find_published(name: str, root: str | Path, **options: Any) -> Published:
    """The image and label files of a published data set in a folder; no image is read. Options are those of
    the data set (`options_of`).

    Raises UnknownName for an unknown data set, BadOption for an unknown option or a wrong value, BadFile
    where files are missing or have the same key twice.
    """
    if name not in PUBLISHED:
        raise UnknownName("published data set", name, PUBLISHED)
    known = options_of(name)
    unknown = [key for key in options if key not in known]
    if unknown:
        raise BadOption(f"{name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    # As the command line passes them: red,green,blue.
    if isinstance(options.get("bands"), str):
        options["bands"] = tuple(options["bands"].split(","))
    # Not isinstance: True is an int too, and would be taken for a seed.
    wrong = [key for key, value in options.items() if key != "bands" and type(value) is not type(known[key])]
    if wrong:
        raise BadOption(
            f"The option {wrong[0]} of {name} is {options[wrong[0]]!r}; it must have the same type as its "
            f"default, {known[wrong[0]]!r}."
        )
    return PUBLISHED[name](Path(root), **options)


def options_of(name: str) -> dict[str, Any]:
    """Option -> default value of a data set. Raises KeyError for a name that is not in PUBLISHED."""
    opener = PUBLISHED[name]
    fixed = opener.keywords if isinstance(opener, partial) else {}
    parameters = list(
        inspect.signature(opener.func if isinstance(opener, partial) else opener).parameters.values()
    )[1:]
    # Without the first, the folder, and without what a `partial` has fixed.
    return {p.name: p.default for p in parameters if p.name not in fixed}


def open_published(
    name: str, root: str | Path, *, part: str | None = None, hold: bool = False, **options: Any
) -> Dataset:
    """A published data set as labelled scenes with their splits, or only those of the split `part`.

    Files are opened at the first use of a scene and closed after each read; with `hold` everything is read
    now and kept in memory. Raises as `find_published`; BadInput for an empty split; with `hold` also BadFile
    and BadInput where a file is damaged or has unknown values.
    """
    dataset = dataset_of(find_published(name, root, **options), part)
    return dataset.held() if hold else dataset


def dataset_of(found: Published, part: str | None = None) -> Dataset:
    """The same for a data set that was found. Raises UnknownName for another split than train, val and test,
    BadInput for an empty one.
    """
    pairs = found.pairs if part is None else found.part(part)
    if not pairs:
        there = sorted({p.part for p in found.pairs})
        raise BadInput(
            f"{found.name} has no images in the {part} split; it has {', '.join(there) or 'none at all'}."
        )
    return Dataset(
        tuple(labelled(found, pair) for pair in pairs),
        found.legend,
        tuple(pair.part for pair in pairs),
        found.notes,
    )


def labelled(found: Published, pair: Pair) -> LabelledScene:
    """One pair as a labelled scene that keeps no file open. Reading it raises BadFile or BadInput where a
    file is damaged or has unknown values.
    """
    # Not opened: a set has more pictures than a process may have files open.
    scene = LazyScene(
        pair.image,
        name=pair.name,
        band_names=found.file_bands,
        bands=None if found.bands == found.file_bands else found.bands,
    )
    labels: Labels
    if pair.label is None:
        labels = NoLabels(found.legend, lambda: scene.grid)
    else:
        # A label's grid is asked of its image when it is first read: nothing is opened here.
        labels = CodedLabels(
            found.legend, pair.label, found.code, lambda: scene.grid, padded=found.padded, reader=found.reader
        )
    return LabelledScene(scene, labels)
