"""A 3 x 3 convolution of a map that was doubled by nearest neighbour and joined with another one, without the
doubled map and without the joined one (the decoder of a U-Net).

Of the three rows that a kernel covers two are the same row of the small map, and so are two of its columns:
each of the four pixels that one cell becomes is a 2 x 2 convolution of the small map, of sums of the kernel's
numbers. That is four products for nine. All four are made by one convolution, which has an output for each
2 x 2 window, and are added to the convolution of the other map where they belong.

    rows of the kernel   k0 k1 k2
    upper pixel          k0 of the row above, k1 + k2 of its own
    lower pixel          k0 + k1 of its own, k2 of the row below

Share of the plain form's time of a whole network on ResNet-18, by `taskset -c 0 env OMP_NUM_THREADS=1 python
benchmarks/kernels.py "upsampled smp/Unet" "upsampled smp/UnetPlusPlus"` with --side 256, 512 and 1152, on a
busy machine: Unet 0.96, 0.81 and 0.78, UnetPlusPlus 0.96, 0.77 and 0.74; memory 0.88 and 0.61 at 512, 0.83
and 0.75 at 1152. Where freed memory is kept between tiles, Unet 0.86 at 1152.

Symbols   N images  C channels  h x w cells of the small map, which become 2h x 2w pixels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.nets.kernels.fusion import is_inference
from labelscape.nets.kernels.stacks import format_of

CELLS = 512
"""Of all images together: with half as many the sums of the kernel take as long as they save (ours)."""


def saves(conv: nn.Module, low: Tensor) -> bool:
    """Is this form that of `conv`, and faster, for a small map such as `low`? Measured on processors in full
    precision with channels last, used nowhere else.
    """
    plain = type(conv) is nn.Conv2d and conv.kernel_size == (3, 3) and conv.padding == (1, 1)
    plain = plain and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    measured = low.device.type == "cpu" and low.dtype == torch.float32
    measured = measured and not torch.is_autocast_enabled("cpu")
    last = format_of(low) == torch.channels_last and low.shape[0] * low.shape[2] * low.shape[3] >= CELLS
    return is_inference(low) and plain and conv.padding_mode == "zeros" and measured and last


def upsampled_convolution(low: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 3 x 3 convolution, padded by one zero, of `low` (N, C, h, w) doubled by nearest neighbour, with the
    channels of `other` (N, C', 2h, 2w) after its own: `weight` (K, C + C', 3, 3), `bias` (K,) ->
    (N, K, 2h, 2w) with channels last.
    """
    images, channels, height, width = low.shape
    made = weight.shape[0]
    kernel = phases(weight[:, :channels])
    last = torch.channels_last
    if other is None:
        every = None if bias is None else bias.repeat(4)
        four = F.conv2d(low, kernel, every, padding=1)  # (N, 4K, h + 1, w + 1)
        out = torch.empty((images, made, 2 * height, 2 * width), dtype=low.dtype, memory_format=last)
    else:
        four = F.conv2d(low, kernel, padding=1)
        out = F.conv2d(other, weight[:, channels:].contiguous(memory_format=last), bias, padding=1)
        out = out.contiguous(memory_format=last)
    # (N, h, 2, w, 2, K): the four pixels of each cell.
    pixels = out.permute(0, 2, 3, 1).view(images, height, 2, width, 2, made)
    windows = four.permute(0, 2, 3, 1)
    for down in (0, 1):
        for right in (0, 1):
            first = (2 * down + right) * made
            part = windows[:, down : down + height, right : right + width, first : first + made]
            if other is None:
                pixels[:, :, down, :, right] = part
            else:
                pixels[:, :, down, :, right] += part
    return out


def phases(weight: Tensor) -> Tensor:
    """3 x 3 kernels (K, C, 3, 3) -> (4K, C, 2, 2): those of the upper left, upper right, lower left and lower
    right pixel.
    """
    found = [half for rows in _halves(weight, 2) for half in _halves(rows, 3)]
    return torch.cat(found).contiguous(memory_format=torch.channels_last)


def _halves(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """What the first and the second of two pixels have of three numbers along an axis."""
    before, middle, after = weight.unbind(axis)
    return torch.stack([before, middle + after], axis), torch.stack([before + middle, after], axis)
