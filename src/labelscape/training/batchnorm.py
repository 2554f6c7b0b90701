"""Batch normalisation's running statistics, estimated anew at the size of a map's tiles; no weight changes.

Training leaves a moving average over its last few batches, of small crops. Global pooling, sums over all
pixels and padding make features depend on the size of the tile, and so do their mean and variance. (Wu and
Johnson 2021, https://arxiv.org/abs/2105.07576, sec. 3, call averages over whole batches "precise".)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelscape.nets.blocks import Network
from labelscape.nets.depth import encoder_names
from labelscape.progress import Tick, bar
from labelscape.scenes.files import gdal
from labelscape.scoring.devices import float32_in
from labelscape.scoring.scorer import normalise
from labelscape.training.crops import CACHE_BYTES, Drawing, place_crop
from labelscape.training.recipe import Recipe
from labelscape.training.recipe_sizes import LEAST_CROPS

BATCH_PIXELS, MOST_TILES = 640**2, 8
"""Pixels and tiles in a batch (ours): what a map's smallest tile takes, more for very large tiles, of which
there are two."""
STREAM = 2
"""Random numbers of the tiles; 0 and 1 are those of the crops of two tasks."""


@dataclass(frozen=True)
class Estimated:
    """Statistics by their names in a network's state, the number of layers and tiles, and by how much the
    variance of a layer (mean over its channels) has changed: the lowest factor, the median, the highest.
    """

    statistics: Mapping[str, np.ndarray]
    layers: int
    tiles: int
    change: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        low, middle, high = self.change
        return (
            f"{self.layers} layers over {self.tiles} training tiles; their variances changed by factors of "
            f"{low:.2f} to {high:.2f}, median {middle:.2f}"
        )


def at_map_size(
    recipe: Recipe,
    net: Network,
    drawing: Drawing,
    fabric: Fabric,
    weights: dict[str, np.ndarray],
    say: Callable[[str], None],
) -> tuple[dict[str, np.ndarray], int]:
    """The weights with statistics at the recipe's `map_size`, and the number of tiles they are estimated
    over; 0 and the same weights where the network has none. `net` is left with these weights.
    """
    still = encoder_names(net) if recipe.freeze == "encoder" else frozenset()
    if not layers_of(net, still):
        say(f"{recipe.network} has no batch normalisation, whose statistics map_size would estimate anew")
        return weights, 0
    weights = fabric.broadcast(weights)  # the first process alone keeps the best ones
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    # The weights are the leader's; the tiles are shared out among all processes.
    batches = TileBatches(recipe, drawing, fabric)
    title, leads = f"batch normalisation at {recipe.map_size}", fabric.is_global_zero
    with bar(title, len(batches), "batches", shown=leads) as tick:
        found = estimate(net, _ticked(batches, tick), fabric, still)
    say(f"batch normalisation at {recipe.map_size} pixels: {found}")
    return {**weights, **found.statistics}, found.tiles


def _ticked(batches: Iterable[Tensor], tick: Tick) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        tick()


def layers_of(net: nn.Module, still: Collection[str] = ()) -> dict[str, _BatchNorm]:
    """The layers that keep running statistics, by name; without those whose statistics are frozen (`still`,
    names in the network's state).
    """
    return {
        name: layer
        for name, layer in net.named_modules()
        if isinstance(layer, _BatchNorm)
        and layer.running_mean is not None
        and f"{name}.running_mean" not in still
    }


def estimate(
    net: Network, batches: Iterable[Tensor], fabric: Fabric | None = None, still: Collection[str] = ()
) -> Estimated:
    """The mean over `batches` (N, B, H, W) of each layer's own statistics in a batch (variance as torch keeps
    it, of N - 1), each batch weighted by its images; summed in float64. Batches are those of this process; of
    several processes, each has its own. Statistics named in `still` stay.

    The network itself stays as it is. All but these layers work as in a map, without dropout; layers that a
    map does not use (auxiliary heads) are left out. Raises BadInput for a batch with one value per channel.
    """
    layers, images = layers_of(net, still), 0
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = {module: module.training for module in net.modules()}
    momenta = {layer: layer.momentum for layer in layers.values()}
    sums = {name: torch.zeros(2, layer.num_features, dtype=torch.float64) for name, layer in layers.items()}
    # As a map computes it: all but these layers in evaluation, without dropout.
    net.eval()
    for layer in layers.values():
        layer.train()
        layer.reset_running_stats()
        layer.momentum = 1.0  # the running statistics are then those of the last batch
    try:
        with torch.no_grad(), float32_in("32", next(net.parameters()).device):
            for batch in batches:
                net(batch)
                images += len(batch)
                for name, layer in layers.items():
                    pair = torch.stack([layer.running_mean, layer.running_var])
                    sums[name] += len(batch) * pair.cpu().double()
        # Counted since the statistics were reset: 0 in layers that a map's pass never reaches.
        used = {name for name, layer in layers.items() if layer.num_batches_tracked}
    finally:
        # Wherever it ended: the caller's network goes on training with its own statistics.
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training
        net.load_state_dict(before)
    sums = {name: sums[name] for name in layers if name in used}
    images = _over_processes(sums, images, fabric)
    found = {}
    for name, total in sums.items():
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = (total / images).float().numpy()
    changes = [
        # A layer whose output never varied has the variance 0, and its factor would be infinite.
        float(found[f"{name}.running_var"].mean() / max(1e-30, float(before[f"{name}.running_var"].mean())))
        for name in sums
    ]
    change = (min(changes), float(np.median(changes)), max(changes)) if changes else (1.0, 1.0, 1.0)
    return Estimated(found, len(sums), images, change)


def _over_processes(sums: dict[str, Tensor], images: int, fabric: Fabric | None) -> int:
    """Add up the sums of all processes, in place; returns all their images."""
    if fabric is None or fabric.world_size == 1:
        return images
    flat = torch.cat([torch.tensor([images], dtype=torch.float64), *(s.flatten() for s in sums.values())])
    # One sum for all layers: each is a round between machines.
    flat = fabric.all_reduce(flat.to(fabric.device), reduce_op="sum").cpu()
    parts = flat[1:].split([total.numel() for total in sums.values()])
    for total, part in zip(sums.values(), parts):
        total.copy_(part.view_as(total))
    return int(flat[0])


@dataclass(frozen=True)
class TileBatches:
    """A process's batches of training tiles of the map's size: (N, B, H, W).

    Their places depend on the recipe's seed alone. Unlike crops they are neither scaled nor turned, and in a
    smaller scene they are as small as that one. All processes have as many batches.
    """

    recipe: Recipe
    drawing: Drawing
    fabric: Fabric

    @property
    def size(self) -> int:
        """Tiles in a batch."""
        return max(LEAST_CROPS, min(MOST_TILES, BATCH_PIXELS // self.recipe.map_size**2))

    def __len__(self) -> int:
        return math.ceil(self.recipe.map_tiles / (self.size * self.fabric.world_size))

    def __iter__(self) -> Iterator[Tensor]:
        for turn in range(len(self)):
            number = turn * self.fabric.world_size + self.fabric.global_rank
            with gdal(GDAL_CACHEMAX=CACHE_BYTES):
                tiles = [self.tile(number * self.size + i) for i in range(self.size)]
            # Scenes of several sizes: the smaller ones are filled up with the mean, as in training.
            height, width = (max(tile.shape[axis] for tile in tiles) for axis in (-2, -1))
            tiles = [F.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2])) for t in tiles]
            yield torch.stack(tiles).to(self.fabric.device, memory_format=torch.channels_last)

    def tile(self, number: int) -> Tensor:
        """(B, h, w), scaled by mean and deviation."""
        sequence = np.random.SeedSequence((self.recipe.seed, number), spawn_key=(STREAM,))
        # Not balanced: statistics are those of the ground, in which rare classes are rare.
        sampling = "labelled" if self.drawing.sampling == "balanced" else self.drawing.sampling
        drawing = replace(self.drawing, sampling=sampling)
        scene, window = place_crop(drawing, self.recipe.map_size, np.random.default_rng(sequence))
        patch, _ = scene.read(window, "train")
        return normalise(patch.pixels, patch.valid, tuple(drawing.normalisation))
