"""FC-DenseNet, the "Tiramisu": dense blocks down and up; on the way up only what a block added is upsampled.

Paper     S. Jegou, M. Drozdzal, D. Vazquez, A. Romero, Y. Bengio. "The One Hundred Layers Tiramisu: Fully
          Convolutional DenseNets for Semantic Segmentation". CVPR Workshops 2017.
          https://arxiv.org/abs/1611.09326 https://github.com/SimJeg/FC-DenseNet
Reads as  table 1 -> TiramisuLayer, Down, Up   sec. 3.3, fig. 1 and table 2 -> Tiramisu
          sec. 4.2 and table 3 -> LAYERS
Differs   - the transposed convolution gives 2 n + 1 pixels; the first H and W of them are kept, as in the
            release
          - the release counts running statistics as parameters: 1,397,963, 3,502,923 and 9,425,163; table 3
            prints 1.5 M for the first
Symbols   N images  B bands  C width  K classes  k growth  l layers; h x w pixels of a level
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.errors import BadOption, UnknownName
from labelscape.nets.blocks import Network
from labelscape.nets.checks import Effect
from labelscape.nets.dense import DenseBlock

LAYERS: dict[str, tuple[int, tuple[int, ...]]] = {
    "56": (12, (4,) * 11),
    "67": (16, (5,) * 11),
    "103": (16, (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)),
}
"""Growth, and the layers of the eleven blocks: five down, the bottleneck, five up."""


class TiramisuLayer(nn.Module):
    """Table 1, layer: normalisation, ReLU, 3 x 3, dropout. (N, C, h, w) -> (N, k, h, w)."""

    def __init__(self, inputs: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.conv(F.relu(self.norm(inputs), inplace=True)))


class Down(nn.Module):
    """Table 1, transition down: normalisation, ReLU, 1 x 1, dropout, 2 x 2 maximum. (N, C, h, w) -> (N, C,
    h/2, w/2).
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stack: Tensor) -> Tensor:
        return F.max_pool2d(self.dropout(self.conv(F.relu(self.norm(stack), inplace=True))), 2)


class Up(nn.Module):
    """Table 1, transition up: transposed 3 x 3, joined to the skip. (N, l k, h, w), (N, S, 2 h, 2 w) ->
    (N, l k + S, 2 h, 2 w).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, width, 3, 2)

    def forward(self, new: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[-2:]
        return torch.cat([self.conv(new)[..., :height, :width], skip], dim=1)


class Tiramisu(Network):
    """Fig. 1. The last block hands on its whole stack, the others on the way up what they added."""

    stride = 32

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        growth: int,
        lengths: tuple[int, ...],
        stem: int,
        dropout: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, classes
        self.reach = reach_of(lengths)

        def block(inputs: int, length: int) -> DenseBlock:
            return DenseBlock(
                inputs,
                length,
                growth,
                checkpointing=checkpointing,
                layer=lambda i, k: TiramisuLayer(i, k, dropout),
            )

        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1)
        self.blocks, self.downs, self.ups = (
            nn.ModuleList([block(stem, lengths[0])]),
            nn.ModuleList(),
            nn.ModuleList(),
        )
        for length in lengths[1:6]:
            self.downs.append(Down(self.blocks[-1].outputs, dropout))
            self.blocks.append(block(self.blocks[-1].outputs, length))
        for length, skip in zip(lengths[6:], self.blocks[4::-1]):
            self.ups.append(Up(self.blocks[-1].new))
            self.blocks.append(block(self.blocks[-1].new + skip.outputs, length))
        self.score = nn.Conv2d(self.blocks[-1].outputs, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")  # sec. 4.1: HeUniform
                nn.init.zeros_(module.bias)

    # fmt: off
    def scores(self, image: Tensor) -> dict[str, Tensor]:
        grown, skips = self.blocks[0](self.conv1(image)), []
        for down, block in zip(self.downs, self.blocks[1:6]):
            skips.append(grown.stack)                                      # (N, C, h, w)
            grown = block(down(grown.stack))                               # at h/2, w/2
        for up, block in zip(self.ups, self.blocks[6:]):
            grown = block(up(grown.new, skips.pop()))                      # at 2 h, 2 w
        return {"logits": self.score(grown.stack)}                         # (N, K, H, W)
    # fmt: on

    def encoder_modules(self) -> list[tuple[str, nn.Module]]:
        """The way down, whose last block is the bottleneck."""
        found: list[tuple[str, nn.Module]] = [("conv1", self.conv1), ("blocks.0", self.blocks[0])]
        for number, down in enumerate(self.downs):
            found += [(f"downs.{number}", down), (f"blocks.{number + 1}", self.blocks[number + 1])]
        return found


def reach_of(lengths: tuple[int, ...]) -> int:
    """How many pixels away the farthest input lies on which an output depends."""
    farthest = 0
    # Pixels differ in where they lie in the cells of the pooled maps, which repeat every 32.
    for pixel in range(32):
        first = last = pixel
        for length in lengths[:5:-1]:  # back from the last block to the bottleneck
            # Output i of the transposed 3 x 3 depends on inputs (i - 2)/2 ... i/2.
            first, last = -(-(first - length - 2) // 2), (last + length) // 2
        for length in lengths[5:0:-1]:
            first, last = 2 * (first - length), 2 * (last + length) + 1  # the maximum of two
        farthest = max(farthest, pixel - first + lengths[0] + 1, last - pixel + lengths[0] + 1)
    return farthest


def fc_densenet_jegou(
    *,
    in_channels: int,
    classes: int,
    layers: str = "103",
    stem: int = 48,
    dropout: float = 0.2,
    checkpointing: bool = False,
    growth: int | None = None,
    lengths: tuple[int, ...] | None = None,
) -> Tiramisu:
    """Table 3: FC-DenseNet56, 67 or 103, of 1.4, 3.5 and 9.4 million parameters; `growth` and `lengths`
    (eleven) replace theirs.

    Raises UnknownName for other `layers`, BadOption for sizes that cannot be.
    """
    if layers not in LAYERS:
        raise UnknownName("number of layers of fc_densenet_jegou", layers, LAYERS)
    usual_growth, usual_lengths = LAYERS[layers]
    growth, lengths = (
        usual_growth if growth is None else growth,
        usual_lengths if lengths is None else lengths,
    )
    whole = isinstance(lengths, list | tuple) and all(
        isinstance(length, int) and length > 0 for length in lengths
    )
    if not whole or len(lengths) != 11:
        raise BadOption(
            f"lengths={lengths!r} must be eleven whole numbers of at least 1: five blocks down, the "
            "bottleneck, five up."
        )
    for what, size in (("stem", stem), ("growth", growth)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadOption(f"{what}={size!r} must be a whole number of at least 1.")
    if not 0 <= dropout < 1:
        raise BadOption(f"dropout={dropout!r} must lie in 0 ... 1, without 1.")
    return Tiramisu(
        in_channels,
        classes,
        growth=growth,
        lengths=tuple(lengths),
        stem=stem,
        dropout=dropout,
        checkpointing=checkpointing,
    )


EFFECTS = (
    Effect(
        "layers",
        "growth or lengths left to it",
        lambda options: options["growth"] is None or options["lengths"] is None,
    ),
)
