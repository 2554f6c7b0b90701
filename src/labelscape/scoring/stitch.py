"""A scene scored tile by tile in bounded memory, one tile read ahead while the network works on the one
before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from labelscape.contract.matching import bands_to_read
from labelscape.errors import UnknownName
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scenes.raster import Scene
from labelscape.scoring.memory import network_bytes
from labelscape.scoring.scorer import Scorer, soften
from labelscape.scoring.tiles import BLENDS, Tile, TilePlan, plan_tiles

LARGE_TILE, DEFAULT_TILE = 1664, 1152
"""Sides of tiles that overlap by USUAL_OVERLAP: the network then looks at 1.13 and 1.20 pixels for each
that is mapped.
"""
LARGE_BYTES, MOST_BYTES = 1280 * 2**20, 4 * 2**30
"""Memory a network may take for a large tile, and for the default one; beyond that tiles are made smaller,
down to SMALL_TILES.
"""
SMALL_TILES = 896, 640
EXACT_TILE = 2048
"""Tiles with exact halos are larger, or the halos would be most of the work; the networks that have them
need little memory.
"""
EXACT_REACH = 256
"""Networks that see no farther than this get halos as wide as they see: their tiles leave no trace."""
USUAL_OVERLAP = 64
"""Overlap for all others, which see the whole tile (global pooling) or so far that exact halos would cost
more than the map.
"""

SOFTENED_ROWS = 64
"""Rows of a tile that are worked on at once where a copy of all classes would be the most that a map
holds.
"""


@dataclass(frozen=True)
class ScoredTile:
    """The prediction for one window (a tile's `answers`): logits (K, h, w), and (h, w) which are valid."""

    window: Window
    logits: Tensor
    valid: np.ndarray

    @cached_property
    def probabilities(self) -> Tensor:
        """(K, h, w) float32, made when first asked for: in the thread that writes, while the network goes
        on.
        """
        if self.logits.device.type != "cpu":
            return soften(self.logits)
        made = torch.empty(self.logits.shape)
        for rows, out in zip(self.logits.split(SOFTENED_ROWS, dim=1), made.split(SOFTENED_ROWS, dim=1)):
            out.copy_(soften(rows))
        return made

    def classes(self) -> np.ndarray:
        """(h, w) uint8 index of the likeliest class, 255 on invalid pixels."""
        # Plane by plane: torch's own argmax over the first dimension takes as long as a small network. The
        # first of equals wins.
        best = self.probabilities[0].clone()
        indices = torch.zeros(best.shape, dtype=torch.uint8)
        for k, plane in enumerate(self.probabilities[1:], start=1):
            indices.masked_fill_(plane > best, k)
            torch.maximum(best, plane, out=best)
        indices = indices.numpy()
        if not self.valid.all():
            indices[~self.valid] = IGNORE
        return indices

    def percent(self) -> np.ndarray:
        """(h, w) uint8 probability of the likeliest class in per cent, 255 on invalid pixels."""
        best = self.probabilities.amax(dim=0).mul(100).round_().to(torch.uint8).numpy()
        if not self.valid.all():
            best[~self.valid] = IGNORE
        return best


def plan_for(
    scorer: Scorer,
    scene: Scene,
    *,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
) -> TilePlan:
    """The tiles for a network and a scene.

    Networks that see no farther than EXACT_REACH get halos as wide as they see and are cut: their tiles leave
    no trace. All others are blended over USUAL_OVERLAP pixels, in tiles as large as memory lets them be, up
    to LARGE_TILE. `overlap` and `blend` ("crop", "hann", "none") choose otherwise.
    """
    if blend is not None and blend not in BLENDS:
        raise UnknownName("blend", blend, BLENDS)
    exact = scorer.reach is not None and scorer.reach <= EXACT_REACH
    if overlap is None:
        overlap = scorer.reach if exact else USUAL_OVERLAP
    blend = blend or ("crop" if exact else "hann")
    side = tile_size or (EXACT_TILE if exact else _side_within_memory(scorer, max(scene.grid.shape)))
    return plan_tiles(scene.grid.window, tile_size=side, overlap=overlap, stride=scorer.stride, blend=blend)


def _side_within_memory(scorer: Scorer, longest: int) -> int:
    """The side of the tiles of a scene whose longer side is `longest`. The same on every machine, or a map
    would depend on where it was made.
    """
    if longest <= DEFAULT_TILE:
        return DEFAULT_TILE
    for side, most in ((LARGE_TILE, LARGE_BYTES), (DEFAULT_TILE, MOST_BYTES), (SMALL_TILES[0], MOST_BYTES)):
        if network_bytes(scorer, side, side) <= most:
            return side
    return SMALL_TILES[1]


def score_tiles(
    scorer: Scorer, scene: Scene, plan: TilePlan, *, wanted: Callable[[Window], bool] | None = None
) -> Iterator[ScoredTile]:
    """Score every tile of the plan, or those whose answer is `wanted`; answers without a valid pixel are
    passed over.

    The bands are picked by name where the scene has the checkpoint's names, else taken in their order.
    """
    chosen = (tile for tile in plan if wanted is None or wanted(tile.answers))
    if plan.fade:
        yield from _blended(
            scorer, scene, plan, None if wanted is None else {tile.answers for tile in chosen}
        )
        return
    for tile, logits, valid in _looked_at(scorer, scene, chosen):
        mine = tile.core.inset_of(tile.seen)
        if logits is not None and valid[mine].any():
            yield ScoredTile(tile.core, logits[(slice(None), *mine)], valid[mine])


def _looked_at(
    scorer: Scorer, scene: Scene, tiles: Iterable[Tile]
) -> Iterator[tuple[Tile, Tensor | None, np.ndarray]]:
    """Each tile with the logits (K, h, w) of all it sees, None where nothing in it is valid, and which of
    its pixels are. One is read ahead.
    """
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    tiles = iter(tiles)
    with scene.for_thread() as own, ThreadPoolExecutor(1, thread_name_prefix="read") as reader:

        def read(tile: Tile | None) -> tuple[list[Tensor] | None, np.ndarray] | None:
            """What the network reads and which pixels are valid; reading and scaling wait for nobody but
            the disk.
            """
            if tile is None:
                return None
            patch = own.read(tile.seen, bands)
            return scorer.prepare(patch.pixels, patch.valid) if patch.valid.any() else None, patch.valid

        tile = next(tiles, None)
        ahead = reader.submit(read, tile)
        while tile:
            following = next(tiles, None)
            (images, valid), ahead = ahead.result(), reader.submit(read, following)
            yield tile, scorer.logits(images) if images is not None else None, valid
            tile = following


def _blended(
    scorer: Scorer, scene: Scene, plan: TilePlan, wanted: set[Window] | None
) -> Iterator[ScoredTile]:
    """Answers in which neighbouring tiles fade into each other. What waits for a neighbour is kept: the edge
    of one tile, and for one row of tiles, where there is something to see, strips 2 x blend high.

    Every pixel's weights add up to 1, so that an answer is the plain sum of what the tiles around it say.
    """
    tiles, half = list(plan), plan.fade
    place = {(tile.core.top, tile.core.left): number for number, tile in enumerate(tiles)}
    needed = range(len(tiles)) if wanted is None else sorted(_neighbours(plan, tiles, place, wanted))
    waiting: dict[
        int, tuple[int, Tensor]
    ] = {}  # by column: top of the core below, and what is said there for its rows top - half ... top + half
    edge: Tensor | None = None
    row = right_of = None
    for tile, logits, valid in _looked_at(scorer, scene, (tiles[number] for number in needed)):
        core, seen, answers = tile.core, tile.seen, tile.answers
        if core.top != row:
            row, edge = core.top, None
        above, said = waiting.pop(answers.left, (None, None))
        if logits is None:
            edge = None
            continue
        share = (
            soften(logits)
            * _ramp(core.top, core.bottom, seen.top, seen.bottom, plan.whole.top, plan.whole.bottom, half)[
                :, None
            ]
        )
        share *= _ramp(core.left, core.right, seen.left, seen.right, plan.whole.left, plan.whole.right, half)
        if edge is not None and right_of == core.left:
            first = core.left - half - seen.left
            share[:, :, first : first + edge.shape[2]] += edge
        columns = slice(answers.left - seen.left, answers.right - seen.left)
        if above == core.top:
            first = core.top - half - seen.top
            share[:, first : first + said.shape[1], columns] += said
        if core.bottom < plan.whole.bottom:
            first = core.bottom - half - seen.top
            waiting[answers.left] = (core.bottom, share[:, first : first + 2 * half, columns].clone())
        right_of = core.right
        edge = None
        if core.right < plan.whole.right:
            first = core.right - half - seen.left
            edge = share[:, :, first : first + 2 * half].clone()
        mine = answers.inset_of(seen)
        if (wanted is None or answers in wanted) and valid[mine].any():
            yield ScoredTile(answers, share[(slice(None), *mine)].clamp_min(1e-20).log(), valid[mine])


def _neighbours(plan: TilePlan, tiles: list[Tile], place: dict, wanted: set[Window]) -> set[int]:
    """Numbers of the tiles that have a say in the wanted answers: their own, the one to the left, and the
    two above these.
    """
    needed = set()
    for tile in tiles:
        if tile.answers in wanted:
            for up in (0, plan.core):
                for back in (0, plan.core):
                    number = place.get((tile.core.top - up, tile.core.left - back))
                    needed |= set() if number is None else {number}
    return needed


def _ramp(start: int, end: int, first: int, last: int, least: int, most: int, half: int) -> Tensor:
    """Weights of the pixels first ... last of a tile whose core is start ... end: a Hann ramp over `half`
    pixels on each side of a border to a neighbour, 0 beyond it, 1 inside and at the scene's own borders.
    """
    middle = torch.arange(first, last, dtype=torch.float32) + 0.5

    def rise(border: int) -> Tensor:
        return torch.sin(((middle - border + half) / (2 * half)).clamp(0, 1) * (math.pi / 2)) ** 2

    weights = torch.ones_like(middle)
    if start > least:
        weights *= rise(start)
    if end < most:
        weights *= 1 - rise(end)
    return weights
