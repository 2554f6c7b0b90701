"""Is one model better than another? Differences of scores on the same blocks, with intervals.

Two models that are scored on the same pixels share what is easy and what is hard there, so the difference is
known better than either score. The interval is that of a paired block bootstrap: blocks (or whole images) are
drawn with replacement, the same for both models, their counts are added up, and the scores are computed from
the sums (Efron and Tibshirani 1993, sections 8 and 10; a ratio of sums, never a mean of ratios).

McNemar's test (1947) takes every pixel for an independent observation. Neighbouring pixels are not, so its
p-value is far too small; it is given because papers give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from labelscape.errors import BadInput, BadOption
from labelscape.evaluation.blocks import BlockCounts

LEAST = 5
"""Blocks below which nothing is said about a difference (ours)."""
WHOLE_IMAGES = 10
"""Labelled images from which images, not blocks, are drawn (ours): blocks of one photograph are alike."""
REPLICATES = 2000
AT_ONCE = 100
"""Replicates drawn at a time: weights of all at once would take as much memory as blocks x replicates."""


@dataclass(frozen=True)
class Difference:
    """One score of two models, fractions; None where it is undefined.

    metric      "OA", "mIoU" or "IoU NAME"
    first, other, difference  the means over a side's checkpoints, and other - first
    low, high   the interval of the difference over blocks, for these very checkpoints
    seeds_low, seeds_high  over trainings (Welch's t), where both sides have two checkpoints or more
    """

    metric: str
    first: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    seeds_low: float | None = None
    seeds_high: float | None = None

    @property
    def verdict(self) -> int:
        """1 where the other is better, -1 where the first is, 0 where no difference can be told: an interval
        holds 0.
        """
        # Both intervals must agree: what these checkpoints differ by may be the luck of their seeds.
        pairs = ((self.low, self.high), (self.seeds_low, self.seeds_high))
        known = [(low, high) for low, high in pairs if low is not None and high is not None]
        if known and all(low > 0 for low, _ in known):
            return 1
        return -1 if known and all(high < 0 for _, high in known) else 0


@dataclass(frozen=True)
class McNemar:
    """Pixels that both models have right, only one, or none; and the test of the two in the middle.

    statistic  chi-squared with Edwards' continuity correction; None below 25 pixels, where the exact binomial
               test is used
    """

    both: int
    only_first: int
    only_other: int
    neither: int

    @property
    def statistic(self) -> float | None:
        differing = self.only_first + self.only_other
        if differing < 25:
            return None
        # max(): equal counts would give (0 - 1)^2, evidence of a difference where there is none.
        return max(abs(self.only_first - self.only_other) - 1, 0) ** 2 / differing

    @property
    def p_value(self) -> float:
        """Two-sided; too small, because neighbouring pixels are no independent observations."""
        if self.statistic is not None:
            return float(stats.chi2.sf(self.statistic, 1))
        differing, fewer = self.only_first + self.only_other, min(self.only_first, self.only_other)
        # Twice a tail: of equal counts each holds the middle value, and the sum exceeds 1.
        return min(1.0, 2 * float(stats.binom.cdf(fewer, differing, 0.5)))


def differences(
    first: Sequence[Sequence[BlockCounts]],
    other: Sequence[Sequence[BlockCounts]],
    names: Sequence[str],
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[tuple[Difference, ...], int, str]:
    """OA, mIoU and IoU of each class of two sides, with intervals; also the number of units that were drawn,
    and what they are: "blocks" or "images".

    first, other  counts by block for each checkpoint of a side, all of the same blocks with the same truth

    Raises BadInput where the sides were scored on different labels or have fewer than LEAST blocks, BadOption
    for a level outside 0..1 or too few replicates.
    """
    if not 0 < level < 1 or replicates < 100:
        raise BadOption(
            f"`level={level}` must lie between 0 and 1, and `replicates={replicates}` be 100 or more."
        )
    _check_same_labels([*first, *other])
    unit_of, kind = units_of(first[0])
    units = int(unit_of.max(initial=-1)) + 1
    if units < LEAST:
        one, two = (100 * np.mean([scores(totals(m).sum(axis=0))[1] for m in s]) for s in (first, other))
        raise BadInput(
            f"The models have {units} labelled {kind if units != 1 else kind[:-1]} in common; at least "
            f"{LEAST} are needed to say how sure a difference is (mean IoU on these: {one:.1f} and {two:.1f} "
            "%). Compare on more labels, of other scenes, or train with smaller held-out blocks (`block`)."
        )
    sides = [[_by_unit(totals(member), unit_of, units) for member in side] for side in (first, other)]
    found = [np.array([scores(member.sum(axis=0)) for member in side]) for side in sides]
    # The same draws for both sides: what makes a block hard for both cancels in the difference.
    drawn = np.concatenate(
        [
            _mean_scores(sides[1], weights) - _mean_scores(sides[0], weights)
            for weights in _draws(units, replicates, seed)
        ]
    )
    means = [_mean(side) for side in found]
    lines = []
    for k, metric in enumerate(("OA", "mIoU", *(f"IoU {name}" for name in names))):
        low, high = interval(drawn[:, k], units, level)
        over_seeds = welch(found[0][:, k], found[1][:, k], level)
        values = (means[0][k], means[1][k], means[1][k] - means[0][k], low, high, *over_seeds)
        lines.append(Difference(metric, *(None if np.isnan(v) else float(v) for v in values)))
    return tuple(lines), units, kind


def units_of(blocks: Sequence[BlockCounts]) -> tuple[np.ndarray, str]:
    """(N,) number of the unit that each block is drawn with, and what units are: whole images where there are
    WHOLE_IMAGES or more, else blocks.
    """
    scenes = {name: number for number, name in enumerate(dict.fromkeys(block.scene for block in blocks))}
    if len(scenes) >= WHOLE_IMAGES:
        return np.array([scenes[block.scene] for block in blocks]), "images"
    return np.arange(len(blocks)), "blocks"


def totals(blocks: Sequence[BlockCounts]) -> np.ndarray:
    """(N, 3, K) float64, exact to 2^53: correct, true and predicted pixels of each class by block. All scores
    here are functions of their sums.
    """
    found = np.zeros((len(blocks), 3, blocks[0].classes if blocks else 1))
    for row, block in zip(found, blocks):
        counts = block.counts
        row[:] = np.diag(counts.counts), counts.support, counts.counts.sum(axis=0)
    return found


def scores(sums: np.ndarray) -> np.ndarray:
    """(..., 2 + K): OA, mIoU and the IoUs of totals (..., 3, K), as `metrics` defines them; NaN where
    undefined.
    """
    hit, truth, predicted = (sums[..., k, :] for k in range(3))
    union = truth + predicted - hit
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    labelled = truth.sum(axis=-1)
    accuracy = np.divide(hit.sum(axis=-1), labelled, out=np.full(labelled.shape, np.nan), where=labelled > 0)
    present = ~np.isnan(iou)
    number = present.sum(axis=-1)
    summed = np.where(present, iou, 0).sum(axis=-1)
    mean = np.divide(summed, number, out=np.full(summed.shape, np.nan), where=number > 0)
    return np.concatenate([accuracy[..., None], mean[..., None], iou], axis=-1)


def interval(drawn: np.ndarray, units: int, level: float) -> tuple[float, float]:
    """The expanded percentile interval of bootstrap replicates (Hesterberg 2015, section 5.3): plain
    percentiles are too narrow for few units, as a normal interval without Student's t is. NaN where fewer
    than half of the replicates have a value.
    """
    # NaN is unknown: a class that most draws miss has no interval.
    known = drawn[~np.isnan(drawn)]
    if len(known) < len(drawn) / 2:
        return float("nan"), float("nan")
    # Widened twice: by Student's t for few units, and since a bootstrap's variance divides by n, not n - 1.
    tail = stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf((1 - level) / 2, units - 1))
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def welch(first: np.ndarray, other: np.ndarray, level: float) -> tuple[float, float]:
    """The interval of the difference of two means over trainings, of unequal variances (Welch 1947); NaN with
    fewer than two of either.
    """
    if min(len(first), len(other)) < 2 or np.isnan([*first, *other]).any():
        return float("nan"), float("nan")
    parts = [side.var(ddof=1) / len(side) for side in (first, other)]
    middle, variance = other.mean() - first.mean(), sum(parts)
    # Trainings that score alike to the last digit: the degrees of freedom would be 0 / 0.
    if not variance:
        return float(middle), float(middle)
    freedom = variance**2 / sum(p**2 / (len(side) - 1) for p, side in zip(parts, (first, other)))
    reach = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance)
    return float(middle - reach), float(middle + reach)


def sentence(line: Difference, first: str, other: str, units: int, kind: str, level: float = 0.95) -> str:
    """What the difference says, in words."""
    if line.difference is None or line.low is None or line.high is None:
        return f"{line.metric} cannot be compared: it is undefined on most draws of the {units} {kind}."
    points, low, high = (100 * v for v in (line.difference, line.low, line.high))
    if points == low == high == 0:
        return f"{first} and {other} have the same {line.metric} on each of the {units} {kind}."
    verdict, name = line.verdict, other
    if verdict < 0:
        points, low, high, name = -points, -high, -low, first
    # + 0.0: a difference that rounds to nothing has no sign.
    points, low, high = (round(v, 1) + 0.0 for v in (points, low, high))
    if verdict:
        said = f"{name} is better by {points:.1f} {line.metric} points"
    else:
        said = f"No difference can be told between {first} and {other}: {points:+.1f} {line.metric} points"
    said += f" ({100 * level:g} % interval {low:.1f} to {high:.1f}, {units} {kind}"
    if line.seeds_low is not None and line.seeds_high is not None:
        seeds = sorted(v * (-100 if verdict < 0 else 100) for v in (line.seeds_low, line.seeds_high))
        said += f"; over trainings {seeds[0]:.1f} to {seeds[1]:.1f}"
    return f"{said})."


def _check_same_labels(members: Sequence[Sequence[BlockCounts]]) -> None:
    # The truth too: labels that were edited between two evaluations still have the same blocks.
    expected = [(b.scene, b.window, b.counts.support.tolist()) for b in members[0]]
    for member in members[1:]:
        if [(b.scene, b.window, b.counts.support.tolist()) for b in member] != expected:
            raise BadInput(
                "The counts are of different blocks or labels; compare counts of the same scenes, labels and "
                "blocks."
            )


def _by_unit(found: np.ndarray, unit_of: np.ndarray, units: int) -> np.ndarray:
    summed = np.zeros((units, *found.shape[1:]))
    # Not `summed[unit_of] += found`, which keeps only the last block of each image.
    np.add.at(summed, unit_of, found)
    return summed


def _draws(units: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """(R, units) how often each unit is drawn, for some replicates at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, AT_ONCE):
        number = min(AT_ONCE, replicates - start)
        # How often, not which: scores need sums alone, so that 100 replicates are one matrix product.
        yield rng.multinomial(units, np.full(units, 1 / units), size=number).astype(np.float64)


def _mean_scores(members: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """(R, 2 + K): scores of the summed counts of every draw, averaged over a side's checkpoints."""
    return _mean(np.array([scores(np.tensordot(weights, member, axes=1)) for member in members]))


def _mean(found: np.ndarray) -> np.ndarray:
    # NaN with any undefined: a mean over other checkpoints would compare other things.
    return found.mean(axis=0)
