"""The values or colours in label rasters and their shares, and the classes over all files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from labelscape.datasets.doctor.findings import Finding, share
from labelscape.errors import LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.labels.class_names import names_of_values
from labelscape.labels.rules import LabelRules, mask_legend
from labelscape.labels.values import FractionalValues, LabelBand, compression_of
from labelscape.legend import IGNORE
from labelscape.scenes.files import late_failures, reading
from labelscape.scenes.georeference import grid_of
from labelscape.scenes.validity import bands_and_validity
from labelscape.text import some

Colour = tuple[int, int, int]
MOST_VALUES = 4096
"""Files with more values or colours than this are images or measurements, not classes."""


@dataclass(frozen=True)
class Tally:
    """The pixel count of every value (or colour) of one label raster. `kind` says how it can be read.

    values     one band of integers
    colours    three bands, classes encoded as colours
    grey       three equal bands; counts are those of the first
    fractions  one band with fractional values
    picture    too many values or colours to be classes
    """

    source: str
    kind: str
    counts: Counter
    grid: Grid
    ignored: tuple[int, ...] = (IGNORE,)
    """Values that mean "not labelled" unless they have a class: 255, and what the file declares."""
    palette: Mapping[int, Colour] = field(default_factory=dict)
    compression: str | None = None
    """Its lossy compression."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of values that are stored with the file."""

    @property
    def pixels(self) -> int:
        return sum(self.counts.values())


def tally(source: str | Path) -> Tally:
    """Count every value or colour of a label raster, block by block. Raises BadFile where it cannot be read
    completely.
    """
    with reading(source) as dataset:
        bands = list(bands_and_validity(dataset, alpha="mask").bands[:3])
        # One band or two: the values are in the first.
        bands = bands if len(bands) == 3 else bands[:1] or [1]
        grid = grid_of(dataset)
        palette = {}
        if dataset.colorinterp[0] == ColorInterp.palette:
            palette = {value: tuple(colour[:3]) for value, colour in dataset.colormap(1).items()}
        counts: Counter = Counter()
        kind, grey, band = "values" if len(bands) == 1 else "colours", True, LabelBand(dataset)
        for window in grid.window.blocks(2048):
            if kind == "colours":
                pixels = _colours(dataset, bands, window)
                # (3, 1, N): what a mask leaves out is no class, whatever it looks like.
                pixels = pixels[:, band.seen(window)][:, None]
                # Grey masks saved as RGB: three equal bands are one.
                grey = grey and bool((pixels == pixels[:1]).all())
            else:
                try:
                    values, unlabelled = band.read(window)
                except FractionalValues:
                    kind = "fractions"
                    break
                # Complex numbers are refused elsewhere; here they are only counted.
                pixels = (values if unlabelled is None else values[~unlabelled])[None].real
            counts.update(_counted(pixels))
            # Stop here: a photograph has millions of colours, and counting them would fill the memory.
            if len(counts) > MOST_VALUES:
                kind = "picture"
                break
        if kind == "colours" and grey:
            kind, counts = "grey", Counter({colour[0]: n for colour, n in counts.items()})
        told = band.ignored(LabelRules()), palette, compression_of(dataset)
        return Tally(str(source), kind, counts, grid, *told, names_of_values(source, dataset))


def _colours(dataset: rasterio.DatasetReader, bands: list[int], window: Window) -> np.ndarray:
    with late_failures(dataset.name):
        return dataset.read(bands, window=window.rio)


def thresholded(found: Tally, threshold: int) -> Tally:
    """The counts of a grey mask as those of its two classes, 0 and 1."""
    if found.kind not in ("values", "grey"):
        return found
    bright = sum(n for value, n in found.counts.items() if value >= threshold)
    return replace(found, counts=+Counter({0: found.pixels - bright, 1: bright}), palette={})


def _counted(pixels: np.ndarray) -> dict:
    """(1, H, W) -> value: pixels; (3, H, W) -> colour: pixels."""
    if len(pixels) == 1:
        if pixels.dtype == np.uint8:
            counts = np.bincount(pixels.ravel(), minlength=256)
            return {int(v): int(counts[v]) for v in np.nonzero(counts)[0]}
        values, counts = np.unique(pixels, return_counts=True)
        return dict(zip([int(v) for v in values], counts.tolist()))
    packed = (
        (pixels[0].astype(np.int64) << 32) | (pixels[1].astype(np.int64) << 16) | pixels[2].astype(np.int64)
    )
    values, counts = np.unique(packed, return_counts=True)
    return {(int(v) >> 32, int(v) >> 16 & 0xFFFF, int(v) & 0xFFFF): int(n) for v, n in zip(values, counts)}


def class_names(spec: LabelRules) -> dict[int, str] | None:
    """Value in label rasters -> class name, as training will read it; None where the rules do not name the
    classes.
    """
    if spec.threshold is not None:
        return dict(enumerate(mask_legend(spec).names))
    stored = (
        dict(spec.classes)
        if spec.classes
        else {c.name: c.value for c in spec.legend.classes}
        if spec.legend and not spec.merge
        else None
    )
    if stored is None:
        return None
    new_name = {old: new for new, olds in spec.merge.items() for old in olds}
    return {value: new_name.get(name, "(not used)") if spec.merge else name for name, value in stored.items()}


def ignored(found: Tally, spec: LabelRules) -> set[int]:
    """Values of this file that mean "not labelled", as `LabelBand.ignored` has them."""
    if spec.threshold is not None:
        return {*found.ignored, *spec.ignore_values} - set(class_names(spec))
    return {*found.ignored}.difference((spec.classes or {}).values()) | {*spec.ignore_values}


def is_soft_mask(found: Tally) -> bool:
    """Is this a black and white mask with greys at its edges, saved as JPEG or resized by interpolation?"""
    if found.kind not in ("values", "grey") or len(found.counts) < 5 or not {0, IGNORE} & found.counts.keys():
        return False
    poles = sum(n for v, n in found.counts.items() if 0 <= v <= 40 or 215 <= v <= 255)
    between = [v for v in found.counts if 40 < v < 215]
    bright = sum(n for v, n in found.counts.items() if 215 <= v < 255)
    return (
        min(found.counts) >= 0
        and max(found.counts) <= 255
        and max(found.counts) > 40
        and poles > 0.9 * found.pixels
        and (len(between) > 2 or bright > 0)
    )


def is_hard_mask(found: Tally, spec: LabelRules) -> bool:
    """Are there only 0 and 255, and the rules do not say what 255 means?"""
    if (
        found.kind not in ("values", "grey")
        or len(found.ignored) > 1
        or IGNORE in spec.ignore_values
        or IGNORE in (class_names(spec) or {})
    ):
        return False
    return set(found.counts) <= {0, IGNORE}


def check_values(found: Tally, rules: LabelRules) -> list[Finding]:
    """The values of one label raster, and whether training can read them."""
    if found.kind in ("fractions", "picture", "colours"):
        return [_no_values(found)]
    where, findings = found.source, []
    if found.kind == "grey":
        findings.append(Finding("grey-bands", "info", where, "Its three bands are equal: read as one."))
    if is_soft_mask(found):
        text = (
            f"A black and white mask with {len(found.counts)} grey values: it was saved lossily (JPEG) or "
            f"resized by interpolation. {_shares(found, rules, 6)}."
        )
        cure = (
            "Give the value from which pixels are white: `threshold=128`, `classes={'other': 0, 'road': 1}`."
        )
        return [*findings, Finding("grey-mask", "error", where, text, cure)]
    if found.compression and rules.threshold is None and len(found.counts) > 2:
        text = (
            f"The labels were saved as {found.compression}, which changes values: {_shares(found, rules, 8)}."
        )
        cure = "Export them again as PNG or GeoTIFF without loss; a mask can be cut with `threshold=128`."
        return [*findings, Finding("lossy", "error", where, text, cure)]
    findings.append(Finding("values", "info", where, f"{_shares(found, rules, 24)}."))
    if found.palette:
        known = [value for value in sorted(found.counts) if value in found.palette]
        colours = some([f"{v} is ({', '.join(map(str, found.palette[v]))})" for v in known])
        text = f"The file has a colour table: the values above are displayed as colours: {colours}."
        named = class_names(rules) or found.names
        cure = "Name the values with `classes`; the colours are for display only."
        # Names that travel with the raster are known already.
        cure = "" if set(found.counts) <= set(named) else cure
        findings.append(Finding("palette", "info", where, text, cure))
    return findings + _unknown(found, rules)


def _no_values(found: Tally) -> Finding:
    """Why a file is no raster of class values: fractions, an image, or classes encoded as colours."""
    if found.kind == "fractions":
        text = "The file has fractional values; labels must be integers."
        return Finding(
            "fractions", "error", found.source, text, "Is this a probability map? Save class values."
        )
    if found.kind == "picture":
        what = "colours" if isinstance(next(iter(found.counts)), tuple) else "values"
        text = f"More than {MOST_VALUES} different {what}: this is an image or a measurement."
        cure = (
            "Pass the label file. If this is one, it was saved lossily (JPEG) or smoothed: create it "
            "again as "
            "PNG or GeoTIFF."
        )
        return Finding("picture", "error", found.source, text, cure)
    # The most frequent first: of colours blurred by compression these are the true ones.
    most = found.counts.most_common()
    shown = some([f"({r}, {g}, {b}) {share(n, found.pixels)}" for (r, g, b), n in most], 12)
    text = f"Classes are encoded as {len(most)} colours: {shown}."
    cure = "Convert the colours to class values 0, 1, 2, ... in one band, then name them with `classes`."
    return Finding("colours", "error", found.source, text, cure)


def _unknown(found: Tally, spec: LabelRules) -> list[Finding]:
    """Values without a class; where the rules name no classes, values outside 0 to 254."""
    known, skipped = class_names(spec), ignored(found, spec)
    strange = [
        v
        for v in sorted(found.counts)
        if v not in skipped and (v not in known if known is not None else not 0 <= v < IGNORE)
    ]
    if strange:
        pixels = sum(found.counts[v] for v in strange)
        have = (
            ", ".join(f"{v} {name}" for v, name in sorted((known or {}).items()))
            or "class values are 0 to 254"
        )
        subject, verb = (
            (f"values {some(strange)}", "have") if len(strange) > 1 else (f"value {strange[0]}", "has")
        )
        text = f"The {subject} ({share(pixels, found.pixels)} of the pixels) {verb} no class ({have})."
        cure = f"Add `classes={{'NAME': {strange[0]}}}`, or "
        cure += f"`ignore_values=[{strange[0]}]` if it means 'not labelled'."
        return [Finding("no-class", "error", found.source, text, cure)]
    classes = [v for v in found.counts if v not in skipped]
    # More than most legends have: probably heights or counts.
    if known is None and len(classes) > 40:
        return [
            Finding(
                "many-values",
                "warning",
                found.source,
                f"{len(classes)} different values would become {len(classes)} classes.",
                "Is this a label raster? Name its classes with `classes`.",
            )
        ]
    return []


def _shares(found: Tally, spec: LabelRules, most: int) -> str:
    """`0 other 83.1 %, 1 road 16.9 %`, largest first."""
    known, skipped = class_names(spec), ignored(found, spec)

    def named(value: int) -> str:
        if value in skipped:
            return "(not labelled)"
        if known is None:
            return found.names.get(value) or f"class {value}"
        return known.get(value, "(no class)")

    return some(
        [f"{value} {named(value)} {share(n, found.pixels)}" for value, n in found.counts.most_common()], most
    )


def counted(classes: int) -> str:
    return f"{classes} class{'es' * (classes != 1)}"


def check_classes(counts: Mapping[str | None, Counter], names: Sequence[str]) -> list[Finding]:
    """Classes over all files: shares, rare and absent ones, and those missing in a split.

    counts  split (or None) -> class name -> labelled pixels
    """
    findings = []
    total = sum(counts.values(), Counter())
    whole = sum(total.values())
    if not whole:
        return [
            Finding(
                "nothing-labelled",
                "error",
                "all files",
                "No pixel has a class.",
                "Check the classes and the values that mean 'not labelled'.",
            )
        ]
    table = some([f"{name} {share(n, whole)}" for name, n in total.most_common()], 24)
    findings.append(
        Finding("classes", "info", "all files", f"{counted(len(names))}, {whole:,} labelled pixels: {table}.")
    )
    for name in names:
        if not total[name]:
            findings.append(
                Finding(
                    "absent-class",
                    "warning",
                    "all files",
                    f"The class {name!r} has no pixel in any file.",
                    "Remove it, or check its value.",
                )
            )
        elif total[name] < 1e-3 * whole:
            # One in a thousand (ours): few training crops contain it.
            text = (
                f"The class {name!r} is rare: {total[name]:,} pixels, {share(total[name], whole)} of the "
                "labelled "
                "pixels."
            )
            findings.append(
                Finding(
                    "rare-class",
                    "info",
                    "all files",
                    text,
                    "Train with sampling=balanced, or label more of it.",
                )
            )
    return findings + _check_splits(counts, [name for name in names if total[name]])


def _check_splits(counts: Mapping[str | None, Counter], names: Sequence[str]) -> list[Finding]:
    """Classes of the data set that a split lacks."""
    findings = []
    for split in [s for s in counts if s]:
        missing = [name for name in names if not counts[split][name]]
        # A class without training pixels makes the model wrong; one without test pixels only the score
        # partial.
        severity = "error" if split == "train" else "warning"
        what = (
            "cannot be learned" if split == "train" else "cannot be scored and is excluded from mean scores"
        )
        if missing:
            text = f"{some(missing)}: no pixel in the {split} split; {what}."
            findings.append(Finding("absent-class", severity, split, text, "Move files between the splits."))
    return findings


def reasoned(error: LabelscapeError, kind: str, where: str) -> Finding:
    """An error of a reader as a finding; its message already says what to do."""
    # The finding names the file, so the message need not start with it again.
    return Finding(kind, "error", where, str(error).removeprefix(f"{where} "))
