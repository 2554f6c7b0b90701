"""Other people's weights as a start: state dicts of torchgeo, segmentation-models-pytorch and timm, whose
encoder is that of the network. Strict: an encoder that does not fit whole is refused, with what differs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint, load
from labelscape.errors import BadFile, BadInput
from labelscape.nets.backbones import read_weights, within
from labelscape.nets.blocks import Network
from labelscape.nets.depth import encoder_names
from labelscape.raster_vision import Bundle, read_bundle, weights_in
from labelscape.text import some

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
"""Of files that torch writes; a .safetensors file is one of ours where it has our description."""
SHOWN = 4
SMP_CONFIG, SMP_WEIGHTS = "config.json", "model.safetensors"
UNTOLD = "It does not say which bands in which order and scaling it learned: that is for you to check"


@dataclass(frozen=True)
class ForeignWeights:
    """A state dict that is no checkpoint of ours: it names neither bands nor classes."""

    path: str
    state: Mapping[str, Tensor] = field(repr=False)
    learned: str = UNTOLD
    """What is known of the bands and their scaling that they learned from, as a sentence."""
    bundle: Bundle | None = None
    """Of Raster Vision, where they come from one: its statistics say how their images were scaled."""


Start = Checkpoint | ForeignWeights


@dataclass(frozen=True)
class Match:
    """taken  names of a network's weights and those that they have in the file
    new    the other weights of the network
    left   the other weights of the file
    """

    taken: Mapping[str, str]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def told(self, name: str, learned: str) -> str:
        fresh = sorted({key.rpartition(".")[0] for key in self.new})
        new = f"; new: {some(fresh, SHOWN)}" if fresh else ""
        left = f"; not used: {some(self.left, SHOWN)}" if self.left else ""
        return (
            f"{len(self.taken)} of {len(self.taken) + len(self.new)} weights are those of {name}{new}{left}. "
            f"{learned}"
        )


def load_start(path: str) -> Checkpoint | ForeignWeights:
    """A checkpoint (or the place of one), or other weights: a file of them, a folder as
    segmentation-models-pytorch saves its models, a bundle of Raster Vision. Raises BadFile or BadInput where
    it is none of these.
    """
    place = Path(path)
    if (place / SMP_CONFIG).is_file() and (place / SMP_WEIGHTS).is_file():
        return ForeignWeights(path, read_weights(place / SMP_WEIGHTS))
    if place.suffix.lower() == ".zip":
        return _of_bundle(path)
    if place.suffix.lower() in SUFFIXES:
        return ForeignWeights(path, read_weights(place))
    if place.suffix == ".safetensors" and place.is_file() and not _is_ours(place):
        return ForeignWeights(path, read_weights(place))
    found = load(path)
    if found.exported is not None:
        raise BadInput(
            f"{path} is {found.exported.title}, whose weights are in its graph: start from the checkpoint "
            "that it was made of."
        )
    return found


def _of_bundle(path: str) -> ForeignWeights:
    found = read_bundle(path)
    if not found.backbone:
        raise BadInput(
            f"{path} is a bundle of Raster Vision whose network is defined by code in it, which is not run. "
            "Save its weights alone (torch.save(model.state_dict(), 'weights.pth')), and start from these."
        )
    state = read_weights(Path(path), weights_in(path))
    names = some([name for name, _ in found.classes], SHOWN)
    learned = f"They learned {names}, from images scaled as {found.scaling}"
    return ForeignWeights(path, state, learned, found)


def bundle_of(start: Start | None) -> Bundle | None:
    """The bundle that weights to start from come from; None for others."""
    return start.bundle if isinstance(start, ForeignWeights) else None


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return "labelscape" in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return True  # damaged: `load` says how


def match_weights(
    own: Mapping[str, tuple[int, ...]], encoder: set[str], of_classes: set[str], start: ForeignWeights
) -> Match:
    """Which weights of a network are in a file, by name and shape.

    own         names and shapes of the network's weights
    encoder     names of those that must all be there
    of_classes  names of those that tell classes apart: the file does not say which class a row is

    Raises BadInput where the encoder is another one.
    """
    shapes = {key: tuple(value.shape) for key, value in start.state.items()}
    # timm's feature extractors join the names of a sequence with "_" where its classifiers have ".".
    flat = {_flat(key): key for key in shapes}
    ours, theirs = _prefixes({_flat(key) for key in encoder}, flat)
    if ours is None:
        raise BadInput(
            f"{start.path} holds no encoder of this network: of its {len(shapes)} weights (such as "
            f"{some(sorted(shapes)[:2])}) none is called {some(sorted(encoder)[:2])}, whatever stands "
            "before. Choose the backbone that it was trained with."
        )
    places = {key: theirs + _flat(key).removeprefix(ours) for key in own if _flat(key).startswith(ours)}
    found = {key: flat.get(place, place) for key, place in places.items()}
    wrong = [
        f"{key} is {shapes.get(found[key], 'missing')} there, {own[key]} here"
        for key in sorted(encoder)
        if shapes.get(found[key]) != own[key] and not key.endswith("num_batches_tracked")
    ]
    if wrong:
        raise BadInput(
            f"{start.path} does not fit: {len(wrong)} of {len(encoder)} weights of the encoder differ "
            f"({'; '.join(wrong[:SHOWN])}). It has another backbone, or reads another number of bands "
            "(`data.bands`)."
        )
    # A deeper backbone has all weights of a shallower one, and more beside them.
    words = zip(*(key.split(".")[:-1] for key in encoder))
    root = "".join(f"{same[0]}." for same in takewhile(lambda same: len(set(same)) == 1, words))
    stages = {key.removeprefix(root).partition(".")[0] for key in encoder}
    place = theirs + _flat(root).removeprefix(ours)
    rest = sorted(shapes.keys() - set(found.values()))
    if more := [key for key in rest if _flat(key).startswith(place) and within(key[len(place) :], stages)]:
        raise BadInput(
            f"{start.path} does not fit: its encoder has {len(more)} weights more than this one, such as "
            f"{more[0]}. It is of a deeper backbone, of which a part is no start: choose that backbone."
        )
    taken = {
        key: name
        for key, name in found.items()
        if shapes.get(name) == own[key] and (key in encoder or key not in of_classes)
    }
    new = tuple(key for key in own if key not in taken and not key.endswith("num_batches_tracked"))
    return Match(taken, new, tuple(sorted(shapes.keys() - set(taken.values()))))


def _flat(key: str) -> str:
    return key.replace(".", "_")


def _prefixes(encoder: set[str], given: Collection[str]) -> tuple[str | None, str]:
    """What stands before the names of the network's encoder and before those `given`, all flat: the pair
    under which most names are the same.
    """
    best: tuple[int, str | None, str] = (0, None, "")
    names = sorted(encoder)
    for depth in range(names[0].count("_")):
        ours = "".join(f"{word}_" for word in names[0].split("_")[:depth])
        if not all(name.startswith(ours) for name in names):
            break
        first = names[0].removeprefix(ours)
        for key in given:
            if key == first or key.endswith(f"_{first}"):
                theirs = key.removesuffix(first)
                same = sum(theirs + name.removeprefix(ours) in given for name in names)
                # The shortest prefix of ours first: with `net.` a whole network fits, not its encoder alone.
                if same > best[0]:
                    best = (same, ours, theirs)
    return best[1], best[2]


def copy_foreign(net: Network, of_classes: set[str], start: ForeignWeights) -> Match:
    """Copy what fits into a network. Raises as `match_weights`, BadFile for values that are not finite."""
    state = net.state_dict()
    own = {key: tuple(value.shape) for key, value in state.items()}
    match = match_weights(own, encoder_names(net), of_classes, start)
    with torch.no_grad():
        for key, name in match.taken.items():
            value = start.state[name]
            if not torch.isfinite(value.float()).all():
                raise BadFile(f"{start.path} cannot be used: {name} holds values that are no finite numbers.")
            # In place: the state shares its memory with the parameters.
            state[key].copy_(value)
    return match
