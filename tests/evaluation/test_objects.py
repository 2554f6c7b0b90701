"""Objects and borders against loops over pixels."""

import json

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.errors import BadOption, UnknownName
from labelscape.evaluation import kept as kept_classes
from labelscape.evaluation import objects
from labelscape.evaluation.objects import ObjectCounts, border_counts, count_objects, match
from labelscape.evaluation.text import print_objects

TOUCHING = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]


def flood(mask):
    """Components as sets of pixels, by a search from every pixel."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        todo, one = [left.pop()], set()
        while todo:
            row, column = todo.pop()
            one.add((row, column))
            for a, b in TOUCHING:
                if (row + a, column + b) in left:
                    left.remove((row + a, column + b))
                    todo.append((row + a, column + b))
        found.append(frozenset(one))
    return found


def blobs(seed, share=0.45, shape=(37, 29)):
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-shape[0] // 3), -(-shape[1] // 3))) < share
    return np.kron(coarse, np.ones((3, 3), bool))[: shape[0], : shape[1]] & (rng.random(shape) < 0.95)


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
@pytest.mark.parametrize("seed", range(3))
def test_objects_are_the_same_in_strips_of_any_height(rows, seed):
    truth = blobs(seed)
    predicted = truth ^ (np.random.default_rng(seed).random(truth.shape) < 0.1)
    expected = flood(truth), flood(predicted)
    strips = ((truth[top : top + rows], predicted[top : top + rows]) for top in range(0, 37, rows))
    true, guessed, matches = match(strips)
    assert sorted(true) == sorted(map(len, expected[0])) and sorted(guessed) == sorted(map(len, expected[1]))
    # Above 0.5 a match is the only one of both: no order decides.
    sure = [(len(t), len(p)) for t in expected[0] for p in expected[1] if 2 * len(t & p) > len(t | p)]
    pairs = sorted((true[t], guessed[p]) for t, p in matches)
    assert len(sure) > 0 and not set(sure) - set(pairs)
    assert len(set(matches[:, 0])) == len(set(matches[:, 1])) == len(matches)
    assert len(pairs) <= sum(2 * len(t & p) >= len(t | p) for t in expected[0] for p in expected[1])


def test_an_object_is_matched_once():
    truth, predicted = np.zeros((2, 3, 8), bool)
    truth[0, :4] = True
    predicted[0, [0, 1]] = True  # a third of what follows: 0.5 of the truth
    true, guessed, matches = match([(truth, predicted)])
    assert (true.tolist(), guessed.tolist(), matches.tolist()) == ([4], [2], [[0, 0]])
    truth[0, 2] = truth[0, 3] = False
    truth[2, 4:7] = predicted[2, 4] = True
    assert match([(truth, predicted)])[2].tolist() == [[0, 0]]
    # Corners touch.
    truth[1, 2] = truth[2, 3] = True
    assert match([(truth[:1], predicted[:1]), (truth[1:], predicted[1:])])[0].tolist() == [7]
    assert match([])[0].size == match([(truth & False, truth & False)])[1].size == 0


def test_scores_of_hand_made_objects():
    kept = np.ones((2, 40, 60), np.uint8)
    for row, column, side in ((2, 2, 4), (2, 20, 8), (20, 2, 15), (20, 40, 15)):
        kept[0, row : row + side, column : column + side] = 2
    kept[1, 2:6, 3:7] = 2  # 12 of 20 pixels: IoU 0.6
    kept[1, 2:10, 20:23] = 2  # 24 of 64
    kept[1, 20:35, 2:17] = 2
    kept[1, 38, 58] = 2
    kept[:, 20:35, 40:55] = 0  # neither labelled nor predicted: no object
    found = count_objects(kept, 1, "b", 2)
    assert found.truth.tolist() == [1, 1, 1, 0, 0] and found.found.tolist() == [1, 0, 1, 0, 0]
    assert found.predicted.tolist() == [3, 0, 1, 0, 0] and found.right.tolist() == [1, 0, 1, 0, 0]
    assert (found.precision, found.recall, found.f1) == (0.5, pytest.approx(2 / 3), pytest.approx(4 / 7))
    twice = found + found
    assert twice.f1 == found.f1 and twice.truth.sum() == 6 and twice.boundary_iou == found.boundary_iou
    assert np.isnan(ObjectCounts.empty("b", 2).f1) and ObjectCounts.empty("b", 2).to_dict()["f1"] is None
    moved = np.ones((2, 30, 30), np.uint8)
    moved[0, 5:15, 5:15] = moved[1, 5:15, 6:16] = 2
    close, exact = count_objects(moved, 1, "b", 1), count_objects(moved, 1, "b", 3)
    assert exact.boundary_f1 == 1.0 == close.boundary_f1
    # Bands of 1 pixel: 36 each; the two rows share 9 pixels each, and columns do not meet.
    assert close.boundary_iou == pytest.approx(18 / (72 - 18))


def test_an_object_that_is_found_may_be_right_in_another_group_which_is_said(capsys):
    kept = np.ones((2, 20, 20), np.uint8)
    kept[0, 5:10, 5:10] = kept[1, 5:10, 5:11] = 2  # 25 true pixels, 30 predicted
    found = count_objects(kept, 1, "b", 2)
    assert found.found.tolist() == [1, 0, 0, 0, 0] and found.right.tolist() == [0, 1, 0, 0, 0]
    print_objects([found])
    assert objects.GROUPED in capsys.readouterr().out


def test_borders_are_those_of_loops_over_pixels_and_windows_do_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    kept = np.stack([blobs(5, shape=(40, 50)), blobs(6, shape=(40, 50))]).astype(np.uint8) + 1
    kept[0][np.kron(rng.random((8, 10)) < 0.2, np.ones((5, 5), bool))] = 0
    known = kept[0] > 0
    masks = [(layer == 2) & known for layer in kept]
    lines, bands = [], []
    for mask in masks:
        others = np.argwhere(known & ~mask)
        far = {tuple(p): np.hypot(*(others - p).T).min() for p in np.argwhere(mask)}
        lines.append([p for p, d in far.items() if d <= 1])
        bands.append({p for p, d in far.items() if d <= 2})
    near = [sum(np.hypot(*(np.array(b) - p).T).min() <= 2 for p in a) for a, b in (lines, lines[::-1])]
    expected = [
        len(lines[0]),
        near[0],
        len(lines[1]),
        near[1],
        len(bands[0] & bands[1]),
        len(bands[0] | bands[1]),
    ]
    assert border_counts(*masks, known, 2).sum(axis=(1, 2)).tolist() == expected
    for side in (7, 16, 1000):
        monkeypatch.setattr(objects, "WINDOW", side)
        assert count_objects(kept, 1, "b", 2).borders.tolist() == expected


def test_an_evaluation_counts_objects_of_a_class(tmp_path, run_cli, monkeypatch):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    how = {"device": "cpu", "show": False, "tile_size": 48, "overlap": 0}
    seen = []
    with ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}) as dataset:
        found = ls.evaluate(checkpoint, dataset, objects=["field"], keep=lambda _, c: seen.append(c), **how)
        monkeypatch.setattr(kept_classes, "IN_MEMORY", 10)
        on_disk = ls.evaluate(checkpoint, dataset, objects=["field"], **how)
        with pytest.raises(UnknownName, match="No class is called 'fields'"):
            ls.evaluate(checkpoint, dataset, objects=["fields"], **how)
        with pytest.raises(BadOption, match="tolerance"):
            ls.evaluate(checkpoint, dataset, objects=["field"], tolerance=0, **how)
    (counts,) = found.objects
    assert counts.truth.sum() == len(flood(w.classes == 1))
    assert counts.predicted.sum() == len(flood(seen[0] == 1))
    assert on_disk.objects[0].to_dict() == counts.to_dict()
    path = ls.save(checkpoint, tmp_path / "m.safetensors")
    command = ("evaluate", path, w.scene, "--labels", labels, "--device", "cpu", "--objects", "field")
    code, out, err = run_cli(*command, "--json")
    assert code == 0, err
    assert json.loads(out)["objects"][0]["class"] == "field"
    code, out, _ = run_cli(*command, "--tolerance", 3)
    assert code == 0 and "boundary IoU" in out and "within 3 pixels" in out
