"""One pass over a scene and its labels: the fingerprint, the class counts and the edge matches that later
checks compare over all files.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from labelscape.contract.alike import Seen
from labelscape.datasets.doctor.codes import Read
from labelscape.datasets.doctor.findings import Finding, share
from labelscape.datasets.doctor.labels import Tally
from labelscape.datasets.doctor.shift import scene_matches
from labelscape.datasets.doctor.twins import Sketch, Sketcher
from labelscape.errors import LabelscapeError
from labelscape.grid import Window
from labelscape.labels.rules import ClassTable, LabelRules
from labelscape.legend import IGNORE
from labelscape.scenes.files import READ_FAILURES
from labelscape.scenes.raster import Scene


@dataclass
class Results:
    """What is collected while scenes are checked one by one."""

    spec: LabelRules
    findings: list[Finding] = field(default_factory=list)
    tallies: dict[str, Tally | None] = field(default_factory=dict)
    """Label raster -> its values; None where it cannot be read."""
    sketches: list[Sketch] = field(default_factory=list)
    matches: dict[str, list] = field(default_factory=dict)
    """Scene -> `edge_match` of its windows."""
    counts: dict[str | None, Counter] = field(default_factory=lambda: defaultdict(Counter))
    """Split -> class name -> labelled pixels."""
    seen: list[Seen] = field(default_factory=list)
    """What the values of the first scenes look like."""
    empty: list[str] = field(default_factory=list)
    """Label files without a labelled pixel."""
    masks: bool = False
    """All label rasters hold nothing but 0 and 255."""
    table: ClassTable | None = None
    refused: LabelscapeError | None = None
    """Why the classes of all files make no table."""
    several: bool = False
    """Is there more than one scene?"""
    first: Scene | None = None
    """The scene whose bands all must have; it may be closed."""

    def add(self, kind: str, severity: str, where: str, text: str, cure: str = "") -> None:
        self.findings.append(Finding(kind, severity, where, text, cure))


@dataclass(frozen=True)
class Pair:
    """One scene and its labels, ready to be read."""

    scene: Scene
    name: str
    label: str
    split: str | None
    """train, val or test, where that is known."""
    read: Read | None = None
    """The labels as training reads them; None where they cannot be read."""
    codes: Read | None = None
    """The labels for the search for a shift, where edges count more than classes."""
    names: Sequence[str] | None = None
    """Class names, where what `read` gives are classes."""


def read_once(results: Results, pair: Pair, enough: int) -> None:
    """Read a scene and its labels window by window; keep the fingerprint, the counts and, of `enough`
    windows, how well label borders match image edges.
    """
    scene, read = pair.scene, pair.read
    sketcher, label_hash = Sketcher(*scene.grid.shape), hashlib.blake2b(digest_size=16)
    counts, valid_pixels, on_nodata = np.zeros(256, np.int64), 0, 0
    try:
        # One pass for all checks: reading is what takes the time.
        for window in scene.grid.window.blocks(2048):
            patch = scene.read(window)
            sketcher.add(patch.pixels, patch.valid, window)
            valid_pixels += int(patch.valid.sum())
            if read is not None:
                indices = read(window)
                # Of the classes, not of the file: two encodings of one labelling are the same.
                label_hash.update(indices)
                on_nodata += int((indices[~patch.valid] != IGNORE).sum())
                # Counted as training counts: a label on nodata is none.
                counts += np.bincount(indices[patch.valid], minlength=256)
    except (LabelscapeError, *READ_FAILURES) as error:
        # A damaged file costs its own pair only: the other files are still worth checking.
        kind = "unreadable" if isinstance(error, READ_FAILURES) else "labels"
        results.add(kind, "error", pair.name, str(error))
        return
    digest = label_hash.digest() if read else b""
    results.sketches.append(sketcher.done(pair.name, scene.grid, pair.split, digest))
    if not valid_pixels:
        text = "The image has no valid pixel: all are nodata."
        results.add("no-data", "error", pair.name, text, "Check `nodata`, or leave the file out.")
    elif read is not None:
        _keep_counts(results, pair, counts[:IGNORE], on_nodata)
        _keep_matches(results, pair, enough)


def _keep_counts(results: Results, pair: Pair, counts: np.ndarray, on_nodata: int) -> None:
    """Add a scene's labelled pixels, (255,) by class, to those of its split; `on_nodata` more lie on
    nodata.
    """
    labelled = int(counts.sum())
    # More than half: some labels beyond a scene's border are usual.
    if on_nodata > labelled:
        text = (
            f"{share(on_nodata, on_nodata + labelled)} of the labelled pixels are nodata in {pair.name}; "
            "they are not used."
        )
        results.add("no-data", "warning", pair.label, text)
    if not labelled and pair.names is not None:
        results.empty.append(pair.label)
    for name, pixels in zip(pair.names or (), counts.tolist()):
        if pixels and name != "(not used)":
            results.counts[pair.split][name] += pixels


def _keep_matches(results: Results, pair: Pair, enough: int) -> None:
    """How well label borders match the edges of the image, in sampled windows."""
    if pair.codes is None:
        return

    def window_of(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patch = pair.scene.read(window)
        return patch.pixels, patch.valid, pair.codes(window)

    try:
        results.matches[pair.name] = scene_matches(
            pair.scene.grid.window, window_of, enough=enough, most=8 * enough
        )
    except LabelscapeError as error:
        results.add("labels", "error", pair.label, str(error))
