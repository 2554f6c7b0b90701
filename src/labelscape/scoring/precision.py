"""Is reduced precision good enough for this model and these scenes? Measured on some of their own tiles,
before the first is mapped: how many classes change differs from model to model.

On the CPU alone: on a GPU full precision may not fit, which is why reduced precision was asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from labelscape.contract.adjust import in_units
from labelscape.contract.matching import bands_to_read
from labelscape.grid import Window
from labelscape.scenes.scene import Scene
from labelscape.scoring.arrays import softmax
from labelscape.scoring.devices import HALF_SHARE
from labelscape.scoring.heap import memory_kept
from labelscape.scoring.scales import read_by
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import image_shapes, stacked, tile_batches, tile_read
from labelscape.scoring.tiles import Tile, TilePlan

if TYPE_CHECKING:
    from torch import Tensor

LEAST_EQUAL = 0.99
"""Share of pixels that must get the class they get in full precision (ours): measured, trained networks keep
0.995 to 0.999 in bfloat16.
"""
SAMPLES, SPARED = 4, 32
"""Batches of tiles that are predicted twice, at most; and of so many batches one, so that the check takes
little of the time of a map.
"""
LARGE = 1024
"""Side of tiles from which on one image is made of quarters of four of them: as many pixels, of four places.
Both precisions see the same image, also a network that looks at all of it.
"""

Pairs = Sequence[tuple[Scene, TilePlan]]
Batch = tuple[Scene, TilePlan, list[Tile]]
Read = tuple[list["Tensor"], "Tensor"]
"""Images (N, B, H, W) for each member, and which pixels are valid (N, H, W)."""


@dataclass(frozen=True)
class Agreement:
    """Reduced precision beside full precision.

    pixels   compared
    equal    share of them with the same class (of both tasks where two are mapped)
    mean     mean difference of the probability of the most probable class
    most     its largest difference
    """

    precision: str
    pixels: int
    equal: float
    mean: float
    most: float

    @property
    def enough(self) -> bool:
        return self.equal >= LEAST_EQUAL

    def __str__(self) -> str:
        return (
            f"{self.precision} gives {100 * self.equal:.2f} % of {self.pixels:,} sampled pixels the class of "
            f"full precision; confidence differs by {100 * self.mean:.2g} points on average, "
            f"{100 * self.most:.2g} at most"
        )


def is_checked(scorer: Scorer) -> bool:
    """Is its reduced precision compared with full precision before it is used?"""
    return scorer.dtype is not None and scorer.device.type == "cpu"


def checked_bytes(scorer: Scorer, network: int) -> int:
    """Memory that a map takes where reduced precision, for which `network` bytes are needed, is compared with
    networks in full precision.
    """
    own = [member.engine.net for member in scorer.members]
    return int(network / HALF_SHARE) + sum(
        v.nbytes for net in own for v in (*net.parameters(), *net.buffers())
    )


def agreement(scorer: Scorer, full: Scorer, pairs: Pairs) -> Agreement | None:
    """Compare a scorer with the same models in full precision on a sample of the tiles of these scenes. None
    where none of them holds data.
    """
    import torch

    same = pixels = 0
    total, most = 0.0, 0.0
    if scorer.protocol.scales != (1.0,):
        # The tiles of every scale by themselves.
        pairs = [(scene, scaled) for scene, plan in pairs for scaled in plan.scaled]
        scorer, full = scorer.at_one_scale, full.at_one_scale
    with memory_kept():
        for images, inside in _images(scorer, pairs):
            half, whole = (_tops(one, images) for one in (scorer, full))
            equal = torch.stack([a == b for (a, _), (b, _) in zip(half, whole)]).all(0)
            apart = torch.stack([(a - b).abs() for (_, a), (_, b) in zip(half, whole)]).amax(0)[inside]
            same, pixels = same + int(equal[inside].sum()), pixels + int(inside.sum())
            total, most = total + float(apart.sum(dtype=torch.float64)), max(most, float(apart.max()))
    if not pixels:
        return None
    name = str(scorer.dtype).removeprefix("torch.")
    return Agreement(name, pixels, same / pixels, total / pixels, most)


def _tops(scorer: Scorer, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Class and confidence (N, H, W) of each task."""
    logits = scorer.batch_logits(images).float()
    groups = scorer.groups[:-1] if scorer.unfamiliar else scorer.groups
    # A distance from training is no task.
    parts = logits[:, : sum(groups)].split(groups, 1) if groups else (logits,)
    return [(best.indices, best.values) for best in (softmax(part, 1).max(1) for part in parts)]


def _images(scorer: Scorer, pairs: Pairs) -> Iterator[Read]:
    """What is compared: images of the sampled tiles that hold data. Where none of the sample does, the first
    tiles that do: a map of a small island in a large scene is compared too.
    """
    wanted, sampled = _sampled(pairs)
    found = itertools.islice(_read_each(scorer, sampled), wanted)
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
        return
    yield from itertools.islice((one for batch in _held(pairs) for one in _read(scorer, *batch)), 1)


def _sampled(pairs: Pairs) -> tuple[int, list[Batch]]:
    """How many images, or batches of images, are compared, and more batches of tiles to make them of, since
    some may hold no data; any few that come first are spread over all scenes.
    """
    total = sum(-(-len(plan) // plan.batch) for _, plan in pairs)
    wanted = max(1, min(SAMPLES, total // SPARED))
    each = 4 if any(_is_large(plan) for _, plan in pairs) else 1
    step = max(1, total // (3 * each * wanted))
    held = list(_held(pairs, step // 2, step))
    return wanted, [*held[1::3], *held[0::3], *held[2::3]]


def _is_large(plan: TilePlan) -> bool:
    return plan.batch == 1 and min(_most(plan)) >= LARGE


def _most(plan: TilePlan) -> tuple[int, int]:
    """Height and width of the images that most of the plan's pixels are predicted in."""
    shapes = image_shapes(plan)
    _, height, width = max(shapes, key=lambda shape: shapes[shape] * math.prod(shape))
    return height, width


def _held(pairs: Pairs, first: int = 0, step: int = 1) -> Iterator[Batch]:
    """Of every `step`th batch of tiles, from the `first`, those that may hold data."""
    every = ((scene, plan, tiles) for scene, plan in pairs for tiles in tile_batches(plan))
    for scene, plan, tiles in itertools.islice(every, first, None, step):
        if any(scene.may_hold(read_by(plan, tile.seen)) for tile in tiles):
            yield scene, plan, tiles


def _read_each(scorer: Scorer, batches: Iterable[Batch]) -> Iterator[Read]:
    """The images of these batches; of large tiles, images of four quarters."""
    quarters: dict[tuple[int, int], list[Read]] = {}
    for scene, plan, tiles in batches:
        if not _is_large(plan):
            yield from _read(scorer, scene, plan, tiles)
            continue
        shape = _most(plan)
        waiting = quarters.setdefault(shape, [])
        part = _quarter(shape, len(waiting))
        seen = _within(tiles[0].seen, part)
        # At the scene's far border tiles may be smaller than that.
        if seen.shape == part.shape:
            waiting += _read(scorer, scene, plan, [replace(tiles[0], seen=seen)])
        if len(waiting) == 4:
            yield _joined(quarters.pop(shape), shape)
    for shape, waiting in quarters.items():
        if waiting:
            yield _joined(waiting, shape)


def _quarter(shape: tuple[int, int], number: int) -> Window:
    """Of an image, from the top left (0) to the bottom right (3); together they are all of it."""
    high, wide = (-(-side // 2) for side in shape)
    down, right = divmod(number, 2)
    return Window(down * high, right * wide, high, wide) & Window(0, 0, *shape)


def _within(tile: Window, part: Window) -> Window:
    """As many pixels as the part, in the tile: at its end where the part is not at the start of its image."""
    top = tile.bottom - part.height if part.top else tile.top
    left = tile.right - part.width if part.left else tile.left
    return Window(top, left, *part.shape) & tile


def _joined(quarters: Sequence[Read], shape: tuple[int, int]) -> Read:
    """One image of this shape for each member, from up to four quarters in the order of `_quarter`; what they
    leave is not valid.
    """
    import torch

    valid = torch.zeros(1, *shape, dtype=torch.bool)
    joined = [
        torch.zeros(1, image.shape[1], *shape).contiguous(memory_format=torch.channels_last)
        for image in quarters[0][0]
    ]
    for number, (images, inside) in enumerate(quarters):
        place = (..., *_quarter(shape, number).inset_of(Window(0, 0, *shape)))
        valid[place] = inside
        for made, image in zip(joined, images):
            made[place] = image
    return joined, valid


def _read(scorer: Scorer, scene: Scene, plan: TilePlan, tiles: list[Tile]) -> Iterator[Read]:
    """Images of tiles of one shape for each member, and which of their pixels are valid. Tiles of one shape
    together, as they are when the scene is mapped.
    """
    import torch

    bands = bands_to_read(scorer.checkpoint.bands, scene)
    with in_units(scorer.checkpoint.contract, scene) as seen:  # as it is predicted
        for shape in dict.fromkeys(tile.seen.shape for tile in tiles):
            found = [tile_read(scorer, seen, plan, tile, bands) for tile in tiles if tile.seen.shape == shape]
            images, masks = zip(*found)
            valid = torch.from_numpy(np.stack(masks))
            if valid.any():
                yield [stacked(list(images), k) for k in range(len(scorer.members))], valid
