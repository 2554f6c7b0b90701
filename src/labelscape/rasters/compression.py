"""How the blocks of a GeoTIFF are compressed, chosen for what they hold.

All use the fastest level: with a predictor, level 1 makes smaller files of smooth values than level 9 without
one, in a fifth of the time (measured).
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.enums import Compression as Codec

from labelscape.scenes.files import gdal


@dataclass(frozen=True)
class Compression:
    """GDAL's name of a compression (ZSTD, DEFLATE, LZW, ...) and the creation options that go with it."""

    name: str
    options: tuple[tuple[str, int], ...] = ()

    @property
    def profile(self) -> dict[str, str | int]:
        """Creation options as rasterio takes them."""
        return {"compress": self.name, **dict(self.options)}


def for_classes() -> Compression:
    """For class maps, without a predictor: neighbours are equal or unrelated, so differences do not help."""
    return _fastest(("predictor", 1))


def for_smooth_values() -> Compression:
    """For confidences and probabilities, with the horizontal predictor: differences are small."""
    return _fastest(("predictor", 2))


def for_journal() -> Compression:
    """For finished tiles kept until the map is complete: written once, read at most once."""
    return _fastest()


def _fastest(*options: tuple[str, int]) -> Compression:
    """ZSTD, or DEFLATE where this GDAL was built without it."""
    return (
        Compression("ZSTD", (("zstd_level", 1), *options))
        if _has_zstd()
        else Compression("DEFLATE", (("zlevel", 1), *options))
    )


@functools.cache
def _has_zstd() -> bool:
    """Tested by writing a file: some builds of GDAL list ZSTD and then write uncompressed files."""
    with contextlib.suppress(Exception), gdal(), rasterio.MemoryFile() as memory:  # any failure means no
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", compress="ZSTD") as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        with memory.open() as file:
            return file.compression == Codec.zstd
    return False
