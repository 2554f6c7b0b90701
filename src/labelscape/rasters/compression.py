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

from labelscape.scenes.files import gdal

CODECS = ("ZSTD", "DEFLATE", "LZW", "LZMA", "PACKBITS", "NONE")
"""Codecs that lose nothing and are made for bytes; this GDAL need not have all of them (`has`)."""
LEVELS = {"ZSTD": ("ZSTD_LEVEL", 1, 22), "DEFLATE": ("ZLEVEL", 1, 9), "LZMA": ("LZMA_PRESET", 0, 9)}
"""Codec -> GDAL's creation option of its level, the fastest level and the smallest files' one."""
PREDICTED = ("ZSTD", "DEFLATE", "LZW")
"""Codecs before which GDAL takes differences of neighbours."""


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
    return chosen(smooth=False)


def for_smooth_values() -> Compression:
    """For confidences and probabilities, with the horizontal predictor: differences are small."""
    return chosen(smooth=True)


def for_journal() -> Compression:
    """For finished tiles kept until the map is complete: written once, read at most once. Whatever the files
    of the map are compressed with: so the tiles serve a map that is resumed with another codec.
    """
    return _made(fastest(), None)


def chosen(
    codec: str | None = None, level: int | None = None, predictor: int | None = None, *, smooth: bool
) -> Compression:
    """What is asked for, and otherwise the fastest codec and level, and the predictor that suits the
    values.
    """
    codec = codec or fastest()
    wanted = (2 if smooth else 1) if predictor is None else predictor
    return _made(codec, level, *((("predictor", wanted),) if codec in PREDICTED else ()))


def fastest() -> str:
    """ZSTD, or DEFLATE where this GDAL was built without it."""
    return "ZSTD" if has("ZSTD") else "DEFLATE"


def _made(codec: str, level: int | None, *options: tuple[str, int]) -> Compression:
    if codec not in LEVELS:
        return Compression(codec, options)
    name, least, _ = LEVELS[codec]
    return Compression(codec, ((name.lower(), least if level is None else level), *options))


@functools.cache
def has(codec: str) -> bool:
    """Has this GDAL a codec? Tested by writing a file: some builds list one and then write uncompressed
    files.
    """
    if codec == "NONE":
        return True
    with contextlib.suppress(Exception), gdal(), rasterio.MemoryFile() as memory:  # any failure means no
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", compress=codec) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        with memory.open() as file:
            return file.compression is not None and file.compression.value.upper() == codec
    return False
