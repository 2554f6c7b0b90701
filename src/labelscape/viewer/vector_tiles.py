"""Polygons as Mapbox Vector Tiles (specification 2.1), which the browser draws itself: it can then colour,
hide and highlight them without asking again.

Written here in numpy, since the format is small: GDAL's driver writes folders of Web Mercator tiles alone,
and packages for it go from corner to corner in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely

EXTENT = 4096
"""Units of a tile's side, the usual number: 16 for each pixel of the screen."""
MOVE, LINE, CLOSE = 1, 2, 7
"""Commands of a geometry."""
AREA = 3
"""A polygon, for shapely."""
Value = str | int | float


@dataclass(frozen=True)
class Rings:
    """Polygons of a tile in whole units, ring after ring.

    xy       (N, 2) corners; no ring's last corner is its first again
    begins   (R + 1,) where each ring begins, and N
    feature  (R,) which of the given shapes each ring is of, ascending
    """

    xy: np.ndarray
    begins: np.ndarray
    feature: np.ndarray

    @classmethod
    def of(
        cls,
        shapes: np.ndarray,
        least: float,
        *,
        placed: Callable[[np.ndarray], np.ndarray] | None = None,
        tolerance: float = 0.0,
    ) -> Rings:
        """The rings of `shapes` (F,); None and what has no area are left out. Holes with no side of `least`
        units are filled.

        placed     (N, 2) coordinates of the shapes -> in units of the tile, y downwards; None: they are
        tolerance  by which lines may be moved, in units of the shapes
        """
        parts, feature = shapely.get_parts(shapes, return_index=True)
        # Clipping leaves lines and points where a polygon touches the edge.
        areas = shapely.get_type_id(parts) == AREA
        parts, feature = parts[areas], feature[areas]
        lines, polygon = shapely.get_rings(parts, return_index=True)
        outer = np.diff(polygon, prepend=-1) != 0
        if tolerance:
            # Ring by ring: GEOS would make every polygon valid again, which rounding then undoes.
            lines = shapely.simplify(lines, tolerance, preserve_topology=False)
        xy, ring = shapely.get_coordinates(lines, return_index=True)
        corners = np.rint(_turned(placed(xy) if placed else xy, ring, outer)).astype(np.int64)
        # Corners in one place are one corner, and the last of a ring is its first.
        kept = np.zeros(len(corners), bool)
        kept[:-1] = (corners[1:] != corners[:-1]).any(axis=1) & (ring[1:] == ring[:-1])
        corners, ring = corners[kept], ring[kept]
        good = _worth(corners, ring, outer, least)
        # Without its outer ring a hole would be an area of its own.
        good &= good[np.flatnonzero(outer)][np.cumsum(outer) - 1]
        sizes = np.bincount(ring, minlength=len(lines))[good]
        return cls(corners[good[ring]], np.concatenate([[0], np.cumsum(sizes)]), feature[polygon[good]])

    def corners(self, count: int) -> np.ndarray:
        """(F,) corners of each of `count` shapes."""
        return np.bincount(self.feature, np.diff(self.begins), count).astype(np.int64)

    def only(self, kept: np.ndarray) -> Rings:
        """The rings of the shapes that are True in `kept` (F,)."""
        good, sizes = kept[self.feature], np.diff(self.begins)
        begins = np.concatenate([[0], np.cumsum(sizes[good])])
        return Rings(self.xy[np.repeat(good, sizes)], begins, self.feature[good])


def _turned(xy: np.ndarray, ring: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """The corners of closed rings in the order that the specification asks for: by its formula the area of
    outer rings is positive, that of holes negative.
    """
    if not len(xy):
        return xy
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    ends = np.append(starts[1:], len(xy))
    # Of closed rings the step from one to the next adds nothing: its last corner is its first.
    steps = np.append(xy[:-1, 0] * xy[1:, 1] - xy[1:, 0] * xy[:-1, 1], 0.0)
    steps[ends - 1] = 0
    twice = np.add.reduceat(steps, starts)
    wrong = np.repeat((twice > 0) != outer[ring[starts]], ends - starts)
    here = np.arange(len(xy))
    return xy[np.where(wrong, np.repeat(starts + ends - 1, ends - starts) - here, here)]


def _worth(xy: np.ndarray, ring: np.ndarray, outer: np.ndarray, least: float) -> np.ndarray:
    """(R,) which rings enclose something after rounding, on the side they did before."""
    good = np.zeros(len(outer), bool)
    if not len(xy):
        return good
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    which = ring[starts]
    after = np.arange(1, len(xy) + 1)
    after[np.append(starts[1:], len(xy)) - 1] = starts
    twice = np.add.reduceat(xy[:, 0] * xy[after, 1] - xy[after, 0] * xy[:, 1], starts)
    sides = np.maximum.reduceat(xy, starts) - np.minimum.reduceat(xy, starts)
    good[which] = np.where(outer[which], twice > 0, (twice < 0) & (sides.max(axis=1) >= least))
    return good


def encoded(name: str, rings: Rings, numbers: Sequence[int], fields: Sequence[Mapping[str, Value]]) -> bytes:
    """A tile of one layer. `numbers` and `fields` are of the shapes that `rings` were made of; those without
    a ring are left out.
    """
    # Each with its place as it is written.
    keys: dict[str, bytes] = {}
    values: dict[tuple[type, Value], bytes] = {}
    stream, begins = _geometries(rings)
    found = bytearray(_field(1, name.encode()))
    for feature, begin, end in zip(np.unique(rings.feature).tolist(), begins, begins[1:]):
        tags = bytearray()
        for key, value in fields[feature].items():
            tags += keys.get(key) or keys.setdefault(key, _varint(len(keys)))
            # 1 and 1.0 are one key of a dictionary, and two values.
            one = (type(value), value)
            tags += values.get(one) or values.setdefault(one, _varint(len(values)))
        number, shape = _varint(numbers[feature] & (1 << 64) - 1), _field(4, stream[begin:end])
        found += _field(2, b"\x08%b%b\x18\x03%b" % (number, _field(2, tags), shape))
    for key in keys:
        found += _field(3, key.encode())
    for _, value in values:
        found += _field(4, _value(value))
    found += b"\x28" + _varint(EXTENT) + b"\x78\x02"
    return _field(3, found)


def _geometries(rings: Rings) -> tuple[bytes, list[int]]:
    """The geometries of all features one after the other, and where each begins and the last ends."""
    if not len(rings.feature):
        return b"", [0]
    xy, sizes = rings.xy, np.diff(rings.begins)
    ring = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(xy)) - rings.begins[ring]
    # The pen goes on from the ring before, and is put back to the corner of the tile by each feature.
    new = np.flatnonzero(np.diff(rings.feature, prepend=-1))
    steps = np.diff(xy, axis=0, prepend=0)
    steps[rings.begins[new]] = xy[rings.begins[new]]
    # A ring: move, x, y, line, the other corners, close.
    at = np.concatenate([[0], np.cumsum(2 * sizes + 3)])
    words = np.empty(at[-1], np.int64)
    words[at[:-1]] = MOVE | 1 << 3
    words[at[:-1] + 3] = LINE | (sizes - 1) << 3
    words[at[1:] - 1] = CLOSE | 1 << 3
    where = at[ring] + 1 + 2 * place + (place > 0)
    for axis in (0, 1):
        words[where + axis] = steps[:, axis] << 1 ^ steps[:, axis] >> 63
    data, offsets = _varints(words)
    return data, [*offsets[at[new]].tolist(), len(data)]


def _varints(words: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Numbers of up to 35 bits as protobuf writes them, and where each begins."""
    sizes = np.ones(len(words), np.int64)
    for k in range(1, 5):
        sizes += words >= 1 << 7 * k
    begins = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    # Most are of one byte: each round goes through those alone that are longer.
    for k in range(int(sizes.max(initial=0))):
        data[begins[sizes > k] + k] = words & 127 | (sizes[sizes > k] > k + 1) * np.int64(128)
        words = words[words > 127] >> 7
    return data.tobytes(), begins


# Of a tile's thousands of numbers most are lengths and places below a few hundred.
@lru_cache(1 << 14)
def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _field(number: int, data: bytes | bytearray) -> bytes:
    """Bytes as a field of a message."""
    return b"%c%b%b" % (number << 3 | 2, _varint(len(data)), data)


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return _field(1, value.encode("utf-8", "replace"))
    if isinstance(value, float):
        return b"\x19" + struct.pack("<d", value)
    return b"\x30" + _varint(value << 1 if value >= 0 else ~value << 1 | 1)
