"""Check images and labels before training reads them, and explain what is wrong.

`check_data` never stops at the first problem and never fails on a broken file: everything becomes a
`Finding`. Scenes are read window by window; what is kept per scene is a fingerprint of 4 KB and the counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.contract.alike import seen_in_pieces, unlike
from labelscape.contract.bands import band_statistics, finer_than_32_bits
from labelscape.contract.difference import REFUSED
from labelscape.contract.values import undeclared_nodata
from labelscape.datasets.doctor.codes import burned, coded
from labelscape.datasets.doctor.findings import SEVERITIES, Finding, share
from labelscape.datasets.doctor.grids import check_grids
from labelscape.datasets.doctor.labels import (
    check_classes,
    check_values,
    class_names,
    is_hard_mask,
    reasoned,
    tally,
    thresholded,
)
from labelscape.datasets.doctor.polygons import check_polygons
from labelscape.datasets.doctor.reading import Pair, Results, read_once
from labelscape.datasets.doctor.shift import vote
from labelscape.datasets.doctor.twins import check_twins
from labelscape.datasets.labelled import bands_differ
from labelscape.datasets.pairs import listed, pairs_of_folder
from labelscape.datasets.published.catalog import labelled
from labelscape.datasets.published.layout import Published
from labelscape.errors import BadInput, LabelscapeError
from labelscape.labels.codings import ONE_WAY, two_codings
from labelscape.labels.labels import found_in, open_labels
from labelscape.labels.rules import ClassTable, LabelRules, resolve_classes, too_few_classes, without_effect
from labelscape.legend import IGNORE
from labelscape.scenes.files import Source, source_text
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene import Scene
from labelscape.scenes.vectors import is_vector
from labelscape.text import some

__all__ = ["Finding", "check_data", "check_published"]

MOST_SEEN = 32
"""Scenes whose values are compared with each other (ours)."""
SHIFT_WINDOWS = 400
"""Windows searched for a shift, over all scenes: a few seconds, and enough for a vote."""


def check_data(
    images: str | Path | Sequence[Source],
    labels: str | Path | Sequence[str | Path] = (),
    *,
    spec: LabelRules | Mapping[str, Any] = LabelRules(),
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    asset: str | None = None,
    part_of: Sequence[str | None] | None = None,
    tick: Callable[[], object] | None = None,
) -> list[Finding]:
    """Check scenes and their labels; errors first, then warnings, then what the files hold.

    images, labels, ... asset  as `open_dataset` takes them: one label file per scene, one for all, or a
                               folder of pairs and no labels
    part_of                    per scene "train", "val", "test" or None; the same image in two splits is then
                               an error
    tick                       called after every scene

    Raises BadInput only where labels and images cannot be paired at all.
    """
    spec, paired = LabelRules.of(spec), ()
    images, labels = listed(images), listed(labels)
    if not labels:
        found = pairs_of_folder(images)
        images, labels, paired = found.images, found.labels, found.report
    if len(labels) == 1:
        labels = list(labels) * len(images)
    if len(labels) != len(images):
        raise BadInput(
            f"{len(images)} scenes and {len(labels)} label files: pass one label file per scene, or one for "
            "all."
        )
    splits = list(part_of) if part_of is not None else [None] * len(images)
    if len(splits) != len(images):
        raise BadInput(f"{len(images)} scenes and {len(splits)} splits: name the split of every scene.")
    results = Results(spec, several=len(images) > 1)
    spec = results.spec = _check_options(results, labels)
    for line in paired:
        results.add("pairs", "info", "all files", line)
    # Before any file is checked by itself: whether a value has a class depends on all files.
    results.table = _shared_classes(labels, results)
    results.spec = _spelled_out(spec, results.table)
    # Shared out over the scenes; a vote needs at least four windows.
    enough = min(60, max(4, SHIFT_WINDOWS // len(images)))
    # One label file may serve many scenes: it is counted once.
    for label in dict.fromkeys(map(str, labels)):
        if not is_vector(label):
            _count_values(results, label)
    _check_masks(results)
    reading = {"nodata": nodata, "bands": bands, "band_names": band_names, "asset": asset}
    for source, label, split in zip(images, labels, splits):
        _check_pair(results, source, str(label), reading, split, enough)
        if tick:
            tick()
    # Without named classes those that were met, in the order in which they were met.
    known = class_names(results.spec)
    names = known.values() if known else sum(results.counts.values(), Counter())
    return _concluded(results, len(images), [n for n in dict.fromkeys(names) if n != "(not used)"])


def _check_options(results: Results, labels: Sequence[str | Path]) -> LabelRules:
    """The rules, without those for rasters where all labels are polygons: they would add classes to them."""
    vector = [is_vector(label) for label in labels]
    for line in without_effect(results.spec, rasters=not all(vector), polygons=any(vector)):
        results.add("options", "warning", "all files", f"{line}.")
    return replace(results.spec, threshold=None, ignore_values=()) if all(vector) else results.spec


def check_published(found: Published, *, tick: Callable[[], object] | None = None) -> list[Finding]:
    """The same for a published data set: are all files complete, of one size with their labels, and of known
    values; is an image in two splits? Problems become findings; nothing is raised for a damaged file.
    """
    results = Results(LabelRules(legend=found.legend))
    enough = min(60, max(4, SHIFT_WINDOWS // len(found.pairs)))
    for pair in found.pairs:
        one = labelled(found, pair)
        # Images of a benchmark's test split have no labels, and are checked for damage and duplicates only.
        label = str(pair.label) if pair.label is not None else f"{pair.name} (no labels)"
        try:
            # Opened for this pair only: data sets have more files than a process may keep open.
            with one.scene.for_thread() as scene:
                read = one.labels.read if pair.label is not None else None
                names = found.legend.names if read else None
                read_once(results, Pair(scene, pair.name, label, pair.part, read, read, names), enough)
        except LabelscapeError as error:
            results.findings.append(reasoned(error, "unreadable", pair.name))
        if tick:
            tick()
    for note in found.notes:
        results.add("note", "info", found.name, note)
    return _concluded(results, sum(pair.label is not None for pair in found.pairs), found.legend.names)


def _concluded(results: Results, labels: int, names: Sequence[str]) -> list[Finding]:
    """The checks that need all files; all findings, worst first."""
    _check_empty(results, labels)
    _check_shift(results)
    for line in unlike(results.seen):
        text, _, cure = line.partition(". ")
        results.add("units", "warning", "all files", f"{text[0].upper()}{text[1:]}.", f"{cure}.")
    # Each file may be good by itself, and together they are not: training refuses them all the same.
    if results.refused and not any(f.severity == "error" for f in results.findings):
        results.findings.append(reasoned(results.refused, "classes", "all files"))
    if results.counts:
        results.findings += check_classes(results.counts, names)
        legend = results.table.legend.names if results.table else names
        met = sum(results.counts.values(), Counter())
        # Polygons that others cover give their class no pixel.
        if met and (few := too_few_classes([name for name in legend if met[name]])):
            results.add("one-class", "error", "all files", *few)
    # Last, over all: duplicates of an image may lie at either end of the list.
    results.findings += check_twins(results.sketches)
    return sorted(results.findings, key=lambda f: SEVERITIES.index(f.severity))


# ------------------------------------------------------------------------------------------------ the classes


def _shared_classes(labels: Sequence[str | Path], results: Results) -> ClassTable | None:
    """The classes of all label files that can be read; None where they make none. Each file's own check
    says why, except for a merge of classes that rasters lack.
    """
    found = []
    for label in dict.fromkeys(map(str, labels)):
        with suppress(LabelscapeError):
            found.append(found_in(label, results.spec))
    try:
        return resolve_classes(found, results.spec) if found else None
    except LabelscapeError as error:
        results.refused = error
        if results.spec.merge and any(f.values for f in found):
            results.findings.append(reasoned(error, "merge", "all files"))
        return None


def _spelled_out(rules: LabelRules, table: ClassTable | None) -> LabelRules:
    """The rules with the names of raster values, such as `class 7`, made explicit where a merge relies on
    them, so that every later check shows the merged classes.
    """
    if table is None or not rules.merge or rules.classes or rules.threshold is not None:
        return rules
    if not table.called:
        return rules
    merge = {
        new: tuple(name for value, name in table.called.items() if table.index_of.get(value) == index)
        for index, new in enumerate(table.legend.names)
        if new in rules.merge
    }
    return replace(rules, classes={n: v for v, n in table.called.items()}, merge=merge)


def _count_values(results: Results, label: str) -> None:
    """Count the values of one label raster. All rasters are counted before any scene is read: whether 255 is
    a class or "unlabelled" shows only in all of them together.
    """
    # Set first: a file that cannot be read stays in the table as such.
    results.tallies[label] = None
    try:
        found = tally(label)
        threshold = results.spec.threshold
        results.tallies[label] = found if threshold is None else thresholded(found, threshold)
        results.findings += check_values(results.tallies[label], results.spec)
    except LabelscapeError as error:
        results.findings.append(reasoned(error, "unreadable", label))


# ----------------------------------------------------------------------------------------------- pair by pair


def _check_pair(
    results: Results, source: Source, label: str, options: Mapping, split: str | None, enough: int
) -> None:
    """One scene and its label file; where the labels cannot be read, the image is still checked."""
    name = ",".join(map(str, source)) if isinstance(source, (list, tuple)) else source_text(source)
    try:
        scene = open_scene(source, **options)
    except LabelscapeError as error:
        results.findings.append(reasoned(error, "unreadable", name))
        return
    with scene, ExitStack() as opened:
        results.first = results.first or scene
        if problem := bands_differ(scene, results.first):
            results.add("bands", "error", name, problem)
        for note in scene.notes:
            results.add("file", "info", name, as_sentence(note, name))
        _check_nodata(results, scene, name)
        _check_spread(results, scene, name)
        if (left := MOST_SEEN - len(results.seen)) > 0:
            with suppress(LabelscapeError):
                results.seen += seen_in_pieces(scene, name, left)
        pair = Pair(scene, name, label, split)
        try:
            if is_vector(label):
                pair = _with_polygons(results, pair)
            elif results.tallies[label] is not None:
                pair = _with_raster(results, pair, opened)
        except LabelscapeError as error:
            results.findings.append(reasoned(error, "labels", label))
        read_once(results, pair, enough)


def as_sentence(note: str, name: str) -> str:
    """A note on the file `name` as a sentence. One that begins with a file's name is not given a capital."""
    named = note.startswith(Path(name).stem) or re.match(r"\S*\.\w", note)
    return f"{note if named else note[0].upper() + note[1:]}."


def _check_nodata(results: Results, scene: Scene, name: str) -> None:
    """A border or a fill value that is not declared: refused by training where the scene has coordinates."""
    with suppress(LabelscapeError):  # a damaged file has its own finding
        if found := undeclared_nodata(scene):
            severity = "error" if found.level == REFUSED else "info"
            results.add("nodata", severity, name, as_sentence(found.cause, name))


def _check_spread(results: Results, scene: Scene, name: str) -> None:
    """Values that 32-bit numbers cannot tell apart, which training refuses."""
    if np.can_cast(scene.dtype, np.float32):
        return
    with suppress(LabelscapeError):  # as above; and a scene that is all nodata has no values
        if found := finer_than_32_bits(band_statistics([scene], most_blocks=4), scene.dtype):
            results.add("precision", "error", name, as_sentence(found, name))


def _with_raster(results: Results, pair: Pair, opened: ExitStack) -> Pair:
    """The pair with its label raster, open in `opened`, unless the two grids do not go together. Raises
    LabelscapeError where the raster cannot be read.
    """
    found = results.tallies[pair.label]
    findings = check_grids(found, pair.scene.grid, pair.name)
    results.findings += findings
    # The image is still checked by itself; only its labels are left out.
    if any(f.severity == "error" for f in findings):
        return pair
    codes, names = opened.enter_context(coded(found, pair.scene, results.spec, results.masks))
    # Where something is known to be wrong, its finding says more than the reader's message.
    if any(f.severity == "error" and f.where in (pair.label, "all files") for f in results.findings):
        return replace(pair, read=codes, codes=codes, names=names)
    # The very reading of training: what it refuses is an error here, in its own words.
    table, name = results.table, pair.scene.name
    labels = open_labels(pair.label, pair.scene.grid, results.spec, table=table, scene_name=name)
    opened.callback(labels.close)
    told = tuple(f.text.lower() for f in findings)  # how its grid is resampled is a note of the labels too
    results.findings += [
        Finding("labels", "warning", str(pair.label), note)
        for note in labels.notes
        if not f"{note}.".lower().endswith(told)
    ]
    return replace(pair, read=labels.read, codes=codes, names=labels.legend.names)


def _with_polygons(results: Results, pair: Pair) -> Pair:
    """The pair with its polygons burned, unless none can be. Raises LabelscapeError where they cannot be
    read.
    """
    found = results.spec, results.table, pair.scene.name
    findings = check_polygons(pair.label, pair.scene.grid, *found, several=results.several)
    results.findings += findings
    if any(f.severity == "error" for f in findings):
        return pair
    codes, read, names = burned(pair.label, pair.scene, results.spec, results.table)
    return replace(pair, read=read, codes=codes, names=names)


# --------------------------------------------------------------------------------------------- over all files


def _check_masks(results: Results) -> None:
    """Black and white masks: where every label raster holds only 0 and 255, or some of them are written in
    another way than the others, one finding for all of them.
    """
    read = [t for t in results.tallies.values() if t is not None]
    named = results.spec.threshold is not None or class_names(results.spec) or results.spec.ignore_values
    whole = {t.source: t.counts for t in read if t.kind in ("values", "grey")}
    if not named and (problem := two_codings(whole)):
        results.add("codings", "warning", "all files", problem, ONE_WAY)
    if (
        read
        and all(is_hard_mask(t, results.spec) for t in read)
        and all(any(v in t.counts for t in read) for v in (0, IGNORE))
    ):
        results.masks = True
        total = sum((t.counts for t in read), Counter())
        shares = f"{share(total[0], total.total())} and {share(total[IGNORE], total.total())}"
        results.add(
            "mask",
            "error",
            "all files" if len(read) > 1 else read[0].source,
            f"The labels hold only 0 and 255 ({shares}), and 255 usually means 'not labelled'.",
            (
                "If this is a mask, name both classes with `classes={'other': 0, 'building': 255}`; if 255 "
                "is unlabelled, pass `ignore_values=[255]`."
            ),
        )


def _check_empty(results: Results, files: int) -> None:
    if results.empty:
        results.add(
            "all-ignored",
            "error" if len(results.empty) == files else "warning",
            results.empty[0] if len(results.empty) == 1 else "all files",
            (
                f"{len(results.empty)} of {files} label files have no labelled pixel where their image has "
                f"data: every pixel is 255, nodata, ignored or outside the area: {some(results.empty, 4)}."
            ),
            "Leave them out, or check the values that mean 'not labelled'.",
        )


def _check_shift(results: Results) -> None:
    """One vote over all scenes; where that is not clear, one for every scene large enough for its own."""
    pooled = vote([match for found in results.matches.values() for match in found])
    votes = {"all files" if len(results.matches) > 1 else next(iter(results.matches), ""): pooled}
    # Scenes shifted differently cancel out in the common vote, and show in their own.
    if not (pooled and pooled.clear) and len(results.matches) > 1:
        votes = {name: vote(found) for name, found in results.matches.items() if len(found) >= 8}
    for where, shift in votes.items():
        if shift and shift.clear:
            results.add(
                "shift",
                "warning",
                where,
                f"The labels seem shifted by {shift.right}, {shift.down} pixels (right, down): there label "
                f"borders match the edges of the image best ({shift.windows} windows agree).",
                (
                    f"Compare both in a GIS; if confirmed, move the labels by {-shift.right}, "
                    f"{-shift.down} pixels."
                ),
            )
