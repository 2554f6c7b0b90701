"""The size of tiles, how many are predicted at once, and the memory needed: decided here for maps and for
scores.
"""

from __future__ import annotations

from labelscape.scoring.scorer import Member, Scorer
from labelscape.scoring.tiles import TilePlan

EXACT_REACH = 300
"""Networks with a receptive field no farther than this from a pixel get a halo of that width: the tiled map
then equals the whole-scene map. It is where a tile of EXACT_TILE reads two pixels for each that it maps
(ours): beyond that most of the time would go into halos.
"""
EXACT_TILE = 2048
"""Tile side for networks with exact halos. Their halos are wide, so small tiles would be mostly halo, and
these networks need little memory.
"""
LARGE_TILE, DEFAULT_TILE = 1664, 1152
"""Sides of tiles that overlap by 64 pixels: the network then reads 1.13 and 1.20 pixels for each mapped
pixel.
"""
LARGE_BYTES, MOST_BYTES = 1536 * 2**20, 4 * 2**30
"""Memory a network may take for a large tile and for the default one (ours); networks that need more get
SMALL_TILES.
"""
SMALL_TILES = 896, 640
MOST_BATCH, CPU_BATCH = 32, 4
"""Tiles in a batch, whose pixels are at most those of the smallest of SMALL_TILES: it takes no more memory
than a tile may. On a CPU a batch of four saves a tenth of the time at 224 pixels and a quarter at 128, and
larger ones little more, while every place of a batch costs its time, also of a tile that is not wanted.
"""


def is_exact(member: Member) -> bool:
    """Does a halo of this network's reach make its tiles equal to the whole scene, at a fair price?"""
    return member.engine.reach is not None and member.engine.reach <= EXACT_REACH


def learned_side(scorer: Scorer) -> int | None:
    """The largest tile that costs no accuracy: the smallest over the networks.

    `TileSizes.default` where it was measured, else the training crop. None where size makes no difference
    (all networks are exact) or where nothing is known of their training.
    """
    sides = []
    for member in scorer.members:
        measured, crop = member.checkpoint.tile_sizes, member.checkpoint.recipe.get("crop")
        if measured is not None:
            sides.append(measured.default)
        elif crop and not is_exact(member):
            # Training for a map's size that was not measured afterwards.
            sides.append(int(member.checkpoint.recipe.get("map_size") or crop))
    if not sides:
        return None
    # Rounded down: a larger tile than was measured is what must not happen.
    whole_strides = min(sides) // scorer.stride
    # A small crop may leave less than one stride, and no tile is smaller.
    return max(1, whole_strides) * scorer.stride


def image_side(scorer: Scorer) -> int | None:
    """Side of the only images that an exported network takes, the smallest of several; None for others."""
    networks = [member.checkpoint.exported for member in scorer.members]
    return min((n.facts.size for n in networks if n is not None and n.facts.size), default=None)


def exact_side(scorer: Scorer) -> int:
    """The smallest image with room for halos of the reach and some core (ours: four strides)."""
    return 2 * scorer.reach + 4 * scorer.stride


def size_warning(scorer: Scorer, plan: TilePlan) -> str | None:
    """What to expect of a plan whose tiles are larger than the networks learned, or other than an exported
    one takes; None where they are neither.
    """
    if plan.scaled:
        found = (size_warning(scorer.at_one_scale, scaled) for scaled in plan.scaled)
        return next(filter(None, found), None)
    only = image_side(scorer)
    least = min(plan.core + 2 * plan.halo, *plan.ground.shape)
    again = "classes may differ from the checkpoint's. Export it for images of any size (--dynamic)"
    if only is not None and least < only:
        return f"tiles of {least} pixels are padded to the {only} that this exported model takes: {again}"
    exact = scorer.reach is not None and all(is_exact(member) for member in scorer.members)
    if exact and only is not None and len(plan) > 1 and only < (least := exact_side(scorer)):
        return (
            f"the images of {only} pixels that this exported model takes have no room for the {scorer.reach} "
            f"pixels that a class depends on to each side: tiles are blended, and {again}, or of {least} "
            "pixels and more (--size)"
        )
    if not exact and only is not None and only != (usual := tile_side(scorer, max(plan.ground.shape))):
        return (
            f"the images of {only} pixels that this exported model takes are not the tiles of {usual} that "
            f"its checkpoint maps with: {again}, or of {usual} pixels (--size)"
        )
    side, learned = plan.largest, learned_side(scorer)
    if learned is None or side <= learned:
        return None
    made = [member.checkpoint for member in scorer.members]
    sizes = [one.tile_sizes for one in made if one.tile_sizes is not None]
    crops = [s.crop for s in sizes] + [int(c.recipe["crop"]) for c in made if c.recipe.get("crop")]
    tiles = f"tiles of {side}"
    loss = max((s.loss_at(side) for s in sizes), default=None)
    if loss is None:
        cost = f"{tiles} may cost accuracy, which was not measured"
    elif loss <= 0:
        cost = f"{tiles} are larger than any that was measured"
    else:
        cost = f"{tiles} cost about {100 * loss:.1f} points of mean IoU"
    return f"{cost}; the model learned at {min(crops)}. Leave the tile size out for tiles of {learned}"


def tile_side(scorer: Scorer, longest: int) -> int:
    """The side of the tiles of a scene whose longer side is `longest` pixels: as large as the networks
    learned to see, or as memory allows where that is less.

    It depends on the networks alone, never on the memory of the machine: blended tiles of another size
    give another map.
    """
    learned = learned_side(scorer)
    if learned is None:
        return DEFAULT_TILE if longest <= DEFAULT_TILE else memory_side(scorer)
    return learned if learned <= SMALL_TILES[-1] else min(learned, memory_side(scorer))


def memory_side(scorer: Scorer) -> int:
    """The largest tile whose memory is fair, for the hungriest network."""
    # The largest first: the larger the tile, the fewer pixels are read twice.
    for side, most in ((LARGE_TILE, LARGE_BYTES), (DEFAULT_TILE, MOST_BYTES), (SMALL_TILES[0], MOST_BYTES)):
        if _peak_bytes(scorer, side, side) <= most:
            return side
    return SMALL_TILES[1]


def batch_of(scorer: Scorer, side: int) -> int:
    """Tiles of `side` pixels that the network is given at once."""
    most = CPU_BATCH if scorer.device.type == "cpu" else MOST_BATCH
    # Squared, because memory grows with the pixels of all tiles together.
    return min(most, max(1, int((SMALL_TILES[-1] / side) ** 2)))


def scoring_bytes(scorer: Scorer, height: int, width: int, batch: int = 1) -> int:
    """Memory at the peak on the scorer's device, for `batch` tiles of height x width pixels, as the networks
    see them, with all augmentations and networks.
    """
    classes, bands = scorer.classes, len(scorer.checkpoint.bands)
    most = _peak_bytes(scorer, height, width, batch)
    if scorer.protocol.passes == 1 and len(scorer.members) == 1:
        return most
    # The running sum of predictions, and one pass's image and prediction.
    return most + batch * height * width * 4 * (4 * classes + bands)


def _peak_bytes(scorer: Scorer, height: int, width: int, batch: int = 1) -> int:
    """Networks run one after the other: the largest counts."""
    size = height, width
    return max(member.engine.peak_bytes(*size, *([batch] if batch > 1 else [])) for member in scorer.members)
