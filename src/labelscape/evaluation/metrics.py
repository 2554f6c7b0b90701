"""Scores as pure functions of confusion counts. Rows are truth, columns prediction.

A labelled pixel that got no class counts as wrong. A class that neither occurs in the truth nor is predicted has no IoU and no F1
(NaN) and is left out of means; a class that is predicted but does not occur has IoU 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from labelscape.evaluation.confusion import Confusion

DEFINITIONS = {
    "overall_accuracy": "OA: correct labelled pixels over all labelled pixels, counts pooled over all scenes",
    "mean_iou": "mIoU: mean of IoU = TP / (TP + FP + FN) over the classes that occur in truth or prediction, counts pooled over all scenes",
    "mean_f1": "mean F1: mean of F1 = 2 TP / (2 TP + FP + FN) over the same classes",
    "mean_accuracy": "mean accuracy: mean of producer's accuracy over the classes that occur in the truth",
    "kappa": "kappa: Cohen's, agreement beyond what the class shares alone would give",
}


def _parts(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, truth totals and prediction totals per class, float64 (exact up to 2^53 pixels)."""
    counts = confusion.counts.astype(np.float64)
    return np.diag(counts), counts.sum(axis=1) + confusion.unpredicted, counts.sum(axis=0)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def iou(confusion: Confusion) -> np.ndarray:
    """(K,) intersection over union; NaN where the class occurs nowhere."""
    hit, truth, predicted = _parts(confusion)
    return _ratio(hit, truth + predicted - hit)


def f1(confusion: Confusion) -> np.ndarray:
    """(K,) harmonic mean of precision and recall; NaN where the class occurs nowhere."""
    hit, truth, predicted = _parts(confusion)
    return _ratio(2 * hit, truth + predicted)


def precision(confusion: Confusion) -> np.ndarray:
    """(K,) user's accuracy: of what the map calls k, how much is k. NaN where nothing is called k."""
    hit, _, predicted = _parts(confusion)
    return _ratio(hit, predicted)


def recall(confusion: Confusion) -> np.ndarray:
    """(K,) producer's accuracy: of what is k, how much the map calls k. NaN where nothing is k."""
    hit, truth, _ = _parts(confusion)
    return _ratio(hit, truth)


def overall_accuracy(confusion: Confusion) -> float:
    hit, truth, _ = _parts(confusion)
    return float(_ratio(hit.sum(), truth.sum()))


def kappa(confusion: Confusion) -> float:
    """Cohen's kappa; NaN where chance alone would agree everywhere."""
    hit, truth, predicted = _parts(confusion)
    total = truth.sum()
    if not total:
        return math.nan
    by_chance = float((truth * predicted).sum() / total**2)
    return float((hit.sum() / total - by_chance) / (1 - by_chance)) if by_chance < 1 else math.nan


def mean(values: np.ndarray) -> float:
    """Mean of the values that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def summary(confusion: Confusion, names: Sequence[str]) -> dict:
    """All scores as JSON values: fractions, None where undefined. Per class under "classes", in index order."""
    per_class = {"iou": iou(confusion), "f1": f1(confusion), "precision": precision(confusion), "recall": recall(confusion)}
    support = confusion.counts.sum(axis=1) + confusion.unpredicted
    found = {
        "overall_accuracy": overall_accuracy(confusion), "mean_iou": mean(per_class["iou"]), "mean_f1": mean(per_class["f1"]),
        "mean_accuracy": mean(per_class["recall"]), "kappa": kappa(confusion), "labelled_pixels": confusion.labelled,
    }  # fmt: skip
    found = {key: _plain(value) for key, value in found.items()}
    found["classes"] = [
        {"name": name, **{key: _plain(values[i]) for key, values in per_class.items()}, "support": int(support[i])} for i, name in enumerate(names)
    ]
    found["confusion"] = confusion.to_dict()
    return found


def _plain(value: float) -> float | int | None:
    return value if isinstance(value, int) else None if math.isnan(value) else float(value)
