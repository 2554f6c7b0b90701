"""What several papers' networks share: the network contract, padding, resizing, convolution-norm-activation.

Symbols   N images  B bands  C width  K classes  H x W pixels; x4 is a level at stride 4: (N, ., H/4, W/4)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadInput


class Network(nn.Module):
    """The contract of every network in the catalogue.

    `net(image)`        (N, B, H, W) -> logits (N, K, H, W), any H and W from one stride up, in train and eval
                        mode
    `net.heads(image)`  the same logits under "logits" and, in train mode, the auxiliary output the loss needs
                        ("aux"), each of the image's size
    `net.heads(image, first=n)`  for a network that learns a second task: the first n images are of its own
                        task, the others of the second; that one's logits are under "mate"

    A network implements `scores`, which sees an image already padded to whole strides. Inputs are normalised
    float images.
    """

    in_channels: int
    classes: int
    stride: int
    """The image is padded at the right and bottom (edge pixels repeated) to a multiple of this."""
    reach: int | None
    """How far, in pixels, an output depends on the input; None where it depends on all of it (global
    pooling).
    """

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        """(N, B, H, W), whole strides -> {"logits": (N, K, H, W), ...}."""
        raise NotImplementedError

    def heads(self, image: Tensor, first: int | None = None) -> dict[str, Tensor]:
        """Raises BadInput where images are of a second task that this network does not have."""
        if first not in (None, len(image)):
            raise BadInput(f"{type(self).__name__} has no second head; classmate and dfcnet have one.")
        height, width = image.shape[-2:]
        scores = self.scores(pad_to_multiple(image, self.stride))
        return {name: logits[..., :height, :width] for name, logits in scores.items()}

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)["logits"]


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Inside: no autocast on the tensor's device, which may be one that has none (meta)."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column until H and W are multiples of `stride`; nothing is copied if they
    are.
    """
    down, right = -image.shape[-2] % stride, -image.shape[-1] % stride
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def resize_like(level: Tensor, other: Tensor, *, align_corners: bool = False) -> Tensor:
    """Resize bilinearly to the height and width of `other`. The papers differ in `align_corners`: pass
    theirs.
    """
    if level.shape[-2:] == other.shape[-2:]:
        return level
    return F.interpolate(level, other.shape[-2:], mode="bilinear", align_corners=align_corners)


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias ("same" padding at stride 1), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
