"""A scene scored tile by tile in bounded memory, one tile read ahead while the network works on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.imagery.raster import Scene
from labelscape.legend import IGNORE
from labelscape.scores import Scorer, soften
from labelscape.tiles import Tile, TilePlan, plan_tiles

DEFAULT_TILE = 1024
EXACT_TILE = 2048
"""Tiles with exact halos are larger, or the halos would be most of the work; the networks that have them need little memory."""
EXACT_REACH = 256
"""Networks that see no farther than this get halos as wide as they see: their tiles leave no trace."""
USUAL_OVERLAP = 64
"""Overlap for all others, which see the whole tile (global pooling) or so far that exact halos would cost more than the map."""


@dataclass(frozen=True)
class ScoredTile:
    """The answer for one core: logits (K, h, w) and which of its pixels are valid (h, w)."""

    core: Window
    logits: Tensor
    valid: np.ndarray

    @cached_property
    def probabilities(self) -> Tensor:
        """(K, h, w) float32, made when first asked for: in the thread that writes, while the network goes on."""
        return soften(self.logits)

    def classes(self) -> np.ndarray:
        """(h, w) uint8 index of the likeliest class, 255 on invalid pixels."""
        # Plane by plane: torch's own argmax over the first dimension takes as long as a small network. The first of equals wins.
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


def plan_for(scorer: Scorer, scene: Scene, *, tile_size: int | None = None, overlap: int | None = None) -> TilePlan:
    """The tiles for a network and a scene. Without `overlap` the halo is the network's reach where that is near (EXACT_REACH)."""
    reach = scorer.reach
    exact = reach is not None and reach <= EXACT_REACH
    if overlap is None:
        overlap = reach if exact else USUAL_OVERLAP
    return plan_tiles(scene.grid.window, tile_size=tile_size or (EXACT_TILE if exact else DEFAULT_TILE), overlap=overlap, stride=scorer.stride)


def score_tiles(
    scorer: Scorer, scene: Scene, plan: TilePlan, *, wanted: Callable[[Window], bool] | None = None
) -> Iterator[ScoredTile]:
    """Score every tile of the plan, or those whose core is `wanted`; tiles without a valid pixel are passed over.

    The bands are picked by name where the scene has the checkpoint's names, else taken in their order.
    """
    bands = match_bands(scorer.checkpoint.bands, scene)
    tiles = (tile for tile in plan if wanted is None or wanted(tile.core))
    with scene.for_thread() as own, ThreadPoolExecutor(1, thread_name_prefix="read") as reader:

        def read(tile: Tile | None) -> tuple[list[Tensor] | None, np.ndarray] | None:
            """What the network reads and which pixels of the core are valid; reading and scaling wait for nobody but the disk."""
            if tile is None:
                return None
            patch = own.read(tile.seen, bands)
            valid = patch.valid[tile.core.inset_of(tile.seen)]
            return scorer.prepare(patch.pixels, patch.valid) if valid.any() else None, valid

        tile = next(tiles, None)
        ahead = reader.submit(read, tile)
        while tile:
            following = next(tiles, None)
            (images, valid), ahead = ahead.result(), reader.submit(read, following)
            if images is not None:
                yield ScoredTile(tile.core, scorer.logits(images)[(slice(None), *tile.core.inset_of(tile.seen))], valid)
            tile = following


def match_bands(wanted: tuple[str, ...], scene: Scene) -> tuple[str, ...]:
    """The scene's bands in the network's order: by name where it has them all, in its own order where the counts agree.

    Raises BadInput where neither is possible.
    """
    if set(wanted) <= set(scene.bands):
        return wanted
    if len(scene.bands) == len(wanted):
        return scene.bands
    raise BadInput(
        f"{scene.name} has {len(scene.bands)} bands ({' '.join(scene.bands)}); this model reads {len(wanted)} ({' '.join(wanted)}). "
        "Pick or name the bands so that they agree."
    )
