"""Every network by name. `create_model` is the one way to build one; a checkpoint stores the name and the
options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from labelscape.errors import BadFile, BadOption, UnknownName, WrongType
from labelscape.nets import (
    backbones,
    baselines,
    dfcnet,
    dfcnet_start,
    dgcwnet,
    ifbfnet,
    maggiori,
    mswbn,
    tiramisu,
)
from labelscape.nets.blocks import Network
from labelscape.nets.checks import OF_WEIGHTS, Effect, is_of_type, refuse_idle
from labelscape.nets.shapes import needs_numbers, shapes_alone

# Measured (docs/results/measured.md). AdamW gives each weight a step of its own size: under SGD the last
# convolutions of mswbn, a sum over many taps of a 3x3 over 9 C channels, ran away, trunks with ImageNet
# weights were unlearned, and small networks from nothing had hardly begun after some hundred steps. The rates
# of the papers are for ten thousands of steps; the papers' tables keep them.
DEFAULTS = MappingProxyType({"optimizer": "adamw", "rate": 0.001})


@dataclass(frozen=True, slots=True)
class Start:
    """The trained network that a paper's network starts from."""

    base: str
    """Its name in the catalogue."""
    copy_weights: Callable[[Network, Mapping[str, Tensor]], list[str]]
    """`copy_weights(net, base_state)` copies what the two share into `net`; returns the names copied."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the catalogue. `build(in_channels=..., classes=..., **options)` makes the network."""

    build: Callable[..., Network]
    paper: str
    start: Start | None = None
    """The network that this one starts from in its paper, if any."""
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    """Settings of a recipe (`training.recipe.Recipe`) that work for this network on a small data set; those
    that a user gives come before them. `benchmarks/defaults.py` measures them.
    """
    effects: tuple[Effect, ...] = ()
    """Which options matter only beside others."""


MAGGIORI = "Maggiori et al. 2017, High-Resolution Semantic Labeling with CNNs"
MSWBN = "Yang et al. 2019, Multi-Scale Weighted Branch Network for Remote Sensing Image Classification"
DFCNET = "Tian et al. 2018, Dense Fusion Classmate Network for Land Cover Classification"
DGCWNET = "Zhu et al. 2020, Distance Guided Channel Weighting for Semantic Segmentation"
IFBFNET = "Li et al. 2021, Inter-Level Feature Balanced Fusion Network for Street Scene Segmentation"

FROM_FCN = Start("fcn", maggiori.start_from)
FROM_FC_DENSENET = Start("fc-densenet", dfcnet_start.start_from)

NETWORKS: dict[str, Entry] = {
    "fcn": Entry(maggiori.fcn, MAGGIORI),
    "unpooling": Entry(maggiori.unpooling, MAGGIORI, start=FROM_FCN, effects=maggiori.UNPOOLING_EFFECTS),
    "skip": Entry(maggiori.skip, MAGGIORI, start=FROM_FCN),
    "mlp": Entry(maggiori.mlp, MAGGIORI, start=FROM_FCN, effects=maggiori.MLP_EFFECTS),
    "fc-densenet": Entry(dfcnet.fc_densenet, DFCNET, effects=dfcnet.EFFECTS),
    "classmate": Entry(dfcnet.classmate, DFCNET, start=FROM_FC_DENSENET, effects=dfcnet.MATE_EFFECTS),
    "dfcnet": Entry(dfcnet.dfcnet, DFCNET, start=FROM_FC_DENSENET, effects=dfcnet.MATE_EFFECTS),
    "mswbn": Entry(mswbn.mswbn, MSWBN, effects=mswbn.EFFECTS),
    "dgcwnet": Entry(dgcwnet.dgcwnet, DGCWNET, effects=dgcwnet.EFFECTS),
    "ifbfnet": Entry(ifbfnet.ifbfnet, IFBFNET, effects=ifbfnet.EFFECTS),
    "deeplabv3plus": Entry(
        baselines.deeplabv3plus,
        "Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution",
        effects=(OF_WEIGHTS,),
    ),
    "pspnet": Entry(
        baselines.pspnet, "Zhao et al. 2017, Pyramid Scene Parsing Network", effects=(OF_WEIGHTS,)
    ),
    "tiramisu": Entry(
        tiramisu.fc_densenet_jegou,
        "Jegou et al. 2017, The One Hundred Layers Tiramisu (FC-DenseNet56/67/103)",
        effects=tiramisu.EFFECTS,
    ),
}

SMP = "smp/"
"""`smp/Unet` is the architecture Unet of segmentation-models-pytorch."""


def list_models(*, smp: bool = False) -> list[str]:
    """Names for `create_model`; with `smp` also those of segmentation-models-pytorch, which must then be
    imported. `create_model` takes those as "smp/<Name>", such as "smp/Unet", listed or not.
    """
    return [*NETWORKS, *(SMP + name for name in baselines.smp_names())] if smp else list(NETWORKS)


def entry(name: str) -> Entry:
    """The catalogue's line. Raises UnknownName with the nearest known name, WrongType for what is no name."""
    if not isinstance(name, str):
        raise WrongType(f"A network is given by its name, such as 'mlp'; found a {type(name).__name__}.")
    if name.startswith(SMP):
        architecture = name.removeprefix(SMP)
        baselines.smp_class(architecture)  # refuses unknown ones
        build = partial(baselines.smp_network, architecture)
        return Entry(build, "segmentation-models-pytorch")
    if name not in NETWORKS:
        raise UnknownName("network", name, [*NETWORKS, "smp/Unet"])
    return NETWORKS[name]


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The options of a network with their defaults, beyond `in_channels` and `classes`."""
    found = dict(inspect.signature(entry(name).build).parameters)
    if name.startswith(SMP):
        found |= baselines.smp_options(name.removeprefix(SMP))
    return {
        key: p
        for key, p in found.items()
        if key not in ("in_channels", "classes") and p.kind is not p.VAR_KEYWORD
    }


ALIASES = {
    "encoder_name": ("backbone", "encoder"),
    "encoder_weights": ("pretrained",),
    "num_classes": ("classes",),
    "in_chans": ("in_channels",),
}
"""Names of segmentation-models-pytorch, torchgeo and timm -> ours; the first that a network has is meant."""


def in_our_words(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options of a network with other libraries' names (ALIASES) replaced by ours. Raises BadOption where
    both names are given.
    """
    known = {*options_of(name), "classes", "in_channels"}
    if not name.startswith(SMP):
        known -= {"encoder"}  # DFCNet's `encoder` is the lengths of its blocks, not a name
    found = dict(options)
    for theirs, ours in ALIASES.items():
        own = next((option for option in ours if option in known), None)
        if theirs not in found or own is None or theirs in known:
            continue
        if own in found:
            raise BadOption(f"{theirs} and {own} are two names of one option; give {own} alone.")
        value = found.pop(theirs)
        if theirs == "encoder_weights":
            if value not in (None, "imagenet"):
                raise BadOption(f"encoder_weights={value!r} must be 'imagenet' or None.")
            value = value is not None
        found[own] = value
    return found


def create_model(
    name: str, *unnamed: object, in_channels: int | None = None, classes: int | None = None, **options: object
) -> Network:
    """Build a network of the catalogue with fresh weights: for `in_channels` bands (3 unless given) and
    `classes` classes. `ALIASES` of options are understood.

    Raises UnknownName for an unknown network or option, WrongType for sizes without their names, BadOption
    for sizes below 1, values the network refuses and options that would have no effect.
    """
    entry(name)  # an unknown network is reported before its options
    if unnamed:
        raise WrongType(
            f"Sizes and options are given by name: create_model({name!r}, in_channels=4, classes=3)."
        )
    sizes, given = checked_options(name, in_channels, classes, options)
    return entry(name).build(**sizes, **given)


def checked_options(
    name: str, in_channels: int | None, classes: int | None, options: Mapping[str, object]
) -> tuple[dict[str, int], dict[str, object]]:
    """The sizes of a network and its options in our words. Raises as `create_model`, but for the values of
    options.
    """
    sizes = {"in_channels": in_channels, "classes": classes}
    given = in_our_words(name, {**options, **{key: size for key, size in sizes.items() if size is not None}})
    sizes = {"in_channels": given.pop("in_channels", 3), "classes": given.pop("classes", None)}
    known = options_of(name)
    for option in given:
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
    for what, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise BadOption(f"{what}={size!r} must be a whole number of at least 1.")
    if wrong := wrong_types(name, given):
        raise BadOption(" ".join(wrong))
    refuse_idle(given, {key: option.default for key, option in known.items()}, entry(name).effects)
    return sizes, given


IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "text",
    "str | Path": "a path",
    "Sequence[int]": "a list of whole numbers",
    "tuple[int, ...]": "a list of whole numbers",
    "Sequence[str]": "a list of words",
}
"""Types as signatures write them, for people who do not write Python."""


def _expected(option: inspect.Parameter) -> str:
    """The values that an option takes: `a list of whole numbers, such as [4,6], or none`."""
    kind, nothing, _ = str(option.annotation).partition(" | None")
    # As it is typed behind -o, and a list of Python all the same.
    like = (
        ", such as [" + ",".join(map(str, option.default)) + "]" if isinstance(option.default, tuple) else ""
    )
    return IN_WORDS.get(kind, kind) + like + (", or none" if nothing else "")


def wrong_types(name: str, options: Mapping[str, object]) -> list[str]:
    """One sentence for each option whose value is not of the type that the network's signature has: a number
    for a list, text or nothing for a number. Raises UnknownName for an unknown network.
    """
    if name.startswith(SMP):  # few of the library's signatures have types
        return []
    build, known = entry(name).build, options_of(name)
    return [
        f"{option}={value!r} is of the wrong type; {name} takes {_expected(known[option])}."
        for option, value in options.items()
        if option in known and not is_of_type(value, build, option)
    ]


def shapes_of(
    name: str, in_channels: int, classes: int, options: Mapping[str, object]
) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a network's weights, without memory; None for one that computes with numbers in
    building.
    """
    sizes, given = checked_options(name, in_channels, classes, dict(options))
    for of_weights in ("pretrained", "weights"):
        given.pop(of_weights, None)
    try:
        with shapes_alone():
            net = entry(name).build(**sizes, **given)
    except (BadOption, NotImplementedError, RuntimeError):
        return None
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def check_model(name: str, *, in_channels: int | None = None, **options: object) -> Network | None:
    """The network of shapes alone, for two classes and without memory; None for one that computes with
    numbers in building. Raises what `create_model` would, within seconds: published weights are only looked
    for.
    """
    sizes, given = checked_options(name, in_channels, 2, options)
    pretrained, weights = given.pop("pretrained", False), given.pop("weights", None)
    net = None
    try:
        with shapes_alone():
            net = entry(name).build(**sizes, **given)
    except (BadOption, NotImplementedError, RuntimeError) as error:
        if not needs_numbers(error):  # which is no fault of the options
            raise
    check_weights(name, {**given, "pretrained": pretrained, "weights": weights})
    return net


def check_weights(name: str, options: Mapping[str, object]) -> None:
    """Whether the weights that a network's options ask for are here or within reach; within seconds, nothing
    is loaded. Raises NoWeights, BadFile for a file that is missing, BadOption where both are asked for.
    """
    known = {key: p.default for key, p in options_of(name).items()} | dict(options)
    pretrained, weights = known.get("pretrained", False), known.get("weights")
    if pretrained and weights is not None:
        raise BadOption(
            "pretrained=True and weights=FILE both say where the weights come from; pass one of them."
        )
    if weights is not None and not Path(str(weights)).is_file():
        raise BadFile(f"There is no weights file {weights}.")
    if pretrained and name.startswith(SMP):
        baselines.check_encoder_weights(known["encoder"])
    elif pretrained:
        backbones.check_published(known["backbone"], known.get("stem", "standard"))


def stored_model(name: str, *, in_channels: int, classes: int, options: Mapping[str, object]) -> Network:
    """The network of a checkpoint, whose weights the caller loads. No others are looked for, neither in the
    network nor in a file; options without effect, which earlier versions took, are let through.

    Raises UnknownName and BadOption as `create_model` does.
    """
    given = in_our_words(name, options)
    for option in given:
        if option not in (known := options_of(name)):
            raise UnknownName(f"option of {name}", option, known)
    build = {key: value for key, value in given.items() if key not in ("pretrained", "weights")}
    for key in ("backbone", "encoder"):
        # The tag names weights, not an architecture: another release of timm may not know it any more.
        if isinstance(build.get(key), str):
            build[key] = build[key].partition(".")[0]
    return entry(name).build(in_channels=in_channels, classes=classes, **build)


def with_tag(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options with the tag of timm's weights that `pretrained` stands for today: resnet50 becomes
    resnet50.a1_in1k. Stored so, they name the same weights when timm has chosen others.
    """
    given = in_our_words(name, options)
    if not given.get("pretrained"):
        return given
    if not name.startswith(SMP):
        backbone = given.get("backbone", options_of(name)["backbone"].default)
        return {**given, "backbone": backbones.tagged(backbone, given.get("stem", "standard"))}
    encoder = given.get("encoder", options_of(name)["encoder"].default)
    if not str(encoder).startswith("tu-"):  # weights of the library, which has one set for this name
        return given
    return {**given, "encoder": "tu-" + backbones.tagged(encoder.removeprefix("tu-"))}


def weights_scaling(
    name: str, options: Mapping[str, object]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of red, green and blue, between 0 and 1, that the network's first weights were
    trained with; None where these are random, or a file whose tag the backbone's name does not tell.
    """
    given = in_our_words(name, options)
    if not given.get("pretrained") and given.get("weights") is None:
        return None
    if name.startswith(SMP):
        return baselines.smp_scaling(given.get("encoder", options_of(name)["encoder"].default))
    backbone = given.get("backbone", options_of(name)["backbone"].default)
    if not given.get("pretrained") and "." not in backbone:
        return None
    return backbones.scaling(backbone, given.get("stem", "standard"), packaged=bool(given.get("pretrained")))
