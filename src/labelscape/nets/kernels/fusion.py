"""Channels of several maps weighed, joined and mixed by a 1 x 1 convolution (IFBFNet, eqs. 1, 3 and 4),
without the weighed map and without the joined one.

    K (f (a || b)) + t = (K_a diag f_a) a + (K_b diag f_b) b + t

f has one number for each image and channel, so every image has a matrix of its own, and the sum is a batch of
matrix products, the second added to the first where it stands. Share of the plain form's time, 256 + 128
channels to 128, by `taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/kernels.py "fusion 1x1" --rounds 15`
with --side 128 to 1024, twice on a busy machine: 0.78 and 0.94 with 32 x 32 cells, 0.56 and 0.63 with 64 x
64, 0.52 and 0.53 with 128 x 128, 0.52 and 0.55 with 256 x 256.

Before a 3 x 3, levels are joined and weighed in place (case "fusion 3x3", 256 + 64 channels to 256): 1.02 of
the plain form's time with 32 x 32 cells, 0.98 and 0.99 with 64 x 64, 0.99 with 128 x 128, 0.93 and 0.94 with
256 x 256. A kernel for each image and part was tried instead (case "fusion 3x3 kernels"): of the time in
place 1.06 and 1.08, 1.02 and 1.03, 0.90 to 0.99, 0.96 and 0.98, and 1.04 for two images of 128 x 128 cells.
That is not worth another form.

Symbols   N images  C channels of all parts together  P pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labelscape.nets.blocks import is_recorded
from labelscape.nets.kernels.stacks import format_of

PIXELS = 32 * 32
"""Fewer gain nothing: the matrix of each image is made all the same."""


def is_inference(level: Tensor) -> bool:
    """Is only the value wanted? Shapes alone are counted as the paper has them."""
    return not (torch.is_grad_enabled() or is_recorded() or level.is_meta)


def saves(conv: nn.Conv2d, level: Tensor) -> bool:
    """Is the product faster than `conv` of maps such as `level`? Measured on processors in full precision,
    used nowhere else.
    """
    pointwise = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
    measured = level.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return is_inference(level) and pointwise and measured and level.shape[-2] * level.shape[-1] >= PIXELS


def weighed_pointwise(
    parts: Sequence[Tensor], factors: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`weight` (factors * joined parts) + `bias`: parts (N, ., h, w) and factors (N, C), `weight` (C', C) and
    `bias` (C',) -> (N, C', h, w), in the layout of the parts.
    """
    height, width = parts[0].shape[-2:]
    last = format_of(parts[0]) == torch.channels_last
    kernels = (weight * factors[:, None]).split([part.shape[1] for part in parts], dim=2)  # (N, C', .)
    total: Tensor | None = None
    for part, kernel in zip(parts, kernels, strict=True):
        # Whichever is a view of the part; the result is laid out alike.
        one, other = part.flatten(2), kernel  # (N, ., P)
        one, other = (one.mT, other.mT) if last else (other, one)
        if total is not None:
            total.baddbmm_(one, other)
        elif bias is None:
            total = torch.bmm(one, other)
        else:
            total = torch.baddbmm(bias if last else bias[:, None], one, other)
    total = total.mT if last else total  # (N, C', P)
    return total.unflatten(2, (height, width))
