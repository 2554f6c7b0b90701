"""Blend overlapping tiles (`--blend hann`): the ramp of weights, and the partial sums kept for neighbours.

The seam score, which measures what blending hides, is `maps.seams`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelscape.grid import Window
from labelscape.scoring.arrays import Array, back_to_logits, copied, library_of, soften
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.tiles import Tile, TilePlan


@dataclass(frozen=True)
class Curve:
    """How a tile's weight rises across a border to its neighbour.

    name  identifies the shape where blended tiles are kept: a map begun with another curve cannot be resumed
    rise  weights 0..1 at places 0..1 (array -> array of the same library); the neighbour's weight is 1 - rise
    """

    name: str
    rise: Callable[[Array], Array]


HANN = Curve("hann", lambda place: library_of(place).sin(place * (math.pi / 2)) ** 2)
"""Half a Hann window: its slope is 0 at both ends, so that neither end of a ramp is visible."""


def ramp(core: range, seen: range, whole: range, fade: int, library: Any, curve: Curve = HANN) -> Array:
    """(len(seen),) float32 weights of a tile along one axis, at the centres of the pixels that it reads, as
    an array of the `library`, torch or numpy.

    At a border of its `core` to a neighbour they pass from 0 to 1 within `fade` pixels on each side. They are
    1 inside, and at the ends of the `whole` scene, where there is no neighbour.
    """
    middle = library.arange(seen.start, seen.stop, dtype=library.float32) + 0.5

    def rise(border: int) -> Array:
        return curve.rise(((middle - border + fade) / (2 * fade)).clip(0, 1))

    weights = library.ones_like(middle)
    if core.start > whole.start:
        weights *= rise(core.start)
    if core.stop < whole.stop:
        weights *= 1 - rise(core.stop)
    return weights


@dataclass(frozen=True)
class _Strip:
    """Weighted sums (K, h, w) around a border; the tile at `next` (top, left of its core) adds its own."""

    next: tuple[int, int]
    window: Window
    sums: Array

    def add_to(self, sums: Array, seen: Window) -> None:
        sums[(slice(None), *self.window.inset_of(seen))] += self.sums


class Fader:
    """Blends the tiles of a plan, fed in its order; some may be left out.

    `groups` are the classes of each task, where two are predicted at once.

    A pixel's weights add up to 1 over the tiles that see it, so that its probabilities are a plain sum. What
    still lacks a neighbour's share is kept: a strip at the right of one tile, and strips at the bottom of one
    row of tiles. Memory therefore grows with the width of a scene, not with its area.
    """

    def __init__(self, plan: TilePlan, curve: Curve = HANN, groups: tuple[int, ...] = ()) -> None:
        self.plan, self.curve, self.groups = plan, curve, groups
        self._right: _Strip | None = None
        self._below: dict[int, _Strip] = {}
        """By the left edge of the window."""

    def feed(self, tile: Tile, logits: Array | None, valid: np.ndarray) -> ScoredTile | None:
        """Take logits (K, h, w) and validity (h, w) of all that a tile sees; None where nothing is valid.

        Returns what is now complete, the tile's `answers`; None where no pixel of them is valid.
        """
        left, self._right = self._right, None
        above = self._below.pop(tile.final.left, None)
        if logits is None:
            return None
        sums = self._weighted(tile, logits)
        for strip in (left, above):
            # A strip whose neighbour was left out (nodata, or not wanted) meets another tile here and is
            # dropped.
            if strip is not None and strip.next == (tile.core.top, tile.core.left):
                strip.add_to(sums, tile.seen)
        self._keep(tile, sums)
        inside = tile.answers.inset_of(tile.seen)
        if not valid[inside].any():
            return None
        complete = back_to_logits(sums[(slice(None), *inside)])
        return ScoredTile(tile.answers, complete, valid[inside])

    def _weighted(self, tile: Tile, logits: Array) -> Array:
        core, seen, whole, fade = tile.core, tile.seen, self.plan.ground, self.plan.fade
        how = fade, library_of(logits), self.curve
        rows = ramp(_rows(core), _rows(seen), _rows(whole), *how)
        columns = ramp(_columns(core), _columns(seen), _columns(whole), *how)
        sums = soften(logits, self.groups) * rows[:, None]
        sums *= columns
        return sums

    def _keep(self, tile: Tile, sums: Array) -> None:
        """Keep what tiles at the right and below will add to."""
        core, seen, final, fade = tile.core, tile.seen, tile.final, self.plan.fade
        if core.bottom < self.plan.ground.bottom:
            window = Window(core.bottom - fade, final.left, 2 * fade, final.width) & seen
            # A copy: a view would keep the sums of the whole tile in memory.
            kept = copied(sums[(slice(None), *window.inset_of(seen))])
            self._below[final.left] = _Strip((core.bottom, core.left), window, kept)
        if core.right < self.plan.ground.right:
            window = Window(seen.top, core.right - fade, seen.height, 2 * fade) & seen
            kept = copied(sums[(slice(None), *window.inset_of(seen))])
            self._right = _Strip((core.top, core.right), window, kept)


def _rows(window: Window) -> range:
    return range(window.top, window.bottom)


def _columns(window: Window) -> range:
    return range(window.left, window.right)
