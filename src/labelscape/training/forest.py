"""A baseline without a network: a random forest on the band values of single pixels."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from labelscape.datasets.labelled import scene_names
from labelscape.datasets.own import Dataset
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.tally import Tally
from labelscape.legend import IGNORE
from labelscape.progress import Tick, bar

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TRAINING_PIXELS = 40_000
TREES = 100
"""Ours: no paper has this baseline."""
SHARE = 20_000
"""Pixels that a thread predicts at a time: enough to keep it busy, few enough that all cores get some."""


def score_forest(dataset: Dataset, *, part: str = "test", seed: int = 0) -> Evaluation:
    """Grow a forest and score every labelled pixel of `part`. Deterministic for a seed."""
    forest = grow_forest(dataset, seed=seed)
    tally, scenes = Tally(dataset.legend.names), dataset.part(part)
    # Pixels, not scenes: of one scene with millions of labels, nothing would be heard for minutes.
    pixels = int(dataset.class_counts(part).sum())
    with bar("score the random forest", pixels, "labelled pixels") as tick:
        for name, scene in zip(scene_names(scenes), scenes):
            with tally.scene(name, scene) as add:
                for window in scene.scene.grid.window.blocks(1024):
                    patch, truth = scene.read(window, part)
                    labelled = truth != IGNORE
                    if labelled.any():
                        predicted = np.full(truth.shape, IGNORE, np.uint8)
                        predicted[labelled] = predict(forest, patch.pixels[:, labelled].T, tick)
                        add(window, truth, predicted)
    return tally.result()


def grow_forest(dataset: Dataset, *, seed: int = 0) -> RandomForestClassifier:
    """Train on at most 40,000 labelled pixels of the training blocks: 100 trees, leaves of at least 2
    pixels, all cores. Deterministic for a seed.
    """
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    values, classes = _labelled_pixels(dataset, "train")
    chosen = rng.choice(len(classes), min(TRAINING_PIXELS, len(classes)), replace=False)
    forest = RandomForestClassifier(TREES, min_samples_leaf=2, n_jobs=-1, random_state=seed)
    # Each tree draws from a seed of its own: any number of jobs grows the same forest.
    return forest.fit(values[chosen], classes[chosen])


def predict(forest: RandomForestClassifier, values: np.ndarray, tick: Tick | None = None) -> np.ndarray:
    """(n,) uint8 classes of pixels (n, bands), the same in every run; `tick` advances by the pixels of
    each share.

    With several jobs scikit-learn adds the trees' votes in the order in which its threads finish: where two
    classes are all but equal the last digit decides, differently each time. So the pixels are shared among
    threads instead of the trees.
    """
    forest.set_params(n_jobs=1)
    shares = [values[start : start + SHARE] for start in range(0, len(values), SHARE)]
    # Threads will do: scikit-learn's trees hold no lock of Python while they predict.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = []
        for classes in pool.map(forest.predict, shares):
            found.append(classes)
            if tick:
                tick(len(classes))
    return np.concatenate(found).astype(np.uint8)


def forest_seconds(dataset: Dataset, part: str) -> float:
    """An estimate of how long `score_forest` takes, from a forest on a tenth of its pixels."""
    from sklearn.ensemble import RandomForestClassifier

    start = time.monotonic()
    values, classes = _labelled_pixels(dataset, "train")
    read = time.monotonic()
    pixels = min(TRAINING_PIXELS, len(classes))
    sample = np.random.default_rng(0).choice(len(classes), max(1, pixels // 10), replace=False)
    forest = RandomForestClassifier(TREES, min_samples_leaf=2, n_jobs=-1, random_state=0)
    forest.fit(values[sample], classes[sample])
    fitted = time.monotonic()
    predict(forest, values[sample])
    predicted = time.monotonic()
    to_predict = int(dataset.class_counts(part).sum())
    # In proportion to the pixels, which is a little low: growing a tree takes n log n.
    fit = (fitted - read) * pixels / len(sample)
    return (read - start) + fit + (predicted - fitted) * to_predict / len(sample)


def _labelled_pixels(dataset: Dataset, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, bands) values and (pixels,) classes of all labelled pixels; scenes read block by block,
    thinned to a few million.
    """
    values, classes = [], []
    total = int(dataset.class_counts(part).sum())
    # All pixels of a large scene do not fit in memory, and the forest is trained on 40,000 of them.
    every = max(1, total // 2_000_000)
    for scene in dataset.part(part):
        for window in scene.scene.grid.window.blocks(1024):
            patch, truth = scene.read(window, part)
            labelled = truth != IGNORE
            # Every n-th, not at random: the same pixels in every run, evenly over the window.
            values.append(patch.pixels[:, labelled].T[::every])
            classes.append(truth[labelled][::every])
    return np.concatenate(values), np.concatenate(classes)
