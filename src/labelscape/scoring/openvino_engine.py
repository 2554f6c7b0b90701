"""OpenVINO: networks on the CPU, converted for tiles of one shape and compared with torch on that very shape.

A network is traced at the shape of the tiles: sizes of padding and resizing are numbers in the trace, so that
no other shape may be given to it; torch predicts those. It is compared in float32, in which it also runs
unless bfloat16 is asked for.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.scoring.engines import TorchEngine, predicted

Shape = tuple[int, int, int, int]
"""Of the images that a network is given: (N, B, H, W)."""
TOLERANCE = 1e-4
"""Largest difference of a probability from torch's that is still rounding (ours): a hundredth of a
per cent.
"""
LIBRARY_BYTES = 110 * 2**20
"""Memory of OpenVINO itself, before any network."""
SEED = 0


def openvino_version() -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


@cache
def has_bfloat16() -> bool:
    """Does this processor multiply in bfloat16? Others would imitate it, more slowly than float32."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Converted:
    """A network in OpenVINO for images of one shape; compiled at the first of them. `half` computes in
    bfloat16 where a layer allows it.
    """

    def __init__(self, model: Any, *, half: bool = False) -> None:
        self.model, self.half = model, half
        self._compiled: tuple[int, Any] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, B, H, W) float32 on the CPU -> logits (N, K, H, W)."""
        # As many threads as torch has: a resumed map sets those that it was begun with.
        threads = torch.get_num_threads()
        if self._compiled is None or self._compiled[0] != threads:
            self._compiled = threads, _compiled(self.model, threads, self.half)
        # OpenVINO wants (N, B, H, W) in memory too, torch's images have their channels last.
        return torch.from_numpy(self._compiled[1](images.contiguous().numpy())[0])


_ONE = threading.Lock()


def core() -> Any:
    """OpenVINO's core: one for the life of a process.

    The first network that a core compiles gives the thread another stack for signals, and a core that is
    deleted frees it, in whatever order cores come and go. A signal after that, Ctrl-C say, had no stack: the
    process ended with a segmentation fault, where it should stop tidily.
    """
    with _ONE:
        return _core()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compiled(model: Any, threads: int, half: bool) -> Any:
    how = {
        # By itself it takes bfloat16 on processors that have it: faster, and other classes.
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Else all workers of a machine would compute on the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return core().compile_model(model, "CPU", how)


@dataclass(frozen=True, eq=False)
class OpenvinoEngine:
    """A network whose images of some shapes are predicted by OpenVINO, all others by torch."""

    torch: TorchEngine
    converted: Mapping[Shape, Converted] = field(repr=False)

    @property
    def name(self) -> str:
        return engine_name()

    @property
    def stride(self) -> int:
        return self.torch.stride

    @property
    def reach(self) -> int | None:
        return self.torch.reach

    @property
    def device(self) -> torch.device:
        return self.torch.device

    @property
    def dtype(self) -> torch.dtype | None:
        return self.torch.dtype

    def forward(self, images: Tensor) -> Tensor:
        run = self.converted.get(tuple(images.shape))
        return self.torch.forward(images) if run is None else run(images)

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        # Torch's: the tiles of a map must not depend on the engine.
        return self.torch.peak_bytes(height, width, images)


def engine_name() -> str:
    """As a map records it: another version rounds otherwise."""
    return f"openvino {openvino_version()}"


def traced(engine: TorchEngine, images: Tensor) -> tuple[Any, Tensor]:
    """The network as OpenVINO's model for images of this shape, and torch's answer for these: tracing runs
    the network once. Raises whatever torch and OpenVINO raise for what cannot be traced or converted.
    """
    import openvino

    recorder = _Recorder(engine)
    # Branches on sizes are meant to be fixed.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # Unchecked: the check would run the network three times more, and says less than our comparison.
        script = torch.jit.trace(recorder, images, check_trace=False, strict=False)
        model = openvino.convert_model(script, input=[tuple(images.shape)])
    return model, recorder.answer


class _Recorder(torch.nn.Module):
    """A network as `torch.jit.trace` takes it, which keeps its answer."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__()
        self.net, self.head = engine.net, engine.head
        self.answer = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        logits = predicted(self.net, images, self.head)
        self.answer = logits.detach()
        return logits


@dataclass(frozen=True)
class Proof:
    """How an engine compares with torch on one shape of images.

    failure     why it is not used, as a part of a sentence; empty where it may be
    difference  largest difference of a probability
    seconds     for the images, of torch and of the engine
    """

    failure: str
    difference: float
    seconds: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The engine's time over torch's."""
        return self.seconds[1] / self.seconds[0] if self.seconds[0] else 1.0


def proof_images(checkpoint: Checkpoint, shape: Shape) -> Tensor:
    """Images (N, B, H, W) as the network reads them, the same at every call: drawn from the mean and
    deviation of each band, with coarse and fine structures, a quarter three times as strong, and a corner
    without data.

    No stored picture: what has to be right is the network converted for the tiles' own shape, which no block
    stored with a checkpoint has.
    """
    generator = torch.Generator().manual_seed(SEED)
    images, bands, height, width = shape
    total = torch.zeros(shape)
    for cell in (1, 4, 16, 64):
        coarse = torch.randn(images, bands, -(-height // cell), -(-width // cell), generator=generator)
        total += torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    total /= 2  # four sums of variance 1
    total[..., : height // 2, : width // 2] *= 3
    total[..., height - height // 8 :, width - width // 8 :] = 0
    contract = checkpoint.contract
    for band, ((mean, std), known) in enumerate(zip(contract.normalisation, _statistics(checkpoint))):
        # Networks that read raw values see them as they are.
        total[:, band] = (total[:, band] * known[1] + known[0] - mean) / (std or 1)
    return total.contiguous(memory_format=torch.channels_last)


def _statistics(checkpoint: Checkpoint) -> list[tuple[float, float]]:
    """(mean, std) of each band in the scenes' units."""
    contract = checkpoint.contract
    if len(contract.statistics) == len(contract.bands):
        return [(one.mean, one.std) for one in contract.statistics]
    return list(contract.normalisation)


def compared(wanted: Tensor, found: Tensor) -> tuple[str, float]:
    """Probabilities (N, K, H, W) of torch and of an engine: why they are not the same, empty where they are,
    and their largest difference.
    """
    if wanted.shape != found.shape:
        return f"its logits have the shape {tuple(found.shape)} instead of {tuple(wanted.shape)}", float(
            "inf"
        )
    if not torch.isfinite(found).all():
        return "its probabilities are no finite numbers", float("inf")
    difference = float((wanted - found).abs().max())
    if difference > TOLERANCE:
        return f"its probabilities differ from torch's by up to {difference:.2g}", difference
    # Among equals rounding decides; anywhere else the class has to be the same.
    best = wanted.topk(min(2, wanted.shape[1]), dim=1).values
    clear = (best[:, 0] - best[:, -1]) > TOLERANCE
    changed = int(((wanted.argmax(1) != found.argmax(1)) & clear).sum())
    return (f"{changed} pixels get another class" if changed else ""), difference


def seconds_of(run: Any, images: Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        run(images)
    return time.perf_counter() - start


def openvino_bytes(engine: TorchEngine, shape: Shape) -> int:
    """Memory at the peak for images of this shape, weights of the network in torch included: an estimate, the
    same on every machine.

    Its own weights, the converted and the compiled ones, and those that are arranged anew while it compiles;
    activations that are not shared as tightly as in torch (measured 1.4 to 1.5 times).
    """
    weights = sum(v.nbytes for v in (*engine.net.parameters(), *engine.net.buffers()))
    activations = engine.recorded_bytes(shape[2], shape[3], shape[0]) - weights
    return int(LIBRARY_BYTES + 4 * weights + 1.6 * activations)
