"""Is a converted network what it was in torch? Both are given the same images, and what they say is compared.

Compared at the shape of the tiles, which is the shape that a network is converted for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelscape.checkpoint import Checkpoint
from labelscape.scoring.arrays import parts_of, without_gradients

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, int, int, int]
"""Of the images that a network is given: (N, B, H, W)."""
TOLERANCE = 1e-4
"""Largest difference of a probability from torch's that is still rounding (ours): a hundredth of a
per cent.
"""
SCORE_TOLERANCE, ROUNDING = 1e-3, 1e-5
"""Largest difference of a score (ours): as a share of the spread of the scores over the pixels, and of the
largest score, which sets the last digits. Measured: 3e-5 of the spread and less.
"""
SEED = 0


@dataclass(frozen=True)
class Proof:
    """How an engine compares with torch on one shape of images.

    failure     why it is not used, as a part of a sentence; empty where it may be
    difference  largest difference of a probability
    seconds     for the images, of torch and of the engine
    """

    failure: str
    difference: float
    seconds: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The engine's time over torch's."""
        return self.seconds[1] / self.seconds[0] if self.seconds[0] else 1.0


def proof_images(checkpoint: Checkpoint, shape: Shape) -> Tensor:
    """Images (N, B, H, W) as the network reads them, the same at every call: drawn from the mean and
    deviation of each band, with coarse and fine structures, a quarter three times as strong, and a corner
    without data.

    No stored picture: what has to be right is the network converted for the tiles' own shape, which no block
    stored with a checkpoint has.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    images, bands, height, width = shape
    total = torch.zeros(shape)
    for cell in (1, 4, 16, 64):
        coarse = torch.randn(images, bands, -(-height // cell), -(-width // cell), generator=generator)
        total += torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    total /= 2  # four sums of variance 1
    total[..., : height // 2, : width // 2] *= 3
    total[..., height - height // 8 :, width - width // 8 :] = 0
    contract = checkpoint.contract
    for band, ((mean, std), known) in enumerate(zip(contract.normalisation, _statistics(checkpoint))):
        # Networks that read raw values see them as they are.
        total[:, band] = (total[:, band] * known[1] + known[0] - mean) / (std or 1)
    return total.contiguous(memory_format=torch.channels_last)


def _statistics(checkpoint: Checkpoint) -> list[tuple[float, float]]:
    """(mean, std) of each band in the scenes' units."""
    contract = checkpoint.contract
    if len(contract.statistics) == len(contract.bands):
        return [(one.mean, one.std) for one in contract.statistics]
    return list(contract.normalisation)


def compared(wanted: Tensor, found: Tensor, tolerance: float = TOLERANCE) -> tuple[str, float]:
    """Probabilities (N, K, H, W) of torch and of an engine: why they are not the same, empty where they are,
    and their largest difference.
    """
    if wanted.shape != found.shape:
        return f"its logits have the shape {tuple(found.shape)} instead of {tuple(wanted.shape)}", float(
            "inf"
        )
    if not found.isfinite().all():
        return "its probabilities are no finite numbers", float("inf")
    difference = float((wanted - found).abs().max())
    if difference > tolerance:
        return f"its probabilities differ from torch's by up to {difference:.2g}", difference
    # Among equals rounding decides; anywhere else the class has to be the same.
    best = wanted.topk(min(2, wanted.shape[1]), dim=1).values
    clear = (best[:, 0] - best[:, -1]) > tolerance
    changed = int(((wanted.argmax(1) != found.argmax(1)) & clear).sum())
    return (f"{changed} pixels get another class" if changed else ""), difference


def scores_apart(wanted: Tensor, found: Tensor, groups: tuple[int, ...] = ()) -> str:
    """Why scores (N, K, H, W) of torch and of an engine, finite and of one shape, are not the same by more
    than rounding; empty where they are. With `groups`, each of so many classes by itself.

    Beside `compared`: where the images get one class with certainty, as noise may from a network that was
    trained, probabilities are 0 and 1 whatever else the engine does.
    """
    for one, other in zip(*(parts_of(scores, groups or scores.shape[1], 1) for scores in (wanted, found))):
        # Over the pixels: what a class has everywhere says nothing of how well the others are computed.
        spread = float(one.std((0, 2, 3), correction=0).max())
        difference = float((one - other).abs().max())
        if not difference <= SCORE_TOLERANCE * spread + ROUNDING * float(one.abs().max()):
            return (
                f"its scores differ from torch's by up to {difference:.2g}, where those of a class have a "
                f"deviation of {spread:.2g}"
            )
    return ""


def seconds_of(run: Any, images: Tensor) -> float:
    start = time.perf_counter()
    with without_gradients():
        run(images)
    return time.perf_counter() - start
