"""Where two models disagree, and what is known of these places."""

from __future__ import annotations

import numpy as np

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
from labelscape.explanation.windows import Seen, network_of, scaled_for
from labelscape.legend import IGNORE


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


def disagreement(look: Look) -> Found:
    """Share of pixels on which two models differ, by class, by confidence and by the distance to borders;
    with labels, which of them is right there.
    """
    net = network_of(look.other).to(look.device)
    pairs, right = Pairs.none(len(look.names), 2), np.zeros(3, np.int64)
    pictures: list[Picture] = []
    for number, seen in enumerate(look.windows, start=1):
        one = probabilities(look.net, seen.image, look.checkpoint)
        # Scaled anew: each model learned from pixels scaled by its own statistics.
        two = probabilities(net, scaled_for(seen, look.checkpoint, look.other), look.other)
        mine, theirs, valid = one.argmax(0), two.argmax(0), seen.valid
        # Of either map: a border that one model moves by a pixel is a difference near a border of both.
        near = near_border(mine) | near_border(theirs)
        pairs.add(mine[valid], theirs[valid], near[valid], [one.max(0)[valid], two.max(0)[valid]])
        if seen.truth is not None:
            # Where they agree a label says nothing of which model is better.
            asked = (mine != theirs) & (seen.truth != IGNORE)
            whose = [(truth == seen.truth)[asked].sum() for truth in (mine, theirs)]
            right += np.array([*whose, asked.sum() - sum(whose)])
        if number <= SHOWN:
            pictures.append(_picture(look, seen, theirs, number))
    numbers = {
        "other": look.other.network,
        "pixels": pairs.pixels,
        "differing": pairs.differing,
        "differing_near_borders": int(pairs.at_border[0, 1]),
        "confidence_agree": pairs.mean_confidences[:, 0].tolist(),
        "confidence_differ": pairs.mean_confidences[:, 1].tolist(),
        "counts": pairs.table.tolist(),
    }
    if look.reference is not None:
        numbers["where_they_differ"] = dict(
            zip(("this_is_right", "other_is_right", "neither"), right.tolist())
        )
    figure = counts_figure(
        "Where two models disagree",
        look.names,
        pairs.table,
        look.checkpoint.network,
        f"{look.other.network} (the other)",
        caption(
            "Which class the one model takes for which class of the other, in % of all pixels. Neither is "
            "the truth.",
            "fig. 6 of IFBFNet and fig. 4 of the others show maps of two networks side by side, without "
            "numbers.",
            "classes of both models on the same windows, each scaled as its own training images.",
        ),
    )
    about = caption(
        "The pictures show the scene, the classes of both models, and in black where they differ.",
        "fig. 6 of IFBFNet shows differences of predictions.",
        "as below, for the first windows.",
    )
    return Found(_lead(pairs, right), numbers, pairs.arrays, (figure,), tuple(pictures), about=about)


def _lead(pairs: Pairs, right: np.ndarray) -> str:
    lead = f"The models differ on {100 * pairs.differing / pairs.pixels:.1f} % of {pairs.pixels:,} pixels"
    if not pairs.differing:
        return f"{lead}."
    (agree, differ), (agree2, differ2) = pairs.mean_confidences
    lead += (
        f"; {100 * pairs.at_border[0, 1] / pairs.differing:.0f} % of these lie within {NEAR} pixels of a "
        f"border of one of the two maps. Where they differ their mean confidences are {differ:.2f} and "
        f"{differ2:.2f}, where they agree {agree:.2f} and {agree2:.2f}."
    )
    if right.sum():
        one, other, neither = 100 * right / right.sum()
        lead += (
            f" Of {right.sum():,} labelled pixels on which they differ this model is right on {one:.0f} %, "
            f"the other on {other:.0f} %, neither on {neither:.0f} %."
        )
    return lead


def _picture(look: Look, seen: Seen, theirs: np.ndarray, number: int) -> Picture:
    other = np.where(seen.valid, theirs, IGNORE).astype(np.uint8)
    together = four_pictures(look.checkpoint.legend, seen, other, seen.classes != other)
    text = (
        f"above the scene and {look.checkpoint.network}; below where they differ, in black, and the other "
        f"model ({look.other.network})"
    )
    return window_picture(number, together, text, "by two models")
