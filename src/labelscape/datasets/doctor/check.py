"""Labels and images are checked before training reads them, and what is wrong is explained.

`check_data` never stops at the first problem and never fails on a broken file: everything becomes a
`Finding`.
Scenes are read window by window; what is kept per scene is a sketch of 4 KB and the counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from labelscape.datasets.doctor.codes import Read, burned, coded
from labelscape.datasets.doctor.findings import SEVERITIES, Finding, share, some
from labelscape.datasets.doctor.labels import (
    Tally,
    check_classes,
    check_values,
    class_names,
    is_hard_mask,
    reasoned,
    tally,
    thresholded,
)
from labelscape.datasets.doctor.polygons import check_polygons
from labelscape.datasets.doctor.shift import scene_matches, vote
from labelscape.datasets.doctor.twins import Sketch, Sketcher, check_twins
from labelscape.datasets.pairs import find_pairs
from labelscape.datasets.published.catalog import labelled
from labelscape.datasets.published.layout import Published
from labelscape.errors import BadInput, LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.labels.labels import found_in
from labelscape.labels.rules import ClassTable, LabelRules, is_vector, resolve_classes
from labelscape.legend import IGNORE
from labelscape.scenes.files import Source, source_text
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.raster import Scene

__all__ = ["Finding", "check_data", "check_published"]

SHIFT_WINDOWS = 400
"""Windows looked at for a shift, over all scenes: a few seconds, and enough for a vote."""


@dataclass
class _Ward:
    """What is gathered while scenes are looked at one by one."""

    spec: LabelRules
    findings: list[Finding] = field(default_factory=list)
    tallies: dict[str, Tally | None] = field(default_factory=dict)
    sketches: list[Sketch] = field(default_factory=list)
    matches: dict[str, list] = field(default_factory=dict)
    counts: dict[str | None, Counter] = field(default_factory=lambda: defaultdict(Counter))
    empty: list[str] = field(default_factory=list)
    masks: bool = False
    table: ClassTable | None = None

    def say(self, kind: str, severity: str, where: str, text: str, cure: str = "") -> None:
        self.findings.append(Finding(kind, severity, where, text, cure))


def check_data(
    images: Sequence[Source],
    labels: Sequence[str | Path] = (),
    *,
    spec: LabelRules = LabelRules(),
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    part_of: Sequence[str | None] | None = None,
    tick: Callable[[], object] | None = None,
) -> list[Finding]:
    """Check scenes and their labels; errors first, then warnings, then what the files hold.

    images, labels, spec, nodata, bands  as `open_dataset` takes them: one label file per scene, one for all,
                                         or a folder of pairs and no labels
    part_of                              per scene "train", "val", "test" or None; the same picture in two of
                                         them is then an error
    tick                                 called after every scene

    Raises BadInput only where labels and images cannot be paired at all.
    """
    if not labels:
        images, labels = find_pairs(images)
    if len(labels) == 1:
        labels = list(labels) * len(images)
    if len(labels) != len(images):
        raise BadInput(
            f"{len(images)} scenes and {len(labels)} label files: pass one label file per scene, or one for "
            "all."
        )
    parts = list(part_of) if part_of is not None else [None] * len(images)
    if len(parts) != len(images):
        raise BadInput(f"{len(images)} scenes and {len(parts)} parts: name the part of every scene.")
    ward = _Ward(spec)
    enough = min(60, max(4, SHIFT_WINDOWS // len(images)))
    for label in dict.fromkeys(map(str, labels)):
        if not is_vector(label):
            _count_values(ward, label)
    _check_masks(ward)
    ward.table = _shared_classes(labels, ward)
    for source, label, part in zip(images, labels, parts):
        _check_pair(ward, source, str(label), {"nodata": nodata, "bands": bands}, part, enough)
        if tick:
            tick()
    known = class_names(spec)
    names = (
        list(dict.fromkeys(n for n in known.values() if n != "(not used)"))
        if known
        else list(sum(ward.counts.values(), Counter()))
    )
    return _concluded(ward, len(images), names)


def check_published(found: Published, *, tick: Callable[[], object] | None = None) -> list[Finding]:
    """The same for a published data set: are all files whole, of one size with their labels, and of known
    values; does a picture stand in two parts?
    """
    ward = _Ward(LabelRules(legend=found.legend))
    enough = min(60, max(4, SHIFT_WINDOWS // len(found.pairs)))
    for pair in found.pairs:
        one = labelled(found, pair)
        label = str(pair.label) if pair.label is not None else f"{pair.name} (no labels)"
        try:
            with one.scene.for_thread() as scene:
                read = one.labels.read if pair.label is not None else None
                names = found.legend.names if read else None
                _read_once(ward, _Pair(scene, pair.name, label, pair.part, read, read, names), enough)
        except LabelscapeError as error:
            ward.findings.append(reasoned(error, "unreadable", pair.name))
        if tick:
            tick()
    for note in found.notes:
        ward.say("note", "info", found.name, note)
    return _concluded(ward, sum(pair.label is not None for pair in found.pairs), found.legend.names)


def _concluded(ward: _Ward, labels: int, names: Sequence[str]) -> list[Finding]:
    """What only all files together tell; all findings, worst first."""
    _check_empty(ward, labels)
    _check_shift(ward)
    if ward.counts:
        ward.findings += check_classes(ward.counts, names)
    ward.findings += check_twins(ward.sketches)
    return sorted(ward.findings, key=lambda f: SEVERITIES.index(f.severity))


def _shared_classes(labels: Sequence[str | Path], ward: _Ward) -> ClassTable | None:
    """The classes of all label files that can be read; None where they make none, which each file then says
    itself.
    """
    found = []
    for label in dict.fromkeys(map(str, labels)):
        with suppress(LabelscapeError):
            found.append(found_in(label, ward.spec))
    with suppress(LabelscapeError):
        return resolve_classes(found, ward.spec) if found else None


def _count_values(ward: _Ward, label: str) -> None:
    """The values of one label raster; all are counted before any scene is read, for what 255 means shows
    only in all of them.
    """
    ward.tallies[label] = None
    try:
        found = tally(label)
        ward.tallies[label] = (
            found if ward.spec.threshold is None else thresholded(found, ward.spec.threshold)
        )
        ward.findings += check_values(ward.tallies[label], ward.spec)
    except LabelscapeError as error:
        ward.findings.append(reasoned(error, "unreadable", label))


def _check_pair(
    ward: _Ward, source: Source, label: str, options: Mapping, split: str | None, enough: int
) -> None:
    """One scene and its label file; where the labels are beyond reading, the picture still counts."""
    name = ",".join(map(str, source)) if isinstance(source, (list, tuple)) else source_text(source)
    try:
        scene = open_scene(source, **options)
    except LabelscapeError as error:
        ward.findings.append(reasoned(error, "unreadable", name))
        return
    with scene, ExitStack() as opened:
        pair = _Pair(scene, name, label, split)
        try:
            if is_vector(label):
                pair = _with_polygons(ward, pair)
            elif (found := ward.tallies[label]) is not None and _check_grid(ward, found, scene, name):
                codes, names = opened.enter_context(coded(found, scene, ward.spec, ward.masks))
                pair = replace(pair, read=codes, codes=codes, names=names)
        except LabelscapeError as error:
            ward.findings.append(reasoned(error, "labels", label))
        _read_once(ward, pair, enough)


def _with_polygons(ward: _Ward, pair: _Pair) -> _Pair:
    """The pair with its polygons burned, unless they cannot be. Raises LabelscapeError where they cannot be
    read.
    """
    findings = check_polygons(pair.label, pair.scene.grid, ward.spec, ward.table, pair.scene.name)
    ward.findings += findings
    if any(f.severity == "error" for f in findings):
        return pair
    codes, read, names = burned(pair.label, pair.scene, ward.spec, ward.table)
    return replace(pair, read=read, codes=codes, names=names)


# -------------------------------------------------------------------------------------------------- two grids


def _check_grid(ward: _Ward, found: Tally, scene: Scene, name: str) -> bool:
    """Do a label raster and a scene cover the same pixels? False where they cannot be put onto each other."""
    mine, grid = found.grid, scene.grid
    if mine.matches(grid):
        return True
    if not (mine.is_georeferenced and grid.is_georeferenced):
        return mine.shape == grid.shape or _other_size(ward, found, grid, name)
    try:
        box = transform_bounds(mine.crs, grid.crs, *mine.bounds_of(mine.window))
    except (RasterioError, ValueError) as error:
        text = f"The labels' CRS {mine.crs.to_string()} cannot be brought to that of {name}: {error}."
        ward.say("crs", "error", found.source, text, "Check the CRS of both.")
        return False
    west, south, east, north = grid.bounds_of(grid.window)
    overlap = max(0, min(east, box[2]) - max(west, box[0])) * max(0, min(north, box[3]) - max(south, box[1]))
    covered = overlap / ((east - west) * (north - south))
    if not covered > 0:  # infinite bounds too: such a place is nowhere in the scene's CRS
        return _elsewhere(ward, found, grid, name)
    if covered < 0.99:
        text = f"The labels cover {100 * covered:.0f} % of {name}; the rest is not labelled."
        ward.say("partly", "info", found.source, text)
    _note_resampling(ward, found, grid, name)
    return True


def _other_size(ward: _Ward, found: Tally, grid: Grid, name: str) -> bool:
    """Says that two rasters without coordinates differ in size, and how they may have come to it. False."""
    mine = found.grid
    lacks = "the labels have" if not mine.is_georeferenced else "the image has"
    hint = " They are turned by a quarter." if mine.shape == grid.shape[::-1] else ""
    factor = grid.width / mine.width
    if abs(grid.height / mine.height - factor) < 0.01 * factor:
        hint = f" The same picture at {factor:g} times the size, it seems."
    text = (
        f"The labels are {mine.width} x {mine.height} pixels, {name} is {grid.width} x {grid.height}, and "
        f"{lacks} no coordinates that could bring them together.{hint}"
    )
    cure = "Is this the label file of this image?"
    if hint:
        cure = "Bring both to one size; enlarge or shrink labels by nearest neighbour, never smoothly."
    ward.say("size", "error", found.source, text, cure)
    return False


def _elsewhere(ward: _Ward, found: Tally, grid: Grid, name: str) -> bool:
    """Says that labels and scene do not overlap, and whether a wrong CRS is to blame. False."""
    mine = found.grid
    west, south, east, north = grid.bounds_of(grid.window)
    left, bottom, right, top = mine.bounds_of(mine.window)
    cure = "Check the CRS of both."
    if left < east and right > west and bottom < north and top > south:
        cure = (
            f"Their numbers lie inside the image in {grid.crs.to_string()}: the labels were given a wrong "
            "CRS."
        )
    text = (
        f"The labels ({mine.crs.to_string()}) and {name} ({grid.crs.to_string()}) do not overlap on the "
        "ground."
    )
    ward.say("no-overlap", "error", found.source, text, cure)
    return False


def _note_resampling(ward: _Ward, found: Tally, grid: Grid, name: str) -> None:
    """Says how label pixels are taken to the scene's: from another CRS, size or place within a pixel."""
    mine, label = found.grid, found.source
    if mine.crs != grid.crs:
        text = (
            f"The labels are in {mine.crs.to_string()}, {name} in {grid.crs.to_string()}; they are brought "
            "to it by nearest neighbour."
        )
        ward.say("crs", "info", label, text)
    ratio = (mine.ground_pixel_size or 1) / (grid.ground_pixel_size or 1)
    if not 0.98 < ratio < 1.02:
        text = (
            f"A label pixel is {ratio:.3g} times the size of an image pixel ({mine.ground_pixel_size:.3g} m "
            f"and {grid.ground_pixel_size:.3g} m)."
        )
        cure = "Fine labels are thinned by nearest neighbour."
        if ratio > 1:
            cure = "Expect stairs at the borders of classes."
        ward.say("pixel-size", "warning", label, text, cure)
    elif mine.crs == grid.crs:
        column, row = ~grid.transform @ (mine.transform @ (0, 0))
        apart = float(max(abs(column - round(column)), abs(row - round(row))))
        if apart > 0.05:
            text = (
                f"The two grids lie {apart:.2f} pixels apart within a pixel; labels are taken by nearest "
                "neighbour."
            )
            ward.say("sub-pixel", "info", label, text)


# -------------------------------------------------------------------------------------------- one look at all


@dataclass(frozen=True)
class _Pair:
    """One scene and its labels, ready to be read."""

    scene: Scene
    name: str
    label: str
    split: str | None
    """train, val or test, where that is known."""
    read: Read | None = None
    """The labels as training reads them; None where they cannot be read."""
    codes: Read | None = None
    """The labels for the search of shifts, where edges count more than classes."""
    names: Sequence[str] | None = None
    """Class names, where what `read` gives are classes."""


def _read_once(ward: _Ward, pair: _Pair, enough: int) -> None:
    """Read a scene and its labels to their ends; keep the sketch, the counts and how well edges meet."""
    scene, read = pair.scene, pair.read
    sketcher, label_hash = Sketcher(*scene.grid.shape), hashlib.blake2b(digest_size=16)
    counts, valid_pixels, on_nothing = np.zeros(256, np.int64), 0, 0
    try:
        for window in scene.grid.window.blocks(2048):
            patch = scene.read(window)
            sketcher.add(patch.pixels, patch.valid, window)
            valid_pixels += int(patch.valid.sum())
            if read is not None:
                indices = read(window)
                label_hash.update(indices)
                on_nothing += int((indices[~patch.valid] != IGNORE).sum())
                counts += np.bincount(indices[patch.valid], minlength=256)
    except (LabelscapeError, RasterioError, OSError) as error:
        kind = "unreadable" if isinstance(error, (OSError, RasterioError)) else "labels"
        ward.say(kind, "error", pair.name, str(error))
        return
    digest = label_hash.digest() if read else b""
    ward.sketches.append(sketcher.done(pair.name, scene.grid, pair.split, digest))
    if not valid_pixels:
        text = "The image holds no valid pixel: all is nodata."
        ward.say("no-data", "error", pair.name, text, "Check --nodata, or leave the file out.")
    elif read is not None:
        _keep_counts(ward, pair, counts[:IGNORE], on_nothing)
        _keep_matches(ward, pair, enough)


def _keep_counts(ward: _Ward, pair: _Pair, counts: np.ndarray, on_nothing: int) -> None:
    """Labelled pixels of a scene, (255,) by class, to those of its split; `on_nothing` more lie on nodata."""
    labelled = int(counts.sum())
    if on_nothing > labelled:
        text = (
            f"{share(on_nothing, on_nothing + labelled)} of the labels lie where {pair.name} has no data; "
            "they are not used."
        )
        ward.say("no-data", "warning", pair.label, text)
    elif not labelled and pair.names is not None:
        ward.empty.append(pair.label)
    for name, pixels in zip(pair.names or (), counts.tolist()):
        if pixels and name != "(not used)":
            ward.counts[pair.split][name] += pixels


def _keep_matches(ward: _Ward, pair: _Pair, enough: int) -> None:
    """How well label borders meet the edges of the image, in sampled windows."""
    if pair.codes is None:
        return

    def window_of(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patch = pair.scene.read(window)
        return patch.pixels, patch.valid, pair.codes(window)

    try:
        ward.matches[pair.name] = scene_matches(
            pair.scene.grid.window, window_of, enough=enough, most=8 * enough
        )
    except LabelscapeError as error:
        ward.say("labels", "error", pair.label, str(error))


# --------------------------------------------------------------------------------------------- over all files


def _check_masks(ward: _Ward) -> None:
    """Masks of 0 and 255 once for all files: where every label raster is one, 255 cannot be told from "not
    labelled".
    """
    read = [t for t in ward.tallies.values() if t is not None]
    if (
        read
        and all(is_hard_mask(t, ward.spec) for t in read)
        and all(any(v in t.counts for t in read) for v in (0, IGNORE))
    ):
        ward.masks = True
        total = sum((t.counts for t in read), Counter())
        shares = f"{share(total[0], total.total())} and {share(total[IGNORE], total.total())}"
        ward.say(
            "mask",
            "error",
            "all files" if len(read) > 1 else read[0].source,
            f"The labels hold only 0 and 255 ({shares}), and 255 usually means 'not labelled'.",
            (
                "If it is a mask, name both classes with --classes other=0,building=255; if 255 is "
                "unlabelled, "
                "say so with --ignore-value 255."
            ),
        )


def _check_empty(ward: _Ward, files: int) -> None:
    if ward.empty:
        ward.say(
            "all-ignored",
            "error" if len(ward.empty) == files else "warning",
            ward.empty[0] if len(ward.empty) == 1 else "all files",
            (
                f"{len(ward.empty)} of {files} label files label nothing: every pixel is 255, nodata or "
                f"ignored: {some(ward.empty, 4)}."
            ),
            "Leave them out, or check the values that mean 'not labelled'.",
        )


def _check_shift(ward: _Ward) -> None:
    """One vote over all scenes; where that is not clear, one for every scene large enough for a vote of
    its own.
    """
    pooled = vote([match for found in ward.matches.values() for match in found])
    votes = {"all files" if len(ward.matches) > 1 else next(iter(ward.matches), ""): pooled}
    if not (pooled and pooled.clear) and len(ward.matches) > 1:
        votes = {name: vote(found) for name, found in ward.matches.items() if len(found) >= 8}
    for where, shift in votes.items():
        if shift and shift.clear:
            ward.say(
                "shift",
                "warning",
                where,
                f"The labels seem shifted by {shift.right}, {shift.down} pixels (right, down): there their "
                "borders meet the edges of the image best "
                f"({shift.windows} windows agree).",
                (
                    f"Look at both in a map; if it is so, move the labels by {-shift.right}, {-shift.down} "
                    "pixels."
                ),
            )
