"""What can be refused before any data is read, once the networks can be built: a missing start, rate factors
that fit no parameter, crops that are too small to learn from.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from lightning_fabric import Fabric

from labelscape.errors import LabelscapeError
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import SMP, check_model, options_of
from labelscape.nets.shapes import shapes_alone
from labelscape.training.foreign import Start, load_start
from labelscape.training.map_size import larger, without_map_size
from labelscape.training.optimizers import rate_groups
from labelscape.training.recipe import Recipe, refuse_unequal_parts
from labelscape.training.team import refuse_sync_bn_on_cpu


def check_beforehand(recipe: Recipe, base: Recipe | None, fabric: Fabric) -> Start | None:
    """The checkpoint that the recipe starts from, if any. `base` is the recipe of the base network, if one is
    trained first.

    Raises BadOption, BadInput or BadFile for what would fail later: options that build no network, weights
    that cannot be had, a missing `start` file, rate factors for parts that there are not, `sync_bn` on CPUs,
    a batch of one crop too small for batch normalisation, or one that the processes cannot share evenly.
    """
    processes = fabric.world_size
    refuse_unequal_parts(recipe, processes, f"{processes} process{'es' * (processes > 1)}")
    recipes = (base, recipe) if base else (recipe,)
    # Built once for all checks: even without memory the shapes of a ResNet-101 take a second.
    nets = [_blank(each) for each in recipes]
    refuse_sync_bn_on_cpu(recipe.sync_bn, fabric)
    start = load_start(recipe.start) if recipe.start else None
    for each, net in zip(recipes, nets, strict=True):
        # A missing start is reported first: a forward pass takes seconds, opening a file none.
        if net is not None:
            try_out(each, net, fabric.world_size)
    if (last := larger(recipe)) and nets[-1] is not None:
        large = without_map_size(recipe).replace(crop=last.crop, batch=last.batch)
        try_out(large, nets[-1], fabric.world_size)
    return start


def _blank(recipe: Recipe) -> Network | None:
    """The recipe's network of shapes alone; None where it cannot be had without numbers."""
    bands = len(recipe.data.bands) if recipe.data.bands else None
    return check_model(recipe.network, in_channels=bands, **{**recipe.options, **second_head(recipe)})


def second_head(recipe: Recipe) -> dict[str, int]:
    """The option that builds the second head with some number of classes, or none without a second task;
    empty for networks that have no such head.
    """
    if "mate_classes" not in options_of(recipe.network):
        return {}
    return {"mate_classes": recipe.options.get("mate_classes", 2) if recipe.mate else 0}


def try_out(recipe: Recipe, net: Network, processes: int) -> None:
    """Give a network of shapes alone one process's part of a batch. Raises what the network raises, and
    BadOption for rate factors that fit no parameter.
    """
    # The library's transformers compute with numbers, which the meta device has none of.
    if recipe.network.startswith(SMP):
        return
    rate_groups(net, recipe)  # refuses factors for parts that there are not
    parts = recipe.accumulate * processes
    land = max(1, recipe.batch // parts)
    mate = max(1, (recipe.mate.batch or recipe.batch) // parts) if recipe.mate else 0
    # Some of timm's networks compute with numbers too; those are tried by their first step.
    with suppress(NotImplementedError), shapes_alone():
        try:
            image = torch.empty(land + mate, net.in_channels, recipe.crop, recipe.crop)
            net.train().heads(image, first=land) if mate else net.train().heads(image)
        except LabelscapeError:
            raise
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
