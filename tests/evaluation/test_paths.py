import heapq
import json
import math

import numpy as np
import pytest
import world

import labelscape as ls
from labelscape.errors import BadInput
from labelscape.evaluation import paths
from labelscape.evaluation.paths import Lines, PathCounts, count_paths
from labelscape.evaluation.topology import skeleton, thinned


def lengths_from(lines, start, size):
    """Length of the shortest path to every pixel of a skeleton, by Dijkstra's algorithm as in a textbook."""
    best, waiting = {start: 0.0}, [(0.0, start)]
    while waiting:
        far, (row, column) = heapq.heappop(waiting)
        if far > best[row, column]:
            continue
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                there = row + down, column + right
                inside = all(0 <= at < side for at, side in zip(there, lines.shape))
                if not (down or right) or not inside or not lines[there]:
                    continue
                new = far + math.hypot(down * size[0], right * size[1])
                if new < best.get(there, math.inf):
                    best[there] = new
                    heapq.heappush(waiting, (new, there))
    return best


def reference(own, other, size):
    """Paths of a mask in another one, pair by pair: their number and the sum of their differences."""
    lines, others = skeleton(own), skeleton(other)
    pixels = [tuple(map(int, p)) for p in np.argwhere(lines)]
    nodes = [pixels[n] for n in Lines.of(np.nonzero(lines), size).nodes()]
    snap = max(paths.SNAP, paths.SNAP_PIXELS * max(size))

    def nearest(node):
        away = [
            (math.hypot((r - node[0]) * size[0], (c - node[1]) * size[1]), n)
            for n, (r, c) in enumerate(np.argwhere(others))
        ]
        far, n = min(away, default=(math.inf, -1))
        return tuple(map(int, np.argwhere(others)[n])) if far <= snap else None

    snapped = [nearest(node) for node in nodes]
    count, summed = 0, 0.0
    for i, a in enumerate(nodes):
        found = lengths_from(lines, a, size)
        there = lengths_from(others, snapped[i], size) if snapped[i] else {}
        for b, its in list(zip(nodes, snapped))[i + 1 :]:
            length = found.get(b, math.inf)
            if paths.SHORTEST <= length < math.inf:
                count += 1
                summed += min(1, abs(length - there.get(its, math.inf)) / length)
    return count, summed


def roads(seed):
    """Streets of one to three pixels' width at random, and the same with gaps and some more."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((60, 70), bool)
    for _ in range(6):
        row, column, wide = rng.integers(0, 56), rng.integers(0, 66), rng.integers(1, 4)
        truth[row : row + wide] |= rng.random() < 0.5
        truth[:, column : column + wide] |= rng.random() < 0.5
    slope = np.arange(55)
    truth[slope, slope + 5] = truth[slope, slope + 6] = True
    found = truth & ~np.kron(rng.random((12, 14)) < 0.08, np.ones((5, 5), bool))
    found[rng.integers(0, 60)] = True
    return truth, found


@pytest.mark.parametrize("seed", range(3))
def test_paths_are_those_of_the_definition(seed, monkeypatch):
    monkeypatch.setattr(paths, "SPACING", 20.0)
    truth, found = roads(seed)
    size = (1.0, 1.5) if seed % 2 else (2.0, 2.0)
    made = count_paths(truth, found, "road", size)
    for mine, (count, summed) in (
        ((made.true, made.true_error), reference(truth, found, size)),
        ((made.predicted, made.predicted_error), reference(found, truth, size)),
    ):
        assert count > 10 and mine[0] == count and mine[1] == pytest.approx(summed, rel=1e-9, abs=1e-9)


def bar(gap=(), length=222):
    mask = np.zeros((9, length + 4), bool)
    mask[3:6, 2:-2] = True
    mask[:, list(gap)] = False
    return mask


def test_a_straight_road_and_a_gap():
    nodes = Lines.of(thinned(bar()), (1.0, 1.0)).nodes()
    assert len(nodes) == 6, "both ends, and 50 and 100 metres from each"
    same = count_paths(bar(), bar(), "road", (1.0, 1.0))
    assert same.apls == 1.0 and same.true == same.predicted == len(nodes) * (len(nodes) - 1) / 2
    # A gap of 10 metres: paths across it are missing, those on either side are there.
    cut = count_paths(bar(), bar(range(140, 150)), "road", (1.0, 1.0))
    left = int((np.argwhere(skeleton(bar()))[nodes][:, 1] < 140).sum())
    assert cut.true_error == pytest.approx(left * (len(nodes) - left), abs=0.2)
    assert cut.of_prediction > 0.99 and 0 < cut.apls < 1
    # Pixels of half the size: half the nodes' paths, the same score for the same road.
    assert count_paths(bar(), bar(), "road", (0.5, 0.5)).true < same.true
    none = np.zeros_like(bar())
    assert count_paths(bar(), none, "road", (1.0, 1.0)).apls == 0.0
    assert count_paths(none, none, "road", (1.0, 1.0)).to_dict()["apls"] is None


def test_a_detour_costs_what_it_is_longer():
    """Two sides of a square instead of its diagonal: half as many steps again as long."""
    truth, around = np.zeros((2, 120, 120), bool)
    steps = np.arange(10, 110)
    truth[steps, steps] = True
    around[10, 10:110] = around[10:110, 109] = True
    lengths = [Lines.of(thinned(mask), (1.0, 1.0)) for mask in (truth, around)]
    ends = [np.flatnonzero(np.diff(one.steps.indptr) == 1) for one in lengths]
    direct, detour = (one.between(e)[0, 1] for one, e in zip(lengths, ends))
    assert direct == pytest.approx(99 * math.sqrt(2)) and detour == pytest.approx(2 * 99, abs=1)


def test_rings_and_many_nodes(monkeypatch):
    y, x = np.mgrid[:60, :60] - 30
    ring = np.abs(np.hypot(x, y) - 25) < 1.5
    made = count_paths(ring, ring, "road", (1.0, 1.0))
    assert made.apls == 1.0 and made.true >= 3
    monkeypatch.setattr(paths, "SPACING", 1.0)
    monkeypatch.setattr(paths, "MOST_NODES", 20)
    assert count_paths(ring, ring, "road", (1.0, 1.0)).true <= 20 * 19 / 2


def test_counts_add_up():
    one, other = PathCounts("road", 4, 1.0, 2, 0.0), PathCounts("road", 4, 3.0, 2, 1.0)
    assert (one + other).of_truth == 0.5 and (one + other).of_prediction == 0.75
    assert (one + other).apls == pytest.approx(0.6)
    assert PathCounts.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(BadInput, match="cannot be added"):
        one + PathCounts("rail", 0, 0.0, 0, 0.0)


def test_an_evaluation_measures_paths(tmp_path, run_cli):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    how = {"device": "cpu", "show": False, "apls": ["field"]}
    seen = []
    with ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}) as dataset:
        found = ls.evaluate(checkpoint, dataset, keep=lambda _, c: seen.append(c), **how)
        steps = dataset.scenes[0].scene.grid.ground_steps
        assert steps == pytest.approx((10, 10), rel=0.01)
    assert found.paths == (count_paths(w.classes == 1, seen[0] == 1, "field", steps),)
    assert type(found).from_dict(json.loads(json.dumps(found.to_dict()))).paths == found.paths
    assert (found + found).paths[0].apls == found.paths[0].apls
    path = ls.save(checkpoint, tmp_path / "m.safetensors")
    command = ("evaluate", path, w.scene, "--labels", labels, "--device", "cpu", "--apls", "field")
    code, out, err = run_cli(*command, "--out", tmp_path / "where")
    assert code == 0 and "APLS" in out and "APLS" in (tmp_path / "where" / "report.html").read_text(), err
    assert json.loads(run_cli(*command, "--json")[1])["paths"] == [found.paths[0].to_dict()]
    photo = world.write(tmp_path / "photo.tif", w.pixels, crs=None)
    said = run_cli("evaluate", path, photo, "--labels", labels, "--device", "cpu", "--apls", "field")[2]
    assert "APLS is measured in metres" in said
