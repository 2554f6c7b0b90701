"""Networks on a GPU are those of the processor: predictions, gradients, half precision, memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import HEADS, SMALL
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.legend import Legend
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import TorchEngine, state_arrays
from labelscape.scoring.proof import TOLERANCE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

every_network = pytest.mark.parametrize("name", SMALL)
BANDS, CLASSES = 4, 5


def made(name: str) -> Network:
    """A small variant that has seen a few images; its normalisations differ from their start."""
    torch.manual_seed(0)
    net = create_model(name, in_channels=BANDS, classes=CLASSES, **SMALL[name])
    with torch.no_grad():
        for _ in range(3):
            net.heads(torch.randn(2, BANDS, 64, 64))
    return net


def checkpoint_of(name: str) -> Checkpoint:
    bands = tuple(str(n) for n in range(BANDS))
    contract = Contract(bands=bands, dtype="uint16", normalisation=((1000.0, 500.0),) * BANDS)
    legend = Legend.of_names([f"c{n}" for n in range(CLASSES)])
    return Checkpoint(name, SMALL[name], state_arrays(made(name)), legend, contract)


def logits_on(device: str, name: str, image: Tensor, precision: str = "32") -> Tensor:
    engine = TorchEngine.of(checkpoint_of(name), device=device, precision=precision)
    with torch.inference_mode():
        return engine.forward(image.to(engine.device)).float().cpu()


@every_network
@pytest.mark.parametrize("size", [(2, 96, 160), (1, 33, 47)])
def test_a_gpu_predicts_what_the_processor_predicts(name: str, size: tuple[int, int, int]) -> None:
    images, height, width = size
    image = torch.randn(images, BANDS, height, width)
    wanted, found = (logits_on(device, name, image).softmax(1) for device in ("cpu", "cuda"))
    # The bound that every other engine is held to.
    assert float((wanted - found).abs().max()) <= TOLERANCE


@every_network
def test_rounded_convolutions_are_what_was_asked_for_or_not_there(name: str) -> None:
    image = torch.randn(1, BANDS, 96, 128)
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    found = {precision: logits_on("cuda", name, image, precision) for precision in ("32", "tf32")}
    assert not torch.equal(found["32"], found["tf32"])
    assert flags == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def loss_and_gradients(net: Network, name: str, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of all heads together; a classmate's second image is of its second task."""
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0  # devices draw numbers of their own
    heads = net.heads(image, first=1) if "mate" in HEADS.get(name, {}) else net.heads(image)
    total = torch.zeros((), dtype=image.dtype, device=image.device)
    for logits in heads.values():
        total = total + F.cross_entropy(logits, labels[: len(logits)] % logits.shape[1])
    total.backward()
    return {"loss": total.detach()} | {
        key: value.grad for key, value in net.named_parameters() if value.grad is not None
    }


@every_network
def test_gradients_on_a_gpu_are_those_of_the_processor(name: str) -> None:
    image = torch.randn(2, BANDS, 64, 80, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (2, 64, 80))
    found = {
        device: loss_and_gradients(
            made(name).double().train().to(device), name, image.to(device), labels.to(device)
        )
        for device in ("cpu", "cuda")
    }
    assert found["cpu"].keys() == found["cuda"].keys()
    for key, wanted in found["cpu"].items():
        # Two sums of the same numbers in another order: all but the last few digits of float64.
        error = (found["cuda"][key].cpu() - wanted).abs().max()
        assert float(error) <= 1e-8 * max(1.0, float(wanted.abs().max())), key


@every_network
@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_gives_nearly_the_same_probabilities(name: str, precision: str) -> None:
    image = torch.randn(1, BANDS, 96, 128)
    wanted, found = logits_on("cpu", name, image), logits_on("cuda", name, image, precision)
    spread = float(wanted.std())
    # bfloat16 keeps 8 binary digits, float16 11; a few dozen layers add their roundings up.
    most = {"bf16": 0.1, "16": 0.02}[precision]
    assert float((wanted - found).pow(2).mean().sqrt()) <= most * spread


@every_network
def test_the_memory_that_a_plan_counts_on_is_what_a_gpu_needs(name: str) -> None:
    """Tiles are chosen by an estimate that computes nothing: it must not be less than what is taken."""
    engine = TorchEngine.of(checkpoint_of(name), device="cuda")
    image = torch.randn(1, BANDS, 384, 512, device="cuda")
    with torch.inference_mode():
        engine.forward(image)  # libraries take their work space at the first call
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - image.nbytes
        before -= sum(v.nbytes for v in [*engine.net.parameters(), *engine.net.buffers()])
        engine.forward(image)
        taken = torch.cuda.max_memory_allocated() - before
    assert taken <= 1.1 * engine.peak_bytes(384, 512), (taken, engine.peak_bytes(384, 512))
