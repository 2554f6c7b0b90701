"""Embed images in an HTML page as data: URLs."""

from __future__ import annotations

import base64
import io

import numpy as np

LARGE_PNG = 300_000
"""Photographs whose PNG is larger than this, in bytes, become JPEGs (2.5 to 5 times smaller)."""

FLAT_COLOURS = 256
"""Images of at most this many colours are maps or scales: they stay PNGs, because JPEG would blur their edges
into colours that the legend does not have.
"""


def picture_address(pixels: np.ndarray) -> str:
    """Encode an image, uint8 (H, W, 3), as a data: URL: a PNG, or a JPEG for a large photograph."""
    from PIL import Image

    fits = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    assert fits, f"a picture is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}"
    image, buffer = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.save(buffer, "PNG")
    # getcolors gives None where there are more colours, and stops counting there.
    if buffer.tell() <= LARGE_PNG or image.getcolors(FLAT_COLOURS):
        return data_address(buffer.getvalue())
    buffer = io.BytesIO()
    # No subsampling: roofs and roads are a pixel wide, and subsampling would blur their colour.
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return data_address(buffer.getvalue(), "jpeg")


def data_address(picture: bytes, kind: str = "png") -> str:
    """The bytes of a PNG or JPEG as a data: URL."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")
