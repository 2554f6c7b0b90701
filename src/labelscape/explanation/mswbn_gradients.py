"""MSWBN: the paper's gradients (eqs. 11 to 18) checked on the user's own model, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.evaluation.sections import Table
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.nets.blocks import pad_to_multiple, resize_like
from labelscape.nets.mswbn import MSWBN

MOST_ASKED = 4
"""Windows that are checked (ours): in float64 and with every branch's output kept, one takes seconds."""
CHECKED_SIDE = 128
"""Of a larger window the upper left part is checked: an identity holds for any image."""


@dataclass(frozen=True)
class Passed:
    """What one pass kept, all with gradients of the summed cross entropy.

    weights   W^1 .. W^3, leaves (1, n)       branches  their outputs O_b, (n, C, h, w) each
    sums      F_h1 .. F_h3, (1, C, h, w)      w_bin     a leaf (1, 2); None without an LBM
    high, low C_H and C_L at the image's size, leaves (1, K, H, W); low is None without an LBM
    error     p - y, (1, K, H, W)
    """

    weights: list[Tensor]
    branches: list[Tensor]
    sums: list[Tensor]
    w_bin: Tensor | None
    high: Tensor
    low: Tensor | None
    error: Tensor


def passed(net: MSWBN, image: Tensor, labels: Tensor) -> Passed:
    """Forward and backward with W^h, W_bin, C_H and C_L as free leaves, as the paper's derivatives take them.
    The network in float64; labels (1, H, W) of the padded image.
    """
    levels = net.trunk(image)
    lower = [levels[index] for index in net.lower]
    weights = [w.detach().requires_grad_() for w in net.hwm.weights(lower)]
    features, branches, sums = net.reduce(levels[-1]).detach(), [], []
    for hierarchy, coefficient in zip(net.hwm.hierarchies, net.hwm.gated(weights)):
        outputs = torch.cat([branch(net.hwm.read(features)) for branch in hierarchy.branches])  # (n, C, h, w)
        features = (coefficient[0, :, None, None, None] * outputs).sum(0, keepdim=True)
        features.retain_grad()
        branches.append(outputs.detach())
        sums.append(features)
    scores = net.high(net.hwm.read(features))
    w_bin = low = None
    # Upsampling is linear: C_H and C_L brought to the image's size before eq. 9 give what they give after.
    if net.lbm is None:
        high = scores = resize_like(scores, image, align_corners=net.align_corners)
        out = high
    else:
        w_bin = net.lbm.weights(net._for_mlp(weights)).detach().requires_grad_()
        high, low = (
            resize_like(
                resize_like(part, lower[-1], align_corners=net.align_corners),
                image,
                align_corners=net.align_corners,
            )
            for part in (scores, net.lbm.low(lower[-1]).detach())
        )
        low.requires_grad_()
        for_high, for_low = net.lbm.gated(w_bin)[0]
        out = for_high * high + for_low * low
    high.retain_grad()
    F.cross_entropy(out, labels, reduction="sum").backward()
    error = out.detach().softmax(1) - F.one_hot(labels, out.shape[1]).movedim(-1, 1)
    return Passed(weights, branches, sums, w_bin, high, low, error)


def identities(net: MSWBN, one: Passed) -> dict[str, tuple[Tensor, Tensor]]:
    """By its name each identity's two sides, of one shape: autograd's gradient, and what the paper says."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    if one.w_bin is not None:
        open_, factor = _opening(one.w_bin, net.lbm.theta), 1.0 if net.lbm.theta is None else 2.0
        # Sums over pixels and classes of C (p - y).
        sums = torch.stack([(part.detach() * one.error).sum() for part in (one.high, one.low)])[None]
        found["eq. 11: loss by W_bin"] = one.w_bin.grad, factor * open_ * sums
        coefficients = net.lbm.gated(one.w_bin.detach())[0]
        found["eq. 15: loss by C_H"] = one.high.grad, coefficients[0] * one.error
        found["eq. 15: loss by C_L"] = one.low.grad, coefficients[1] * one.error
    else:
        found["eq. 15: loss by C_H (no LBM)"] = one.high.grad, one.error
    for h, (weight, outputs, total) in enumerate(zip(one.weights, one.branches, one.sums), start=1):
        expected = (outputs * total.grad).sum((1, 2, 3))[None] * _opening(weight, net.hwm.theta)
        found[f"eqs. 13, 16: loss by W^{h}"] = weight.grad, expected
    return found


def _opening(weight: Tensor, theta: float | None) -> Tensor:
    """The derivative of eq. 14: 1 at and above theta, 0 below."""
    return torch.ones_like(weight) if theta is None else (weight.detach() >= theta).to(weight)


def check(look: Look) -> Found:
    """Errors of the identities, and gradients that reach generators through closed gates."""
    net = copy.deepcopy(look.net).double()
    errors: dict[str, list[float]] = {}
    closed, leaked = 0, 0.0
    for number, seen in enumerate(look.windows):
        if number == MOST_ASKED:
            break
        image = pad_to_multiple(seen.image[..., :CHECKED_SIDE, :CHECKED_SIDE].double(), net.stride)
        with torch.no_grad():
            labels = net(image).argmax(1)
        one = passed(net, image, labels)
        for name, (found, said) in identities(net, one).items():
            scale = float(found.abs().max()) or 1.0
            errors.setdefault(name, []).append(float((found - said).abs().max()) / scale)
        if net.hwm.theta is not None:
            for weight in one.weights:
                below = weight.detach() < net.hwm.theta
                closed += int(below.sum())
                leaked = max(leaked, float(weight.grad[below].abs().max()) if below.any() else 0.0)
    worst = max(max(each) for each in errors.values())
    lead = (
        f"The gradients that the paper derives and those of backpropagation differ by at most {worst:.1g} "
        "of the largest, in double precision. "
    )
    lead += (
        "The gates of this model are off."
        if net.hwm.theta is None
        else f"Through {closed} weights below theta comes a gradient of exactly {leaked:g} (eqs. 17, 18)."
    )
    numbers = {
        "largest_error": worst,
        "errors": {name: max(each) for name, each in errors.items()},
        "closed_gates": closed,
        "largest_gradient_through_closed_gates": leaked,
    }
    rows = tuple((name, f"{max(each):.1e}", SAID[name.split(":")[0]]) for name, each in errors.items())
    heads = ("identity", "largest error", "what it says")
    table = Table(heads, rows, "Backpropagation against the paper's gradients", texts=(2,))
    arrays = {name.replace(" ", "_"): np.array(each) for name, each in errors.items()}
    return Found(lead, numbers, arrays, tables=(table,), about=ABOUT)


ABOUT = caption(
    "Each row is an identity of the paper, and by how much its two sides differ.",
    "sec. 3.3 derives them, without numbers.",
    "in float64 on windows of at most 128 pixels; labels are the predicted classes, the loss is the sum over "
    "pixels, W and W_bin are free variables as in sec. 3.3.",
)
SAID = {
    "eq. 11": "The sum over pixels and classes of the level's scores times (p - y), through the gate.",
    "eq. 15": "The gated coefficient times (p - y): a level learns in proportion to its weight.",
    "eqs. 13, 16": "The sum over pixels of a branch's output times the gradient of the hierarchy's sum, 0 "
    "where the gate is closed. (Eqs. 12 and 13 print it with a curvature, which holds for a quadratic loss "
    "alone.)",
}
