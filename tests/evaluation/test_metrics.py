import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from labelscape.evaluation import metrics
from labelscape.evaluation.confusion import Confusion, count
from labelscape.legend import IGNORE

pairs = st.integers(0, 2**32 - 1).map(lambda seed: _pair(np.random.default_rng(seed)))


def _pair(rng):
    classes, pixels = int(rng.integers(2, 7)), int(rng.integers(20, 300))
    truth = rng.integers(0, classes, pixels).astype(np.uint8)
    predicted = np.where(rng.random(pixels) < 0.6, truth, rng.integers(0, max(1, classes - 1), pixels)).astype(np.uint8)
    return truth, predicted, classes


@settings(deadline=None)
@given(pairs)
def test_scores_equal_scikit_learn(pair):
    truth, predicted, classes = pair
    labels = list(range(classes))
    found = count(truth, predicted, classes)
    np.testing.assert_array_equal(found.counts, reference.confusion_matrix(truth, predicted, labels=labels))
    present = np.isin(labels, np.union1d(truth, predicted))
    for mine, theirs in ((metrics.f1, reference.f1_score), (metrics.iou, reference.jaccard_score)):
        expected = theirs(truth, predicted, labels=labels, average=None, zero_division=0)
        np.testing.assert_allclose(mine(found)[present], expected[present])
        assert np.isnan(mine(found)[~present]).all()
    for mine, theirs in ((metrics.precision, reference.precision_score), (metrics.recall, reference.recall_score)):
        np.testing.assert_allclose(np.nan_to_num(mine(found)), theirs(truth, predicted, labels=labels, average=None, zero_division=0))
    assert metrics.overall_accuracy(found) == pytest.approx(reference.accuracy_score(truth, predicted))
    if len(np.union1d(truth, predicted)) > 1:
        assert metrics.kappa(found) == pytest.approx(reference.cohen_kappa_score(truth, predicted, labels=labels))


@settings(deadline=None)
@given(pairs, st.integers(0, 99))
def test_ignored_pixels_change_nothing_and_windows_add_up(pair, seed):
    truth, predicted, classes = pair
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(truth.shape) < 0.3, IGNORE, truth).astype(np.uint8)
    other = np.where(truth == IGNORE, rng.integers(0, classes, truth.shape), predicted).astype(np.uint8)
    a, b = count(truth, predicted, classes), count(truth, other, classes)
    np.testing.assert_array_equal(a.counts, b.counts)
    cut = len(truth) // 3
    parts = count(truth[:cut], predicted[:cut], classes) + count(truth[cut:], predicted[cut:], classes)
    np.testing.assert_array_equal(parts.counts, a.counts)
    assert a.labelled == (truth != IGNORE).sum()


def test_pixels_without_a_prediction_are_wrong_not_lost():
    truth = np.array([0, 0, 0, 1], np.uint8)
    found = count(truth, np.array([0, 0, IGNORE, 1], np.uint8), 2)
    assert found.labelled == 4
    assert metrics.overall_accuracy(found) == 0.75
    np.testing.assert_allclose(metrics.recall(found), [2 / 3, 1])
    np.testing.assert_allclose(metrics.precision(found), [1, 1])
    np.testing.assert_allclose(metrics.iou(found), [2 / 3, 1])


def test_absent_classes_are_left_out_of_means_but_false_alarms_count():
    truth, predicted = np.array([0, 0, 1], np.uint8), np.array([0, 2, 1], np.uint8)
    found = count(truth, predicted, 4)
    np.testing.assert_allclose(metrics.iou(found), [0.5, 1, 0, np.nan])
    assert metrics.summary(found, "abcd")["mean_iou"] == pytest.approx(0.5)
    assert metrics.summary(found, "abcd")["classes"][3] == {"name": "d", "iou": None, "f1": None, "precision": None, "recall": None, "support": 0}
    assert metrics.summary(Confusion.empty(2), "ab")["overall_accuracy"] is None


def test_counts_survive_json():
    found = count(np.array([0, 1, 1], np.uint8), np.array([0, 0, 255], np.uint8), 2)
    back = Confusion.from_dict(found.to_dict())
    np.testing.assert_array_equal(back.counts, found.counts)
    np.testing.assert_array_equal(back.unpredicted, found.unpredicted)
