"""Batch normalisation folded into the convolution before it: exact where its statistics are known.

    s (W x + b - m) + t = (s W) x + s (b - m) + t,   s = weight / sqrt(variance + eps)

One pass over each map less. Which convolution a normalisation follows is seen while the network runs: the
order in which modules are listed says nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from labelscape.nets.context import OneValueNorm
from labelscape.nets.kernels.taps import DilatedConv2d

KINDS = (nn.Conv2d, DilatedConv2d, nn.ConvTranspose2d)
"""Exactly these: another subclass may compute its weights anew in each pass (weight standardisation)."""


def is_norm(module: nn.Module) -> bool:
    """torch's own, ours, or timm's with an activation behind it."""
    return type(module) in (nn.BatchNorm2d, OneValueNorm) or has_activation(module)


def has_activation(module: nn.Module) -> bool:
    # By name: timm takes a second to import, which networks without it need not wait for.
    return type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)


class Uses(TorchFunctionMode):
    """Counts how often each tensor goes into a function that makes a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, (Tensor, tuple, list)) and not isinstance(made, torch.Size):
            for given in (*args, *(kwargs or {}).values()):
                for one in given if isinstance(given, (tuple, list)) else (given,):
                    if isinstance(one, Tensor):
                        self.count[id(one)] = self.count.get(id(one), 0) + 1
        return made


def fold_normalisations(net: nn.Module, run: Callable[[nn.Module], object]) -> int:
    """Fold every normalisation of `net`, in eval mode, that alone reads what one convolution makes; returns
    how many. `run(net)` runs it, on any image. The folded ones are replaced by what remains of them: an
    activation, or nothing. Weights get new values, so the network is of use for inference alone.
    """
    pairs = followers(net, run)
    for name, conv, norm in pairs:
        _fold(conv, norm)
        rest = nn.Sequential(norm.drop, norm.act) if has_activation(norm) else nn.Identity()
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, rest.eval())
    return len(pairs)


def followers(
    net: nn.Module, run: Callable[[nn.Module], object]
) -> list[tuple[str, nn.Module, nn.BatchNorm2d]]:
    """Name of each normalisation that can be folded, its convolution, and itself."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    read: dict[nn.Module, tuple[nn.Module, Tensor]] = {}
    hooks, uses = [], Uses()

    def after_conv(conv: nn.Module, inputs: tuple, out: Tensor) -> None:
        # Kept, so that no later tensor gets its id.
        made[id(out)] = conv, out
        # An earlier tensor, gone by now, may have had it.
        uses.count[id(out)] = 0
        calls[conv] = calls.get(conv, 0) + 1

    def before_norm(norm: nn.Module, inputs: tuple) -> None:
        # Looked up now: once this input is gone, another tensor may have its id.
        if id(inputs[0]) in made:
            read[norm] = made[id(inputs[0])]
        calls[norm] = calls.get(norm, 0) + 1

    for module in net.modules():
        if type(module) in KINDS:
            hooks.append(module.register_forward_hook(after_conv))
        elif is_norm(module):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with uses:
            run(net)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, norm in net.named_modules():
        if norm not in read:
            continue
        conv, out = read[norm]
        if calls[conv] != 1 or calls[norm] != 1 or uses.count[id(out)] != 1:
            continue
        grouped = isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1
        if not norm.training and norm.running_var is not None and not grouped:
            found.append((name, conv, norm))
    return found


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.BatchNorm2d) -> None:
    # In double precision: each product of the folded weights is then rounded once.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale *= norm.weight.double()
    bias = 0 if conv.bias is None else conv.bias.double()
    shift = (bias - norm.running_mean.double()) * scale
    if norm.bias is not None:
        shift += norm.bias.double()
    # A deconvolution's weight has its outputs second.
    axes = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight.double() * scale.view(axes)).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(dtype), requires_grad=False)
