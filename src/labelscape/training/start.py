"""Start from a trained checkpoint: weights that fit are taken over, the rest is new, and both are named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadOption
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import entry, shapes_of

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fit:
    """Weights of a network, by name: those that a checkpoint has, those that stay new, and why."""

    taken: tuple[str, ...]
    new: tuple[str, ...]
    why: tuple[str, ...] = ()

    def told(self, start: Checkpoint, name: str) -> list[str]:
        """What is taken over and what is not, as lines."""
        parts = sorted({key.rpartition(".")[0] for key in self.new})
        rest = f"; new: {', '.join(parts[:6])}{' ...' * (len(parts) > 6)}" if parts else ""
        because = f" ({'; '.join(self.why)})" if self.why and parts else ""
        return [
            f"{len(self.taken)} of {len(self.taken) + len(self.new)} weights are those of {start.network} in "
            f"{name}{rest}{because}"
        ]


def follows_paper(network: str, start: Checkpoint) -> bool:
    """Does the network start from another one as its paper says, with its encoder alone?"""
    paper = entry(network).start
    return paper is not None and start.network != network


def fit_of(
    network: str, options: dict, dataset: Dataset, start: Checkpoint, own: Shapes | None = None
) -> Fit:
    """Which weights of `start` the network for `dataset` takes over: those of equal name and shape, but none
    that reads other bands or tells apart other classes, even as many.

    own  the network's shapes, where it is built already

    Raises BadOption where nothing fits.
    """
    bands, classes = len(dataset.bands), len(dataset.legend)
    own = own or shapes_of(network, bands, classes, options) or {}
    theirs = {key: value.shape for key, value in start.weights.items()}
    # One band or one class more shows which weights depend on their number, whatever the network.
    other: set[str] = set()
    why = []
    if tuple(start.bands) != tuple(dataset.bands):
        why.append(f"other bands: {' '.join(start.bands)}")
        other |= _changed(own, shapes_of(network, bands + 1, classes, options))
    if start.legend.names != dataset.legend.names:
        why.append(f"other classes: {', '.join(start.legend.names)}")
        other |= _changed(own, shapes_of(network, bands, classes + 1, options))
    taken = tuple(key for key, shape in own.items() if theirs.get(key) == shape and key not in other)
    # Counters and single numbers fit by chance.
    if own and not any(len(own[key]) > 1 for key in taken):
        raise BadOption(
            f"No weight of {start.network} fits {network} with these options: start from a checkpoint of "
            f"{network}"
            + (f" or {entry(network).start.base}" if entry(network).start else "")
            + ", or leave `start` out."
        )
    return Fit(taken, tuple(key for key in own if key not in taken), tuple(why))


def _changed(own: Shapes, other: Shapes | None) -> set[str]:
    """Names whose shapes depend on what was changed; none where shapes cannot be had without numbers."""
    return {key for key, shape in own.items() if other is not None and other.get(key) != shape}


def take_over(net: Network, network: str, options: dict, dataset: Dataset, start: Checkpoint) -> None:
    """Copy the weights that fit into a network. Raises as `fit_of` and the paper's own start do."""
    if follows_paper(network, start):
        # After the random start, which parts that the two do not share keep.
        weights = {key: torch.from_numpy(value) for key, value in start.weights.items()}
        entry(network).start.copy_weights(net, weights)
        return
    state = net.state_dict()
    own = {key: tuple(value.shape) for key, value in state.items()}
    with torch.no_grad():
        for key in fit_of(network, options, dataset, start, own).taken:
            # In place: the state shares its memory with the parameters.
            state[key].copy_(torch.from_numpy(start.weights[key]))


def told_of_start(
    network: str, options: dict, dataset: Dataset, start: Checkpoint, name: str
) -> Iterator[str]:
    """Lines on what a network takes over from `start`, the checkpoint in the file `name`."""
    if follows_paper(network, start):
        yield f"the encoder is that of {start.network} in {name}; the other weights are new"
    elif shapes_of(network, len(dataset.bands), len(dataset.legend), options) is not None:
        yield from fit_of(network, options, dataset, start).told(start, name)
    else:
        yield f"weights that fit are those of {start.network} in {name}"
