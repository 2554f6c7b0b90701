"""A 3 x 3 convolution of a map that was doubled by nearest neighbour and joined with another one, without the
doubled map and without the joined one (the decoder of a U-Net).

Of the three rows that a kernel covers two are the same row of the small map, and so are two of its columns:
each of the four pixels that one cell becomes is a 2 x 2 convolution of the small map, of sums of the kernel's
numbers. That is four products for nine. All four together are the transposed convolution with stride 2 of the
4 x 4 kernel that is the 3 x 3 one spread over 2 x 2 pixels:

    rows of the 3 x 3 kernel   k0 k1 k2
    of the 4 x 4 kernel        k2, k1 + k2, k0 + k1, k0

Share of the plain form's time of a whole network on ResNet-18, by `taskset -c 0 env OMP_NUM_THREADS=1 python
benchmarks/kernels.py "upsampled smp/Unet" "upsampled smp/UnetPlusPlus" --rounds 5` with --side 256, 512 and
1152, once on a quiet machine: Unet 0.93, 0.83 and 0.74, UnetPlusPlus 0.89, 0.76 and 0.74; memory 1.27, 0.90
and 0.84, and 1.23, 0.54 and 0.75. In OpenVINO 0.83 for a Unet at 1152, in bfloat16 too. Four convolutions of
2 x 2 whose results were put into place took 0.96, 0.81 and 0.78 of the plain form's time.

Symbols   N images  C channels  h x w cells of the small map, which become 2h x 2w pixels
"""

from __future__ import annotations

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.nets.kernels.fusion import is_inference
from labelscape.nets.kernels.stacks import format_of

CELLS = 512
"""Of all images together: with half as many the sums of the kernel take as long as they save (ours)."""


def saves(conv: nn.Module, low: Tensor) -> bool:
    """Is this form that of `conv`, and faster, for a small map such as `low`? Measured on x86 processors in
    full precision with channels last, where oneDNN has transposed convolutions, and in OpenVINO, which traces
    networks; used nowhere else.
    """
    plain = type(conv) is nn.Conv2d and conv.kernel_size == (3, 3) and conv.padding == (1, 1)
    plain = plain and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    if not plain or conv.padding_mode != "zeros" or low.dtype != torch.float32:
        return False
    if torch.jit.is_tracing():
        return not torch.is_grad_enabled()
    if not is_inference(low) or low.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    enough = low.shape[0] * low.shape[2] * low.shape[3] >= CELLS
    return enough and format_of(low) == torch.channels_last and _has_transposed()


@cache
def _has_transposed() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def upsampled_convolution(low: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 3 x 3 convolution, padded by one zero, of `low` (N, C, h, w) doubled by nearest neighbour, with the
    channels of `other` (N, C', 2h, 2w) after its own: `weight` (K, C + C', 3, 3), `bias` (K,) ->
    (N, K, 2h, 2w).
    """
    channels = low.shape[1]
    kernel = spread(weight[:, :channels])
    if other is None:
        return F.conv_transpose2d(low, kernel, bias, stride=2, padding=1)
    made = F.conv_transpose2d(low, kernel, stride=2, padding=1)
    rest = weight[:, channels:].contiguous(memory_format=format_of(weight))
    return made.add_(F.conv2d(other, rest, bias, padding=1))


def spread(weight: Tensor) -> Tensor:
    """3 x 3 kernels (K, C, 3, 3) -> those of the transposed convolution (C, K, 4, 4)."""
    # Rows and columns first: sums are of whole stretches of memory, and oneDNN takes what comes out as it is.
    made = weight.permute(2, 3, 1, 0).contiguous()
    for axis in (0, 1):
        first, middle, last = made.unbind(axis)
        made = torch.stack([last, middle + last, first + middle, first], axis)
    return made.permute(2, 3, 0, 1)
