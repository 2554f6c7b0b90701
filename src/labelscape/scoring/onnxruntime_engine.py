"""onnxruntime: networks of checkpoints on the CPU, one of the `runtimes`. Models that `labelscape export`
wrote have an engine of their own, `onnx_engine`.

A network is recorded at the shape of the tiles, as for OpenVINO, and computed in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from labelscape.exported import session
from labelscape.scoring.engines import TorchEngine, predicted
from labelscape.scoring.onnx_graph import recorded, with_plain_pools
from labelscape.scoring.proof import Shape

TITLE, EXTRA = "onnxruntime", "onnx"
ENDS: tuple[str, ...] = (".onnx",)
IMAGES, LOGITS = "images", "logits"
OPSET = 17
LIBRARY_BYTES = 60 * 2**20
"""Memory of onnxruntime itself and of torch's exporter, before any network."""


def installed_version() -> str | None:
    """None where it, or what writes its files, is not installed."""
    try:
        version("onnx")
        return version("onnxruntime")
    except PackageNotFoundError:
        return None


def why_not(dtype: torch.dtype | None) -> str:
    """Why it cannot compute in this precision, as a part of a sentence; "" where it can."""
    return "" if dtype is None else "it computes in float32 (`precision='32'`)"


class Converted:
    """A network in onnxruntime for images of one shape; prepared at the first of them."""

    def __init__(self, model: bytes, *, half: bool = False) -> None:
        self.model = model
        self._session: tuple[int, object] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, B, H, W) float32 on the CPU -> logits (N, K, H, W)."""
        # As many threads as torch has: a resumed map sets those that it was begun with.
        threads = torch.get_num_threads()
        if self._session is None or self._session[0] != threads:
            self._session = threads, session(self.model, threads)
        return torch.from_numpy(self._session[1].run([LOGITS], {IMAGES: images.contiguous().numpy()})[0])


def traced(engine: TorchEngine, images: Tensor) -> tuple[bytes, Tensor]:
    """The network as an ONNX file for images of this shape, and torch's answer for these. Raises whatever
    torch raises for what has no form in ONNX.
    """
    # Contiguous: torch's exporter records how memory lies as operations of the network.
    model = recorded(_Recorder(engine), images.contiguous(), OPSET, (IMAGES, LOGITS))
    with torch.inference_mode():
        return model, engine.forward(images)


class _Recorder(nn.Module):
    """The network as it is recorded: a copy, since some layers get another form."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__()
        self.net, self.head = with_plain_pools(copy.deepcopy(engine.net)), engine.head
        # torch's exporter gives all parts the mode of the whole when it is done.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return predicted(self.net, images, self.head)


def saved(model: bytes, first: Path) -> None:
    """Write a network as files that differ in their ends, `ENDS`."""
    first.write_bytes(model)


def loaded(parts: Sequence[bytes]) -> bytes:
    """The network of such files, in the order of `ENDS`."""
    return parts[0]


def peak_bytes(engine: TorchEngine, shape: Shape) -> int:
    """Memory at the peak for images of this shape, weights of the network in torch included: an estimate, the
    same on every machine.
    """
    weights = sum(v.nbytes for v in (*engine.net.parameters(), *engine.net.buffers()))
    activations = engine.recorded_bytes(shape[2], shape[3], shape[0]) - weights
    return int(LIBRARY_BYTES + 5 * weights + 1.6 * activations)
