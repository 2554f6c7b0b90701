"""Predict a scene tile by tile in bounded memory; the next batch is read while the network runs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from labelscape.contract.adjust import in_units
from labelscape.contract.matching import bands_to_read
from labelscape.errors import UnknownName
from labelscape.grid import Window, meeting
from labelscape.progress import still_at
from labelscape.scenes.scene import BLOCK, Scene
from labelscape.scoring.arrays import Array, back_to_logits, brought, library_of, softmax, without_gradients
from labelscape.scoring.fade import Fader
from labelscape.scoring.heap import memory_kept
from labelscape.scoring.memory import (
    EXACT_TILE,
    batch_of,
    exact_side,
    image_side,
    is_exact,
    learned_side,
    tile_side,
)
from labelscape.scoring.scales import (
    Taps,
    at_scale,
    back,
    block_plan,
    part_for,
    read_by,
    resampled,
    scaled_ground,
)
from labelscape.scoring.scored import SOFTENED_ROWS, ScoredTile
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.tiles import BLENDS, Tile, TilePlan, plan_tiles
from labelscape.stages import stage

USUAL_OVERLAP = 64
"""Overlap of tiles that are blended; tiles below eight times this overlap less (`usual_overlap`)."""


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
    equals the whole-scene map. All others are blended, in tiles of the size they learned
    (`memory.tile_side`), also at the scene's border. `overlap` and `blend` ("crop", "hann", "none") override
    that. At several scales the scene is scaled, and cut into tiles of that size at each of them. Raises
    UnknownName for another blend, BadOption where the overlap leaves no core.
    """
    if blend is not None and blend not in BLENDS:
        raise UnknownName("way to join tiles (`blend`)", blend, BLENDS)
    how = {"tile_size": tile_size, "overlap": overlap, "blend": blend}
    # A part of a scene is mapped as it would be in a map of all of it.
    whole, around = scene.grid.window, scene.around
    if scorer.protocol.scales == (1.0,):
        return _plan_over(scorer, whole, around, **how)
    alone, scaled = scorer.at_one_scale, []
    for scale in scorer.protocol.scales:
        ground = scaled_ground(around, scale)
        scaled.append(replace(_plan_over(alone, ground, ground, **how), source=around))
    return block_plan(whole, around, scaled, scorer.classes)


def _plan_over(
    scorer: Scorer,
    whole: Window,
    around: Window,
    *,
    tile_size: int | None,
    overlap: int | None,
    blend: str | None,
) -> TilePlan:
    """The tiles over `whole` of networks that may see what is `around` it, at one scale."""
    # `reach` is None for global pooling: every pixel sees all of its tile, and no halo is wide enough.
    exact = scorer.reach is not None and all(is_exact(member) for member in scorer.members)
    only = image_side(scorer)
    # A small image has no room for halos of the reach: its tiles are blended.
    exact = exact and (only is None or only >= exact_side(scorer))
    side = tile_size or only or (EXACT_TILE if exact else tile_side(scorer, max(around.shape)))
    if overlap is None:
        # A halo as wide as the receptive field: each core pixel sees what it would see in the whole scene.
        overlap = scorer.reach if exact else usual_overlap(side, scorer.stride)
    blend = blend or ("crop" if exact else "hann")
    if (
        exact
        and blend == "crop"
        and overlap >= scorer.reach
        and only is None
        and scorer.protocol.tta == "none"
    ):
        # However they are cut, its tiles give the same: they need not lie where those of all of it would.
        # Not blended: within a fade a tile sees less than the reach. Not turned around: where the network's
        # stride then begins depends on where a tile ends. Images of one size alone would be padded.
        around = _within_reach(whole, around, overlap, scorer.stride)
    how = {"tile_size": side, "overlap": overlap, "stride": scorer.stride, "blend": blend}
    plan = plan_tiles(whole, **how, around=None if around == whole else around)
    # The whole scene at once: nothing to blend, pad or batch.
    if plan.core >= max(plan.ground.shape):
        return plan
    seen = plan.core + 2 * plan.halo
    # Exact tiles may be cut at the scene's border; the others are all of one size where it is known which one
    # the network learned.
    fixed = only is not None or (not exact and learned_side(scorer) is not None)
    return replace(plan, side=seen if fixed else 0, batch=batch_of(scorer, seen))


def _within_reach(whole: Window, around: Window, overlap: int, stride: int) -> Window:
    """The part of `around` that pixels of `whole` depend on, from a whole number of strides on."""
    top, left = (
        first + max(0, (start - overlap - first) // stride * stride)
        for start, first in ((whole.top, around.top), (whole.left, around.left))
    )
    return Window(top, left, whole.bottom + overlap - top, whole.right + overlap - left) & around


def usual_overlap(side: int, stride: int) -> int:
    """Overlap of blended tiles: an eighth of their side in whole strides, so that the network reads at most
    1.8 pixels for each that is mapped; one stride at least, none where that would leave no core.
    """
    # A core and two overlaps of one stride each are the least that can overlap.
    if side < 3 * stride:
        return 0
    return min(USUAL_OVERLAP, max(stride, side // 8 // stride * stride))


def score_tiles(
    scorer: Scorer,
    scene: Scene,
    plan: TilePlan,
    *,
    wanted: Callable[[Window], bool] | None = None,
    by_part: bool = False,
) -> Iterator[ScoredTile]:
    """Predict every tile of the plan, or those whose window (`Tile.answers`) is `wanted`; windows without a
    valid pixel are skipped. With `by_part` any other window may be asked about too, and pixels of a tile that
    lie in none that is wanted may be left out, as if they were not valid.

    Bands are matched by name where the scene has the checkpoint's names, else taken in their order. Raises
    BadInput where neither is possible.
    """
    chosen = wanted or (lambda window: True)
    if plan.scaled:
        yield from _at_scales(scorer, scene, plan, chosen, by_part=by_part and wanted is not None)
        return
    if plan.fade:
        yield from _faded(scorer, scene, plan, wanted)
        return
    for tile, logits, valid in _predicted(scorer, scene, plan, lambda tile: chosen(tile.answers)):
        # (K, h, w) of the seen window -> of its core: the halo has done its work.
        inside = tile.answers.inset_of(tile.seen)
        if logits is not None and valid[inside].any():
            yield ScoredTile(tile.answers, logits[(slice(None), *inside)], valid[inside])


def _at_scales(
    scorer: Scorer, scene: Scene, plan: TilePlan, chosen: Callable[[Window], bool], *, by_part: bool
) -> Iterator[ScoredTile]:
    """The chosen blocks of the plan, each averaged over its scaled tilings."""
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    with memory_kept():
        for tile in plan:
            if not chosen(tile.answers):
                continue
            valid = np.zeros(tile.answers.shape, bool)
            # Blocks are large, and a few labels need few of its tiles.
            parts = [part for part in tile.answers.blocks(BLOCK) if not by_part or chosen(part)]
            for part in parts:
                valid[part.inset_of(tile.answers)] = scene.read(part, bands).valid
            if valid.any():
                needed = parts if by_part else [tile.answers]
                yield ScoredTile(tile.answers, _averaged(scorer, scene, plan, tile.answers, needed), valid)


def _averaged(scorer: Scorer, scene: Scene, plan: TilePlan, window: Window, needed: list[Window]) -> Array:
    """(K, h, w) of a window, over all scales and networks: as `Scorer.logits` averages those of an image.
    What lies beside the `needed` parts of it may be anything.
    """
    logits, total = scorer.protocol.average == "logits", None
    steps = len(scorer.members) * sum(len(part_for(scaled, window)) for scaled in plan.scaled)
    for number, member in enumerate(scorer.members):
        done = number * steps // len(scorer.members)
        mean = _over_scales(replace(scorer, members=(member,)), scene, plan, window, needed, (done, steps))
        if logits and len(scorer.members) > 1:
            mean = softmax(mean, 0, scorer.groups)
        total = mean if total is None else total.__iadd__(mean)
    if len(scorer.members) == 1:
        return total if logits else back_to_logits(total)
    total /= len(scorer.members)
    return back_to_logits(total)


def _over_scales(
    scorer: Scorer, scene: Scene, plan: TilePlan, window: Window, needed: list[Window], far: tuple[int, int]
) -> Array:
    """(K, h, w) mean over the scales: of probabilities, or of logits where these are averaged. `far` is how
    many tiles of the window are done, of how many.
    """
    alone, average, total = scorer.at_one_scale, scorer.protocol.average, None
    done, steps = far
    for scaled in plan.scaled:
        part, wanted = part_for(scaled, window), None
        if needed != [window]:
            wanted = meeting([part_for(scaled, one).whole for one in needed])
        # Hours, of many scales and slow networks: no tile of the map ends meanwhile.
        tiles = _told(score_tiles(alone, scene, part, wanted=wanted), done, steps)
        found = _assembled(tiles, part.whole)
        done += len(part)
        with stage("scale back"):
            if total is None:
                library = library_of(found)
                total = library.zeros((len(found), *window.shape), dtype=library.float32)
            _add_scaled(total, found, back(scaled, window), part.whole, average, scorer.groups)
    total /= len(plan.scaled)
    return total


def _told(tiles: Iterable[ScoredTile], done: int, steps: int) -> Iterator[ScoredTile]:
    """The same tiles; says after each how far it is."""
    for number, tile in enumerate(tiles, done + 1):
        yield tile
        still_at(**{"scaled tiles": f"{number:,}/{steps:,}"})


def _assembled(tiles: Iterable[ScoredTile], whole: Window) -> Array:
    """(K, h, w) logits of a window from those of its tiles; 0 where nothing is valid."""
    made = None
    for tile in tiles:
        own = brought(tile.logits)
        if made is None:
            library = library_of(own)
            made = library.zeros((len(own), *whole.shape), dtype=library.float32)
        made[(slice(None), *tile.window.inset_of(whole))] = own
    return made


@without_gradients()
def _add_scaled(
    total: Array, logits: Array, places: tuple[Taps, Taps], own: Window, average: str, groups: tuple[int, ...]
) -> None:
    """Add the logits (K, h, w) of the window `own` of the scaled ground, brought back to the scene's pixels,
    to the sum (K, H, W). Some rows at a time: they stay in the processor's cache.
    """
    rows, columns = places
    for top in range(0, total.shape[1], SOFTENED_ROWS):
        some = slice(top, top + SOFTENED_ROWS)
        first, stop = rows.of(own.top, some).span
        strip = resampled(logits[:, first:stop], rows.of(own.top + first, some), columns.of(own.left))
        total[:, some] += strip if average == "logits" else softmax(strip, 0, groups)


Read = tuple[Tile, list[Array] | None, np.ndarray]
"""A tile, what each network reads of it (None where nothing is valid), and which pixels are valid."""


def _predicted(
    scorer: Scorer, scene: Scene, plan: TilePlan, wanted: Callable[[Tile], bool]
) -> Iterator[tuple[Tile, Array | None, np.ndarray]]:
    """Each wanted tile with the logits (K, h, w) of its whole `seen` window, None where no pixel is valid,
    and the mask of valid pixels (h, w). One batch is read ahead.
    """
    bands = bands_to_read(scorer.checkpoint.bands, scene)
    batches = ((tiles, chosen) for tiles in tile_batches(plan) if (chosen := [t for t in tiles if wanted(t)]))
    # GDAL data sets must not be shared between threads: the reader opens the scene for itself.
    # In the units of training, as a scene is mapped: those to be scored are opened as they are.
    with (
        memory_kept(),
        in_units(scorer.checkpoint.contract, scene) as seen,
        seen.for_thread() as own,
        ThreadPoolExecutor(1, thread_name_prefix="read") as reader,
    ):

        def read(chosen: list[Tile]) -> list[Read]:
            """Normalised in this thread, while the network runs."""
            found = []
            for tile in chosen:
                found.append((tile, *tile_read(scorer, own, plan, tile, bands)))
            return found

        batch = next(batches, None)
        ahead = reader.submit(read, batch[1]) if batch else None
        while batch:
            # One batch ahead, not more: each is held as float32 for all networks.
            with stage("wait for reading"):
                following, found = next(batches, None), ahead.result()
            ahead = reader.submit(read, following[1]) if following else None
            yield from _batch_logits(scorer, batch[0], found)
            batch = following


def tile_read(
    scorer: Scorer, scene: Scene, plan: TilePlan, tile: Tile, bands: Sequence[str]
) -> tuple[list[Array] | None, np.ndarray]:
    """What each network reads of a tile, None where nothing is valid, and which pixels are valid (h, w): at
    another scale all of a tile that has any.
    """
    with stage("read"):
        patch = scene.read(read_by(plan, tile.seen), bands)
    with stage("normalise"):
        # Nodata needs no network: scenes with wide empty margins cost what their data cost.
        any_valid = patch.valid.any()
        images = scorer.prepare(patch.pixels, patch.data) if any_valid else None
        if plan.source is None:
            return images, patch.valid
        # Members of one scaling share the image.
        made = {id(image): at_scale(image, plan, tile.seen) for image in images or ()}
        return images and [made[id(image)] for image in images], np.full(tile.seen.shape, any_valid)


def tile_batches(plan: TilePlan) -> Iterator[list[Tile]]:
    """Consecutive tiles that are predicted, as many as are worked on at once."""
    tiles = plan.with_neighbours()
    while batch := list(itertools.islice(tiles, plan.batch)):
        yield batch


def _batch_logits(
    scorer: Scorer, tiles: list[Tile], found: list[Read]
) -> Iterator[tuple[Tile, Array | None, np.ndarray]]:
    """Logits of what was read of a batch, in the order of its tiles; tiles of one shape are predicted
    together.

    A tile's place and the shape it is predicted in follow from the plan alone; places of tiles that are not
    wanted or have no data are zeros. With fewer tiles the sums would be taken in another order, and a resumed
    map or an evaluation would differ from a whole map in the last digit.
    """
    images = {tile: image for tile, image, _ in found if image is not None}
    logits: dict[Tile, Array] = {}
    # Tiles cut at the scene's border have other shapes, and tensors are stacked in one.
    for shape in dict.fromkeys(tile.seen.shape for tile in images):
        alike = [tile for tile in tiles if tile.seen.shape == shape]
        images_of = [stacked([images.get(t) for t in alike], k) for k in range(len(scorer.members))]
        with stage("network"):
            logits |= zip(alike, scorer.batch_logits(images_of))
    for tile, image, valid in found:
        yield tile, logits[tile] if image is not None else None, valid


@lru_cache(maxsize=64)
def image_shapes(plan: TilePlan) -> Mapping[tuple[int, int, int], int]:
    """How often the network is given so many images of this height and width at once (`_batch_logits`), where
    all tiles hold data.

    Kept for the plans asked for last: memory and engine of a map both depend on it, and counting a million
    tiles takes seconds.
    """
    found: Counter[tuple[int, int, int]] = Counter()
    for scaled in plan.scaled:
        for part in (part_for(scaled, tile.answers) for tile in plan):
            found.update(image_shapes(part))
    if plan.scaled:
        return MappingProxyType(found)
    for tiles in tile_batches(plan):
        found.update((count, *shape) for shape, count in Counter(tile.seen.shape for tile in tiles).items())
    return MappingProxyType(found)


def forward_share(plan: TilePlan) -> float:
    """Pixels the network reads per pixel of the scene, of all scales."""
    # From the shapes, which are kept: counting the tiles of a huge scene takes seconds.
    read = sum(images * height * width * n for (images, height, width), n in image_shapes(plan).items())
    return read / plan.whole.pixels


def windows_read(plan: TilePlan) -> Iterator[Window]:
    """The windows of the scene that the network is given tiles of, of all scales."""
    for scaled in plan.scaled:
        # As one part: blocks meet in tiles, which would be read for each of them.
        yield from windows_read(part_for(scaled, plan.whole))
    if not plan.scaled:
        yield from (read_by(plan, tile.seen) for tile in plan.with_neighbours())


def stacked(images: list[list[Array] | None], member: int) -> Array:
    """(N, B, H, W): the images that one network reads, zeros for None."""
    if len(images) == 1:
        return images[0][member]
    like = next(image[member] for image in images if image is not None)
    shape = (len(images), *like.shape[1:])
    if isinstance(like, np.ndarray):
        made = np.zeros(shape, np.float32)
    else:
        # In the order that the images have in memory.
        torch = library_of(like)
        made = torch.empty(shape, memory_format=torch.channels_last).zero_()
    for place, image in enumerate(images):
        if image is not None:
            made[place] = image[member][0]
    return made


def _faded(
    scorer: Scorer, scene: Scene, plan: TilePlan, wanted: Callable[[Window], bool] | None
) -> Iterator[ScoredTile]:
    """The plan's windows, or the wanted ones, with neighbouring tiles blended."""
    fader = Fader(plan, groups=scorer.groups)
    answers = None if wanted is None else {tile.answers for tile in plan if wanted(tile.answers)}
    # Neighbours that are not wanted are predicted all the same: their ramps are part of the wanted pixels.
    needed = None if answers is None else _contributing(plan, answers)
    for tile, logits, valid in _predicted(scorer, scene, plan, lambda t: needed is None or t in needed):
        with stage("blend"):
            scored = fader.feed(tile, logits, valid)
        if scored is not None and (answers is None or scored.window in answers):
            yield scored


def tiles_read(plan: TilePlan, wanted: Callable[[Window], bool]) -> list[Tile]:
    """The tiles that `score_tiles` reads for the wanted windows: where neighbours are blended, some of these
    too.
    """
    tiles = [tile for tile in plan if wanted(tile.answers)]
    return list(_contributing(plan, {tile.answers for tile in tiles})) if plan.fade else tiles


def _contributing(plan: TilePlan, wanted: set[Window]) -> set[Tile]:
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
    return {tile for tile in plan.with_neighbours() if (tile.core.top, tile.core.left) in starts}
