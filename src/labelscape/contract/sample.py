"""A sample of a scene of any size: a bounded number of small windows, their values, and what stands along the
scene's border.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from labelscape.grid import Window
from labelscape.scenes.layers import OUTSIDE
from labelscape.scenes.scene import Scene
from labelscape.scenes.validity import LARGEST

BLOCK = 512
MOST_BLOCKS = 64
PIXELS_A_BLOCK = 8_000
BORDER_SHARE = 0.01
"""Share of the border blocks that a value must fill, connected to the scene's edge, to be called a border."""
FILLERS = (-999.0, -9999.0, -99999.0, -32768.0, -32767.0, 1e20, -1e20)
"""Values that software writes where nothing was measured (ours), beside 0, the ends of types, and those that
are beyond what a scene may hold.
"""
FRINGE = 12
"""Pixels beside a border within which the image must step from its value to the ground."""


@dataclass(frozen=True)
class Border:
    """A value that stands in all bands along the scene's edge; `share` of the blocks sampled there."""

    value: float
    share: float


@dataclass(frozen=True)
class Filler:
    """A value that software writes where nothing was measured, far from all others of a band; `share` of the
    sampled pixels of that band.
    """

    value: float
    band: int
    share: float


@dataclass(frozen=True)
class Beyond:
    """Pixels with values that no measurement has (beyond `validity.LARGEST`, or infinite), undeclared and
    invalid: the first `value` that was met, and their `share` of the sampled pixels.
    """

    value: float
    share: float


@dataclass(frozen=True)
class Sample:
    """What was read: values (B, N) of valid pixels in the scene's own units, a border, a fill value and
    values beyond all measurements that nobody declared, and how many blocks were read.
    """

    values: np.ndarray
    border: Border | None
    blocks: int
    filler: Filler | None = None
    beyond: Beyond | None = None


def sample_scene(
    scene: Scene, bands: tuple[str, ...], *, most_blocks: int = MOST_BLOCKS, seconds: float = 20.0
) -> Sample:
    """Read about 1 % of the scene's blocks, 12 to `most_blocks`, those along the border first; pixels of an
    undeclared border are excluded from the values.

    After 12 blocks, reading stops when `seconds` have passed: in scenes stored in strips of full width every
    block is expensive. Raises BadFile where the file is damaged.
    """
    start = time.monotonic()
    edge, inner = sampled_windows(scene.grid.window, most_blocks)
    patches, regions, area, read = [], [], 0, 0
    strange, looked_at = [], 0
    for number, window in enumerate([*edge, *inner]):
        # Time may cut the sample short; the first 12 blocks, and with them the border, are always read.
        if number >= 12 and time.monotonic() - start > seconds:
            break
        patch = scene.read(window, bands)
        read += 1
        looked_at += window.pixels
        strange.append(_beyond(patch.pixels, patch.valid, scene, bands))
        # A border has the same value in every band.
        equal = patch.valid & (patch.pixels == patch.pixels[:1]).all(axis=0)
        if number < len(edge):
            # Of blocks at the edge only: the border's share is of what could be border.
            area += window.pixels
            regions += _at_edge(patch.pixels, patch.valid, equal, window, scene.grid.window)
        if patch.valid.any():
            patches.append(_thinned(patch.pixels, patch.valid, equal))
    # Over all blocks together: only then it shows how much of the edge a value fills.
    border = _border_of(regions, area, scene.dtype)
    # Left out afterwards: that a value is the border's is known only when all blocks are read.
    values = [
        pixels[:, ~(equal & (pixels[0] == border.value))] if border else pixels for pixels, equal in patches
    ]
    joined = np.concatenate(values, axis=1) if values else np.zeros((len(bands), 0), np.float32)
    filler = _filler_of(joined)
    if filler is not None:
        joined = joined[:, ~np.isin(joined, np.float32(FILLERS)).any(axis=0)]
    count = sum(one.size for one in strange)
    beyond = Beyond(float(np.concatenate(strange)[0]), count / looked_at) if count else None
    return Sample(joined, border, read, filler, beyond)


def _beyond(pixels: np.ndarray, valid: np.ndarray, scene: Scene, bands: tuple[str, ...]) -> np.ndarray:
    """(N,) one value of each pixel (B, H, W) with values that no measurement has and nobody declared."""
    if pixels.dtype.kind != "f" or valid.all():
        return np.empty(0)
    found = ~valid & ((pixels > LARGEST) | (pixels < -LARGEST)) & (pixels != pixels.dtype.type(OUTSIDE))
    for odd, values, band in zip(found, pixels, bands):
        if rule := scene.band_nodata[scene.index(band)]:
            odd &= values != rule.value
    first = np.take_along_axis(pixels, found.argmax(axis=0)[None], axis=0)[0]
    return first[found.any(axis=0)]


def _filler_of(values: np.ndarray) -> Filler | None:
    """The most frequent of FILLERS in values (B, N), where it lies further from all others of its band than
    they from each other.
    """
    found = []
    for band, own in enumerate(values):
        special = np.isin(own, np.float32(FILLERS))
        rest = own[~special]
        if not special.any() or not rest.size:
            continue
        low, high = float(rest.min()), float(rest.max())
        kinds, counts = np.unique(own[special], return_counts=True)
        far = (kinds < low - (high - low)) | (kinds > high + (high - low))
        found += [Filler(float(v), band, n / own.size) for v, n in zip(kinds[far], counts[far])]
    return max(found, key=lambda filler: filler.share, default=None)


def sampled_windows(
    whole: Window, most: int = MOST_BLOCKS, *, block: int = BLOCK
) -> tuple[list[Window], list[Window]]:
    """Blocks at the corners and in the middle of the edges, and blocks spread evenly over the interior; all
    blocks of a small scene.
    """
    rows, columns = math.ceil(whole.height / block), math.ceil(whole.width / block)
    # One in a hundred; twelve are the eight along the edge and some of the interior.
    wanted = min(rows * columns, most, max(12, math.ceil(rows * columns / 100)))
    places = [(r, c) for r in (0, rows // 2, rows - 1) for c in (0, columns // 2, columns - 1)]
    edge = list(dict.fromkeys(p for p in places if p[0] in (0, rows - 1) or p[1] in (0, columns - 1)))[
        :wanted
    ]
    # A low-discrepancy sequence (the golden ratio's generalisation to two dimensions): evenly spread whatever
    # the number of blocks, and free of the stripes that a regular step would have with fields and streets.
    inner: dict[tuple[int, int], None] = {}
    n = 0
    # The sequence repeats places in a small raster of blocks: bounded, should it never fill the last one.
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
    """At most PIXELS_A_BLOCK valid pixels (B, N), evenly spaced, and which of them (N,) are equal in all
    bands.
    """
    places = np.flatnonzero(valid)
    places = places[:: max(1, len(places) // PIXELS_A_BLOCK)]
    return pixels.reshape(len(pixels), -1)[:, places].astype(np.float32), equal.reshape(-1)[places]


def _at_edge(
    pixels: np.ndarray, valid: np.ndarray, equal: np.ndarray, window: Window, whole: Window
) -> list[tuple[float, int, bool]]:
    """Constant regions that reach from the scene's edge into a block (B, H, W): value, pixels, and whether a
    step to the ground was found beside them.

    Regions that fade into their surroundings are skipped: saturated clouds and black water are no border.
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
    if len(pixels) == 1:  # a single band is always "equal in all bands": only the usual fill values count
        values, counts = values[special := np.isin(values, _usual_nodata(pixels.dtype))], counts[special]
    found = []
    for value in values[np.argsort(counts)[::-1][:2]]:  # a border has one value, two where images were joined
        from scipy import ndimage  # when it is needed: it takes longer than a small scene does

        constant = equal & (pixels[0] == value)
        # Connected to the edge: dark water inside the scene has the border's value too.
        labels, _ = ndimage.label(constant)
        touching = np.unique(np.concatenate([labels[side] for side in sides]))
        # Index 0 is everything else, which the loop below leaves out.
        sizes = np.bincount(labels.ravel())
        # A few dark or saturated pixels that happen to touch the edge are no border.
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
    """Does a region (H, W) of `size` pixels follow the sides of its block, as strips and cut corners do and
    overexposed roofs do not?

    The squared length along the sides is at least 8 times the area for a triangle in a corner, 5 times for a
    quarter disc.
    """
    along = sum(int(np.count_nonzero(side)) for side in (region[0], region[-1], region[:, 0], region[:, -1]))
    return size > region.size / 6 or along**2 >= 6 * size


def _is_steep(pixels: np.ndarray, region: np.ndarray, ground: np.ndarray, value: float) -> bool | None:
    """Does the image step away from `value` within two pixels, somewhere within FRINGE of the region? None
    where no ground is that near.

    JPEG blurs a border within its 8 x 8 blocks and still leaves a step; a cloud thins out gradually.
    """
    from scipy import ndimage

    # Rings of ground at 1, 2, ... pixels from the region; everything that is no ground counts as 0.
    distance = np.where(ground, ndimage.distance_transform_edt(~region).round(), 0)
    rings = [ring for away in range(1, FRINGE + 1) if np.count_nonzero(ring := distance == away) >= 8]
    if not rings:
        return None
    # Two zeros stand for the region itself: a step within two pixels shows as a difference of neighbours but
    # one.
    profile = np.array([0.0, 0.0, *(_middle_apart(pixels, ring, value) for ring in rings)])
    return bool((profile[2:] - profile[:-2]).max() >= 0.4 * _middle_apart(pixels, ground, value))


def _middle_apart(pixels: np.ndarray, where: np.ndarray, value: float) -> float:
    """Distance of the median of pixels (B, H, W) from a value, in the band where it is largest."""
    return float(np.abs(np.median(pixels[:, where].astype(np.float64), axis=1) - value).max())


def _border_of(regions: list[tuple[float, int, bool]], area: int, dtype: np.dtype) -> Border | None:
    """The value that fills most of the `area` pixels along the edge, if at least BORDER_SHARE of them."""
    totals: dict[float, int] = {}
    for value, pixels, _ in regions:
        totals[value] = totals.get(value, 0) + pixels
    # Clouds fill whole blocks with white too: white counts only where a step to the ground was found.
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
    """Values commonly used to fill empty pixels."""
    return [
        0,
        -9999,
        -32768,
        255,
        *((np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-3.4028234663852886e38,)),
    ]
