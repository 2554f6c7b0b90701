"""Distance guided channel weighting (DGCW, eqs. 2-5) in memory that does not grow with the square of the
pixels.

The paper writes R_ij = g(f((Q_i - K_j)^2) * V_i) for every pair of pixels i, j and sums over j; g is two 1x1
convolutions (W1, b1), (W2, b2) with a ReLU between. Three tensors of C x P x P would be alive at once: 2.1 GB
each for a 1024 x 2048 image. Two rewritings, both exact, avoid them:

  sum before the second convolution    sum_j (W2 h_ij + b2) = W2 (sum_j h_ij) + P b2,   h_ij = ReLU(W1 (W_ij *
                                       V_i) + b1)
  never weight V                       W1 (W_ij * V_i) = (W1 diag V_i) W_ij, one C x C matrix for each query
                                       i: a batched product

`relation_sum` returns sum_j h_ij, a few queries at a time, and computes its gradient by doing each few again.
The caller applies W2 and P b2. On a GPU the sum may come from one Triton kernel (`distance_triton`).

Divided by their sum, the squared distances could be expanded into matrix products too (q^2 - 2qk + k^2); that
cancels badly in float32 where the mean is larger than the spread, so it is not done.

On a processor the division could wait until after the product, where rows of ones give what to divide by
(`benchmarks/distance_tried.py`). `taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/kernels.py "dgcw 128"
"dgcw 16" --rounds 7`, with --side 800 and with --side 512 --batch 2, twice on a busy machine: with 128
channels 1.12 to 1.19 of the time of a forward pass and 0.87 to 1.05 of that of a step, with 16 channels 1.27
to 1.46 and 0.98 to 1.10. So that is not done either.

Symbols   N images  C channels  P pixels  i query  j partner  m queries at a time; letters in comments as in
          the paper
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from labelscape.errors import UnknownName
from labelscape.nets.blocks import is_any_size, is_recorded, without_autocast
from labelscape.nets.kernels.derivatives import Form, applied

WEIGHTINGS = ("dbs", "softmax", "tanh")
"""f of eq. 3, over channels: divided by the sum (the paper's choice), softmax, element-wise tanh."""

EPS = 1e-6
"""Added to the sum in "dbs", where a query equal to its partner in every channel would be 0/0; its weights
are 0.
"""

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 64 * 2**20}
"""Most that one (m, C, P) tensor takes; about four are alive. Small enough for a processor's cache, large
enough to fill a GPU.
"""


def relation_sum(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    weighting: str = "dbs",
    chunk_bytes: int | None = None,
) -> Tensor:
    """sum_j ReLU(W1 (f((Q_i - K_j)^2) * V_i) + b1), eqs. 2-5 up to the second convolution of g.

    `query`, `key`, `value` (N, C, P); `weight` (C', C) and `bias` (C',) are the first convolution's; -> (N,
      C', P). Half precision is
    raised to float32, inside autocast too, and stays so in the result: the sum has P terms. Recorded for any
    size it takes all queries at once, with tensors of (N, C, P, P), as second derivatives do (see
    `derivatives`). Raises UnknownName for another `weighting`.
    """
    if weighting not in WEIGHTINGS:
        raise UnknownName("weighting", weighting, WEIGHTINGS)
    images, channels, pixels = key.shape
    with without_autocast(query):
        given = (query, key, value, weight, bias)
        inputs = [
            tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in given
        ]
        if is_any_size(pixels):
            return _at_once(*inputs, weighting)
        budget = (
            CHUNK_BYTES.get(query.device.type, CHUNK_BYTES["cuda"]) if chunk_bytes is None else chunk_bytes
        )
        queries = max(
            1, budget // (images * max(channels, weight.shape[0]) * pixels * inputs[0].element_size())
        )
        how = {"weighting": weighting, "queries": queries}
        form = Form(
            partial(_summed, **how), partial(_gradients, **how), partial(_at_once, weighting=weighting)
        )
        return applied(form, *inputs)


def weigh(distance: Tensor, weighting: str) -> tuple[Tensor, Tensor | None]:
    """Eq. 3 over the last but one axis; `distance` is overwritten. -> W, and for "dbs" what it was divided
    by.
    """
    if weighting == "dbs":
        total = distance.sum(-2, keepdim=True).add_(EPS)  # (N, m, 1, P)
        return distance.div_(total), total
    return (distance.softmax(-2) if weighting == "softmax" else distance.tanh_()), None


# fmt: off
def _gradients(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor,
    weighting: str, queries: int,
) -> tuple[Tensor, ...]:
    """Those of `_summed`, for which every chunk is weighed again."""
    to_key, to_weight, to_bias = torch.zeros_like(key), torch.zeros_like(weight), torch.zeros_like(bias)
    to_query, to_value = torch.empty_like(query), torch.empty_like(value)
    for chunk in _chunks(query, queries):
        difference = query[..., chunk].mT[..., None] - key[:, None]        # (N, m, C, P)
        share, total = weigh(difference.square(), weighting)               # (N, m, C, P)  W_ij
        own = value[..., chunk].mT[..., None, :]                           # (N, m, 1, C)  V_i
        per_query = weight * own                                           # (N, m, C', C)  W1 diag V_i
        # (N, m, C', P)  where the ReLU lets through
        active = (per_query @ share).add_(bias[:, None]).gt_(0)
        to_hidden = active.mul_(gradient[..., chunk].mT[..., None])        # (N, m, C', P)
        to_bias += to_hidden.sum((0, 1, 3))
        to_per_query = to_hidden @ share.mT                                # (N, m, C', C)
        to_weight += (to_per_query * own).sum((0, 1))
        to_value[..., chunk] = (to_per_query * weight).sum(-2).mT
        # (N, m, C, P)
        to_distance = _through_weighing(per_query.mT @ to_hidden, share, total, weighting)
        to_difference = to_distance.mul_(difference).mul_(2)
        to_query[..., chunk] = to_difference.sum(-1).mT
        to_key -= to_difference.sum(1)
    return to_query, to_key, to_value, to_weight, to_bias
# fmt: on


def _summed(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str, queries: int
) -> Tensor:
    """`_forward`, or the Triton kernel where it is known to give the same."""

    def for_some(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _forward(query, key, value, weight, bias, weighting, queries)

    kernel = _kernel_for(key)
    if kernel is not None and kernel.fits(key, weight, weighting, EPS, for_some):
        return kernel.fused_sum(query, key, value, weight, bias, weighting, EPS)
    return _forward(query, key, value, weight, bias, weighting, queries)


def _kernel_for(tensor: Tensor) -> ModuleType | None:
    """The Triton kernel, for float32 on a GPU where Triton is installed."""
    if not tensor.is_cuda or tensor.dtype != torch.float32 or is_recorded():
        return None
    # Here: Triton takes a second to import, and torch for processors comes without it.
    try:
        from labelscape.nets.kernels import distance_triton
    except ImportError:
        return None
    return distance_triton


# fmt: off
def _forward(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str, queries: int
) -> Tensor:
    # Filled in place: a small result kept after every chunk would pin the heap between them (1.7 GB for 2048
    # pixels, now 12 MB).
    sums = value.new_empty(value.shape[0], value.shape[2], weight.shape[0])    # (N, P, C')
    for chunk in _chunks(query, queries):
        distance = (query[..., chunk].mT[..., None] - key[:, None]).square_()  # (N, m, C, P)  eq. 2
        share, _ = weigh(distance, weighting)                                  # (N, m, C, P)  eq. 3
        per_query = weight * value[..., chunk].mT[..., None, :]                # (N, m, C', C)  W1 diag V_i
        # (N, m, C', P)  first half of eq. 4
        hidden = (per_query @ share).add_(bias[:, None]).relu_()
        sums[:, chunk] = hidden.sum(-1)                                        # (N, m, C')  eq. 5
    return sums.mT                                                             # (N, C', P)
# fmt: on


def _at_once(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str
) -> Tensor:
    """`_forward` without a loop."""
    distance = (query.mT[..., None] - key[:, None]).square()  # (N, P, C, P)  eq. 2
    share, _ = weigh(distance, weighting)  # (N, P, C, P)  eq. 3
    per_query = weight * value.mT[..., None, :]  # (N, P, C', C)  W1 diag V_i
    return (per_query @ share + bias[:, None]).relu().sum(-1).mT  # (N, C', P)  eqs. 4, 5


def _through_weighing(to_share: Tensor, share: Tensor, total: Tensor | None, weighting: str) -> Tensor:
    """The gradient of eq. 3: from that of W to that of M. Both tensors are overwritten."""
    if weighting == "tanh":
        return to_share.mul_(share.square_().neg_().add_(1))
    to_share.sub_((to_share * share).sum(-2, keepdim=True))
    return to_share.mul_(share) if total is None else to_share.div_(total)


def _chunks(query: Tensor, queries: int) -> Iterator[slice]:
    for first in range(0, query.shape[-1], queries):
        yield slice(first, first + queries)
