"""DGCWNet: every pixel is compared with every other, and the channels in which the two differ are emphasised.

Paper     L. Zhu, S. Zhu, X. Liu, L. Luo. "Distance Guided Channel Weighting for Semantic Segmentation". 2020.
          https://arxiv.org/abs/2004.12679
Reads as  sec. 3.2, eqs. 1-5 -> ChannelWeighting, kernels/distance.py
          sec. 3.3, eq. 6 and 4.4.1 -> NonLocal (NL-H, NL-D)   sec. 4.1 -> base_of
          sec. 4.3 -> Relation (128 channels, down by 4), eq. 7 -> DGCWNet.aux
          sec. 4.4.1 -> GlobalPool (GAP), SqueezeExcite (SE)   fig. 2 -> DGCWNet
Differs   - how a map at stride 32 becomes the prediction is not stated: fuse="concat" brings it to stride 8,
            joins it to X, then 3x3 to 512 with BN and ReLU, dropout 0.1, 1x1 to the classes, as OCNet and
            CCNet do; "upsample" leaves X out; "none" is the text to the letter, a 1x1 classifier at stride
            32. The base networks have the same head on X
          - i and j run over the HW pixels (eqs. 2 and 5 print C-1), "row i" of a C x HW matrix is its column;
            V_i belongs to the query i
          - channel reduction: 3x3 convolution, BN, ReLU (reduce_kernel=1: 1x1)
          - downsampling: bilinear (downsample="max", "avg": pooling, the last partial window kept)
          - Q, K, V and g: 1x1 convolutions with bias and no BN, none started at zero
          - eq. 5 sums over j, so its weight grows with the image: show it crops of the training size, train
            for larger ones (recipe, map_size=...), or with agg="mean", the mean over j (ours, in no table)
          - "dividing by the sum" (sec. 3.2; DBS in 4.4.1) has 1e-6 added to the sum (ours: the paper adds
            nothing, and has 0/0 where two pixels agree in every channel). It is absolute: with 128 channels
            whose queries and keys have a deviation of 1e-3 it lowers W by 0.4 %, at 1e-4 by 28 %
          - "+conv" of table 1: F + g(V), no sum over j (weighting="conv"), or F + g(F) ("conv-input")
          - Stage 4 is layer3 (res4): auxiliary head 3x3 to 512, BN, ReLU, dropout 0.1, 1x1, in training only
          - ResNet-101: stem="standard" (7x7) has published weights; "deep" (three 3x3) is what OCNet and
            CCNet trained
          - GAP: 1x1 to 128 with bias, spread over the map, joined to X. SE: hidden 128, the last layer must
            return to X's width; X times the weights takes X's place. NL: softmax of the plain product as eq.
            6 has it (nl_scaled=True divides by sqrt(C) as OCNet does), fuse as for DGCW
          - bilinear with align_corners=True as OCNet and CCNet: level pixel i stands on image pixel 8i, exact
            for 8k + 1 (their 769 and 513); for other sizes the last rows repeat. align_corners=False is the
            other convention
          - base networks: PPM's convolutions have 512 channels each, as PSPNet's; the five branches of ASPP
            are joined by a 1x1 to 512 with BN and ReLU
          - "two fully connected layers" of SE have a ReLU between them, as in SENet
          - ImageNet weights are timm's default for the backbone (the tag is stored in the checkpoint); red,
            green and blue are scaled as those weights were trained with, other bands by the data's own mean
            and deviation (recipe, normalisation=...)
          - recipe: iterations; OHEM on the main head alone; the "prediction maps" that scales and flips add
            up are logits; OHEM, scales and flips for ADE20K; scaled crops and test images are resampled
            bilinearly, antialiased where they are reduced; pictures of the test are scaled, then cut into
            tiles in which the module sums over as many cells as in a training crop
Symbols   N images  B bands  K classes  C width (128)  P = h w pixels of F; x8 is a level at stride 8: (N, .,
          H/8, W/8), x32 likewise
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.nets import checks
from labelscape.nets.backbones import Trunk, trunk
from labelscape.nets.blocks import Network, conv_bn_relu, resize, resize_like, without_autocast
from labelscape.nets.checks import OF_WEIGHTS, Effect
from labelscape.nets.context import ASPP, PyramidPooling
from labelscape.nets.kernels.distance import WEIGHTINGS, relation_sum

BASES = ("plain", "ppm", "aspp")
CONTEXTS = ("dgcw", "gap", "se", "nl-h", "nl-d", "none")
FUSES = ("concat", "upsample", "none")
AGGREGATIONS = ("sum", "mean")
DOWNSAMPLES = ("bilinear", "max", "avg")
ABLATIONS = ("conv", "conv-input")


class ChannelWeighting(nn.Module):
    """The DGCW module, sec. 3.2: (N, C, h, w) -> (N, C, h, w); 5 (C^2 + C) parameters. Computed in float32
    inside autocast too, and float32 is what it
    returns there.
    """

    def __init__(self, width: int, *, weighting: str = "dbs", agg: str = "sum") -> None:
        super().__init__()
        self.weighting, self.agg = weighting, agg
        if weighting not in ABLATIONS:
            self.query = nn.Conv2d(width, width, 1)
            self.key = nn.Conv2d(width, width, 1)
        if weighting != "conv-input":
            self.value = nn.Conv2d(width, width, 1)
        self.first = nn.Conv2d(width, width, 1)  # g = second(ReLU(first(.)))
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        # Half precision would lose the distances: they are small differences of large numbers.
        with without_autocast(features):
            full = features.to(self.first.weight.dtype)  # (N, C, h, w)  F
            # Not cast back: the sum over j is one large constant per channel (about 90 at 25 x 25 cells) with
            # small differences between pixels, of which bfloat16 would round 7 % away.
            return full + self._update(full)  # (N, C, h, w)  eq. 5

    def _update(self, features: Tensor) -> Tensor:
        """The sum (or mean) over j of R_ij."""
        if self.weighting in ABLATIONS:
            own = features if self.weighting == "conv-input" else self.value(features)
            return self.second(self.first(own).relu())
        query, key, value = (
            conv(features).flatten(2) for conv in (self.query, self.key, self.value)
        )  # (N, C, P)  eq. 1
        hidden = relation_sum(
            query, key, value, self.first.weight.flatten(1), self.first.bias, weighting=self.weighting
        )  # eqs. 2-4
        pixels = query.shape[-1]
        # The second convolution once, of the sum over j: W2 sum_j h_ij + P b2 = P (W2 sum_j h_ij / P + b2).
        mean = self.second((hidden / pixels).to(features.dtype).view_as(features))  # (N, C, h, w)  eqs. 4, 5
        return mean if self.agg == "mean" else pixels * mean


class NonLocal(nn.Module):
    """NL of table 2, eq. 6: F + h(softmax(W1 F, W2 F) W3 F). (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, width: int, *, scaled: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))
        self.scale = width**-0.5 if scaled else 1.0

    def forward(self, features: Tensor) -> Tensor:
        # torch's attention (never P x P in memory where it has a fast kernel) expects heads: here one.
        query, key, value = (
            conv(features).flatten(2).mT[:, None] for conv in (self.query, self.key, self.value)
        )  # (N, 1, P, C)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)  # (N, 1, P, C)
        return features + self.out(mixed[:, 0].mT.reshape(features.shape))  # (N, C, h, w)  eq. 6


class Relation(nn.Module):
    """Sec. 3.1, 4.3: X to C channels, down by `ratio` (1 for NL-H), `update` (DGCW or NL), and back as
    `fuse` says.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        update: nn.Module,
        *,
        ratio: int,
        reduce_kernel: int,
        downsample: str,
        fuse: str,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(inputs, width, reduce_kernel)
        self.update = update
        self.ratio, self.downsample, self.fuse, self.align_corners = ratio, downsample, fuse, align_corners
        self.width = {"concat": inputs + width, "upsample": width, "none": width}[fuse]

    def forward(self, x8: Tensor) -> Tensor:
        x32 = self.reduce(x8)  # (N, C, H/8, W/8)
        x32 = shrink(x32, self.ratio, self.downsample, self.align_corners)  # (N, C, H/32, W/32)  F
        x32 = self.update(x32)  # (N, C, H/32, W/32)
        if self.fuse == "none":
            return x32
        context = resize_like(x32, x8, align_corners=self.align_corners)  # (N, C, H/8, W/8)
        return context if self.fuse == "upsample" else torch.cat([x8, context], dim=1)


def shrink(features: Tensor, ratio: int, how: str, align_corners: bool) -> Tensor:
    """(N, C, h, w) -> (N, C, ceil(h / ratio), ceil(w / ratio)): 97 -> 25 for a ratio of 4."""
    if ratio == 1:
        return features
    if how == "bilinear":
        # Not -(-side // ratio): recorded as ONNX, a negative number is rounded towards 0.
        height, width = ((side + ratio - 1) // ratio for side in features.shape[-2:])
        return resize(features, (height, width), align_corners=align_corners)
    pool = F.max_pool2d if how == "max" else F.avg_pool2d
    return pool(features, ratio, ceil_mode=True)


class GlobalPool(nn.Module):
    """GAP of table 2: the mean of X through a 1x1 convolution, beside X. (N, C', h, w) -> (N, C' + C, h,
    w).
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, width, 1)
        self.width = inputs + width

    def forward(self, x8: Tensor) -> Tensor:
        context = self.squeeze(x8.mean((2, 3), keepdim=True))  # (N, C, 1, 1)
        return torch.cat([x8, context.expand(-1, -1, *x8.shape[-2:])], dim=1)


class SqueezeExcite(nn.Module):
    """SE of table 2: X times weights from its mean. (N, C', h, w) -> (N, C', h, w)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, inputs, 1)
        self.width = inputs

    def forward(self, x8: Tensor) -> Tensor:
        hidden = self.squeeze(x8.mean((2, 3), keepdim=True)).relu()  # (N, C, 1, 1)
        return x8 * torch.sigmoid(self.excite(hidden))  # (N, C', h, w)


def base_of(name: str, inputs: int, branch_width: int, align_corners: bool) -> tuple[nn.Module, int]:
    """Sec. 4.1: the base network's module on layer4, and the width of its output X."""
    # Bins and rates: sec. 4.1.
    if name == "ppm":
        return PyramidPooling(
            inputs, branch_width, bins=(1, 2, 3, 6), align_corners=align_corners
        ), inputs + 4 * branch_width
    if name == "aspp":
        return ASPP(inputs, branch_width, rates=(12, 24, 36)), branch_width
    return nn.Identity(), inputs


def head_of(inputs: int, width: int, classes: int) -> nn.Sequential:
    """3x3 to `width`, BN, ReLU, dropout, 1x1 to the classes (ours: dropout 0.1 as in OCNet and CCNet)."""
    return nn.Sequential(conv_bn_relu(inputs, width), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))


def convolve(conv: nn.Conv2d, features: Tensor, *, exact: int) -> Tensor:
    """`conv(features)` in float32, of which all but the last `exact` channels are multiplied as autocast
    does: those are few (C of some 2,000), so half precision keeps most of its speed.
    """
    rough = features.shape[1] - exact
    (rough_weight, exact_weight), padding = conv.weight.split([rough, exact], dim=1), conv.padding
    with without_autocast(features):
        found = F.conv2d(features[:, rough:].to(conv.weight.dtype), exact_weight, conv.bias, padding=padding)
    return found + F.conv2d(features[:, :rough], rough_weight, padding=padding) if rough else found


def to_pixels(logits: Tensor, image: Tensor, stride: int, align_corners: bool) -> Tensor:
    """(N, K, h, w) at `stride` -> (N, K, H, W). With `align_corners` cell i stands on pixel `stride` i
    whatever the size, so a crop sees the grid the scene sees, and pixels beyond the last cell repeat it.
    """
    if not align_corners:
        return resize_like(logits, image)
    height, width = (stride * (side - 1) + 1 for side in logits.shape[-2:])
    grid = resize(logits, (height, width), align_corners=True)
    return F.pad(grid, (0, image.shape[-1] - width, 0, image.shape[-2] - height), mode="replicate")


class DGCWNet(Network):
    """Fig. 2. Options as `dgcwnet` has them."""

    reach = None  # all contexts but "none" see the whole image

    def __init__(
        self,
        in_channels: int,
        classes: int,
        levels: Trunk,
        base: nn.Module,
        context: nn.Module,
        head: nn.Module,
        *,
        aux_width: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes, self.stride = in_channels, classes, max(levels.strides)
        self.align_corners = align_corners
        self.trunk, self.base, self.context, self.head = levels, base, context, head
        self.aux = head_of(levels.widths[2], aux_width, classes)

    def headed(self, features: Tensor) -> Tensor:
        """The head. Under autocast its first convolution takes DGCW's channels in float32, up to the batch
        normalisation that subtracts their large mean.
        """
        relation, kind = self.context, features.device.type
        half = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if not (half and isinstance(relation, Relation) and isinstance(relation.update, ChannelWeighting)):
            return self.head(features)
        if relation.fuse == "none":  # the head is a single convolution
            return convolve(self.head, features, exact=features.shape[1])
        (conv, norm, relu), dropout, last = self.head
        exact = relation.update.second.out_channels
        return last(dropout(relu(norm(convolve(conv, features, exact=exact)))))

    # fmt: off
    def scores(self, image: Tensor) -> dict[str, Tensor]:
        # layer1 .. layer4: (N, 256, H/4, W/4) .. (N, 2048, H/8, W/8)
        levels = self.trunk(image)
        x8 = self.base(levels[-1])                                             # (N, ., H/8, W/8)  X
        # (N, K, H/8, W/8), H/32 where fuse="none"
        logits = self.headed(self.context(x8))
        logits = resize_like(logits, x8, align_corners=self.align_corners)
        heads = {"logits": to_pixels(logits, image, self.stride, self.align_corners)}
        if self.training:
            # eq. 7, L_4
            heads["aux"] = to_pixels(self.aux(levels[2]), image, self.stride, self.align_corners)
        return heads
    # fmt: on


def context_of(
    name: str,
    inputs: int,
    width: int,
    *,
    weighting: str,
    agg: str,
    nl_scaled: bool,
    reduce_kernel: int,
    downsample: str,
    fuse: str,
    align_corners: bool,
) -> tuple[nn.Module, int]:
    """The context module between X and the head (tables 1 and 2), and the width of its output."""
    if name == "none":
        return nn.Identity(), inputs
    if name in ("gap", "se"):
        simple = GlobalPool(inputs, width) if name == "gap" else SqueezeExcite(inputs, width)
        return simple, simple.width
    update = (
        ChannelWeighting(width, weighting=weighting, agg=agg)
        if name == "dgcw"
        else NonLocal(width, scaled=nl_scaled)
    )
    relation = Relation(
        inputs,
        width,
        update,
        ratio=1 if name == "nl-h" else 4,  # sec. 4.3; NL-H keeps the high resolution (sec. 4.4.1)
        reduce_kernel=reduce_kernel,
        downsample=downsample,
        fuse=fuse,
        align_corners=align_corners,
    )
    return relation, relation.width


def dgcwnet(
    *,
    in_channels: int,
    classes: int,
    backbone: str = "resnet101",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    stem: str = "standard",
    base: str = "plain",
    context: str = "dgcw",
    weighting: str = "dbs",
    agg: str = "sum",
    fuse: str = "concat",
    downsample: str = "bilinear",
    reduce_kernel: int = 3,
    nl_scaled: bool = False,
    align_corners: bool = True,
    width: int = 128,
    base_width: int = 512,
    head_width: int = 512,
    aux_width: int = 512,
) -> DGCWNet:
    """Table 1, "ResNet-101 + DGCW" (59.71 M parameters with 19 classes, 59.83 M with stem="deep");
    base="aspp" is the row of table 3.

    `base` plain, ppm, aspp; `context` dgcw, gap, se, nl-h, nl-d, none (tables 1 and 2); `weighting` dbs,
    softmax, tanh, conv, conv-input; `fuse` concat, upsample, none. `width` is C; `base_width` that of each
    PPM or ASPP branch. `backbone`, `pretrained`, `weights`, `first_conv`, `stem` as `backbones.trunk` has
    them. Raises UnknownName for an unknown name, BadOption for impossible numbers.
    """
    checks.one_of("base", base, BASES)
    checks.one_of("context", context, CONTEXTS)
    checks.one_of("weighting", weighting, WEIGHTINGS + ABLATIONS)
    checks.one_of("fuse", fuse, FUSES)
    checks.one_of("agg", agg, AGGREGATIONS)
    checks.one_of("downsample", downsample, DOWNSAMPLES)
    checks.one_of("reduce_kernel", reduce_kernel, (1, 3))
    checks.sizes(width=width, base_width=base_width, head_width=head_width, aux_width=aux_width)
    checks.switches(nl_scaled=nl_scaled, align_corners=align_corners)
    first = {"pretrained": pretrained, "weights": weights, "first_conv": first_conv}
    levels = trunk(backbone, in_channels=in_channels, output_stride=8, stem=stem, **first)
    module, inputs = base_of(base, levels.widths[-1], base_width, align_corners)
    relation, inputs = context_of(
        context,
        inputs,
        width,
        weighting=weighting,
        agg=agg,
        nl_scaled=nl_scaled,
        reduce_kernel=reduce_kernel,
        downsample=downsample,
        fuse=fuse,
        align_corners=align_corners,
    )
    head = nn.Conv2d(inputs, classes, 1) if fuse == "none" else head_of(inputs, head_width, classes)
    return DGCWNet(
        in_channels, classes, levels, module, relation, head, aux_width=aux_width, align_corners=align_corners
    )


def _with_context(option: str, *contexts: str) -> Effect:
    needs = " or ".join(repr(context) for context in contexts)
    return Effect(option, f"context={needs}", lambda options: options["context"] in contexts)


EFFECTS = (
    OF_WEIGHTS,
    _with_context("weighting", "dgcw"),
    _with_context("agg", "dgcw"),
    Effect("agg", f"weighting={' or '.join(WEIGHTINGS)}", lambda options: options["weighting"] in WEIGHTINGS),
    _with_context("nl_scaled", "nl-h", "nl-d"),
    _with_context("downsample", "dgcw", "nl-d"),
    _with_context("reduce_kernel", "dgcw", "nl-h", "nl-d"),
    _with_context("fuse", "dgcw", "nl-h", "nl-d"),  # the others make no map of their own
    _with_context("width", *(context for context in CONTEXTS if context != "none")),
    Effect("base_width", "base='ppm' or 'aspp'", lambda options: options["base"] != "plain"),
    Effect("head_width", "fuse='concat' or 'upsample'", lambda options: options["fuse"] != "none"),
)
