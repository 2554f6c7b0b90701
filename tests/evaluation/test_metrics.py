import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from labelscape.evaluation import metrics
from labelscape.evaluation.confusion import Confusion, count
from labelscape.legend import IGNORE

pairs = st.integers(0, 2**32 - 1).map(lambda seed: _pair(np.random.default_rng(seed)))
counts = st.integers(1, 6).flatmap(
    lambda k: st.lists(
        st.integers(0, 9) | st.just(0) | st.integers(0, 10**9), min_size=k * (k + 1), max_size=k * (k + 1)
    ).map(
        lambda cells: Confusion(
            np.array(cells).reshape(k, k + 1)[:, :k], np.array(cells).reshape(k, k + 1)[:, k]
        )
    )
)


def _pair(rng):
    """(truth, predicted, classes): the last class is never predicted, some pixels get no class."""
    classes, pixels = int(rng.integers(2, 7)), int(rng.integers(20, 300))
    truth = rng.integers(0, classes, pixels).astype(np.uint8)
    predicted = np.where(
        rng.random(pixels) < 0.6, truth, rng.integers(0, max(1, classes - 1), pixels)
    ).astype(np.uint8)
    predicted[rng.random(pixels) < rng.choice([0, 0.2])] = IGNORE
    if rng.random() < 0.5:
        truth[truth == classes - 1] = 0
        predicted[predicted == classes - 1] = 0
    return truth, predicted, classes


@settings(deadline=None, max_examples=30)
@given(pairs)
def test_scores_equal_scikit_learn(pair):
    truth, predicted, classes = pair
    labels = list(range(classes))
    found = count(truth, predicted, classes)
    # scikit-learn knows "no class" as one more class that is never true.
    every = [*labels, IGNORE]
    np.testing.assert_array_equal(
        np.column_stack([found.counts, found.unpredicted]),
        reference.confusion_matrix(truth, predicted, labels=every)[:classes],
    )
    occurs = np.isin(labels, np.union1d(truth, predicted))
    for mine, theirs in ((metrics.f1, reference.f1_score), (metrics.iou, reference.jaccard_score)):
        expected = theirs(truth, predicted, labels=labels, average=None, zero_division=0)
        np.testing.assert_allclose(mine(found)[occurs], expected[occurs])
        assert np.isnan(mine(found)[~occurs]).all()
    present = [label for label in labels if occurs[label]]
    assert metrics.mean_iou(found) == pytest.approx(
        reference.jaccard_score(truth, predicted, labels=present, average="macro", zero_division=0)
    )
    assert metrics.mean_f1(found) == pytest.approx(
        reference.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    )
    for mine, theirs, where in (
        (metrics.precision, reference.precision_score, np.isin(labels, predicted)),
        (metrics.recall, reference.recall_score, np.isin(labels, truth)),
    ):
        expected = theirs(truth, predicted, labels=labels, average=None, zero_division=0)
        np.testing.assert_allclose(mine(found)[where], expected[where])
        assert np.isnan(mine(found)[~where]).all()
    assert metrics.mean_accuracy(found) == pytest.approx(
        reference.recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    )
    assert metrics.overall_accuracy(found) == pytest.approx(reference.accuracy_score(truth, predicted))
    weighted = reference.jaccard_score(truth, predicted, labels=labels, average="weighted", zero_division=0)
    assert metrics.frequency_weighted_iou(found) == pytest.approx(weighted)
    if len(np.union1d(truth, predicted)) > 1:
        assert metrics.kappa(found) == pytest.approx(
            reference.cohen_kappa_score(truth, predicted, labels=every)
        )


@settings(deadline=None, max_examples=60)
@given(counts)
def test_scores_equal_loops_over_the_counts(found):
    table, lost, classes = found.counts.tolist(), found.unpredicted.tolist(), len(found)
    total = sum(map(sum, table)) + sum(lost)
    ious, f1s, recalls, weighted, by_chance = [], [], [], 0.0, 0.0
    for c in range(classes):
        hit = table[c][c]
        missed = sum(table[c]) - hit + lost[c]
        false_alarms = sum(table[r][c] for r in range(classes)) - hit
        if hit + missed + false_alarms:
            ious.append(hit / (hit + missed + false_alarms))
            f1s.append(2 * hit / (2 * hit + missed + false_alarms))
        if hit + missed:
            recalls.append(hit / (hit + missed))
            weighted += (hit + missed) / total * ious[-1]
            by_chance += (hit + missed) / total * (hit + false_alarms) / total
    if not total:
        assert metrics.summary(found, "abcdef"[:classes])["mean_iou"] is None
        return
    right = sum(table[c][c] for c in range(classes)) / total
    assert metrics.overall_accuracy(found) == pytest.approx(right)
    assert metrics.mean_iou(found) == pytest.approx(sum(ious) / len(ious))
    assert metrics.mean_f1(found) == pytest.approx(sum(f1s) / len(f1s))
    assert metrics.mean_accuracy(found) == pytest.approx(sum(recalls) / len(recalls))
    assert metrics.frequency_weighted_iou(found) == pytest.approx(weighted)
    if by_chance < 0.999:
        assert metrics.kappa(found) == pytest.approx((right - by_chance) / (1 - by_chance), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(counts)
def test_defined_scores_lie_between_0_and_1_and_iou_never_exceeds_f1(found):
    for score in (metrics.iou, metrics.f1, metrics.precision, metrics.recall):
        values = score(found)[~np.isnan(score(found))]
        assert ((values >= 0) & (values <= 1)).all()
    occurs = ~np.isnan(metrics.iou(found))
    assert (metrics.iou(found)[occurs] <= metrics.f1(found)[occurs]).all()


def test_pixels_without_a_prediction_are_wrong_not_lost():
    truth = np.array([0, 0, 0, 1], np.uint8)
    found = count(truth, np.array([0, 0, IGNORE, 1], np.uint8), 2)
    assert found.labelled == 4
    assert metrics.overall_accuracy(found) == 0.75
    np.testing.assert_allclose(metrics.recall(found), [2 / 3, 1])
    np.testing.assert_allclose(metrics.precision(found), [1, 1])
    np.testing.assert_allclose(metrics.iou(found), [2 / 3, 1])
    assert metrics.summary(found, "ab")["unpredicted_pixels"] == 1


def test_absent_classes_are_left_out_of_means_but_false_alarms_count():
    truth, predicted = np.array([0, 0, 1], np.uint8), np.array([0, 2, 1], np.uint8)
    found = count(truth, predicted, 4)
    np.testing.assert_allclose(metrics.iou(found), [0.5, 1, 0, np.nan])
    assert metrics.summary(found, "abcd")["mean_iou"] == pytest.approx(0.5)
    assert metrics.summary(found, "abcd")["classes"][3] == {
        "name": "d",
        "iou": None,
        "f1": None,
        "precision": None,
        "recall": None,
        "support": 0,
    }


def test_nothing_labelled_has_no_score():
    found = metrics.summary(Confusion.empty(2), "ab")
    for key in (
        "overall_accuracy",
        "mean_iou",
        "mean_f1",
        "mean_accuracy",
        "kappa",
        "frequency_weighted_iou",
    ):
        assert found[key] is None, key
    assert found["labelled_pixels"] == 0


def test_kappa_of_one_class_alone_is_undefined_and_of_chance_is_zero():
    assert math.isnan(metrics.kappa(Confusion(np.array([[10**10, 0], [0, 0]]), np.zeros(2, np.int64))))
    assert metrics.kappa(Confusion(np.array([[25, 25], [25, 25]]), np.zeros(2, np.int64))) == 0


def test_kappa_of_more_pixels_than_products_of_64_bits_hold():
    small = Confusion(np.array([[50, 3], [7, 40]]), np.array([1, 2]))
    large = Confusion(small.counts * 10**12, small.unpredicted * 10**12)
    assert metrics.kappa(large) == pytest.approx(metrics.kappa(small), rel=1e-12)


def test_summary_is_json_with_nothing_that_json_does_not_know():
    text = json.dumps(
        metrics.summary(count(np.array([0, 1, 1], np.uint8), np.array([0, 0, 255], np.uint8), 3), "abc"),
        allow_nan=False,
    )
    assert Confusion.from_dict(json.loads(text)["confusion"]).unpredicted.tolist() == [0, 1, 0]


def test_every_score_of_a_summary_has_a_definition():
    found = metrics.summary(Confusion.empty(1), "a")
    of_all = {
        key for key in found if key not in ("classes", "confusion", "labelled_pixels", "unpredicted_pixels")
    }
    assert of_all <= metrics.DEFINITIONS.keys()
    with pytest.raises(AssertionError):
        metrics.summary(Confusion.empty(2), "abc")
