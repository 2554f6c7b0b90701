"""Losses over labelled pixels. Whatever is predicted where the label is 255 changes no loss and no gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labelscape.legend import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels (Maggiori et al. eq. 2); 0 with a gradient of 0 where nothing is labelled.

    logits (N, K, H, W), labels (N, H, W) integer, weights (K,) or None.
    """
    labelled = labels != IGNORE
    safe = torch.where(labelled, labels, 0).long()
    share = labelled.to(logits.dtype) if weights is None else labelled * weights.to(logits.dtype)[safe]
    # A masked sum instead of ignore_index: its gradient is the same, and a batch without labels gives 0 instead of NaN.
    each = F.cross_entropy(logits, safe, reduction="none")
    return (each * share).sum() / share.sum().clamp_min(1e-12)


def auto_weights(counts: Tensor) -> Tensor:
    """(K,) weights 1 / sqrt(share), scaled so that the mean over labelled pixels is 1; classes without a pixel weigh 0."""
    share = counts.double() / counts.sum().clamp_min(1)
    weights = torch.where(share > 0, share.clamp_min(1e-12).rsqrt(), 0.0)
    return (weights / (weights * share).sum().clamp_min(1e-12)).float()
