"""A checkpoint's network as other programs run it: from the scene's pixels to calibrated probabilities."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from labelscape.checkpoint import Checkpoint
from labelscape.scoring.engines import TorchEngine, predicted
from labelscape.scoring.onnx_graph import with_plain_pools


class Graph(nn.Module):
    """Images (N, B, H, W) float32, H and W multiples of the stride -> probabilities (N, K, H, W) float32.

    scaling  of `exported.SCALINGS`: what the images hold
    half     compute in float16; scaling and softmax stay in float32
    """

    def __init__(self, engine: TorchEngine, checkpoint: Checkpoint, scaling: str, half: bool = False) -> None:
        super().__init__()
        # A copy: half precision and other forms of layers must not reach the engine it is compared with.
        self.net = with_plain_pools(copy.deepcopy(engine.net))
        self.head, self.half, self.temperature = engine.head, half, checkpoint.temperature
        if half:
            self.net.half()
        self.scaling = scaling
        mean, std = scaling_of(checkpoint)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def scaled(self, image: Tensor) -> Tensor:
        """What the network reads, of what the graph is given."""
        if self.scaling == "outside":
            return image
        return ((image * 255 if self.scaling == "unit" else image) - self.mean) / self.std

    def forward(self, image: Tensor) -> Tensor:
        scaled = self.scaled(image)
        logits = predicted(self.net, scaled.half() if self.half else scaled, self.head).float()
        return (logits / self.temperature if self.temperature != 1 else logits).softmax(1)


def scaling_of(checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each band, (1, B, 1, 1) float32, as `scorer.normalise` uses them."""
    mean, std = (np.array(column, np.float32) for column in zip(*checkpoint.contract.normalisation))
    std = np.where(std > 0, std, 1).astype(np.float32)  # a constant band is centred and not scaled
    return tuple(torch.from_numpy(values).reshape(1, -1, 1, 1) for values in (mean, std))
