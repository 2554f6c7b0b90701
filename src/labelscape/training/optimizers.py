"""Optimizers by name, their learning rates, their state as tensors that a file can hold, and the moving
average of the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from labelscape.errors import UnknownName
from labelscape.nets.blocks import Network
from labelscape.nets.depth import encoder_stages
from labelscape.training.recipe import Recipe


def make_optimizer(net: Network, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over the parameters of `net`; `momentum` is AdamW's beta1. Raises UnknownName
    for a rate factor that fits no parameter.

    Weight decay reaches batch normalisation and biases too: Caffe's default, and so Maggiori et al.'s (ours
    for the other papers, which do not say).
    """
    groups = rate_groups(net, recipe)
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)  # beta2 is torch's default
        return torch.optim.AdamW(groups, lr=recipe.rate, betas=betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def pack(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, `KEY.N`: a key of the state and the number of the parameter."""
    tensors = {}
    for number, parameter in enumerate(parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:  # SGD without momentum remembers nothing
                continue
            # Generic over keys, and loud: momentum dropped in silence would make resumed weights differ.
            assert isinstance(value, Tensor), f"{key} of {type(optimizer).__name__} would not be saved"
            tensors[f"{key}.{number}"] = value
    return tensors


def unpack(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state that `pack` returned, into an optimizer over the same parameters."""
    known = parameters(optimizer)
    for name, value in tensors.items():
        key, _, number = name.rpartition(".")
        parameter = known[int(number)]
        if value.shape == parameter.shape:  # on the parameter's device and in its memory layout
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][key] = value


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def rate_groups(net: Network, recipe: Recipe) -> list[dict]:
    """The network's parameters grouped by their factor on the learning rate, without frozen ones. Raises
    UnknownName if no parameter's name begins with a prefix of `rate_factors`.
    """
    groups: dict[float, list] = {}
    used = set()
    by_depth = depth_factors(net, recipe)
    for name, parameter in net.named_parameters():
        fitting = max(
            (start for start in recipe.rate_factors if name.startswith(start)), key=len, default=None
        )
        used.add(fitting)
        # Weight decay would shrink a frozen weight without any gradient.
        if parameter.requires_grad:
            factor = recipe.rate_factors.get(fitting, 1.0) * by_depth.get(name, 1.0)
            groups.setdefault(factor, []).append(parameter)
    for start in recipe.rate_factors:
        if start not in used:
            raise UnknownName(f"part of {recipe.network}", start, [name for name, _ in net.named_children()])
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def depth_factors(net: Network, recipe: Recipe) -> dict[str, float]:
    """Parameter of the encoder -> `encoder_factor` times `layer_decay` once for each stage from its own to
    the encoder's last: timm's and BEiT's layer decay, by stages. Empty where both are 1.
    """
    if recipe.encoder_factor == recipe.layer_decay == 1:
        return {}
    stages = encoder_stages(net)
    return {
        f"{part}.{key}" if key else part: recipe.encoder_factor * recipe.layer_decay ** (len(stages) - number)
        for number, stage in enumerate(stages)
        for part, module in stage
        for key, _ in module.named_parameters()
    }


def told_of_rates(net: Network, recipe: Recipe) -> list[str]:
    """A line on the rates of the encoder's stages, where they are not that of the rest."""
    factors = depth_factors(net, recipe)
    if not factors:
        return []
    shown = []
    for stage in encoder_stages(net):
        keys = [f"{part}.{key}" for part, module in stage for key, _ in module.named_parameters()]
        name = stage[-1][0] if len(stage) == 1 else f"{stage[0][0]} to {stage[-1][0].rpartition('.')[2]}"
        shown.append(f"{name} {recipe.rate * factors[keys[0]]:.3g}")
    # A network of dozens of blocks: the first and the last say it.
    shown = shown if len(shown) <= 8 else [*shown[:2], "...", *shown[-2:]]
    return [f"learning rates by depth: {', '.join(shown)}; the rest {recipe.rate:.3g}"]


def rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate at a step, counted from 0."""
    # Linear, and within the schedule's own count (ours: IFBFNet sec. 4.1 names 1,000 steps and no shape).
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    if recipe.schedule == "cosine":
        passed = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
        return recipe.rate * (1 + math.cos(math.pi * passed)) / 2
    if recipe.schedule == "poly":
        return recipe.rate * (1 - step / recipe.steps) ** recipe.power
    if recipe.schedule == "exponential":
        return recipe.rate * 0.1 ** (step / recipe.tenth_every)
    return recipe.rate


def averaged(average: dict[str, Tensor], net: nn.Module, decay: float, step: int) -> dict[str, Tensor]:
    """The exponential moving average of a network's state after `step` updates before this one, changed in
    place; at first (an empty dict) a copy of the state. Running statistics are averaged too, counts copied.

    The decay grows from 0.1 as (1 + step) / (10 + step), or short runs would end near their first weights.
    """
    state = net.state_dict()
    if not average:
        return {name: value.detach().clone() for name, value in state.items()}
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, value in state.items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), share)
        else:
            average[name].copy_(value)
    return average
