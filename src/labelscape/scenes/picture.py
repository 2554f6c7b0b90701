"""Pictures of scenes for people: colours stretched to be seen, nodata white."""

from __future__ import annotations

import io

import numpy as np

PICTURES = (("red", "green", "blue"), ("B04", "B03", "B02"), ("B4", "B3", "B2"))
"""Names of the bands that a person expects as red, green and blue; the first that a scene has."""


def stretched(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) of three bands (3, h, w): from the 2nd to the 98th percentile of each, white where
    nothing is valid.
    """
    picture = np.full((*valid.shape, 3), 255, np.uint8)
    if valid.any():
        values = pixels[:, valid].astype(np.float64)
        low, high = (np.percentile(values, q, axis=1, keepdims=True) for q in (2, 98))
        shares = np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) ** 0.9
        picture[valid] = (shares.T * 254).astype(np.uint8)
    return picture


def png(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
