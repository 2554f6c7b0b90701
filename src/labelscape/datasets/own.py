"""A user's own data: scenes with labels, or a folder of image and label pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from labelscape.contract.matching import match_pixels
from labelscape.datasets.corrected import as_values, corrected
from labelscape.datasets.divide import divide
from labelscape.datasets.doctor.labels import is_soft_mask, tally
from labelscape.datasets.holding import held_bytes
from labelscape.datasets.labelled import Dataset, LabelledScene, bands_differ
from labelscape.datasets.overlaps import overlap_lines
from labelscape.datasets.pairs import GivenParts, listed, pairs_of_folder, parts_given, split_unread
from labelscape.datasets.share import trained_share
from labelscape.datasets.split import fold_of
from labelscape.errors import BadInput, BadOption
from labelscape.labels.labels import classes_of, open_labels
from labelscape.labels.rules import ClassTable, LabelRules, without_effect
from labelscape.labels.values import look_like_masks
from labelscape.legend import Legend
from labelscape.scenes.files import Source
from labelscape.scenes.mosaic import open_scene, seen_as
from labelscape.scenes.placing import declares
from labelscape.scenes.raster import Scene, Units
from labelscape.scenes.stac import is_stac
from labelscape.scenes.vectors import is_vector

__all__ = ["Dataset", "LabelledScene", "open_dataset"]


def open_dataset(
    images: str | Path | Sequence[Source],
    labels: str | Path | Sequence[str | Path] = (),
    *,
    spec: LabelRules | Mapping[str, Any] = LabelRules(),
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    asset: str | None = None,
    block: int = 256,
    shares: Mapping[str, float] | None = None,
    buffer: int = 0,
    split: Literal["blocks", "random"] = "blocks",
    fold: str | None = None,
    seed: int = 0,
    pixel_size: float | None = None,
    corrections: Sequence[str | Path] = (),
    train_share: float | None = None,
    split_seed: int | None = None,
    tick: Callable[[str], None] | None = None,
    hold: bool = True,
) -> Dataset:
    """Open scenes with their labels and split them into blocks.

    images  scenes; or one folder of image and label pairs, and then no `labels` (see `pairs_of_folder`)
    labels  one label file per scene, or a single one for all
    spec    how labels are read: LabelRules, or a mapping of their settings; classes that the rules do not
            name are taken from all label files together
    block   side of a block in pixels; pairs of files are split file by file instead
    shares  split -> share of the labels, e.g. {"train": 0.75}; None splits nothing. A folder of pairs with
            splits of its own (`parts_given`) keeps them, except for a random split or a fold
    fold    "2/5": cross-validation, the second of five folds of blocks is the split "test"
    buffer  training labels within this many pixels of a held-out block are dropped
    pixel_size, asset  of `open_scene`; by default the coarsest scene's pixels, the assets with the role data
    split   blocks: large blocks, stratified by class; random: blocks of 32 pixels
    corrections, tick  review files, see `datasets.corrected`; called with the name of every scene opened
    train_share  of the training blocks, drawn by `seed` (`datasets.share`); `split_seed` draws the others
    hold    keep scenes in memory as far as `held_bytes` allow; False where others read them

    Raises BadFile for unreadable files, BadOption for invalid options, and BadInput where labels and scenes
    do not match, nothing is labelled, or there is too little to split.
    """
    spec, division = LabelRules.of(spec), _Division(shares, split, fold, block, buffer, seed, split_seed)
    division.check()
    images, found, given, told = _sources(images, labels, own_split=division.keeps_given)
    by_file = not labels and len(images) > 1  # a single pair is one scene, and is split by blocks
    reading = {"nodata": nodata, "bands": bands, "band_names": band_names, "asset": asset}
    files = _files(images, found, spec, reading, tick, hold)
    with ExitStack() as opened:
        scenes, report = _of_one_kind(files, pixel_size, opened)
        _check_places(spec, scenes)
        # All scenes' labels were opened with one table, so the first one's legend is that of all.
        legend, part_of = scenes[0].labels.legend, [None] * len(scenes)
        report = [*told, *report, *_label_report(scenes, files), *_notes([s.scene for s in scenes])]
        if shares is not None:
            scenes, part_of, lines = division.apply(scenes, legend, given=given, by_file=by_file)
            report += lines
        dataset = _as_trained(scenes, legend, part_of, report, train_share, seed, corrections)
        opened.pop_all()  # the dataset closes its files; up to here a failure closes them
    return dataset


def _sources(
    images: str | Path | Sequence[Source], labels: str | Path | Sequence[str | Path], *, own_split: bool
) -> tuple[Sequence[Source], Sequence[str | Path], GivenParts | None, tuple[str, ...]]:
    """Scenes and label files that are given, else those of a folder of pairs (`_pairs`)."""
    images, labels = listed(images), listed(labels)
    return (images, labels, None, ()) if labels else _pairs(images, own_split=own_split)


def _as_trained(
    scenes: list[LabelledScene],
    legend: Legend,
    part_of: list[str | None],
    report: list[str],
    share: float | None,
    seed: int,
    corrections: Sequence[str | Path],
) -> Dataset:
    """The data set, with only a share of its training blocks if asked for, and corrected labels there."""
    if share is not None:
        scenes, part_of, lines = trained_share(scenes, part_of, legend, share, seed)
        report = [*report, *lines]
    # After the split: the same blocks are held out as without corrections.
    scenes, made, lines = corrected(scenes, part_of, corrections, legend)
    return Dataset(tuple(scenes), legend, tuple(part_of), (*report, *lines), as_values(made))


@dataclass(frozen=True)
class _Division:
    """How scenes are split into train, val and test, as `open_dataset` has it."""

    shares: Mapping[str, float] | None
    split: str
    fold: str | None
    block: int
    buffer: int
    seed: int
    split_seed: int | None

    def check(self) -> None:
        """Raises BadOption for an unknown kind of split, a negative buffer, or a fold that is none."""
        if self.buffer < 0:
            raise BadOption(f"`buffer={self.buffer}` must be 0 or more: it is a distance in pixels.")
        if self.split not in ("blocks", "random"):
            raise BadOption(f"`split={self.split!r}` must be 'blocks' or 'random'.")
        if self.fold is not None:
            fold_of(self.fold)
            if self.split == "random":
                raise BadOption(
                    "`fold` divides blocks (split='blocks'), not a random split; give one of them."
                )

    @property
    def keeps_given(self) -> bool:
        """Is the split kept that a folder gives? A random split is asked for to ignore it; without shares
        nothing is split.
        """
        return self.shares is not None and self.split != "random" and self.fold is None

    def apply(
        self, scenes: list[LabelledScene], legend: Legend, *, given: GivenParts | None, by_file: bool
    ) -> tuple[list[LabelledScene], list[str | None], list[str]]:
        """As `divide`."""
        return divide(
            scenes,
            legend,
            self.shares,
            given=given,
            by_file=by_file,
            split=fold_of(self.fold) if self.fold else self.split,
            block=self.block,
            buffer=self.buffer,
            seed=self.seed if self.split_seed is None else self.split_seed,
        )


def _check_places(spec: LabelRules, scenes: Sequence[LabelledScene]) -> None:
    """Raises BadInput where the area of complete labels meets no scene, or no polygon lies in any: all would
    be background. One scene of several may be empty.
    """
    if all(scene.labels.elsewhere for scene in scenes):
        raise BadInput(scenes[0].labels.elsewhere)
    if spec.area and all(s.labels.outside_area for s in scenes):
        raise BadInput(
            f"The area {spec.area} lies outside {scenes[0].name if len(scenes) == 1 else 'all scenes'}: "
            "nothing would be labelled. Check the CRS of both."
        )


def _label_report(scenes: Sequence[LabelledScene], opened: _Files) -> list[str]:
    """Rules without effect, what was decided about every label file, then what was read of the first, and
    the values of new classes in maps.
    """
    files = opened.labels
    vector = [is_vector(file) for file in files]
    unused = without_effect(opened.rules, rasters=not all(vector), polygons=any(vector))
    first = scenes[0].labels
    # One file for all scenes says most of it again for each.
    said = dict.fromkeys((note, str(file)) for one, file in zip(scenes, files) for note in one.labels.notes)
    counts = [line for line in first.report if line not in first.notes]
    if counts and len(scenes) > 1:
        # "58 in the scene" must not be read as all of them.
        counts.insert(0, f"of {len(scenes)} scenes the first, {scenes[0].name} (data check tells of all):")
    # All were opened with one table. With a model's classes nothing is new.
    new = opened.rules.legend is None
    values = dict.fromkeys(s.labels.renumbered for s in scenes if new and s.labels.renumbered)
    doubts = [*(opened.table.doubts if opened.table else ()), *overlap_lines(scenes, files)]
    told = _alike([(note, [file]) for note, file in said], "label files")
    return [*unused, *told, *doubts, *counts, *values]


def _notes(scenes: Sequence[Scene]) -> list[str]:
    """What was decided about the scenes' files."""
    return _alike([(note, scene.files) for scene in scenes for note in scene.notes], "scenes")


def _alike(said: Iterable[tuple[str, Sequence[str]]], what: str) -> list[str]:
    """Notes, each with the files it may name: one line for all that differ in nothing else but measures."""
    alike: dict[str, list[str]] = {}
    for note, files in said:
        kind = note
        for file in files:
            kind = kind.replace(file, "")
        kind = re.sub(r"\d+\.\d+", "", kind)  # measures: each file of a series lies elsewhere
        alike.setdefault(kind, []).append(note)
    more = "; {} more {} likewise"
    return [
        notes[0] + (more.format(len(notes) - 1, what) if len(notes) > 1 else "") for notes in alike.values()
    ]


def _pairs(
    images: Sequence[Source], *, own_split: bool
) -> tuple[list[Path], list[Path], GivenParts | None, tuple[str, ...]]:
    """Image and label files of one folder of pairs; where asked, the split that the folder gives; lines for
    the report.
    """
    folder, found = images[0] if images else None, pairs_of_folder(images)
    # A single pair is one scene: no file of it can be held out.
    given = parts_given(folder, found.images) if own_split and len(found.images) > 1 else None
    unread = split_unread(folder) if own_split and given is None else ()
    return found.images, found.labels, given, (*found.report, *unread)


def one_each(images: Sequence[Source], labels: Sequence[str | Path]) -> list[str | Path]:
    """One label file per scene; a single one is used for all. Raises BadInput for another number."""
    if len(labels) == 1:
        return list(labels) * len(images)
    if len(labels) != len(images):
        raise BadInput(
            f"{len(images)} scenes and {len(labels)} label files: pass one label file per scene, or one for "
            "all."
        )
    return list(labels)


def label_table(
    images: Sequence[Source], labels: Sequence[str | Path], rules: LabelRules
) -> tuple[list[str | Path], ClassTable | None]:
    """The label file of each scene, and the classes of several together. Raises BadInput for another number
    of labels than of scenes, or masks that would be read wrongly.
    """
    labels = one_each(images, labels)
    # Before classes are counted: each grey of a soft mask would be one.
    _refuse_masks([f for f in labels if not is_vector(f)], rules)
    # Over all files: a class must have one index although some files lack it.
    return labels, classes_of(labels, rules) if len(labels) > 1 else None


def _refuse_masks(rasters: Sequence[str | Path], rules: LabelRules) -> None:
    """Raises BadInput for masks that would be read wrongly: every grey of a smoothed edge would become a
    class (judged by the first file), and 255 may mean a class or "not labelled".
    """
    if rasters and rules.threshold is None and is_soft_mask(found := tally(rasters[0])):
        raise BadInput(
            f"{rasters[0]} is a black and white mask with {len(found.counts)} grey values: it was saved "
            "lossily (JPEG) or resized by interpolation. Give the value from which pixels count as white, "
            "and name both classes: `threshold=128`, `classes={'other': 0, 'road': 1}`."
        )
    if look_like_masks(rasters, rules):
        raise BadInput(
            f"{rasters[0]} holds only 0 and 255, and 255 usually means 'not labelled'. If this is a mask, "
            "name both classes with `classes={'other': 0, 'building': 255}`; if 255 is unlabelled, pass "
            "`ignore_values=[255]`."
        )


def _files(
    images: Sequence[Source],
    labels: Sequence[str | Path],
    rules: LabelRules,
    reading: Mapping[str, Any],
    tick: Callable[[str], None] | None,
    hold: bool,
) -> _Files:
    """Scenes and labels to open. Raises BadInput for another number of labels, or masks that would be read
    wrongly; BadOption where an asset is chosen, and no scene is a STAC item.
    """
    if reading["asset"] is not None and not any(is_stac(image) for image in images):
        raise BadOption(
            f"`asset={reading['asset']}` chooses among the assets of STAC items, and there is no item."
        )
    labels, table = label_table(images, labels, rules)
    return _Files(images, labels, rules, table, reading, tick or (lambda name: None), hold)


@dataclass(frozen=True)
class _Files:
    """Scenes and labels to open, and how both are read."""

    images: Sequence[Source]
    labels: Sequence[str | Path]
    rules: LabelRules
    table: ClassTable | None
    reading: Mapping[str, Any]
    """Options of `open_scene`."""
    tick: Callable[[str], None]
    hold: bool


@dataclass(frozen=True, eq=False)
class Opening:
    """How a scene and its labels are opened: a value that can be sent to another process.

    table  the classes of all label files together
    units  that values are converted to, where the scene declares others
    reading  options of `open_scene`
    """

    source: Source
    label: str | Path
    rules: LabelRules
    table: ClassTable | None
    pixel_size: float | None
    units: Units | None
    reading: Mapping[str, Any]

    def __call__(self, opened: ExitStack) -> LabelledScene:
        """Open both, to be closed with `opened`. Raises BadFile, BadInput."""
        # Scenes are resampled before their labels are opened, which then lie on the resampled grid.
        scene = open_scene(self.source, pixel_size=self.pixel_size, **self.reading)
        if self.units not in (None, scene.units) and declares(scene.units):
            with scene as as_declared:
                scene = seen_as(as_declared, units=self.units)
        opened.enter_context(scene)
        own = open_labels(self.label, scene.grid, self.rules, table=self.table, scene_name=scene.name)
        opened.callback(own.close)
        return LabelledScene(scene, own, again=self)


def _of_one_kind(
    files: _Files, pixel_size: float | None, opened: ExitStack
) -> tuple[list[LabelledScene], list[str]]:
    """Scenes with their labels, at one pixel size and in one unit, and a line for each that was converted.

    A network learns sizes in pixels: all scenes are resampled to `pixel_size`; without it, those with finer
    pixels (see `match_pixels`) to the coarsest scene, because no resampling adds detail. Values are converted
    to the scale and offset that the first scene declares.
    """
    asked = [pixel_size] * len(files.images)
    scenes = _opened(files, asked, None, opened)
    first = scenes[0].scene
    # None without coordinates: such scenes are left as they are.
    sizes = [s.scene.grid.ground_pixel_size for s in scenes]
    coarsest = max((size for size in sizes if size), default=0)
    finer = [n for n, size in enumerate(sizes) if match_pixels(coarsest, size).is_finer]
    other_units = [n for n, s in enumerate(scenes) if _units_differ(first, s.scene)]
    if not finer and not other_units:
        return scenes, []
    report = []
    if finer:
        least, most = min(sizes[n] for n in finer), max(sizes[n] for n in finer)
        own = f"{least:.3g}" + ("" if f"{least:.3g}" == f"{most:.3g}" else f" to {most:.3g}")
        report.append(
            f"{_counted(scenes, finer)} resampled from {own} m to {coarsest:.3g} m, the pixel size of the "
            "coarsest scene"
        )
    if other_units:
        report.append(
            f"{_counted(scenes, other_units)} converted to the scale and offset that {first.name} declares"
        )
    # Scenes are resampled and converted as they are opened, but only all of them together say to what.
    opened.close()
    wanted = [coarsest if n in finer else size for n, size in enumerate(asked)]
    return _opened(files, wanted, first.units if other_units else None, opened), report


def _counted(scenes: Sequence[LabelledScene], which: Sequence[int]) -> str:
    """Scenes as the start of a sentence: one by its name, several by their number."""
    return f"{scenes[which[0]].name} is" if len(which) == 1 else f"{len(which)} of {len(scenes)} scenes are"


def _units_differ(first: Scene, other: Scene) -> bool:
    return declares(first.units) and declares(other.units) and other.units != first.units


def _opened(
    files: _Files, pixel_sizes: Sequence[float | None], units: Units | None, opened: ExitStack
) -> list[LabelledScene]:
    """Every scene with its labels, in memory as far as `held_bytes` allow. Raises BadInput where bands
    differ.
    """
    scenes: list[LabelledScene] = []
    # Asked once: what is held makes less memory free.
    held, most = 0, held_bytes() if files.hold else 0
    for source, label, size in zip(files.images, files.labels, pixel_sizes):
        one = Opening(source, label, files.rules, files.table, size, units, files.reading)(opened)
        if scenes and (problem := bands_differ(one.scene, scenes[0].scene)):
            raise BadInput(problem)
        # Pixels and a byte of label for each.
        held += one.scene.nbytes + one.scene.grid.window.pixels
        if held <= most:
            one = replace(one, scene=opened.enter_context(one.scene.hold()))
            one.labels.hold()
        scenes.append(one)
        files.tick(one.scene.name)
    return scenes
