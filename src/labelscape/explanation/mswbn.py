"""MSWBN: the weights of its branches and levels, and the receptive fields that they make.

Paper     K. Yang et al., CVPR workshops 2019; `labelscape.nets.mswbn` names equations and sections
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from labelscape.evaluation.sections import Figure, Table
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import COLOURS, FAINT, bars_with_dots, blank, tidy
from labelscape.nets.mswbn import MSWBN


def why_not(look: Look) -> str:
    """ "" for an MSWBN."""
    return "" if isinstance(look.net, MSWBN) else "only MSWBN has branches that are weighted for each image"


def branch_names(net: MSWBN) -> list[str]:
    """O_{k,r} as the paper names them: "O3,0"."""
    return [f"O{operation.kernel},{operation.rate}" for operation in net.operations]


@torch.no_grad()
def weights_of(look: Look) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """W^1 .. W^3 of every window before any gate (W, 3, n), W_bin (W, 2) or None without an LBM, and the
    class (W,) that dominates each window.
    """
    weights, bins, dominant = [], [], []
    for seen in look.windows:
        named = look.net.branch_weights(seen.image)
        # In double: sums over windows, whose differences are a few per cent.
        weights.append(torch.cat([named[key] for key in ("w1", "w2", "w3")]).double().cpu().numpy())
        if "w_bin" in named:
            bins.append(named["w_bin"][0].double().cpu().numpy())
        dominant.append(seen.dominant)
    return np.stack(weights), np.stack(bins) if bins else None, np.array(dominant)


def gated(weights: np.ndarray, theta: float | None) -> np.ndarray:
    """Eq. 14: theta where a weight lies below it; the weights themselves where the gate is off."""
    return weights if theta is None else np.where(weights >= theta, weights, theta)


def branch_weights(look: Look) -> Found:
    """Weights of branches and levels by window and by dominant class, and how many lie below theta."""
    net = look.net
    weights, bins, dominant = weights_of(look)
    theta, names = net.hwm.theta, branch_names(net)
    uniform = 1 / len(names)
    # Without gates no weight is raised; equal weights are then what there is to compare with.
    limit = uniform if theta is None else theta
    below = (weights < limit).mean(0)  # (3, n)
    arrays = {"weights": weights, "dominant": dominant, "below_theta": below}
    gate = (
        "1/n (the gates of this model are off: weights are used as they are). "
        if theta is None
        else f"theta = {limit:.3g}: the gate raises them to theta, and lets no gradient from the branch to "
        "its generator (eqs. 14 and 18). "
    )
    several = len(weights) > 1
    spread = f"From window to window a weight varies by {weights.std(0).mean():.3g} (standard deviation). "
    lead = (
        f"{100 * below.mean():.0f} % of the branch weights of {len(weights)} window{'s' * several} lie below "
        f"{gate}{spread if several else ''}Equal weights would be {uniform:.3g}."
    )
    numbers = {
        "branches": names,
        "theta_hwm": theta,
        "mean": weights.mean(0).tolist(),
        "std": weights.std(0).tolist(),
        "share_below_theta": below.tolist(),
        "by_class": {
            look.names[k]: weights[dominant == k].mean(0).tolist() for k in np.unique(dominant).tolist()
        },
    }
    figures = [_weights_figure(names, weights, limit), _by_class_figure(look, names, weights, dominant)]
    if bins is not None:
        theta_bin = net.lbm.theta
        arrays["w_bin"] = bins
        numbers["lbm"] = {
            "theta_lbm": theta_bin,
            "mean": bins.mean(0).tolist(),
            "std": bins.std(0).tolist(),
            "share_below_theta": (bins < (0.5 if theta_bin is None else theta_bin)).mean(0).tolist(),
            "by_class": {
                look.names[k]: bins[dominant == k].mean(0).tolist() for k in np.unique(dominant).tolist()
            },
        }
        figures.append(_bin_figure(look.names, bins, dominant, theta_bin))
    return Found(lead, numbers, arrays, tuple(figures), tables=(_below_table(names, weights, below),))


def _below_table(names: list[str], weights: np.ndarray, below: np.ndarray) -> Table:
    heads = ("branch", *(f"W{h}, {what}" for h in (1, 2, 3) for what in ("mean", "% below theta")))
    rows = tuple(
        (
            name,
            *(
                text
                for h in range(3)
                for text in (f"{weights[:, h, b].mean():.3f}", f"{100 * below[h, b]:.0f}")
            ),
        )
        for b, name in enumerate(names)
    )
    return Table(heads, rows, "Mean weight, and share of windows in which it lies below theta")


def _weights_figure(names: list[str], weights: np.ndarray, limit: float) -> Figure:
    drawing = blank(9.6, 3.0)
    for h, axes in enumerate(drawing.subplots(1, 3, sharey=True)):
        bars_with_dots(axes, names, weights[:, h], COLOURS[h])
        axes.axhline(limit, color=FAINT, linestyle="--", linewidth=1)
        tidy(axes, "", "weight" if h == 0 else "", f"W{h + 1}, hierarchy {h + 1}")
    text = caption(
        "Weights of the branches in the three hierarchies: bars are means over windows, dots single windows, "
        "the dashed line is theta. O3,2 is a 3 x 3 convolution of rate 2.",
        "no figure of the weights, which are there to give each image receptive fields of its own (sec. "
        "3.1).",
        "softmax outputs of eqs. 1, 3 and 5, before the gate of eq. 14.",
    )
    return Figure("Branch weights", drawing, text)


def _by_class_figure(look: Look, names: list[str], weights: np.ndarray, dominant: np.ndarray) -> Figure:
    classes, present = look.names, np.unique(dominant)
    drawing = blank(9.6, 1.6 + 0.32 * len(present))
    # One scale for the three panels: their colours are compared.
    low, high = weights.min(), weights.max()
    image = None
    for h, axes in enumerate(drawing.subplots(1, 3, sharey=True)):
        means = np.stack([weights[dominant == k, h].mean(0) for k in present])
        image = axes.imshow(means, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(
            range(len(present)),
            [f"{classes[k]} ({(dominant == k).sum()})" for k in present],
            parse_math=False,
        )
        tidy(axes, "", "", f"W{h + 1}")
        axes.grid(False)
    drawing.colorbar(image, ax=drawing.axes, fraction=0.02, pad=0.01).ax.tick_params(labelsize=8)
    text = caption(
        "Mean weight of each branch, by the class that fills most of a window (number of windows in "
        "brackets). Rows that differ show that the network treats such windows differently.",
        "no such figure.",
        f"the dominant class is that of most pixels of a window, as they are {look.known_as}.",
    )
    return Figure("Branch weights by dominant class", drawing, text)


def _bin_figure(classes: list[str], bins: np.ndarray, dominant: np.ndarray, theta: float | None) -> Figure:
    present = np.unique(dominant)
    drawing = blank(5.6, 1.2 + 0.34 * len(present))
    axes = drawing.add_subplot()
    for row, k in enumerate(present):
        values = bins[dominant == k, 1]
        axes.plot(values, np.full(len(values), row), "o", color=COLOURS[0], alpha=0.45, markersize=4)
        axes.plot(values.mean(), row, "|", color=COLOURS[1], markersize=14, markeredgewidth=2)
    axes.axvline(0.5 if theta is None else theta, color=FAINT, linestyle="--", linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_yticks(range(len(present)), [classes[k] for k in present], parse_math=False)
    axes.invert_yaxis()
    tidy(axes, "weight of the low level (0: hierarchies alone, 1: low level alone)")
    text = caption(
        "How much the scores of the low, fine level weigh against those of the three hierarchies: dots are "
        "windows, the orange mark their mean, the dashed line theta.",
        "fig. 3 draws the module (sec. 3.2); no weights are shown.",
        "the second entry of W_bin, eq. 8, before its gate; the two entries add up to 1.",
    )
    return Figure("Weight of the low level branch (LBM)", drawing, text)


def spectrum(coefficients: np.ndarray, fields: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Receptive fields of all chains of one branch from each hierarchy, and the share of the weight that
    each has: coefficients (h, n), fields (n,) in cells -> (F,) ascending, (F,) of sum 1.

    A chain weighs as much as the product of its branches' coefficients, and sees f1 + f2 + ... - (h - 1)
    cells.
    """
    shares: dict[int, float] = {}
    for chain in product(range(len(fields)), repeat=len(coefficients)):
        seen = sum(fields[b] for b in chain) - (len(chain) - 1)
        weight = float(np.prod([row[b] for row, b in zip(coefficients, chain)]))
        shares[seen] = shares.get(seen, 0.0) + weight
    found = np.array(sorted(shares))
    weights = np.array([shares[f] for f in found])
    return found, weights / weights.sum()


def receptive_fields(look: Look) -> Found:
    """The spectrum of receptive fields over the chains of two and of three hierarchies, window by window."""
    net = look.net
    weights, _, dominant = weights_of(look)
    fields = [operation.field(net.rate_semantics) for operation in net.operations]
    coefficients = gated(weights, net.hwm.theta)
    two = [spectrum(one[:2], fields) for one in coefficients]
    three = [spectrum(one, fields) for one in coefficients]
    sizes, shares = three[0][0], np.stack([share for _, share in three])  # (F,), (W, F)
    sizes2, shares2 = two[0][0], np.stack([share for _, share in two])
    equal = spectrum(np.ones((3, len(fields))), fields)[1]
    means = shares @ sizes  # (W,)
    count, stride = len(fields), net.stride
    lead = (
        f"Of {count**2} chains of two and {count**3} of three convolutions {len(sizes2)} and {len(sizes)} "
        f"differ in receptive field. The weighted mean field is {means.mean():.1f} cells of {stride} pixels "
        f"({means.min():.1f} to {means.max():.1f} over the windows); with equal weights it would be "
        f"{equal @ sizes:.1f}."
    )
    numbers = {
        "cell_pixels": stride,
        "distinct_fields": {"two": len(sizes2), "three": len(sizes)},
        "mean_field_cells": {"mean": float(means.mean()), "by_window": means.tolist()},
        "equal_weights_mean_field_cells": float(equal @ sizes),
        "by_class": {look.names[k]: float(means[dominant == k].mean()) for k in np.unique(dominant).tolist()},
    }
    arrays = {
        "fields_two": sizes2,
        "shares_two": shares2,
        "fields_three": sizes,
        "shares_three": shares,
        "equal_weights_three": equal,
    }
    return Found(lead, numbers, arrays, (_spectrum_figure(sizes, shares, equal, stride),))


def _spectrum_figure(sizes: np.ndarray, shares: np.ndarray, equal: np.ndarray, stride: int) -> Figure:
    drawing = blank(8.4, 3.2)
    axes = drawing.add_subplot()
    for row in shares:
        axes.plot(sizes, 100 * row, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(
        sizes,
        100 * shares.mean(0),
        color=COLOURS[0],
        linewidth=1.8,
        marker="o",
        markersize=3,
        label="mean of the windows",
    )
    axes.plot(sizes, 100 * equal, color=COLOURS[1], linewidth=1.2, linestyle="--", label="equal weights")
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, f"side of the receptive field, in cells of {stride} pixels", "% of the weight")
    text = caption(
        "How much of the weight falls on chains of each receptive field: thin lines are windows. Where the "
        "lines leave the dashed one, the network prefers some fields to others.",
        "sec. 3.1 speaks of 64 and 512 chains (of 8 operations), without a figure.",
        "a chain weighs the product of its (gated) branch weights and sees f1 + f2 + f3 - 2 cells. "
        "Normalisations and ReLUs between the hierarchies are left out, as in the paper's count.",
    )
    return Figure("Receptive fields of the chains", drawing, text)
