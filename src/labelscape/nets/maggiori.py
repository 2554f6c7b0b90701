"""One small encoder and four ways back to full resolution: a score upsampled, unpooling, skip connections, an
MLP over all levels.

Paper     E. Maggiori, Y. Tarabalka, G. Charpiat, P. Alliez. "High-Resolution Aerial Image Labeling with
          Convolutional Neural Networks". IEEE TGRS 55(12), 2017. https://arxiv.org/abs/1611.01962
          Released Caffe networks: https://github.com/emaggiori/CaffeRemoteSensing
Reads as  table I -> Encoder   sec. II-C, fig. 1 -> Score (fcn)
          sec. III-B, fig. 4 and 5 -> Mirror (unpooling)   sec. III-C, fig. 6 -> Skip
          sec. IV, fig. 7 -> Perceptron (mlp)   sec. V-C, second phase -> start_from
Differs   - table I prints a fourth pooling: the text (sampling down by 16 in all) and the release have three
          - the paper says "bilinear": upsampling="deconv" is the release's bilinear deconvolution, into which
            zeros enter at the border; "interpolate" repeats the edge instead. The release learns the x16
            deconvolution of the fcn and keeps all others fixed
          - hidden layer of the mlp: 1024 units and a ReLU as the paper says; variant="released" is 128 units
            without ReLU
          - batch normalisation without scale and shift, as released (affine=True adds them); bn_momentum is
            0.1 where the release has 0.001 (1 - Caffe's moving fraction), which needs thousands of steps
            before evaluation sees what training saw
          - unpooling (never released): normalisation and ReLU after every deconvolution but the last
          - "initialized following [30]" is He et al. by fan-in, biases 0, and for a deconvolution the fan-in
            is counted over its input channels and whole kernel (ours)
          - input: each band minus its mean, divided by its deviation (ours); the text sees "no need to
            normalize", and the release reads raw values 0 to 255
          - the rate falls to a tenth every 10,000 steps as the text says (recipe); the release's factor of
            0.9998 for each step is 7.4 in 10,000. The release tests its fcn at 40,000 steps, the text at
            45,000
          - clutter in the truth of Vaihingen is left out of the score as of the loss (recipe: the text
            ignores the class); the release's script leaves it out of the loss alone and counts it as wrong
          - large images: tiles overlap by as much as the network reaches and are padded with their edge, so
            that no tile shows (ours); the text overlaps by the network's padding, the release cuts 1600 with
            37 pixels of margin and mirrors the image
Symbols   N images  B bands  C width  K classes  D hidden units; x4 is a level at stride 4 of the encoder's
          input: (N, C2, H/4, W/4)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.nets.blocks import Network, is_recorded, resize, unpool, without_autocast
from labelscape.nets.checks import Effect
from labelscape.nets.kernels.perceptron import perceptron

BORDERS = {"deconv": "constant", "interpolate": "replicate"}
"""What each reading of "bilinear upsampling" sees one pixel beyond the edge: zero, or the edge again."""

STRIP_BYTES = 64 * 2**20
"""Ours: most memory for the perceptron's concatenated levels and hidden layer together, in evaluation."""


class Features(NamedTuple):
    """The encoder's output: the last feature map before each pooling, and where each pooling found its
    maxima.
    """

    x2: Tensor
    x4: Tensor
    x8: Tensor
    x16: Tensor
    places: tuple[Tensor, Tensor, Tensor]
    """Of x2, x4, x8: indices of the maxima, as F.max_pool2d returns them."""


class Convolutions(nn.Sequential):
    """Two convolutions of one level, each with normalisation and ReLU; `conv<level>_1` may be 5 x 5 of
    stride 2.
    """

    def __init__(self, level: int, inputs: int, width: int, *, affine: bool, bn_momentum: float) -> None:
        first = nn.Conv2d(inputs, width, 5, 2, 2) if level == 1 else nn.Conv2d(inputs, width, 3, 1, 1)
        steps: list[tuple[str, nn.Module]] = []
        for number, conv in enumerate((first, nn.Conv2d(width, width, 3, 1, 1)), start=1):
            # The convolutions keep their biases, as released, although the normalisation cancels them.
            norm = nn.BatchNorm2d(width, eps=1e-5, momentum=bn_momentum, affine=affine)
            steps += [
                (f"conv{level}_{number}", conv),
                (f"norm{level}_{number}", norm),
                (f"relu{level}_{number}", nn.ReLU(inplace=True)),
            ]
        super().__init__(OrderedDict(steps))


class Encoder(nn.Module):
    """Table I without its last row: conv1_1 ... conv4_2 and three poolings. (N, B, H, W) -> Features."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        affine: bool,
        bn_momentum: float,
        exact_places: bool = False,
    ) -> None:
        super().__init__()
        inputs = in_channels
        # Rounding to bfloat16 moves the maximum in 1.5 % of the windows, and unpooling then puts the value on
        # another pixel: 30 % deviation of the logits, against 2 % with these levels in float32.
        self.exact_places = exact_places
        for level, width in enumerate(widths, start=1):
            self.add_module(
                f"level{level}", Convolutions(level, inputs, width, affine=affine, bn_momentum=bn_momentum)
            )
            inputs = width

    # fmt: off
    def forward(self, image: Tensor) -> Features:
        with without_autocast(image) if self.exact_places else nullcontext():
            x2 = self.level1(image)                                        # (N, C1, H/2, W/2)    conv1_2
            half, place1 = F.max_pool2d(x2, 2, return_indices=True)
            x4 = self.level2(half)                                         # (N, C2, H/4, W/4)    conv2_2
            half, place2 = F.max_pool2d(x4, 2, return_indices=True)
            x8 = self.level3(half)                                         # (N, C3, H/8, W/8)    conv3_2
            half, place3 = F.max_pool2d(x8, 2, return_indices=True)
        # (N, C4, H/16, W/16)  conv4_2
        return Features(x2, x4, x8, self.level4(half), (place1, place2, place3))
    # fmt: on


def upsample(level: Tensor, factor: int, border: str = "constant") -> Tensor:
    """Bilinear upsampling, (N, C, h, w) -> (N, C, factor h, factor w).

    `border="constant"` equals Caffe's bilinear deconvolution, kernel 2 factor - factor % 2 and as many
    channels as groups; `border="replicate"` equals F.interpolate(align_corners=False).
    """
    return level if factor == 1 else upsample_framed(F.pad(level, (1, 1, 1, 1), mode=border), factor)


def upsample_framed(framed: Tensor, factor: int) -> Tensor:
    """`upsample` of what lies within a frame one pixel wide: away from its own border interpolation sees
    no border at all.
    """
    if factor == 1:
        return framed[..., 1:-1, 1:-1]
    height, width = framed.shape[-2:]
    wide = resize(framed, (factor * height, factor * width), align_corners=False)
    return wide[..., factor:-factor, factor:-factor]


def bilinear_deconv(classes: int, factor: int) -> nn.ConvTranspose2d:
    """A learned deconvolution, one filter for each class, that starts as bilinear upsampling by an even
    factor.
    """
    deconv = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, factor // 2, groups=classes, bias=False)
    # On the processor, also in a network of shapes: else torch would load its compiler, which takes a second.
    with torch.device("cpu"):
        ramp = 1 - ((torch.arange(2 * factor) + 0.5) / factor - 1).abs()  # (2 factor,) a triangle
    with torch.no_grad():
        deconv.weight.copy_(torch.outer(ramp, ramp).expand_as(deconv.weight))
    return deconv


class Score(nn.Module):
    """Fig. 1: one score map at stride 16, upsampled by 16. Features -> (N, K, H, W)."""

    reach = 83
    """Pixels from an output to the farthest input it depends on. Cell n of x16 sees pixels 16 n - 60 to
    16 n + 74 (135 of them), and pixel 16 n + 7 is the last that is interpolated from cell n - 1: 60 + 16 + 7.
    """

    def __init__(self, widths: Sequence[int], classes: int, border: str) -> None:
        super().__init__()
        self.score = nn.Conv2d(widths[-1], classes, 1)
        self.up16 = bilinear_deconv(classes, 16) if border == "constant" else None

    def forward(self, features: Features) -> Tensor:
        score = self.score(features.x16)  # (N, K, H/16, W/16)
        return upsample(score, 16, "replicate") if self.up16 is None else self.up16(score)  # (N, K, H, W)


class Mirror(nn.Module):
    """Fig. 4: the encoder reflected, deconvolutions for convolutions and unpooling for pooling. Features
    -> (N, K, H, W).
    """

    reach = 134
    """In pixels, as Score's. The convolutions of the way back look from pixel 16 n - 28 at cell n + 2 of x16,
    which sees 74 pixels to the right of its own: 28 + 32 + 74.
    """

    # fmt: off
    def __init__(self, widths: Sequence[int], classes: int, *, affine: bool, bn_momentum: float) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            norm = nn.BatchNorm2d(outputs, eps=1e-5, momentum=bn_momentum, affine=affine)
            return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 3, 1, 1), norm, nn.ReLU(inplace=True))

        c1, c2, c3, c4 = widths
        self.level4 = nn.Sequential(block(c4, c4), block(c4, c3))          # deconv4_2, deconv4_1
        self.level3 = nn.Sequential(block(c3, c3), block(c3, c2))
        self.level2 = nn.Sequential(block(c2, c2), block(c2, c1))
        self.level1 = block(c1, c1)                                        # deconv1_2
        # deconv1_1: 2 h - 1 pixels and one more
        self.score = nn.ConvTranspose2d(c1, classes, 5, 2, 2, 1)
    # fmt: on

    # fmt: off
    def forward(self, features: Features) -> Tensor:
        place1, place2, place3 = features.places
        x8 = unpool(self.level4(features.x16), place3)                     # (N, C3, H/8, W/8)  fig. 5
        x4 = unpool(self.level3(x8), place2)                               # (N, C2, H/4, W/4)
        x2 = unpool(self.level2(x4), place1)                               # (N, C1, H/2, W/2)
        return self.score(self.level1(x2))                                 # (N, K, H, W)
    # fmt: on


class Skip(nn.Module):
    """Fig. 6: a score map from every level, upsampled by two and added, coarse to fine. Features -> (N, K,
    H, W).
    """

    reach = 90
    """In pixels, as Score's. Four upsamplings by two take pixel 16 n + 14 to cell n - 1: 60 + 16 + 14."""

    def __init__(self, widths: Sequence[int], classes: int, border: str) -> None:
        super().__init__()
        self.score1, self.score2, self.score3, self.score4 = (
            nn.Conv2d(width, classes, 1) for width in widths
        )
        self.border = border

    # fmt: off
    def forward(self, features: Features) -> Tensor:
        x16 = self.score4(features.x16)                                    # (N, K, H/16, W/16)
        x8 = upsample(x16, 2, self.border) + self.score3(features.x8)      # (N, K, H/8, W/8)
        x4 = upsample(x8, 2, self.border) + self.score2(features.x4)       # (N, K, H/4, W/4)
        x2 = upsample(x4, 2, self.border) + self.score1(features.x2)       # (N, K, H/2, W/2)
        return upsample(x2, 2, self.border)                                # (N, K, H, W)
    # fmt: on


class Perceptron(nn.Module):
    """Fig. 7: all levels upsampled to stride 2, concatenated, and classified pixel by pixel. Features ->
    (N, K, H, W).
    """

    reach = 84
    """In pixels, as Score's. Upsampling by eight and by two takes pixel 16 n + 8 to cell n - 1: 60 + 16 + 8.
    """

    def __init__(self, widths: Sequence[int], classes: int, border: str, *, hidden: int, relu: bool) -> None:
        super().__init__()
        self.mlp1 = nn.Conv2d(sum(widths), hidden, 1)
        self.mlp2 = nn.Conv2d(hidden, classes, 1)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.border = border

    # fmt: off
    def forward(self, features: Features) -> Tensor:
        levels = tuple(F.pad(level, (1, 1, 1, 1), mode=self.border) for level in features[:4])
        if isinstance(self.relu, nn.Identity):
            x2 = self.classify_linearly(levels)                            # (N, K, H/2, W/2)
        # a loop over rows would fix the size of an exported network
        elif is_recorded():
            x2 = self.classify(levels)
        # measured on processors alone; shapes alone ("meta") are counted as the paper has them
        elif levels[0].device.type == "cpu" and not (torch.is_grad_enabled() and self.is_watched()):
            x2 = self.classify_in_chunks((features[0], *levels[1:]))
        elif torch.is_grad_enabled():
            x2 = self.classify(levels)
        else:
            x2 = self.classify_in_strips(levels)
        return upsample(x2, 2, self.border)                                # (N, K, H, W)
    # fmt: on

    def classify(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Levels within their frames -> (N, K, H/2, W/2)."""
        # The upsampled levels have no name, so that they are freed before the hidden layer is allocated.
        # (N, sum C, H/2, W/2)
        pool = torch.cat([upsample_framed(level, 2**i) for i, level in enumerate(levels)], dim=1)
        return self.mlp2(self.relu(self.mlp1(pool)))  # (N, D, H/2, W/2) -> (N, K, H/2, W/2)

    def classify_linearly(self, levels: tuple[Tensor, ...]) -> Tensor:
        """`classify` without ReLU: the two layers are one, and it commutes with upsampling if its bias
        comes after.
        """
        second, first = self.mlp2.weight.flatten(1), self.mlp1.weight.flatten(1)
        weights = (second @ first)[..., None, None].split([level.shape[1] for level in levels], dim=1)
        maps = (
            upsample_framed(F.conv2d(level, weight), 2**i)
            for i, (level, weight) in enumerate(zip(levels, weights, strict=True))
        )
        return sum(maps) + (second @ self.mlp1.bias + self.mlp2.bias)[:, None, None]

    def is_watched(self) -> bool:
        """Has a hook been set on one of the two layers? It is given their input, which the kernel does not
        keep for a gradient.
        """
        return any(m._forward_hooks or m._forward_pre_hooks for m in (self.mlp1, self.mlp2))

    def classify_in_chunks(self, levels: tuple[Tensor, ...]) -> Tensor:
        """`classify` by the kernel: a third of the time, equal up to the last digits. The finest level has no
        frame.
        """
        first, second = self.mlp1.weight.flatten(1), self.mlp2.weight.flatten(1)
        # The second layer is called for its hooks alone; the classes are the same with and without.
        see = self.mlp2 if self.is_watched() else None
        return perceptron(levels, first, self.mlp1.bias, second, self.mlp2.bias, see=see)

    def classify_in_strips(self, levels: tuple[Tensor, ...]) -> Tensor:
        """`classify`, a few rows of one image at a time: the pool and the hidden layer are some 270 times
        the logits' size.
        """
        height, width = levels[0].shape[-2] - 2, levels[0].shape[-1] - 2
        row_bytes = (self.mlp1.in_channels + self.mlp1.out_channels) * width * levels[0].element_size()
        rows = max(1, STRIP_BYTES // (8 * row_bytes)) * 8  # 8 rows at stride 2 are one at stride 16
        images = []
        for one in range(len(levels[0])):
            strips = []
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                parts = (
                    level[one : one + 1, :, top >> i : (bottom >> i) + 2] for i, level in enumerate(levels)
                )
                strips.append(self.classify(tuple(parts)))  # (1, K, rows, W/2)
            images.append(torch.cat(strips, dim=2))
        return torch.cat(images)


class HighResolution(Network):
    """An encoder and one of the four heads; with `downsample` both work on the image averaged down by it
    (sec. V-B, Potsdam).
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: Encoder,
        head: nn.Module,
        *,
        downsample: int,
        border: str,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, classes
        self.encoder, self.head = encoder, head
        self.downsample, self.border = downsample, border
        self.stride = 16 * downsample
        # The head's reach in averaged pixels, plus that of the bilinear upsampling back and of the average
        # itself.
        self.reach = downsample * head.reach + (3 * downsample - 2) // 2
        for module in self.modules():
            # The bilinear deconvolution has no bias, and keeps its own start.
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                # A deconvolution's weight is (inputs, outputs, ...): what torch calls fan_out is its fan-in.
                fan_in = "fan_out" if isinstance(module, nn.ConvTranspose2d) else "fan_in"
                # Sec. V-C, "initialized following [30]": He et al.
                nn.init.kaiming_normal_(module.weight, mode=fan_in, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        small = F.avg_pool2d(image, self.downsample) if self.downsample > 1 else image
        logits = self.head(self.encoder(small))  # (N, K, H/downsample, W/downsample)
        return {"logits": upsample(logits, self.downsample, self.border)}


def start_from(net: Network, base_state: Mapping[str, Tensor]) -> list[str]:
    """Copy the encoder of a trained base network into a derived one (sec. V-C, second phase) and return the
    names copied.

    `base_state` is the state_dict of an `fcn` (or any network of this module). Raises BadInput if the
    encoders differ.
    """
    mine = {name: value for name, value in net.state_dict().items() if name.startswith("encoder.")}
    theirs = {name: value for name, value in base_state.items() if name.startswith("encoder.")}
    if not mine or not theirs:
        which = "the network to start from" if mine else type(net).__name__
        raise BadInput(f"There is no encoder in {which}; this start is for fcn, unpooling, skip and mlp.")
    if mine.keys() != theirs.keys():
        odd = sorted(mine.keys() ^ theirs.keys())[0]
        raise BadInput(
            f"Only one of the two networks has {odd}; build both with the same affine and number of widths."
        )
    if any(mine[name].shape != theirs[name].shape for name in mine):
        raise BadInput(
            f"The base network has {encoder_sizes(theirs)}, this one {encoder_sizes(mine)}; build both alike."
        )
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(theirs[name])
    return list(mine)


def encoder_sizes(state: Mapping[str, Tensor]) -> str:
    """For a message: the bands and widths of an encoder's state."""
    first = [value for name, value in state.items() if name.endswith("_1.weight") and value.ndim == 4]
    return f"{first[0].shape[1]} bands and widths {tuple(value.shape[0] for value in first)}"


def build(
    head: type[nn.Module],
    in_channels: int,
    classes: int,
    widths: Sequence[int],
    affine: bool,
    bn_momentum: float,
    downsample: int,
    upsampling: str,
    **head_options: object,
) -> HighResolution:
    """Build a network from checked options. Raises BadOption for impossible sizes, UnknownName for an unknown
    `upsampling`.
    """
    if len(widths) != 4 or not all(isinstance(width, int) and width > 0 for width in widths):
        raise BadOption(
            f"widths={tuple(widths)} must be four whole numbers of at least 1, such as (32, 64, 96, 128)."
        )
    if not isinstance(downsample, int) or downsample < 1:
        raise BadOption(f"downsample={downsample!r} must be a whole number of at least 1.")
    if not 0 < bn_momentum <= 1:
        raise BadOption(f"bn_momentum={bn_momentum} must be above 0 and at most 1.")
    if upsampling not in BORDERS:
        raise UnknownName("upsampling", upsampling, BORDERS)
    border = BORDERS[upsampling]
    if head is Mirror:
        made = Mirror(widths, classes, affine=affine, bn_momentum=bn_momentum)
    else:
        made = head(widths, classes, border, **head_options)
    encoder = Encoder(
        in_channels, widths, affine=affine, bn_momentum=bn_momentum, exact_places=head is Mirror
    )
    return HighResolution(in_channels, classes, encoder, made, downsample=downsample, border=border)


def fcn(
    *,
    in_channels: int,
    classes: int,
    widths: Sequence[int] = (32, 64, 96, 128),
    affine: bool = False,
    bn_momentum: float = 0.1,
    downsample: int = 1,
    upsampling: str = "deconv",
) -> HighResolution:
    """The base FCN of table I; 470,405 parameters for four bands and five classes. The x16 deconvolution
    is learned.
    """
    return build(Score, in_channels, classes, widths, affine, bn_momentum, downsample, upsampling)


def unpooling(
    *,
    in_channels: int,
    classes: int,
    widths: Sequence[int] = (32, 64, 96, 128),
    affine: bool = False,
    bn_momentum: float = 0.1,
    downsample: int = 1,
    upsampling: str = "deconv",
) -> HighResolution:
    """Fig. 4, 929,957 parameters; `upsampling` matters only with `downsample`."""
    return build(Mirror, in_channels, classes, widths, affine, bn_momentum, downsample, upsampling)


def skip(
    *,
    in_channels: int,
    classes: int,
    widths: Sequence[int] = (32, 64, 96, 128),
    affine: bool = False,
    bn_momentum: float = 0.1,
    downsample: int = 1,
    upsampling: str = "deconv",
) -> HighResolution:
    """Fig. 6, 466,260 parameters."""
    return build(Skip, in_channels, classes, widths, affine, bn_momentum, downsample, upsampling)


def mlp(
    *,
    in_channels: int,
    classes: int,
    widths: Sequence[int] = (32, 64, 96, 128),
    affine: bool = False,
    bn_momentum: float = 0.1,
    downsample: int = 1,
    upsampling: str = "deconv",
    variant: str = "paper",
    hidden: int | None = None,
    relu: bool | None = None,
) -> HighResolution:
    """Fig. 7; 798,469 parameters with the paper's 1024 hidden units and ReLU, 506,373 with variant="released"
    (128, linear).

    `hidden` and `relu` replace what the variant says (the networks released for the Inria data: 256, linear).
    """
    if variant not in MLP_VARIANTS:
        raise UnknownName("variant of mlp", variant, MLP_VARIANTS)
    usual_hidden, usual_relu = MLP_VARIANTS[variant]
    hidden, relu = usual_hidden if hidden is None else hidden, usual_relu if relu is None else relu
    if not isinstance(hidden, int) or hidden < 1:
        raise BadOption(f"hidden={hidden!r} must be a whole number of at least 1.")
    return build(
        Perceptron,
        in_channels,
        classes,
        widths,
        affine,
        bn_momentum,
        downsample,
        upsampling,
        hidden=hidden,
        relu=relu,
    )


MLP_VARIANTS = {"paper": (1024, True), "released": (128, False)}
"""Hidden units, and whether a ReLU follows them."""

UNPOOLING_EFFECTS = (
    Effect("upsampling", "downsample=2 or more", lambda options: options["downsample"] != 1),
)
MLP_EFFECTS = (
    Effect(
        "variant",
        "hidden or relu left to it",
        lambda options: options["hidden"] is None or options["relu"] is None,
    ),
)
