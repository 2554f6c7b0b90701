"""A sample of a scene of any size: a bounded number of small windows, their values, and what stands along the
scene's border.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from labelscape.grid import Window
from labelscape.scenes.scene import Scene

BLOCK = 512
MOST_BLOCKS = 64
PIXELS_A_BLOCK = 8_000
BORDER_SHARE = 0.01
"""Part of the border blocks that a value must fill, in one piece with the scene's edge, to be called a
border.
"""
FRINGE = 12
"""Pixels beside a border that are searched for the step down to the ground."""


@dataclass(frozen=True)
class Border:
    """A value that stands in all bands along the scene's edge; `share` of the blocks sampled there."""

    value: float
    share: float


@dataclass(frozen=True)
class Sample:
    """What was read: values (B, N) of valid pixels in the scene's own units, a border that nobody
    declared, and how many blocks were read.
    """

    values: np.ndarray
    border: Border | None
    blocks: int


def sample_scene(
    scene: Scene, bands: tuple[str, ...], *, most_blocks: int = MOST_BLOCKS, seconds: float = 20.0
) -> Sample:
    """Read about 1 % of the scene's blocks, 12 to `most_blocks`, the border's first; pixels of an undeclared
    border are no values.

    Blocks whose reading takes longer than `seconds` in all are given up, after the first 12: scenes stored in
    strips as wide as they are make each block dear. Raises BadFile where the file is damaged.
    """
    start = time.monotonic()
    edge, inner = sampled_windows(scene.grid.window, most_blocks)
    patches, regions, area, read = [], [], 0, 0
    for number, window in enumerate([*edge, *inner]):
        if number >= 12 and time.monotonic() - start > seconds:
            break
        patch = scene.read(window, bands)
        read += 1
        equal = patch.valid & (patch.pixels == patch.pixels[:1]).all(
            axis=0
        )  # a border has the same value in every band
        if number < len(edge):
            area += window.pixels
            regions += _at_edge(patch.pixels, patch.valid, equal, window, scene.grid.window)
        if patch.valid.any():
            patches.append(_thinned(patch.pixels, patch.valid, equal))
    border = _border_of(regions, area, scene.dtype)
    values = [
        pixels[:, ~(equal & (pixels[0] == border.value))] if border else pixels for pixels, equal in patches
    ]
    joined = np.concatenate(values, axis=1) if values else np.zeros((len(bands), 0), np.float32)
    return Sample(joined, border, read)


def sampled_windows(
    whole: Window, most: int = MOST_BLOCKS, *, block: int = BLOCK
) -> tuple[list[Window], list[Window]]:
    """Blocks at the corners and the middle of the edges, and blocks spread evenly over the inside; all
    blocks of a small scene.
    """
    rows, columns = math.ceil(whole.height / block), math.ceil(whole.width / block)
    wanted = min(rows * columns, most, max(12, math.ceil(rows * columns / 100)))
    places = [(r, c) for r in (0, rows // 2, rows - 1) for c in (0, columns // 2, columns - 1)]
    edge = list(dict.fromkeys(p for p in places if p[0] in (0, rows - 1) or p[1] in (0, columns - 1)))[
        :wanted
    ]
    # Each number's distance from all before it is as large as can be, whatever their count (a sequence of
    # golden ratios in two dimensions).
    inner: dict[tuple[int, int], None] = {}
    n = 0
    while len(edge) + len(inner) < wanted and n < 50 * wanted:
        place = (
            int((0.5 + n * 0.7548776662466927) % 1 * rows),
            int((0.5 + n * 0.5698402909980532) % 1 * columns),
        )
        if place not in edge:
            inner[place] = None
        n += 1
    cut = [Window(r * block, c * block, block, block) & whole for r, c in (*edge, *inner)]
    return cut[: len(edge)], cut[len(edge) :]


def _thinned(pixels: np.ndarray, valid: np.ndarray, equal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most PIXELS_A_BLOCK valid pixels (B, N), evenly taken, and which of them are the same in all
    bands.
    """
    places = np.flatnonzero(valid)
    places = places[:: max(1, len(places) // PIXELS_A_BLOCK)]
    return pixels.reshape(len(pixels), -1)[:, places].astype(np.float32), equal.reshape(-1)[places]


def _at_edge(
    pixels: np.ndarray, valid: np.ndarray, equal: np.ndarray, window: Window, whole: Window
) -> list[tuple[float, int, bool]]:
    """Constant regions that grow from the scene's edge into a block (B, H, W): value, pixels, and whether
    ground was seen beside them.

    Regions that fade into what lies beside them are left out: saturated clouds and black water are no border.
    """
    sides = (
        (window.top == whole.top, np.s_[0, :]),
        (window.bottom == whole.bottom, np.s_[-1, :]),
        (window.left == whole.left, np.s_[:, 0]),
        (window.right == whole.right, np.s_[:, -1]),
    )
    sides = [side for is_edge, side in sides if is_edge]
    values, counts = np.unique(
        np.concatenate([pixels[0][side][equal[side]] for side in sides]), return_counts=True
    )
    if len(pixels) == 1:  # in one band every value is "equal in all bands"
        values, counts = values[special := np.isin(values, _usual_nodata(pixels.dtype))], counts[special]
    found = []
    for value in values[np.argsort(counts)[::-1][:2]]:  # a border has one value, two where images were joined
        constant = equal & (pixels[0] == value)
        labels, _ = ndimage.label(constant)
        touching = np.unique(np.concatenate([labels[side] for side in sides]))
        sizes = np.bincount(labels.ravel())
        # Single dark or saturated pixels that happen to lie at the edge are no border.
        large = [
            r
            for r in touching
            if r and sizes[r] >= max(16, 0.002 * window.pixels) and _runs_along(labels == r, int(sizes[r]))
        ]
        if not large:
            continue
        region = np.isin(labels, large)
        steep = _is_steep(pixels, region, valid & ~constant, float(value))
        if steep is not False:
            found.append((float(value), int(region.sum()), bool(steep)))
    return found


def _runs_along(region: np.ndarray, size: int) -> bool:
    """Does a region (H, W) of so many pixels follow the sides of its block, as strips and cut corners do, and
    overexposed roofs do not?

    The side's length squared is at least 8 times the area of a triangle in a corner, 5 times that of a
    quarter disc.
    """
    along = sum(int(np.count_nonzero(side)) for side in (region[0], region[-1], region[:, 0], region[:, -1]))
    return size > region.size / 6 or along**2 >= 6 * size


def _is_steep(pixels: np.ndarray, region: np.ndarray, ground: np.ndarray, value: float) -> bool | None:
    """Does the picture leave `value` within two pixels somewhere near the region? None where no ground lies
    that near.

    Lossy compression smears a border over the eight pixels of its own squares, and drops steeply all the
    same; a cloud thins out evenly.
    """
    distance = np.where(ground, ndimage.distance_transform_edt(~region).round(), 0)
    rings = [ring for away in range(1, FRINGE + 1) if np.count_nonzero(ring := distance == away) >= 8]
    if not rings:
        return None
    profile = np.array([0.0, 0.0, *(_middle_apart(pixels, ring, value) for ring in rings)])
    return bool((profile[2:] - profile[:-2]).max() >= 0.4 * _middle_apart(pixels, ground, value))


def _middle_apart(pixels: np.ndarray, where: np.ndarray, value: float) -> float:
    """How far the middle of the pixels (B, H, W) lies from a value, in the band where it is farthest."""
    return float(np.abs(np.median(pixels[:, where].astype(np.float64), axis=1) - value).max())


def _border_of(regions: list[tuple[float, int, bool]], area: int, dtype: np.dtype) -> Border | None:
    """The value that fills most of `area` pixels along the edge, where that is enough to be a border."""
    totals: dict[float, int] = {}
    for value, pixels, _ in regions:
        totals[value] = totals.get(value, 0) + pixels
    # A cloud that fills whole blocks is white too: white needs to have been seen beside ground.
    proven = {value for value, _, beside in regions if beside or not _is_brightest(value, dtype)}
    best = max(
        (Border(value, pixels / area) for value, pixels in totals.items() if value in proven),
        key=lambda b: b.share,
        default=None,
    )
    return best if best and best.share >= BORDER_SHARE else None


def _is_brightest(value: float, dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and value == np.iinfo(dtype).max


def _usual_nodata(dtype: np.dtype) -> list[float]:
    """Values that people fill empty pixels with."""
    return [
        0,
        -9999,
        -32768,
        255,
        *((np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-3.4028234663852886e38,)),
    ]
