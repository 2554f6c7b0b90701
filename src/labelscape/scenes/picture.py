"""Quicklooks of scenes: true colour with a percentile stretch, nodata white."""

from __future__ import annotations

import io

import numpy as np

PICTURES = (("red", "green", "blue"), ("B04", "B03", "B02"), ("B4", "B3", "B2"))
"""Band names of a true colour image, in order of preference."""


def stretched(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Stretch three bands (3, h, w) to uint8 (h, w, 3), each from its 2nd to its 98th percentile; white where
    invalid (h, w).
    """
    picture = np.full((*valid.shape, 3), 255, np.uint8)
    if valid.any():
        # Without nodata, which as 0 or -9999 would take all of the stretch.
        values = pixels[:, valid].astype(np.float64)
        low, high = (np.percentile(values, q, axis=1, keepdims=True) for q in (2, 98))
        # The smallest divisor is not 0: a band may have one value. The power brightens dark scenes a little
        # (ours).
        shares = np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) ** 0.9
        # 254: white, 255, is left to pixels that are not valid.
        picture[valid] = (shares.T * 254).astype(np.uint8)
    return picture


def png(picture: np.ndarray) -> bytes:
    """Encode an image, uint8 (h, w, 3), as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
