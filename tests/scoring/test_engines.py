"""Engines are exchangeable, and memory decides the size of tiles from their numbers alone."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import world

from labelscape.errors import BadOption
from labelscape.nets.blocks import Network
from labelscape.scenes.raster import Scene
from labelscape.scoring.engine import Engine
from labelscape.scoring.engines import TorchEngine, _lacks_weights_alone, build_network
from labelscape.scoring.memory import scoring_bytes, tile_side
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scorer import Member, Scorer
from labelscape.scoring.stitch import plan_for, score_tiles
from labelscape.training.team import gather

MIB = 2**20


class Pixelwise(Network):
    """One convolution of 1 x 1, of 3 bands and 3 classes."""

    stride, reach, in_channels, classes = 1, 0, 3, 3

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)

    def scores(self, image):
        return {"logits": self.conv(image)}


@dataclass(frozen=True)
class NumpyEngine:
    """The same network without torch's layers: what another inference engine looks like."""

    weight: np.ndarray
    bias: np.ndarray
    stride = 1
    reach = 0
    device = torch.device("cpu")
    dtype = None

    def forward(self, images):
        out = np.einsum("kb,nbhw->nkhw", self.weight, images.numpy()) + self.bias[:, None, None]
        return torch.from_numpy(out.astype(np.float32))

    def peak_bytes(self, height, width):
        return 2 * 3 * height * width * 4


@pytest.fixture
def twins():
    """The same network in two engines."""
    torch.manual_seed(0)
    net = Pixelwise().eval()
    weight, bias = (value.detach().numpy().copy() for value in (net.conv.weight, net.conv.bias))
    engines: tuple[Engine, Engine] = TorchEngine(net), NumpyEngine(weight[:, :, 0, 0], bias)
    return engines


@pytest.mark.parametrize(
    "protocol", [Protocol(), Protocol((0.5, 1.0), "dihedral"), Protocol(average="logits")]
)
def test_another_engine_makes_the_same_map(tmp_path, twins, protocol):
    checkpoint = world.tiny_checkpoint("fcn")
    found = []
    with Scene(world.make(tmp_path, 90, 130, nodata=0).scene) as scene:
        for engine in twins:
            scorer = Scorer((Member(checkpoint, engine),) * 2, protocol)
            plan = plan_for(scorer, scene, tile_size=64, overlap=8, blend="hann")
            found.append({t.window: t.probabilities for t in score_tiles(scorer, scene, plan)})
    assert found[0].keys() == found[1].keys()
    # Several scales are averaged in blocks, of which this scene is one.
    assert len(found[0]) == 1 if len(protocol.scales) > 1 else len(found[0]) > 4
    for window, one in found[0].items():
        torch.testing.assert_close(one, found[1][window], atol=1e-5, rtol=1e-5)


def test_memory_of_a_network_is_its_weights_image_and_activations(twins):
    weights, plane = 4 * (9 + 3), 4 * 3 * 100 * 50
    assert twins[0].peak_bytes(100, 50) == int(weights + 1.2 * 2 * plane)
    half = replace(twins[0], dtype=torch.bfloat16)
    assert half.peak_bytes(100, 50) == int(weights + 1.2 * 2 * plane * 0.6)


@dataclass(frozen=True)
class Hungry:
    """Takes so many bytes a pixel."""

    bytes_a_pixel: float
    stride = 1
    reach = None

    def peak_bytes(self, height, width):
        return int(self.bytes_a_pixel * height * width)


def scorer_of(*engines, protocol=Protocol()):
    return Scorer(tuple(Member(world.tiny_checkpoint("fcn", warmed=False), e) for e in engines), protocol)


@pytest.mark.parametrize(
    ("bytes_a_pixel", "longest", "side"),
    [
        (1, 1152, 1152),
        (10**6, 1152, 1152),  # a single tile is not cut, whatever it takes
        (1536 * MIB / 1664**2, 5000, 1664),
        (1537 * MIB / 1664**2, 5000, 1152),
        (4096 * MIB / 1152**2, 5000, 1152),
        (4097 * MIB / 1152**2, 5000, 896),
        (4097 * MIB / 896**2, 5000, 640),
    ],
)
def test_tiles_are_as_large_as_memory_lets_them_be(bytes_a_pixel, longest, side):
    assert tile_side(scorer_of(Hungry(bytes_a_pixel)), longest) == side


def test_memory_of_scoring_counts_the_largest_network_and_the_sum():
    assert scoring_bytes(scorer_of(Hungry(100)), 30, 40) == 120_000
    # 3 bands, 3 classes, float32: the sum and one prediction, an image and its prediction. Tiles have one
    # size at every scale.
    more = 30 * 40 * 4 * (2 * 3 + 3 + 2 * 3)
    twice = scorer_of(Hungry(100), Hungry(300), protocol=Protocol((1.0, 2.0)))
    assert scoring_bytes(twice, 30, 40) == 300 * 30 * 40 + more
    small = scorer_of(Hungry(100), protocol=Protocol((0.5,), "mirror"))
    assert scoring_bytes(small, 30, 40) == 120_000 + more


def test_an_engine_folds_normalisations_and_keeps_its_estimates():
    made = world.tiny_checkpoint("unpooling")
    plain = TorchEngine(build_network(made))
    engine, half = (TorchEngine.of(made, device="cpu", precision=p) for p in ("32", "bf16"))

    def norms(one):
        return sum(isinstance(m, torch.nn.BatchNorm2d) for m in one.net.modules())

    # In bfloat16 folded weights would round to other values.
    assert (norms(engine), norms(half), norms(plain)) == (0, 15, 15)
    image = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        found, wanted = (one.forward(image).softmax(1) for one in (engine, plain))
    assert (found - wanted).abs().max() < 1e-5
    # Tiles are chosen by the estimate: a map keeps its tiles.
    assert engine.peak_bytes(96, 128) == plain.peak_bytes(96, 128)
    assert sum(t.nbytes for t in engine.shapes.state_dict().values() if not t.is_meta) == 0


def test_a_network_that_holds_more_than_its_weights_is_built_with_numbers():
    """What is no weight, or shared, is lost where a network of shapes is filled with its weights."""

    class Odd(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.one, self.two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            if kind == "buffer":
                self.register_buffer("table", torch.arange(3.0), persistent=False)
            if kind == "stored buffer":
                self.register_buffer("table", torch.arange(3.0))
            if kind == "attribute":
                self.table = torch.arange(3.0)
            if kind == "in a list":
                self.tables = {"levels": [torch.arange(3.0)]}
            if kind == "shared":
                self.two.weight = self.one.weight
            if kind == "shared module":
                self.three = self.one

    with torch.device("meta"):
        found = {
            kind: _lacks_weights_alone(Odd(kind))
            for kind in ("", "stored buffer", "buffer", "attribute", "in a list", "shared", "shared module")
        }
    assert found == {
        **{"": True, "stored buffer": True, "buffer": False, "attribute": False},
        **{"in a list": False, "shared": False, "shared module": False},
    }


STATES = {
    "as torch starts": lambda: None,
    "the user's flags": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "products too": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "one operation's": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "all operations'": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


def rounding() -> tuple:
    """What torch would round, as each of its flags tells it, where it tells."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        flags = cudnn.allow_tf32, matmul.allow_tf32
    except RuntimeError:
        flags = None
    return flags, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch is older than 2.9")
@pytest.mark.parametrize("state", STATES)
def test_convolutions_on_a_gpu_are_rounded_where_that_is_asked_for_alone(state):
    """In a process of its own: the flags are the process's."""
    program = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r}), sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from test_engines import STATES, rounding
from labelscape.scoring.devices import float32_in
STATES[{state!r}]()
before = rounding()
for precision in ("32", "tf32", "bf16"):
    with float32_in(precision, torch.device("cpu")):
        assert rounding() == before
    with float32_in(precision, torch.device("cuda")):
        flags, conv, rnn, matmul = rounding()
        rounds = precision == "tf32"
        assert flags is None or flags == (rounds, False)
        assert flags is not None or (conv, rnn, matmul) == ("tf32" if rounds else "ieee",) * 2 + ("ieee",)
    assert rounding() == before, (precision, before, rounding())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_processor_refuses_what_it_cannot_do():
    with pytest.raises(BadOption, match=r"a mode of CUDA devices, and this is cpu"):
        TorchEngine.of(world.tiny_checkpoint(), device="cpu", precision="tf32")
    with pytest.raises(BadOption, match="trains on GPUs only"):
        gather("cpu", "16")
    with pytest.raises(BadOption, match="a mode of CUDA devices"):
        gather("cpu", "tf32")
