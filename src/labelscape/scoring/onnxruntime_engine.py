"""onnxruntime: networks of checkpoints on the CPU, one of the `runtimes`, and the files of `labelscape
export`.

A checkpoint's network is recorded at the shape of the tiles, as for OpenVINO, and computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.exported_formats import session
from labelscape.scoring.arrays import Array, through
from labelscape.scoring.machine import threads_now

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from labelscape.scoring.engines import TorchEngine
    from labelscape.scoring.proof import Shape

TITLE, EXTRA = "onnxruntime", "onnx"
ENDS: tuple[str, ...] = (".onnx",)
LIBRARY_BYTES = 60 * 2**20
"""Memory of onnxruntime itself and of torch's exporter, before any network."""


def library_version() -> str:
    """Raises PackageNotFoundError where it is not installed."""
    return version("onnxruntime")


def installed_version() -> str | None:
    """None where it, or what writes its files, is not installed."""
    try:
        version("onnx")
        return library_version()
    except PackageNotFoundError:
        return None


def why_not(dtype: torch.dtype | None) -> str:
    """Why it cannot compute in this precision, as a part of a sentence; "" where it can."""
    return "" if dtype is None else "it computes in float32 (`precision='32'`)"


class Converted:
    """A network in onnxruntime; its session is made at the first images, for as many threads as there are
    then: a resumed map sets those that it was begun with.
    """

    def __init__(self, model: bytes, *, half: bool = False) -> None:
        self.model = model
        self._session: tuple[int, Any] | None = None

    def __call__(self, images: Array) -> Array:
        """Images (N, B, H, W) float32 on the CPU -> what the network gives for them."""
        threads = threads_now()
        if self._session is None or self._session[0] != threads:
            self._session = threads, session(self.model, threads)
        run = self._session[1]
        name = run.get_inputs()[0].name
        return through(lambda given: run.run(None, {name: given})[0], images)


def traced(engine: TorchEngine, images: Tensor) -> tuple[bytes, Tensor]:
    """The network as an ONNX file for images of this shape, and torch's answer for these. Raises whatever
    torch raises for what has no form in ONNX.
    """
    from labelscape.scoring.onnx_graph import traced

    return traced(engine, images)


of_any_size = None
"""The file holds the sizes of its images."""


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
