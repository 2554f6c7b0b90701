"""What can be refused before any data is read, once the networks can be built: a missing start, rate factors
that fit no parameter, crops that are too small to learn from.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from lightning_fabric import Fabric

from labelscape.checkpoint import Checkpoint, load
from labelscape.errors import LabelscapeError
from labelscape.nets.catalog import SMP, check_model, create_model
from labelscape.training.optimizers import rate_groups
from labelscape.training.recipe import Recipe
from labelscape.training.team import refuse_sync_bn_on_cpu


def check_beforehand(recipe: Recipe, base: Recipe | None, fabric: Fabric) -> Checkpoint | None:
    """The checkpoint that the recipe starts from, if any. `base` is the recipe of the base network, if one is
    trained first.

    Raises BadOption, BadInput or BadFile for what would fail later: options that build no network, weights
    that cannot be had, a missing `start` file, rate factors for parts that there are not, `sync_bn` on CPUs,
    a batch of one crop too small for batch normalisation.
    """
    recipes = (base, recipe) if base else (recipe,)
    for each in recipes:
        second = {"mate_classes": 2} if each.mate else {}
        bands = len(each.data.bands) if each.data.bands else None
        check_model(each.network, in_channels=bands, **{**each.options, **second})
    refuse_sync_bn_on_cpu(recipe.sync_bn, fabric)
    start = load(recipe.start) if recipe.start else None
    for each in recipes:
        try_out(each, fabric.world_size)
    return start


def try_out(recipe: Recipe, processes: int) -> None:
    """Build the network without memory or weights, and give it one process's part of a batch. Raises what the
    network raises.
    """
    # The library's transformers compute with numbers in building, which this device has none of.
    if recipe.network.startswith(SMP):
        return
    parts = recipe.accumulate * processes
    land, mate = max(1, recipe.batch // parts), 0
    options = {key: value for key, value in recipe.options.items() if key not in ("pretrained", "weights")}
    if recipe.mate:
        mate = max(1, (recipe.mate.batch or recipe.batch) // parts)
        options["mate_classes"] = 2
    # Some of timm's networks compute with numbers in building too; those are tried by their first step.
    with suppress(NotImplementedError), torch.device("meta"):
        try:
            net = create_model(
                recipe.network, in_channels=len(recipe.data.bands or "RGB"), classes=2, **options
            )
            rate_groups(net, recipe)  # refuses factors for parts that there are not
            image = torch.empty(land + mate, net.in_channels, recipe.crop, recipe.crop)
            net.train().heads(image, first=land) if mate else net.train().heads(image)
        except LabelscapeError:
            raise
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
