"""Where a model is wrong, by the labels that a user gives."""

from __future__ import annotations

import numpy as np

from labelscape.evaluation import metrics
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.sections import Picture
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.compared import (
    NEAR,
    SHOWN,
    Pairs,
    counts_figure,
    four_pictures,
    near_border,
    probabilities,
    window_picture,
)
from labelscape.explanation.windows import Seen
from labelscape.legend import IGNORE


def why_not(look: Look) -> str:
    """ "" where labels are given."""
    return "" if look.reference is not None else "no labels are given; name their files with `labels`"


def mistakes(look: Look) -> Found:
    """Which classes are taken for which, near borders and away from them, and how sure the model is there."""
    pairs, pictures = Pairs.none(len(look.names), 1), []
    for number, seen in enumerate(look.windows, start=1):
        sure = probabilities(look.net, seen.image, look.checkpoint).max(0)
        labelled = seen.truth != IGNORE
        near = near_border(seen.truth)
        pairs.add(seen.truth[labelled], seen.classes[labelled], near[labelled], [sure[labelled]])
        if number <= SHOWN:
            pictures.append(_picture(look, seen, number))
    confusion = Confusion(pairs.table, np.zeros(len(look.names), np.int64))
    numbers = {
        "labelled_pixels": pairs.pixels,
        "wrong_pixels": pairs.differing,
        "overall_accuracy": metrics.overall_accuracy(confusion),
        "mean_iou": metrics.mean_iou(confusion),
        # A class without a label has no recall: NaN is not JSON.
        "recall": {
            name: metrics.plain(value) for name, value in zip(look.names, metrics.recall(confusion).tolist())
        },
        "wrong_near_borders": int(pairs.at_border[0, 1]),
        "labelled_near_borders": int(pairs.at_border[0].sum()),
        "confidence_right": float(pairs.mean_confidences[0, 0]),
        "confidence_wrong": float(pairs.mean_confidences[0, 1]),
        "counts": pairs.table.tolist(),
    }
    figure = counts_figure(
        "Which class is taken for which",
        look.names,
        pairs.table,
        "label",
        "prediction",
        caption(
            "Labelled pixels by their label and by what is predicted, in % of all of them; off the diagonal "
            "the model is wrong.",
            "fig. 6 of IFBFNet and fig. 4 of the others show maps beside labels, without numbers.",
            "all labels of the windows count, also those that the model learned from; windows are predicted "
            "one by one, so that at their edges it sees less than in a map.",
        ),
    )
    about = caption(
        "The pictures show the scene, the predicted classes, the labels, and in black where they differ.",
        "fig. 6 of IFBFNet shows such differences.",
        "as below, for the first windows; what is not labelled is never wrong.",
    )
    return Found(_lead(look, pairs), numbers, pairs.arrays, (figure,), tuple(pictures), about=about)


def _lead(look: Look, pairs: Pairs) -> str:
    wrong, (right_sure, wrong_sure) = pairs.differing, pairs.mean_confidences[0]
    lead = f"{100 * wrong / pairs.pixels:.1f} % of {pairs.pixels:,} labelled pixels are wrong"
    if not wrong:
        return f"{lead}."
    off = pairs.table * ~np.eye(len(pairs.table), dtype=bool)
    label, taken = np.unravel_index(off.argmax(), off.shape)
    at_border, away = pairs.at_border
    return (
        f"{lead}, most of all {look.names[label]} taken for {look.names[taken]} "
        f"({100 * off.max() / wrong:.0f} % of what is wrong). Within {NEAR} pixels of a border between "
        f"labels {100 * at_border[1] / max(1, at_border.sum()):.1f} % are wrong, elsewhere "
        f"{100 * away[1] / max(1, away.sum()):.1f} %. The mean confidence is {wrong_sure:.2f} where the "
        f"model is wrong, {right_sure:.2f} where it is right."
    )


def _picture(look: Look, seen: Seen, number: int) -> Picture:
    wrong = (seen.truth != IGNORE) & (seen.truth != seen.classes)
    together = four_pictures(look.checkpoint.legend, seen, seen.truth, wrong)
    text = "above the scene and what is predicted; below, in black, what is wrong, and the labels"
    return window_picture(number, together, text, "beside its labels")
