"""The multi-layer perceptron over four levels (Maggiori et al., fig. 7) without its pool and hidden layer.

The paper upsamples every level to the finest, concatenates them to a pool of sum C channels, and classifies
each pixel: W2 ReLU(W1 pool + b1) + b2. At the paper's size, pool and hidden layer hold 270 times as many
numbers as the result. Two rewritings, both exact:

  product before upsampling   a 1x1 convolution commutes with upsampling: W1 pool = sum_i up_i(W1_i x_i), and
                              three of four products then run on a quarter to a 64th of the pixels. b1 joins
                              the coarsest, because the shares of an interpolated value add up to 1
  chunks                      ReLU and second layer take a few rows, columns and units at a time, small enough
                              for the processor's cache; the gradient computes them again

Interpolation is separable: along columns by a weighted mean of two neighbours for each phase, along rows by
one matrix product for all levels at once, to which the finest level's product is added.

Symbols   N images  C_i width of level i  D hidden units  K classes  u units of a chunk  r rows of a block
          f = 2^i factor of level i
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.nets.blocks import shares_of, without_autocast
from labelscape.nets.kernels.derivatives import Form, applied

T = TypeVar("T")

COARSE = (2, 4, 8)
"""f of the levels after the finest."""

STRIP_BYTES = 64 * 2**20
"""Ours: rows of an image, COLUMNS wide, whose hidden layer would take this much are one piece of work."""

COLUMNS = 256
"""Columns computed at once, a multiple of the coarsest factor (ours). Rows of a wide tile leave the cache
before they are used again: 1024 columns at once took 1.2 times as long, with a quarter of the units in a
chunk.
"""

BLOCK_ROWS = 16
"""Rows computed at once, a multiple of the coarsest factor: fewer would upsample more rows twice."""

BLOCK_BYTES = 2 * 2**20
"""Most that the hidden units of a block take (ours): passed over six times, they should stay in cache, and be
many enough for quick products.
"""


class Plan(NamedTuple):
    """What does not depend on the pixels."""

    weights: tuple[Tensor, ...]
    """W1_i, (D, C_i) for each level."""
    bias: Tensor
    second: Tensor
    """W2, (K, D)."""
    rows: dict[int, Tensor]
    """By rows of a block: (r, sum of r / f + 2) shares of the coarse levels' rows in each of a block's."""
    strip: int
    """Rows of a strip."""
    units: int
    """Hidden units of a chunk."""


def perceptron(
    levels: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    *,
    see: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """W2 ReLU(W1 pool + b1) + b2 for the levels upsampled bilinearly by 1, 2, 4, 8 and concatenated.

    `levels` are the finest (N, C_1, h, w), h and w multiples of 8, and three coarse ones with a frame one
    pixel wide, (N, C_i, h / f + 2, w / f + 2); `weight` (D, sum C), `bias` (D,), `second` (K, D),
    `second_bias` (K,); -> (N, K, h, w). Half precision is raised to float32, inside autocast too, and the
    result rounded once to what the plain form gives. Without gradients, `see` is given the hidden layer strip
    by strip, (1, D, rows, w), one image after the other.
    """
    device = levels[0].device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else levels[0].dtype
    with without_autocast(levels[0]):
        # The rows of an image are then a matrix of cells and channels: its products are a third faster.
        # By moving axes: torch.func knows no other memory format for a batch.
        levels = [_full(level).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for level in levels]
        layers = [_full(t) for t in (weight, bias, second, second_bias)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*levels, *layers)):
            return applied(FORM, *layers, *levels).to(kind)
        if see is None:
            return applied(INFERENCE, *layers, *levels).to(kind)
        return _forward(levels, *layers, see, by_onednn=onednn_multiplies(layers[0])).to(kind)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _value(weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *levels: Tensor) -> Tensor:
    return _forward(levels, weight, bias, second, second_bias)


def _value_without_gradients(
    weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *levels: Tensor
) -> Tensor:
    return _forward(levels, weight, bias, second, second_bias, by_onednn=onednn_multiplies(weight))


def onednn_multiplies(like: Tensor) -> bool:
    """Can oneDNN multiply matrices of this kind? On processors of AMD in twice the speed of MKL, which torch
    takes for products of matrices (and oneDNN for convolutions). The operation is one that torch's compiler
    uses, and may be missing in another version.
    """
    return (
        like.dtype == torch.float32
        and like.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _gradients(
    weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *levels_and_gradient: Tensor
) -> tuple[Tensor, ...]:
    *levels, gradient = levels_and_gradient
    with without_autocast(gradient):
        return _backward(levels, weight, bias, second, gradient.contiguous())


def _plain(weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *levels: Tensor) -> Tensor:
    """With the pool and the hidden layer."""
    height, width = levels[0].shape[-2:]
    pool = [levels[0]]
    for level, f in zip(levels[1:], COARSE, strict=True):
        size = height + 2 * f, width + 2 * f
        framed = F.interpolate(level, size, mode="bilinear", align_corners=False)
        pool.append(framed[..., f:-f, f:-f])
    hidden = F.conv2d(torch.cat(pool, dim=1), weight[..., None, None], bias).relu()
    return F.conv2d(hidden, second[..., None, None], second_bias)


FORM = Form(_value, _gradients, _plain)
INFERENCE = Form(_value_without_gradients, _gradients, _plain)
"""Training keeps its sums: its weights would differ in their last digits from those of earlier versions."""


def _plan(levels: Sequence[Tensor], weight: Tensor, bias: Tensor, second: Tensor) -> Plan:
    height, width = levels[0].shape[-2:]
    row_bytes = min(width, COLUMNS) * weight.element_size()
    strip = max(1, STRIP_BYTES // (BLOCK_ROWS * weight.shape[0] * row_bytes)) * BLOCK_ROWS
    units = max(32, BLOCK_BYTES // (BLOCK_ROWS * row_bytes) // 32 * 32)
    sizes = dict.fromkeys((min(BLOCK_ROWS, height), height % BLOCK_ROWS))
    rows = {r: torch.cat([_shares(r, f, weight) for f in COARSE], dim=1) for r in sizes if r}
    weights = weight.split([level.shape[1] for level in levels], dim=1)
    return Plan(weights, bias, second, rows, strip, units)


def _shares(rows: int, factor: int, like: Tensor) -> Tensor:
    """(rows, rows / factor + 2) share of each framed coarse row in each fine one."""
    return shares_of(rows // factor + 2, rows + 2 * factor, False, like)[:, factor:-factor].T


def _strips(finest: Tensor, rows: int) -> list[tuple[int, int, int]]:
    """Image, first and last row of each piece of work."""
    images, _, height, _ = finest.shape
    return [(n, top, min(top + rows, height)) for n in range(images) for top in range(0, height, rows)]


def _each(work: Callable[..., T], pieces: Sequence[tuple[int, ...]]) -> Iterator[T]:
    """Results of `work` in the order of the pieces, whatever the order in which threads finish.

    Threads take whole pieces: the many small steps within one are too short to be shared out.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    if threads == 1 or len(pieces) == 1:
        yield from (work(*piece) for piece in pieces)
        return

    def one(piece: tuple[int, ...]) -> T:
        # A new thread starts with gradients on and outside inference mode.
        with torch.inference_mode(inference), torch.no_grad():
            return work(*piece)

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(one, pieces)
    finally:
        # The workers' number is also what threads that others start later would begin with.
        torch.set_num_threads(threads)


def _columns(width: int) -> list[tuple[int, int]]:
    """First and last column of what is computed at once."""
    return [(left, min(left + COLUMNS, width)) for left in range(0, width, COLUMNS)]


def _parts(
    levels: Sequence[Tensor], image: int, rows: tuple[int, int], columns: tuple[int, int]
) -> list[Tensor]:
    """What of each level, (C_i, rows, columns), these rows and columns of the finest are made of: views."""
    (top, bottom), (left, right) = rows, columns
    coarse = zip(COARSE, levels[1:], strict=True)
    return [levels[0][image, :, top:bottom, left:right]] + [
        level[image, :, top // f : bottom // f + 2, left // f : right // f + 2] for f, level in coarse
    ]


def _dense(part: Tensor) -> Tensor:
    """(C, rows, columns) with the channels of a pixel beside each other and no gap between rows."""
    return part.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _cells(part: Tensor) -> Tensor:
    """(C, rows, columns) -> (rows columns, C), a view."""
    return part.flatten(1).T


def _forward(
    levels: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    see: Callable[[Tensor], object] | None = None,
    *,
    by_onednn: bool = False,
) -> Tensor:
    plan = _plan(levels, weight, bias, second)
    images, _, height, width = levels[0].shape
    out = levels[0].new_empty(images, len(second), height, width)

    def work(image: int, top: int, bottom: int) -> Tensor | None:
        kept = out.new_empty(bottom - top, width, len(bias)) if see else None
        for left, right in _columns(width):
            parts = [_dense(part) for part in _parts(levels, image, (top, bottom), (left, right))]
            found = second_bias[:, None, None].expand(-1, bottom - top, right - left).contiguous()
            for units in _chunks(plan):
                products = _coarse_products(plan, parts, units)
                for block, hidden in _hidden_blocks(plan, parts, products, units, by_onednn):
                    found[:, block].flatten(1).addmm_(second[:, units], hidden.T)
                    if kept is not None:
                        kept[block, left:right, units] = hidden.view(-1, right - left, hidden.shape[1])
            out[image, :, top:bottom, left:right] = found
        return kept

    strips = _strips(levels[0], plan.strip)
    # One strip after the other where they are seen: finished ones would pile up.
    for kept in _each(work, strips) if see is None else (work(*strip) for strip in strips):
        if kept is not None:
            see(kept.permute(2, 0, 1)[None])
    return out


def _chunks(plan: Plan) -> Iterator[slice]:
    for first in range(0, len(plan.bias), plan.units):
        yield slice(first, first + plan.units)


def _coarse_products(plan: Plan, parts: Sequence[Tensor], units: slice) -> list[Tensor]:
    """W1_i x_i of the coarse levels, (rows, columns, u); the last has the bias."""
    products = [_cells(part) @ w[units].T for part, w in zip(parts[1:], plan.weights[1:], strict=True)]
    products[-1] += plan.bias[units]
    return [p.unflatten(0, part.shape[1:]) for p, part in zip(products, parts[1:], strict=True)]


def _hidden_blocks(
    plan: Plan, parts: Sequence[Tensor], products: Sequence[Tensor], units: slice, by_onednn: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a block and ReLU(W1 pool + b1) there, (r w, u); overwritten by the next block."""
    _, height, width = parts[0].shape
    weight = plan.weights[0][units]  # (u, C_1)
    if by_onednn:
        weight = weight.contiguous()
    for top in range(0, height, BLOCK_ROWS):
        block = slice(top, min(top + BLOCK_ROWS, height))
        rows = block.stop - top
        wide = weight.new_empty(plan.rows[rows].shape[1], width, len(weight))
        for part, f, to in zip(products, COARSE, _split(wide, rows), strict=True):
            _widen(part[top // f : block.stop // f + 2], f, to)
        finest = _cells(parts[0][:, block])
        if by_onednn:
            hidden = torch.ops.mkldnn._linear_pointwise(finest, weight, None, "none", [], "")
            hidden.view(rows, -1).addmm_(plan.rows[rows], wide.flatten(1))  # (r, w u)
        else:
            hidden = plan.rows[rows] @ wide.flatten(1)  # (r, w u)
            hidden = hidden.view(rows * width, -1).addmm_(finest, weight.T)
        yield block, hidden.relu_()


def _split(wide: Tensor, rows: int) -> tuple[Tensor, ...]:
    return wide.split([rows // f + 2 for f in COARSE])


def _phases(factor: int) -> Iterator[tuple[int, int, float]]:
    """Column j of every `factor` lies between framed coarse columns k and k + 1, at share t of the second."""
    for j in range(factor):
        place = (j + 0.5) / factor + 0.5
        yield j, int(place), place - int(place)


def _widen(coarse: Tensor, factor: int, out: Tensor) -> None:
    """Interpolate along columns: (rows, w / f + 2, u) -> (rows, w, u)."""
    columns = coarse.shape[1] - 2
    for j, k, t in _phases(factor):
        torch.lerp(coarse[:, k : k + columns], coarse[:, k + 1 : k + 1 + columns], t, out=out[:, j::factor])


def _narrow(wide: Tensor, factor: int, out: Tensor) -> None:
    """Add the gradient of `_widen`: (rows, w, u) -> (rows, w / f + 2, u)."""
    columns = out.shape[1] - 2
    for j, k, t in _phases(factor):
        out[:, k : k + columns].add_(wide[:, j::factor], alpha=1 - t)
        out[:, k + 1 : k + 1 + columns].add_(wide[:, j::factor], alpha=t)


class Gradients(NamedTuple):
    """Of a piece, or of all: sums are made piece by piece, in their order."""

    weights: list[Tensor]
    bias: Tensor
    second: Tensor
    levels: list[Tensor]

    @classmethod
    def zero(cls, plan: Plan, levels: Sequence[Tensor]) -> Gradients:
        weights, parts = ([torch.zeros_like(t) for t in tensors] for tensors in (plan.weights, levels))
        return cls(weights, torch.zeros_like(plan.bias), torch.zeros_like(plan.second), parts)


def _backward(
    levels: Sequence[Tensor], weight: Tensor, bias: Tensor, second: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    plan, width = _plan(levels, weight, bias, second), levels[0].shape[3]
    found = Gradients.zero(plan, levels)

    def work(image: int, top: int, bottom: int, left: int, right: int) -> Gradients:
        parts = [_dense(part) for part in _parts(levels, image, (top, bottom), (left, right))]
        return _piece_gradients(plan, parts, gradient[image, :, top:bottom, left:right].contiguous())

    pieces = [(*strip, *columns) for strip in _strips(levels[0], plan.strip) for columns in _columns(width)]
    for (image, top, bottom, left, right), one in zip(pieces, _each(work, pieces), strict=True):
        found.bias.add_(one.bias)
        found.second.add_(one.second)
        for to, part in zip(found.weights, one.weights, strict=True):
            to.add_(part)
        # Coarse levels overlap by their frame, so they are added, not written.
        for to, part in zip(
            _parts(found.levels, image, (top, bottom), (left, right)), one.levels, strict=True
        ):
            to.add_(part)
    weight = torch.cat(found.weights, dim=1)
    return weight, found.bias, found.second, gradient.sum((0, 2, 3)), *found.levels


# fmt: off
def _piece_gradients(plan: Plan, parts: Sequence[Tensor], gradient: Tensor) -> Gradients:
    found = Gradients.zero(plan, parts)
    for units in _chunks(plan):
        products = _coarse_products(plan, parts, units)
        to_products = [torch.zeros_like(p) for p in products]
        for block, hidden in _hidden_blocks(plan, parts, products, units):
            shares = plan.rows[block.stop - block.start]                       # (r, sum of r / f + 2)
            above = gradient[:, block].flatten(1)                              # (K, r w)
            found.second[:, units].addmm_(above, hidden)
            to_hidden = above.T @ plan.second[:, units]                        # (r w, u)
            to_hidden.mul_(hidden.gt_(0))                                      # where the ReLU lets through
            found.weights[0][units].addmm_(to_hidden.T, _cells(parts[0][:, block]))
            _cells(found.levels[0][:, block]).addmm_(to_hidden, plan.weights[0][units])
            wide = shares.T @ to_hidden.view(len(shares), -1)                  # (sum of r / f + 2, w u)
            wide = wide.view(len(wide), -1, to_hidden.shape[1])
            for part, f, to in zip(_split(wide, len(shares)), COARSE, to_products, strict=True):
                _narrow(part, f, to[block.start // f : block.stop // f + 2])
        # The shares of an interpolated value add up to 1, so this is the sum over all pixels.
        found.bias[units] = to_products[-1].sum((0, 1))
        for i, to in enumerate(to_products, start=1):
            to = to.flatten(0, 1)                                              # (cells, u)
            found.weights[i][units].addmm_(to.T, _cells(parts[i]))
            _cells(found.levels[i]).addmm_(to, plan.weights[i][units])
    return found
# fmt: on
