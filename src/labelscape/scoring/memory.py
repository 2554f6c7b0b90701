"""Memory needed to predict a tile, and the tile size that follows: decided here for maps and for scores."""

from __future__ import annotations

from labelscape.scoring.scorer import Scorer

LARGE_TILE, DEFAULT_TILE = 1664, 1152
"""Sides of tiles that overlap by 64 pixels: the network then reads 1.13 and 1.20 pixels for each mapped
pixel.
"""
LARGE_BYTES, MOST_BYTES = 1280 * 2**20, 4 * 2**30
"""Memory a network may take for a large tile and for the default one (ours); networks that need more get
SMALL_TILES.
"""
SMALL_TILES = 896, 640


def tile_side(scorer: Scorer, longest: int) -> int:
    """The side of the tiles of a scene whose longer side is `longest` pixels.

    It depends on the first network alone, never on the memory of the machine: blended tiles of another size
    give another map.
    """
    if longest <= DEFAULT_TILE:
        return DEFAULT_TILE
    engine = scorer.members[0].engine
    for side, most in ((LARGE_TILE, LARGE_BYTES), (DEFAULT_TILE, MOST_BYTES), (SMALL_TILES[0], MOST_BYTES)):
        if engine.peak_bytes(side, side) <= most:
            return side
    return SMALL_TILES[1]


def scoring_bytes(scorer: Scorer, height: int, width: int) -> int:
    """Memory at the peak on the scorer's device, for one tile of height x width pixels with all scales,
    augmentations and networks.
    """
    classes, bands = len(scorer.checkpoint.legend), len(scorer.checkpoint.bands)
    scale = max(1.0, *scorer.protocol.scales)
    # Networks run one after the other: the largest counts.
    most = max(m.engine.peak_bytes(round(height * scale), round(width * scale)) for m in scorer.members)
    if scorer.protocol.passes == 1 and len(scorer.members) == 1:
        return most
    # The running sum of predictions, and one pass's image and prediction.
    return most + int(height * width * 4 * (2 * classes + (bands + 2 * classes) * scale**2))
