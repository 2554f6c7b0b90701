"""The encoder of any network as stages, shallow to deep: what is frozen, and which rates fall with depth."""

from __future__ import annotations

from torch import nn

from labelscape.nets.blocks import Network

Part = tuple[str, nn.Module]
"""A part of a network, with its dotted name."""
LISTS = ("blocks", "stages", "features", "layers")
"""Names under which timm and segmentation-models-pytorch keep stages in a Sequential; a ResNet's `layer1` is
a stage itself.
"""
WRAPPERS = ("body", "model")
"""Modules that only hold another library's encoder."""
BEGINS = ("down", "patch_embed")
"""Parts that reduce the image, and belong to the stage after them."""


def encoder_stages(net: Network) -> list[list[Part]]:
    """The parts of a network's encoder by stage. Single layers, such as the stem's convolution and its
    normalisation, belong to the stage before them.
    """
    stages: list[list[Part]] = []
    begun = False
    for name, part in _parts(net):
        single = not any(child.state_dict() for child in part.children())
        if stages and (begun or single):
            stages[-1].append((name, part))
        else:
            stages.append([(name, part)])
        begun = any(piece.startswith(BEGINS) for piece in name.split(".")[-2:])
    return stages


def _parts(net: Network) -> list[Part]:
    found: list[Part] = []
    for name, module in net.encoder_modules():
        # Tiramisu names its parts one by one.
        whole = name.rpartition(".")[2] in ("encoder", "trunk")
        found += _children(name, module) if whole else [(name, module)]
    # The library's mix transformers build the reductions of all their stages first.
    if any(name.endswith("patch_embed1") for name, _ in found):
        found.sort(key=lambda part: part[0].split("encoder.")[-1].strip("abcdefghijklmnopqrstuvwxyz_"))
    return [(name, part) for name, part in found if part.state_dict()]


def _children(name: str, module: nn.Module) -> list[Part]:
    """The parts in the order in which they were built, which is that of the forward pass in all encoders of
    the catalogue; lists of stages are taken apart.
    """
    found: list[Part] = []
    for child, part in module.named_children():
        listed = isinstance(part, nn.ModuleList) or child in WRAPPERS
        listed |= isinstance(part, nn.Sequential) and child.strip("_") in LISTS
        found += _children(f"{name}.{child}", part) if listed else [(f"{name}.{child}", part)]
    return found


def encoder_names(net: Network) -> set[str]:
    """Names of the encoder's weights and statistics in the network's state."""
    return {f"{name}.{key}" for name, module in net.encoder_modules() for key in module.state_dict()}
