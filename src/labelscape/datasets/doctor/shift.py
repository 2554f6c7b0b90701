"""Misregistration: an estimate of a constant shift between an image and its labels.

For every shift d within `REACH` pixels: the mean edge strength of the image along the label borders, moved
back by d. The shift with the strongest edges in many windows wins. This is cross-correlation of edges, as in
image registration; the vote over windows and the limits of a clear result are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter, uniform_filter

from labelscape.grid import Window
from labelscape.legend import IGNORE

REACH = 12
"""The largest shift that is searched for, in pixels along rows and columns."""
SIDE = 256
"""Side of a window, in pixels: many borders in each, and enough windows for a vote."""
LEAST = 2.0
"""Shifts shorter than this many pixels are not reported: shadows and blurred edges alone cause one or two."""


@dataclass(frozen=True)
class Shift:
    """Labels lie `right` columns and `down` rows away from the edges in the image; `clear` says whether the
    windows agree.
    """

    right: int
    down: int
    windows: int
    strength: float
    clear: bool


def edge_match(
    pixels: np.ndarray, valid: np.ndarray, indices: np.ndarray, *, reach: int = REACH
) -> tuple[np.ndarray, int] | None:
    """How well label borders match image edges under every shift.

    pixels (B, H, W) any type, valid (H, W) bool, indices (H, W) uint8 with 255 unlabelled -> (2 reach + 1, 2
    reach + 1) mean edge strength, [reach + down, reach + right], and the number of border pixels; None where
    there are too few borders or valid pixels.
    """
    height, width = indices.shape
    # Borders keep `reach` away from every side: half of the window must be left.
    if min(height, width) < 4 * reach:
        return None
    border = np.zeros(indices.shape, np.float32)
    border[reach:-reach, reach:-reach] = label_borders(indices)[reach:-reach, reach:-reach]
    count = int(border.sum())
    # Too few borders match something by chance under some shift.
    if count < 50 or valid.mean() < 0.5:
        return None
    # After the cheap tests: filters over all bands are the larger part of the time.
    strength = edge_strength(pixels, valid)
    if strength is None:
        return None
    # [e] = sum over border pixels q of strength(q + e); none wraps around, because borders keep
    # `reach` away from the margin. Labels shifted by d match at e = -d.
    together = irfft2(rfft2(strength) * rfft2(border).conj(), s=strength.shape)
    back = -np.arange(-reach, reach + 1)
    match = together[back[:, None] % height, back % width]
    return uniform_filter(match, 3, mode="nearest") / count, count


def label_borders(indices: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels beside a pixel of another class. The limit of the labelled area is no border: it
    need not follow anything in the image.
    """
    border = np.zeros(indices.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = (indices[here] != indices[there]) & (indices[here] != IGNORE) & (indices[there] != IGNORE)
        border[here] |= differs
        border[there] |= differs
    return border


def edge_strength(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
    """(H, W) float32: gradient magnitude over all bands, relative to its surroundings, so that no single
    bright object decides; None for an image without any edge.
    """
    total = np.zeros(valid.shape, np.float32)
    for band in pixels:
        band = band.astype(np.float32)
        inside = band[valid]
        # In float64: the square of a fill value such as 1e20 is beyond float32.
        mean, spread = (float(of(inside, dtype=np.float64)) for of in (np.mean, np.std))
        if not spread > 0:
            continue
        smooth = gaussian_filter(np.where(valid, band, mean) / spread, 1.0)
        down, right = np.gradient(smooth)
        total += np.hypot(down, right)
    if not total.any():
        return None
    relative = total / (gaussian_filter(total, 12) + 1e-3 * float(total.mean()) + 1e-6)
    hidden = ~valid
    if hidden.any():  # the limit of the data is no edge on the ground
        relative[uniform_filter(hidden.astype(np.float32), 7) > 1e-4] = 1
    # Capped: a single glass roof would outweigh the edges of many fields.
    return np.minimum(relative, 3)


def vote(matches: Sequence[tuple[np.ndarray, int]], *, seed: int = 0) -> Shift | None:
    """The shift that the windows agree on; None for fewer than four windows."""
    if len(matches) < 4:
        return None
    # The noise of a mean over n border pixels falls with the square root of n.
    weights = np.sqrt([count for _, count in matches])
    surfaces = np.stack([match - match.mean() for match, _ in matches]) * weights[:, None, None]
    size = surfaces.shape[1]
    reach = size // 2
    flat = surfaces.reshape(len(surfaces), -1)
    best = int(flat.sum(axis=0).argmax())
    down, right = best // size - reach, best % size - reach
    rng = np.random.default_rng(seed)
    # Bootstrap: 200 draws of windows with replacement, (200, shifts). A real shift wins in nearly all
    # of them.
    drawn = rng.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), size=200) @ flat
    peaks = drawn.argmax(axis=1)
    near = np.maximum(np.abs(peaks // size - reach - down), np.abs(peaks % size - reach - right)) <= 1
    # Against no shift at all, window by window.
    gain = flat[:, best] - flat[:, reach * size + reach]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    strength = float(gain.mean() / error) if error > 0 else 0.0
    at_rim = max(abs(down), abs(right)) >= reach - 1  # the true maximum may lie beyond
    clear = bool(near.mean() >= 0.95 and strength > 4 and np.hypot(down, right) >= LEAST and not at_rim)
    return Shift(right, down, len(matches), strength, clear)


def sample_windows(whole: Window, most: int, *, seed: int = 0) -> list[Window]:
    """Up to `most` windows of SIDE pixels spread over a scene; the whole of a small one."""
    # A patch is one window, up to four times the usual area.
    if min(whole.shape) < SIDE:
        return [whole] if whole.pixels <= 4 * SIDE * SIDE else []
    rows, columns = whole.height // SIDE, whole.width // SIDE
    chosen = np.random.default_rng(seed).permutation(rows * columns)[:most]
    return [Window(int(i) // columns * SIDE, int(i) % columns * SIDE, SIDE, SIDE) for i in chosen]


def scene_matches(
    whole: Window,
    read: Callable[[Window], tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    enough: int = 40,
    most: int = 400,
) -> list:
    """`edge_match` of at most `most` sampled windows of a scene, until `enough` of them have a result;
    `read(window)` gives (pixels, valid, indices).
    """
    found: list[tuple[np.ndarray, int]] = []
    for window in sample_windows(whole, most):
        match = edge_match(*read(window))
        if match is not None:
            found.append(match)
        if len(found) >= enough:
            break
    return found
