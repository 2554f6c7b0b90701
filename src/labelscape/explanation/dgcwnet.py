"""DGCWNet: how well channels tell classes apart, with and without the module, and which channels a pair of
pixels differs in.

Paper     L. Zhu et al. 2020; `labelscape.nets.dgcwnet` names its equations and sections
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelscape.evaluation.sections import Figure
from labelscape.explanation.analysis import Found, Look, caption, hooked
from labelscape.explanation.drawing import COLOURS, FAINT, blank, tidy
from labelscape.explanation.windows import Seen, network_of, scaled_for
from labelscape.nets.dgcwnet import ABLATIONS, ChannelWeighting, DGCWNet, Relation
from labelscape.nets.kernels.distance import weigh

BINS = 24
"""Of the histogram, equal on a logarithmic scale (ours: the paper names none)."""
CHANNELS = 12
"""Channels listed for a pair of pixels."""


def why_not(look: Look) -> str:
    """ "" for a DGCWNet with a module and a head of its own features."""
    if not isinstance(look.net, DGCWNet):
        return "only DGCWNet has a module that weighs channels by distance"
    if not isinstance(look.net.context, Relation):
        return "this DGCWNet has no module between its base and its head (context)"
    if not isinstance(look.net.head, nn.Sequential):
        return "with fuse=none the classifier reads the module itself; there are no last features beside it"
    return ""


@contextmanager
def bypassed(relation: Relation) -> Iterator[None]:
    """Inside, the module hands its input on: F in place of F + the sum over j (eq. 5)."""
    update = relation.update
    relation.update = nn.Identity()
    try:
        yield
    finally:
        relation.update = update


@torch.no_grad()
def last_features(net: DGCWNet, image: Tensor) -> Tensor:
    """(1, B, H, W) -> (C, h, w): what the final 1 x 1 classifier reads."""
    kept: list[Tensor] = []
    hook = net.head[-1].register_forward_pre_hook(lambda _, given: kept.append(given[0][0]))
    with hooked(hook):
        net(image)
    return kept[0]


@dataclass
class Moments:
    """Of features over all windows, in float64: sums (K, C) and counts (K,) by class, sums of squares (C,) of
    all classes.
    """

    sums: np.ndarray
    counts: np.ndarray
    squares: np.ndarray

    @classmethod
    def none(cls, classes: int) -> Moments:
        return cls(np.zeros((classes, 1)), np.zeros(classes), np.zeros(1))

    def add(self, features: Tensor, classes: np.ndarray) -> None:
        """Features (C, h, w), and classes (H, W) that are brought to their grid. IGNORE is no class."""
        whole = torch.from_numpy(classes)[None, None].float()
        index = F.interpolate(whole, features.shape[-2:], mode="nearest")[0, 0].long().flatten()  # (P,)
        flat = features.double().cpu().flatten(1)  # (C, P)
        found = [flat[:, index == k] for k in range(len(self.counts))]
        self.sums = self.sums + np.stack([one.sum(1).numpy() for one in found])
        self.counts = self.counts + np.array([one.shape[1] for one in found])
        self.squares = self.squares + sum(one.square().sum(1).numpy() for one in found)

    def variance(self) -> np.ndarray:
        """Eq. 8: (C,) the population variance over classes of each channel's class mean; classes without a
        pixel are left out.
        """
        known = self.counts > 0
        return (self.sums[known] / self.counts[known, None]).var(0)

    def share(self) -> np.ndarray:
        """(C,) the share of a channel's variance over pixels that lies between classes: free of its scale."""
        known, total = self.counts > 0, self.counts.sum()
        mean = self.sums.sum(0) / total
        means = self.sums[known] / self.counts[known, None]
        between = (self.counts[known, None] * (means - mean) ** 2).sum(0) / total
        whole = self.squares / total - mean**2
        return np.divide(between, whole, out=np.zeros_like(whole), where=whole > 1e-12)


def class_variance(look: Look) -> Found:
    """Class-wise variance of the last features with the module, past it, and of the other model where that is
    a DGCWNet too.
    """
    second = None if look.other is None else network_of(look.other).to(look.device)
    if not (isinstance(second, DGCWNet) and isinstance(second.head, nn.Sequential)):
        second = None
    known = {"with the module": Moments.none(len(look.names)), "past it": Moments.none(len(look.names))}
    if second is not None:
        known["the other model"] = Moments.none(len(look.names))
    for seen in look.windows:
        known["with the module"].add(last_features(look.net, seen.image), seen.known)
        with bypassed(look.net.context):
            known["past it"].add(last_features(look.net, seen.image), seen.known)
        if second is not None:
            image = scaled_for(seen, look.checkpoint, look.other)
            known["the other model"].add(last_features(second, image), seen.known)
    variances = {name: one.variance() for name, one in known.items()}
    shares = {name: one.share() for name, one in known.items()}
    medians = {name: float(np.median(values)) for name, values in variances.items()}
    between = {name: float(np.median(values)) for name, values in shares.items()}
    present = int((known["past it"].counts > 0).sum())
    known_by, shared_by = _listed(medians, "{:.3g}"), _listed(between, "{:.2f}")
    lead = (
        f"Median over {len(variances['past it'])} channels of the variance between the means of {present} "
        f"{look.known_as} classes (eq. 8): {known_by}. As a share of all variance of a channel, which its "
        f"scale does not change: {shared_by}."
    )
    numbers = {"median": medians, "median_share_between_classes": between, "classes": present}
    arrays = {f"variance_{name.replace(' ', '_')}": values for name, values in variances.items()}
    arrays |= {f"share_{name.replace(' ', '_')}": values for name, values in shares.items()}
    return Found(lead, numbers, arrays, (_variance_figure(variances, look.known_as), _share_figure(shares)))


def _listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{form.format(value)} {name}" for name, value in values.items())


def _variance_figure(variances: dict[str, np.ndarray], known_as: str) -> Figure:
    both = np.concatenate(list(variances.values()))
    most = both.max() or 1.0
    # Dead channels have a variance of 0, which a logarithm has no place for: they are in the first bin.
    least = max(both[both > 0].min(initial=most), most * 1e-6)
    edges = np.geomspace(least, 2 * most, BINS + 1)
    drawing = blank(5.6, 3.2)
    axes = drawing.add_subplot()
    for (name, values), colour in zip(variances.items(), COLOURS):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=name)
        axes.axvline(max(np.median(values), edges[0]), color=colour, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, "class-wise variance of a channel", "channels")
    text = caption(
        "How many channels of the last features set the classes apart by how much; dashed lines are medians.",
        "fig. 3 compares two trained networks, ASPP and ASPP + DGCW, by the labels of Cityscapes: the module "
        "is there to raise it.",
        f"eq. 8 with the {known_as} classes, over all windows. 'Past it' is the same "
        "trained network with F in place of eq. 5: its head has never seen that, so the scale may change "
        "too. Give a network trained without the module as the other model for the paper's comparison.",
    )
    return Figure("Class-wise variance (eq. 8)", drawing, text)


def _share_figure(shares: dict[str, np.ndarray]) -> Figure:
    drawing = blank(5.6, 3.2)
    axes = drawing.add_subplot()
    edges = np.linspace(0, 1, BINS + 1)
    for (name, values), colour in zip(shares.items(), COLOURS):
        axes.stairs(np.histogram(values, edges)[0], edges, color=colour, linewidth=1.6, label=name)
        axes.axvline(np.median(values), color=colour, linestyle="--", linewidth=1)
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, "share of a channel's variance that lies between classes", "channels")
    text = caption(
        "The same, free of each channel's scale: 1 where a channel tells classes apart and nothing else.",
        "",
        "variance between class means, weighted by pixels, over the variance of all pixels.",
    )
    return Figure("Share of the variance between classes", drawing, text)


def why_no_pair(look: Look) -> str:
    """ "" for a module that weighs pairs of pixels, and two pixels."""
    if reason := why_not(look):
        return reason
    update = look.net.context.update
    if not isinstance(update, ChannelWeighting) or update.weighting in ABLATIONS:
        return "the module of this DGCWNet weighs no pairs of pixels"
    return "" if len(look.pixels) == 2 else "a pair of pixels is needed; name two with `pixel`"


def channels_of_a_pair(look: Look) -> Found:
    """W_ij of two pixels: which channels the module emphasises for them."""
    seen = next(iter(look.windows))
    query, key, shape = queries_and_keys(look.net, seen.image)
    places = [cell_of(pixel, seen, shape) for pixel in look.pixels]
    (i, j), update = places, look.net.context.update
    # (C, 1) as `weigh` takes it: over the last but one axis.
    squared = (query[:, i[0], i[1]] - key[:, j[0], j[1]])[:, None].double().square()
    weights = weigh(squared.clone(), update.weighting)[0][:, 0].cpu().numpy()
    order = np.argsort(-weights)[:CHANNELS]
    share = weights[order].sum() / (weights.sum() or 1.0)
    names = [look.names[seen.classes[y - seen.window.top, x - seen.window.left]] for x, y in look.pixels]
    lead = (
        f"Between a pixel of {names[0]} and one of {names[1]}, the {len(order)} channels that are "
        f"emphasised most hold {100 * share:.0f} % of the weight of {len(weights)}: "
        f"{', '.join(map(str, order[:6]))}, ..."
    )
    numbers = {
        "cells": places,
        "classes": names,
        "strongest": order.tolist(),
        "share_of_strongest": float(share),
    }
    return Found(lead, numbers, {"weights": weights}, (_pair_figure(weights, names),))


@torch.no_grad()
def queries_and_keys(net: DGCWNet, image: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Q and K (C, h, w) of eq. 1, and the (h, w) of their grid."""
    kept: list[Tensor] = []
    update = net.context.update
    hook = update.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with hooked(hook):
        net(image)
        query, key = update.query(kept[0])[0], update.key(kept[0])[0]
    return query, key, tuple(query.shape[-2:])


def cell_of(pixel: tuple[int, int], seen: Seen, shape: tuple[int, int]) -> tuple[int, int]:
    """The cell of a grid of this shape over a window in which a pixel (x, y) of the scene lies."""
    row, column = pixel[1] - seen.window.top, pixel[0] - seen.window.left
    height, width = seen.valid.shape
    return min(row * shape[0] // height, shape[0] - 1), min(column * shape[1] // width, shape[1] - 1)


def _pair_figure(weights: np.ndarray, names: list[str]) -> Figure:
    drawing = blank(8.4, 2.6)
    axes = drawing.add_subplot()
    axes.bar(np.arange(len(weights)), weights, width=1.0, color=COLOURS[0])
    axes.axhline(weights.mean(), color=FAINT, linestyle="--", linewidth=1)
    tidy(axes, "channel", "weight W_ij", f"{names[0]} and {names[1]}")
    text = caption(
        "How much the module weighs each channel between the two pixels; the dashed line is the mean.",
        "sec. 3.2 argues that channels in which two pixels differ should count more, without a figure.",
        "eqs. 1 to 3 at the cells of the module's grid in which the pixels lie.",
    )
    return Figure("Channels emphasised for a pair of pixels", drawing, text)
