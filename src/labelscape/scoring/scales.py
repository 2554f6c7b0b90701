"""A scene at another scale: which of its pixels a window needs, and the resampling there and back. The scaled
scene is never made as a whole: each window of it equals that of the whole, and is read from the scene.

How the predictions at several scales are averaged is `scoring.stitch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelscape.grid import Window
from labelscape.scoring.arrays import Array, library_of
from labelscape.scoring.tiles import TilePlan, plan_tiles

BLOCK_VALUES = 2**26
"""Probabilities, of all classes and pixels, that are averaged over the scales at once (ours: 256 MiB, a
picture of 2048 x 1024 pixels with 19 classes and more).
"""
MOST_LARGER = 4
"""Times as many may be predicted for them at the largest scale (ours: at twice the size): blocks are smaller
where a scale is larger.
"""


def scaled_ground(ground: Window, scale: float) -> Window:
    """The pixels of a scene at another scale, from 0; one at least."""
    return Window(0, 0, *(max(1, round(side * scale)) for side in ground.shape))


def block_plan(whole: Window, around: Window, scaled: Sequence[TilePlan], classes: int) -> TilePlan:
    """The blocks in which the predictions of the `scaled` tilings are averaged, as a plan of tiles without
    overlap: at the border of a block nothing changes, tiles there are predicted once more. All in one block
    where they are few.
    """
    longest = max(around.shape)
    larger = max(1.0, max(plan.ground.pixels for plan in scaled) / around.pixels / MOST_LARGER)
    # Blocks of less than two tiles would predict most tiles several times.
    least = 2 * max(plan.largest for plan in scaled)
    side = math.ceil(max(math.sqrt(BLOCK_VALUES / classes / larger), least / math.sqrt(larger)))
    if classes * larger * around.pixels <= BLOCK_VALUES or side >= longest:
        side = longest
    # All of about one size: a narrow last block would be tiles at its border alone.
    side = math.ceil(longest / math.ceil(longest / side))
    beside = None if around == whole else around
    plan = plan_tiles(whole, tile_size=side, overlap=0, stride=1, blend="none", around=beside)
    return replace(plan, scaled=tuple(scaled))


@dataclass(frozen=True)
class Taps:
    """How pixels along an axis are made of those of another size: (n, T) places, and their weights, which
    add up to 1.
    """

    places: np.ndarray
    weights: np.ndarray

    @property
    def span(self) -> tuple[int, int]:
        """The first place, and the one after the last."""
        return int(self.places.min()), int(self.places.max()) + 1

    def of(self, first: int, rows: slice = slice(None)) -> Taps:
        """Some rows of them, for an axis that begins at the place `first`."""
        return Taps(self.places[rows] - first, self.weights[rows])


def taps(before: int, after: int, first: int, count: int, *, antialias: bool = False) -> Taps:
    """For `count` pixels from the `first` of an axis of `after` pixels, which was one of `before`: bilinear
    at pixels' centres, as `arrays.resized` makes the whole axis.
    """
    own = np.arange(first, first + count)
    if before == after:
        return Taps(own[:, None], np.ones((count, 1), np.float32))
    ratio = before / after
    width = max(1.0, ratio) if antialias else 1.0
    centres = (own + 0.5) * ratio - 0.5
    if width == 1:
        # Beyond the outermost centres their values are repeated.
        centres = centres.clip(0, before - 1)
    places = np.ceil(centres - width).astype(np.int64)[:, None] + np.arange(math.floor(2 * width) + 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - places) / width)
    weights[(places < 0) | (places >= before)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return Taps(places.clip(0, before - 1), weights.astype(np.float32))


def resampled(images: Array, rows: Taps, columns: Taps) -> Array:
    """(..., H, W) -> (..., n, m), on the processor."""
    for axis, own in ((-2, rows), (-1, columns)):
        if own.weights.shape[1] == 1 and own.span == (0, images.shape[axis]):
            continue  # these very pixels
        library, behind = library_of(images), (slice(None),) * (-1 - axis)
        total = None
        for place, weight in zip(own.places.T, own.weights.T):
            taken = images[(..., library.asarray(place), *behind)]
            taken *= library.asarray(weight[:, None] if axis == -2 else weight)
            total = taken if total is None else total.__iadd__(taken)
        images = total
    return images


def read_by(plan: TilePlan, seen: Window) -> Window:
    """The window of the scene that a tile's window of the plan's ground is made of."""
    if plan.source is None:
        return seen
    rows, columns = _from_source(plan, seen)
    (top, bottom), (left, right) = rows.span, columns.span
    return Window(plan.source.top + top, plan.source.left + left, bottom - top, right - left)


def at_scale(image: Array, plan: TilePlan, seen: Window) -> Array:
    """(1, B, H, W) of the window `read_by` -> (1, B, h, w), as a tile sees the scaled scene; antialiased
    where it is reduced.
    """
    if plan.source is None:
        return image
    rows, columns = (own.of(own.span[0]) for own in _from_source(plan, seen))
    made = resampled(image, rows, columns)
    if made is image or isinstance(made, np.ndarray):
        return made
    # The order in memory that networks are faster in.
    return made.contiguous(memory_format=library_of(made).channels_last)


def _from_source(plan: TilePlan, seen: Window) -> tuple[Taps, Taps]:
    starts, ground = (seen.top, seen.left), plan.ground.shape
    # Along both axes alike: sides of a few pixels are rounded.
    smaller = plan.ground.pixels < plan.source.pixels
    return tuple(
        taps(*sides, *part, antialias=smaller)
        for sides, part in zip(zip(plan.source.shape, ground), zip(starts, seen.shape))
    )


def back(plan: TilePlan, window: Window) -> tuple[Taps, Taps]:
    """How a window of the scene is made of the plan's scaled ground."""
    starts = window.top - plan.source.top, window.left - plan.source.left
    return tuple(
        taps(*sides, *part)
        for sides, part in zip(zip(plan.ground.shape, plan.source.shape), zip(starts, window.shape))
    )


def part_for(plan: TilePlan, window: Window) -> TilePlan:
    """The plan of the part of the scaled ground that a window of the scene is made of."""
    (top, bottom), (left, right) = (own.span for own in back(plan, window))
    whole = Window(top, left, bottom - top, right - left)
    return plan if whole == plan.whole else replace(plan, whole=whole, around=plan.ground)


def tiles_given(plan: TilePlan) -> int:
    """Number of tiles that the network is given, at all scales: of a part of a scene those it is made of."""
    return sum(len(part_for(scaled, plan.whole)) for scaled in plan.scaled) or len(plan)
