"""The family of Maggiori et al.: what each resolution contributes to a decision.

Paper     E. Maggiori, Y. Tarabalka, G. Charpiat, P. Alliez, TGRS 2017; `labelscape.nets.maggiori` has its
          figures

A logit of `skip` is a sum over resolutions, and so is one of `mlp` once it is known which of its hidden units
are on: both are taken apart exactly, biases apart.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.evaluation.sections import Figure, Picture, Table
from labelscape.explanation.analysis import Found, Look, caption
from labelscape.explanation.drawing import COLOURS, blank, heat, tidy
from labelscape.nets.blocks import pad_to_multiple
from labelscape.nets.maggiori import HighResolution, Perceptron, Skip, upsample, upsample_framed

TAPS = ("1/2", "1/4", "1/8", "1/16", "biases")
"""The encoder's levels by their resolution, and what is there without any."""
CHUNK = 16_384
"""Pixels whose hidden layer is in memory at once: 64 MiB at the paper's 1024 units."""
SHOWN = 3
"""Windows whose maps are on the page."""


def why_not(look: Look) -> str:
    """ "" for skip and mlp, which add resolutions up."""
    if not isinstance(look.net, HighResolution):
        return "only the networks of Maggiori et al. (skip, mlp) add up what several resolutions say"
    if not isinstance(look.net.head, Skip | Perceptron):
        return f"{look.checkpoint.network} scores one resolution alone; skip and mlp add several up"
    return ""


@torch.no_grad()
def contributions(net: HighResolution, image: Tensor) -> Tensor:
    """(1, B, H, W) -> (5, K, H, W) in the order of TAPS, whose sum over the taps is the logit."""
    height, width = image.shape[-2:]
    image = pad_to_multiple(image, net.stride)
    small = F.avg_pool2d(image, net.downsample) if net.downsample > 1 else image
    features = net.encoder(small)
    split = _of_skip if isinstance(net.head, Skip) else _of_perceptron
    parts = split(net.head, list(features[:4]))
    return torch.cat([upsample(part, net.downsample, net.border) for part in parts])[..., :height, :width]


def _of_skip(head: Skip, levels: list[Tensor]) -> list[Tensor]:
    """Every score map upsampled by itself: upsampling is linear. The biases go the same way, since a border
    of zeros lets them fade there.
    """
    convs = (head.score1, head.score2, head.score3, head.score4)
    parts, bias = [], None
    for up, (conv, level) in enumerate(zip(convs, levels), start=1):
        score, own = (
            F.conv2d(level, conv.weight),
            conv.bias[:, None, None].expand(-1, *level.shape[-2:])[None],
        )
        for _ in range(up):
            # Step by step as the network does: one upsampling by 8 interpolates differently.
            score, own = upsample(score, 2, head.border), upsample(own, 2, head.border)
        parts.append(score)
        bias = own if bias is None else bias + own
    return [*parts, bias]


def _of_perceptron(head: Perceptron, levels: list[Tensor]) -> list[Tensor]:
    """At every pixel the second layer of what each level gives to the hidden units that are on there."""
    framed = [F.pad(level, (1, 1, 1, 1), mode=head.border) for level in levels]
    pool = torch.cat([upsample_framed(level, 2**i) for i, level in enumerate(framed)], dim=1)[0].flatten(1)
    first, second = head.mlp1.weight.flatten(1), head.mlp2.weight.flatten(1)
    widths = [level.shape[1] for level in levels]
    linear = isinstance(head.relu, torch.nn.Identity)
    chunks = []
    for pixels in pool.split(CHUNK, dim=1):  # (sum C, P)
        shares = [w @ x for w, x in zip(first.split(widths, 1), pixels.split(widths), strict=True)]
        shares.append(head.mlp1.bias[:, None].expand_as(shares[0]))  # (D, P) each
        # A ReLU that is on passes its input, one that is off nothing: once that is known the layer is linear,
        # and its sum can be taken apart.
        on = torch.ones_like(shares[0]) if linear else (sum(shares) > 0).to(pixels.dtype)
        chunks.append(torch.stack([second @ (share * on) for share in shares]))
    found = torch.cat(chunks, dim=2).unflatten(2, levels[0].shape[-2:])  # (5, K, H/2, W/2)
    found[-1] += head.mlp2.bias[:, None, None]
    return [upsample(part[None], 2, head.border) for part in found]


def by_resolution(look: Look) -> Found:
    """Contributions to the logit of the predicted class and to its margin over the second best."""
    classes = len(look.names)
    logit, margin = np.zeros((classes, 5)), np.zeros((classes, 5))
    wins, counts, error = np.zeros((classes, 5)), np.zeros(classes), 0.0
    pictures: list[Picture] = []
    for number, seen in enumerate(look.windows):
        parts = contributions(look.net, seen.image)
        whole = _logits(look, seen.image)
        scale = float(whole.abs().max()) or 1.0
        # Proof of the decomposition on the user's own model: it stands on the page, and is rounding only.
        error = max(error, float((parts.sum(0) - whole).abs().max()) / scale)
        best, second = whole.topk(2, 0).indices  # (H, W)
        # In double: the parts are far larger than their sum where they cancel.
        of_best = parts.gather(1, best.expand(5, 1, -1, -1))[:, 0].double().cpu().numpy()
        lead = of_best - parts.gather(1, second.expand(5, 1, -1, -1))[:, 0].double().cpu().numpy()
        for k in np.unique(seen.classes[seen.valid]).tolist():
            here = (seen.classes == k) & seen.valid
            counts[k] += here.sum()
            logit[k] += of_best[:, here].sum(1)
            margin[k] += lead[:, here].sum(1)
            # Among the levels only: biases know nothing of the pixel.
            wins[k] += np.bincount(lead[:4, here].argmax(0), minlength=5)
        if number < SHOWN:
            pictures += _maps(lead, seen.valid, number + 1)
    known = np.maximum(counts, 1)[:, None]
    logit, margin, wins = logit / known, margin / known, wins / known
    present = [k for k in range(classes) if counts[k]]
    total = (margin * counts[:, None]).sum(0) / counts.sum()
    first = int(total[:4].argmax())
    lead_text = (
        f"Over all pixels, the level at {TAPS[first]} of the resolution gives most to the margin of the "
        f"predicted class over the second best: {total[first]:+.3g} of {total.sum():+.3g}. The contributions "
        f"add up to the network's own logits within {error:.1g} of the largest."
    )
    numbers = {
        "taps": list(TAPS),
        "largest_error": error,
        "margin": total.tolist(),
        "by_class": {
            look.names[k]: {
                "pixels": int(counts[k]),
                "logit": logit[k].tolist(),
                "margin": margin[k].tolist(),
                "share_of_pixels_led": wins[k, :4].tolist(),
            }
            for k in present
        },
    }
    arrays = {"logit": logit, "margin": margin, "share_of_pixels_led": wins[:, :4], "pixels": counts}
    figures = (_figure(look.names, present, margin),)
    table = _table(look.names, present, logit, wins)
    return Found(lead_text, numbers, arrays, figures, tuple(pictures), (table,), ABOUT)


ABOUT = caption(
    "The pictures show, pixel by pixel, what each resolution adds to the margin of the class that is "
    "predicted: where coarse levels decide, and where fine ones.",
    "no such figure; figs. 8 and 9 show the maps that result.",
    "as below, for the first windows.",
)


@torch.no_grad()
def _logits(look: Look, image: Tensor) -> Tensor:
    return look.net(image)[0]


def _maps(lead: np.ndarray, valid: np.ndarray, number: int) -> list[Picture]:
    shown = np.where(valid, lead, np.nan)
    low, high = float(np.nanmin(shown[:4])), float(np.nanmax(shown[:4]))
    said = "what it adds to the margin of the predicted class over the second best; one scale for all"
    return [heat(shown[tap], f"Window {number}, {TAPS[tap]}", said, low=low, high=high) for tap in range(4)]


def _figure(names: list[str], present: list[int], margin: np.ndarray) -> Figure:
    drawing = blank(8.4, 1.4 + 0.55 * len(present))
    axes = drawing.add_subplot()
    height = 0.8 / len(TAPS)
    for tap, name in enumerate(TAPS):
        places = np.arange(len(present)) + (tap - 2) * height
        axes.barh(places, margin[present, tap], height, color=COLOURS[tap], label=name)
    axes.axvline(0, color="#1f2933", linewidth=0.8)
    axes.set_yticks(range(len(present)), [names[k] for k in present], parse_math=False)
    axes.invert_yaxis()
    axes.legend(fontsize=8, frameon=False, title="resolution", title_fontsize=8)
    tidy(axes, "mean contribution to the margin over the second best class")
    text = caption(
        "How much each resolution speaks for the class that is predicted, against the second best, by class. "
        "Bars to the left speak against it; all five of a class add up to its mean margin.",
        "no such figure; the paper argues that coarse levels recognise and fine levels localise.",
        "the logit is a sum over resolutions (for mlp over those hidden units that are on at the pixel); "
        "each term is upsampled by itself, biases apart.",
    )
    return Figure("What each resolution contributes", drawing, text)


def _table(names: list[str], present: list[int], logit: np.ndarray, wins: np.ndarray) -> Table:
    heads = ("class", *(f"{tap}, logit" for tap in TAPS), "sum", *(f"{tap}, % led" for tap in TAPS[:4]))
    rows = tuple(
        (
            names[k],
            *(f"{value:+.2f}" for value in logit[k]),
            f"{logit[k].sum():+.2f}",
            *(f"{100 * value:.0f}" for value in wins[k, :4]),
        )
        for k in present
    )
    return Table(
        heads, rows, "Mean contribution to the logit, and share of pixels whose margin a level leads"
    )
