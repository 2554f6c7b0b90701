"""Calibrate the predicted probabilities: temperature scaling, and the expected calibration error before and
after it.

Source  C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. "On Calibration of Modern Neural Networks". ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.checkpoint import Checkpoint, load_all, save
from labelscape.datasets.own import Dataset
from labelscape.datasets.split import known_part
from labelscape.errors import BadInput
from labelscape.evaluation.measure import check_classes, check_dataset, for_labels
from labelscape.evaluation.reliability import BINS, Reliability
from labelscape.legend import IGNORE
from labelscape.progress import bar
from labelscape.scoring.arrays import as_numpy

MAX_PIXELS = 400_000
"""Pixels the temperature is fitted on (ours): one parameter needs no more."""

EXTREME = 0.2, 5.0
"""Temperatures outside of this range come from networks that learned little or memorised (ours)."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """A checkpoint whose probabilities are calibrated, and what that changed.

    checkpoint   the checkpoint with its new temperature; classes are the same, confidences are not
    temperature  minimises the cross-entropy of the labelled pixels; above 1 the network was overconfident
    ece_before   expected calibration error (0..1) with the temperature that the checkpoint had
    ece_after    the same with this one
    pixels       labelled pixels it was fitted on
    before       counts by confidence with the temperature that the checkpoint had, and `after`, with this one
    """

    checkpoint: Checkpoint
    temperature: float
    ece_before: float
    ece_after: float
    pixels: int
    before: Reliability | None = None
    after: Reliability | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the calibrated confidences doubtful; empty where nothing does."""
        notes = []
        if self.ece_after > self.ece_before + 1e-6:
            notes.append(
                "The expected calibration error rises: one temperature cannot describe this network's "
                "confidence on these pixels. Keep the checkpoint as it was, or calibrate on more labels."
            )
        if not EXTREME[0] <= self.temperature <= EXTREME[1]:
            notes.append(
                f"A temperature of {self.temperature:.3g} is extreme ({EXTREME[0]:g} to {EXTREME[1]:g} is "
                "usual): the network is probably badly trained, or the labels are not those it learned."
            )
        return tuple(notes)

    def __repr__(self) -> str:
        errors = f"calibration error {100 * self.ece_before:.2f} % -> {100 * self.ece_after:.2f} %"
        return f"<Calibration: temperature {self.temperature:.3g}, {errors}, {self.pixels:,} pixels>"

    def to_dict(self) -> dict[str, Any]:
        """JSON values: all but the checkpoint."""
        return {
            "temperature": self.temperature,
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
            "pixels": self.pixels,
            "before": None if self.before is None else self.before.to_dict(),
            "after": None if self.after is None else self.after.to_dict(),
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Write the calibrated checkpoint; a file that is there is replaced. Raises BadFile."""
        return save(self.checkpoint, path)


def calibrate(
    checkpoint: Checkpoint | str | Path,
    dataset: Dataset,
    *,
    part: str | None = "val",
    device: str = "auto",
    task: str | None = None,
) -> Calibration:
    """Fit the temperature of a checkpoint (or its file) on the labelled pixels of a part, predicted in the
    same tiles as in mapping. At most 400,000 of them are used, each equally likely, drawn with a fixed seed:
    the errors are those of the part's pixels pooled, as `evaluate` counts them.

    part  "val" or "test", blocks that the network was not trained on, since it is overconfident on its
          training pixels; None or "all": all labels, for scenes that it was not trained on

    task  name of the second task to calibrate; by default that whose classes the labels have, the first if
          both

    The fit starts from the network's own logits, whatever temperature the checkpoint has. Nothing is written:
    see `Calibration.save`. Raises BadInput where nothing is labelled or
    the labels have other classes, WrongType where `dataset` is not a Dataset.
    """
    check_dataset(dataset, "calibrate a checkpoint")
    part = known_part(part)
    (loaded,) = for_labels(load_all([checkpoint]), dataset, task)
    check_classes(loaded, dataset)
    if part and not dataset.is_labelled(part):  # before all tiles of the scenes are predicted for nothing
        _refuse_empty(dataset, part)
    # At temperature 1: calibrating twice gives what calibrating once gives.
    logits, truth = _logits(replace(loaded, temperature=1.0), dataset, part, device)
    if not len(truth):
        _refuse_empty(dataset, part)
    # The classes stay: dividing by a temperature does not change the order of the logits.
    temperature = _minimum(lambda t: _cross_entropy(logits / t, truth))
    each = [(t, _softmax(logits / t)) for t in (loaded.temperature, temperature)]
    errors = (expected_error(probabilities, truth) for _, probabilities in each)
    counted = (Reliability.of(p.max(axis=1), p.argmax(axis=1) == truth, float(t)) for t, p in each)
    return Calibration(_calibrated(loaded, temperature), temperature, *errors, len(truth), *counted)


def _calibrated(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """The checkpoint with a new temperature; of one task of two, the checkpoint with both."""
    whole = checkpoint.whole
    if whole is None:
        return replace(checkpoint, temperature=temperature)
    return replace(whole, mate=replace(whole.mate, temperature=temperature))


def _refuse_empty(dataset: Dataset, part: str | None) -> None:
    other = next((p for p in ("val", "test") if p != part and dataset.is_labelled(p)), None)
    cure = f"Pass `part={other!r}`" if other else "Train with `val=0.1`"
    where = f" in the part {part}" if part else ""
    raise BadInput(f"There is no labelled pixel to calibrate on{where}. {cure}.")


def expected_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of probabilities (P, K) for classes (P,): |confidence - accuracy| in fifteen
    bins of confidence, weighted by their pixels (Guo et al., eq. 3).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    # A confidence of exactly 1 belongs to the last bin.
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights=w, minlength=BINS) for w in (confidence, right.astype(float))]
    # |confidence - accuracy| of a bin times its pixels is the difference of the two sums.
    return float(np.abs(sums[0] - sums[1]).sum() / len(truth))


def _logits(
    checkpoint: Checkpoint, dataset: Dataset, part: str | None, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (P, K) float64 and classes (P,) of at most MAX_PIXELS labelled pixels."""
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.stitch import plan_for, score_tiles

    scorer = Scorer.of(checkpoint, device=device)
    scenes = dataset.scenes if part is None else dataset.part(part)
    plans = [plan_for(scorer, s.scene) for s in scenes]
    rng, drawn = np.random.default_rng(0), _Drawn(len(checkpoint.legend))
    with bar("calibrate", sum(len(p) for p in plans), "tiles") as tick:
        for scene, plan in zip(scenes, plans):
            # `scene=scene` binds this turn's scene: a closure would see the loop's last.
            def labelled(core, scene=scene) -> bool:
                tick()
                return bool((scene.read_labels(core, part) != IGNORE).any())

            for tile in score_tiles(scorer, scene.scene, plan, wanted=labelled):
                truth = scene.read_labels(tile.window, part)
                places = np.flatnonzero((truth != IGNORE) & tile.valid)
                keys = rng.random(len(places))
                # Before the logits are copied: of a scene that is labelled completely few are kept.
                places, keys = places[keys < drawn.limit], keys[keys < drawn.limit]
                # (K, h, w) -> (K, pixels)
                rows = as_numpy(tile.logits).reshape(len(checkpoint.legend), -1)
                drawn.add(keys, rows[:, places].T, truth.ravel()[places])
    # float64: the search compares losses that differ in the seventh digit.
    _, logits, truths = drawn.kept()
    return logits.astype(np.float64), truths


class _Drawn:
    """The MAX_PIXELS pixels of the smallest random keys: each pixel is equally likely, and none need be
    counted before. Equally many from each tile would weigh a pixel by how few are labelled around it.
    """

    def __init__(self, classes: int) -> None:
        self.limit = 1.0
        """Pixels with larger keys are not among the drawn ones."""
        self._parts = [(np.zeros(0), np.zeros((0, classes), np.float32), np.zeros(0, np.uint8))]

    def add(self, keys: np.ndarray, logits: np.ndarray, truth: np.ndarray) -> None:
        """Keys (P,), logits (P, K) and classes (P,) of the pixels of a tile."""
        self._parts.append((keys, logits, truth))
        if sum(len(part[0]) for part in self._parts) > 2 * MAX_PIXELS:
            self._parts = [self.kept()]
            self.limit = float(self._parts[0][0].max())

    def kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, logits and classes of the drawn pixels, in the order in which they came."""
        keys, logits, truth = (np.concatenate(parts) for parts in zip(*self._parts))
        if len(keys) <= MAX_PIXELS:
            return keys, logits, truth
        chosen = np.sort(np.argpartition(keys, MAX_PIXELS)[:MAX_PIXELS])
        return keys[chosen], logits[chosen], truth[chosen]


def _minimum(loss: Callable[[float], float]) -> float:
    """The temperature in 0.05..20 of the smallest loss, searched in its logarithm: 1/2 and 2 are alike far
    off.
    """
    from scipy.optimize import minimize_scalar

    # Bounded: where every pixel is right the loss falls for ever, towards a temperature of 0.
    return float(
        math.exp(
            minimize_scalar(
                lambda log_t: loss(math.exp(log_t)), bounds=(math.log(0.05), math.log(20)), method="bounded"
            ).x
        )
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    # The largest is taken out first: exp of a logit above 709 is infinite.
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    # As in _softmax: without the largest logit no exp can overflow.
    high = logits.max(axis=1)
    total = high + np.log(np.exp(logits - high[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(truth)), truth]).mean())
