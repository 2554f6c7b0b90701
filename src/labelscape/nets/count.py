"""How large and how costly a network is: parameters and multiply-accumulates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from labelscape.nets.compiler import compiler_later


def parameters(net: nn.Module) -> int:
    """Trainable numbers; those that several modules share count once."""
    return sum(parameter.numel() for parameter in net.parameters())


def macs(net: nn.Module, height: int, width: int, in_channels: int = 3) -> int:
    """Multiply-accumulates for one image of `height` x `width` pixels in eval mode: convolutions, linear
    layers, matrix products.

    Nothing is computed: shapes go through the network on torch's "meta" device, so size costs no time or
    memory. Normalisation, pooling, resizing and products element by element are not counted, as is the
    custom; where a kernel applies a layer's weights by a matrix product of its own, that is. The network is
    left as it was.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        on_meta(net, torch.zeros(1, in_channels, height, width, device="meta"))
    return counter.get_total_flops() // 2  # torch counts multiplications and additions


def on_meta(net: nn.Module, image: Tensor) -> object:
    """What `net` answers in eval mode to an image on the meta device: shapes. Its weights and modes stay
    as they are.
    """
    # Called with other weights, not moved: a network on a GPU stays there, with its optimizer.
    weights = {name: value.to("meta") for name, value in [*net.named_parameters(), *net.named_buffers()]}
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad(), compiler_later():
            return torch.func.functional_call(net.eval(), weights, (image,))
    finally:
        for module, training in modes.items():
            module.training = training
