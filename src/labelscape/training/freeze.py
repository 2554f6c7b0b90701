"""A frozen encoder: its weights get no gradient, and its statistics and dropout work as in a map."""

from __future__ import annotations

from collections.abc import Collection

from lightning_fabric.wrappers import _FabricModule

from labelscape.errors import BadInput
from labelscape.nets.blocks import Network
from labelscape.nets.depth import encoder_names
from labelscape.training.recipe import Recipe


def freeze_encoder(net: Network, taken: Collection[str] | None) -> None:
    """No gradient for the encoder's parameters. `taken` are the names of the weights that a checkpoint gave;
    None where the network started from published weights. Raises BadInput where some would stay random.
    """
    names = encoder_names(net)
    # Counters of batches, which other people's files may lack, change no map.
    weights = {name for name in names if not name.endswith("num_batches_tracked")}
    if taken is not None and (fresh := sorted(weights - set(taken))):
        raise BadInput(
            f"`freeze=encoder`: {len(fresh)} of {len(names)} weights of the encoder are not those of the "
            f"checkpoint, such as {fresh[0]}, and would stay random (other bands or options?). Leave "
            "`freeze` out, and give `encoder_factor=0.1` for small changes."
        )
    for name, parameter in net.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def train_mode(net: _FabricModule, recipe: Recipe) -> None:
    """Training mode, but for a frozen encoder. Its modules are asked for at every call: synchronised batch
    normalisation replaces some.
    """
    net.train()
    if recipe.freeze == "encoder":
        for _, module in net.module.encoder_modules():
            module.eval()


def told_of_frozen(net: Network, recipe: Recipe) -> list[str]:
    """A line on what is frozen."""
    if recipe.freeze == "none":
        return []
    names = encoder_names(net)
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    frozen = sum(size for name, size in sizes.items() if name in names)
    return [f"the encoder is frozen: {frozen:,} of {sum(sizes.values()):,} parameters do not learn"]
