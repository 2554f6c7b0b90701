"""Predict a scene tile by tile in bounded memory; the next tile is read while the network runs."""

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
"""Tile side for networks with exact halos. Their halos are wide, so small tiles would be mostly halo, and
these networks need little memory.
"""
EXACT_REACH = 256
"""Networks with a receptive field no farther than this from a pixel get a halo of that width: the tiled map
then equals the whole-scene map.
"""
USUAL_OVERLAP = 64
"""Overlap for all others: those with global pooling, or with a receptive field so wide that exact halos would
cost more than the map.
"""


def plan_for(
    scorer: Scorer,
    scene: Scene,
    *,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
) -> TilePlan:
    """The tiles that suit a network and a scene.

    Networks with a reach of at most EXACT_REACH get halos of that width, which are cropped: the tiled map
    equals the whole-scene map. All others are blended over USUAL_OVERLAP pixels, in tiles as large as their
    memory use allows (`memory.tile_side`). `overlap` and `blend` ("crop", "hann", "none") override that.
    Raises UnknownName for another blend, BadOption where the overlap leaves no core.
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
    valid pixel are skipped.

    Bands are matched by name where the scene has the checkpoint's names, else taken in their order. Raises
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
    """Each tile with the logits (K, h, w) of its whole `seen` window, None where no pixel is valid, and the
    mask of valid pixels (h, w). One tile is read ahead.
    """
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    tiles = iter(tiles)
    # GDAL data sets must not be shared between threads: the reader opens the scene for itself.
    with scene.for_thread() as own, ThreadPoolExecutor(1, thread_name_prefix="read") as reader:

        def read(tile: Tile | None) -> tuple[list[Tensor] | None, np.ndarray] | None:
            """The normalised images and the mask of valid pixels: scaled in this thread, while the network
            runs.
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


def _faded(scorer: Scorer, scene: Scene, plan: TilePlan, wanted: set[Window] | None) -> Iterator[ScoredTile]:
    """The plan's windows, or the wanted ones, with neighbouring tiles blended."""
    fader = Fader(plan)
    tiles = plan if wanted is None else _contributing(plan, wanted)
    for tile, logits, valid in _predicted(scorer, scene, tiles):
        scored = fader.feed(tile, logits, valid)
        if scored is not None and (wanted is None or scored.window in wanted):
            yield scored


def _contributing(plan: TilePlan, wanted: set[Window]) -> list[Tile]:
    """The tiles that contribute to the wanted windows: their own, the left neighbour, and the two above
    these. Right and lower neighbours do not: a tile's `answers` ends where their ramps begin.
    """
    starts = {
        (tile.core.top - up, tile.core.left - back)
        for tile in plan
        if tile.answers in wanted
        for up in (0, plan.core)
        for back in (0, plan.core)
    }
    return [tile for tile in plan if (tile.core.top, tile.core.left) in starts]
