"""Segmentation losses over labelled pixels: predictions where the label is 255 change no loss and no
gradient.

Every loss takes logits (N, K, H, W), labels (N, H, W) integer and class weights (K,) or None, and returns a
scalar; 0 with a gradient of 0 where nothing is labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.legend import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels (Maggiori et al. eq. 2), each weighing as its class does."""
    labelled = labels != IGNORE
    safe = torch.where(labelled, labels, 0).long()
    # A masked sum instead of ignore_index: its gradient is the same, and a batch without labels gives 0
    # instead of NaN.
    each = F.cross_entropy(logits, safe, reduction="none")
    share = shares(labels, weights, each.dtype)
    return (each * share).sum() / share.sum().clamp_min(1e-12)


def ohem(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    threshold: float = 0.7,
    keep: float = 100_000,
) -> Tensor:
    """Online hard example mining: cross-entropy over pixels whose true class has a probability of at most
    `threshold`, and over no fewer than the `keep` hardest of the batch.

    `keep` is a count (DGCWNet sec. 4.4.1: theta 0.7, K 100,000, counted as OCNet does) or, below 1, a share
    of the labelled pixels.
    """
    predicted, truth = labelled_pixels(logits, labels)
    each = F.cross_entropy(predicted, truth, reduction="none")  # (P,)
    least = int(keep) if keep >= 1 else int(keep * len(each))
    if least >= len(each):
        return _weighted(each, truth, weights)
    own = (-each.detach()).exp()  # probability of the true class
    # Easy batches have fewer than `keep` pixels below the threshold: then the limit rises to the keep-th one.
    limit = own.kthvalue(least).values.clamp_min(threshold) if least else own.new_tensor(threshold)
    hard = own <= limit
    return _weighted(each[hard], truth[hard], weights)


def hardest(logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, share: float = 0.75) -> Tensor:
    """Mean of the largest `share` of the pixels' cross-entropies (IFBFNet eq. 7: three quarters). Pixels are
    ranked over the batch (ours; `hardest_per_image` ranks as eq. 7 does).
    """
    predicted, truth = labelled_pixels(logits, labels)
    each = F.cross_entropy(predicted, truth, reduction="none")
    most = each.topk(max(1, int(share * len(each))), sorted=False).indices if len(each) else slice(None)
    return _weighted(each[most], truth[most], weights)


def hardest_per_image(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, share: float = 0.75
) -> Tensor:
    """Mean of the largest `share` of each image's cross-entropies: IFBFNet eq. 7 as it is written, which
    ranks the pixels of one image. An easy image keeps three quarters of its pixels, which `hardest` may drop.
    """
    chosen = []
    for one, truth in zip(logits, labels):
        predicted, own = labelled_pixels(one[None], truth[None])
        each = F.cross_entropy(predicted, own, reduction="none")
        most = each.topk(max(1, int(share * len(each))), sorted=False).indices if len(each) else slice(None)
        chosen.append((each[most], own[most]))
    return _weighted(torch.cat([each for each, _ in chosen]), torch.cat([own for _, own in chosen]), weights)


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p the probability of the true class (Lin et al. 2017, eq. 4)."""
    predicted, truth = labelled_pixels(logits, labels)
    each = F.cross_entropy(predicted, truth, reduction="none")
    # Clamped: rounding may leave p above 1, and a fractional power of a negative number is NaN.
    return _weighted(each * (1 - (-each).exp()).clamp_min(0) ** gamma, truth, weights)


def dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 minus the mean over the batch's classes of 2 sum(p y) / (sum p + sum y) (Milletari et al. 2016,
    without squares).
    """
    predicted, truth = labelled_pixels(logits, labels)
    if not len(truth):
        return predicted.sum()  # of nothing: 0 that still has a gradient
    probabilities, own = predicted.softmax(dim=1), F.one_hot(truth, predicted.shape[1])
    overlap = 2 * (probabilities * own).sum(dim=0) / (probabilities.sum(dim=0) + own.sum(dim=0))  # (K,)
    return _over_present(1 - overlap, own, weights)


def tversky(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, alpha: float = 0.3, beta: float = 0.7
) -> Tensor:
    """1 minus the mean over the batch's classes of TP / (TP + alpha FP + beta FN), each a sum of
    probabilities (Salehi et al. 2017, with their alpha and beta: missed pixels cost more than false ones).

    alpha = beta = 1 is the Jaccard index (intersection over union), 0.5 is Dice.
    """
    predicted, truth = labelled_pixels(logits, labels)
    if not len(truth):
        return predicted.sum()  # of nothing: 0 that still has a gradient
    probabilities, own = predicted.softmax(dim=1), F.one_hot(truth, predicted.shape[1])
    hit = (probabilities * own).sum(dim=0)  # (K,)
    false, missed = probabilities.sum(dim=0) - hit, own.sum(dim=0) - hit
    # A class that is absent may sum to 0 and does not count: the clamp only keeps NaN out of its gradient.
    return _over_present(1 - hit / (hit + alpha * false + beta * missed).clamp_min(1e-12), own, weights)


def lovasz(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The Lovasz extension of 1 - IoU, mean over the batch's classes (Berman et al. 2018, Lovasz-Softmax)."""
    predicted, truth = labelled_pixels(logits, labels)
    if not len(truth):
        # A sum of nothing is 0 and, unlike a constant, has a gradient: DDP waits for one of every parameter.
        return predicted.sum()
    probabilities, own = predicted.softmax(dim=1), F.one_hot(truth, predicted.shape[1]).to(predicted.dtype)
    errors, order = (own - probabilities).abs().sort(dim=0, descending=True)  # (P, K)
    # Berman et al., algorithm 1: the gradient of the extension is the growth of 1 - IoU from pixel to pixel.
    own_sorted = own.gather(0, order)
    total = own.sum(dim=0)
    # Counted in whole numbers: on a CUDA device torch has no deterministic cumsum of others.
    inside, outside = (
        side.cumsum(dim=0, dtype=torch.int32).to(own.dtype) for side in (own_sorted, 1 - own_sorted)
    )
    jaccard = 1 - (total - inside) / (total + outside)
    gains = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return _over_present((errors * gains).sum(dim=0), own, weights)


LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "ohem": ohem,
    "hardest": hardest,
    "hardest-per-image": hardest_per_image,
    # Both rules of IFBFNet at once: eq. 7 keeps three quarters, sec. 4.3.4 those below 0.7.
    "ohem-hardest": partial(ohem, keep=0.75),
    "focal": focal,
    "dice": dice,
    "tversky": tversky,
    "jaccard": partial(tversky, alpha=1.0, beta=1.0),
    "lovasz": lovasz,
}


def total_loss(parts: Mapping[str, float], logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of losses by name, each times its factor. A scalar."""
    # float32 under autocast too: a sum over a million pixels overflows float16.
    return sum(factor * LOSSES[name](logits.float(), labels, weights) for name, factor in parts.items())


def auto_weights(counts: Tensor) -> Tensor:
    """Class weights from pixel counts (K,): 1 / sqrt(share) (ours), scaled to a mean of 1 over labelled
    pixels; 0 for a class without pixels.
    """
    # Mean 1 leaves the size of the loss, and so the learning rate that suits it, as without weights.
    share = counts.double() / counts.sum().clamp_min(1)
    weights = torch.where(share > 0, share.clamp_min(1e-12).rsqrt(), 0.0)
    return (weights / (weights * share).sum().clamp_min(1e-12)).float()


def shares(labels: Tensor, weights: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, H, W) weight of each pixel in the loss: that of its class, 0 where it is not labelled."""
    labelled = labels != IGNORE
    if weights is None:
        return labelled.to(dtype)
    return labelled * weights.to(dtype)[torch.where(labelled, labels, 0).long()]


def labelled_pixels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, K) logits and (P,) classes of the labelled pixels."""
    labelled = labels != IGNORE
    return logits.movedim(1, -1)[labelled], labels[labelled].long()


def _weighted(each: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return each.sum() / max(1, len(each))
    share = weights.to(each.dtype)[truth]
    return (each * share).sum() / share.sum().clamp_min(1e-12)


def _over_present(per_class: Tensor, own: Tensor, weights: Tensor | None) -> Tensor:
    share = (own.sum(dim=0) > 0).to(per_class.dtype)
    if weights is not None:
        share = share * weights.to(per_class.dtype)
    return (per_class * share).sum() / share.sum().clamp_min(1e-12)
