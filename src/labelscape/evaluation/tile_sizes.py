"""Measure what larger tiles than the training crops cost a network that sees the whole tile.

A network with global pooling, sums over all pixels or dilations wider than the crop has learned what one tile
size looks like. Whether it loses at another depends on crop, network and training, so every checkpoint is
measured: the same held-out pixels are scored at several sizes, each as a map would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.contract.tile_sizes import TileSizes
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.evaluation.confusion import count
from labelscape.grid import Window, meeting
from labelscape.legend import IGNORE
from labelscape.progress import bar

if TYPE_CHECKING:
    from labelscape.scoring.scorer import Scorer

FACTORS = (1, 1.5, 2, 3)
"""Sides of the measured tiles, in training crops."""
MOST_PIXELS = 2 * 2**20
"""Held-out pixels that are scored at each size (ours): 32 blocks of 256. With four sizes and their overlaps
the network reads some 20 million pixels, about what 50 steps of 8 crops of 128 cost.
"""
UNIT_SIDE = 512
"""Larger blocks and images are cut into units of this side: a few whole scenes would exhaust the budget, and
a bootstrap over three units says nothing.
"""
RESAMPLES = 1000


@dataclass(frozen=True)
class Unit:
    """Held-out pixels that are drawn together: a block of a split, an image, or a part of a large one."""

    scene: LabelledScene
    window: Window


def measure_tile_sizes(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    part: str,
    sides: Sequence[int] = (),
    pixels: int = MOST_PIXELS,
    device: str = "auto",
    show: bool = True,
) -> TileSizes | None:
    """Scores of a checkpoint by tile size on held-out pixels of `part`, at most `pixels` of them, the same at
    each size. `sides` are the sizes, in whole strides and ascending from the crop, where they are not those
    of `measured_sides`.

    None where there is nothing to compare: the network's tiles are exact, its training crop is not known,
    nothing is labelled, or the scenes are no larger than the crop.
    """
    from labelscape.scoring.scorer import Scorer

    scorer = Scorer.of(checkpoint, device=device)
    if not _depends_on_size(scorer):
        return None
    crop, units = checkpoint.recipe["crop"], chosen_units(dataset, part, pixels)
    sides = tuple(sides) or _sides(scorer, units)
    if len(sides) < 2:
        return None
    totals = np.zeros((len(sides), len(units), 3, len(checkpoint.legend)), np.int64)
    with bar(
        f"tile sizes {' '.join(map(str, sides))}", len(sides) * len(units), "blocks", shown=show
    ) as tick:
        for side, into in zip(sides, totals):
            _count_units(scorer, units, part, side, into, tick)
    return summarised(crop, sides, totals)


def pixels_for_tile_sizes(scorer: Scorer, dataset: Dataset, part: str, pixels: int = MOST_PIXELS) -> int:
    """How many pixels the network is given for `measure_tile_sizes`, overlaps included; 0 where that has
    nothing to compare.
    """
    from labelscape.scoring.stitch import plan_for, tiles_read

    if not _depends_on_size(scorer):
        return 0
    units = chosen_units(dataset, part, pixels)
    sides, found = _sides(scorer, units), 0
    for scene in {id(unit.scene): unit.scene for unit in units}.values() if len(sides) > 1 else ():
        mine = [unit.window for unit in units if unit.scene is scene]
        for side in sides:
            plan = plan_for(scorer, scene.scene, tile_size=side)
            read = tiles_read(plan, meeting(mine))
            found += sum(tile.seen.pixels for tile in read)
    return found


def _depends_on_size(scorer: Scorer) -> bool:
    """Whether a larger tile than the training crop, where that is known, may give another map."""
    from labelscape.scoring.memory import is_exact

    known = scorer.checkpoint.recipe.get("crop")
    return bool(known) and not all(is_exact(member) for member in scorer.members)


def _sides(scorer: Scorer, units: Sequence[Unit]) -> tuple[int, ...]:
    """The sides that are measured, as memory and the largest scene allow."""
    from labelscape.scoring.memory import SMALL_TILES, memory_side

    crop, map_size = (scorer.checkpoint.recipe.get(key) for key in ("crop", "map_size"))
    longest = max((max(unit.scene.scene.grid.shape) for unit in units), default=0)
    most = SMALL_TILES[-1]  # any network may take tiles of this size
    if FACTORS[-1] * crop > most:
        most = memory_side(scorer)
    return measured_sides(crop, scorer.stride, longest, most, map_size)


def measured_sides(
    crop: int, stride: int, longest: int, most: int, map_size: int | None = None
) -> tuple[int, ...]:
    """FACTORS of the crop in whole strides, ascending: no larger than the longest scene, and than `most`,
    which memory allows. The crop is always among them. With `map_size`, for which the network was trained,
    these factors and further doublings up to that size, whatever memory it takes.
    """
    # No tile is larger than the scene: beyond, the same map would be scored again.
    whole_scene, factors = -(-longest // stride) * stride, list(FACTORS)
    if map_size:
        while factors[-1] * crop < map_size:
            factors.append(2 * factors[-1])
        factors, most = [min(factor, map_size / crop) for factor in factors], map_size + stride
    first, *larger = (max(1, round(crop * factor / stride)) * stride for factor in factors)
    return (
        first,
        *sorted({min(s, whole_scene) for s in larger if min(s, whole_scene) in range(first + 1, most + 1)}),
    )


def chosen_units(dataset: Dataset, part: str, most: int = MOST_PIXELS) -> list[Unit]:
    """Labelled units of a part, drawn without replacement until they hold `most` pixels; always the same
    ones. Those of a scene follow each other.
    """
    scenes = dataset.part(part)
    windows = [(n, window) for n, scene in enumerate(scenes) for window in _windows(scene, part)]
    found, pixels = [], 0
    # A fixed seed: sizes, and checkpoints of one data set, are compared on the same pixels.
    for place in np.random.default_rng(0).permutation(len(windows)):
        number, window = windows[place]
        # At least one unit, even where it alone exceeds the budget.
        if pixels + window.pixels > most and found:
            break
        if (scenes[number].read_labels(window, part) != IGNORE).any():
            found.append((number, window))
            pixels += window.pixels
    # In order of place: neighbouring units share tiles, and blocks that GDAL has just decoded.
    found.sort(key=lambda one: (one[0], one[1].top, one[1].left))
    return [Unit(scenes[number], window) for number, window in found]


def _windows(scene: LabelledScene, part: str) -> Iterator[Window]:
    whole = scene.scene.grid.window
    blocks = [whole]
    if scene.split is not None:
        side = scene.split.block
        blocks = [Window(r * side, c * side, side, side) & whole for r, c in scene.split.blocks(part)]
    return (window for block in blocks for window in block.blocks(UNIT_SIDE) if window.pixels)


def _count_units(
    scorer: Scorer, units: Sequence[Unit], part: str, side: int, into: np.ndarray, tick: Callable[..., None]
) -> None:
    """Add hits, truth and prediction totals (units, 3, K) of tiles of `side` pixels, stitched as in a map."""
    from labelscape.scoring.stitch import plan_for, score_tiles

    scenes = {id(unit.scene): unit.scene for unit in units}
    for scene in scenes.values():
        mine = [(number, unit.window) for number, unit in enumerate(units) if unit.scene is scene]
        wanted = meeting([own for _, own in mine])
        plan = plan_for(scorer, scene.scene, tile_size=side)
        for tile in score_tiles(scorer, scene.scene, plan, wanted=wanted):
            predicted = tile.classes()
            for number, own in mine:
                shared = tile.window & own
                if shared.pixels:
                    inside = shared.inset_of(tile.window)
                    truth = scene.read_labels(shared, part)
                    # As in `evaluate`: a label on nodata counts neither as right nor as wrong.
                    truth[~tile.valid[inside]] = IGNORE
                    found = count(truth, predicted[inside], into.shape[-1])
                    into[number] += [np.diag(found.counts), found.support, found.counts.sum(axis=0)]
        tick(len(mine))


def summarised(crop: int, sides: Sequence[int], totals: np.ndarray) -> TileSizes | None:
    """Scores, losses and their errors from (sides, units, 3, K) hits, truth and prediction totals; None where
    nothing is labelled.

    Paired bootstrap: the same units are drawn for every size, so what makes a block hard for all of them is
    no error of the difference.
    """
    sums = totals.sum(axis=1)
    if not sums[0, 1].any():
        return None
    scores = mean_iou(sums)
    accuracy = sums[:, 0].sum(axis=-1) / sums[:, 1].sum(axis=-1)
    units = totals.shape[1]
    draws = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    # (sides, resamples, 3, K); float64 holds whole numbers up to 2^53.
    drawn = np.einsum("ru,suxk->srxk", draws.astype(float), totals.astype(float), optimize=True)
    resampled = mean_iou(drawn)
    # Of the difference, not of each score: a hard block is hard at every size.
    error = (resampled[0] - resampled).std(axis=1, ddof=1)
    columns = (scores, accuracy, scores[0] - scores, error)
    return TileSizes(crop, tuple(sides), *(tuple(float(value) for value in column) for column in columns))


def mean_iou(totals: np.ndarray) -> np.ndarray:
    """(..., 3, K) hits, truth and prediction totals -> (...) mean IoU over the classes present in either."""
    hits, truth, predicted = np.moveaxis(totals, -2, 0)
    union = truth + predicted - hits
    # A class in neither counts for nothing: its 0 / 0 stays out of the mean.
    each = np.divide(hits, union, out=np.zeros(union.shape), where=union > 0)
    return each.sum(axis=-1) / np.maximum(1, (union > 0).sum(axis=-1))
