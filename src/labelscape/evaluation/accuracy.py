"""Accuracies and class areas of a map from a probability sample, with standard errors and 95 % intervals.

Papers    P. Olofsson et al., "Good practices for estimating area and assessing accuracy of land change".
          Remote Sensing of Environment 148, 2014
          S. V. Stehman, "Estimating area and map accuracy for stratified random sampling when the strata are
          different from the map classes". International Journal of Remote Sensing 35, 2014
          W. G. Cochran, "Sampling Techniques", 3rd edition, 1977: sec. 6.10 and 11.10 (clusters)
Reads as  Olofsson eq. 1 to 11, Stehman eq. 2 to 28 -> estimate

One estimator serves all designs. A stratum's share of each cell (map class, reference class) of the confusion
matrix is a ratio of sample totals of area; strata are added with their known areas. All else is a ratio of
sums of cells, and has the variance of its linear form (Taylor), from the covariance of the cells. Where
strata are the map classes and pixels are of one size, these are Olofsson's equations to the last digit; where
strata are others, Stehman's.

`*_ci95` is half the symmetric interval, estimate +- 1.96 SE, as papers print it. It covers less than it says
for rare classes and near 0 and 1, and has no width at all where the sample holds no error; `*_interval` is
Wilson's, at the effective sample size share (1 - share) / SE^2, which keeps close to 95 % there too.
Simulated (`tests/evaluation/test_accuracy.py`, 2,000 samples of a known truth for each design), it holds the
truth in 93 to 97 % for every estimator, but for a class of 3 %: producer's accuracy with pixels of unequal
area, 92.7 %, user's accuracy and F1 with blocks in strata, 91.8 and 92.1 %. The symmetric one falls to 88 %
for producer's, 89 % for user's accuracy and area of that class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from labelscape.errors import BadInput

ROUNDING = 1e-9
NORMAL_95 = 1.96
"""Half a 95 % interval in standard errors, to the digits that papers use."""


class Blocks(NamedTuple):
    """The blocks in which sampled pixels lie: number of the block, its area and its pixels, each (N,)."""

    index: np.ndarray
    area: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class AreaEstimates:
    """Estimates of K classes from a probability sample; NaN where the sample says nothing.

    counts       (K, K) sampled pixels: rows are map classes, columns reference classes
    proportions  (K, K) estimated share of the mapped area in each cell of that matrix
    mapped_area  (K,) area of each class in the map ("pixel count"); NaN where unknown
    area         (K,) estimated area of each reference class, in the unit of the strata's areas
    oa           overall accuracy; ua, pa, f1 are user's, producer's accuracy and F1 of each class (K,)
    *_se         standard errors
    critical     half a 95 % interval in standard errors: 1.96, for blocks the t quantile
    bootstrap    percentile intervals (low, high) by name (area, oa, ua, pa, f1), where asked for
    """

    names: tuple[str, ...]
    counts: np.ndarray
    proportions: np.ndarray
    mapped_area: np.ndarray
    total_area: float
    area: np.ndarray
    area_se: np.ndarray
    oa: float
    oa_se: float
    ua: np.ndarray
    ua_se: np.ndarray
    pa: np.ndarray
    pa_se: np.ndarray
    f1: np.ndarray
    f1_se: np.ndarray
    critical: float = NORMAL_95
    bootstrap: Mapping[str, np.ndarray] | None = None

    @property
    def points(self) -> int:
        return int(self.counts.sum())

    @property
    def area_ci95(self) -> np.ndarray:
        """(K,) half the 95 % interval: the area is `area` +- `area_ci95`."""
        return self.critical * self.area_se

    @property
    def oa_ci95(self) -> float:
        """Half the symmetric 95 % interval, as papers print it; `oa_interval` keeps its promise near 1."""
        return self.critical * self.oa_se

    @property
    def ua_ci95(self) -> np.ndarray:
        """(K,) as `oa_ci95`."""
        return self.critical * self.ua_se

    @property
    def pa_ci95(self) -> np.ndarray:
        """(K,) as `oa_ci95`."""
        return self.critical * self.pa_se

    @property
    def f1_ci95(self) -> np.ndarray:
        """(K,) as `oa_ci95`."""
        return self.critical * self.f1_se

    @property
    def area_interval(self) -> np.ndarray:
        """(K, 2) 95 % intervals of areas (Wilson, on shares of the whole): for a rare class not symmetric."""
        shares, errors = self.area / self.total_area, self.area_se / self.total_area
        return self.total_area * wilson(shares, errors, self.points, self.critical)

    @property
    def oa_interval(self) -> np.ndarray:
        """(2,) 95 % interval of the overall accuracy (Wilson)."""
        return wilson(np.array([self.oa]), np.array([self.oa_se]), self.points, self.critical)[0]

    @property
    def ua_interval(self) -> np.ndarray:
        """(K, 2) 95 % intervals of user's accuracies (Wilson)."""
        return wilson(self.ua, self.ua_se, self.counts.sum(axis=1), self.critical)

    @property
    def pa_interval(self) -> np.ndarray:
        """(K, 2) 95 % intervals of producer's accuracies (Wilson)."""
        return wilson(self.pa, self.pa_se, self.counts.sum(axis=0), self.critical)

    @property
    def f1_interval(self) -> np.ndarray:
        """(K, 2) 95 % intervals of F1 (Wilson)."""
        # F1 is 2 TP / (row + column): half of both is the number of pixels that it rests on (ours).
        support = (self.counts.sum(axis=0) + self.counts.sum(axis=1)) / 2
        return wilson(self.f1, self.f1_se, support, self.critical)

    def __repr__(self) -> str:
        return (
            f"<AreaEstimates: {self.points:,} points, {len(self.names)} classes, overall accuracy "
            f"{self.oa:.3f} +- {self.oa_ci95:.3f}>"
        )


def estimate_areas(
    counts: np.ndarray | Sequence[Sequence[int]],
    mapped_area: np.ndarray | Sequence[float],
    *,
    names: Sequence[str] | None = None,
) -> AreaEstimates:
    """Estimate areas and accuracies from a confusion matrix of sampled pixels (Olofsson et al. 2014).

    counts       (K, K): rows are map classes, which are the strata, columns reference classes. Pixels were
                 drawn at random within each class of the map, or over the whole map
    mapped_area  (K,): area of each class in the map, in any unit; estimates have the same

    No finite population correction: `mapped_area` need not be pixels. Raises BadInput where counts are not
    K x K whole numbers, or a mapped class has fewer than two sampled pixels.
    """
    table, areas = np.array(counts), np.array(mapped_area, float)
    if table.ndim != 2 or table.shape != (areas.size, areas.size) or not areas.size:
        raise BadInput(
            f"Counts must be K x K beside K mapped areas; found {table.shape} beside {areas.shape}."
        )
    if not np.all(table == np.floor(table)) or np.any(table < 0):
        raise BadInput(
            "Counts must be whole numbers of sampled pixels from 0 up; these hold others. Shares and "
            "weighted counts do not say how many pixels were sampled."
        )
    # Back to single pixels, so that a table and a list of points go through one estimator.
    mapped, reference = (part.ravel() for part in np.indices(table.shape))
    times = table.ravel().astype(int)
    mapped, reference = np.repeat(mapped, times), np.repeat(reference, times)
    called = tuple(names) if names is not None else tuple(f"class {i + 1}" for i in range(len(areas)))
    return estimate(mapped, mapped, reference, stratum_area=areas, names=called, mapped_area=areas)


def estimate(
    stratum: np.ndarray,
    mapped: np.ndarray,
    reference: np.ndarray,
    *,
    stratum_area: np.ndarray,
    names: Sequence[str],
    strata_names: Sequence[str] | None = None,
    stratum_units: np.ndarray | None = None,
    pixel_area: np.ndarray | None = None,
    blocks: Blocks | None = None,
    mapped_area: np.ndarray | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> AreaEstimates:
    """Estimate areas and accuracies from N pixels, drawn at random with equal probability within strata.

    stratum        (N,) index of each pixel's stratum, 0..H-1
    mapped         (N,) class index in the map, 0..K-1, and `reference`, that of the interpreter
    stratum_area   (H,) known area of each stratum; estimated areas have its unit
    stratum_units  (H,) pixels in each stratum, or blocks: for the finite population correction; none without
    pixel_area     (N,) area of each pixel, where pixels differ (degrees, Mercator); in any unit
    blocks         where blocks were drawn first, and pixels within them: variances are those of two stages
    bootstrap      replicates of the bootstrap (Rao and Wu 1988), 0 for none

    Raises BadInput where a stratum has fewer than two units in the sample (and more in the map), since one
    has no variance.
    """
    stratum_area = np.asarray(stratum_area, float)
    strata, classes = len(stratum_area), len(names)
    # An infinite population: the finite population correction 1 - n / N is then 1.
    units = np.full(strata, np.inf) if stratum_units is None else np.asarray(stratum_units, float)
    areas = np.ones(len(stratum)) if pixel_area is None else np.asarray(pixel_area, float)
    # Only cells that occur: 100 classes have 10,000, and the covariance would have 10,000 x 10,000 values.
    cells, cell_of = np.unique(
        np.asarray(mapped, np.int64) * classes + np.asarray(reference, np.int64), return_inverse=True
    )
    hits = np.equal.outer(cell_of.ravel(), np.arange(len(cells))).astype(float)
    rows = [np.flatnonzero(np.asarray(stratum) == h) for h in range(strata)]
    samples = [_sampled(of, hits, areas, blocks, known) for of, known in zip(rows, units)]
    called = strata_names if strata_names is not None else (names if strata == classes else range(strata))
    _check_strata(samples, stratum_area, units, [str(c) for c in called], "blocks" if blocks else "points")
    total = stratum_area.sum()
    weights = stratum_area / total
    found = None
    if bootstrap:
        found = _bootstrap(samples, weights, cells, classes, bootstrap, seed)
        found["area"] = found["area"] * total
    counts = np.bincount(np.asarray(mapped) * classes + reference, minlength=classes**2)
    return AreaEstimates(
        names=tuple(names),
        counts=counts.reshape(classes, classes),
        mapped_area=np.full(classes, np.nan) if mapped_area is None else np.asarray(mapped_area, float),
        total_area=float(total),
        **_estimates(samples, weights, cells, classes, total),
        critical=NORMAL_95 if blocks is None else _critical(samples),
        bootstrap=found,
    )


def _estimates(
    samples: Sequence[_Sampled], weights: np.ndarray, cells: np.ndarray, classes: int, total: float
) -> dict[str, Any]:
    """The cells' proportions, areas and accuracies with their standard errors, as `AreaEstimates` names them,
    from the strata's samples and their weights (H,), shares of the `total` area.
    """
    share, covariance = np.zeros(len(cells)), np.zeros((len(cells), len(cells)))
    for one, area in zip(samples, weights):
        if area:
            # Olofsson eq. 4: the stratum's weight times its share of each cell.
            share += area * one.share
            # Strata are drawn independently: variances add with squared weights, as in Olofsson eq. 5.
            covariance += area**2 * one.covariance
    full = np.zeros(classes * classes)
    full[cells] = share
    values, slopes = _scores(full, classes)
    # Olofsson eq. 5 to 7 and 10 and Stehman eq. 28 in one: the variance of each ratio's linear form.
    # Rounding can leave a variance of 0 slightly below it, and its root would be NaN.
    errors = {
        name: np.sqrt(np.maximum(np.einsum("ck,cd,dk->k", s[cells], covariance, s[cells]), 0))
        for name, s in slopes.items()
    }
    return {
        "proportions": full.reshape(classes, classes),
        "area": values["area"] * total,
        "area_se": errors["area"] * total,
        "oa": float(values["oa"][0]),
        "oa_se": float(errors["oa"][0]),
        **{name: values[name] for name in ("ua", "pa", "f1")},
        # + 0 * values: an accuracy that is NaN has no error either, though its slopes were made 0.
        **{f"{name}_se": errors[name] + 0 * values[name] for name in ("ua", "pa", "f1")},
    }


def _critical(blocks: Sequence[_Sampled]) -> float:
    """Half a 95 % interval in standard errors, from blocks drawn in strata."""
    from scipy.stats import t

    # Drawn blocks are few, and 1.96 is too small for few: Student's t, a degree less for each stratum.
    return float(t.ppf(0.975, max(1, sum(max(0, one.units - 1) for one in blocks))))


@dataclass(frozen=True, eq=False)
class _Sampled:
    """A stratum's sample of units (pixels or blocks), and what follows of it for C cells.

    totals  (M, C) area of each cell in each unit; areas (M,) of the units
    share   (C,) of the stratum, and its covariance (C, C)
    """

    totals: np.ndarray
    areas: np.ndarray
    share: np.ndarray
    covariance: np.ndarray

    @property
    def units(self) -> int:
        return len(self.areas)


def _sampled(
    rows: np.ndarray, hits: np.ndarray, weights: np.ndarray, blocks: Blocks | None, population: float
) -> _Sampled:
    """The sample of one stratum, whose points are `rows`."""
    cells = hits.shape[1]
    within = np.zeros((cells, cells))
    if blocks is None:
        totals, areas = weights[rows, None] * hits[rows], weights[rows]
    else:
        parts = [rows[blocks.index[rows] == b] for b in np.unique(blocks.index[rows])]
        areas = np.array([blocks.area[part[0]] for part in parts])
        totals = np.zeros((len(parts), cells))
        for number, part in enumerate(parts):
            a, y = weights[part], hits[part]
            mean = a @ y / a.sum()
            # Its sampled pixels stand for all of the block: blocks with more of them weigh no more.
            totals[number] = areas[number] * mean
            if len(part) > 1:
                # Second stage: how far the pixels of a block vary among themselves.
                rest = a[:, None] * (y - mean)
                # 1 - m / M: a block of which every pixel was read has no error of its own.
                left = max(0.0, 1 - len(part) / blocks.pixels[part[0]]) * len(part) / (len(part) - 1)
                within += areas[number] ** 2 * left * (rest.T @ rest) / a.sum() ** 2
    units, area = len(areas), areas.sum()
    if units == 0:
        return _Sampled(totals, areas, np.zeros(cells), within)
    # A ratio of sums (Cochran sec. 6.10): blocks at the map's edge, and pixels in degrees, differ in area.
    share = totals.sum(axis=0) / area
    # Residuals of the ratio (Cochran eq. 6.13): a small block far from the share counts as a small one.
    rest = totals - share * areas[:, None]
    drawn = min(1.0, units / population)
    # Cochran eq. 11.24: the second stage has the weight n / N. With N unknown that is 0, as for blocks drawn
    # with replacement, where the variance between blocks holds both stages. A stratum's only unit is all of
    # it (`_check_strata`): 1 - drawn is 0, and max() keeps it from 0 / 0.
    covariance = (1 - drawn) * units / max(1, units - 1) * (rest.T @ rest) + drawn * within
    return _Sampled(totals, areas, share, covariance / area**2)


def _check_strata(
    samples: Sequence[_Sampled], area: np.ndarray, units: np.ndarray, names: Sequence[str], what: str
) -> None:
    """Raises BadInput where a stratum of the map has too few units for a variance."""
    short = [
        f"{name} ({one.units})"
        for one, a, known, name in zip(samples, area, units, names)
        if a > 0 and one.units < min(2, known)
    ]
    if short:
        raise BadInput(
            f"These strata have fewer than 2 {what} with an answer: {', '.join(short)}. One has no variance, "
            "and no interval can be given. Answer more points there, or draw a sample with a higher floor."
        )
    # Their weight would be 0: they would drop out of every estimate without a word.
    stray = [name for one, a, name in zip(samples, area, names) if a == 0 and one.units]
    if stray:
        raise BadInput(
            f"Points lie in strata whose area is 0: {', '.join(stray)}. Give the area of every stratum."
        )


def _ratios(classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By score: which cells (K*K, number of values) of the matrix are summed above and below its line."""
    mapped, reference = np.divmod(np.arange(classes * classes), classes)
    is_mapped = np.equal.outer(mapped, np.arange(classes)).astype(float)
    is_reference = np.equal.outer(reference, np.arange(classes)).astype(float)
    both = is_mapped * is_reference
    return {
        # Of the whole, whose shares may miss their sum of 1 in the last digit: no accuracy is above it. That
        # sum varies in no sample, so that the errors are those of the upper part.
        "area": (is_reference, np.ones_like(is_reference)),
        # Overall, user's and producer's accuracy: Olofsson eq. 1 to 3.
        "oa": (both.sum(axis=1, keepdims=True), np.ones((classes * classes, 1))),
        "ua": (both, is_mapped),
        "pa": (both, is_reference),
        "f1": (2 * both, is_mapped + is_reference),
    }


def _scores(cells: np.ndarray, classes: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores from shares of cells (K*K,), and the slope (K*K, number of values) of each in them.

    Each is a ratio y / x of sums of cells; its slope is (y' - ratio x') / x.
    """
    values, slopes = {}, {}
    for name, (upper, lower) in _ratios(classes).items():
        below = _below(cells, lower)
        values[name] = cells @ upper / below
        slopes[name] = np.nan_to_num((upper - values[name] * lower) / below)
    return values, slopes


def _below(cells: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """What is below the line for shares of cells (..., K*K)."""
    below = cells @ lower
    # NaN, not 0: the accuracy of a class that the sample never met is unknown.
    return np.where(below > 0, below, np.nan)


def _bootstrap(
    samples: Sequence[_Sampled], weights: np.ndarray, cells: np.ndarray, classes: int, times: int, seed: int
) -> dict[str, np.ndarray]:
    """95 % percentile intervals by name, (values, 2).

    Rao and Wu's rescaling: n - 1 of a stratum's n units with replacement, since n would give a variance that
    is too small by (n - 1) / n.
    """
    rng = np.random.default_rng(seed)
    share = np.zeros((times, classes * classes))
    for one, weight in zip(samples, weights):
        if not weight:
            continue
        drawn = rng.multinomial(max(1, one.units - 1), np.full(one.units, 1 / one.units), size=times)
        share[:, cells] += weight * (drawn @ one.totals) / (drawn @ one.areas)[:, None]
    found = {}
    for name, (upper, lower) in _ratios(classes).items():
        stacked = share @ upper / _below(share, lower)
        # nanquantile warns of columns that are NaN throughout, such as a class that the sample never met.
        known = ~np.isnan(stacked).all(axis=0)
        ends = np.full((2, stacked.shape[1]), np.nan)
        ends[:, known] = np.nanquantile(stacked[:, known], [0.025, 0.975], axis=0)
        found[name] = ends.T
    return found


def wilson(
    share: np.ndarray, error: np.ndarray, points: np.ndarray | int, critical: float = NORMAL_95
) -> np.ndarray:
    """(K, 2) Wilson's intervals of shares with these standard errors; NaN for NaN.

    The effective sample size is share (1 - share) / error^2; where the sample holds no error (or nothing
    right) that is 0 / 0, and the number of `points` takes its place.
    """
    share, error = np.asarray(share, float), np.asarray(error, float)
    # Not > 0: sums of weights that should be 1 may miss it in the last digit.
    varies = (error > ROUNDING) & (share > ROUNDING) & (share < 1 - ROUNDING)
    # 1 in place of 0: np.where computes both branches, and the one not taken would divide by 0.
    size = np.where(varies, share * (1 - share) / np.where(varies, error, 1) ** 2, np.asarray(points, float))
    size = np.where(size > 0, size, np.nan)
    square = critical**2
    middle = (share + square / (2 * size)) / (1 + square / size)
    half = critical * np.sqrt(share * (1 - share) / size + square / (4 * size**2)) / (1 + square / size)
    # Wilson's ends lie within 0..1, but for rounding.
    return np.stack([np.maximum(0, middle - half), np.minimum(1, middle + half)], axis=-1)
