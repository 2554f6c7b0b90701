"""Blocks of segmentation-models-pytorch with a faster form of what they compute when a map is made."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch.nn as nn
from torch import Tensor

from labelscape.nets.kernels.upsampled import saves, upsampled_convolution

BLOCKS = {"UnetDecoderBlock", "DecoderBlock"}
"""Of Unet; of UnetPlusPlus and MAnet, and of Linknet, which has no `interpolation_mode`."""


def join_upsampling(decoder: nn.Module) -> None:
    """Let a decoder's blocks that double a map, join another one and convolve take
    `kernels.upsampled` where that is faster. In place; names of weights stay the library's own.
    """
    for block in decoder.modules():
        nearest = getattr(block, "interpolation_mode", "") == "nearest"
        if type(block).__name__ in BLOCKS and nearest and isinstance(block.conv1, nn.Sequential):
            block.__class__ = _joined(type(block))


@cache
def _joined(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, low: Tensor, *given: Any, **named: Any) -> Tensor:
        conv, *rest = self.conv1
        # First: while a network is compiled nothing may be asked of shapes.
        if not saves(conv, low):
            return kind.forward(self, low, *given, **named)
        # Unet gives the size of its result before the other map: numbers, which are tensors in a trace.
        every = (*given, *named.values())
        other = next((one for one in every if isinstance(one, Tensor) and one.ndim), None)
        size = [int(one) for one in every if one is not None and one is not other]
        doubled = [2 * int(side) for side in low.shape[-2:]]
        attended = other is not None and not _is_nothing(getattr(self, "attention1", None))
        fits = other is None or [int(side) for side in other.shape[-2:]] == doubled
        if attended or size not in ([], doubled) or not fits:
            return kind.forward(self, low, *given, **named)
        made = upsampled_convolution(low, other, conv.weight, conv.bias)
        for layer in (*rest, self.conv2, getattr(self, "attention2", None)):
            made = made if layer is None else layer(made)
        return made

    def reduced(self: Any, protocol: int) -> tuple:
        # Made when the library is imported, so that pickle would not find it by its name.
        return _empty, (kind,), self.__dict__

    return type(kind.__name__, (kind,), {"forward": forward, "__reduce_ex__": reduced})


def _empty(kind: type[nn.Module]) -> nn.Module:
    joined = _joined(kind)
    return joined.__new__(joined)


def _is_nothing(attention: nn.Module | None) -> bool:
    return attention is None or isinstance(getattr(attention, "attention", None), nn.Identity)
