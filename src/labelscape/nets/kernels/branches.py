"""A weighted sum of parallel convolutions (MSWBN, eqs. 1-6) with fewer products than its branches have.

The paper weights n branches by W^h = softmax(GAP(conv(L_h))), for each image anew, and adds them: sum_k c_k
O_k(F). Two rewritings, both exact:

  merged kernels     where each branch is linear (normalisation with known statistics is), the weighted sum of
                     kernels of one dilation is one kernel of the largest size, made for each image: 147 taps
                     instead of 232 for the paper's eight operations
  mean of a          the mean over all places is the sum of kernel x (sum of what its tap sees) / places: nine
  convolution        sums of the level, which leave out a row or column at the border

Symbols   N images  C width  n branches  k branch; c_k of one image: a number  t tap
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.nets.blocks import without_autocast

CELLS_PER_TAP = 60
"""A kernel is made for every image, whatever its size: making one tap costs as much as applying it to so many
cells (measured on a processor).
"""


class Linear(NamedTuple):
    """A branch of the same size as its input: scale * (weight * F) + shift; `weight` (C', C, k, k), k odd.

    Scale and shift are (C',), or None for 1 and 0.
    """

    weight: Tensor
    dilation: int
    scale: Tensor | None
    shift: Tensor | None


def saves(branches: Sequence[tuple[int, int]], cells: int) -> bool:
    """Do merged kernels pay for an image of so many cells? `branches` are sizes and dilations."""
    taps = sum(size**2 for size, _ in branches)
    merged = sum(max(s for s, d in branches if d == one) ** 2 for one in {d for _, d in branches})
    return (taps - merged) * cells > CELLS_PER_TAP * taps


def weighted_sum(features: Tensor, coefficients: Tensor, branches: Sequence[Linear]) -> Tensor:
    """sum_k c_k branch_k(features): (N, C, h, w) and (N, n) -> (N, C', h, w)."""
    return torch.cat(
        [
            _of_one(features[n : n + 1], coefficient.unbind(), branches)
            for n, coefficient in enumerate(coefficients)
        ]
    )


def _of_one(features: Tensor, coefficients: Sequence[Tensor], branches: Sequence[Linear]) -> Tensor:
    shift = None
    groups: dict[int, list[tuple[Tensor, Linear]]] = {}
    for c, branch in zip(coefficients, branches, strict=True):
        groups.setdefault(branch.dilation, []).append((c, branch))
        if branch.shift is not None:
            shift = c * branch.shift if shift is None else shift + c * branch.shift  # (C',)
    total = None
    for dilation, members in groups.items():
        kernel = _merged(members)
        pad = dilation * (kernel.shape[-1] // 2)
        # The shift is added once, by the first convolution.
        bias = None if shift is None or total is not None else shift.to(kernel.dtype)
        term = F.conv2d(features, kernel, bias, padding=pad, dilation=dilation)  # (1, C', h, w)
        total = term if total is None else total + term
    return total


def _merged(members: Sequence[tuple[Tensor, Linear]]) -> Tensor:
    """sum_k c_k scale_k weight_k of kernels of one dilation, centred: (C', C, s, s), s the largest."""
    size = max(branch.weight.shape[-1] for _, branch in members)
    kernel = None
    for c, branch in sorted(members, key=lambda member: -member[1].weight.shape[-1]):
        factor = c if branch.scale is None else (c * branch.scale)[:, None, None, None]
        if kernel is None:
            kernel = factor * branch.weight
        else:
            inset = (size - branch.weight.shape[-1]) // 2
            kernel[..., inset : size - inset, inset : size - inset].addcmul_(
                branch.weight, factor.expand_as(branch.weight)
            )
    return kernel


def mean_of_convolution(level: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The mean over all places of a 3 x 3 convolution padded with zeros: (N, C, h, w) -> (N, n).

    In float32 at least, inside autocast too: the sums have h w terms.
    """
    height, width = level.shape[-2:]
    with without_autocast(level):
        if level.dtype in (torch.float16, torch.bfloat16):
            level, weight, bias = level.float(), weight.float(), bias.float()
        rows, columns = _seen(height, level), _seen(width, level)
        # Two matrix products, so that the gradient is two as well; slices of the border would each make a
        # whole map of zeros there. Along the axis in memory first: nothing is copied.
        if level.is_contiguous(memory_format=torch.channels_last):
            sums = (rows @ level.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (width, -1))  # (N, 3, w, C)
            sums = (columns @ sums).permute(0, 3, 1, 2)
        else:
            sums = rows @ (level @ columns.T)
        return torch.einsum("ncyx,kcyx->nk", sums, weight) / (height * width) + bias  # sums (N, C, 3, 3)


def _seen(length: int, like: Tensor) -> Tensor:
    """(3, length): the places that each of three taps sees while the kernel moves from end to end."""
    seen = like.new_ones(3, length)
    seen[0, -1] = seen[2, 0] = 0
    return seen
