"""OpenVINO: networks on the CPU, one of the `runtimes`.

A network is traced at the shape of the tiles. Where tiles of several shapes would take much memory one
network predicts them all (`of_any_size`); of some networks the trace holds sizes of padding and resizing as
numbers, which the comparison finds out. Torch predicts all other shapes. It is compared in float32, in which
it also runs unless bfloat16 is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.errors import LabelscapeError, first_line
from labelscape.exported_formats import openvino_core as core
from labelscape.scoring.arrays import Array, through
from labelscape.scoring.machine import threads_now

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from labelscape.scoring.engines import TorchEngine
    from labelscape.scoring.proof import Shape

TITLE, EXTRA = "OpenVINO", "openvino"
ENDS: tuple[str, ...] = (".xml", ".bin")
LIBRARY_BYTES = 110 * 2**20
"""Memory of OpenVINO itself, before any network."""


def installed_version() -> str | None:
    """None where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def why_not(dtype: torch.dtype | None) -> str:
    """Why it cannot compute in this precision, as a part of a sentence; "" where it can."""
    if dtype is not None and str(dtype) != "torch.bfloat16":
        return "it computes in float32 or bfloat16 (`precision='32'`, `precision='bf16'`)"
    if dtype is None:
        return ""
    try:
        return "" if has_bfloat16() else "this processor has no bfloat16 (`precision='32'`)"
    except LabelscapeError as error:  # installed, and cannot be loaded
        return f"it cannot be asked what this processor can do ({first_line(error.__cause__ or error, 120)})"


@cache
def has_bfloat16() -> bool:
    """Does this processor multiply in bfloat16? Others would imitate it, more slowly than float32."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Converted:
    """A network in OpenVINO; compiled at the first of them. `half` computes in
    bfloat16 where a layer allows it.
    """

    def __init__(self, model: Any, *, half: bool = False) -> None:
        self.model, self.half = model, half
        self._compiled: tuple[int, Any] | None = None

    def __call__(self, images: Array) -> Array:
        """Images (N, B, H, W) float32 on the CPU -> logits (N, K, H, W)."""
        # As many threads as there are now: a resumed map sets those that it was begun with.
        threads = threads_now()
        if self._compiled is None or self._compiled[0] != threads:
            self._compiled = threads, _compiled(self.model, threads, self.half)
        return through(lambda given: self._compiled[1](given)[0], images)


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


def traced(engine: TorchEngine, images: Tensor) -> tuple[Any, Tensor]:
    """The network as OpenVINO's model for images of this shape, and torch's answer for these: tracing runs
    the network once. Raises whatever torch and OpenVINO raise for what cannot be traced or converted.
    """
    from labelscape.scoring.openvino_graph import traced

    return traced(engine, images)


def of_any_size(model: Any) -> Any:
    """The same model, for images of any number, height and width: it keeps work space for the largest alone.
    Raises what OpenVINO raises where the sizes do not allow it.
    """
    model.reshape([-1, model.inputs[0].get_partial_shape()[1].get_length(), -1, -1])
    return model


def saved(model: Any, first: Path) -> None:
    """Write a network as files that differ in their ends, `ENDS`."""
    import openvino

    # As it is: weights would become half precision.
    openvino.save_model(model, first, compress_to_fp16=False)


def loaded(parts: Sequence[bytes]) -> Any:
    """The network of such files, in the order of `ENDS`."""
    return core().read_model(model=parts[0], weights=parts[1])


def peak_bytes(engine: TorchEngine, shape: Shape) -> int:
    """Memory at the peak for images of this shape, weights of the network in torch included: an estimate, the
    same on every machine.

    Its own weights, the converted and the compiled ones, and those that are arranged anew while it compiles;
    activations that are not shared as tightly as in torch (measured 1.4 to 1.5 times).
    """
    weights = sum(v.nbytes for v in (*engine.net.parameters(), *engine.net.buffers()))
    activations = engine.recorded_bytes(shape[2], shape[3], shape[0]) - weights
    return int(LIBRARY_BYTES + 4 * weights + 1.6 * activations)
