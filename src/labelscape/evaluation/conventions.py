"""The metric card: one evaluation under each convention that is in use, with who reports it so.

"mIoU" is a family of numbers. Which classes enter the mean, what a class without any pixel scores, whether
pixels are pooled or images averaged: libraries and benchmarks differ, by several points on the same pixels.
Every number here is computed from integer counts, so that counts of parts give the card of the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadOption
from labelscape.evaluation.boundaries import RINGS
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import f1, iou, mean, overall_accuracy, recall

CLUTTER = ("clutter", "clutter/background", "background", "other", "unknown")
"""Names of classes that benchmarks leave out of their means, compared without case."""


@dataclass(frozen=True)
class Convention:
    """One line of the card. `value` is a fraction, None where it is undefined."""

    name: str
    value: float | None
    definition: str
    used_by: str


def metric_card(
    per_scene: Mapping[str, Confusion], names: Sequence[str], *, clutter: Collection[str] = CLUTTER
) -> tuple[Convention, ...]:
    """The scores of one evaluation under each convention.

    per_scene  counts by scene or image
    names      of the classes, in index order
    clutter    names of classes that the lines "without clutter" leave out; those lines are missing where no
               class has such a name

    Raises BadOption where there are no counts, or another number of names than of classes.
    """
    scenes = list(per_scene.values())
    if not scenes or any(len(counts) != len(names) for counts in scenes):
        raise BadOption(
            f"A metric card needs counts of one or more scenes over the {len(names)} classes "
            f"{', '.join(names)}; found {[len(counts) for counts in scenes]} classes."
        )
    pooled = sum(scenes[1:], scenes[0])
    return (
        *_means(pooled),
        *_per_image(scenes),
        *_without(pooled, names, {name.casefold() for name in clutter}),
    )


def eroded_card(rings: Sequence[Confusion], *, radius: int = 3) -> tuple[Convention, ...]:
    """The scores without the pixels within `radius` of a border of the reference, from counts by ring of
    `boundaries.ring_of`; none where there are no rings. `radius` is one of `boundaries.RINGS`.
    """
    if not rings:
        return ()
    # Ring k ends at RINGS[k], so that those after it lie farther from a border.
    outer = rings[RINGS.index(radius) + 1 :]
    far = sum(outer[1:], outer[0])
    says = f"without pixels of the reference within a disc of {radius} pixels around another class"
    used = "ISPRS Potsdam and Vaihingen, noBoundary reference"
    return (
        _line(f"OA, reference eroded by {radius} px", overall_accuracy(far), f"OA {says}", used),
        _line(f"mean F1, reference eroded by {radius} px", mean(f1(far)), f"mean F1 {says}", used),
        _line(f"mIoU, reference eroded by {radius} px", mean(iou(far)), f"mIoU {says}", used),
    )


def _means(pooled: Confusion) -> list[Convention]:
    """Over the pixels of all images together."""
    of_class, in_truth = iou(pooled), pooled.support > 0
    return [
        _line(
            "OA",
            overall_accuracy(pooled),
            "correct over labelled pixels",
            "every benchmark; mmsegmentation aAcc, scikit-learn accuracy_score, SMP as micro recall",
        ),
        _line(
            "mIoU, present classes",
            mean(of_class),
            "mean of TP / (TP + FP + FN) over classes in truth or prediction, pixels of all images pooled",
            "Labelscape; mmsegmentation mIoU, torchmetrics macro, cityscapesScripts, ADE20K, DeepGlobe, GID",
        ),
        _line(
            "mIoU, classes in the truth",
            mean(of_class[in_truth]),
            "the same over classes that the truth holds: false positives of others cost only those they hit",
            "hand-written loops that skip classes without labels",
        ),
        _line(
            "mIoU, absent class = 0",
            float(np.nan_to_num(of_class, nan=0.0).mean()),
            "mean over all classes, 0 for one that neither truth nor prediction holds",
            "scikit-learn jaccard_score(labels=all, average='macro', zero_division=0)",
        ),
        _line(
            "mIoU, absent class = 1",
            float(np.nan_to_num(of_class, nan=1.0).mean()),
            "mean over all classes, 1 for one that neither truth nor prediction holds",
            "SMP macro with its default zero_division=1.0",
        ),
        _line(
            "IoU, micro",
            _micro_iou(pooled),
            "TP, FP and FN summed over the classes before dividing: large classes decide",
            "torchgeo's task (average='micro'), SMP reduction='micro', scikit-learn average='micro'",
        ),
        _line(
            "mean accuracy",
            mean(recall(pooled)),
            "mean of the classes' producer's accuracies over classes in the truth",
            "mmsegmentation mAcc, scikit-learn balanced_accuracy_score",
        ),
        _line(
            "mean F1, present classes",
            mean(f1(pooled)),
            "mean of 2 TP / (2 TP + FP + FN) over classes in truth or prediction",
            "Labelscape; ISPRS Potsdam, mmsegmentation mFscore",
        ),
        _line(
            "F1 of mean precision and recall",
            _f1_of_means(pooled),
            "harmonic mean of mean precision and mean recall: another number than the mean of F1",
            "some land-cover papers",
        ),
    ]


def _per_image(scenes: Sequence[Confusion]) -> list[Convention]:
    """Each image scored alone, then averaged: small images weigh as much as large ones."""
    labelled = [counts for counts in scenes if counts.labelled]
    # Of one image these are the pooled numbers once more.
    if len(labelled) < 2:
        return []
    ious = np.array([iou(counts) for counts in labelled])
    return [
        _line(
            "mIoU, mean over images",
            mean(np.array([mean(of_class) for of_class in ious])),
            "mIoU of each image over its own present classes, then the mean over images with labels",
            "torchmetrics.segmentation.MeanIoU, image-wise evaluations",
        ),
        _line(
            "mIoU, images and classes, absent class = 1",
            float(np.nan_to_num(ious, nan=1.0).mean()),
            "mean over all classes of all images; a class that an image neither has nor is given scores 1",
            "SMP reduction='macro-imagewise'",
        ),
        _line(
            "IoU, micro, mean over images",
            mean(np.array([_micro_iou(counts) for counts in labelled])),
            "micro IoU of each image, then the mean over images with labels",
            "SMP reduction='micro-imagewise'",
        ),
        _line(
            "OA, mean over images",
            mean(np.array([overall_accuracy(counts) for counts in labelled])),
            "OA of each image, then the mean over images with labels",
            "image-wise evaluations",
        ),
    ]


def _without(pooled: Confusion, names: Sequence[str], clutter: Collection[str]) -> list[Convention]:
    """Means without the clutter class, in the two ways of the ISPRS benchmarks."""
    kept = np.array([name.casefold() not in clutter for name in names])
    # No clutter, or nothing else: there is no mean without it.
    if kept.all() or not kept.any():
        return []
    left = ", ".join(name for name, keep in zip(names, kept, strict=True) if not keep)
    # Rows are truth: dropping them drops clutter's pixels as places, but not what is called clutter.
    masked = Confusion(pooled.counts * kept[:, None], pooled.unpredicted * kept)
    return [
        _line(
            f"mean F1 without {left}",
            mean(f1(pooled)[kept]),
            f"mean over the other classes; pixels of {left} still count as their false positives, and in OA",
            "ISPRS Vaihingen as the script of Maggiori et al. computes it",
        ),
        _line(
            f"mean F1, {left} masked",
            mean(f1(masked)[kept]),
            f"pixels whose truth is {left} are not scored, whatever is predicted there",
            "ISPRS Vaihingen in other papers",
        ),
        _line(
            f"OA, {left} masked",
            overall_accuracy(masked),
            f"correct over labelled pixels whose truth is not {left}",
            "ISPRS Vaihingen in other papers",
        ),
        _line(
            f"mIoU without {left}",
            mean(iou(pooled)[kept]),
            f"mean over the other classes; pixels of {left} still count as their false positives",
            "evaluations that loop over a list of kept classes",
        ),
        _line(
            f"mIoU, {left} masked",
            mean(iou(masked)[kept]),
            f"pixels whose truth is {left} are not scored, whatever is predicted there",
            "mmsegmentation reduce_zero_label, cityscapesScripts ignoreInEval",
        ),
    ]


def _micro_iou(counts: Confusion) -> float:
    """TP over TP + FP + FN, each summed over the classes; NaN where nothing is labelled."""
    hit = int(np.trace(counts.counts))
    # `labelled` holds the unpredicted too: each is a false negative of its class.
    together = counts.labelled + int(counts.counts.sum()) - hit
    return hit / together if together else float("nan")


def _f1_of_means(pooled: Confusion) -> float | None:
    hit = np.diag(pooled.counts).astype(float)
    predicted, truth = pooled.counts.sum(axis=0), pooled.support
    present = (predicted + truth) > 0
    # A class never predicted has precision 0, not none: it must not raise the mean by dropping out.
    precisions = np.divide(hit, predicted, out=np.zeros_like(hit), where=predicted > 0)[present]
    recalls = np.divide(hit, truth, out=np.zeros_like(hit), where=truth > 0)[present]
    if not present.any():
        return None
    p, r = precisions.mean(), recalls.mean()
    # Never right: 0, as the F1 of a class that is never hit.
    return float(2 * p * r / (p + r)) if p + r else 0.0


def _line(name: str, value: float | None, definition: str, used_by: str) -> Convention:
    undefined = value is None or np.isnan(value)
    return Convention(name, None if undefined else float(value), definition, used_by)
