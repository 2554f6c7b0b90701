"""Engines beside torch: libraries that a network is converted for, one module each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from labelscape.scoring import onnxruntime_engine, openvino_engine
from labelscape.scoring.proof import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from labelscape.scoring.engines import TorchEngine


class Run(Protocol):
    """A converted network: images (N, B, H, W) float32 of one shape -> logits (N, K, H, W)."""

    def __call__(self, images: Tensor) -> Tensor: ...


class Runtime(Protocol):
    """What a module of a library has.

    TITLE  as messages name it
    EXTRA  of the package, with which it is installed
    ENDS   of the files of a converted network
    of_any_size  a converted network of one shape -> one that takes images of any; None where none can
    """

    TITLE: str
    EXTRA: str
    ENDS: tuple[str, ...]
    of_any_size: Callable[[Any], Any] | None

    def installed_version(self) -> str | None: ...
    def why_not(self, dtype: torch.dtype | None) -> str: ...
    def traced(self, engine: TorchEngine, images: Tensor) -> tuple[Any, Tensor]: ...
    def Converted(self, model: Any, *, half: bool = False) -> Run: ...
    def saved(self, model: Any, first: Path) -> None: ...
    def loaded(self, parts: Sequence[bytes]) -> Any: ...
    def peak_bytes(self, engine: TorchEngine, shape: Shape) -> int: ...


RUNTIMES: Mapping[str, Runtime] = {"openvino": openvino_engine, "onnxruntime": onnxruntime_engine}
"""In the order in which `auto` takes the first that is installed: OpenVINO also knows bfloat16."""


def installed() -> list[str]:
    """The engines that are installed here, torch first."""
    return ["torch", *(name for name, one in RUNTIMES.items() if one.installed_version() is not None)]


def padded(shape: Sequence[int], step: int) -> Shape:
    """The shape of images whose height and width are brought to a multiple of `step`."""
    images, bands, *size = shape
    return (images, bands, *(side + -side % step for side in size))


@dataclass(frozen=True, eq=False)
class ConvertedEngine:
    """A network whose images of some shapes are predicted by another library, all others by torch.

    step  images are padded to a multiple of it, as the network in torch pads them: tiles at a scene's border,
          which are cut to any size, have few shapes then
    """

    torch: TorchEngine
    runtime: str
    converted: Mapping[Shape, Run] = field(repr=False)
    step: int = 1

    @property
    def name(self) -> str:
        # As a map records it: another version rounds otherwise.
        return f"{self.runtime} {RUNTIMES[self.runtime].installed_version()}"

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
        from labelscape.nets.blocks import pad_to_multiple

        run = self.converted.get(padded(images.shape, self.step))
        if run is None:
            return self.torch.forward(images)
        height, width = images.shape[-2:]
        return run(pad_to_multiple(images, self.step))[..., :height, :width]

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        # Torch's: the tiles of a map must not depend on the engine.
        return self.torch.peak_bytes(height, width, images)
