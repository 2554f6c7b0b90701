import json

import numpy as np
import pytest
import world
from scipy.ndimage import label

import labelscape as ls
from labelscape.errors import BadInput
from labelscape.evaluation import topology
from labelscape.evaluation.topology import TopologyCounts, count_topology, skeleton

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


def test_an_evaluation_measures_the_topology_of_a_class(tmp_path, run_cli, monkeypatch):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    checkpoint = world.tiny_checkpoint(like=w.scene)
    how = {"device": "cpu", "show": False, "topology": ["field"]}
    seen = []
    with ls.open_dataset([str(w.scene)], [str(labels)], spec={"legend": world.LEGEND}) as dataset:
        (found,) = ls.evaluate(checkpoint, dataset, keep=lambda _, c: seen.append(c), **how).topology
        assert found == count_topology(w.classes == 1, seen[0] == 1, "field")
        monkeypatch.setattr(topology, "MOST", 1000)
        with pytest.raises(BadInput, match="up to 1,000 pixels"):
            ls.evaluate(checkpoint, dataset, **how)
    monkeypatch.undo()
    path = ls.save(checkpoint, tmp_path / "m.safetensors")
    command = ("evaluate", path, w.scene, "--labels", labels, "--device", "cpu", "--topology", "field")
    code, out, err = run_cli(*command)
    assert code == 0 and "clDice" in out, err
    assert json.loads(run_cli(*command, "--json")[1])["topology"] == [found.to_dict()]
