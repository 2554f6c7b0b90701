"""The networks the papers compare with: DeepLabV3+, PSPNet, and any architecture of
segmentation_models_pytorch.

Papers    L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam. "Encoder-Decoder with Atrous Separable
          Convolution for Semantic Image Segmentation". ECCV 2018. https://arxiv.org/abs/1802.02611 ->
          deeplabv3plus
          H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia. "Pyramid Scene Parsing Network". CVPR 2017.
          https://arxiv.org/abs/1612.01105 -> pspnet
          P. Iakubovskii. "Segmentation Models Pytorch".
          https://github.com/qubvel-org/segmentation_models.pytorch -> smp_network
Reads as  DeepLabV3+ sec. 3.1, fig. 2 -> DeepLabV3Plus
          PSPNet sec. 3.2, fig. 3 -> PSPNet.head, sec. 3.3, fig. 4 -> PSPNet.aux
Differs   - DeepLabV3+: plain 3x3 convolutions in ASPP and decoder, no multi-grid. ASPP's joined map has
            dropout 0.1. For output_stride=8 its paper doubles the rates: rates=(12, 24, 36)
          - PSPNet: heads as in its authors' code, 3x3 to 512 (auxiliary: layer3, 3x3 to 256), BN, ReLU,
            dropout 0.1, 1x1
          - bilinear upsampling with align_corners=False unless asked
          - a map pooled to one cell, of a batch of one image, is normalised with the running statistics in
            training (context.OneValueNorm), in the decoders of segmentation_models_pytorch too, which else
            refuse such a batch
Symbols   N images  B bands  K classes; x4 is a level at stride 4: (N, ., H/4, W/4)
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from labelscape.errors import BadOption, NoWeights, UnknownName
from labelscape.nets.backbones import (
    Trunk,
    check_published,
    check_reachable,
    first_line,
    load_package,
    package_file,
    scaling,
    trunk,
)
from labelscape.nets.blocks import Network, conv_bn_relu, resize_like
from labelscape.nets.checks import sizes
from labelscape.nets.context import ASPP, OneValueNorm, PyramidPooling
from labelscape.nets.count import on_meta
from labelscape.nets.libraries import import_smp, import_timm
from labelscape.nets.smp_blocks import join_upsampling


class DeepLabV3Plus(Network):
    """Fig. 2 of its paper. Options as `deeplabv3plus` has them."""

    reach = None

    def __init__(
        self,
        in_channels: int,
        classes: int,
        levels: Trunk,
        *,
        rates: Sequence[int],
        width: int,
        low_width: int,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes, self.stride = in_channels, classes, max(levels.strides)
        self.align_corners = align_corners
        self.trunk = levels
        self.context = nn.Sequential(ASPP(levels.widths[-1], width, rates=rates), nn.Dropout(dropout))
        self.low = conv_bn_relu(levels.widths[0], low_width, 1)
        self.fuse = nn.Sequential(conv_bn_relu(width + low_width, width), conv_bn_relu(width, width))
        self.score = nn.Conv2d(width, classes, 1)

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        levels = self.trunk(image)
        x4 = self.low(levels[0])  # (N, 48, H/4, W/4)
        context = self.context(levels[-1])  # (N, 256, H/16, W/16)
        context = resize_like(context, x4, align_corners=self.align_corners)  # (N, 256, H/4, W/4)
        logits = self.score(self.fuse(torch.cat([context, x4], dim=1)))  # (N, K, H/4, W/4)
        return {"logits": resize_like(logits, image, align_corners=self.align_corners)}


def deeplabv3plus(
    *,
    in_channels: int,
    classes: int,
    backbone: str = "resnet101",
    output_stride: int = 16,
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    stem: str = "standard",
    rates: tuple[int, ...] = (6, 12, 18),
    width: int = 256,
    low_width: int = 48,
    dropout: float = 0.1,
    align_corners: bool = False,
) -> DeepLabV3Plus:
    """DeepLabV3+: 59,340,197 parameters with ResNet-101 and 5 classes; `width` channels in each ASPP branch
    and the decoder, `low_width` from layer1 (48: best in its paper, sec. 4.1).

    `backbone`, `output_stride`, `pretrained`, `weights`, `first_conv`, `stem` as `backbones.trunk` has them.
    Raises UnknownName for an unknown backbone, BadOption for numbers that cannot be.
    """
    sizes(width=width, low_width=low_width)
    check_dropout(dropout)
    check_list("rates", rates, "the dilations of ASPP")
    levels = trunk(
        backbone,
        in_channels=in_channels,
        output_stride=output_stride,
        pretrained=pretrained,
        weights=weights,
        first_conv=first_conv,
        stem=stem,
    )
    return DeepLabV3Plus(
        in_channels,
        classes,
        levels,
        rates=rates,
        width=width,
        low_width=low_width,
        dropout=dropout,
        align_corners=align_corners,
    )


class PSPNet(Network):
    """Fig. 3 of its paper; `net.heads(image)` adds "aux" in train mode. Options as `pspnet` has them."""

    reach = None

    def __init__(
        self,
        in_channels: int,
        classes: int,
        levels: Trunk,
        *,
        bins: Sequence[int],
        width: int,
        aux_width: int,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes, self.stride = in_channels, classes, max(levels.strides)
        self.align_corners = align_corners
        *_, x3, x4 = levels.widths
        self.trunk = levels
        self.pool = PyramidPooling(x4, width, bins=bins, align_corners=align_corners)
        self.head = nn.Sequential(
            conv_bn_relu(x4 + len(bins) * width, width), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)
        )
        self.aux = nn.Sequential(
            conv_bn_relu(x3, aux_width), nn.Dropout2d(dropout), nn.Conv2d(aux_width, classes, 1)
        )

    # fmt: off
    def scores(self, image: Tensor) -> dict[str, Tensor]:
        # (N, 1024, H/8, W/8), (N, 2048, H/8, W/8)
        *_, layer3, layer4 = self.trunk(image)
        # (N, 4096, H/8, W/8) -> (N, K, H/8, W/8)
        scores = {"logits": self.head(self.pool(layer4))}
        if self.training:
            scores["aux"] = self.aux(layer3)                                   # (N, K, H/8, W/8)
        corners = self.align_corners
        return {name: resize_like(logits, image, align_corners=corners) for name, logits in scores.items()}
    # fmt: on


def pspnet(
    *,
    in_channels: int,
    classes: int,
    backbone: str = "resnet101",
    output_stride: int = 8,
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    stem: str = "standard",
    bins: tuple[int, ...] = (1, 2, 3, 6),
    width: int = 512,
    aux_width: int = 256,
    dropout: float = 0.1,
    align_corners: bool = False,
) -> PSPNet:
    """PSPNet: `width` channels for each of `bins` and in the head, whose input has 4096 = 2048 + 4 x 512. Its
    authors' code has stem="deep".

    `backbone`, `output_stride`, `pretrained`, `weights`, `first_conv`, `stem` as `backbones.trunk` has them.
    Raises UnknownName for an unknown backbone, BadOption for numbers that cannot be.
    """
    sizes(width=width, aux_width=aux_width)
    check_dropout(dropout)
    check_list("bins", bins, "the cells a side of each pooled map")
    levels = trunk(
        backbone,
        in_channels=in_channels,
        output_stride=output_stride,
        pretrained=pretrained,
        weights=weights,
        first_conv=first_conv,
        stem=stem,
    )
    return PSPNet(
        in_channels,
        classes,
        levels,
        bins=bins,
        width=width,
        aux_width=aux_width,
        dropout=dropout,
        align_corners=align_corners,
    )


def check_list(what: str, values: object, meaning: str) -> None:
    if (
        not isinstance(values, list | tuple)
        or not values
        or not all(type(value) is int and value > 0 for value in values)
    ):
        raise BadOption(
            f"{what}={values!r} must be whole numbers of at least 1, {meaning}, such as {what}=(1, 2)."
        )


def check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise BadOption(f"dropout={dropout!r} must be at least 0 and below 1.")


SMP_OURS = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs")
"""Arguments of the library's constructors that `smp_network` sets itself."""


def smp_names() -> list[str]:
    """Architectures of the installed segmentation_models_pytorch: Unet, UnetPlusPlus, ..."""
    return [architecture.__name__ for architecture in import_smp().MODEL_ARCHITECTURES_MAPPING.values()]


def smp_options(architecture: str) -> dict[str, inspect.Parameter]:
    """What `smp_network` takes for this architecture, with defaults: `encoder`, `pretrained` and the
    library's own options.

    Raises UnknownName for an architecture the library does not have.
    """
    ours = inspect.signature(smp_network).parameters
    library = inspect.signature(smp_class(architecture)).parameters
    return {name: ours[name] for name in ("encoder", "pretrained")} | {
        k: p for k, p in library.items() if k not in SMP_OURS
    }


def smp_class(architecture: str) -> type[nn.Module]:
    if architecture not in (known := smp_names()):
        raise UnknownName("architecture of segmentation_models_pytorch", architecture, known)
    return getattr(import_smp(), architecture)


class SMPNetwork(Network):
    """An architecture of segmentation_models_pytorch under the contract. Options as `smp_network` has
    them.
    """

    reach = None

    def __init__(self, in_channels: int, classes: int, net: nn.Module) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, classes
        for norm in net.decoder.modules():
            # In place, since the library builds its decoders itself; names of weights stay its own.
            if type(norm) is nn.BatchNorm2d:
                norm.__class__ = OneValueNorm  # the same state, another forward
        join_upsampling(net.decoder)
        self.net = net
        self.stride = smallest_side(net, in_channels)

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": resize_like(self.net(image), image)}

    def encoder_modules(self) -> list[tuple[str, nn.Module]]:
        return [("net.encoder", self.net.encoder)]


def smallest_side(net: nn.Module, in_channels: int) -> int:
    """The smallest multiple of the encoder's stride that the whole network takes: pools in a decoder (PAN's)
    may need more.

    Raises BadOption for a network that takes images of one size only.
    """
    # Shapes alone, without memory: eight times the stride of a large encoder costs nothing.
    for times in (1, 2, 4, 8):
        side = times * net.encoder.output_stride
        try:
            # Several shapes: a network of one fixed size would pass with one of them.
            for width in (side, 2 * side, 3 * side):
                on_meta(net, torch.zeros(1, in_channels, side, width, device="meta"))
        except (RuntimeError, AssertionError, ValueError) as failure:
            problem = failure
        else:
            return side
    raise BadOption(
        f"This network does not take images of any size ({first_line(problem)}); pass another encoder."
    ) from problem


def smp_network(
    architecture: str,
    *,
    in_channels: int,
    classes: int,
    encoder: str = "resnet34",
    pretrained: bool = False,
    **options: object,
) -> SMPNetwork:
    """Any architecture of segmentation_models_pytorch, with its own defaults; `options` are its constructor's
    (`smp_options`).

    `encoder` is one of the library's or "tu-" and a name of timm's; DPT needs a transformer
      ("tu-vit_base_patch16_224"). `pretrained` fetches the library's ImageNet weights for the encoder from
      the network, or takes those of an installed package (`backbones.PACKAGES`).
    Raises UnknownName for an unknown architecture, encoder or option, BadOption for what the library refuses,
    BadFile where the weights cannot be had.
    """
    # Options are checked here: the library hands those it does not know on, and fails far from the cause.
    build = smp_class(architecture)
    known = smp_options(architecture)
    for option in options:
        if option not in known:
            raise UnknownName(f"option of smp/{architecture}", option, known)
    check_encoder(encoder)
    # Vision transformers have position embeddings of one image size; this option interpolates them.
    extra = {"dynamic_img_size": True} if architecture == "DPT" else {}
    package = _package_of(encoder) if pretrained else None
    try:
        net = build(
            encoder_name=encoder,
            encoder_weights="imagenet" if pretrained and package is None else None,
            in_channels=in_channels,
            classes=classes,
            **options,
            **extra,
        )
    except OSError as failure:
        raise NoWeights(encoder, first_line(failure), file=False) from failure
    except (TypeError, ValueError, LookupError, RuntimeError, AssertionError) as failure:
        raise BadOption(
            f"smp/{architecture} refuses encoder={encoder!r} with these options: {first_line(failure)}"
        ) from failure
    if package is not None:
        load_package(net.encoder.model, encoder.removeprefix("tu-"), package, in_channels)
    return SMPNetwork(in_channels, classes, net)


def _package_of(encoder: str) -> Path | None:
    """The installed file of an encoder's weights. Encoders of timm alone: those of the library differ."""
    return package_file(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None


def check_encoder_weights(encoder: str) -> None:
    """As `backbones.check_published`, for an encoder of the library or one of timm's with "tu-"."""
    if encoder.startswith("tu-"):
        check_published(encoder.removeprefix("tu-"))
        return
    found = import_smp().encoders.encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet", {})
    check_reachable(encoder, found.get("repo_id"), found.get("url", ""), file=False)


def smp_scaling(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of red, green and blue, between 0 and 1, that the library gives for its ImageNet
    weights of an encoder. Raises UnknownName as `check_encoder`, BadOption where it has no
    weights, NoWeights where the description of the weights cannot be fetched.
    """
    check_encoder(encoder)
    if encoder.startswith("tu-"):
        return scaling(encoder.removeprefix("tu-"))
    try:
        params = import_smp().encoders.get_preprocessing_params(encoder, "imagenet")
    except OSError as failure:  # it is fetched with the weights
        raise NoWeights(encoder, first_line(failure), file=False) from failure
    except (KeyError, ValueError) as failure:
        raise BadOption(
            f"There are no ImageNet weights of {encoder} ({first_line(failure)}); pass pretrained=False."
        ) from failure
    # It may describe values up to 255, or blue first; ours are 0 to 1, red first.
    most = max(params.get("input_range") or (0, 1))
    mean, std = (tuple(value / most for value in params[key]) for key in ("mean", "std"))
    return (mean[::-1], std[::-1]) if params.get("input_space") == "BGR" else (mean, std)


def check_encoder(encoder: str) -> None:
    """Raises UnknownName for an encoder that neither the library nor, after the prefix "tu-", timm has."""
    timm = import_timm()
    # Before building: the library answers an unknown encoder with a KeyError and a list of hundreds.
    names = import_smp().encoders.get_encoder_names()
    if encoder in names or (encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))):
        return
    near = (
        difflib.get_close_matches(encoder.removeprefix("tu-"), timm.list_models(), n=3)
        if encoder.startswith("tu-")
        else []
    )
    current = [name for name in names if not name.startswith("timm-")]  # those are other names for timm's
    raise UnknownName(
        "encoder",
        encoder,
        [*(f"tu-{name}" for name in near), *current, "and tu- with a name of timm.list_models()"],
    )
