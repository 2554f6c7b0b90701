"""Pictures inside an HTML page, as addresses that hold their bytes."""

from __future__ import annotations

import base64
import io

import numpy as np

LARGE_PNG = 300_000
"""A photo whose PNG has more bytes than this becomes a JPEG (2.5 to 5 times smaller); below, the exact
pixels cost little.
"""

FLAT_COLOURS = 256
"""A picture of at most this many colours is a map or a scale: it stays a PNG, because JPEG would smear its
edges into false colours.
"""


def picture_address(pixels: np.ndarray) -> str:
    """A picture's address with the picture in it: exact, or a JPEG where it is a large photo."""
    from PIL import Image

    fits = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    assert fits, f"a picture is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}"
    image, buffer = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= LARGE_PNG or image.getcolors(FLAT_COLOURS):
        return data_address(buffer.getvalue())
    buffer = io.BytesIO()
    # No subsampling: roofs and roads are a pixel wide, and their colour is what one looks at.
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return data_address(buffer.getvalue(), "jpeg")


def data_address(picture: bytes, kind: str = "png") -> str:
    """The bytes of a PNG or JPEG as a data: address."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")
