"""Networks of shapes alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_networks import SMALL

from labelscape.nets.catalog import create_model
from labelscape.nets.shapes import result_of, shapes_alone
from labelscape.scoring.engines import TorchEngine

ROOT = Path(__file__).parent.parent.parent
OWN = [name for name, options in SMALL.items() if not {"backbone", "encoder"} & options.keys()]
"""Networks whose trunk is not of another library, which loads the compiler itself."""

MAPPED = """
import sys
import torch
import labelscape as ls
from labelscape.scoring.engines import TorchEngine, state_arrays
from small_networks import SMALL

for name in sys.argv[1:]:
    net = ls.create_model(name, in_channels=3, classes=4, **SMALL[name])
    made = ls.Checkpoint(
        network=name,
        options=SMALL[name],
        weights=state_arrays(net),
        legend=ls.Legend.of_names(["a", "b", "c", "d"]),
        contract=ls.Contract(bands=("x", "y", "z"), dtype="float32", normalisation=((0, 1),) * 3),
    )
    engine = TorchEngine.of(made, device="cpu")
    engine.peak_bytes(64, 64)
    with torch.inference_mode():
        engine.forward(torch.zeros(1, 3, 64, 64))
    print(name, "torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", SMALL)
def test_names_and_shapes_are_those_of_the_network(name):
    drawn = create_model(name, classes=4, **SMALL[name]).state_dict()
    state = torch.get_rng_state()
    with shapes_alone():
        net = create_model(name, classes=4, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert [(key, value.shape, value.dtype) for key, value in net.state_dict().items()] == [
        (key, value.shape, value.dtype) for key, value in drawn.items()
    ]
    assert all(value.is_meta for value in net.state_dict().values())


def test_outside_weights_are_drawn_as_ever():
    with shapes_alone():
        torch.nn.Linear(3, 3)
    one, two = (torch.nn.Linear(3, 3).weight for _ in range(2))
    assert not torch.equal(one, two)
    # A tensor with numbers is drawn within, too.
    with shapes_alone():
        numbers = torch.zeros(100, device="cpu").normal_()
    assert 0.5 < numbers.std() < 2


@pytest.mark.parametrize("name", SMALL)
def test_memory_is_estimated_as_by_torchs_own_rules(name, monkeypatch):
    engine = TorchEngine(create_model(name, classes=4, **SMALL[name]).eval())
    sizes = [(64, 64, 1), (75, 130, 1), (64, 96, 3)]
    found = [engine.peak_bytes(*size) for size in sizes]
    monkeypatch.setattr("labelscape.nets.shapes.RULES", {})
    assert found == [engine.peak_bytes(*size) for size in sizes]


def test_rules_answer_as_torch_does():
    one, two = (
        torch.zeros(2, 3, 4, 5, device="meta"),
        torch.zeros(3, 1, 5, device="meta", dtype=torch.float64),
    )
    aten = torch.ops.aten
    places = torch.zeros(2, 3, 4, 5, device="meta", dtype=torch.int64)
    norm = [torch.zeros(3, device="meta")] * 4
    for function, *args in (
        (aten.add.Tensor, one, two),
        (aten.add.Tensor, one, 1.5),
        (aten.cat.default, [one, one[:, :1]], 1),
        (aten.cat.default, [one, one[..., :2]], -1),
        (aten.cat.default, [one, one.double()]),
        (aten.upsample_bilinear2d.default, one, [9, 7], False),
        (aten.max_unpool2d.default, one, places, [8, 10]),
        (aten.native_batch_norm.default, one, *norm, False, 0.1, 1e-5),
    ):
        found, wanted = result_of(function, tuple(args), {}), function(*args)
        pairs = zip(found, wanted) if isinstance(wanted, tuple) else [(found, wanted)]
        assert all((a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) for a, b in pairs), function
    assert result_of(aten.add.Tensor, (one, two), {"alpha": 2}).shape == (2, 3, 4, 5)


def test_no_compiler_is_loaded_to_map():
    """torch._dynamo takes a second to import, at the start of every command."""
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, *OWN],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} False" for name in OWN]
