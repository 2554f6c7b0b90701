"""Which simple mistake (a scale factor, an offset, swapped bands) explains how a scene's values differ from
the training's? Arithmetic on quantiles, nothing is read.

Symbols   B bands  Q quantiles; `seen` and `known` are (B, Q) at `bands.QUANTILES`: of the scene, of the
          training scenes

A mistake is only claimed where it explains the scene much better than another place, another season or clouds
do: the distance left after undoing it must be small and a fraction of the distance before. A common gain of
0.75 to 1.33 (illumination) is never counted as a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from labelscape.contract.bands import QUANTILES

LOW, MEDIAN = QUANTILES.index(0.01), QUANTILES.index(0.5)
BODY = slice(QUANTILES.index(0.05), QUANTILES.index(0.95) + 1)
"""The quantiles that are compared: the outermost belong to clouds and single bright roofs."""
GAIN = (0.75, 1.33)
"""Range of the common gain that illumination may have."""
FAR = 3.0
"""Distances are capped here, so that one band under clouds does not outweigh the others."""
UNLIKE = 0.45
"""Least difference of two training bands (`_unlike`) for a swap of them to be claimed."""
KNOWN_FACTORS = (10, 100, 255, 256, 257, 1000, 10_000, 65_535, 65_536)


@dataclass(frozen=True)
class Likeness:
    """What must be undone to make a scene like the training scenes.

    factor  the scene's values times this are like the training's; 1 for none
    offset  what was added to the scene's values (after `factor`); 0 for none
    cycles  swapped or rotated bands: each a tuple (a, b, ...) of positions where band a holds what b held in
            training, b holds ..., back to a
    """

    factor: float = 1.0
    offset: float = 0.0
    cycles: tuple[tuple[int, ...], ...] = ()


def explain(seen: np.ndarray, known: np.ndarray) -> Likeness:
    """The mistakes that explain a scene; `Likeness()` where none does better than another place or season."""
    # In this order: a factor hides an offset, and both hide a swap.
    factor = _factor(seen, known)
    values = seen * factor
    cycles = _cycles(values, known)
    placed = _undone(values, cycles)
    offset = _offset(placed, known)
    if offset and not cycles:  # an offset may have hidden a swap
        cycles = _cycles(values - offset, known)
    return Likeness(factor, offset, cycles)


def _undone(values: np.ndarray, cycles: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """(B, Q) with swapped bands back in place."""
    placed = values.copy()
    for cycle in cycles:
        for here, held in zip(cycle, (*cycle[1:], cycle[0])):
            placed[held] = values[here]
    return placed


def _factor(seen: np.ndarray, known: np.ndarray) -> float:
    """The factor that corrects the scene's values where all bands are an order of magnitude off; else 1."""
    # The highest quantile, not the maximum: one hot pixel would set the range.
    top_seen, top_known = np.abs(seen[:, -1]).max(), np.abs(known[:, -1]).max()
    middle_seen, middle_known = seen[:, MEDIAN], known[:, MEDIAN]
    if (middle_seen <= 0).any() or (middle_known <= 0).any():
        return 1.0
    ratios = middle_known / middle_seen
    usual = float(np.exp(np.log(ratios).mean()))
    # Water, snow or clouds change single bands by a factor of up to 30, but never all of several bands, and
    # never down to values of about 1.
    least = 8 if len(seen) >= 3 else 40
    unit_range = (top_seen <= 2 and middle_known.min() > 20) or (top_known <= 2 and middle_seen.min() > 20)
    # A photograph of a lake is ten times darker than one of a town: between 8-bit images that is the
    # place, not a scale.
    both_bytes = max(top_seen, top_known) <= 255 and min(top_seen, top_known) > 4
    if both_bytes or not (unit_range or ratios.min() > least or ratios.max() < 1 / least):
        return 1.0
    size = _known_factor(max(usual, 1 / usual), min(top_seen, top_known), max(top_seen, top_known))
    return size if usual > 1 else 1 / size


def _known_factor(size: float, lower_top: float, higher_top: float) -> float:
    """The common scale factor nearest to `size`, or `size` itself. Tops are the highest quantiles of the
    brightest bands.

    Full ranges say more than medians, which change with the place: 0..1 against 8 bit is 255, 8 bit against
    16 bit is 257.
    """
    # 1.05: reflectances pass 1 on snow and clouds.
    if lower_top <= 1.05 and 130 < higher_top <= 255:
        return 255.0
    if 130 < lower_top <= 255 and higher_top > 25_000:
        return 257.0
    nearest = min(KNOWN_FACTORS, key=lambda f: abs(math.log(f / size)))
    return float(nearest) if abs(math.log(nearest / size)) < math.log(1.8) else float(size)


def _scales(known: np.ndarray) -> np.ndarray:
    """(B, 1) width of each band's training values, from the 5 % to the 95 % quantile."""
    width = known[:, BODY][:, -1] - known[:, BODY][:, 0]
    # A constant band has no width: 2 % of its level, so that nothing is divided by zero.
    return np.maximum(width, 0.02 * np.abs(known[:, MEDIAN]) + 1e-9)[:, None]


def _gain(seen: np.ndarray, known: np.ndarray) -> float:
    """The common gain between the scene and the training, limited to GAIN."""
    middle_seen, middle_known = seen[:, MEDIAN], known[:, MEDIAN]
    fair = (middle_seen > 0) & (middle_known > 0)
    return float(np.clip(np.median(middle_known[fair] / middle_seen[fair]), *GAIN)) if fair.any() else 1.0


def _costs(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(B, B) mean distance of the scene's band i to the training's band j, in widths of j."""
    # (B, 1, Q) against (1, B, Q): every band of the scene with every band of the training.
    apart = np.abs(seen[:, None, BODY] - known[None, :, BODY]) / _scales(known)[None]
    return np.minimum(apart, FAR).mean(axis=2)


def _cycles(seen: np.ndarray, known: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Swaps of bands that fit much better than the present order."""
    # It takes 0.2 s to import, and every command imports this module.
    from scipy.optimize import linear_sum_assignment

    if len(seen) < 2:
        return ()
    # The gain is unknown until the bands are identified: each order is judged with the gain that suits
    # it best.
    every = [_costs(seen * gain, known) for gain in np.geomspace(*GAIN, 13)]
    plain = min(every, key=np.trace)
    costs = min(every, key=lambda c: c[linear_sum_assignment(c)].sum())
    unlike = _unlike(known)
    pairs = _exchanged_pairs(costs, plain, unlike)
    # The simplest explanation first: swapped pairs, unless a rotation (NIR-R-G as R-G-NIR) leaves far less
    # unexplained.
    rings = [c for c in _rings(linear_sum_assignment(costs)[1]) if _claimed(costs, plain, unlike, c)]
    return tuple(rings) if _left(costs, rings) < 0.5 * _left(costs, pairs) else tuple(pairs)


def _unlike(known: np.ndarray) -> np.ndarray:
    """(B, B) how much two training bands differ in median and in range, as logarithms of ratios."""
    level, width = (np.log(np.maximum(v, 1e-9)) for v in (np.abs(known[:, MEDIAN]), _scales(known)[:, 0]))
    return np.abs(level[:, None] - level) + np.abs(width[:, None] - width)


def _exchanged_pairs(costs: np.ndarray, plain: np.ndarray, unlike: np.ndarray) -> list[tuple[int, ...]]:
    """Disjoint pairs of bands that should be swapped, the largest improvement first."""
    bands, taken, found = len(costs), set(), []
    pairs = [(i, j) for i in range(bands) for j in range(i + 1, bands)]
    for i, j in sorted(
        pairs, key=lambda p: costs[p[0], p[1]] + costs[p[1], p[0]] - plain[p[0], p[0]] - plain[p[1], p[1]]
    ):
        if not {i, j} & taken and _claimed(costs, plain, unlike, (i, j)):
            found.append((i, j))
            taken |= {i, j}
    return found


def _rings(assigned: np.ndarray) -> list[tuple[int, ...]]:
    """Cycles of two or more of the permutation "band i shows what assigned[i] showed"."""
    done, found = set(), []
    for start in range(len(assigned)):
        ring, i = [], start
        while i not in done:
            done.add(i)
            ring.append(i)
            i = int(assigned[i])
        if len(ring) > 1:
            found.append(tuple(ring))
    return found


def _claimed(costs: np.ndarray, plain: np.ndarray, unlike: np.ndarray, cycle: tuple[int, ...]) -> bool:
    """Do the bands of a cycle fit each other's places well, and their own badly?

    No claim for bands that were similar in training (median and range together within about half): those
    change order from one landscape to the next anyway.
    """
    moved = list(zip(cycle, (*cycle[1:], cycle[0])))
    after, before = np.array([costs[i, j] for i, j in moved]), np.array([plain[i, i] for i in cycle])
    apart = np.mean([unlike[i, j] for i, j in moved])
    # In a rotation, one of several bands may be near its own place by chance.
    misplaced = before.min() > 0.15 if len(cycle) == 2 else min(costs[i, i] for i in cycle) > 0.05
    return bool(
        apart > UNLIKE
        and after.mean() < 0.3
        and after.mean() < 0.4 * before.mean()
        and misplaced
        and before.mean() > 0.3
    )


def _left(costs: np.ndarray, cycles: list[tuple[int, ...]]) -> float:
    """Total distance that remains with these cycles undone."""
    places = np.arange(len(costs))
    for cycle in cycles:
        for i, j in zip(cycle, (*cycle[1:], cycle[0])):
            places[i] = j
    return float(costs[np.arange(len(costs)), places].sum())


def _offset(seen: np.ndarray, known: np.ndarray) -> float:
    """The offset added to all bands, 1000 or -1000 (0.1 where values run from 0 to 1); 0 for none.

    Needs three bands or more: a single band that is brighter by 1000 may be a brighter place.
    """
    step = 1000.0 if known[:, MEDIAN].min() > 20 else 0.1 if np.abs(known).max() <= 2 else 0.0
    if len(seen) < 3 or not step or (known[:, MEDIAN] <= 0).any() or np.abs(known).max() < 2.5 * step:
        return 0.0
    plain = _apart(seen, known)
    for offset in (step, -step):
        shifted = seen - offset
        rise = (seen[:, BODY] - known[:, BODY]) / offset
        # A gain raises bright bands more than dark ones, another place each band differently; only an offset
        # raises all by the same amount.
        alike = np.abs(np.median(rise, axis=1) - 1).max() < 0.8 and (rise > 0.1).mean() > 0.9
        dark_end = (offset * (seen[:, LOW] - known[:, LOW]) > 0.4 * step * step).all()
        if alike and dark_end and _apart(shifted, known) < 0.4 * plain and plain > 0.05:
            return offset
    return 0.0


def _apart(seen: np.ndarray, known: np.ndarray) -> float:
    """Mean distance of the scene's bands from the training's after the best common gain."""
    apart = np.abs(seen * _gain(seen, known) - known)[:, BODY] / _scales(known)
    return float(np.minimum(apart, FAR).mean())
