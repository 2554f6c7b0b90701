"""A form of `kernels.distance` that was tried for processors and not taken; `kernels.py` measures it.

The division waits until after the product: with M_ij = (Q_i - K_j)^2, s_ij = sum_c M_ij + eps > 0 and
A_i = W1 diag V_i + b1 1^T

    ReLU(W1 (M_ij / s_ij * V_i) + b1) = ReLU(A_i M_ij + eps b1) / s_ij

so that rows of ones below A_i give s_ij in the same product, and M_ij is never divided.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from labelscape.nets.kernels.distance import CHUNK_BYTES, EPS

ROWS = 16
"""Rows of ones: one would do, and sizes that are no multiple of 16 cost more than the rest of them."""


def sum_from_product(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`relation_sum` with "dbs", float32 on a processor."""
    return SumFromProduct.apply(query, key, value, weight, bias)


def chunks(key: Tensor, weight: Tensor) -> list[slice]:
    images, channels, pixels = key.shape
    queries = max(1, CHUNK_BYTES["cpu"] // (4 * images * max(channels, len(weight)) * pixels))
    return [slice(first, first + queries) for first in range(0, pixels, queries)]


# fmt: off
class SumFromProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, weight, bias)
        images, outputs, pixels = len(key), len(weight), key.shape[2]
        sums = value.new_empty(images, pixels, outputs)
        least = -EPS * bias[:, None]
        for chunk in chunks(key, weight):
            distance = (query[..., chunk].mT[..., None] - key[:, None]).square_()  # (N, m, C, P)
            rows = weight.new_ones(images, distance.shape[1], outputs + ROWS, weight.shape[1])
            rows[:, :, :outputs] = (weight * value[..., chunk].mT[..., None, :]).add_(bias[:, None])
            product = rows @ distance                                          # (N, m, C' + 16, P)
            share = product[:, :, outputs].add(EPS).reciprocal_()              # (N, m, P)  1 / s
            hidden = product[:, :, :outputs]
            # max(x, -eps b) + eps b is ReLU(x + eps b); what is added waits until after the sum.
            hidden = torch.maximum(hidden, least.expand_as(hidden), out=hidden).mul_(share[:, :, None])
            sums[:, chunk] = hidden.sum(-1).add_(share.sum(-1, keepdim=True) * (EPS * bias))
        return sums.mT

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, weight, bias = ctx.saved_tensors
        to_key, to_weight, to_bias = torch.zeros_like(key), torch.zeros_like(weight), torch.zeros_like(bias)
        to_query, to_value = torch.empty_like(query), torch.empty_like(value)
        for chunk in chunks(key, weight):
            difference = query[..., chunk].mT[..., None] - key[:, None]        # (N, m, C, P)
            distance = difference.square()
            share = distance.sum(-2, keepdim=True).add_(EPS).reciprocal_()     # (N, m, 1, P)  1 / s
            own = value[..., chunk].mT[..., None, :]                           # (N, m, 1, C)
            of_sum = gradient[..., chunk].mT[..., None]                        # (N, m, C', 1)
            per_query = weight * own                                           # (N, m, C', C)
            active = ((per_query + bias[:, None]) @ distance).gt_(-EPS * bias[:, None])
            to_bias += (of_sum * active.sum(-1, keepdim=True)).sum((0, 1, 3))
            active.mul_(share)
            to_per_query = of_sum * (active @ distance.mT)                     # (N, m, C', C)
            to_weight += (to_per_query * own).sum((0, 1))
            to_value[..., chunk] = (to_per_query * weight).sum(-2).mT
            to_distance = (per_query * of_sum).mT @ active                     # (N, m, C, P)
            to_share = distance.mul_(to_distance).sum(-2, keepdim=True).mul_(share)
            to_difference = to_distance.sub_(to_share).mul_(difference)
            to_query[..., chunk] = 2 * to_difference.sum(-1).mT
            to_key -= 2 * to_difference.sum(1)
        return to_query, to_key, to_value, to_weight, to_bias
# fmt: on
