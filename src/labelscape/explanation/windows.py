"""Which windows of which scenes are looked at, and how they are read: one at a time, whatever the scenes'
sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.contract.matching import bands_to_read
from labelscape.errors import BadInput, BadOption, check_seed
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.maps.plan import refuse_unless
from labelscape.maps.request import MapRequest
from labelscape.maps.work import fitting, opened_for
from labelscape.nets.blocks import Network
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene
from labelscape.scoring.scorer import normalise

MOST_SIDE = 1024
"""Pixels a side of a window at most (ours): gradients keep every layer's output of a whole window in memory,
some 10 GiB for the largest of the networks.
"""
USUAL_SIDE = 256
"""Where nothing is known of the crops that a network learned from."""
MOST_USUAL = 512
MOST_WINDOWS = 10_000
TRIES = 20
"""Random places looked at for each window, until one has data."""
CANDIDATES = 8
"""Random windows predicted for each one wanted of a class."""
HELD_BYTES = 256 * 2**20
"""Windows are kept in memory up to this; beyond, they are read again for each analysis."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A window as the network sees it.

    image    (1, B, H, W), normalised, on the network's device
    valid    (H, W) bool
    classes  (H, W) uint8 class indices that the network predicts, IGNORE where invalid
    picture  uint8 (H, W, 3), true colour
    """

    scene: str
    window: Window
    image: Tensor
    valid: np.ndarray
    classes: np.ndarray
    picture: np.ndarray

    @property
    def dominant(self) -> int:
        """The class that most valid pixels are predicted as."""
        return int(np.bincount(self.classes[self.valid]).argmax())

    def named(self, legend: Sequence[str]) -> dict[str, object]:
        """As JSON values."""
        window = self.window
        return {
            "scene": self.scene,
            "x": window.left,
            "y": window.top,
            "width": window.width,
            "height": window.height,
            "dominant_class": legend[self.dominant],
        }


@dataclass(frozen=True)
class Wanted:
    """Which windows a user asks for: those `given` as (x, y, size) in pixels of the scene, one around
    `pixels` (x, y), or `number` random ones, of `of_class` where one is named. `side` is that of random
    windows; None is what the network learned from.
    """

    given: tuple[tuple[int, int, int], ...] = ()
    pixels: tuple[tuple[int, int], ...] = ()
    number: int = 8
    side: int | None = None
    of_class: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        sides = [side for *_, side in self.given] + ([] if self.side is None else [self.side])
        for side in sides:
            if not 1 <= side <= MOST_SIDE:
                raise BadOption(f"A window's size is 1 to {MOST_SIDE} pixels a side; found {side}.")
        if not 1 <= self.number <= MOST_WINDOWS:
            raise BadOption(f"`windows={self.number}` must be 1 to {MOST_WINDOWS}.")
        if self.placed and self.of_class is not None:
            raise BadOption("A window given by its place and a class both choose windows; give one of them.")

    @property
    def placed(self) -> int:
        """How many windows are given by their place."""
        return len(self.given) or bool(self.pixels)


class Windows:
    """The windows that were chosen. Iterating reads them one after another, those of one scene together."""

    def __init__(
        self,
        net: Network,
        checkpoint: Checkpoint,
        request: MapRequest,
        sources: Sequence[Source],
        places: Sequence[tuple[int, Window]],
    ) -> None:
        self.net, self.checkpoint, self.request, self.sources = net, checkpoint, request, sources
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
                held = sum(one.image.nbytes + 5 * one.valid.size for one in kept)
                kept = kept if held <= HELD_BYTES else None
        self._held = kept

    def at(self, number: int) -> Seen:
        """One window by its number."""
        if self._held is not None:
            return self._held[number]
        place, window = self.places[number]
        with opened_for(self.checkpoint, self.sources[place], self.request) as (scene, *_):
            return read(self.net, self.checkpoint, scene, window)

    def _read(self) -> Iterator[Seen]:
        for number in sorted({number for number, _ in self.places}):
            # One scene at a time: a data set may be a thousand files.
            with opened_for(self.checkpoint, self.sources[number], self.request) as (scene, *_):
                for place, window in self.places:
                    if place == number:
                        yield read(self.net, self.checkpoint, scene, window)


def read(net: Network, checkpoint: Checkpoint, scene: Scene, window: Window) -> Seen:
    """Read and predict one window."""
    patch = scene.read(window, bands_to_read(checkpoint.bands, scene))
    image = normalise(patch.pixels, patch.valid, checkpoint.contract.normalisation)[None]
    image = image.to(next(net.parameters()).device)
    classes = predict(net, image)
    classes[~patch.valid] = IGNORE
    picture = scene.picture(window, most=MOST_SIDE)
    return Seen(scene.name, window, image, patch.valid, classes, picture)


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


def around(pixels: Sequence[tuple[int, int]], side: int, shape: tuple[int, int]) -> tuple[int, int, int]:
    """The window (x, y, size) around pixels (x, y) of a scene of this shape. Raises BadOption where they lie
    outside it, or too far apart.
    """
    side = min(side, *shape)
    for x, y in pixels:
        if not (0 <= x < shape[1] and 0 <= y < shape[0]):
            raise BadOption(
                f"The pixel {x},{y} is not inside the scene, which is {shape[1]} x {shape[0]} pixels."
            )
    corner = []
    for axis, whole in ((0, shape[1]), (1, shape[0])):
        low, high = (pick(pixel[axis] for pixel in pixels) for pick in (min, max))
        if high - low >= side:
            raise BadOption(f"The pixels are {high - low} apart; a window of `size={side}` is too small.")
        corner.append(min(max(0, (low + high + 1) // 2 - side // 2), whole - side))
    return corner[0], corner[1], side


def choose(
    net: Network,
    checkpoint: Checkpoint,
    request: MapRequest,
    sources: Sequence[Source],
    wanted: Wanted,
    tick: Callable[..., None],
) -> tuple[Windows, list[str]]:
    """The windows that are wanted, and what was found of their scenes. Each scene that has one is checked
    against the model as a map checks it: raises Refused where it does not fit, BadInput where no window has
    data, or none the class that is wanted.
    """
    notes: list[str] = []
    pool = wanted.number * (CANDIDATES if wanted.of_class else 1)
    chances = np.random.default_rng(wanted.seed)
    counts = [wanted.placed] if wanted.placed else _shared_out(pool, len(sources), chances)
    target = None if wanted.of_class is None else checkpoint.legend.index(wanted.of_class)
    found: list[tuple[float, int, Window]] = []
    for number, count in enumerate(counts):
        if not count:
            continue
        with fitting(checkpoint, sources[number], request, stride=net.stride) as (scene, findings, _):
            if not request.force:
                refuse_unless(findings, scene.name)
            notes += [f"{scene.name}: {finding.cause}" for finding in findings]
            side = wanted.side or usual_side(checkpoint)
            if wanted.placed:
                around_them = wanted.given or (around(wanted.pixels, side, scene.grid.shape),)
                places = _given(scene, around_them, wanted.pixels)
            else:
                places = _random(scene, count, side, chances)
            for window in places:
                share = 0.0
                if target is not None:
                    seen = read(net, checkpoint, scene, window)
                    share = float((seen.classes == target).sum() / max(1, seen.valid.sum()))
                found.append((share, number, window))
                tick()
    if target is not None:
        found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])[: wanted.number]
    if not found:
        which = f" and the class {wanted.of_class}" if wanted.of_class else ""
        raise BadInput(f"None of {sum(counts)} windows has data{which}; ask for other or more windows.")
    return Windows(net, checkpoint, request, sources, [(n, window) for _, n, window in found]), notes


def usual_side(checkpoint: Checkpoint) -> int:
    """The side of the crops that a network learned from, at most MOST_USUAL."""
    return min(MOST_USUAL, int(checkpoint.recipe.get("crop") or USUAL_SIDE))


def _shared_out(number: int, scenes: int, chances: np.random.Generator) -> list[int]:
    """How many windows of each scene: all scenes in random order, again and again."""
    counts = [number // scenes] * scenes
    for chosen in chances.permutation(scenes)[: number % scenes]:
        counts[chosen] += 1
    return counts


def _given(
    scene: Scene, given: Sequence[tuple[int, int, int]], pixels: Sequence[tuple[int, int]]
) -> list[Window]:
    windows = [Window(y, x, side, side) for x, y, side in given]
    for window in windows:
        place = f"{window.left},{window.top},{window.width}"
        if (window & scene.grid.window) != window:
            raise BadOption(
                f"The window {place} (x, y, size) is not inside {scene.name}, which is {scene.grid.width} x "
                f"{scene.grid.height} pixels."
            )
        valid = scene.read(window).valid
        if not valid.any():
            raise BadInput(f"The window {place} has no valid pixel.")
        for x, y in pixels:
            row, column = y - window.top, x - window.left
            if not (0 <= row < window.height and 0 <= column < window.width):
                raise BadOption(f"The pixel {x},{y} is not inside the window {place}; leave the window out.")
            if not valid[row, column]:
                raise BadInput(f"The pixel {x},{y} has no data.")
    return windows


def _random(scene: Scene, count: int, side: int, chances: np.random.Generator) -> list[Window]:
    """Windows at random places that have data, none twice."""
    height, width = (min(side, whole) for whole in scene.grid.shape)
    windows: list[Window] = []
    for _ in range(count * TRIES):
        top = int(chances.integers(scene.grid.height - height + 1))
        left = int(chances.integers(scene.grid.width - width + 1))
        window = Window(top, left, height, width)
        # Half of it at least: of a window of few valid pixels the network sees mostly the mean.
        if window not in windows and scene.read(window).valid.mean() >= 0.5:
            windows.append(window)
        if len(windows) == count:
            break
    return windows
