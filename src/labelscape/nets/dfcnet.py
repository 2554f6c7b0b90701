"""Dense Fusion Classmate Network: a fully convolutional DenseNet-121 sees land and roads in one batch; all
its layers are summed.

Paper     C. Tian, C. Li, J. Shi. "Dense Fusion Classmate Network for Land Cover Classification". CVPR
          Workshops (DeepGlobe) 2018.
Reads as  fig. 2 -> dense.DenseLayer, dense.DenseBlock
          sec. 2.1 -> TransitionDown, TransitionUp, Encoder, Decoder
          sec. 2.1 and 2.3, fig. 1 and 2 -> dense_fusion   sec. 2.2 and 3.2 -> DenseNetwork.heads
          table 1 -> fc_densenet (baseline), classmate (ClassmateNet), dfcnet
Differs   - only the encoder is pinned ("standard DenseNet 121", "DenseBlock 5, l = 16"): blocks 2 to 5 at
            strides 4 to 32, pool1 a maximum; blocks 6 to 9 at strides 16 to 2 mirror it (decoder=(24, 12, 6,
            3)); "(256, 1*1, 0, 1)" is the 1 x 1 before each upsampling
          - the whole output of a block goes up (upsampled="all"); "new" sends up its layers' outputs alone,
            as FC-DenseNet does
          - dense fusion sums the layers' outputs, as wide in all blocks (fusion="growth"); "proj256" sums
            blocks projected by a 1 x 1
          - the fused map is joined to the last block's projection (fused="concat") or takes its place
            ("replace")
          - "sliced in the deepest convolution layer": after the last shared layer (slice_at="block9");
            "block5" gives each task a decoder
          - task layers: 3 x 3 to head_width, normalisation, ReLU, 1 x 1; the baseline's are one 1 x 1 after
            the last block's projection
          - Caffe's Interp is bilinear with align_corners=True and its average pooling rounds up. Sides of 32
            m + 1, like the paper's 513 to 1025, halve and double exactly, so every image is padded to such a
            side: a tile then gives what the whole scene gives
          - both tasks share one forward and its batch statistics; weights start as DenseNet's do (He et al.),
            or from the baseline's (dfcnet_start), which is how we read "take the DenseNet model as initial
            model", since there is no "pre-train model". pretrained=True is the other reading: ImageNet's
            DenseNet-121 in the encoder, and its last normalisation before the first upsampling
          - the fused map is joined as it is, not normalised: its channels, sums of all layers, start with
            deviations several times those of the projection beside it
          - the baseline's last two 1 x 1 layers have nothing between them: together they are one linear layer
          - batch statistics in several processes are each process's own unless sync_bn is set
          - "unknown" is no class: it is ignored, six are learned and scored; sizes are quoted for seven
          - a map is scaled as the land images, for both tasks (scoring roads on road images: as these)
          - recipe: road and land weigh 1 each, every task averaged over its own labelled pixels; land is
            scaled in the baseline's training too; no flips; road images, smaller than a crop, are padded with
            zeros; how many images of a batch are land, and the scales of the test, for which pictures of 2448
            are cut into tiles of 1025, blended
          - table 1 is of the validation server, whose labels are not public: measured is the score on 203
            training images set apart, as sec. 3.2 does for its crop sizes (ours: which ones), and the other
            600 train, as sec. 3.1 says; sec. 3.3 trains for table 1 on "the trainval set". No score of the
            roads is printed; `table` measures it on the road images set apart
Symbols   N images  B bands  C width  K classes  k growth; x4 is a level at stride 4: (N, C, H/4, W/4), that
          is 8 m + 1 pixels a side
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadInput, BadOption
from labelscape.nets import checks
from labelscape.nets.blocks import Network, conv_bn_relu, enough_values, resize_like
from labelscape.nets.checks import OF_WEIGHTS, Effect
from labelscape.nets.dense import DenseBlock, Grown, recomputed
from labelscape.nets.dfcnet_start import densenet_weights, load_encoder

FUSIONS = ("growth", "proj256")
FUSED = ("concat", "replace")
SLICES = ("block9", "block5")
UPSAMPLED = ("all", "new")


class TransitionDown(nn.Module):
    """Half the channels, half the pixels (rounded up). (N, C, h, w) -> (N, C/2, h/2, w/2)."""

    def __init__(self, inputs: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.checkpointing = checkpointing

    def forward(self, stack: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return recomputed(self, self.halved, stack)
        return self.halved(stack)

    def halved(self, stack: Tensor) -> Tensor:
        narrow = self.conv(F.relu(self.norm(stack), inplace=True))  # (N, C/2, h, w)
        # Caffe rounds up: 513 -> 257 -> 129. A window cut by the border averages the pixels it has.
        return F.avg_pool2d(narrow, 2, ceil_mode=True)  # (N, C/2, h/2, w/2)


class Projection(nn.Module):
    """Normalisation, ReLU, 1 x 1: "(256, 1*1, 0, 1)". (N, C, h, w) -> (N, width, h, w)."""

    def __init__(self, inputs: int, width: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, width, 1, bias=False)
        self.checkpointing = checkpointing

    def forward(self, stack: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return recomputed(self, self.projected, stack)
        return self.projected(stack)

    def projected(self, stack: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(stack), inplace=True))


class TransitionUp(Projection):
    """A block's output, narrowed and upsampled, joined to the skip. (N, C, h, w), (N, S, H, W) -> (N, width +
    S, H, W); on sides of 32 m + 1 pixels H is 2 h - 1, and W is 2 w - 1.
    """

    def forward(self, stack: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([interp(super().forward(stack), skip), skip], dim=1)


def interp(level: Tensor, other: Tensor) -> Tensor:
    """Caffe's Interp to the height and width of `other`: bilinear, corners on corners."""
    return resize_like(level, other, align_corners=True)


class Encoder(nn.Module):
    """DenseNet-121 up to block 5. (N, B, H, W) -> conv1's output at stride 2 and what blocks 2 ... 5 hand
    on, at strides 4 ... 32.
    """

    def __init__(
        self, in_channels: int, stem: int, lengths: Sequence[int], growth: int, *, checkpointing: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(stem)
        self.widths, inputs = [stem], stem
        for number, length in enumerate(lengths, start=2):
            if number > 2:
                self.add_module(f"down{number}", TransitionDown(inputs, checkpointing=checkpointing))
                inputs //= 2
            block = DenseBlock(inputs, length, growth, checkpointing=checkpointing)
            self.add_module(f"block{number}", block)
            inputs = block.outputs
            self.widths.append(inputs)

    # fmt: off
    def forward(self, image: Tensor) -> tuple[Tensor, list[Grown]]:
        x2 = F.relu(self.norm1(self.conv1(image)), inplace=True)           # (N, 64, H/2, W/2)
        block2 = self.block2(F.max_pool2d(x2, 3, 2, 1))                    # (N, 256, H/4, W/4)
        block3 = self.block3(self.down3(block2.stack))                     # (N, 512, H/8, W/8)
        block4 = self.block4(self.down4(block3.stack))                     # (N, 1024, H/16, W/16)
        block5 = self.block5(self.down5(block4.stack))                     # (N, 1024, H/32, W/32)
        return x2, [block2, block3, block4, block5]
    # fmt: on


class Decoder(nn.Module):
    """Blocks 6 ... 8 or 9, then their projection and the fused map. What the encoder gives -> (N, outputs,
    H/2, W/2) or H/4, W/4.
    """

    def __init__(
        self,
        encoder: Encoder,
        lengths: Sequence[int],
        growth: int,
        width: int,
        *,
        fusion: str | None,
        fused: str,
        upsampled: str,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.only_new = upsampled == "new"
        inputs = encoder.block5.new if self.only_new else encoder.block5.outputs
        widths = encoder.widths[1:]
        self.last = 5 + len(lengths)
        # Skips from coarse to fine: blocks 4, 3, 2, then conv1's output.
        for number, (length, skip) in enumerate(zip(lengths, encoder.widths[-2::-1]), start=6):
            self.add_module(f"up{number}", TransitionUp(inputs, width, checkpointing=checkpointing))
            block = DenseBlock(width + skip, length, growth, checkpointing=checkpointing)
            self.add_module(f"block{number}", block)
            widths.append(block.outputs)
            inputs = block.new if self.only_new else block.outputs
        self.project = (
            nn.ModuleList(nn.Conv2d(w, width, 1, bias=False) for w in widths) if fusion == "proj256" else None
        )
        self.fusion = fusion
        if fusion is None or fused == "concat":
            self.add_module(f"out{self.last}", Projection(block.outputs, width, checkpointing=checkpointing))
        fused_width = {None: 0, "growth": growth, "proj256": width}[fusion]
        self.outputs = fused_width + (width if fusion is None or fused == "concat" else 0)

    # fmt: off
    def forward(self, x2: Tensor, encoded: Sequence[Grown]) -> Tensor:
        blocks, skips = list(encoded), [x2, *(block.stack for block in encoded[:-1])]
        for number in range(6, self.last + 1):
            below = blocks[-1].new if self.only_new else blocks[-1].stack
            joined = getattr(self, f"up{number}")(below, skips.pop())      # (N, width + S, 2 h, 2 w)
            blocks.append(getattr(self, f"block{number}")(joined))
        out = getattr(self, f"out{self.last}", None)
        maps = [] if out is None else [out(blocks[-1].stack)]              # (N, 256, H/2, W/2)
        if self.fusion == "growth":
            maps.append(dense_fusion([block.total for block in blocks]))   # (N, k, H/2, W/2)
        elif self.fusion == "proj256":
            maps.append(dense_fusion([project(block.stack) for project, block in zip(self.project, blocks)]))
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)       # (N, 256 + k, H/2, W/2)
    # fmt: on


def dense_fusion(levels: Sequence[Tensor]) -> Tensor:
    """Fig. 1: neighbours summed in pairs without overlap, the coarser upsampled first, again and again until
    one map is left.

    For blocks 2 ... 9: ((2 + 3) + (4 + 5)) + ((6 + 7) + (8 + 9)), (N, C, h, w) each; an odd one out waits for
    the next round.
    """
    while len(levels) > 1:
        pairs = [levels[first : first + 2] for first in range(0, len(levels), 2)]
        levels = [add_at_finer(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return levels[0]


def add_at_finer(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two levels of one width at the height and width of the finer."""
    if one.shape[-2] * one.shape[-1] < other.shape[-2] * other.shape[-1]:
        one, other = other, one
    return one + interp(other, one)


def head(inputs: int, width: int, classes: int) -> nn.Module:
    """Sec. 3.2: "different convolution layers after the slice layer". (N, C, h, w) -> (N, K, h, w); of
    width 0 it is one 1 x 1.
    """
    return (
        nn.Sequential(conv_bn_relu(inputs, width), nn.Conv2d(width, classes, 1))
        if width
        else nn.Conv2d(inputs, classes, 1)
    )


class DenseNetwork(Network):
    """Encoder, decoder and a head for each task; without a classmate there is one task. The paper's first
    task is land, its second roads.

    `net(image)`, `net.heads(image)`   every image is land: {"logits": (N, K, H, W)}
    `net.heads(image, first=n)`        the first n images are land, the others road: {"logits": (n, K, H, W),
                                       "mate": (N - n, mate_classes, H, W)}; a task without images is left out
    `net.both(image)`                  both tasks for every image, to see how much road there is on each land
                                       class
    """

    stride = 32
    """The image is padded to 32 m + 1 pixels, not to 32 m (see `Differs`)."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: Encoder,
        decoders: Sequence[Decoder],
        land: nn.Module,
        road: nn.Module | None,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, classes
        # The names are those of the baseline, so that its weights fit wherever the blocks do (dfcnet_start).
        self.encoder, self.decoder = encoder, decoders[0]
        self.road_decoder = decoders[1] if len(decoders) == 2 else None
        self.land_head, self.road_head = land, road
        self.reach = reach_of(encoder, decoders[0], land)
        for module in self.modules():  # as DenseNet starts; the paper trains its baseline from scratch
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def heads(self, image: Tensor, first: int | None = None) -> dict[str, Tensor]:
        """Raises BadInput where `first` is more than there are images, or road images meet a network
        without a classmate.
        """
        count = len(image) if first is None else first
        if not 0 <= count <= len(image):
            raise BadInput(
                f"first={first} of {len(image)} images; give how many of them, from the start, are of the "
                "first task."
            )
        # Written without their number, all images may be any number of them in an exported network.
        if count == len(image):
            return self.cropped(image, slice(None), slice(0))
        return self.cropped(image, slice(count), slice(count, None) if count else slice(None))

    def both(self, image: Tensor) -> dict[str, Tensor]:
        """{"logits": (N, K, H, W), "mate": (N, mate_classes, H, W)} through one trunk. Raises BadInput
        without a classmate.
        """
        return self.cropped(image, slice(None), slice(None))

    def cropped(self, image: Tensor, land: slice, road: slice) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        if self.road_head is None and len(image[road]):
            raise BadInput(
                "This network has no classmate head, but got images of a second task; build classmate or "
                "dfcnet with mate_classes=2."
            )
        with enough_values(image):
            scores = self.scores(pad_to_corners(image), land, road)
        return {name: logits[..., :height, :width] for name, logits in scores.items()}

    def scores(self, image: Tensor, land: slice = slice(None), road: slice = slice(0)) -> dict[str, Tensor]:
        x2, encoded = self.encoder(image)
        shared = self.decoder(x2, encoded) if self.road_decoder is None else None  # (N, 256 + k, H/2, W/2)
        scores = {}
        tasks = (
            ("logits", self.decoder, self.land_head, land),
            ("mate", self.road_decoder, self.road_head, road),
        )
        for name, decoder, predict, images in tasks:
            if len(x2[images]):  # batch statistics of no image are an error
                features = (
                    shared[images]
                    if shared is not None
                    else decoder(x2[images], [block.of(images) for block in encoded])
                )
                scores[name] = interp(predict(features), image)  # (n, K, H, W)
        return scores


def pad_to_corners(image: Tensor, stride: int = DenseNetwork.stride) -> Tensor:
    """Repeat the last row and column until H and W are 32 m + 1; nothing is copied if they are."""
    down, right = (1 - image.shape[-2]) % stride, (1 - image.shape[-1]) % stride
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def reach_of(encoder: Encoder, decoder: Decoder, head: nn.Module) -> int:
    """How many pixels away the farthest input lies on which an output depends: to the right, where average
    pooling reaches.
    """
    # conv1 reaches 3 pixels, pool1 one pixel of stride 2. Each 3 x 3 of a block reaches one pixel of its
    # stride, and so does the transition after it.
    reach = 3 + 2
    for number in range(2, 6):
        stride = 2**number
        reach += stride * len(getattr(encoder, f"block{number}").layers) + (stride if number < 5 else 0)
    for number in range(6, decoder.last + 1):
        stride = 2 ** (10 - number)
        reach += stride * len(getattr(decoder, f"block{number}").layers) + stride
    return reach + stride - 1 + (stride if isinstance(head, nn.Sequential) else 0)


def _check_lengths(what: str, lengths: object, needed: int) -> None:
    """Raises BadOption for anything but `needed` to four whole numbers of at least 1."""
    whole = isinstance(lengths, list | tuple) and all(
        isinstance(length, int) and length > 0 for length in lengths
    )
    if not whole or not needed <= len(lengths) <= 4:
        raise BadOption(
            f"{what}={lengths!r} must be {needed} whole numbers of at least 1, the layers of each block."
        )


def build(
    in_channels: int,
    classes: int,
    *,
    mate_classes: int = 0,
    predict_at: int,
    head_width: int,
    fusion: str | None = None,
    fused: str = "concat",
    slice_at: str = "block9",
    upsampled: str,
    encoder: Sequence[int],
    decoder: Sequence[int],
    stem: int,
    growth: int,
    width: int,
    checkpointing: bool,
    backbone: str,
    pretrained: bool,
    weights: str | Path | None,
    first_conv: str,
) -> DenseNetwork:
    """Build a network from checked options. Raises UnknownName for an unknown reading, BadOption for
    impossible sizes, BadFile and BadInput for weights that cannot be had or do not fit.
    """
    checks.one_of("fused", fused, FUSED)
    checks.one_of("slice_at", slice_at, SLICES)
    checks.one_of("upsampled", upsampled, UPSAMPLED)
    if predict_at not in (2, 4):
        raise BadOption(
            f"predict_at={predict_at!r} must be 4 (the baseline: after block 8) or 2 (after block 9)."
        )
    blocks = 3 if predict_at == 4 else 4
    _check_lengths("encoder", encoder, 4)
    _check_lengths("decoder", decoder, blocks)
    checks.sizes(0, mate_classes=mate_classes, head_width=head_width)
    checks.sizes(2, stem=stem, growth=growth, width=width)  # a transition halves the channels
    imagenet = densenet_weights(backbone, first_conv, in_channels, pretrained=pretrained, weights=weights)
    trunk = Encoder(in_channels, stem, encoder, growth, checkpointing=checkpointing)
    decoders = [
        Decoder(
            trunk,
            decoder[:blocks],
            growth,
            width,
            fusion=fusion,
            fused=fused,
            upsampled=upsampled,
            checkpointing=checkpointing,
        )
        for _ in range(2 if mate_classes and slice_at == "block5" else 1)
    ]
    land = head(decoders[0].outputs, head_width, classes)
    road = head(decoders[0].outputs, head_width, mate_classes) if mate_classes else None
    net = DenseNetwork(in_channels, classes, trunk, decoders, land, road)
    if imagenet is not None:
        load_encoder(net, imagenet)
    return net


def fc_densenet(
    *,
    in_channels: int,
    classes: int,
    predict_at: int = 4,
    head_width: int = 0,
    upsampled: str = "all",
    encoder: Sequence[int] = (6, 12, 24, 16),
    decoder: Sequence[int] = (24, 12, 6, 3),
    stem: int = 64,
    growth: int = 32,
    width: int = 256,
    checkpointing: bool = False,
    backbone: str = "densenet121",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
) -> DenseNetwork:
    """Table 1, Baseline: land alone, predicted at 1/4; 16,860,231 parameters for seven classes."""
    # locals() are the options above, and only they: a variable set before this line would become one.
    return build(**locals())


def classmate(
    *,
    in_channels: int,
    classes: int,
    mate_classes: int = 2,
    predict_at: int = 2,
    head_width: int = 128,
    slice_at: str = "block9",
    upsampled: str = "all",
    encoder: Sequence[int] = (6, 12, 24, 16),
    decoder: Sequence[int] = (24, 12, 6, 3),
    stem: int = 64,
    growth: int = 32,
    width: int = 256,
    checkpointing: bool = False,
    backbone: str = "densenet121",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
) -> DenseNetwork:
    """Table 1, ClassmateNet: land and road at 1/2; 17,805,897 parameters. `mate_classes=0` is a control,
    land alone at 1/2.
    """
    return build(**locals())


def dfcnet(
    *,
    in_channels: int,
    classes: int,
    mate_classes: int = 2,
    predict_at: int = 2,
    head_width: int = 128,
    fusion: str = "growth",
    fused: str = "concat",
    slice_at: str = "block9",
    upsampled: str = "all",
    encoder: Sequence[int] = (6, 12, 24, 16),
    decoder: Sequence[int] = (24, 12, 6, 3),
    stem: int = 64,
    growth: int = 32,
    width: int = 256,
    checkpointing: bool = False,
    backbone: str = "densenet121",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
) -> DenseNetwork:
    """Table 1, DFCNet; 17,879,625 parameters. `mate_classes=0` is a control, dense fusion on land alone,
    17,547,335.
    """
    checks.one_of("fusion", fusion, FUSIONS)
    return build(**locals())


EFFECTS = (OF_WEIGHTS, OF_WEIGHTS._replace(option="backbone"))
MATE_EFFECTS = (
    *EFFECTS,
    Effect("slice_at", "mate_classes=1 or more", lambda options: options["mate_classes"] > 0),
)
