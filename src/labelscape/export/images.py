"""Images that an exported network is compared and calibrated with."""

from __future__ import annotations

from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.export.graph import scaling_of
from labelscape.scoring.proof import Shape, proof_images


def shapes_of(bands: int, stride: int, side: int | None, pads_to: int | None = None) -> list[Shape]:
    """Of the images that are compared; the network is recorded with the first. Where images are padded to
    less than the stride (`pads_to`), the last is such a one.
    """
    if side is not None:
        return [(1, bands, side, side), (2, bands, side, side)]
    least = -(-64 // stride)
    # Neither square nor the same twice: a size that was taken for a constant shows.
    sizes = [(3 * least, 4 * least), (4 * least, 2 * least), (5 * least + 1, 3 * least + 2)]
    found = [(n + 1, bands, h * stride, w * stride) for n, (h, w) in enumerate(sizes)]
    if pads_to is not None:
        images, _, height, width = found[-1]
        found.append((images, bands, height + pads_to, width - pads_to))
    return found


def images_of(checkpoint: Checkpoint, shape: Shape, scaling: str) -> Tensor:
    """Images of this shape as the exported network reads them."""
    return as_read(checkpoint, proof_images(checkpoint, shape).contiguous(), scaling)


def as_read(checkpoint: Checkpoint, images: Tensor, scaling: str) -> Tensor:
    """Normalised images as the exported network reads them."""
    if scaling == "outside":
        return images
    mean, std = scaling_of(checkpoint)
    raw = images * std + mean
    return raw / 255 if scaling == "unit" else raw
