"""Which bands matter: one band at a time is that of another window, and the map is looked at again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelscape.evaluation import metrics
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.sections import Figure
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import COLOURS, blank, tidy

REPEATS = 3
"""Other windows that each window gets a band of."""


def why_no_bands(look: Look) -> str:
    """ "" where there are several bands, and two windows of one shape to swap them between."""
    if len(look.checkpoint.bands) == 1:
        return "the model reads one band; nothing is to be compared"
    return (
        ""
        if len(_swapped(look)) > 1
        else "bands are swapped between windows; ask for two or more of one size"
    )


def _swapped(look: Look) -> list[int]:
    """Numbers of the windows of the commonest shape."""
    shapes = [window.shape for _, window in look.windows.places]
    commonest = max(shapes, key=shapes.count)
    return [number for number, shape in enumerate(shapes) if shape == commonest]


def band_importance(look: Look) -> Found:
    """How many pixels change their class where one band is that of another window; with labels, how much
    worse the scores become.
    """
    bands, classes = look.checkpoint.bands, len(look.names)
    order = np.random.default_rng(look.seed).permutation(_swapped(look))
    repeats, pixels = min(REPEATS, len(order) - 1), 0
    changed, lost = np.zeros((repeats, len(bands))), np.zeros((repeats, len(bands)))
    before, after = (
        Confusion.empty(classes),
        [[Confusion.empty(classes) for _ in bands] for _ in range(repeats)],
    )
    for place, number in enumerate(order):
        seen = look.windows.at(number)
        valid = torch.from_numpy(seen.valid)
        usual = _probabilities(look, seen.image)
        index = torch.from_numpy(np.where(seen.valid, seen.classes, 0).astype(np.int64))
        sure = usual.gather(0, index[None])[0]
        pixels += int(valid.sum())
        if seen.truth is not None:
            before += count(seen.truth, seen.classes, classes)
        for repeat in range(repeats):
            # Never the window itself: a shift of a permutation has no fixed point.
            other = look.windows.at(order[(place + repeat + 1) % len(order)])
            for b in range(len(bands)):
                image = seen.image.clone()
                image[0, b] = other.image[0, b]
                swapped = _probabilities(look, image)
                found = swapped.argmax(0)
                changed[repeat, b] += float((found != index)[valid].sum())
                lost[repeat, b] += float((sure - swapped.gather(0, index[None])[0])[valid].sum())
                if seen.truth is not None:
                    after[repeat][b] += count(seen.truth, found.numpy().astype(np.uint8), classes)
    changed, lost = changed / pixels, lost / pixels
    worse = None if look.reference is None else _worse(before, after)
    arrays = {"changed": changed, "confidence_lost": lost, **(worse or {})}
    numbers = {"pixels": pixels, "repeats": repeats, "bands": _by_band(bands, arrays)}
    if worse is not None:
        numbers |= {"labelled_pixels": before.labelled, **_scores(before)}
    key = "changed" if worse is None else "accuracy_lost"
    figure = _figure(bands, arrays[key], np.argsort(-arrays[key].mean(0)), by_labels=worse is not None)
    return Found(_lead(bands, arrays, before), numbers, arrays, (figure,))


@torch.no_grad()
def _probabilities(look: Look, image: Tensor) -> Tensor:
    return (look.net(image)[0] / look.checkpoint.temperature).softmax(0).cpu()


def _scores(confusion: Confusion) -> dict[str, float]:
    return {"overall_accuracy": metrics.overall_accuracy(confusion), "mean_iou": metrics.mean_iou(confusion)}


def _worse(before: Confusion, after: list[list[Confusion]]) -> dict[str, np.ndarray]:
    """(repeats, bands) by how much overall accuracy and mean IoU fall."""
    usual = _scores(before)
    return {
        f"{short}_lost": np.array([[usual[name] - _scores(one)[name] for one in row] for row in after])
        for short, name in (("accuracy", "overall_accuracy"), ("mean_iou", "mean_iou"))
    }


def _by_band(bands: tuple[str, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: {
            **{key: float(values[:, b].mean()) for key, values in arrays.items()},
            "changed_std": float(arrays["changed"][:, b].std()),
        }
        for b, name in enumerate(bands)
    }


def _lead(bands: tuple[str, ...], arrays: dict[str, np.ndarray], before: Confusion) -> str:
    changed = arrays["changed"].mean(0)
    first, last = np.argsort(-changed)[[0, -1]]
    lead = (
        f"With the {bands[first]} of another window {100 * changed[first]:.1f} % of the pixels "
        f"change their class, the most of {len(bands)} bands; with its {bands[last]} "
        f"{100 * changed[last]:.1f} %."
    )
    if "accuracy_lost" in arrays:
        fallen = arrays["accuracy_lost"].mean(0)
        most, usual = int(fallen.argmax()), metrics.overall_accuracy(before)
        lead += (
            f" Against the labels the overall accuracy falls most with another {bands[most]}, from "
            f"{100 * usual:.1f} to {100 * (usual - fallen[most]):.1f} %."
        )
    return lead


def _figure(bands: tuple[str, ...], values: np.ndarray, order: np.ndarray, *, by_labels: bool) -> Figure:
    drawing = blank(5.6, 1.1 + 0.3 * len(bands))
    axes = drawing.add_subplot()
    axes.barh(range(len(bands)), 100 * values.mean(0)[order], color=COLOURS[0], alpha=0.5)
    for repeat in values:
        axes.plot(100 * repeat[order], range(len(bands)), ".", color=COLOURS[0], markersize=4)
    axes.set_yticks(range(len(bands)), [bands[b] for b in order], parse_math=False)
    axes.invert_yaxis()
    tidy(axes, "points of overall accuracy that are lost" if by_labels else "% of pixels whose class changes")
    seen = "How much worse the map becomes" if by_labels else "How much the map changes"
    against = (
        "overall accuracy on the labelled pixels, before less after"
        if by_labels
        else "classes are compared with those of the unchanged windows, not with labels"
    )
    text = caption(
        f"{seen} where one band is replaced and the others stay: dots are repeats. Bands that say the same "
        "share their importance, so a short bar is no proof that a band is useless.",
        "",
        "permutation: every window gets the band of another window, drawn at random, so that the band "
        f"keeps its texture and loses its place; {against}.",
    )
    return Figure("Importance of bands by permutation", drawing, text)
