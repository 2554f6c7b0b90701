"""How many points a sample needs, and how they are shared among strata.

Paper     W. G. Cochran, "Sampling Techniques", 3rd edition, 1977: sec. 5.5 (optimum allocation), eq. 5.25
          P. Olofsson et al., 2014 (see `evaluation.accuracy`), sec. 5.1: a floor for rare classes
Differs   Cochran's size supposes the optimum allocation. Here it is the smallest whose predicted standard
          error meets the target under the allocation that is asked for, floor included
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from labelscape.errors import BadOption, check_names

ALLOCATIONS = ("proportional", "equal", "neyman")
MOST_POINTS = 200_000
"""A target that needs more is refused: nobody interprets them."""


def expected_accuracies(
    given: float | Mapping[str, float], default: float, classes: Sequence[str], strata: Sequence[str]
) -> dict[str, float]:
    """The user's accuracy expected of each class, and of those strata that were named.

    Raises BadOption where one does not lie between 0 and 1, UnknownName for other names.
    """
    named = dict(given) if isinstance(given, Mapping) else {}
    check_names("class or stratum", named, dict.fromkeys([*classes, *strata]))
    everywhere = default if isinstance(given, Mapping) else given
    for value in (everywhere, *named.values()):
        # Not 0 or 1 either: without expected variance any number of points would seem enough.
        if not isinstance(value, (int, float)) or not 0 < value < 1:
            raise BadOption(f"`expect={value!r}` must be an accuracy above 0 and below 1, such as 0.85.")
    return {name: float(everywhere) for name in classes} | {k: float(v) for k, v in named.items()}


def deviations(
    area: np.ndarray,
    expected: Mapping[str, float],
    classes: Sequence[str],
    strata: Sequence[str],
    target_class: str | None = None,
) -> np.ndarray:
    """(H,) standard deviation within each stratum of what is estimated: whether a pixel is right, or whether
    its true class is `target_class`.

    area  (H, K) of the map, by stratum and class. Errors of a class are taken to fall on the others in
    proportion to their areas
    """
    share = area.sum(axis=0) / area.sum()
    # 1 where a stratum has no area: it gets no points, and 0 / 0 would warn.
    within = area / np.where(area.sum(axis=1, keepdims=True) > 0, area.sum(axis=1, keepdims=True), 1)
    right = np.array([expected[name] for name in classes])
    if target_class is None:
        part = right
    else:
        k = list(classes).index(target_class)
        # Of other classes' pixels those that are truly this one: their errors, shared out by area.
        part = (1 - right) * share[k] / np.maximum(1 - share, 1e-12)
        part[k] = right[k]
    level = within @ np.clip(part, 0, 1)
    if target_class is None:
        # A stratum that was named is taken at its word, whatever classes the map has in it.
        level = np.array([expected.get(name, found) for name, found in zip(strata, level)])
    # A pixel is right (or of the class) or not: a Bernoulli variable, of variance p (1 - p).
    return np.sqrt(level * (1 - level))


def predicted_error(points: np.ndarray, weights: np.ndarray, spread: np.ndarray, units: np.ndarray) -> float:
    """Standard error of the stratified estimate (Cochran eq. 5.6): points, weights, standard deviations and
    pixels of each stratum, all (H,). Infinite where a stratum has no point.
    """
    used = weights > 0
    if (points[used] < 1).any():
        return math.inf
    n, units = points[used], units[used]
    # With the finite population correction: a small stratum that is all read has no error.
    return float(np.sqrt(np.sum(weights[used] ** 2 * spread[used] ** 2 / n * (1 - n / units))))


def allocate(
    size: int, kind: str, weights: np.ndarray, spread: np.ndarray, units: np.ndarray, floor: int
) -> np.ndarray:
    """(H,) points of each stratum: shares of `size`, whole, at least `floor` each, at most its `units`.

    What rare strata get through the floor is taken from the others in proportion; the sum exceeds `size`
    where the floors alone do. Strata without pixels get none.
    """
    # Neyman's shares, W_h S_h, make the standard error smallest where every point costs the same (Cochran
    # sec. 5.5); a proportional sample needs no guess of S_h, and an equal one serves rare classes.
    wanted = {"proportional": weights, "equal": (units > 0) * 1.0, "neyman": weights * spread}[kind]
    # A little to every stratum: where nothing is expected to vary, Neyman's shares are 0 / 0.
    wanted = wanted + 1e-9 * weights
    # A stratum with fewer pixels than the floor is read whole.
    least = np.minimum(floor, units)
    total = int(np.clip(size, least.sum(), units.sum()))
    # One factor for all strata that are neither at their floor nor full: the sum rises with it.
    low, high = 0.0, units.max() / wanted[units > 0].min()
    # More halvings than float64 has bits: the factor is then as exact as it can be.
    for _ in range(200):
        factor = (low + high) / 2
        short = np.clip(factor * wanted, least, units).sum() < total
        low, high = (factor, high) if short else (low, factor)
    return _whole(np.clip(high * wanted, least, units), total)


def _whole(raw: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to `total`, by largest remainders."""
    # A millionth more: 4.9999999 is 5 that the halving did not quite reach.
    down = np.floor(raw + 1e-6).astype(np.int64)
    # Stable: of equal remainders the first strata get the points, on every machine.
    order = np.argsort(down - raw, kind="stable")
    down[order[: max(0, total - int(down.sum()))]] += 1
    return down


def smallest_size(
    target: float, kind: str, weights: np.ndarray, spread: np.ndarray, units: np.ndarray, floor: int
) -> int:
    """The smallest size whose predicted standard error is at most `target`. Raises BadOption where it is more
    than anybody interprets.
    """
    high = min(MOST_POINTS, int(units.sum()))

    def meets(size: int) -> bool:
        points = allocate(size, kind, weights, spread, units, floor)
        return predicted_error(points, weights, spread, units) <= target

    # No answer rather than one that misses the target: someone would plan fieldwork by it.
    if not meets(high):
        raise BadOption(
            f"A standard error of {target:g} needs more than {high:,} points; give a larger `target_se`, or "
            "the number of points with `size`."
        )
    low = 1
    # Bisection: but for rounding to whole points, the error falls with the size.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle + 1, high)
    return low
