"""Draw pixels of a map at random: exactly uniform within strata, and the same pixels for the same seed,
whatever the height of the strips that are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labelscape.assessment.census import Census, ClassMap, parts, pixel_areas
from labelscape.grid import Window


@dataclass(frozen=True, eq=False)
class Drawn:
    """Sampled pixels, each (N,): row, column, index of the stratum, ground area, inclusion probability, and
    where blocks were drawn the block's number, ground area and pixels.
    """

    rows: np.ndarray
    columns: np.ndarray
    stratum: np.ndarray
    area: np.ndarray
    probability: np.ndarray
    block: np.ndarray | None = None
    block_area: np.ndarray | None = None
    block_pixels: np.ndarray | None = None


def draw_pixels(
    one: ClassMap,
    census: Census,
    points: np.ndarray,
    seed: int,
    *,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> Drawn:
    """Draw `points` (H,) pixels without replacement in each stratum, each pixel of it equally likely.

    Which of a stratum's pixels, counted in reading order, is settled before the map is read again.
    """
    units = census.pixels.sum(axis=1)
    # Places in the stratum, drawn without a list of its pixels: that could be billions, of 8 bytes each.
    chosen = [
        # A generator for each stratum: another number of points in one changes nothing in the others.
        np.sort(np.random.default_rng([seed, h]).choice(int(n), size=int(k), replace=False))
        for h, (n, k) in enumerate(zip(units, points))
    ]
    seen = np.zeros(len(units), np.int64)
    found: list[np.ndarray] = []
    for strip, _, _, of in parts(one, strip_rows, tick):
        of = of.ravel()
        here = np.bincount(of[of >= 0], minlength=len(units))
        metres = None
        for h in np.flatnonzero(here):
            # As many of the drawn numbers as lie among this strip's pixels of the stratum.
            first, last = np.searchsorted(chosen[h], [seen[h], seen[h] + here[h]])
            if first == last:
                continue
            # Only in parts that hold a point, and once for all strata.
            metres = pixel_areas(one.grid, strip).ravel() if metres is None else metres
            places = np.flatnonzero(of == h)[chosen[h][first:last] - seen[h]]
            rows, columns = np.divmod(places, strip.width)
            found.append(np.stack([rows + strip.top, columns, np.full(len(rows), h), metres[places]]))
        seen += here
    rows, columns, stratum, area = np.concatenate(found, axis=1)
    # By stratum and place, whatever the strips: the shuffle that follows is then the same as well.
    order = np.lexsort([columns, rows, stratum])
    stratum = stratum[order].astype(np.int64)
    return Drawn(
        rows[order].astype(np.int64),
        columns[order].astype(np.int64),
        stratum,
        area[order],
        # n_h / N_h, the inclusion probability of simple random sampling within strata.
        (points / np.maximum(units, 1))[stratum],
    )


def strata_of_blocks(census: Census) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks are in the stratum that has most of their pixels, of equals the first. Returns the blocks that
    have pixels (B,), the stratum of each (B,), and the area of each stratum's blocks (H,).
    """
    # Blocks of nodata alone are no units: drawn, they would stand for no area.
    numbers = np.flatnonzero(census.blocks.sum(axis=1))
    # In one stratum only: in two, a block could be drawn twice and its probability would be no single n / N.
    stratum = census.blocks[numbers].argmax(axis=1)
    area = np.bincount(stratum, weights=census.block_area[numbers], minlength=census.blocks.shape[1])
    return numbers, stratum, area


def draw_blocks(
    one: ClassMap,
    census: Census,
    blocks: np.ndarray,
    side: int,
    per_block: int,
    seed: int,
    *,
    tick: Callable[[int], None] | None = None,
) -> Drawn:
    """Draw `blocks` (H,) blocks in each stratum of blocks, then `per_block` pixels in each of them (all,
    where it has fewer).
    """
    numbers, of, _ = strata_of_blocks(census)
    across = -(-one.grid.width // side)
    found: list[np.ndarray] = []
    for h, wanted in enumerate(blocks):
        members = numbers[of == h]
        picked = np.random.default_rng([seed, h]).choice(len(members), size=int(wanted), replace=False)
        # In the order of the file, so that its own blocks are decoded as few times as GDAL's cache allows.
        for number in members[np.sort(picked)]:
            row, column = (int(x) * side for x in divmod(number, across))
            # Cut at the map's edge: the estimator weights blocks by the area that they really have.
            window = Window(row, column, side, side) & one.grid.window
            inside = np.flatnonzero(one.members(window)[2].ravel() >= 0)
            # A generator for each block too: what is drawn in one does not depend on the others.
            rng = np.random.default_rng([seed, len(blocks), int(number)])
            places = np.sort(rng.choice(inside, size=min(per_block, len(inside)), replace=False))
            rows, columns = np.divmod(places, window.width)
            n = len(places)
            found.append(
                np.stack(
                    [
                        rows + window.top,
                        columns + window.left,
                        np.full(n, h),
                        pixel_areas(one.grid, window).ravel()[places],
                        # Two stages: the block in its stratum, then the pixel in its block.
                        np.full(n, wanted / len(members) * n / len(inside)),
                        np.full(n, number),
                        np.full(n, census.block_area[number]),
                        np.full(n, len(inside)),
                    ]
                )
            )
            if tick:
                tick(1)
    rows, columns, stratum, area, probability, block, block_area, block_pixels = np.concatenate(found, axis=1)
    whole = (x.astype(np.int64) for x in (rows, columns, stratum))
    return Drawn(*whole, area, probability, block.astype(np.int64), block_area, block_pixels.astype(np.int64))
