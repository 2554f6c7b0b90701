"""Accuracy metrics (OA, IoU, F1, UA, PA, kappa) of confusion counts. Rows are truth, columns prediction.

A labelled pixel without a prediction counts as wrong: it is part of its class's truth total. A class that is
neither in the truth nor predicted has no IoU and no F1 (NaN) and is excluded from means; a class that is
predicted but not in the truth has IoU 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from labelscape.evaluation.confusion import Confusion

DEFINITIONS = {
    "overall_accuracy": "OA: correct labelled pixels over all labelled pixels, counts pooled over all scenes",
    "mean_iou": (
        "mIoU: mean of IoU = TP / (TP + FP + FN) over the classes present in truth or prediction, counts "
        "pooled over all scenes"
    ),
    "mean_f1": "mean F1: mean of F1 = 2 TP / (2 TP + FP + FN) over the same classes",
    "mean_accuracy": "mean accuracy: mean of producer's accuracy over the classes present in the truth",
    "kappa": "kappa: Cohen's, agreement beyond what the class shares alone would give",
    "frequency_weighted_iou": "fwIoU: mean of IoU weighted by each class's share of the labelled pixels",
    "precision": (
        "UA, user's accuracy (precision): of the labelled pixels that the map calls a class, the share that "
        "is it"
    ),
    "recall": (
        "PA, producer's accuracy (recall): of the labelled pixels of a class, the share that the map calls so"
    ),
    "unpredicted": "labelled pixels without a prediction count as wrong; unlabelled pixels never count",
}


def _parts(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, truth totals and prediction totals per class, float64 (exact up to 2^53 pixels)."""
    hit, predicted = np.diag(confusion.counts), confusion.counts.sum(axis=0)
    return hit.astype(np.float64), confusion.support.astype(np.float64), predicted.astype(np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    # NaN, not 0, where there is nothing to divide by: such classes must drop out of means.
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def iou(confusion: Confusion) -> np.ndarray:
    """(K,) intersection over union; NaN where the class occurs nowhere."""
    hit, truth, predicted = _parts(confusion)
    # TP + FP + FN: what either calls the class.
    return _ratio(hit, truth + predicted - hit)


def f1(confusion: Confusion) -> np.ndarray:
    """(K,) harmonic mean of precision and recall; NaN where the class occurs nowhere."""
    hit, truth, predicted = _parts(confusion)
    return _ratio(2 * hit, truth + predicted)


def precision(confusion: Confusion) -> np.ndarray:
    """(K,) precision (user's accuracy): correct over predicted pixels of a class; NaN without any."""
    hit, _, predicted = _parts(confusion)
    return _ratio(hit, predicted)


def recall(confusion: Confusion) -> np.ndarray:
    """(K,) recall (producer's accuracy): correct over labelled pixels of a class; NaN without any."""
    hit, truth, _ = _parts(confusion)
    return _ratio(hit, truth)


def overall_accuracy(confusion: Confusion) -> float:
    """Correct over labelled pixels; NaN where nothing is labelled."""
    hit, truth, _ = _parts(confusion)
    return float(_ratio(hit.sum(), truth.sum()))


def mean_iou(confusion: Confusion) -> float:
    """Mean of IoU over the classes present in truth or prediction."""
    return mean(iou(confusion))


def mean_f1(confusion: Confusion) -> float:
    """Mean of F1 over the classes present in truth or prediction."""
    return mean(f1(confusion))


def mean_accuracy(confusion: Confusion) -> float:
    """Mean of producer's accuracy over the classes present in the truth."""
    return mean(recall(confusion))


def frequency_weighted_iou(confusion: Confusion) -> float:
    """IoU weighted by the classes' shares of the labelled pixels; NaN where nothing is labelled."""
    truth = confusion.support.astype(np.float64)
    # A class that is NaN has no labelled pixel, so its weight is 0.
    return float(_ratio((truth * np.nan_to_num(iou(confusion))).sum(), truth.sum()))


def kappa(confusion: Confusion) -> float:
    """Cohen's kappa; NaN where nothing is labelled, or truth and prediction are one and the same class
    throughout.
    """
    # Python integers: products of pixel counts overflow int64 on large scenes.
    hit, total = int(np.trace(confusion.counts)), confusion.labelled
    by_chance = sum(
        t * p for t, p in zip(confusion.support.tolist(), confusion.counts.sum(axis=0).tolist(), strict=True)
    )
    # Cohen's formula times total^2: exact in integers up to the one division.
    return (total * hit - by_chance) / (total**2 - by_chance) if total**2 > by_chance else math.nan


def mean(values: np.ndarray) -> float:
    """Mean without NaN; NaN where all values are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def summary(confusion: Confusion, names: Sequence[str]) -> dict:
    """All metrics as JSON values: fractions, None where undefined; per class in "classes", in index order."""
    assert len(names) == len(confusion), f"{len(names)} names for {len(confusion)} classes"
    per_class = {
        "iou": iou(confusion),
        "f1": f1(confusion),
        "precision": precision(confusion),
        "recall": recall(confusion),
    }
    found = {
        "overall_accuracy": overall_accuracy(confusion),
        "mean_iou": mean_iou(confusion),
        "mean_f1": mean_f1(confusion),
        "mean_accuracy": mean_accuracy(confusion),
        "kappa": kappa(confusion),
        "frequency_weighted_iou": frequency_weighted_iou(confusion),
        "labelled_pixels": confusion.labelled,
        "unpredicted_pixels": int(confusion.unpredicted.sum()),
    }
    # None, not NaN: the summary is stored as JSON.
    found = {key: plain(value) for key, value in found.items()}
    found["classes"] = [
        {
            "name": name,
            **{key: plain(values[i]) for key, values in per_class.items()},
            "support": int(confusion.support[i]),
        }
        for i, name in enumerate(names)
    ]
    found["confusion"] = confusion.to_dict()
    return found


def plain(value: float) -> float | int | None:
    """A number for JSON, which has no NaN: None instead."""
    return value if isinstance(value, int) else None if math.isnan(value) else float(value)
