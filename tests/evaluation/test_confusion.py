import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelscape.errors import BadInput
from labelscape.evaluation import confusion
from labelscape.evaluation.confusion import Confusion, count
from labelscape.legend import IGNORE


def by_loop(truth, predicted, classes):
    counts, unpredicted = np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist()):
        if t == IGNORE:
            continue
        if p == IGNORE:
            unpredicted[t] += 1
        else:
            counts[t, p] += 1
    return Confusion(counts, unpredicted)


@st.composite
def scenes(draw):
    """(truth, predicted, classes): odd shapes, any integer type, holes in both."""
    classes = draw(st.integers(1, 7))
    shape = draw(st.sampled_from([(0,), (1,), (1, 1), (7, 13), (101, 3), (0, 5)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = []
    for _ in range(2):
        array = np.where(rng.random(shape) < 0.2, IGNORE, rng.integers(0, classes, shape))
        arrays.append(
            array.astype(
                draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64]))
            )
        )
    return *arrays, classes


@settings(deadline=None)
@given(scenes())
def test_counts_equal_a_loop(scene):
    truth, predicted, classes = scene
    found = count(truth, predicted, classes)
    assert found == by_loop(truth, predicted, classes)
    assert found.counts.dtype == found.unpredicted.dtype == np.int64
    assert found.labelled == (truth != IGNORE).sum()


@settings(deadline=None)
@given(scenes(), st.integers(0, 99))
def test_windows_add_up_to_the_whole(scene, seed):
    truth, predicted, classes = scene
    cut = np.random.default_rng(seed).integers(0, len(truth) + 1)
    parts = count(truth[:cut], predicted[:cut], classes) + count(truth[cut:], predicted[cut:], classes)
    assert parts == count(truth, predicted, classes)


@settings(deadline=None)
@given(scenes(), st.integers(0, 99))
def test_predictions_on_ignored_pixels_change_nothing(scene, seed):
    truth, predicted, classes = scene
    # Anything may stand there, also what no class has.
    anything = np.random.default_rng(seed).integers(-300, 300, truth.shape)
    other = np.where(truth == IGNORE, anything, predicted.astype(np.int64))
    assert count(truth, other, classes) == count(truth, predicted, classes)


def test_arrays_larger_than_a_chunk_and_with_gaps_in_memory(monkeypatch):
    monkeypatch.setattr(confusion, "CHUNK", 64)
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, (2, 61, 74)).astype(np.uint8)
    assert count(truth[::2, ::-1], predicted[::2, ::-1], 3) == by_loop(
        truth[::2, ::-1], predicted[::2, ::-1], 3
    )
    assert count(truth.T, predicted.T, 3) == count(truth, predicted, 3)


def test_two_classes_as_booleans_and_all_255_classes():
    truth, predicted = np.array([True, False, True]), np.array([True, True, True])
    assert count(truth, predicted, 2).counts.tolist() == [[0, 1], [0, 2]]
    indices = np.arange(256).astype(np.uint8)
    found = count(indices, indices, 255)
    assert (found.counts == np.eye(255)).all()
    assert found.unpredicted.sum() == 0


@pytest.mark.parametrize("wrong", [3, 254, -1, 256, 1000])
def test_an_index_that_no_class_has_is_never_counted_as_something_else(wrong):
    good = np.array([0, 1, 2], np.int64)
    bad = np.array([0, wrong, 2], np.int64)
    with pytest.raises(AssertionError):
        count(good, bad, 3)
    with pytest.raises(AssertionError):
        count(bad, good, 3)


def test_fractions_are_no_class_indices():
    with pytest.raises(AssertionError, match="integers"):
        count(np.array([0.0, 1.0]), np.array([0, 1]), 2)


def test_counts_of_different_classes_do_not_add():
    with pytest.raises(BadInput, match="1 and of 3 classes"):
        Confusion.empty(1) + Confusion.empty(3)
    with pytest.raises(BadInput, match="water, land"):
        Confusion.empty(2, ("water", "land")) + Confusion.empty(2, ("land", "water"))
    assert (Confusion.empty(2, ("a", "b")) + Confusion.empty(2)).names == ("a", "b")


def test_counts_cannot_be_changed_from_outside():
    mine = np.zeros((2, 2), np.int64)
    found = Confusion(mine, np.zeros(2, np.int64))
    mine[0, 0] = 7
    assert found.counts[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        found.counts[0, 0] = 7


@pytest.mark.parametrize("names", [None, ("water", 'a "quoted" name')])
def test_counts_survive_json(names):
    found = Confusion(np.array([[2**53 + 1, 2], [3, 4]]), np.array([5, 6]), names)
    assert Confusion.from_json(found.to_json()) == found
    assert Confusion.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "null",
        '{"counts": [[1]]}',
        '{"counts": [[1, 2]], "unpredicted": [0]}',
        '{"counts": [[1.5]], "unpredicted": [0]}',
        '{"counts": [[-1]], "unpredicted": [0]}',
        '{"counts": [[1], [2, 3]], "unpredicted": [0, 0]}',
        '{"counts": [[1]], "unpredicted": 0}',
        '{"counts": [["1"]], "unpredicted": [0]}',
        '{"counts": [[1]], "unpredicted": [0], "names": ["a", "b"]}',
        '{"counts": [[1]], "unpredicted": [0], "names": 3}',
        '{"counts": [[99999999999999999999]], "unpredicted": [0]}',
        '{"counts": [[18446744073709551615]], "unpredicted": [0]}',
        '{"counts": [], "unpredicted": []}',
    ],
)
def test_json_of_something_else_is_refused_in_words(text):
    with pytest.raises(BadInput):
        Confusion.from_json(text)
