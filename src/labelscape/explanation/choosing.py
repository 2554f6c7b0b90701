"""Which windows of which scenes are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadInput, BadOption, check_seed
from labelscape.explanation.reference import Reference, labels_of
from labelscape.explanation.windows import MOST_SIDE, Windows, read
from labelscape.grid import Window
from labelscape.labels.base import Labels
from labelscape.legend import IGNORE
from labelscape.maps.plan import refuse_unless
from labelscape.maps.request import MapRequest
from labelscape.maps.work import fitting
from labelscape.nets.blocks import Network
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene

USUAL_SIDE = 256
"""Where nothing is known of the crops that a network learned from."""
MOST_USUAL = 512
MOST_WINDOWS = 10_000
TRIES = 20
"""Random places looked at for each window, until one has data."""
LEAST_LABELLED = 0.05
"""Of a random window's valid pixels, this share is labelled at least (ours), where labels are given."""
CANDIDATES = 8
"""Random windows predicted for each one wanted of a class."""


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

    @property
    def candidates(self) -> int:
        """How many windows are read to choose from."""
        return self.placed or self.number * (CANDIDATES if self.of_class else 1)


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
    reference: Reference | None = None,
) -> tuple[Windows, list[str]]:
    """The windows that are wanted, and what was found of their scenes. Each scene that has one is checked
    against the model as a map checks it: raises Refused where it does not fit, BadInput where no window has
    data (and labels, where there is a `reference`), or none the class that is wanted.
    """
    notes: list[str] = []
    chances = np.random.default_rng(wanted.seed)
    counts = [wanted.placed] if wanted.placed else _shared_out(wanted.candidates, len(sources), chances)
    target = None if wanted.of_class is None else checkpoint.legend.index(wanted.of_class)
    found: list[tuple[float, int, Window]] = []
    for number, count in enumerate(counts):
        if not count:
            continue
        with fitting(checkpoint, sources[number], request, stride=net.stride) as (scene, findings, _):
            if not request.force:
                refuse_unless(findings, scene.name)
            notes += [f"{scene.name}: {finding.cause}" for finding in findings]
            with labels_of(reference, number, scene) as labels:
                notes += [] if labels is None else [f"{scene.name}: {line}" for line in labels.notes]
                for window in _places(scene, labels, wanted, count, usual_side(checkpoint), chances):
                    share = 0.0
                    if target is not None:
                        seen = read(net, checkpoint, scene, window, labels)
                        share = float((seen.known == target).sum() / max(1, (seen.known != IGNORE).sum()))
                    found.append((share, number, window))
                    tick()
    if target is not None:
        found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])[: wanted.number]
    if not found:
        which = " and labels" * (reference is not None)
        which += f" and the class {wanted.of_class}" if wanted.of_class else ""
        raise BadInput(f"None of {sum(counts)} windows has data{which}; ask for other or more windows.")
    if not wanted.placed and len(found) < wanted.number:
        which = f" of {wanted.of_class}" if wanted.of_class else ""
        notes.append(f"only {len(found)} of {wanted.number} windows were found that have data{which}")
    return Windows(net, checkpoint, request, sources, [(n, w) for _, n, w in found], reference), notes


def _places(
    scene: Scene, labels: Labels | None, wanted: Wanted, count: int, usual: int, chances: np.random.Generator
) -> list[Window]:
    """The windows of one scene: those that a user places, or so many at random."""
    side = wanted.side or usual
    if not wanted.placed:
        return _random(scene, labels, count, side, chances)
    around_them = wanted.given or (around(wanted.pixels, side, scene.grid.shape),)
    places = _given(scene, around_them, wanted.pixels)
    for window in places:
        if labels is not None and (labels.read(window)[scene.read(window).valid] == IGNORE).all():
            raise BadInput(
                f"The window {window.left},{window.top},{window.width} has no labelled pixel; choose "
                "another, or leave the labels out."
            )
    return places


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


def _random(
    scene: Scene, labels: Labels | None, count: int, side: int, chances: np.random.Generator
) -> list[Window]:
    """Windows at random places that have data, and labels where there are any of the scene; none twice."""
    height, width = (min(side, whole) for whole in scene.grid.shape)
    windows: list[Window] = []
    for _ in range(count * TRIES):
        top = int(chances.integers(scene.grid.height - height + 1))
        left = int(chances.integers(scene.grid.width - width + 1))
        window = Window(top, left, height, width)
        # Half of it at least: of a window of few valid pixels the network sees mostly the mean.
        if window in windows or (valid := scene.read(window).valid).mean() < 0.5:
            continue
        if labels is None or (labels.read(window)[valid] != IGNORE).mean() >= LEAST_LABELLED:
            windows.append(window)
        if len(windows) == count:
            break
    return windows
