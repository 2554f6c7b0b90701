import errno
import json

import numpy as np
import pytest
import world
from scipy.ndimage import label

import labelscape as ls
from labelscape.errors import BadFile
from labelscape.evaluation import kept, topology
from labelscape.evaluation.topology import ClassMask, TopologyCounts, count_topology, skeleton

EIGHT = np.ones((3, 3))


def pieces_and_holes(mask):
    """8-connected areas, and 4-connected areas of what is outside, the surroundings included."""
    return label(mask, structure=EIGHT)[1], label(~np.pad(mask, 1))[1]


@pytest.mark.parametrize("seed", range(6))
def test_a_skeleton_is_thin_and_connected_as_its_mask(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 6)
    mask = np.kron(rng.random((14, 17)) < 0.5, np.ones((size, size), bool))
    lines = skeleton(mask)
    assert not (lines & ~mask).any()
    assert pieces_and_holes(lines) == pieces_and_holes(mask)
    # No square of nine pixels is left, and thinning again changes nothing.
    windows = np.lib.stride_tricks.sliding_window_view(lines, (3, 3))
    assert not windows.all(axis=(2, 3)).any() and (skeleton(lines) == lines).all()


def test_skeletons_of_known_shapes():
    bar = np.zeros((9, 30), bool)
    bar[3:6, 2:28] = True
    lines = skeleton(bar)
    assert lines[4].sum() == lines.sum() >= 22
    square = np.zeros((4, 4), bool)
    square[1:3, 1:3] = True
    assert skeleton(square).sum() == 1
    assert skeleton(np.ones((1, 1), bool)).all() and not skeleton(square & False).any()


def test_a_gap_costs_a_road_what_it_is_long():
    truth = np.zeros((9, 40), bool)
    truth[3:6, 2:38] = True
    gap = truth.copy()
    gap[:, 20:24] = False
    found = count_topology(truth, gap, "road")
    line = skeleton(truth)
    assert (found.true, found.covered) == (line.sum(), line.sum() - 4)
    assert found.precision == 1.0 and found.sensitivity == 1 - 4 / line.sum()
    assert found.cldice == pytest.approx(2 * found.sensitivity / (1 + found.sensitivity))
    assert count_topology(truth, truth, "road").cldice == 1.0
    # A thicker road is as well connected.
    thick = np.zeros_like(truth)
    thick[2:7, 2:38] = True
    assert count_topology(truth, thick, "road").cldice == 1.0
    assert (found + found).cldice == found.cldice and (found + found).true == 2 * found.true
    assert TopologyCounts("road", 4, 0, 4, 0).cldice == 0.0
    assert TopologyCounts("road", 0, 0, 4, 0).to_dict()["cldice"] is None


def one_by_one(mask):
    """Guo and Hall's algorithm A1 as its paper has it, pixel by pixel."""
    lines = np.pad(mask, 1)
    while True:
        before = lines.copy()
        for odd in (True, False):
            gone = []
            for r, c in np.argwhere(lines):
                p2, p3, p4, p5, p6, p7, p8, p9 = (
                    bool(lines[r + down, c + right])
                    for down, right in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
                )
                crossings = sum(
                    not a and (b or d) for a, b, d in ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2))
                )
                pairs = ((p9, p2), (p3, p4), (p5, p6), (p7, p8)), ((p2, p3), (p4, p5), (p6, p7), (p8, p9))
                fewest = min(sum(a or b for a, b in some) for some in pairs)
                last = ((p6 or p7 or not p9) and p8) if odd else ((p2 or p3 or not p5) and p4)
                if crossings == 1 and 2 <= fewest <= 3 and not last:
                    gone.append((r, c))
            for place in gone:
                lines[place] = False
        if (lines == before).all():
            return lines[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(30, 41), (1, 7), (7, 1)])
def test_a_scene_in_a_file_has_the_skeleton_of_the_algorithm(shape, monkeypatch):
    """Read strip by strip, looked up in chunks, in a file instead of memory: as pixel by pixel."""
    rng = np.random.default_rng(3)
    mask = np.kron(rng.random((11, 14)) < 0.6, np.ones((3, 3), bool))[: shape[0], : shape[1]]
    for module, name, value in ((topology, "STRIP", 90), (topology, "CHUNK", 50), (kept, "IN_MEMORY", 0)):
        monkeypatch.setattr(module, name, value)
    assert (skeleton(mask) == one_by_one(mask)).all()
    guess = np.roll(mask, 1, axis=1)
    classes = np.stack([mask + np.uint8(1), guess + np.uint8(1)])
    classes[0, : shape[0] // 3] = 0  # unlabelled: predicted there or not, nobody knows
    found = count_topology(ClassMask(classes, 1, 0), ClassMask(classes, 1, 1), "road")
    known = classes[0] > 0
    assert found == count_topology(mask & known, guess & known, "road")


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOMEM, MemoryError), (errno.ENOSPC, BadFile)])
def test_a_file_that_cannot_be_mapped_is_no_traceback(number, raised, monkeypatch):
    def full(*_, **__):
        raise OSError(number, "full")

    monkeypatch.setattr(kept, "IN_MEMORY", 0)
    monkeypatch.setattr(np, "memmap", full)
    with pytest.raises(raised):
        skeleton(np.ones((4, 4), bool))


def test_an_evaluation_measures_the_topology_of_a_class(tmp_path, run_cli):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    how = {"device": "cpu", "show": False, "topology": ["field"]}
    seen = []
    with ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}) as dataset:
        (found,) = ls.evaluate(checkpoint, dataset, keep=lambda _, c: seen.append(c), **how).topology
        assert found == count_topology(w.classes == 1, seen[0] == 1, "field")
    path = ls.save(checkpoint, tmp_path / "m.safetensors")
    command = ("evaluate", path, w.scene, "--labels", labels, "--device", "cpu", "--topology", "field")
    code, out, err = run_cli(*command)
    assert code == 0 and "clDice" in out, err
    assert json.loads(run_cli(*command, "--json")[1])["topology"] == [found.to_dict()]
