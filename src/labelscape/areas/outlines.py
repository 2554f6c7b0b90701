"""The connected areas of one strip of a class raster, and their outlines as polygons.

Rings are followed by arrays, not pixel by pixel: each pixel side that borders on another area knows the side
that follows it, and one walk through that list orders them all.
"""

from __future__ import annotations

import numpy as np
import shapely

from labelscape.areas.groups import joined_by, ring_of
from labelscape.grid import Grid
from labelscape.legend import IGNORE

RUN = 512
"""Pixels of a row whose ground area is taken as equal: it changes slowly along a row."""

AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(down, right) of a step along a pixel's top, right, bottom and left side, with the pixel on the right
hand.
"""


def connected(
    values: np.ndarray, grid: Grid, top: int, left: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label the 4-connected areas of a strip: labels (H, W) with -1 for none, and per area its class value,
    pixels and square metres.

    Runs of equal pixels in a row are the nodes of a graph, not pixels: a smooth map has far fewer of them.
    """
    height, width = values.shape
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    starts[:, ::RUN] = True
    runs = np.cumsum(starts, dtype=np.int32).reshape(height, width) - 1
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=values.size)
    # Two runs above each other are linked once: where the later of them begins.
    down = (values[1:] == values[:-1]) & (starts[1:] | starts[:-1])
    cuts = np.arange(RUN, width, RUN)
    across = values[:, cuts] == values[:, cuts - 1]
    upper = np.concatenate([runs[:-1][down], runs[:, cuts - 1][across]])
    lower = np.concatenate([runs[1:][down], runs[:, cuts][across]])
    area = joined_by(np.stack([upper, lower]), len(first))
    kinds = np.zeros(area.max() + 1, np.uint8)
    kinds[area] = values.ravel()[first]
    number = np.where(kinds == IGNORE, -1, np.cumsum(kinds != IGNORE) - 1)
    area = number[area]
    mine = area >= 0
    rows, columns = np.divmod(first[mine], width)
    metres = lengths[mine] * grid.pixel_areas(top + rows, left + columns + (lengths[mine] - 1) / 2)
    count = int((kinds != IGNORE).sum())
    pixels, metres = (np.bincount(area[mine], weights=w, minlength=count) for w in (lengths[mine], metres))
    return area.astype(np.int32)[runs], kinds[kinds != IGNORE], pixels, metres


def outlines(labels: np.ndarray, count: int, top: int, left: int = 0, *, junctions: bool) -> np.ndarray:
    """Polygonize labels 0.. (H, W): (count,) polygons with vertices where the outline turns; with `junctions`
    also where three areas meet on a straight line.

    An area that touches itself in a corner gets a hole that touches there, so that every polygon is valid.
    """
    if not count:
        return np.zeros(0, object)
    # A rim of -1, so that neighbours of all pixels exist in the flat array.
    pitch = labels.shape[1] + 2
    flat = np.pad(labels, 1, constant_values=-1).ravel()
    pixel, side, follows = _sides(flat, pitch)
    # The corner of the lattice where a side starts, named by the pixel to its lower right.
    begins = np.array([0, 1, pitch + 1, pitch])[side] + pixel
    before = np.empty_like(follows)
    before[follows] = np.arange(len(follows))
    corner = side != side[before]
    # Coverage simplification needs the points where three areas meet as vertices of all three.
    if junctions:
        nw, ne, sw, se = (flat[begins - step] for step in (pitch + 1, pitch, 1, 0))
        corner |= (nw != ne).astype(np.int8) + (sw != se) + (nw != sw) + (ne != se) > 2
    ring = ring_of(follows)
    start = np.empty(ring.max() + 1, np.int64)
    start[ring[::-1]] = np.arange(len(ring))[::-1]
    order = _walk(follows, before, start)
    order = order[corner[order]]
    # The first side of a ring from the top is a top side of its area where the ring is a shell, a bottom side
    # where it is a hole.
    owner, hole = flat[pixel[start]], side[start] != 0
    rank = np.empty(len(start), np.int64)
    rank[np.lexsort((hole, owner))] = np.arange(len(start))
    order = order[np.argsort(rank[ring[order]], kind="stable")]
    sizes = np.bincount(rank[ring[order]])
    ends = np.cumsum(sizes)
    closed = np.insert(order, ends, order[ends - sizes])
    y, x = np.divmod(begins[closed], pitch)
    xy = np.column_stack([x - 1 + left, y - 1 + top]).astype(float)
    rings = np.concatenate([[0], ends + np.arange(1, len(ends) + 1)])
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        xy,
        (rings, np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])),
    )


def _sides(flat: np.ndarray, pitch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel side between two areas, once from each: its pixel, which side it is (as in AHEAD), and the
    number of the side that follows in the ring.
    """
    ahead = np.array([down * pitch + right for down, right in AHEAD])
    left = ahead[[3, 0, 1, 2]]
    borders = np.zeros((len(flat), 4), bool)
    inner = slice(pitch, -pitch)
    for n in range(4):
        borders[inner, n] = (flat[inner] >= 0) & (flat[inner] != np.roll(flat, -left[n])[inner])
    found = np.flatnonzero(borders)
    pixel, side = np.divmod(found, 4)
    number = np.empty(borders.size, np.int32)
    number[found] = np.arange(len(found))
    own, straight = flat[pixel], pixel + ahead[side]
    turned = straight + left[side]
    # Turn left wherever the area continues there, also across a corner: this splits rings that would touch
    # themselves, which would be invalid.
    goes_left, goes_on = flat[turned] == own, flat[straight] == own
    then = np.where(
        goes_left,
        4 * turned + (side + 3) % 4,
        np.where(goes_on, 4 * straight + side, 4 * pixel + (side + 1) % 4),
    )
    return pixel, side, number[then]


def _walk(follows: np.ndarray, before: np.ndarray, start: np.ndarray) -> np.ndarray:
    """All sides in the order of their rings, ring after ring: rings are cut open at their start and chained
    to one path, which scipy walks at the speed of C.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    path = follows.copy()
    path[before[start[:-1]]] = start[1:]
    last = before[start[-1]]
    counts = np.ones(len(path) + 1, np.int64)
    counts[0], counts[last + 1] = 0, 0
    graph = csr_array(
        (np.ones(len(path) - 1, bool), np.delete(path, last), np.cumsum(counts)), shape=(len(path), len(path))
    )
    return breadth_first_order(graph, int(start[0]), directed=True, return_predecessors=False)


def simplified(polygons: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify polygons (N,) as a coverage, without its outer boundary; `tolerance` in pixels is the square
    root of the area that removing a vertex may cut off (Visvalingam-Whyatt, as GEOS does it).
    """
    if not len(polygons):
        return polygons
    found = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    sound = (
        shapely.is_valid(found)
        & (shapely.area(found) > 0)
        & (shapely.get_type_id(found) == shapely.GeometryType.POLYGON)
    )
    # All or none: a border belongs to two polygons, and replacing one of them would open a gap.
    return found if sound.all() else polygons
