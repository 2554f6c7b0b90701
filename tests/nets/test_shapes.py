"""Networks of shapes alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_networks import SMALL

from labelscape.nets.catalog import create_model
from labelscape.nets.shapes import shapes_alone

ROOT = Path(__file__).parent.parent.parent

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


def test_no_compiler_is_loaded_to_map():
    """torch._dynamo takes a second to import, at the start of every command."""
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, *SMALL],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} False" for name in SMALL]


LATER = """
import sys
import torch
from labelscape.nets.compiler import compiler_later

def loaded():
    return "torch._dynamo.eval_frame" in sys.modules

def twice(x):
    seen.append(torch.compiler.is_compiling())
    return 2 * x

seen = []
with compiler_later():
    left = torch.compiler.disable(twice)
    bare = torch.compiler.disable()(twice)
    assert left(3) == bare(3) == 6 and left.__name__ == "twice"
assert not loaded() and "torch._dynamo" not in sys.modules and seen == [False, False]

asked = sys.argv[1]
with compiler_later():
    if asked == "attribute":
        import torch._dynamo
        torch._dynamo.reset()
    elif asked == "name":
        from torch._dynamo import optimize
    elif asked == "module":
        import torch._dynamo.config
    elif asked == "utils":
        from torch._dynamo.utils import counters
assert loaded() and torch._dynamo.config.cache_size_limit > 1
assert type(sys.modules["torch._dynamo"]).__name__ == "module"

graphs = []
def kept(graph, inputs):
    graphs.append(graph)
    return graph.forward

seen.clear()
run = torch.compile(lambda x: left(x + 1) + 3, backend=kept)
assert run(torch.ones(2)).tolist() == [7, 7]
assert seen == [False] and len(graphs) == 2
"""


@pytest.mark.parametrize("asked", ["attribute", "name", "module", "utils"])
def test_whatever_asks_for_the_compiler_has_it(asked):
    """And what was to be left uncompiled before it was there is left uncompiled."""
    done = subprocess.run(
        [sys.executable, "-c", LATER, asked],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


IMPORTED = """
import gc, sys
from labelscape.nets.libraries import import_smp

if sys.argv[1] == "off":
    gc.disable()
gc.collect()
before = gc.get_stats()[2]["collections"]
import_smp()
print(gc.isenabled(), gc.get_stats()[2]["collections"] - before)
"""


@pytest.mark.parametrize(("garbage", "sought"), [("on", True), ("off", False)])
def test_no_garbage_is_sought_while_libraries_are_imported(garbage, sought):
    """And afterwards as before."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, garbage],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(sought), "0"], done.stderr


TRACKER = """
import sys
from labelscape.nets.libraries import import_timm

import_timm()
assert "wandb" not in sys.modules
from timm.utils import summary
assert callable(summary.wandb.init) and "wandb" in sys.modules
import wandb
assert type(wandb) is type(sys)
"""


def test_timm_imports_no_tracker_before_it_is_asked_for():
    pytest.importorskip("wandb")
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", TRACKER], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
