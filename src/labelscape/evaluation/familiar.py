"""Measure the features of a network on its training data, and the distance within which held-out pixels lie:
what `map --unfamiliar` compares a scene with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.contract.familiarity import QUANTILE, Familiarity, Moments
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput
from labelscape.evaluation.tile_sizes import Unit, chosen_units
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.progress import bar

if TYPE_CHECKING:
    from labelscape.scoring.scorer import Scorer

MOST_PIXELS = 2**20
"""Pixels of each part whose features are looked at (ours): sixteen blocks of 256."""
MOST_CELLS = 4096
"""Features of each unit, drawn with a fixed seed: a large one must not decide for all."""


def measure_familiarity(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    pixels: int = MOST_PIXELS,
    device: str = "auto",
    show: bool = True,
) -> Familiarity | None:
    """The features of a checkpoint's labelled training pixels, at most `pixels` of them, and the distance
    within which 99 % of as many held-out ones lie: of the part test, else val, else, where nothing is held
    out, of other training pixels. None where no training pixel is labelled.

    Tiles are as large as in a map. Raises as `Scorer.of` does; BadInput where features are not finite.
    """
    scorer, layer = _scorer_and_layer(checkpoint, device)
    held, learned, judged = _chosen(dataset, pixels)
    moments = Moments(len(checkpoint.legend))
    with bar(
        "features of the training data (for --unfamiliar)", len(learned) + len(judged), "blocks", shown=show
    ) as tick:
        for features, classes in _features(scorer, layer, learned, "train", tick):
            moments.add(features, classes)
        if not moments.counts.any():
            return None
        found = moments.fitted()
        unlimited = Familiarity(
            layer, **found, limit=1.0, quantile=QUANTILE, part=held, pixels=(int(moments.counts.sum()), 0)
        )
        distances = [unlimited.distances(f) for f, _ in _features(scorer, layer, judged, held, tick)]
    distances = np.concatenate(distances) if distances else np.zeros(0)
    if not len(distances):
        return None
    limit = max(float(np.quantile(distances, QUANTILE)), 1e-9)
    counted = int(moments.counts.sum()), len(distances)
    return Familiarity(layer, **found, limit=limit, quantile=QUANTILE, part=held, pixels=counted)


def familiarity_seconds(
    checkpoint: Checkpoint, dataset: Dataset, *, pixels: int = MOST_PIXELS, device: str = "auto"
) -> float:
    """How long `measure_familiarity` will take: one unit is timed, the pixels of all that are read are
    counted.
    """
    from labelscape.scoring.memory import tile_side

    scorer, layer = _scorer_and_layer(checkpoint, device)
    _, learned, judged = _chosen(dataset, pixels)
    side_for = cache(partial(tile_side, scorer))
    read = [seen_window(scorer, unit, side_for).pixels for unit in [*learned, *judged]]
    start = time.monotonic()
    for _ in _features(scorer, layer, learned[:1], "train", lambda: None):
        pass
    return (time.monotonic() - start) / read[0] * sum(read) if learned else 0.0


def _scorer_and_layer(checkpoint: Checkpoint, device: str) -> tuple[Scorer, str]:
    from labelscape.scoring.familiar import feature_layer
    from labelscape.scoring.scorer import Scorer

    scorer, whole = Scorer.of(checkpoint, device=device), checkpoint.whole or checkpoint
    return scorer, feature_layer(scorer.members[0].engine.net, whole.network, dict(whole.options))


def _chosen(dataset: Dataset, pixels: int) -> tuple[str, list[Unit], list[Unit]]:
    """The held-out part, units of the training part, and those that give the limit."""
    # Of scenes that are not split every part has all labels.
    divided = any(s.split is not None for s in dataset.scenes) or any(dataset.part_of)
    held = next((p for p in ("test", "val") if divided and dataset.is_labelled(p)), "train")
    learned = chosen_units(dataset, "train", pixels)
    if held != "train":
        return held, learned, chosen_units(dataset, held, pixels)
    # Every other unit: a limit on the very pixels of the means would be too narrow.
    return held, learned[::2], learned[1::2] or learned[::2]


def _features(
    scorer: Scorer, layer: str, units: Sequence[Unit], part: str, tick: Callable[[], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features (N, C) and classes (N,) of labelled pixels of each unit, MOST_CELLS at most."""
    from labelscape.contract.matching import bands_to_read
    from labelscape.scoring.familiar import features_of
    from labelscape.scoring.memory import tile_side

    rng, net = np.random.default_rng(0), scorer.members[0].engine.net
    # Once a size of scene: it may run the network's shapes to estimate memory.
    side_for = cache(partial(tile_side, scorer))
    for unit in units:
        scene, window = unit.scene, seen_window(scorer, unit, side_for)
        patch = scene.scene.read(window, bands_to_read(scorer.checkpoint.bands, scene.scene))
        labels = scene.read_labels(window, part)
        labels[~patch.valid] = IGNORE
        # What lies around the unit is seen, and belongs to others.
        mine = np.full(labels.shape, IGNORE, np.uint8)
        inside = unit.window.inset_of(window)
        mine[inside] = labels[inside]
        if (mine != IGNORE).any():
            (image,) = scorer.prepare(patch.pixels, patch.valid)
            features, rows, columns = features_of(net, layer, image.to(scorer.device))
            classes = mine[np.ix_(rows, columns)].ravel()
            cells = np.flatnonzero(classes != IGNORE)
            cells = rng.choice(cells, min(MOST_CELLS, len(cells)), replace=False)
            chosen = features.reshape(len(features), -1)[:, cells].T
            if not np.isfinite(chosen).all():
                raise BadInput(
                    f"The network {scorer.checkpoint.network} gives features that are no finite numbers: its "
                    "weights are damaged, as by a learning rate that is too high for this data. Train it "
                    "again with a smaller `rate` (`overwrite=True`)."
                )
            yield chosen, classes[cells]
        tick()


def seen_window(scorer: Scorer, unit: Unit, side_for: Callable[[int], int]) -> Window:
    """What the network sees of a unit's surroundings: its reach, or as large a tile as in a map, which is
    `side_for` the longest side of the scene.
    """
    from labelscape.scoring.memory import is_exact

    whole, stride = unit.scene.scene.grid.window, scorer.stride
    if is_exact(scorer.members[0]):
        margin = scorer.reach
    else:
        margin = max(0, side_for(max(whole.shape)) - max(unit.window.shape)) // 2
    window = unit.window.grown(margin, whole)
    # Tiles start at whole strides: elsewhere pooling would have other cells.
    top, left = window.top // stride * stride, window.left // stride * stride
    return Window(top, left, window.bottom - top, window.right - left)
