"""Write plain rasters, and read them back: on a full disk GDAL may lose the last blocks without an error."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.enums import MaskFlags

from labelscape.files import cannot_write
from labelscape.grid import Window
from labelscape.scenes.files import READ_FAILURES, gdal, reason


class Piece(NamedTuple):
    """A window of a raster: its pixels (B, H, W), and which (H, W) are valid where it gets an internal
    mask.
    """

    window: Window
    pixels: np.ndarray
    valid: np.ndarray | None = None


def write_raster(
    path: Path,
    pieces: Iterable[Piece],
    *,
    target: Path | None = None,
    colours: Mapping[int, tuple[int, ...]] | None = None,
    names: Sequence[str] = (),
    **profile: object,
) -> None:
    """Write a raster in windows, as rasterio's `profile` describes it, and compare what is read back.

    target   the name in messages, where `path` is renamed to it afterwards
    colours  of a single band's values; `names` are those of the bands

    Raises BadFile where it cannot be written, or does not hold what was written; and what `pieces` raise.
    """
    target, written = target or path, []
    # Internal: by default GDAL writes masks to a .msk file beside the raster.
    with gdal(GDAL_TIFF_INTERNAL_MASK=True):
        with _refused(target):
            file = rasterio.open(path, "w", **profile)
        try:
            with _refused(target):
                if colours is not None:
                    file.write_colormap(1, colours)
                if names:
                    file.descriptions = tuple(names)
            for piece in pieces:  # outside: what it raises is of reading
                with _refused(target):
                    file.write(piece.pixels, window=piece.window.rio)
                    if piece.valid is not None:
                        file.write_mask(piece.valid, window=piece.window.rio)
                written.append((piece.window, _sum(piece.pixels, piece.valid)))
        except BaseException:
            with suppress(*READ_FAILURES):  # the first error says more
                file.close()
            raise
        with _refused(target):
            file.close()
        with _refused(target), rasterio.open(path) as file:
            masked = MaskFlags.per_dataset in file.mask_flag_enums[0]
            for window, expected in written:
                valid = file.read_masks(1, window=window.rio) > 0 if masked else None
                if _sum(file.read(window=window.rio), valid) != expected:
                    raise OSError("what was read back is not what was written")


@contextmanager
def _refused(target: Path) -> Iterator[None]:
    try:
        yield
    except READ_FAILURES as error:
        raise cannot_write(target, error, reason(error)) from error


def _sum(pixels: np.ndarray, valid: np.ndarray | None) -> int:
    found = zlib.crc32(np.ascontiguousarray(pixels))
    return found if valid is None else zlib.crc32(np.ascontiguousarray(valid, bool), found)
