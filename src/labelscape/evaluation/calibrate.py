"""Is a confidence of 80 % right 80 times in 100? One temperature that makes it so, and how far off it was
and is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput
from labelscape.legend import IGNORE
from labelscape.progress import bar

MOST_PIXELS = 400_000
"""Pixels the temperature is fitted on, drawn evenly from the tiles: one number needs no more."""
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """`temperature` minimises the cross-entropy of the labelled pixels looked at. The errors are expected
    calibration errors (0..1).
    """

    temperature: float
    error_before: float
    error_after: float
    pixels: int


def fit_temperature(
    checkpoint: Checkpoint, dataset: Dataset, *, part: str | None = "val", device: str = "auto"
) -> Calibration:
    """Fit the temperature (Guo et al. 2017) on the labelled pixels of a part, scored through the tiles of
    mapping.

    The fit starts from the network's own logits, whatever temperature the checkpoint carries. Raises BadInput
    where nothing is labelled.
    """
    from dataclasses import replace

    logits, truth = _logits(replace(checkpoint, temperature=1.0), dataset, part, device)
    if not len(truth):
        raise BadInput(
            f"No labelled pixel to calibrate on{f' in the {part} part' if part else ''}. Train with --val, "
            "or pass --part test."
        )
    temperature = _minimum(lambda t: _cross_entropy(logits / t, truth))
    before, after = (
        expected_error(_softmax(logits / t), truth) for t in (checkpoint.temperature, temperature)
    )
    return Calibration(temperature, before, after, len(truth))


def expected_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the pixels of |confidence - share that is right| in fifteen bins of confidence; (P, K) and
    (P,).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights=w, minlength=BINS) for w in (confidence, right.astype(float))]
    return float(np.abs(sums[0] - sums[1]).sum() / len(truth))


def _logits(
    checkpoint: Checkpoint, dataset: Dataset, part: str | None, device: str
) -> tuple[np.ndarray, np.ndarray]:
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.stitch import plan_for, score_tiles

    scorer = Scorer.of(checkpoint, device=device)
    scenes = dataset.scenes if part is None else dataset.part(part)
    plans = [plan_for(scorer, s.scene) for s in scenes]
    share = max(1, MOST_PIXELS // max(1, sum(len(p) for p in plans)))
    rng, found = np.random.default_rng(0), []
    with bar("calibrate", sum(len(p) for p in plans), "tiles") as tick:
        for scene, plan in zip(scenes, plans):

            def labelled(core, scene=scene) -> bool:
                tick()
                return bool((scene.read_labels(core, part) != IGNORE).any())

            for tile in score_tiles(scorer, scene.scene, plan, wanted=labelled):
                truth = scene.read_labels(tile.window, part)
                places = np.flatnonzero((truth != IGNORE) & tile.valid)
                places = rng.choice(places, min(share, len(places)), replace=False)
                rows = tile.logits.float().cpu().numpy().reshape(len(checkpoint.legend), -1)
                found.append((rows[:, places].T, truth.ravel()[places]))
    empty = np.zeros((0, len(checkpoint.legend)), np.float32), np.zeros(0, np.uint8)
    logits, truths = zip(*found) if found else ([empty[0]], [empty[1]])
    return np.concatenate(logits).astype(np.float64), np.concatenate(truths)


def _minimum(loss: Callable[[float], float]) -> float:
    from scipy.optimize import minimize_scalar

    return float(
        math.exp(
            minimize_scalar(
                lambda log_t: loss(math.exp(log_t)), bounds=(math.log(0.05), math.log(20)), method="bounded"
            ).x
        )
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    high = logits.max(axis=1)
    total = high + np.log(np.exp(logits - high[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(truth)), truth]).mean())
