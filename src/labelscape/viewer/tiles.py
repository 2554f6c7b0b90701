"""Tiles of a layer as PNG, the stretch of imagery, and the values at a pixel.

Not by rio-tiler, which knows one nodata value: of a class map without a declared one, or with another than
255, it takes 255 for a class, or the declared value for one. Of imagery it takes a pixel for missing where
one band alone holds the nodata value, and NaN for a value. Where both agree (400 tiles of a COG of 6,000 x
6,000, nodata 255 passed to its `read`: the same pixels and masks) it takes two to four times the processor,
0.6 ms a tile.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from labelscape.errors import BadOption
from labelscape.evaluation.sections import shades
from labelscape.grid import Grid, Window, decimated
from labelscape.legend import RGB
from labelscape.viewer.layers import LARGEST_READ, Layer, spread

SIDE = 256
"""Pixels of a tile."""
LOOKED = 512
"""Side of the picture from which a stretch is taken (ours)."""
Stretch = Sequence[tuple[float, float]]
"""The values shown as black and as white, a pair for each band."""


def levels(grid: Grid) -> int:
    """The number of the level of full resolution; on level 0 the map is one tile."""
    return max(0, math.ceil(math.log2(max(grid.shape) / SIDE)))


def tile_window(grid: Grid, level: int, column: int, row: int) -> tuple[Window, tuple[int, int]] | None:
    """The pixels of a tile and its size on the screen; None beyond the map."""
    deepest = levels(grid)
    if not 0 <= level <= deepest:
        return None
    scale = 2 ** (deepest - level)
    window = Window(row * SIDE * scale, column * SIDE * scale, SIDE * scale, SIDE * scale) & grid.window
    if row < 0 or column < 0 or not window.pixels:
        return None
    return window, (math.ceil(window.height / scale), math.ceil(window.width / scale))


def is_costly(layer: Layer, window: Window) -> bool:
    """Would a picture of a window take minutes, since the raster has no overviews?"""
    return not layer.quick and window.pixels > LARGEST_READ


def empty_tile() -> bytes:
    return _palette_png(
        np.full((SIDE, SIDE), 255, np.uint8), np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    )


def class_tile(
    layer: Layer, place: tuple[Window, tuple[int, int]], hidden: frozenset[int], colors: Mapping[int, RGB]
) -> bytes:
    """A tile of classes in the colours of the legend, `colors` before it; hidden classes are transparent."""
    table, alpha = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    for one in layer.legend.classes:
        table[one.value] = colors.get(one.value, one.color)
        alpha[one.value] = 0 if one.value in hidden else 255
    values, valid = layer.read((0,), *place)
    return _palette_png(np.where(valid, values[0], np.uint8(255)), table, alpha)


def ramp_tile(layer: Layer, place: tuple[Window, tuple[int, int]], band: int) -> bytes:
    """A tile of a measure or of one class's probability in the colours of the report."""
    table = shades(np.arange(256) / layer.top)
    alpha = np.full(256, 255, np.uint8)
    alpha[255] = 0
    values, valid = layer.read((band,), *place)
    return _palette_png(np.where(valid, values[0], np.uint8(255)), table, alpha)


def scene_tile(
    layer: Layer, place: tuple[Window, tuple[int, int]], bands: tuple[int, ...], stretch: Stretch
) -> bytes:
    """A tile of imagery: three bands as red, green and blue, each between its two values."""
    from PIL import Image

    pixels, valid = layer.read(bands, *place)
    low, high = (np.array(side, np.float32)[:, None, None] for side in zip(*stretch))
    # The smallest divisor is not 0: a band may have one value. Infinite and NaN are not valid.
    shares = (np.nan_to_num(pixels.astype(np.float32)) - low) / np.maximum(high - low, 1e-9)
    colours = (np.clip(shares, 0, 1) * 255).astype(np.uint8)
    if valid.all() and valid.shape == (SIDE, SIDE):
        return _png(Image.fromarray(np.ascontiguousarray(np.moveaxis(colours, 0, -1))))
    whole = np.zeros((SIDE, SIDE, 4), np.uint8)
    part = whole[: valid.shape[0], : valid.shape[1]]
    part[..., :3], part[..., 3] = np.moveaxis(colours, 0, -1), valid * np.uint8(255)
    return _png(Image.fromarray(whole))


def percentiles(layer: Layer, bands: Sequence[int], window: Window) -> list[tuple[float, float]]:
    """The 2nd and 98th percentile of bands in a window; (0, 1) where nothing is valid."""
    values = np.empty((len(bands), 0))
    if is_costly(layer, window):
        parts = [layer.read(tuple(bands), one, one.shape) for one in spread(window)]
        values = np.concatenate([pixels[:, valid] for pixels, valid in parts], axis=1)
    if not values.size:
        # Of a sparse scene too, whose data lie between the windows.
        pixels, valid = layer.read(tuple(bands), window, decimated(window.shape, LOOKED))
        values = pixels[:, valid]
    if not values.size:
        return [(0.0, 1.0)] * len(bands)
    low, high = np.percentile(values.astype(np.float64), (2, 98), axis=1)
    return [(float(a), float(b)) for a, b in zip(low, high)]


def values_at(layer: Layer, row: int, column: int) -> list[float] | None:
    """The value of each band at a pixel; None without one."""
    window = Window(row, column, 1, 1)
    values, valid = layer.read(tuple(range(len(layer.bands))), window, (1, 1))
    return [float(v) for v in values[:, 0, 0]] if valid[0, 0] else None


def colors_from(text: str) -> dict[int, RGB]:
    """Colours of an address, `3-ff0000.5-00ff00`. Raises BadOption."""
    found: dict[int, RGB] = {}
    for part in filter(None, text.split(".")):
        value, _, code = part.partition("-")
        try:
            red, green, blue = bytes.fromhex(code)
            found[int(value)] = (red, green, blue)
        except ValueError as error:
            raise BadOption(f"{part!r} is no colour of a class; expected VALUE-RRGGBB.") from error
    return found


def _palette_png(values: np.ndarray, table: np.ndarray, alpha: np.ndarray) -> bytes:
    """(h, w) bytes by a table of colours (256, 3) and opacities (256,): a third of the bytes of RGB."""
    from PIL import Image

    whole = values
    if values.shape != (SIDE, SIDE):
        # At the edge of the map a tile is full size too, or the browser would stretch it.
        whole = np.full((SIDE, SIDE), 255, np.uint8)
        whole[: values.shape[0], : values.shape[1]] = values
    image = Image.frombytes("P", (SIDE, SIDE), whole.tobytes())
    image.putpalette(table.tobytes())
    return _png(image, transparency=alpha.tobytes())


def _png(image: object, **more: object) -> bytes:
    file = io.BytesIO()
    # Level 1: tiles stay on this machine, where time counts and bytes do not.
    image.save(file, "PNG", compress_level=1, **more)
    return file.getvalue()
