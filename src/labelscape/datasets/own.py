"""A user's own data: scenes with labels, or a folder of image and label pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labelscape.contract.matching import match_pixels
from labelscape.datasets.divide import buffered, divided, nearness, overlaps
from labelscape.datasets.doctor.labels import is_soft_mask, tally
from labelscape.datasets.labelled import Dataset, LabelledScene
from labelscape.datasets.pairs import find_pairs, parts_given
from labelscape.errors import BadInput, BadOption
from labelscape.labels.labels import classes_of, open_labels
from labelscape.labels.rules import ClassTable, LabelRules, is_vector
from labelscape.labels.values import look_like_masks
from labelscape.scenes.files import Source
from labelscape.scenes.mosaic import open_scene, seen_as
from labelscape.scenes.placing import declares
from labelscape.scenes.raster import Scene, Units

__all__ = ["HOLD_BYTES", "Dataset", "LabelledScene", "open_dataset"]

HOLD_BYTES = 1 << 30
"""Scenes up to this many bytes in all are kept in memory while training; larger ones are read window by
window.
"""


def open_dataset(
    images: Sequence[Source],
    labels: Sequence[str | Path] = (),
    *,
    spec: LabelRules = LabelRules(),
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    block: int = 256,
    shares: Mapping[str, float] | None = None,
    buffer: int = 0,
    split: Literal["blocks", "random"] = "blocks",
    seed: int = 0,
    pixel_size: float | None = None,
    tick: Callable[[str], None] | None = None,
) -> Dataset:
    """Open scenes with their labels and split them into blocks.

    images  scenes; or one folder of image and label pairs, and then no `labels` (see `find_pairs`)
    labels  one label file per scene, or a single one that serves all
    spec    how labels are read; classes that the rules do not say are found in all label files together
    block   side of a block in pixels; pairs of files are split file by file instead
    shares  part -> share of the labels, e.g. {"train": 0.75, "test": 0.25}; None splits nothing. A folder of
            pairs that says its parts itself (`parts_given`) keeps them, unless a random split is asked for
    buffer  training labels within this many pixels of a block of another part are dropped
    pixel_size  metres to resample all scenes to; by default those with finer pixels than others are taken to
                the widest among them
    split   blocks: large blocks, balanced over classes; random: blocks of 32 pixels by chance, and `report`
            says how close the parts lie
    tick    called with the name of every scene that is opened

    Raises BadFile for files that cannot be read, BadOption for options that cannot work, and BadInput where
    labels and scenes do not belong together, nothing is labelled, or there is too little to split.
    """
    _check_division(buffer, split)
    by_file, given = False, None
    if not labels:
        folder = images[0] if images else None
        images, labels = find_pairs(images)
        by_file = len(images) > 1
        if by_file and shares is not None and split != "random":
            given = parts_given(folder, images)
    labels = one_each(images, labels)
    _refuse_masks([f for f in labels if not is_vector(f)], spec)
    table = classes_of(labels, spec) if len(labels) > 1 else None
    files = _Files(images, labels, spec, table, nodata, bands, tick or (lambda name: None))
    with ExitStack() as opened:
        scenes, report = _of_one_kind(files, pixel_size, opened)
        legend = scenes[0].labels.legend
        report += scenes[0].labels.report
        part_of: list[str | None] = [None] * len(scenes)
        if given:
            part_of = list(given.part_of)
            report.append(given.report)
        elif shares is not None:
            scenes, part_of = divided(
                scenes, legend, shares, by_file=by_file, split=split, block=block, seed=seed
            )
        if shares is not None:
            scenes, lines = buffered(scenes, legend, part_of, buffer)
            report += lines
            if split == "random":
                report.append(nearness(scenes, by_file))
            report += overlaps(scenes)
        opened.pop_all()
    return Dataset(tuple(scenes), legend, tuple(part_of), tuple(report))


def _check_division(buffer: int, split: str) -> None:
    """Raises BadOption for a way of dividing that does not exist."""
    if buffer < 0:
        raise BadOption(f"buffer={buffer} is a distance in pixels; it cannot be below 0.")
    if split not in ("blocks", "random"):
        raise BadOption(f"split={split!r} must be 'blocks' or 'random'.")


def one_each(images: Sequence[Source], labels: Sequence[str | Path]) -> list[str | Path]:
    """A label file per scene; a single one serves all. Raises BadInput for another number of them."""
    if len(labels) == 1:
        return list(labels) * len(images)
    if len(labels) != len(images):
        raise BadInput(
            f"{len(images)} scenes and {len(labels)} label files: pass one label file per scene, or one for "
            "all."
        )
    return list(labels)


def _refuse_masks(rasters: Sequence[str | Path], rules: LabelRules) -> None:
    """Raises BadInput where every grey of a mask's smoothed edges would become a class of its own (the first
    file tells), and where 255 may be a class or "not labelled".
    """
    if rasters and rules.threshold is None and is_soft_mask(found := tally(rasters[0])):
        raise BadInput(
            f"{rasters[0]} is a black and white mask with {len(found.counts)} grey values: it was saved "
            "lossily (JPEG) or resized with smoothing. Say from which value on it is white, and name both "
            "classes: --threshold 128 --classes other=0,road=1."
        )
    if look_like_masks(rasters, rules):
        raise BadInput(
            f"{rasters[0]} holds only 0 and 255, and 255 usually means 'not labelled'. If it is a mask, "
            "name both classes with --classes other=0,building=255; if 255 is unlabelled, say so with "
            "--ignore-value 255."
        )


@dataclass(frozen=True)
class _Files:
    """Scenes and labels to open, and how both are read."""

    images: Sequence[Source]
    labels: Sequence[str | Path]
    rules: LabelRules
    table: ClassTable | None
    nodata: float | None
    bands: Sequence[str] | None
    tick: Callable[[str], None]


def _of_one_kind(
    files: _Files, pixel_size: float | None, opened: ExitStack
) -> tuple[list[LabelledScene], list[str]]:
    """Scenes with their labels, of one pixel size and in one unit, and a line for each that had another.

    A network learns sizes in pixels: all scenes are resampled to `pixel_size`; without it, those with finer
    pixels (see `match_pixels`) to the widest among them, which keeps what all can show. Values are brought to
    the scale and offset that the first scene declares.
    """
    asked = [pixel_size] * len(files.images)
    scenes = _opened(files, asked, None, opened)
    first = scenes[0].scene
    sizes = [s.scene.grid.ground_pixel_size for s in scenes]
    widest = max((size for size in sizes if size), default=0)
    finer = [n for n, size in enumerate(sizes) if match_pixels(widest, size).is_finer]
    other_units = [n for n, s in enumerate(scenes) if _units_differ(first, s.scene)]
    if not finer and not other_units:
        return scenes, []
    report = [
        f"{scenes[n].name} is resampled from {sizes[n]:.3g} m to {widest:.3g} m, the pixels of the widest "
        "scene"
        for n in finer
    ]
    report += [
        f"{scenes[n].name} declares another scale or offset than {first.name}; its values are brought to "
        "those"
        for n in other_units
    ]
    # How a scene is read is settled when it is opened: all are opened again, now with what the others need.
    opened.close()
    wanted = [widest if n in finer else size for n, size in enumerate(asked)]
    return _opened(files, wanted, first.units if other_units else None, opened), report


def _units_differ(first: Scene, other: Scene) -> bool:
    return declares(first.units) and declares(other.units) and other.units != first.units


def _opened(
    files: _Files, pixel_sizes: Sequence[float | None], units: Units | None, opened: ExitStack
) -> list[LabelledScene]:
    """Every scene with its labels, in memory as far as HOLD_BYTES go. Raises BadInput where bands differ."""
    scenes: list[LabelledScene] = []
    held = 0
    for source, label, size in zip(files.images, files.labels, pixel_sizes):
        scene = open_scene(source, pixel_size=size, nodata=files.nodata, bands=files.bands)
        if units not in (None, scene.units) and declares(scene.units):
            with scene as as_declared:
                scene = seen_as(as_declared, units=units)
        opened.enter_context(scene)
        own = open_labels(label, scene.grid, files.rules, table=files.table, scene_name=scene.name)
        opened.callback(own.close)
        if scenes and scene.bands != scenes[0].scene.bands:
            raise BadInput(
                f"{scene.name} has the bands {' '.join(scene.bands)}, {scenes[0].name} has "
                f"{' '.join(scenes[0].scene.bands)}: train on one kind of scene."
            )
        held += scene.nbytes + scene.grid.window.pixels
        if held <= HOLD_BYTES:
            scene = opened.enter_context(scene.hold())
            own.hold()
        scenes.append(LabelledScene(scene, own))
        files.tick(scene.name)
    return scenes
