"""Duplicate images: identical, re-encoded or resized, and overlapping scenes.

An image in both training and test leaks: its score measures memory. Identical images are found by a hash of
the decoded pixels; re-encoded and resized ones by a small fingerprint: the mean of every cell of a 32 x 32
raster minus its surroundings, compared by correlation. Measured on 1,391 patches of Gaofen-2 and on drone,
aerial and satellite tiles: distinct neighbours reach 0.51, copies at JPEG quality 30 or resized to 0.7 stay
above 0.96 unless the image is nearly uniform.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from labelscape.datasets.doctor.findings import Finding
from labelscape.grid import Grid, Window
from labelscape.text import some

CELLS = 32
ALIKE = 0.93
"""Correlation of two fingerprints from which on the images count as the same."""
FLAT = 2.0
"""An image whose cells differ by less than this many grey levels (root mean square) is too uniform to be
recognised.
"""


@dataclass(frozen=True)
class Sketch:
    """The fingerprint of an image: hash of all pixels, `cells` (32 * 32,) float32 of length 1 or None where
    it is too uniform, and its grid.
    """

    name: str
    digest: bytes
    cells: np.ndarray | None
    blank: bool
    grid: Grid
    part: str | None = None
    labels: bytes = b""


class Sketcher:
    """Computes a fingerprint window by window. The hash depends on their order, so it must always be the
    same.
    """

    def __init__(self, height: int, width: int) -> None:
        self._shape = height, width
        self._hash = hashlib.blake2b(f"{height} {width}".encode(), digest_size=16)
        self._sum, self._count = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
        self._real = False
        self._least: float | None = None
        self._most: float | None = None

    def add(self, pixels: np.ndarray, valid: np.ndarray, window: Window) -> None:
        """pixels (B, H, W), valid (H, W) of a window."""
        # Decoded pixels, not the file: the same image as PNG and TIFF is one image.
        self._hash.update(np.ascontiguousarray(pixels))
        self._real = pixels.dtype.kind == "f"
        if self._real and not valid.all():
            pixels = np.where(valid, pixels, 0)  # NaN, or values whose sum is beyond the type
        grey = pixels.mean(axis=0, dtype=np.float32)
        if valid.any():
            seen = grey[valid]
            low, high = float(seen.min()), float(seen.max())
            self._least = low if self._least is None else min(self._least, low)
            self._most = high if self._most is None else max(self._most, high)
        # Rows of the window by the cell they belong to: cells may end anywhere within a window.
        rows, tops = np.unique(
            np.arange(window.top, window.bottom) * CELLS // self._shape[0], return_index=True
        )
        columns, lefts = np.unique(
            np.arange(window.left, window.right) * CELLS // self._shape[1], return_index=True
        )
        # Sums of row ranges, then of column ranges: (h, w) -> cells without a loop.
        for total, values in ((self._sum, np.where(valid, grey, 0)), (self._count, valid)):
            total[np.ix_(rows, columns)] += np.add.reduceat(
                np.add.reduceat(values, tops, axis=0, dtype=np.float64), lefts, axis=1
            )

    def done(self, name: str, grid: Grid, part: str | None, labels: bytes = b"") -> Sketch:
        blank = self._least is None or self._least == self._most
        known = self._count > 0
        cells = None
        if not blank and known.any():
            # Cells of nodata get the mean: they add nothing to the correlation.
            mean = np.where(
                known, self._sum / np.maximum(self._count, 1), self._sum.sum() / self._count.sum()
            )
            # Minus the surroundings: large dark and bright halves make any two landscapes alike.
            detail = (mean - uniform_filter(mean, 5, mode="nearest")).ravel()
            detail -= detail.mean()
            # Reflectances of 0..1 have no grey levels: there they are a 256th of the range.
            if detail.std() >= FLAT * ((self._most - self._least) / 256 if self._real else 1):
                cells = (detail / np.linalg.norm(detail)).astype(np.float32)
        return Sketch(name, self._hash.digest(), cells, blank, grid, part, labels)


def check_twins(sketches: Sequence[Sketch]) -> list[Finding]:
    """Images that occur more than once: an error where train, val and test share them, else a warning."""
    findings = []
    blank = [s.name for s in sketches if s.blank]
    if blank:
        findings.append(
            Finding(
                "blank",
                "warning",
                blank[0] if len(blank) == 1 else "all files",
                f"{len(blank)} image{'s have' if len(blank) > 1 else ' has'} a single "
                f"colour or no valid pixel: {some(blank, 4)}.",
                "Leave them out; nothing can be learned from them.",
            )
        )
    same: dict[bytes, list[Sketch]] = defaultdict(list)
    for sketch in sketches:
        if not sketch.blank:
            same[sketch.digest].append(sketch)
    for group in same.values():
        if len(group) > 1:
            # One image with two labellings: whichever is right, the other one teaches the opposite.
            differing = " Their labels differ." if len({s.labels for s in group}) > 1 else ""
            findings.append(_twin_finding("duplicate", group, "have identical pixels", differing))
    # One of each: identical ones were reported and would be similar again.
    firsts = [group[0] for group in same.values()]
    for group in _alike(firsts):
        findings.append(
            _twin_finding(
                "near-duplicate",
                group,
                f"are the same image, encoded or resized differently (correlation above {ALIKE:g})",
                "",
            )
        )
    return findings + _overlaps(firsts)


def _alike(sketches: Sequence[Sketch]) -> list[list[Sketch]]:
    """Groups of similar images. They are compared in blocks, because the table of all pairs of a large data
    set would not fit into memory.
    """
    known = [s for s in sketches if s.cells is not None]
    if len(known) < 2:
        return []
    cells = np.stack([s.cells for s in known])
    root = list(range(len(known)))  # union-find: similar to a similar image is one group

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for start in range(0, len(cells), 2048):
        likeness = cells[start : start + 2048] @ cells[start:].T
        for i, j in zip(*np.nonzero(np.triu(likeness > ALIKE, 1))):
            root[find(start + int(j))] = find(start + int(i))
    groups: dict[int, list[Sketch]] = defaultdict(list)
    for i, sketch in enumerate(known):
        groups[find(i)].append(sketch)
    return [group for group in groups.values() if len(group) > 1]


def _twin_finding(kind: str, group: Sequence[Sketch], what: str, more: str) -> Finding:
    parts = sorted({s.part for s in group if s.part})
    if len(parts) > 1:
        named = some([f"{s.name} ({s.part or 'no split'})" for s in group], 4)
        return Finding(
            kind,
            "error",
            group[0].name,
            f"{named} {what}, in {' and '.join(parts)}: the score would be optimistic (data leakage).{more}",
            "Keep one copy, or put all copies into one split.",
        )
    return Finding(
        kind,
        "warning",
        group[0].name,
        f"{some([s.name for s in group], 4)} {what}.{more}",
        "Keep one copy, or keep all copies in one split.",
    )


def _overlaps(sketches: Sequence[Sketch]) -> list[Finding]:
    """Scenes that overlap, above all in different splits; compared only within the same CRS."""
    import shapely

    placed = [s for s in sketches if s.grid.is_georeferenced]
    findings = []
    # By text: equal CRSs of several files are different objects.
    for crs in dict.fromkeys(s.grid.crs.to_wkt() for s in placed):
        mine = [s for s in placed if s.grid.crs.to_wkt() == crs]
        boxes = shapely.box(*np.array([s.grid.bounds_of(s.grid.window) for s in mine]).T)
        # A tree: the pairs of thousands of tiles are millions, those that touch a few thousand.
        left, right = shapely.STRtree(boxes).query(boxes, predicate="intersects")
        pairs = [(i, j) for i, j in zip(left.tolist(), right.tolist()) if i < j]
        shares = [
            shapely.area(shapely.intersection(boxes[i], boxes[j])) / min(boxes[i].area, boxes[j].area)
            for i, j in pairs
        ]
        # Adjacent tiles often share a row of pixels; more than 1 % is a real overlap.
        close = [(i, j, s) for (i, j), s in zip(pairs, shares) if s > 0.01]
        across = [
            (i, j, s) for i, j, s in close if mine[i].part and mine[j].part and mine[i].part != mine[j].part
        ]
        for found, severity in (
            (across, "error"),
            ([] if across else [p for p in close if not (mine[p[0]].part and mine[p[1]].part)], "warning"),
        ):
            if found:
                i, j, most = max(found, key=lambda p: p[2])
                split = f" ({mine[i].part} and {mine[j].part})" if severity == "error" else ""
                findings.append(
                    Finding(
                        "overlap",
                        severity,
                        mine[i].name,
                        f"{len(found)} pair{'s' * (len(found) > 1)} of scenes "
                        f"overlap{'s' * (len(found) == 1)}; "
                        f"{mine[i].name} and {mine[j].name}{split} share {100 * most:.0f} % of the smaller "
                        "one.",
                        "Split by location, not by file: put overlapping tiles into one split.",
                    )
                )
    return findings
