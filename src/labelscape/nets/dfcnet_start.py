"""First weights of DFCNet's networks: a trained baseline's, or ImageNet's DenseNet-121 under their names.

Paper     see `nets.dfcnet`; sec. 3.2 takes "the DenseNet model as initial model"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from labelscape.errors import BadInput, BadOption
from labelscape.nets import checks
from labelscape.nets.backbones import FIRST_CONVS, published_weights, read_weights, widened
from labelscape.nets.blocks import Network


def start_from(net: Network, base_state: Mapping[str, Tensor]) -> list[str]:
    """Copy what a trained baseline shares with `net` (sec. 3.2, "initial model") and return the names copied.

    `base_state` is the state_dict of a network of `nets.dfcnet`, or that of a DenseNet-121 after
    `named_as_ours`. Heads, and blocks that only one of the two has, are left alone; with a decoder for each
    task both start alike. Raises BadInput if there is no encoder, or one of other sizes.
    """
    # A state_dict shares memory with the network: copying into it is copying into the layers.
    mine, copied = net.state_dict(), []
    shared = [name for name in base_state if name in mine and name.startswith(("encoder.", "decoder."))]
    if not any(name.startswith("encoder.") for name in shared):
        raise BadInput(
            "There is no encoder in the weights to start from; this start is for fc-densenet, classmate and "
            "dfcnet."
        )
    for name in shared:
        there, here = tuple(base_state[name].shape), tuple(mine[name].shape)
        if there != here:
            raise BadInput(
                f"{name} is {there} in the weights to start from and {here} here; "
                "build both with the same bands, lengths, growth, widths and upsampled."
            )
    with torch.no_grad():
        for name in shared:
            # The paper has one decoder; with two, the road's starts as the land's does.
            for target in (name, name.replace("decoder.", "road_decoder.", 1)):
                if target in mine:
                    mine[target].copy_(base_state[name])
                    copied.append(target)
    return list(dict.fromkeys(copied))


def named_as_ours(imagenet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A DenseNet-121 as torchvision and timm name its tensors, renamed for `start_from`; what comes after
    block 5 but norm5 is dropped.
    """
    names = (
        (r"features\.conv0\.", "encoder.conv1."),
        (r"features\.norm0\.", "encoder.norm1."),
        # ImageNet's last normalisation reads the output of block 5, and so does the first upsampling's.
        (r"features\.norm5\.", "decoder.up6.norm."),
        (
            r"features\.denseblock(\d)\.denselayer(\d+)\.",
            lambda m: f"encoder.block{int(m[1]) + 1}.layers.{int(m[2]) - 1}.",
        ),
        (r"features\.transition(\d)\.", lambda m: f"encoder.down{int(m[1]) + 2}."),
    )
    ours = {}
    for name, value in imagenet.items():
        for pattern, replacement in names:
            if re.match(pattern, name):
                ours[re.sub(pattern, replacement, name)] = value
    return ours


def densenet_weights(
    backbone: str, first_conv: str, bands: int, *, pretrained: bool, weights: str | Path | None
) -> dict[str, Tensor] | None:
    """The weights of ImageNet's DenseNet-121 for `bands` bands under our names: timm's (`pretrained`), or of
    a file with timm's or torchvision's names. None where neither is asked for.
    """
    if backbone.partition(".")[0] != "densenet121":
        raise BadOption(
            f"backbone={backbone!r} must be densenet121, or that with a tag of timm's weights: the encoder "
            "is DenseNet-121 (sec. 2.1)."
        )
    checks.one_of("first_conv", first_conv, FIRST_CONVS)
    checks.switches(pretrained=pretrained)
    if pretrained and weights is not None:
        raise BadOption(
            "pretrained=True and weights=FILE both say where the weights come from; pass one of them."
        )
    if not pretrained and weights is None:
        return None
    state = published_weights(backbone) if pretrained else read_weights(Path(weights))
    ours = named_as_ours(modern_names(state))
    first = ours.get("encoder.conv1.weight")
    if first is not None and first.dim() == 4 and first.shape[1] == 3:
        ours["encoder.conv1.weight"] = widened(first, bands, first_conv)
    return ours


def modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's files of 2017 write "norm.1.weight" where its network has "norm1.weight"."""
    return {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name): value for name, value in state.items()}


def load_encoder(net: Network, imagenet: Mapping[str, Tensor]) -> None:
    """Copy DenseNet-121 into the encoder, all of it or nothing, and its last normalisation into that of the
    first upsampling where this reads the same maps. Raises BadInput where anything of the encoder lacks or
    has another shape.
    """
    mine = net.state_dict()
    # Files of old torch versions lack num_batches_tracked, which nothing reads.
    wanted = {name for name in mine if name.startswith("encoder.") and "num_batches" not in name}
    found = {name for name in imagenet if name.startswith("encoder.") and "num_batches" not in name}
    # All or nothing: half a trained encoder is worse to find than an error.
    odd = sorted((wanted ^ found) | {n for n in wanted & found if mine[n].shape != imagenet[n].shape})
    if odd:
        raise BadInput(
            f"DenseNet-121's weights do not fit this encoder: {len(odd)} differ, such as {odd[0]}. They are "
            "for encoder=(6, 12, 24, 16), stem=64 and growth=32."
        )
    fits = {
        name: value for name, value in imagenet.items() if name in mine and mine[name].shape == value.shape
    }
    start_from(net, fits)
