"""Windows of scenes as a network sees them, read one at a time, whatever the scenes' sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.contract.matching import bands_to_read
from labelscape.explanation.reference import Reference, labels_of
from labelscape.grid import Window
from labelscape.labels.base import Labels
from labelscape.legend import IGNORE
from labelscape.maps.request import MapRequest
from labelscape.maps.work import opened_for
from labelscape.nets.blocks import Network
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene
from labelscape.scoring.engines import build_network, predicted
from labelscape.scoring.scorer import normalise

MOST_SIDE = 1024
"""Pixels a side of a window at most (ours): gradients keep every layer's output of a whole window in memory,
some 10 GiB for the largest of the networks.
"""
HELD_BYTES = 256 * 2**20
"""Windows are kept in memory up to this; beyond, they are read again for each analysis."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A window as the network sees it.

    image    (1, B, H, W), normalised, on the network's device
    valid    (H, W) bool
    classes  (H, W) uint8 class indices that the network predicts, IGNORE where invalid
    picture  uint8 (H, W, 3), true colour
    truth    (H, W) uint8 class indices of the user's labels, IGNORE where there is none or no data;
             None where no labels were given
    """

    scene: str
    window: Window
    image: Tensor
    valid: np.ndarray
    classes: np.ndarray
    picture: np.ndarray
    truth: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """(H, W) uint8: the labels where there are any, else what the network predicts."""
        return self.classes if self.truth is None else self.truth

    @property
    def dominant(self) -> int:
        """The class of most labelled pixels; without labels, that of most predicted ones."""
        return int(np.bincount(self.known[self.known != IGNORE]).argmax())

    def named(self, legend: Sequence[str]) -> dict[str, object]:
        """As JSON values."""
        window, scored = self.window, {}
        if self.truth is not None:
            labelled = self.truth != IGNORE
            scored = {
                "labelled_pixels": int(labelled.sum()),
                "right_pixels": int((self.classes == self.truth)[labelled].sum()),
            }
        return {
            "scene": self.scene,
            "x": window.left,
            "y": window.top,
            "width": window.width,
            "height": window.height,
            "dominant_class": legend[self.dominant],
            **scored,
        }


class Windows:
    """The windows that were chosen. Iterating reads them one after another, those of one scene together."""

    def __init__(
        self,
        net: Network,
        checkpoint: Checkpoint,
        request: MapRequest,
        sources: Sequence[Source],
        places: Sequence[tuple[int, Window]],
        reference: Reference | None = None,
    ) -> None:
        self.net, self.checkpoint, self.request, self.sources = net, checkpoint, request, sources
        self.reference = reference
        self.places = tuple(sorted(places, key=lambda place: (place[0], place[1].top, place[1].left)))
        self._held: list[Seen] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Seen]:
        if self._held is not None:
            yield from self._held
            return
        kept: list[Seen] | None = []
        for seen in self._read():
            yield seen
            if kept is not None:
                kept.append(seen)
                # Beside the image: validity, classes, labels, and three bytes of colour a pixel.
                held = sum(one.image.nbytes + 6 * one.valid.size for one in kept)
                kept = kept if held <= HELD_BYTES else None
        self._held = kept

    def at(self, number: int) -> Seen:
        """One window by its number."""
        if self._held is not None:
            return self._held[number]
        place, window = self.places[number]
        with self._opened(place) as (scene, labels):
            return read(self.net, self.checkpoint, scene, window, labels)

    def _read(self) -> Iterator[Seen]:
        for number in sorted({number for number, _ in self.places}):
            # One scene at a time: a data set may be a thousand files.
            with self._opened(number) as (scene, labels):
                for place, window in self.places:
                    if place == number:
                        yield read(self.net, self.checkpoint, scene, window, labels)

    @contextmanager
    def _opened(self, number: int) -> Iterator[tuple[Scene, Labels | None]]:
        with (
            opened_for(self.checkpoint, self.sources[number], self.request) as (scene, *_),
            labels_of(self.reference, number, scene) as labels,
        ):
            yield scene, labels


def read(
    net: Network, checkpoint: Checkpoint, scene: Scene, window: Window, labels: Labels | None = None
) -> Seen:
    """Read and predict one window."""
    patch = scene.read(window, bands_to_read(checkpoint.bands, scene))
    image = normalise(patch.pixels, patch.valid, checkpoint.contract.normalisation)[None]
    image = image.to(next(net.parameters()).device)
    classes = predict(net, image)
    classes[~patch.valid] = IGNORE
    picture = scene.picture(window, most=MOST_SIDE)
    truth = None
    if labels is not None:
        truth = labels.read(window)
        truth[~patch.valid] = IGNORE
    return Seen(scene.name, window, image, patch.valid, classes, picture, truth)


def network_of(checkpoint: Checkpoint) -> Network:
    """The network with its weights, in eval mode on the CPU; `net(image)` predicts the checkpoint's own task.
    Raises BadFile as `build_network`.
    """
    net = build_network(checkpoint)
    if checkpoint.whole is not None:
        # Of this network alone: analyses then ask the second task as they ask the first.
        net.forward = lambda image: predicted(net, image, "mate")
    return net


@torch.no_grad()
def predict(net: Network, image: Tensor) -> np.ndarray:
    """(1, B, H, W) -> (H, W) uint8 class indices."""
    return net(image)[0].argmax(0).to(torch.uint8).cpu().numpy()


def scaled_for(seen: Seen, mine: Checkpoint, other: Checkpoint) -> Tensor:
    """The image of a window as another model reads it: (1, B, H, W), scaled by its own mean and deviation."""
    if mine.contract.normalisation == other.contract.normalisation:
        return seen.image
    image = seen.image.clone()
    for band, (own, theirs) in enumerate(zip(mine.contract.normalisation, other.contract.normalisation)):
        # A constant band has std 0: it is centred and not scaled.
        values = image[0, band] * (own[1] or 1.0) + own[0]
        image[0, band] = (values - theirs[0]) / (theirs[1] or 1.0)
    # What is no measurement is the mean of every model.
    image[..., torch.from_numpy(~seen.valid).to(image.device)] = 0
    return image
