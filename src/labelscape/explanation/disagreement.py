"""Where two models disagree, and what is known of these places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from labelscape.checkpoint import Checkpoint
from labelscape.evaluation.sections import Figure, Picture
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import INK, blank
from labelscape.explanation.windows import Seen, scaled_for
from labelscape.legend import IGNORE
from labelscape.scoring.engines import build_network

NEAR = 3
"""Pixels from a border between classes within which two maps differ by where they draw it (ours)."""
SHOWN = 6
GAP = 6
"""White pixels between pictures."""
BINS = 20


def why_not(look: Look) -> str:
    """ "" where another model of the same bands and classes is given."""
    if look.other is None:
        return "no other model is given; name one with `other`"
    for what, one, two in (
        ("bands", look.checkpoint.bands, look.other.bands),
        ("classes", look.names, look.other.legend.names),
    ):
        if list(one) != list(two):
            return f"the other model has other {what} ({', '.join(two)})"
    return ""


def near_border(classes: np.ndarray, distance: int = NEAR) -> np.ndarray:
    """(H, W) bool: is there another class within so many pixels, along the axes or diagonally?"""
    from scipy import ndimage

    side = 2 * distance + 1
    # A square of one class has the same value as smallest and as largest.
    return ndimage.minimum_filter(classes, side) != ndimage.maximum_filter(classes, side)


def disagreement(look: Look) -> Found:
    """Share of pixels on which two models differ, by class, by confidence and by the distance to borders."""
    net, count = build_network(look.other).to(look.device), len(look.names)
    table = np.zeros((count, count), np.int64)
    by_confidence = np.zeros((2, 2, BINS), np.int64)  # (model, agree or not, confidence)
    at_border = np.zeros((2, 2), np.int64)  # (near or not, agree or not)
    pictures: list[Picture] = []
    for number, seen in enumerate(look.windows, start=1):
        one = _probabilities(look.net, seen.image, look.checkpoint)
        two = _probabilities(net, scaled_for(seen, look.checkpoint, look.other), look.other)
        mine, theirs, valid = one.argmax(0), two.argmax(0), seen.valid
        differ = mine != theirs
        np.add.at(table, (mine[valid], theirs[valid]), 1)
        near = near_border(mine) | near_border(theirs)
        for where, which in ((near & valid, 0), (~near & valid, 1)):
            at_border[which] += [int((~differ & where).sum()), int((differ & where).sum())]
        for model, proba in enumerate((one, two)):
            sure = np.minimum((proba.max(0) * BINS).astype(int), BINS - 1)
            for kind, where in enumerate((~differ & valid, differ & valid)):
                by_confidence[model, kind] += np.bincount(sure[where], minlength=BINS)
        if number <= SHOWN:
            pictures.append(_picture(look, seen, theirs, differ, number))
    pixels, differing = int(table.sum()), int(table.sum() - np.trace(table))
    at_edge = int(at_border[0, 1])
    middles = (np.arange(BINS) + 0.5) / BINS
    means = [(by_confidence[m] * middles).sum(1) / np.maximum(1, by_confidence[m].sum(1)) for m in (0, 1)]
    lead = f"The models differ on {100 * differing / pixels:.1f} % of {pixels:,} pixels"
    if differing:
        lead += (
            f"; {100 * at_edge / differing:.0f} % of these lie within {NEAR} pixels of a border of one of "
            f"the two maps. Where they differ their mean confidences are {means[0][1]:.2f} and "
            f"{means[1][1]:.2f}, where they agree {means[0][0]:.2f} and {means[1][0]:.2f}"
        )
    numbers = {
        "other": look.other.network,
        "pixels": pixels,
        "differing": differing,
        "differing_near_borders": at_edge,
        "confidence_agree": [float(m[0]) for m in means],
        "confidence_differ": [float(m[1]) for m in means],
        "counts": table.tolist(),
    }
    arrays = {"counts": table, "by_confidence": by_confidence, "at_border": at_border}
    figure = _figure(look.names, table, look.checkpoint.network, look.other.network)
    about = caption(
        "The pictures show the scene, the classes of both models, and in black where they differ.",
        "fig. 6 of IFBFNet shows differences of predictions.",
        "as below, for the first windows.",
    )
    return Found(f"{lead}.", numbers, arrays, (figure,), tuple(pictures), about=about)


@torch.no_grad()
def _probabilities(net: nn.Module, image: Tensor, of: Checkpoint) -> np.ndarray:
    # Calibrated, as maps show them: confidences of two models could not be compared otherwise.
    return (net(image)[0] / of.temperature).softmax(0).cpu().numpy()


def _picture(look: Look, seen: Seen, theirs: np.ndarray, differ: np.ndarray, number: int) -> Picture:
    """This model's classes, the other's, and the places that differ in black."""
    legend = look.checkpoint.legend
    other = legend.paint(np.where(seen.valid, theirs, IGNORE).astype(np.uint8))
    marked = np.where((differ & seen.valid)[..., None], 0, 220).astype(np.uint8).repeat(3, 2)
    height, width = differ.shape
    together = np.full((2 * height + GAP, 2 * width + GAP, 3), 255, np.uint8)
    together[:height, :width], together[:height, -width:] = seen.picture, legend.paint(seen.classes)
    together[-height:, :width], together[-height:, -width:] = marked, other
    return Picture(
        f"Window {number}",
        together,
        f"above the scene and {look.checkpoint.network}; below where they differ, in black, and the other "
        f"model ({look.other.network})",
        f"Window {number} by two models",
    )


def _figure(names: list[str], table: np.ndarray, one: str, two: str) -> Figure:
    shares = table / max(1, table.sum())
    off = np.where(np.eye(len(names), dtype=bool), np.nan, 100 * shares)
    drawing = blank(1.8 + 0.7 * len(names), 1.4 + 0.6 * len(names))
    axes = drawing.add_subplot()
    axes.imshow(off, cmap="Blues", vmin=0)
    for (row, column), value in np.ndenumerate(100 * shares):
        # The diagonal has no colour of its own.
        dark = np.inf if row == column else 0.6 * np.nanmax(off)
        axes.text(
            column,
            row,
            f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > dark else INK,
        )
    axes.set_xticks(
        range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel(f"{two} (the other)", fontsize=9)
    axes.set_ylabel(one, fontsize=9)
    axes.spines[:].set_visible(False)
    text = caption(
        "Which class the one model takes for which class of the other, in % of all pixels. Neither is the "
        "truth.",
        "fig. 6 of IFBFNet and fig. 4 of the others show maps of two networks side by side, without numbers.",
        "classes of both models on the same windows, each scaled as its own training images.",
    )
    return Figure("Where two models disagree", drawing, text)
