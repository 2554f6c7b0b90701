"""MSWBN: three sums of parallel convolutions, weighted for each image by its lower levels.

Paper     K. Yang, Z. Liu, Q. Lu, G.-S. Xia. "Multi-Scale Weighted Branch Network for Remote Sensing Image
          Classification". CVPR workshops 2019
Reads as  sec. 3.1, eqs. 1-7, fig. 2 -> Operation, Hierarchy, HWM
          sec. 3.2, eqs. 8-9, fig. 3 -> scores_from, LBM   sec. 3.3, eq. 14 -> clip_gate   fig. 1 -> MSWBN
          sec. 4.2, 4.5 -> OPERATIONS
Differs   - the paper names no output stride and no channel reduction. Default: layer4 at stride 16, reduced
            to 256 channels by a 1x1 convolution, BN and ReLU. INFERRED from table 1 (cheaper and smaller than
            DeepLabV3+); reduce=None is the paper to the letter, the operations on all 2048 channels, at
            output_stride 8, 16 or 32
          - rate 0 is no legal dilation: read as an ordinary convolution, dilation max(r, 1).
            rate_semantics="holes" reads r as the number of zeros between taps, dilation r + 1
          - L_1, L_2, L_3 are only "lower layers": layer3, layer2, layer1, so that L_3, which the LBM shows,
            is the finest (levels=...)
          - "convolution operations" in a branch: branch="bn" is convolution and BN; the sum of eq. 2 stays
            signed, as sec. 3.3 needs, and whoever reads it applies the ReLU. "linear": convolution with bias
            and no ReLU anywhere in the HWM. "bn_relu": ReLU in each branch
          - C_1 .. C_3: plain 3x3 convolutions with bias, with torch's random start (ours)
          - eq. 14 raises a weak weight to theta (it does not zero it) and weights are not normalised again;
            the "relu" is in the gradient
          - the factor 2 of the LBM belongs to its gate: without the gate, eq. 9 as printed
          - eq. 8 is fed W^1 .. W^3 as it prints them, before their gate. Through it the loss sees W beside
            cl(W), and a weight below theta keeps a gradient, which eq. 18 does not have: mlp_input="gated"
            feeds it cl(W) and makes that gradient exactly 0. The MLP is Linear(3n, 3n), ReLU, Linear(3n, 2)
          - C_H and C_L: `depth` = 2 convolutions of 3x3, N kernels with BN and ReLU, then K kernels with
            bias. C_H is computed on the HWM's grid, its scores go to L_3's size; all resizing is bilinear,
            align_corners=False unless asked
          - no LBM (table 7): C_H alone, upsampled to the image
          - eq. 10 lacks its minus sign, and is averaged over the labelled pixels (ours)
          - ImageNet weights are ours: the paper names none. Red, green and blue of 8 bits are then scaled as
            the weights were trained with (recipe, normalisation=...); background is ignored in loss and score
          - weights belong to the pixels that are seen. Tables are tested on single patches of 512 (sec. 4.1);
            in a map each tile has weights of its own, and tiles have the size that `train` has measured
            (ours)
          - of the 64 and 512 chains of convolutions (sec. 3.1) only 20 and 32 differ in receptive field
Symbols   N images  B bands  K classes  C width (the paper's "channels")  n branches; w1 w2 w3 are W^1 .. W^3,
          (N, n); w_bin (N, 2)
          x4 is a level at stride 4: (N, ., H/4, W/4); xs is at the output stride s
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labelscape.errors import BadOption
from labelscape.nets import checks
from labelscape.nets.backbones import trunk
from labelscape.nets.blocks import Network, conv_bn_relu, pad_to_multiple, resize_like
from labelscape.nets.checks import OF_WEIGHTS, Effect
from labelscape.nets.kernels.branches import Linear, mean_of_convolution, saves, weighted_sum
from labelscape.nets.kernels.taps import DilatedConv2d

LEVELS = ("layer1", "layer2", "layer3", "layer4")
BRANCHES = ("bn", "linear", "bn_relu")
RATE_SEMANTICS = ("rate", "holes")
MLP_INPUTS = ("raw", "gated")


class Operation(NamedTuple):
    """O_{k,r}: a k x k convolution of rate r (sec. 3.1)."""

    kernel: int
    rate: int

    def dilation(self, rate_semantics: str = "rate") -> int:
        """Distance between taps: max(r, 1), or r + 1 where r counts the holes."""
        return max(self.rate, 1) if rate_semantics == "rate" else self.rate + 1

    def field(self, rate_semantics: str = "rate") -> int:
        """Side of the receptive field, in cells of the feature map."""
        return (self.kernel - 1) * self.dilation(rate_semantics) + 1


OPERATIONS: dict[int, tuple[Operation, ...]] = {
    # Sec. 4.2.
    8: tuple(Operation(k, r) for k, r in ((1, 0), (3, 0), (5, 0), (5, 2), (5, 4), (7, 0), (7, 2), (7, 4))),
    # Sec. 4.5, table 7.
    5: tuple(Operation(k, r) for k, r in ((1, 0), (3, 0), (5, 0), (5, 2), (5, 4))),
}
"""S_o by its size: sum of k^2 is 232 and 85."""


def clip_gate(weight: Tensor, theta: float) -> Tensor:
    """Eq. 14: the weight where it reaches theta, theta below; gradient 1 at and above theta, 0 below."""
    # Spelled out for its gradient at equality, where uniform weights stand (theta is 1/n): torch.maximum
    # halves it.
    return torch.where(weight >= theta, weight, theta)


class Hierarchy(nn.Module):
    """One hierarchy of fig. 2: the generator of its weights and its parallel branches."""

    def __init__(
        self,
        inputs: int,
        width: int,
        level_width: int,
        operations: Sequence[Operation],
        *,
        branch: str,
        rate_semantics: str,
    ) -> None:
        super().__init__()
        self.generator = nn.Conv2d(level_width, len(operations), 3, padding=1)
        self.branches = nn.ModuleList()
        for operation in operations:
            # "Same" size for all branches, or they could not be summed.
            pad = operation.field(rate_semantics) // 2
            steps: list[nn.Module] = [
                DilatedConv2d(
                    inputs,
                    width,
                    operation.kernel,
                    1,
                    pad,
                    operation.dilation(rate_semantics),
                    bias=branch == "linear",
                )
            ]
            if branch != "linear":
                steps.append(nn.BatchNorm2d(width))
            if branch == "bn_relu":
                steps.append(nn.ReLU(inplace=True))
            self.branches.append(nn.Sequential(*steps))

    def weights(self, level: Tensor) -> Tensor:
        """L_h (N, level_width, h, w) -> W^h (N, n), each row of sum 1."""
        # Sizes would be fixed in an exported network; shapes alone are counted as the paper has them.
        if _plainly(level):
            return torch.softmax(self.generator(level).mean((2, 3)), dim=1)  # (N, n)  eqs. 1, 3, 5
        means = mean_of_convolution(level, self.generator.weight, self.generator.bias)
        return torch.softmax(means, dim=1)

    def forward(self, features: Tensor, coefficients: Tensor) -> Tensor:
        """(N, inputs, h, w) and (N, n) -> (N, C, h, w). In inference a branch is freed as soon as it is
        added, or all are one kernel (equal up to the last digits).
        """
        if self.is_linear() and not torch.is_grad_enabled() and not _plainly(features):
            convs = [branch[0] for branch in self.branches]
            sizes = [(conv.kernel_size[0], conv.dilation[0]) for conv in convs]
            if saves(sizes, features.shape[-2] * features.shape[-1]):
                return weighted_sum(features, coefficients, [as_linear(branch) for branch in self.branches])
        total: Tensor | None = None
        for coefficient, branch in zip(coefficients.unbind(1), self.branches, strict=True):
            term = coefficient[:, None, None, None] * branch(features)
            total = term if total is None else total + term  # (N, C, h, w)  eqs. 2, 4, 6
        return total

    def is_linear(self) -> bool:
        """Is every branch a convolution, or one with a normalisation by known statistics?"""
        return all(
            len(branch) == 1 or (len(branch) == 2 and not branch[1].training) for branch in self.branches
        )


def as_linear(branch: nn.Sequential) -> Linear:
    """A convolution, or one with the normalisation after it, as scale and shift."""
    conv = branch[0]
    # The normalisation may be folded into the convolution already.
    if len(branch) == 1 or not isinstance(branch[1], nn.BatchNorm2d):
        return Linear(conv.weight, conv.dilation[0], None, conv.bias)
    norm = branch[1]
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return Linear(conv.weight, conv.dilation[0], scale, norm.bias - scale * norm.running_mean)


def _plainly(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.is_meta


class HWM(nn.Module):
    """Hierarchical Weighted branch Module, sec. 3.1. `theta` is None where its gates are off."""

    def __init__(
        self,
        inputs: int,
        width: int,
        level_widths: Sequence[int],
        operations: Sequence[Operation],
        *,
        branch: str,
        rate_semantics: str,
        theta: float | None,
    ) -> None:
        super().__init__()
        self.theta = theta
        # Branches stay signed (sec. 3.3): the ReLU stands before the next hierarchy reads the sum.
        self.read = nn.ReLU() if branch == "bn" else nn.Identity()
        self.hierarchies = nn.ModuleList(
            Hierarchy(
                width if h else inputs,
                width,
                level_width,
                operations,
                branch=branch,
                rate_semantics=rate_semantics,
            )
            for h, level_width in enumerate(level_widths)
        )

    def weights(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(L_1, L_2, L_3) -> [W^1, W^2, W^3], each (N, n), before any gate."""
        return [hierarchy.weights(level) for hierarchy, level in zip(self.hierarchies, levels, strict=True)]

    def gated(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The coefficients of eqs. 2, 4, 6: cl(W^h) where the gates are on."""
        return list(weights) if self.theta is None else [clip_gate(weight, self.theta) for weight in weights]

    def forward(self, features: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
        """F_b (N, inputs, h, w) and the gated weights -> F_h3 (N, C, h, w), signed unless
        branch="bn_relu".
        """
        for hierarchy, coefficient in zip(self.hierarchies, coefficients, strict=True):
            features = hierarchy(self.read(features), coefficient)  # F_h1, F_h2, F_h3
        return features


def scores_from(inputs: int, width: int, classes: int, depth: int) -> nn.Sequential:
    """A "sequence of operations" of sec. 3.2, C_H or C_L: 3x3 convolutions, the last with one kernel for
    each class.
    """
    steps = [conv_bn_relu(inputs if step == 0 else width, width) for step in range(depth - 1)]
    return nn.Sequential(*steps, nn.Conv2d(width if steps else inputs, classes, 3, padding=1))


class LBM(nn.Module):
    """Low level features Branch Module, sec. 3.2. `theta` is None where its gate is off. C_H stays with the
    network, which needs it without an LBM too.
    """

    def __init__(
        self, level_width: int, width: int, classes: int, branches: int, *, depth: int, theta: float | None
    ) -> None:
        super().__init__()
        self.theta = theta
        self.low = scores_from(level_width, width, classes, depth)
        self.mlp = nn.Sequential(nn.Linear(3 * branches, 3 * branches), nn.ReLU(), nn.Linear(3 * branches, 2))

    def weights(self, branch_weights: Sequence[Tensor]) -> Tensor:
        """[W^1, W^2, W^3] -> W_bin (N, 2), rows of sum 1, before the gate; column 0 is for C_H."""
        return torch.softmax(self.mlp(torch.cat(list(branch_weights), dim=1)), dim=1)  # (N, 2)  eq. 8

    def gated(self, w_bin: Tensor) -> Tensor:
        """The coefficients of eqs. 9 and 15: 2 cl(W_bin), or W_bin itself without the gate."""
        return w_bin if self.theta is None else 2 * clip_gate(w_bin, self.theta)

    def forward(self, high: Tensor, level: Tensor, coefficients: Tensor) -> Tensor:
        """C_H's and L_3's maps, both of L_3's size, and the gated W_bin -> F_out (N, K, h, w)."""
        for_high, for_low = coefficients[:, :, None, None, None].unbind(1)
        return for_high * high + for_low * self.low(level)  # (N, K, h, w)  eq. 9


class MSWBN(Network):
    """Fig. 1. Options as `mswbn` has them."""

    reach = None  # the branch weights are averages over the whole image

    def __init__(
        self,
        in_channels: int,
        classes: int,
        levels: nn.Module,
        *,
        operations: Sequence[Operation],
        width: int,
        reduce: int | None,
        level_names: Sequence[str],
        branch: str,
        rate_semantics: str,
        theta_hwm: float | None,
        theta_lbm: float | None,
        lbm: bool,
        mlp_input: str,
        depth: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes, self.stride = in_channels, classes, max(levels.strides)
        self.operations, self.rate_semantics = tuple(operations), rate_semantics
        self.mlp_input, self.align_corners = mlp_input, align_corners
        self.lower = tuple(LEVELS.index(name) for name in level_names)
        level_widths = [levels.widths[index] for index in self.lower]
        self.trunk = levels
        self.reduce = nn.Identity() if reduce is None else conv_bn_relu(levels.widths[-1], reduce, 1)
        self.hwm = HWM(
            levels.widths[-1] if reduce is None else reduce,
            width,
            level_widths,
            operations,
            branch=branch,
            rate_semantics=rate_semantics,
            theta=theta_hwm,
        )
        self.high = scores_from(width, width, classes, depth)
        self.lbm = (
            LBM(level_widths[-1], width, classes, len(operations), depth=depth, theta=theta_lbm)
            if lbm
            else None
        )

    def branch_weights(self, image: Tensor) -> dict[str, Tensor]:
        """(N, B, H, W), normalised -> "w1", "w2", "w3" (N, n) in the order of `operations` and, with an LBM,
        "w_bin" (N, 2); softmax outputs, before any gate: what multiplies the branches is `hwm.gated` and
        `lbm.gated` of them. Any H and W; keeps gradients.
        """
        levels = self.trunk(pad_to_multiple(image, self.stride))
        weights = self.hwm.weights([levels[index] for index in self.lower])
        named = dict(zip(("w1", "w2", "w3"), weights, strict=True))
        if self.lbm is not None:
            named["w_bin"] = self.lbm.weights(self._for_mlp(weights))
        return named

    # fmt: off
    def scores(self, image: Tensor) -> dict[str, Tensor]:
        # (N, ., H/4, W/4) .. (N, 2048, H/s, W/s)
        levels = self.trunk(image)
        lower = [levels[index] for index in self.lower]                        # L_1, L_2, L_3
        weights = self.hwm.weights(lower)
        xs = self.reduce(levels[-1])                                           # (N, 256, H/s, W/s)  F_b
        xs = self.hwm(xs, self.hwm.gated(weights))                             # (N, C, H/s, W/s)  F_h3
        out = self.high(self.hwm.read(xs))                                     # (N, K, H/s, W/s)  C_H
        if self.lbm is not None:
            out = resize_like(out, lower[-1], align_corners=self.align_corners)  # (N, K, H/4, W/4)
            w_bin = self.lbm.weights(self._for_mlp(weights))
            out = self.lbm(out, lower[-1], self.lbm.gated(w_bin))              # (N, K, H/4, W/4)  F_out
        return {"logits": resize_like(out, image, align_corners=self.align_corners)}
    # fmt: on

    def _for_mlp(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        return weights if self.mlp_input == "raw" else self.hwm.gated(weights)


def _check_numbers(reduce: object, levels: object, **thresholds: object) -> None:
    """Raises BadOption for what is no width, no three levels, or no share of a weight; UnknownName for a
    level there is not.
    """
    if reduce is not None and (isinstance(reduce, bool) or not isinstance(reduce, int) or reduce < 1):
        raise BadOption(f"reduce={reduce!r} must be a whole number of at least 1 or None.")
    if not isinstance(levels, (list, tuple)) or len(levels) != 3:
        raise BadOption(
            f"levels={levels!r} must name three levels, L_1, L_2 and L_3, such as ('layer3', 'layer2', "
            "'layer1')."
        )
    for name in levels:
        checks.one_of("level", name, LEVELS)
    for what, theta in thresholds.items():
        if not isinstance(theta, (int, float)) or not 0 <= theta <= 1:
            raise BadOption(
                f"{what}={theta!r} is the threshold of softmax weights and must lie between 0 and 1."
            )


def mswbn(
    *,
    in_channels: int,
    classes: int,
    backbone: str = "resnet101",
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    output_stride: int = 16,
    reduce: int | None = 256,
    width: int = 128,
    operations: int = 8,
    gate_hwm: bool = True,
    gate_lbm: bool = True,
    lbm: bool = True,
    theta_hwm: float | None = None,
    theta_lbm: float = 0.5,
    levels: Sequence[str] = ("layer3", "layer2", "layer1"),
    branch: str = "bn",
    rate_semantics: str = "rate",
    mlp_input: str = "raw",
    depth: int = 2,
    align_corners: bool = False,
) -> MSWBN:
    """Table 1, best row: 58.8 M parameters, 73.5 G multiply-accumulates for 3 x 512 x 512 and 5 classes.

    `width` is N of table 1 (64, 96, 128, 160); `operations` 8 or 5; `theta_hwm` None is 1/n, which is 0.125
    and 0.2 as the paper sets them; `levels` names L_1, L_2, L_3. `backbone`, `pretrained`, `weights`,
    `first_conv` as `backbones.trunk` has them. Raises UnknownName for an unknown name, BadOption for an
    impossible number.
    """
    checks.one_of("set of operations", operations, tuple(OPERATIONS))
    checks.one_of("branch", branch, BRANCHES)
    checks.one_of("mlp_input", mlp_input, MLP_INPUTS)
    checks.one_of("rate_semantics", rate_semantics, RATE_SEMANTICS)
    checks.one_of("output_stride", output_stride, (8, 16, 32))
    checks.switches(gate_hwm=gate_hwm, gate_lbm=gate_lbm, lbm=lbm, align_corners=align_corners)
    checks.sizes(width=width, depth=depth)
    chosen = OPERATIONS[operations]
    theta_hwm = 1 / len(chosen) if theta_hwm is None else theta_hwm
    _check_numbers(reduce, levels, theta_hwm=theta_hwm, theta_lbm=theta_lbm)
    first = {"pretrained": pretrained, "weights": weights, "first_conv": first_conv}
    trunk_levels = trunk(backbone, in_channels=in_channels, output_stride=output_stride, **first)
    return MSWBN(
        in_channels,
        classes,
        trunk_levels,
        operations=chosen,
        width=width,
        reduce=reduce,
        level_names=levels,
        branch=branch,
        rate_semantics=rate_semantics,
        theta_hwm=theta_hwm if gate_hwm else None,
        theta_lbm=theta_lbm if gate_lbm else None,
        lbm=lbm,
        mlp_input=mlp_input,
        depth=depth,
        align_corners=align_corners,
    )


EFFECTS = (
    OF_WEIGHTS,
    Effect("theta_hwm", "gate_hwm=True", lambda options: options["gate_hwm"]),
    Effect("theta_lbm", "gate_lbm=True and lbm=True", lambda options: options["gate_lbm"] and options["lbm"]),
    Effect("gate_lbm", "lbm=True", lambda options: options["lbm"]),
    Effect("mlp_input", "gate_hwm=True and lbm=True", lambda options: options["gate_hwm"] and options["lbm"]),
)
