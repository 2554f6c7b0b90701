"""A scene predicted tile by tile in bounded memory; the next tile is read while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from labelscape.contract.matching import bands_to_read
from labelscape.errors import UnknownName
from labelscape.grid import Window
from labelscape.scenes.scene import Scene
from labelscape.scoring.fade import Fader
from labelscape.scoring.memory import tile_side
from labelscape.scoring.scored import ScoredTile
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.tiles import BLENDS, Tile, TilePlan, plan_tiles

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
    no trace. All others are blended over USUAL_OVERLAP pixels, in tiles as large as memory lets them be
    (`memory.tile_side`). `overlap` and `blend` ("crop", "hann", "none") choose otherwise. Raises UnknownName
    for another blend, BadOption where the overlap leaves no core.
    """
    if blend is not None and blend not in BLENDS:
        raise UnknownName("blend", blend, BLENDS)
    exact = scorer.reach is not None and scorer.reach <= EXACT_REACH
    if overlap is None:
        overlap = scorer.reach if exact else USUAL_OVERLAP
    blend = blend or ("crop" if exact else "hann")
    side = tile_size or (EXACT_TILE if exact else tile_side(scorer, max(scene.grid.shape)))
    return plan_tiles(scene.grid.window, tile_size=side, overlap=overlap, stride=scorer.stride, blend=blend)


def score_tiles(
    scorer: Scorer, scene: Scene, plan: TilePlan, *, wanted: Callable[[Window], bool] | None = None
) -> Iterator[ScoredTile]:
    """Predict every tile of the plan, or those whose window (`Tile.answers`) is `wanted`; windows without a
    valid pixel are passed over.

    The bands are picked by name where the scene has the checkpoint's names, else taken in their order. Raises
    BadInput where neither is possible.
    """
    chosen = (tile for tile in plan if wanted is None or wanted(tile.answers))
    if plan.fade:
        yield from _faded(scorer, scene, plan, None if wanted is None else {tile.answers for tile in chosen})
        return
    for tile, logits, valid in _predicted(scorer, scene, chosen):
        inside = tile.core.inset_of(tile.seen)
        if logits is not None and valid[inside].any():
            yield ScoredTile(tile.core, logits[(slice(None), *inside)], valid[inside])


def _predicted(
    scorer: Scorer, scene: Scene, tiles: Iterable[Tile]
) -> Iterator[tuple[Tile, Tensor | None, np.ndarray]]:
    """Each tile with the logits (K, h, w) of all it sees, None where nothing in it is valid, and which of
    its pixels are. One is read ahead.
    """
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    tiles = iter(tiles)
    with scene.for_thread() as own, ThreadPoolExecutor(1, thread_name_prefix="read") as reader:

        def read(tile: Tile | None) -> tuple[list[Tensor] | None, np.ndarray] | None:
            """What the networks read and which pixels are valid: scaled here, beside the network."""
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


def _faded(scorer: Scorer, scene: Scene, plan: TilePlan, wanted: set[Window] | None) -> Iterator[ScoredTile]:
    """The plan's windows with neighbouring tiles blended, or the wanted ones."""
    fader = Fader(plan)
    tiles = plan if wanted is None else _contributing(plan, wanted)
    for tile, logits, valid in _predicted(scorer, scene, tiles):
        scored = fader.feed(tile, logits, valid)
        if scored is not None and (wanted is None or scored.window in wanted):
            yield scored


def _contributing(plan: TilePlan, wanted: set[Window]) -> list[Tile]:
    """The tiles that count in the wanted windows: their own, the one to the left, and the two above these."""
    starts = {
        (tile.core.top - up, tile.core.left - back)
        for tile in plan
        if tile.answers in wanted
        for up in (0, plan.core)
        for back in (0, plan.core)
    }
    return [tile for tile in plan if (tile.core.top, tile.core.left) in starts]
