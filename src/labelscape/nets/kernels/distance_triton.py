"""The sum of `distance` in one Triton kernel for GPUs: a block of pairs is compared, weighed, multiplied and
added up on the chip, and only the sums over j are written.

It is not trusted: for each new shape on each device `fits` first compares it there with the torch form, on
random numbers, and what deviates or fails is not used. On an H100 it takes 0.24 of the torch form's time for
1,024 pixels and 128 channels (`benchmarks/gpu.py`), and no memory beyond its result.

With M_ij = (Q_i - K_j)^2 and W_ij = M_ij / s_ij, s_ij > 0, the division waits until after the product:

    W1 (W_ij * V_i) + b1 = W1 (M_ij * V_i) / s_ij + b1

so that channels come a few at a time. Softmax is exp(M_ij - max) divided by its sum; tanh has s = 1.

Symbols   as in `distance`; a program sums for one query i of one image, and for up to 128 outputs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from labelscape.errors import first_line

PARTNERS, OUTPUTS = 64, 128
"""Pixels j and (at most) outputs that a program has on the chip at once."""

AMPERE = {"CHANNELS": 32, "PRODUCT": "tf32x3", "num_warps": 4, "num_stages": 1}
"""Channels at once, and how float32 is multiplied: as three products of numbers rounded to 10 binary digits,
which together keep nearly all 23. On an H100 as right as one product of all digits, in half of its time; the
fastest of 18 settings of these and of the blocks above.
"""
BEFORE = {"CHANNELS": 16, "PRODUCT": "ieee", "num_warps": 8, "num_stages": 1}
"""For cards without rounded products, and for Triton's interpreter. With twice the channels, or with half the
warps, many values go to memory and back (on an H100: 47 ms instead of 2).
"""

CHECKED = 8
"""Queries that `fits` computes in torch too."""

WITHIN = 1e-5
"""Largest deviation of float32 from the torch form in float64, as a share of the largest sum."""

_fitting: dict[tuple, bool] = {}


@triton.jit
def _weights(d, top, WEIGHTING: tl.constexpr):
    """f of eq. 3 before any division; d >= 0."""
    if WEIGHTING == "softmax":
        d = tl.exp(d - top[None, :])
    if WEIGHTING == "tanh":
        # Near 0 the second form loses its digits: 0.35 is where both keep all but the last.
        x = d * d
        near = d * (1 + x * (-1 / 3 + x * (2 / 15 + x * (-17 / 315 + x * (62 / 2835)))))
        far = tl.exp(-2 * d)
        d = tl.where(d < 0.35, near, (1 - far) / (1 + far))
    return d


# fmt: off
@triton.jit
def _sum_over_partners(
    query, key, value, weight, bias, sums, channels, outputs, pixels, eps,
    WEIGHTING: tl.constexpr, CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, PARTNERS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    i, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    query += image * channels * pixels + i
    value += image * channels * pixels + i
    key += image * channels * pixels
    out = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    b = tl.load(bias + out, mask=out < outputs, other=0.0)
    total = tl.zeros((OUTPUTS,), dtype=b.dtype)
    for first in range(0, pixels, PARTNERS):
        j = first + tl.arange(0, PARTNERS)
        top = tl.full((PARTNERS,), float("-inf"), dtype=b.dtype)
        if WEIGHTING == "softmax":
            for start in range(0, channels, CHANNELS):
                c = start + tl.arange(0, CHANNELS)
                here = (c < channels)[:, None] & (j < pixels)[None, :]
                q = tl.load(query + c * pixels, mask=c < channels, other=0.0)
                k = tl.load(key + c[:, None] * pixels + j[None, :], mask=here, other=0.0)
                d = q[:, None] - k
                top = tl.maximum(top, tl.max(tl.where((c < channels)[:, None], d * d, float("-inf")), 0))
        product = tl.zeros((OUTPUTS, PARTNERS), dtype=b.dtype)
        s = tl.zeros((PARTNERS,), dtype=b.dtype)
        for start in range(0, channels, CHANNELS):
            c = start + tl.arange(0, CHANNELS)
            here = (c < channels)[:, None] & (j < pixels)[None, :]
            q = tl.load(query + c * pixels, mask=c < channels, other=0.0)
            v = tl.load(value + c * pixels, mask=c < channels, other=0.0)
            k = tl.load(key + c[:, None] * pixels + j[None, :], mask=here, other=0.0)
            w = tl.load(weight + out[:, None] * channels + c[None, :],
                        mask=(out < outputs)[:, None] & (c < channels)[None, :], other=0.0)
            d = q[:, None] - k                                                 # (c, j)
            m = _weights(d * d, top, WEIGHTING)                                # eqs. 2 and 3
            m = tl.where((c < channels)[:, None], m, 0.0)
            s += tl.sum(m, 0)
            # One rounded product, Triton's default, would lose half of the digits.
            product += tl.dot(w, m * v[:, None], input_precision=PRODUCT)      # (o, j)  W1 (M_ij * V_i)
        if WEIGHTING == "dbs":
            s += eps
        if WEIGHTING == "tanh":
            s = tl.full((PARTNERS,), 1.0, dtype=b.dtype)
        hidden = product * (1.0 / s)[None, :] + b[:, None]
        # Not a maximum, which would hide a nan.
        hidden = tl.where(hidden < 0, 0.0, hidden)                             # first half of eq. 4
        total += tl.sum(tl.where((j < pixels)[None, :], hidden, 0.0), 1)       # eq. 5
    tl.store(sums + image * outputs * pixels + out * pixels + i, total, mask=out < outputs)
# fmt: on


def fused_sum(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor, weighting: str, eps: float
) -> Tensor:
    """`distance.relation_sum` without a gradient: (N, C, P) three times, (C', C) and (C',), all of one dtype
    -> (N, C', P).
    """
    query, key, value, weight, bias = (tensor.contiguous() for tensor in (query, key, value, weight, bias))
    images, channels, pixels = key.shape
    outputs = len(weight)
    sums = value.new_empty(images, outputs, pixels)
    block = min(OUTPUTS, max(16, triton.next_power_of_2(outputs)))
    # Of several GPUs Triton would take the current one.
    with torch.cuda.device_of(key):
        _sum_over_partners[(pixels, triton.cdiv(outputs, block), images)](
            query, key, value, weight, bias, sums, channels, outputs, pixels, eps,
            WEIGHTING=weighting, OUTPUTS=block, PARTNERS=PARTNERS, **_settings(key),
        )  # fmt: skip
    return sums


def _settings(key: Tensor) -> dict[str, int | str]:
    return AMPERE if key.is_cuda and torch.cuda.get_device_capability(key.device) >= (8, 0) else BEFORE


def fits(key: Tensor, weight: Tensor, weighting: str, eps: float, torch_form: Callable[..., Tensor]) -> bool:
    """Does the kernel give on this device, for tensors of these shapes, what torch gives? Tried once, with
    random numbers. A warning says, once a device, that it does not.

    `torch_form(query, key, value, weight, bias)` is the same sum for some of the queries.
    """
    case = (key.device, tuple(key.shape), tuple(weight.shape), weighting)
    if case not in _fitting:
        why = _deviation(key, weight, weighting, eps, torch_form)
        if why and not any(device == key.device and not good for (device, *_), good in _fitting.items()):
            warnings.warn(
                f"DGCW's Triton kernel is not used on {key.device}: {why}. torch computes the same.",
                stacklevel=2,
            )
        _fitting[case] = not why
    return _fitting[case]


def _deviation(
    key: Tensor, weight: Tensor, weighting: str, eps: float, torch_form: Callable[..., Tensor]
) -> str:
    """What is wrong with the kernel; "" where nothing is."""
    (images, channels, pixels), outputs = key.shape, len(weight)
    # Of its own, so that training draws the same numbers with and without the kernel.
    generator = torch.Generator(key.device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=key.device, dtype=key.dtype)

    query, other, value = (drawn(images, channels, pixels) for _ in range(3))
    given = drawn(outputs, channels) * channels**-0.5, drawn(outputs)
    some = torch.arange(0, pixels, max(1, pixels // CHECKED), device=key.device)
    tensors = (query[..., some], other, value[..., some], *given)
    wanted = torch_form(*(tensor.double() for tensor in tensors))
    try:
        found = fused_sum(query, other, value, *given, weighting, eps)[..., some].double()
        # Here at the latest what went wrong on the device is raised.
        error = float((found - wanted).abs().max() / wanted.abs().max())
    except Exception as failure:  # of Triton, of the compiler that it calls, of the driver
        return f"it fails there ({type(failure).__name__}: {first_line(failure)})"
    return "" if error <= WITHIN else f"it deviates there by {error:.1e} of the largest sum"
