"""The only road from pixels to class probabilities: normalise, pad, run the network, soften.

Training, evaluation and mapping prepare pixels with `normalise`; evaluation and mapping ask `Scorer.score`.
Nobody else scales, pads or flips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.symmetry import SYMMETRIES, turned, turned_back

PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def normalise(
    pixels: np.ndarray, valid: np.ndarray, normalisation: tuple[tuple[float, float], ...]
) -> Tensor:
    """(B, H, W) in the scene's units -> (B, H, W) float32 as networks see it; invalid pixels become 0, the
    mean.
    """
    mean, std = (np.array(column, np.float32).reshape(-1, 1, 1) for column in zip(*normalisation))
    scaled = torch.from_numpy(pixels.astype(np.float32))
    scaled.sub_(torch.from_numpy(mean)).div_(torch.from_numpy(np.where(std > 0, std, 1).astype(np.float32)))
    if not valid.all():
        scaled[:, torch.from_numpy(~valid)] = 0
    return scaled


def build(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network with its weights, in eval mode on the CPU."""
    net = create_model(
        checkpoint.network,
        in_channels=len(checkpoint.bands),
        classes=len(checkpoint.legend),
        **checkpoint.options,
    )
    net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in checkpoint.weights.items()})
    return net.eval()


def state_arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    """A network's state as a checkpoint holds it."""
    return {key: value.detach().cpu().numpy().copy() for key, value in net.state_dict().items()}


def pick_device(device: str = "auto") -> torch.device:
    """`auto` takes the first GPU if there is one. Raises BadOption for a device this machine lacks."""
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device.split(":")[0] not in ("cpu", "cuda", "mps"):  # torch itself would answer with twenty names
        raise UnknownName("device", device, ("auto", "cpu", "cuda", "cuda:1", "mps"))
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BadOption(
            f"The device {device!r} cannot be used here ({str(error).splitlines()[0]}). Try --device cpu."
        ) from error
    return chosen


@dataclass(frozen=True)
class Scorer:
    """One checkpoint made ready to score, or several whose probabilities are averaged: their networks on a
    device.
    """

    checkpoint: Checkpoint
    """The first one; all have its bands and classes."""
    net: Network
    device: torch.device
    dtype: torch.dtype | None = None
    protocol: Protocol = Protocol()
    others: tuple[Scorer, ...] = ()

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint | Sequence[Checkpoint],
        *,
        device: str = "auto",
        precision: str = "32",
        protocol: Protocol = Protocol(),
    ) -> Scorer:
        """Raises BadOption for a device or precision there is not, BadInput where several checkpoints do
        not answer the same question.
        """
        if precision not in PRECISIONS:
            raise BadOption(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}.")
        checkpoint, *others = [checkpoint] if isinstance(checkpoint, Checkpoint) else checkpoint
        for other in others:
            for what, one, two in (
                ("bands", checkpoint.bands, other.bands),
                ("classes", checkpoint.legend.names, other.legend.names),
            ):
                if list(one) != list(two):
                    raise BadInput(
                        f"Models that are averaged need the same {what}; the first has {' '.join(one)}, "
                        f"another {' '.join(two)}."
                    )
        where = pick_device(device)
        # Convolutions on the CPU are 1.1 to 1.3 times faster with channels last; the values are the same up
        # to rounding.
        net = build(checkpoint).to(where, memory_format=torch.channels_last)
        more = tuple(cls.of(other, device=device, precision=precision, protocol=protocol) for other in others)
        return cls(checkpoint, net, where, PRECISIONS[precision], protocol, more)

    @property
    def reach(self) -> int | None:
        """How far a pixel's answer looks, in pixels of the scene; None where a tile is always seen as a
        whole.
        """
        reaches = [member.net.reach for member in (self, *self.others)]
        # Resizing moves every pixel's sampling points with the tile's size: no halo makes that exact.
        return None if None in reaches or self.protocol.scales != (1.0,) else max(reaches)

    @property
    def stride(self) -> int:
        return math.lcm(*(member.net.stride for member in (self, *self.others)))

    def prepare(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> list[Tensor]:
        """(B, H, W) in the scene's units, valid (H, W) bool -> (1, B, H, W) float32 on the CPU for each
        network, as it reads it.
        """
        if pixels.ndim != 3 or len(pixels) != len(self.checkpoint.bands):
            bands = " ".join(self.checkpoint.bands)
            raise BadInput(
                f"The pixels have shape {pixels.shape}; this network reads ({len(self.checkpoint.bands)}, "
                f"H, W): the bands {bands}."
            )
        valid = _all_finite(pixels) if valid is None else valid
        made: dict[tuple, Tensor] = {}
        for member in (self, *self.others):
            scaling = member.checkpoint.contract.normalisation
            if scaling not in made:
                made[scaling] = normalise(pixels, valid, scaling)[None].contiguous(
                    memory_format=torch.channels_last
                )
        return [made[member.checkpoint.contract.normalisation] for member in (self, *self.others)]

    @torch.inference_mode()
    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """What `prepare` gave -> (K, H, W) scores whose softmax is the answer, on the scorer's device.

        One look of one network: its logits over its temperature. Several: the logarithm of the mean
        probability.
        """
        if not self.others:
            return self._looks(images[0])
        each = [
            member._looks(image).float().softmax(dim=0) for member, image in zip((self, *self.others), images)
        ]
        return (sum(each) / len(each)).clamp_min(1e-20).log()

    def _looks(self, image: Tensor) -> Tensor:
        """(1, B, H, W) -> (K, H, W): all scales and turns of one network, merged."""
        image, protocol, temperature = image.to(self.device), self.protocol, self.checkpoint.temperature
        if protocol.passes == 1 and protocol.scales == (1.0,):
            logits = self._run(image)[0]
            return logits if temperature == 1 else logits / temperature
        total = None
        for scale in protocol.scales:
            size = [max(1, round(side * scale)) for side in image.shape[-2:]]
            resized = (
                image
                if scale == 1
                else F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=scale < 1)
            )
            for which in SYMMETRIES[protocol.tta]:
                logits = turned_back(self._run(turned(resized, which)), which).float() / temperature
                if scale != 1:
                    logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)
                answer = logits if protocol.average == "logits" else logits.softmax(dim=1)
                total = answer if total is None else total.add_(answer)
        mean = total[0] / protocol.passes
        return mean if protocol.average == "logits" else mean.clamp_min(1e-20).log()

    def _run(self, image: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return self.net(image)

    def score(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> Tensor:
        """(B, H, W) in the scene's units, valid (H, W) bool -> (K, H, W) float32 class probabilities on
        the CPU.
        """
        return soften(self.logits(self.prepare(pixels, valid)))


@torch.inference_mode()
def soften(logits: Tensor) -> Tensor:
    """(K, H, W) logits on any device -> float32 probabilities on the CPU."""
    return logits.float().contiguous().softmax(dim=0).cpu()


def predict(
    checkpoint: Checkpoint | Scorer, pixels: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """(B, H, W) array in the scene's own units -> (K, H, W) float32 probabilities, any H and W.

    `valid` (H, W) marks the pixels that hold a measurement; where it is not given, all finite pixels do.
    """
    scorer = checkpoint if isinstance(checkpoint, Scorer) else Scorer.of(checkpoint)
    return scorer.score(np.asarray(pixels), valid).numpy()


def _all_finite(pixels: np.ndarray) -> np.ndarray:
    return np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else np.ones(pixels.shape[1:], bool)
