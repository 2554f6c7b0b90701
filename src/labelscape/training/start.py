"""Start from a trained checkpoint: weights that fit are taken over, the rest is new, and both are named.

With other classes or bands the parts of a layer are matched by the name of the class or band: their order,
and how many there are, may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput, BadOption
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model, entry, shapes_of
from labelscape.nets.depth import encoder_names
from labelscape.training.foreign import ForeignWeights, Start, copy_foreign, match_weights

Shapes = dict[str, tuple[int, ...]]
Places = dict[int, tuple[tuple[int, int], ...]]
"""Axis of a weight -> (place in the start, place in the network) of each name that both have."""


@dataclass(frozen=True)
class Fit:
    """Weights of a network, by name: those that a checkpoint has, those that stay new, and why.

    partly  weights of which the parts of classes or bands are taken over by name
    whole   those of `partly` in which every class and band has its part
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    why: tuple[str, ...] = ()
    partly: Mapping[str, Places] = field(default_factory=dict)
    whole: tuple[str, ...] = ()

    def told(self, start: Checkpoint, name: str) -> list[str]:
        """What is taken over and what is not, as lines."""
        some = [key for key in self.partly if key not in self.whole]
        parts, by_name = (
            sorted({key.rpartition(".")[0] for key in keys}) for keys in ((*self.new, *some), self.whole)
        )
        kind = "new, but for the classes and bands of the same name" if some else "new"
        told = [f"{kind}: {', '.join(parts[:6])}{' ...' * (len(parts) > 6)}"] if parts else []
        told += [f"by the names of classes and bands: {', '.join(by_name)}"] if by_name else []
        because = f" ({'; '.join(self.why)})" if self.why and told else ""
        count = len(self.taken) + len(self.whole)
        return [
            f"{count} of {count + len(self.new) + len(some)} weights are those of "
            f"{'; '.join([f'{start.network} in {name}', *told])}{because}"
        ]


def follows_paper(network: str, start: Checkpoint) -> bool:
    """Does the network start from another one as its paper says, with its encoder alone?"""
    paper = entry(network).start
    return paper is not None and start.network != network


def fit_of(
    network: str,
    options: dict,
    dataset: Dataset,
    start: Checkpoint,
    own: Shapes | None = None,
    mate: Dataset | None = None,
) -> Fit:
    """Which weights of `start` the network for `dataset` takes over: those of equal name and shape; of those
    that read other bands or tell apart other classes, even as many, the parts of the same names.

    own   the network's shapes, where it is built already
    mate  the second task's data, whose classes are matched by name too

    Raises BadOption where nothing fits.
    """
    bands, classes = len(dataset.bands), len(dataset.legend)
    own = own or shapes_of(network, bands, classes, options) or {}
    theirs = {key: value.shape for key, value in start.weights.items()}
    # One band or one class more shows which weights depend on their number, whatever the network.
    places: dict[str, Places] = {}
    why = []
    if tuple(start.bands) != tuple(dataset.bands):
        why.append(_told_of("bands", start.bands, dataset.bands))
        more = _shapes(network, bands + 1, classes, options)
        _add_places(places, own, more, start.bands, dataset.bands)
    if list(start.legend.names) != list(dataset.legend.names):
        why.append(_told_of("classes", start.legend.names, dataset.legend.names))
        more = _shapes(network, bands, classes + 1, options)
        _add_places(places, own, more, start.legend.names, dataset.legend.names)
    # A head that was not trained is not described, and nothing of it is taken over.
    before = start.mate.legend.names if start.mate else ()
    if mate is not None and list(before) != list(mate.legend.names):
        if before:
            why.append(_told_of("classes of the second task", before, mate.legend.names))
        more = _shapes(network, bands, classes, {**options, "mate_classes": len(mate.legend) + 1})
        _add_places(places, own, more, before, mate.legend.names)
    taken = tuple(key for key, shape in own.items() if theirs.get(key) == shape and key not in places)
    partly = {key: found for key, found in places.items() if _fits(found, own[key], theirs.get(key))}
    # Counters and single numbers fit by chance.
    if own and not any(len(own[key]) > 1 for key in taken):
        raise BadOption(
            f"No weight of {start.network} fits {network} with these options: start from a checkpoint of "
            f"{network}"
            + (f" or {entry(network).start.base}" if entry(network).start else "")
            + ", or leave `start` out."
        )
    new = tuple(key for key in own if key not in taken and key not in partly)
    whole = tuple(
        key
        for key, found in partly.items()
        if all(len(pairs) == own[key][axis] for axis, pairs in found.items())
    )
    return Fit(taken, new, tuple(why), partly, whole)


def of_classes(network: str, options: dict, dataset: Dataset) -> set[str]:
    """Names of the weights that depend on the number of classes."""
    bands, classes = len(dataset.bands), len(dataset.legend)
    own, more = (_shapes(network, bands, count, options) for count in (classes, classes + 1))
    return {key for key, shape in own.items() if more.get(key) != shape}


def _shapes(network: str, bands: int, classes: int, options: dict) -> Shapes:
    """The shapes of a network's weights. One that computes with numbers while it is built is built: without
    its shapes, classes of other names would be taken over as they stand.
    """
    found = shapes_of(network, bands, classes, options)
    if found is not None:
        return found
    fresh = {key: value for key, value in options.items() if key not in ("pretrained", "weights")}
    net = create_model(network, in_channels=bands, classes=classes, **fresh)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def _told_of(what: str, before: Sequence[str], now: Sequence[str]) -> str:
    """other classes: water, forest; of the same name: water; new, since written otherwise there: Forest"""
    join = " " if what == "bands" else ", "
    both = [name for name in now if list(before).count(name) == list(now).count(name) == 1]
    known = {" ".join(name.casefold().split()) for name in before}
    # Names are matched as they stand: told, since "Water" for "water" would be learned anew unnoticed.
    near = [name for name in now if name not in before and " ".join(name.casefold().split()) in known]
    return (
        f"other {what}: {join.join(before)}"
        + (f"; of the same name: {join.join(both)}" if both else "")
        + (f"; new, since written otherwise there: {join.join(near)}" if near else "")
    )


def _add_places(
    places: dict[str, Places], own: Shapes, more: Shapes, before: Sequence[str], now: Sequence[str]
) -> None:
    """Add, for each weight whose shape depends on the number of names, along which axes it does, and which
    places belong together.
    """
    # A name that stands twice says of neither which it is.
    once = {name for name in now if list(before).count(name) == list(now).count(name) == 1}
    same = tuple((list(before).index(name), place) for place, name in enumerate(now) if name in once)
    for key, shape in own.items():
        other = more.get(key)
        if other == shape:
            continue
        axes = [axis for axis, pair in enumerate(zip(shape, other or ())) if pair[0] != pair[1]]
        # One place a name: of a layer that has several for each it is not known which is which.
        one = other is not None and len(other) == len(shape)
        one = one and all((shape[a], other[a]) == (len(now), len(now) + 1) for a in axes)
        places[key] = places.get(key, {}) | {axis: same if one else () for axis in axes or [0]}


def _fits(places: Places, own: tuple[int, ...], theirs: tuple[int, ...] | None) -> bool:
    """Does a weight of the start have all these places, and the network's shape beside them?"""
    if theirs is None or len(theirs) != len(own) or not all(places.values()):
        return False
    return all(
        max(old for old, _ in places[axis]) < theirs[axis] if axis in places else theirs[axis] == side
        for axis, side in enumerate(own)
    )


def _copy_places(to: torch.Tensor, source: np.ndarray, places: Places) -> None:
    """Copy the parts of a weight that have a name in both, in place."""
    old = [range(side) for side in source.shape]
    new = [range(side) for side in to.shape]
    for axis, pairs in places.items():
        old[axis], new[axis] = [a for a, _ in pairs], [b for _, b in pairs]
    to[np.ix_(*new)] = torch.from_numpy(source[np.ix_(*old)]).to(to)


def take_over(
    net: Network, network: str, options: dict, dataset: Dataset, start: Start, mate: Dataset | None = None
) -> set[str]:
    """Copy the weights that fit into a network; returns the names of those that were taken over whole. Raises
    as `fit_of` and the paper's own start do, BadInput for a paper's start that reads other bands.
    """
    if isinstance(start, ForeignWeights):
        return set(copy_foreign(net, of_classes(network, options, dataset), start).taken)
    if follows_paper(network, start):
        _refuse_other_bands(network, dataset, start)
        # After the random start, which parts that the two do not share keep.
        weights = {key: torch.from_numpy(value) for key, value in start.weights.items()}
        return set(entry(network).start.copy_weights(net, weights))
    state = net.state_dict()
    own = {key: tuple(value.shape) for key, value in state.items()}
    with torch.no_grad():
        fit = fit_of(network, options, dataset, start, own, mate)
        for key in fit.taken:
            # In place: the state shares its memory with the parameters.
            state[key].copy_(torch.from_numpy(start.weights[key]))
        for key, places in fit.partly.items():
            _copy_places(state[key], start.weights[key], places)
    return {*fit.taken, *fit.whole}


def _refuse_other_bands(network: str, dataset: Dataset, start: Checkpoint) -> None:
    """As many bands in another order have the same shapes: they would be taken over for each other."""
    if tuple(start.bands) != tuple(dataset.bands):
        raise BadInput(
            f"The encoder of {start.network} learned the bands {' '.join(start.bands)}, and the scenes have "
            f"{' '.join(dataset.bands)}: choose and order them with `data.bands` (or name them with "
            f"`data.band_names`), or start from a checkpoint of {network}, whose bands are matched by name."
        )


def told_of_start(
    network: str, options: dict, dataset: Dataset, start: Start, name: str, mate: Dataset | None = None
) -> Iterator[str]:
    """Lines on what a network takes over from `start`, the checkpoint or weights in the file `name`."""
    if isinstance(start, ForeignWeights):
        fresh = {key: value for key, value in options.items() if key not in ("pretrained", "weights")}
        net = create_model(network, in_channels=len(dataset.bands), classes=len(dataset.legend), **fresh)
        own = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        matched = match_weights(own, encoder_names(net), of_classes(network, options, dataset), start)
        yield matched.told(name, start.learned)
    elif follows_paper(network, start):
        yield f"the encoder is that of {start.network} in {name}; the other weights are new"
    elif shapes_of(network, len(dataset.bands), len(dataset.legend), options) is not None:
        yield from fit_of(network, options, dataset, start, mate=mate).told(start, name)
    else:
        yield f"weights that fit are those of {start.network} in {name}"
