"""Models that `labelscape export` wrote, run on the CPU by the library of their format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.exported import ExportedNetwork, Facts
from labelscape.scoring import onnxruntime_engine, openvino_engine
from labelscape.scoring.arrays import Array, back_to_logits, library_of
from labelscape.scoring.devices import Processor
from labelscape.scoring.pt2_program import Program
from labelscape.scoring.unfamiliar import refuse_without

if TYPE_CHECKING:
    import torch

Run = Callable[[np.ndarray], np.ndarray]
"""Images (N, B, H, W) float32 as the graph reads them -> probabilities (N, K, H, W) float32."""


@dataclass(frozen=True, eq=False)
class ExportedEngine:
    """An exported network.

    name     of the library that runs it, and its version
    title    what the file is, for messages
    scaling  (mean, std) of its bands, (1, B, 1, 1) float32 each, by which the images of `forward` are brought
             back to what the graph reads
    classes  how many its description has
    """

    name: str
    facts: Facts
    title: str
    run: Run = field(repr=False)
    scaling: tuple[np.ndarray, np.ndarray] = field(repr=False)
    classes: int
    device: Processor = Processor()

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        precision: str = "32",
        both: bool = False,
        unfamiliar: bool = False,
    ) -> ExportedEngine:
        """Raises BadOption for a device or a precision that an exported model does not have, BadFile where
        unfamiliar input is asked for.
        """
        network = checkpoint.exported
        if device not in ("auto", "cpu"):
            raise BadOption(f"`device={device!r}` cannot run {network.title} here; use `device='cpu'`.")
        if precision != "32":
            raise BadOption(
                f"`precision={precision}` has no effect on {network.title}: export it with `dtype='float16'`."
            )
        if unfamiliar:
            refuse_without([checkpoint])
        pairs = checkpoint.contract.normalisation
        mean, std = (np.array(column, np.float32).reshape(1, -1, 1, 1) for column in zip(*pairs))
        name, run = _runner(network, checkpoint.stored.path if checkpoint.stored else "The model")
        scaling = (mean, np.where(std > 0, std, np.float32(1)))
        return cls(name, network.facts, network.title, run, scaling, len(checkpoint.legend))

    @property
    def stride(self) -> int:
        return self.facts.stride

    @property
    def reach(self) -> int | None:
        return self.facts.reach

    @property
    def dtype(self) -> torch.dtype | None:
        return None

    def forward(self, images: Array) -> Array:
        """(N, B, H, W) float32, normalised -> the logarithm of calibrated probabilities (N, K, H, W)."""
        if isinstance(images, np.ndarray):
            return back_to_logits(self._probabilities(images))
        # Beside a network of torch, with which it is averaged.
        return back_to_logits(library_of(images).from_numpy(self._probabilities(images.numpy())))

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        height, width = images.shape[-2:]
        # As the network pads in torch: edge pixels repeated at the right and bottom.
        down, right = self._missing(height), self._missing(width)
        padded = np.pad(images, ((0, 0), (0, 0), (0, down), (0, right)), "edge") if down or right else images
        found = self.run(self._as_read(padded))
        # What a graph does not say of itself before it is run: a class more would be mapped without a name.
        if found.shape != (len(padded), self.classes, *padded.shape[-2:]):
            raise BadFile(
                f"This {self.title.partition(' ')[2]} gives {found.shape} for {padded.shape}: it is not the "
                f"one of {self.classes} classes that its description tells of. Export it again."
            )
        return found[..., :height, :width]

    def _missing(self, side: int) -> int:
        """Pixels that a side lacks. Raises BadInput for more than the model takes."""
        size = self.facts.size
        if size is None:
            return -side % (self.facts.pads_to or self.facts.stride)
        if side > size:
            raise BadInput(
                f"This {self.title.partition(' ')[2]} takes {size} x {size} pixels, and was given {side}: "
                "leave `tile_size` out, or export it for images of any size (labelscape export "
                "--to onnx --dynamic)."
            )
        return size - side

    def _as_read(self, images: np.ndarray) -> np.ndarray:
        if self.facts.normalise == "outside":
            return images
        mean, std = self.scaling
        raw = images * std
        raw += mean
        return raw / 255 if self.facts.normalise == "unit" else raw

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        return self.facts.peak_bytes(height * width * images)


def _runner(network: ExportedNetwork, source: str) -> tuple[str, Run]:
    """The library of the network's format, with its version, and a function that runs the network by it;
    `source` names the file. Raises BadFile for a program that holds more than a network.
    """
    if network.kind == "pt2":
        # As a network of torch: no version, which is among the conditions of every map.
        return "torch", Program(network.model, source)
    if network.kind == "openvino":
        model = openvino_engine.loaded((network.model, network.weights))
        return f"openvino {openvino_engine.installed_version()}", openvino_engine.Converted(model)
    name = f"onnxruntime {onnxruntime_engine.library_version()}"
    return name, onnxruntime_engine.Converted(network.model)
