"""MSWBN explained: numbers against plain loops, and networks whose weights are known by construction."""

import itertools

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at

from labelscape.explanation.choosing import Wanted
from labelscape.explanation.mswbn import branch_weights, receptive_fields, spectrum
from labelscape.nets.mswbn import OPERATIONS


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("mswbn")).scene


def fields_of(operations):
    return [operation.field() for operation in OPERATIONS[operations]]


@pytest.mark.parametrize(
    ("operations", "steps", "expected"),
    [
        (8, 2, [*range(1, 34, 2), 37, 41, 49]),
        (8, 3, [*range(1, 58, 2), 61, 65, 73]),
        (5, 2, [1, 3, 5, 7, 9, 11, 13, 17, 19, 21, 25, 33]),
        (5, 3, [*range(1, 30, 2), 33, 35, 37, 41, 49]),
    ],
)
def test_the_distinct_receptive_fields(operations, steps, expected):
    found, shares = spectrum(np.ones((steps, operations)), fields_of(operations))
    assert found.tolist() == expected
    assert len(found) == {(8, 2): 20, (8, 3): 32, (5, 2): 12, (5, 3): 20}[operations, steps]
    assert shares.sum() == pytest.approx(1)


def test_the_spectrum_equals_a_loop_over_all_chains():
    weights, fields = np.random.default_rng(0).random((3, 8)), fields_of(8)
    total = {}
    for a, b, c in itertools.product(range(8), repeat=3):
        size = fields[a] + fields[b] + fields[c] - 2
        total[size] = total.get(size, 0) + weights[0, a] * weights[1, b] * weights[2, c]
    found, shares = spectrum(weights, fields)
    assert np.allclose(shares, [total[size] / sum(total.values()) for size in found])


def test_one_branch_alone_has_one_field():
    found, shares = spectrum(np.eye(8)[[7, 7, 7]], fields_of(8))
    assert found[shares > 0].tolist() == [73]  # 25 + 25 + 25 - 2


def test_weights_equal_the_equations_written_out(scene):
    checkpoint = checkpoint_of("mswbn", scene)
    look = look_at(checkpoint, scene, Wanted(number=3, side=64))
    found = branch_weights(look)
    net = look.net
    for number, seen in enumerate(look.windows):
        with torch.no_grad():
            levels = net.trunk(seen.image)
            for h, index in enumerate((2, 1, 0)):  # L_1 .. L_3 are layer3 .. layer1
                scores = net.hwm.hierarchies[h].generator(levels[index])[0]
                means = [float(scores[b].mean()) for b in range(5)]
                total = sum(np.exp(mean) for mean in means)
                assert close(found.arrays["weights"][number, h], [np.exp(mean) / total for mean in means])
    below = np.zeros((3, 5))
    for h, b in itertools.product(range(3), range(5)):
        below[h, b] = sum(w[h, b] < 0.2 for w in found.arrays["weights"]) / 3
    assert close(found.numbers["share_below_theta"], below)
    assert close(found.arrays["w_bin"].sum(1), 1)


def test_a_network_of_known_weights_is_explained_rightly(scene):
    biases = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])

    def set_weights(net):
        for hierarchy in net.hwm.hierarchies:
            hierarchy.generator.weight.zero_()
            hierarchy.generator.bias.copy_(biases)
        net.lbm.mlp[-1].weight.zero_()
        net.lbm.mlp[-1].bias.copy_(torch.tensor([0.0, float(np.log(3))]))

    look = look_at(checkpoint_of("mswbn", scene, change=set_weights), scene, Wanted(number=2, side=48))
    weights, fields = branch_weights(look), receptive_fields(look)
    expected = np.exp(biases.numpy()) / np.exp(biases.numpy()).sum()
    assert close(weights.numbers["mean"], [expected] * 3) and close(weights.numbers["std"], 0)
    # Only O3,0 (0.214) and O5,2 (0.581) reach theta = 0.2.
    assert weights.numbers["share_below_theta"] == [[1, 0, 1, 0, 1]] * 3
    assert close(weights.numbers["lbm"]["mean"], [0.25, 0.75])
    clipped = np.maximum(expected, 0.2)
    mean = sum(w * f for w, f in zip(clipped / clipped.sum(), fields_of(5)))
    assert fields.numbers["mean_field_cells"]["mean"] == pytest.approx(3 * mean - 2, rel=1e-5)


def test_gates_that_are_off_leave_the_weights_as_they_are(scene):
    look = look_at(checkpoint_of("mswbn", scene, gate_hwm=False, lbm=False), scene, Wanted(number=1, side=48))
    found, weights = receptive_fields(look), branch_weights(look)
    assert "gates of this model are off" in weights.lead and "raises" not in weights.lead
    assert weights.numbers["theta_hwm"] is None and "lbm" not in weights.numbers
    raw = weights.arrays["weights"][0]
    assert close(found.arrays["shares_three"][0], spectrum(raw, fields_of(5))[1])
