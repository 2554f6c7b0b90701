"""Inter-Level Feature Balanced Fusion Network: before levels are fused, every channel gets a weight that all
channels decide together.

Paper     D. Li, C. Fan, L. Zou, Q. Zuo, H. Jiang, Y. Liu. "Inter-Level Feature Balanced Fusion Network for
          Street Scene Segmentation". Sensors 21(23):7844, 2021. https://doi.org/10.3390/s21237844
Reads as  sec. 3.2, eq. 2 to 4, fig. 3 -> BalancedFusion   sec. 3.3, fig. 4 -> SpatialStream
          sec. 3.1, fig. 2 -> IFBFNet   sec. 3.4, second part -> IFBFNet.aux
          sec. 4.1 -> training.papers.ifbfnet_cityscapes   tables 2 and 3 -> ifbfnet
Differs   - order of fusing: eq. 4 weighs the joined levels before they are convolved, and only then are there
            "384" channels for the last two convolutions (order="eq"); the text convolves first, then weighs
            256 channels, twice (order="text")
          - eq. 2 leaves out the 1 x 1 convolution of text and fig. 3: here one from all channels to all, with
            bias, nothing after it but the sigmoid; eq. 3 leaves out the residual of text and fig. 3: w f + f
            is computed as (1 + w) f
          - stage 4 is reduced to 256 by a 1 x 1 before ASPP (aspp="reduced"), as text and fig. 2 say;
            "stage4" is ASPP on all its channels
          - ASPP has the four branches the text names and no 1 x 1 branch, 256 channels each
          - rows without skip: reduction, ASPP if any, 1 x 1 to 128, 1 x 1 to the classes, upsampled by 16;
            without spatial stream the last two convolutions work on 256 channels; "Skip-Connection" is the
            same decoder with levels joined and not weighed
          - InPlaceABN is ordinary normalisation with its default activation, leaky ReLU of slope 0.01, in all
            we add to the trunk (abn_act="leaky", or "relu"); trunks keep their own. The auxiliary branch has
            its own 3 x 3, not the skip's
          - upsampling is bilinear, to the size of the finer level (876 / 16 is no whole number),
            align_corners=False unless asked
          - images are padded to a multiple of 4 only, so that the paper's crop of 876 gives the paper's 219
            and 55 pixels
          - eq. 7 keeps the hardest three quarters, sec. 4.3.4 the pixels below a probability of 0.7: losses
            hardest and ohem, both together ohem-hardest. Eq. 7 sorts the pixels of one picture
            (hardest-per-image), the recipe those of the batch, as OHEM's code does
          - rows of table 2 without fusion have the auxiliary branch too
          - eq. 2 and ASPP take means over all that is seen. Tables are tested on whole pictures, as sec. 4.5
            says of the test set (ours for the validation set); in a map they are means over a tile (ours)
          - ImageNet weights are timm's default for the backbone (the tag is stored in the checkpoint); red,
            green and blue are scaled as those weights were trained with (recipe, normalisation=...)
          - recipe: batch 4; a linear warm-up through which poly counts; weight decay on biases and
            normalisations too; scales and flips average probabilities; DeepLabV3+ of table 6 is tested
            without flips
Symbols   N images  B bands  K classes  H x W pixels; x4 is a level at stride 4: (N, ., H/4, W/4)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from labelscape.errors import BadOption, UnknownName
from labelscape.nets.backbones import Trunk, trunk
from labelscape.nets.blocks import Network, conv_bn_relu, resize_like
from labelscape.nets.checks import OF_WEIGHTS, Effect
from labelscape.nets.context import ASPP
from labelscape.nets.kernels.fusion import is_inference, saves, weighed_pointwise

READINGS = {
    "aspp": ("reduced", "stage4", "none"),
    "skip": ("balanced", "concat", "none"),
    "order": ("eq", "text"),
    "abn_act": ("leaky", "relu"),
}


class BalancedFusion(nn.Module):
    """Fig. 3, on levels already joined: (N, C, h, w) -> (N, C, h, w), C = C_h + C_l."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relate = nn.Conv2d(channels, channels, 1)

    def weights(self, levels: Tensor) -> Tensor:
        """W = W_h || W_l, (N, C, 1, 1), each between 0 and 1."""
        return self.weights_of(levels.mean((2, 3), keepdim=True))

    def weights_of(self, means: Tensor) -> Tensor:
        """`weights` of levels with these means, (N, C, 1, 1) both."""
        return torch.sigmoid(self.relate(means))  # (N, C, 1, 1)  eq. 2

    def forward(self, levels: Tensor) -> Tensor:
        # Eq. 3 and its residual; eq. 4 together with the convolution that follows.
        return (1 + self.weights(levels)) * levels  # (N, C, h, w)


def fused(
    balance: nn.Module, levels: list[Tensor], after: nn.Sequential, beside: list[Tensor] | None = None
) -> Tensor:
    """Levels joined (eq. 1), weighed by `balance` (eq. 3), joined with those `beside`, and given to `after`,
    which begins with a convolution (eq. 4). In inference a 1 x 1 needs no weighed map where this saves time,
    and what was joined is weighed in place. Both lists are emptied: levels need not outlive their joining.
    """
    beside = beside or []
    conv, *rest = (module for module in after.modules() if not isinstance(module, nn.Sequential))
    skipped = (balance, after, after[0], conv)
    balanced = isinstance(balance, BalancedFusion) and not has_hooks(*skipped)
    if balanced and saves(conv, levels[0]):
        features = without_weighing(balance, levels, conv, beside)
        for step in rest:
            features = step(features)
        return features
    joined = len(levels) > 1
    features = torch.cat(levels, dim=1) if joined else levels[0]
    levels.clear()
    if balanced and joined and is_inference(features):
        # No memory for a second map, which the system would clear first (figures in `kernels.fusion`).
        features.mul_(1 + balance.weights(features))
    else:
        features = balance(features)
    if beside:
        features = torch.cat([features, *beside], dim=1)
        beside.clear()
    return after(features)


def without_weighing(
    balance: BalancedFusion, levels: Sequence[Tensor], conv: nn.Conv2d, beside: Sequence[Tensor]
) -> Tensor:
    """A 1 x 1 convolution of the weighed levels and those `beside`, equal up to the last digits."""
    means = torch.cat([level.mean((2, 3), keepdim=True) for level in levels], dim=1)
    factors = 1 + balance.weights_of(means).flatten(1)  # (N, C)
    ones = factors.new_ones(len(factors), conv.in_channels - factors.shape[1])
    return weighed_pointwise(
        [*levels, *beside], torch.cat([factors, ones], dim=1), conv.weight.flatten(1), conv.bias
    )


def has_hooks(*modules: nn.Module) -> bool:
    """Has someone asked to see what one of them is given or makes?"""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


class SpatialStream(nn.Sequential):
    """Fig. 4: 7 x 7 and 3 x 3 of stride 2, then 1 x 1. (N, B, H, W) -> (N, 64, H/2, W/2) -> (N, 64, H/4,
    W/4) -> (N, C, H/4, W/4).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            conv_bn_relu(in_channels, 64, 7, stride=2),
            conv_bn_relu(64, 64, 3, stride=2),
            conv_bn_relu(64, channels, 1),
        )


class IFBFNet(Network):
    """Fig. 2. `net.heads(image)` adds "aux", a prediction from stage 1, in train mode.

    Parts that a row of table 2 leaves out are None. `stride` is that of the coarsest level; images are padded
    to a multiple of 4.
    """

    reach = None

    def __init__(
        self,
        in_channels: int,
        classes: int,
        levels: Trunk,
        *,
        aspp: str,
        rates: Sequence[int],
        skip: str,
        spatial: int,
        order: str,
        aux: bool,
        abn_act: str,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, classes
        self.stride, self.order, self.align_corners = max(levels.strides), order, align_corners
        s1, s4 = levels.widths[0], levels.widths[-1]

        def balance(channels: int) -> nn.Module:
            return BalancedFusion(channels) if skip == "balanced" else nn.Identity()

        self.reduce = conv_bn_relu(s4, 256, 1) if aspp != "stage4" else None
        self.aspp = (
            None
            if aspp == "none"
            else ASPP(s4 if aspp == "stage4" else 256, 256, rates=rates, pointwise=False)
        )
        if skip != "none":
            self.low = conv_bn_relu(s1, 64)
            self.fuse1 = nn.Sequential(conv_bn_relu(256 + 64, 256), conv_bn_relu(256, 256))
            self.balance1 = balance(256 + 64 if order == "eq" else 256)
        else:
            self.low = None
        self.spatial = SpatialStream(in_channels, spatial) if spatial else None
        last = 256
        if spatial and order == "eq":
            last = 256 + spatial  # "384": with 128 channels
            self.balance2 = balance(last)
        elif spatial:
            self.fuse2 = conv_bn_relu(256 + spatial, 256, 1)
            self.balance2 = balance(256)
        self.predict = nn.Sequential(conv_bn_relu(last, 128, 1), nn.Conv2d(128, classes, 1))
        self.aux = nn.Sequential(conv_bn_relu(s1, 64), nn.Conv2d(64, classes, 1)) if aux else None
        if abn_act == "leaky":
            leaky_for_relu(self)
        self.trunk = levels  # assigned last: the trunk keeps its own activations

    @property
    def pads_to(self) -> int:
        # Not to the stride of 16, as other networks: the paper's crop of 876 would become 880.
        return 4

    # fmt: off
    def scores(self, image: Tensor) -> dict[str, Tensor]:
        levels = self.trunk(image)
        # (N, 256, H/4, W/4), (N, 2048, H/16, W/16)
        s1, features = levels[0], levels[-1]
        features = features if self.reduce is None else self.reduce(features)  # (N, 256, H/16, W/16)
        features = features if self.aspp is None else self.aspp(features)  # (N, 256, H/16, W/16)
        # (N, K, H/4, W/4); without a skip H/16, W/16
        features = self.predict(features) if self.low is None else self.decode(image, s1, features)
        scores = {"logits": self.enlarge(features, image)}                 # (N, K, H, W)
        if self.training and self.aux is not None:
            scores["aux"] = self.enlarge(self.aux(s1), image)              # (N, K, H, W)
        return scores
    # fmt: on

    def decode(self, image: Tensor, s1: Tensor, x16: Tensor) -> Tensor:
        """Sec. 3.1, decoder, with the last two convolutions: (N, K, H/4, W/4)."""
        levels = [self.enlarge(x16, s1), self.low(s1)]  # (N, 256, H/4, W/4), (N, 64, H/4, W/4)
        # Weighed and then convolved, or the other way round (see `Differs`): (N, 256, H/4, W/4), to which the
        # spatial stream adds 128 channels
        if self.order == "eq":
            levels = [fused(self.balance1, levels, self.fuse1)]
            if self.spatial is None:
                return self.predict(levels[0])
            levels.append(self.enlarge(self.spatial(image), s1))
            return fused(self.balance2, levels, self.predict)
        levels = [fused(nn.Identity(), levels, self.fuse1)]
        if self.spatial is None:
            return fused(self.balance1, levels, self.predict)
        levels = [fused(self.balance1, levels, self.fuse2, [self.enlarge(self.spatial(image), s1)])]
        return fused(self.balance2, levels, self.predict)

    def enlarge(self, level: Tensor, other: Tensor) -> Tensor:
        return resize_like(level, other, align_corners=self.align_corners)


def leaky_for_relu(module: nn.Module) -> None:
    """InPlaceABN's default activation, slope 0.01, wherever a ReLU stands (sec. 4.1: all normalisations
    are replaced).
    """
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.LeakyReLU(0.01, inplace=True))
        leaky_for_relu(child)


def ifbfnet(
    *,
    in_channels: int,
    classes: int,
    backbone: str = "resnet101",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    output_stride: int = 16,
    aspp: str = "reduced",
    rates: Sequence[int] = (6, 12, 18),
    skip: str = "balanced",
    spatial: int = 128,
    order: str = "eq",
    aux: bool = True,
    abn_act: str = "leaky",
    align_corners: bool = False,
) -> IFBFNet:
    """The full network: 47,106,598 parameters with ResNet-101 and 19 classes, the auxiliary branch among
    them.

    Rows of table 2, for each backbone: (1) aspp="none", skip="none", spatial=0   (2) skip="none", spatial=0
    (3) skip="concat", spatial=0   (4) spatial=0   (5) nothing. Columns of table 3: spatial=16 ... 256.
    `backbone`, `pretrained`, `weights`, `first_conv` and `output_stride` are the trunk's; one without
    dilation takes output_stride=32. Raises UnknownName for an unknown reading or backbone, BadOption for
    impossible sizes and combinations.
    """
    for what, value in (("aspp", aspp), ("skip", skip), ("order", order), ("abn_act", abn_act)):
        if value not in READINGS[what]:
            raise UnknownName(what, value, READINGS[what])
    if isinstance(spatial, bool) or not isinstance(spatial, int) or spatial < 0:
        raise BadOption(f"spatial={spatial!r} must be the channels of the spatial stream, 0 for none.")
    if spatial and skip == "none":
        raise BadOption(
            f"spatial={spatial} without a skip connection has nothing at 1/4 to join; pass spatial=0 or "
            "skip='balanced'."
        )
    if (
        not isinstance(rates, list | tuple)
        or not rates
        or not all(isinstance(rate, int) and rate > 0 for rate in rates)
    ):
        raise BadOption(f"rates={rates!r} must be whole numbers of at least 1, the dilations of ASPP.")
    first = {"pretrained": pretrained, "weights": weights, "first_conv": first_conv}
    levels = trunk(backbone, in_channels=in_channels, output_stride=output_stride, **first)
    return IFBFNet(
        in_channels,
        classes,
        levels,
        aspp=aspp,
        rates=rates,
        skip=skip,
        spatial=spatial,
        order=order,
        aux=aux,
        abn_act=abn_act,
        align_corners=align_corners,
    )


EFFECTS = (
    OF_WEIGHTS,
    Effect("rates", "aspp='reduced' or 'stage4'", lambda options: options["aspp"] != "none"),
    Effect(
        "order",
        "skip='balanced', or skip='concat' and a spatial stream",
        lambda options: options["skip"] == "balanced" or (options["skip"] == "concat" and options["spatial"]),
    ),
)
