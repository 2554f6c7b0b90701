"""Context modules shared by several papers' networks: atrous spatial pyramid pooling (ASPP) and pyramid
pooling.

Papers    L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam. "Encoder-Decoder with Atrous Separable
          Convolution for Semantic Image Segmentation". ECCV 2018. https://arxiv.org/abs/1802.02611 -> ASPP,
          with plain 3x3 convolutions
          H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia. "Pyramid Scene Parsing Network". CVPR 2017.
          https://arxiv.org/abs/1612.01105 -> PyramidPooling
Differs   - batch statistics of a pooled map need more than one value for each channel, and a batch of one
            image pooled to one cell has one: such a map is normalised with the running statistics and leaves
            them as they are (OneValueNorm)
          - a map pooled to one cell is spread over all pixels, which is what bilinear upsampling makes of it
Symbols   N images  C width  h x w pixels of the level
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from labelscape.nets.blocks import conv_bn_relu, needs_order, resize_like, separably


class OneValueNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics, in train mode too, where the batch has one
    value for each channel.
    """

    def forward(self, values: Tensor) -> Tensor:
        if self.training and values.numel() == values.shape[1]:
            return F.batch_norm(
                values, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(values)


class PartMeans(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling. Where `needs_order`, the gradient comes from `Pooled`: parts may overlap."""

    def forward(self, level: Tensor) -> Tensor:
        # The mean of the whole level is another operation, whose gradient has a fixed order.
        if self.output_size == 1 or not needs_order(level):
            return super().forward(level)
        return Pooled.apply(level, self.output_size)


class Pooled(torch.autograd.Function):
    """Adaptive average pooling with the exact gradient in a fixed order of sums (`blocks.separably`)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(level: Tensor, cells: int) -> Tensor:
        return F.adaptive_avg_pool2d(level, cells)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.shape = inputs[0].shape[-2:]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return separably(gradient, ctx.shape, parts_of), None


def parts_of(pixels: int, cells: int, like: Tensor) -> Tensor:
    """(pixels, cells): the share that each pixel of a line has in the mean of each of its parts."""
    # By pooling unit vectors: where parts begin and end is then torch's own rule.
    one_each = torch.eye(pixels, dtype=like.dtype, device=like.device)[None]
    return F.adaptive_avg_pool1d(one_each, cells)[0]


def pooled_conv(inputs: int, outputs: int, cells: int) -> nn.Sequential:
    """Mean over `cells` x `cells` parts of the level, 1x1, BN, ReLU: (N, inputs, h, w) -> (N, outputs,
    cells, cells).
    """
    # Larger grids always have more than one value for each channel.
    norm = OneValueNorm(outputs) if cells == 1 else nn.BatchNorm2d(outputs)
    return nn.Sequential(
        PartMeans(cells), nn.Conv2d(inputs, outputs, 1, bias=False), norm, nn.ReLU(inplace=True)
    )


class ASPP(nn.Module):
    """Parallel views of a level, joined and brought to `outputs` channels: (N, inputs, h, w) -> (N, outputs,
    h, w).

    Branches of `width` channels, each convolution with BN and ReLU: a 1x1 (unless `pointwise` is False), a
    3x3 for each of `rates` with that dilation, and the mean of the level through a 1x1 (unless `pooling` is
    False). A 1x1 with BN and ReLU joins them to `outputs`, which is `width` unless given.

        DeepLabV3+   ASPP(2048, 256)                                        5 branches of 256
        DGCWNet      ASPP(2048, 512, rates=(12, 24, 36))                    5 branches of 512
        IFBFNet      ASPP(256, 256, rates=(6, 12, 18), pointwise=False)     4 branches of 256
    """

    def __init__(
        self,
        inputs: int,
        width: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        pointwise: bool = True,
        pooling: bool = True,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        pixels = [conv_bn_relu(inputs, width, 1)] if pointwise else []
        self.branches = nn.ModuleList(
            pixels + [conv_bn_relu(inputs, width, 3, dilation=rate) for rate in rates]
        )
        self.pool = pooled_conv(inputs, width, 1) if pooling else None
        self.join = conv_bn_relu((len(self.branches) + pooling) * width, outputs or width, 1)

    def forward(self, level: Tensor) -> Tensor:
        views = [branch(level) for branch in self.branches]
        if self.pool is not None:
            # Repeated over the level: bilinear upsampling of a single cell gives the same.
            views.append(self.pool(level).expand(-1, -1, *level.shape[-2:]))  # (N, C, h, w)
        return self.join(torch.cat(views, dim=1))


class PyramidPooling(nn.Module):
    """A level beside its means over coarser and coarser parts: (N, inputs, h, w) -> (N, inputs + len(bins)
    width, h, w).

    For each of `bins`: mean over bins x bins parts, which overlap by a pixel where the level does not divide
    (torch's adaptive average pooling), 1x1 to `width`, BN, ReLU, bilinear back to h x w. PSPNet has 2048 + 4
    x 512 channels.
    """

    def __init__(
        self,
        inputs: int,
        width: int = 512,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(pooled_conv(inputs, width, cells) for cells in bins)
        self.align_corners = align_corners

    def forward(self, level: Tensor) -> Tensor:
        means = [resize_like(part(level), level, align_corners=self.align_corners) for part in self.parts]
        return torch.cat([level, *means], dim=1)
