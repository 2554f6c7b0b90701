from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from labelscape.errors import BadInput, BadOption
from labelscape.evaluation import metrics
from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.paired import (
    Difference,
    McNemar,
    differences,
    interval,
    scores,
    sentence,
    totals,
    welch,
)
from labelscape.grid import Window

NAMES = ("a", "b")


def block(number, table, scene="s"):
    """A block with a K x K table of counts."""
    return BlockCounts.of(scene, Window(0, 8 * number, 8, 8), Confusion(np.array(table), [0] * len(table)))


def side(tables, scenes=None):
    return [block(n, table, scenes[n] if scenes else "s") for n, table in enumerate(tables)]


def draw(rng, number, *, rights, pixels=64, spread=0.15):
    """Blocks of two classes whose difficulty varies from block to block, for models of given accuracies."""
    sides = [[] for _ in rights]
    truth = rng.integers(pixels // 4, 3 * pixels // 4, number)
    hard = rng.normal(0, spread, (number, 2))
    for member, right in zip(sides, rights):
        own = rng.normal(0, spread / 2, (number, 2))
        share = np.clip(right + hard + own, 0.02, 0.98)
        for n in range(number):
            of_class = (truth[n], pixels - truth[n])
            hit = [int(rng.binomial(t, s)) for t, s in zip(of_class, share[n])]
            member.append(block(n, [[hit[0], of_class[0] - hit[0]], [of_class[1] - hit[1], hit[1]]]))
    return sides


def test_scores_of_sums_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 3, 255], (2, 6, 500)).astype(np.uint8)  # class 2 is absent
    blocks = [BlockCounts.of("s", Window(0, n, 1, 500), count(truth[n], predicted[n], 4)) for n in range(6)]
    pooled = count(truth, predicted, 4)
    assert pooled.unpredicted.sum()
    expected = [metrics.overall_accuracy(pooled), metrics.mean_iou(pooled), *metrics.iou(pooled)]
    np.testing.assert_array_equal(scores(totals(blocks).sum(axis=0)), expected)
    assert np.isnan(scores(np.zeros((3, 4)))).all()


def test_a_difference_of_hand_made_counts():
    first = side([[[6, 2], [1, 7]]] * 6)
    other = side([[[8, 0], [1, 7]]] * 6)
    lines, units, kind = differences([first], [other], NAMES)
    assert (units, kind) == (6, "blocks")
    assert [line.metric for line in lines] == ["OA", "mIoU", "IoU a", "IoU b"]
    assert lines[0].first == 13 / 16 and lines[0].other == 15 / 16
    assert lines[1].difference == pytest.approx((8 / 9 + 7 / 8 - 6 / 9 - 7 / 10) / 2)
    # All blocks are alike, so that every draw gives the same sums.
    assert lines[1].low == pytest.approx(lines[1].difference) == lines[1].high
    assert lines[1].seeds_low is None and lines[1].verdict == 1
    assert sentence(lines[1], "A", "B", units, kind) == (
        "B is better by 19.9 mIoU points (95 % interval 19.9 to 19.9, 6 blocks)."
    )
    turned = differences([other], [first], NAMES)[0][1]
    assert turned.verdict == -1 and sentence(turned, "B", "A", units, kind) == (
        "B is better by 19.9 mIoU points (95 % interval 19.9 to 19.9, 6 blocks)."
    )


def test_a_model_does_not_differ_from_itself():
    (one,) = draw(np.random.default_rng(1), 9, rights=[0.7])
    lines, units, kind = differences([one], [one], NAMES)
    assert {(line.difference, line.low, line.high) for line in lines} == {(0.0, 0.0, 0.0)}
    assert "have the same mIoU on each of the 9 blocks" in sentence(lines[1], "A", "A2", units, kind)


def test_the_bootstrap_is_that_of_a_loop_over_drawn_blocks():
    a, b = draw(np.random.default_rng(2), 12, rights=[0.6, 0.7])
    (_, line, *_), units, _ = differences([a], [b], NAMES, replicates=150, seed=5)
    rng, found = np.random.default_rng(5), []
    for number in (100, 50):
        for times in rng.multinomial(12, np.full(12, 1 / 12), size=number):
            summed = [Confusion.empty(2), Confusion.empty(2)]
            for n in range(12):
                for _ in range(times[n]):
                    summed = [s + blocks[n].counts for s, blocks in zip(summed, (a, b))]
            found.append(metrics.mean_iou(summed[1]) - metrics.mean_iou(summed[0]))
    assert (line.low, line.high) == pytest.approx(interval(np.array(found), units, 0.95))
    again = differences([a], [b], NAMES, replicates=150, seed=5)[0][1]
    assert again == line != differences([a], [b], NAMES, replicates=150, seed=6)[0][1]


def coverage(number, worlds, replicates):
    """How often the interval of mIoU holds the difference of a very large sample."""
    rights = (0.70, 0.74)
    large = [totals(one).sum(axis=0) for one in draw(np.random.default_rng(99), 8000, rights=rights)]
    truth = scores(large[1])[1] - scores(large[0])[1]
    held = 0
    for world in range(worlds):
        a, b = draw(np.random.default_rng(world), number, rights=rights)
        line = differences([a], [b], NAMES, replicates=replicates, seed=world)[0][1]
        held += line.low <= truth <= line.high
    return held / worlds


def test_intervals_hold_the_truth_as_often_as_they_say():
    assert 0.88 <= coverage(12, worlds=100, replicates=300) <= 0.99


@pytest.mark.long
@pytest.mark.parametrize("number", [6, 12, 40])
def test_intervals_hold_the_truth_as_often_as_they_say_with_few_and_many_blocks(number):
    assert 0.90 <= coverage(number, worlds=600, replicates=1000) <= 0.975


def test_percentiles_are_wider_for_few_units():
    drawn = np.random.default_rng(0).normal(size=100_000)
    low, high = interval(drawn, 10_000, 0.95)
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.03)
    few = interval(drawn, 8, 0.95)
    # The normal quantile of a level that is Student's t, times sqrt(n / (n - 1)).
    assert few[1] == pytest.approx(np.sqrt(8 / 7) * stats.t.ppf(0.975, 7), abs=0.06)
    assert np.isnan(interval(np.array([np.nan, np.nan, 1.0]), 8, 0.95)).all()


def test_images_are_drawn_whole_where_there_are_many():
    rng = np.random.default_rng(3)
    a, b = draw(rng, 40, rights=[0.6, 0.7])
    images = [f"image {n // 4}" for n in range(40)]
    a, b = ([replace(one, scene=name) for one, name in zip(blocks, images)] for blocks in (a, b))
    lines, units, kind = differences([a], [b], NAMES)
    assert (units, kind) == (10, "images")
    merged = [
        side(
            [
                sum((one.counts for one in blocks[n : n + 4]), Confusion.empty(2)).counts
                for n in range(0, 40, 4)
            ]
        )
        for blocks in (a, b)
    ]
    assert lines == differences([merged[0]], [merged[1]], NAMES)[0]


def test_seeds_have_their_own_interval():
    first, other = np.array([0.50, 0.52, 0.55]), np.array([0.60, 0.57])
    expected = stats.ttest_ind(other, first, equal_var=False).confidence_interval(0.95)
    assert welch(first, other, 0.95) == pytest.approx((expected.low, expected.high))
    assert np.isnan(welch(first, other[:1], 0.95)).all()
    good, bad, better = (side([[[n, 16 - n], [0, 16]]] * 8) for n in (12, 10, 13))
    lines, units, kind = differences([[*bad], [*good]], [[*better], [*better]], NAMES)
    assert lines[0].first == pytest.approx((26 / 32 + 28 / 32) / 2)
    assert lines[0].low > 0 > lines[0].seeds_low and lines[0].verdict == 0
    said = sentence(lines[0], "A", "B", units, kind)
    assert (
        said.startswith("No difference can be told between A and B: +6.2 OA points")
        and "over trainings -" in said
    )


def test_what_cannot_be_compared_is_refused():
    a = side([[[6, 2], [1, 7]]] * 6)
    with pytest.raises(BadInput, match=r"have 4 labelled blocks in common; at least 5.*`block`"):
        differences([a[:4]], [a[:4]], NAMES)
    with pytest.raises(BadInput, match="different blocks or labels"):
        differences([a], [side([[[6, 3], [1, 6]]] * 6)], NAMES)
    with pytest.raises(BadOption, match="level=95"):
        differences([a], [a], NAMES, level=95)


def test_mcnemar_by_hand():
    test = McNemar(both=700, only_first=40, only_other=60, neither=20)
    assert test.statistic == pytest.approx((20 - 1) ** 2 / 100)
    assert test.p_value == pytest.approx(stats.chi2.sf(3.61, 1))
    few = McNemar(both=0, only_first=3, only_other=9, neither=0)
    # Twice the chance of at most three heads in twelve throws.
    assert few.statistic is None and few.p_value == pytest.approx(2 * (1 + 12 + 66 + 220) / 2**12)
    assert few.p_value == pytest.approx(stats.binomtest(3, 12).pvalue)
    assert McNemar(5, 0, 0, 5).p_value == 1.0 == McNemar(0, 4, 4, 0).p_value
    assert McNemar(0, 20, 20, 0).statistic == 0


def test_an_undefined_score_is_said_to_be_so():
    line = Difference("IoU c", None, None, None, None, None)
    assert line.verdict == 0 and "cannot be compared" in sentence(line, "A", "B", 7, "blocks")
