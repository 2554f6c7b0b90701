"""onnxruntime: models that `labelscape export` wrote, run on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadInput, BadOption
from labelscape.exported import Facts, session
from labelscape.scoring.engines import back_to_logits
from labelscape.scoring.familiar import refuse_without


@dataclass(frozen=True, eq=False)
class OnnxEngine:
    """An exported network. `scaling` is (mean, std) of its bands, (1, B, 1, 1) each, by which the images of
    `forward` are brought back to what the graph reads.
    """

    facts: Facts
    model: bytes = field(repr=False)
    scaling: tuple[Tensor, Tensor] = field(repr=False)
    _sessions: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        precision: str = "32",
        both: bool = False,
        unfamiliar: bool = False,
    ) -> OnnxEngine:
        """Raises BadOption for a device or a precision that an exported model does not have, BadFile where
        unfamiliar input is asked for.
        """
        if device not in ("auto", "cpu"):
            raise BadOption(f"`device={device!r}` cannot run an ONNX model here; use `device='cpu'`.")
        if precision != "32":
            raise BadOption(
                f"`precision={precision}` has no effect on an ONNX model: export it with `dtype='float16'`."
            )
        if unfamiliar:
            refuse_without([checkpoint])
        pairs = checkpoint.contract.normalisation
        mean, std = (torch.tensor(column).reshape(1, -1, 1, 1) for column in zip(*pairs))
        network = checkpoint.exported
        return cls(network.facts, network.model, (mean, torch.where(std > 0, std, 1)))

    @property
    def name(self) -> str:
        return f"onnxruntime {version('onnxruntime')}"

    @property
    def stride(self) -> int:
        return self.facts.stride

    @property
    def reach(self) -> int | None:
        return self.facts.reach

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype | None:
        return None

    def forward(self, images: Tensor) -> Tensor:
        """(N, B, H, W) float32, normalised -> the logarithm of calibrated probabilities (N, K, H, W)."""
        height, width = images.shape[-2:]
        # As the network pads in torch: edge pixels repeated at the right and bottom.
        down, right = self._missing(height), self._missing(width)
        padded = F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images
        given = self._as_read(padded).contiguous().numpy()
        found = self._session().run(["probabilities"], {"image": given})[0]
        return back_to_logits(torch.from_numpy(found)[..., :height, :width])

    def _missing(self, side: int) -> int:
        """Pixels that a side lacks. Raises BadInput for more than the model takes."""
        size = self.facts.size
        if size is None:
            return -side % self.facts.stride
        if side > size:
            raise BadInput(
                f"This ONNX model takes {size} x {size} pixels, and was given {side}: leave `tile_size` and "
                "`scales` out, or export it for images of any size (labelscape export --dynamic)."
            )
        return size - side

    def _as_read(self, images: Tensor) -> Tensor:
        if self.facts.normalise == "outside":
            return images
        mean, std = self.scaling
        raw = images * std + mean
        return raw / 255 if self.facts.normalise == "unit" else raw

    def _session(self) -> Any:
        # As many threads as torch has: a resumed map sets those that it was begun with.
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = session(self.model, threads)
        return self._sessions[threads]

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        return self.facts.peak_bytes(height * width * images)
