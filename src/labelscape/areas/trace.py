"""The connected areas of a class raster, strip by strip in bounded memory, stitched where a strip ends.

Everything happens in whole pixels, where every step is exact: pieces that share an edge across a strip's
border become one, pieces that meet in a corner stay two (4-connectivity), and each area keeps count of its
pixels and of their size on the ground. Rings are followed by arrays, not pixel by pixel: each pixel side that
borders on another area knows the side that follows it, and one walk through that list orders them all.

Simplified areas stay a coverage: GEOS simplifies all areas of a strip together, each shared border once, and
leaves alone what the strip shares with no other area: the map's edge, the rim of nodata, and the two lines
where strips are cut. So what strips meet in needs no repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from labelscape.errors import BadFile
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE
from labelscape.scenes.files import reason
from labelscape.scenes.holes import stored_blocks, touched

STRIP_PIXELS = 2**22
"""A strip holds about as many: speckle makes a polygon of a few hundred bytes out of nearly every pixel."""

RUN = 512
"""Pixels of a row measured as one: the size of pixels on the ground changes slowly."""

AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(down, right) of a step along a pixel's top, right, bottom and left side, with the pixel on the right
hand.
"""


@dataclass(frozen=True)
class Areas:
    """Connected areas: class values (N,), pixels (N,), square metres (N,) on the ellipsoid, polygons (N,)
    with x along columns, y along rows.
    """

    values: np.ndarray
    pixels: np.ndarray
    metres: np.ndarray
    polygons: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: np.ndarray | slice) -> Areas:
        return Areas(self.values[which], self.pixels[which], self.metres[which], self.polygons[which])

    @classmethod
    def together(cls, parts: list[Areas]) -> Areas:
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("values", "pixels", "metres", "polygons")
            )
        )


@dataclass(frozen=True)
class _Open:
    """Areas that may go on below, with their pieces so far, and which of them ends at each column of the
    border (-1: none).
    """

    ends: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0))
    metres: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pieces: list[list[shapely.Polygon]] = field(default_factory=list)


def strip_height(width: int) -> int:
    """Rows of a strip: a matter of the map alone, since simplified borders remember where strips were cut."""
    return min(max(STRIP_PIXELS // max(1, width), 128), 2048)


def trace(
    file: rasterio.DatasetReader,
    grid: Grid,
    *,
    tolerance: float = 0.0,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> Iterator[Areas]:
    """The connected areas of a class raster, a strip's worth at a time, top to bottom; `tolerance` of
    simplification in pixels.

    Without simplification polygons do not depend on `strip_rows`. Pixels of 255 and of the file's nodata
    value belong to no area. `tick` hears the number of rows done. Raises BadFile where the file cannot be
    read.
    """
    rows = strip_rows or strip_height(grid.width)
    stored = None if file.nodata is None else stored_blocks(file, [1])
    above = _Open(np.full(grid.width, -1))
    for top in range(0, grid.height, rows):
        strip = Window(top, 0, min(rows, grid.height - top), grid.width)
        runs = runs_of(file, stored, strip)
        if runs or len(above.values):
            new, first, last = _traced(file, grid, strip, runs, tolerance)
            ends = np.full(strip.width, -1) if strip.bottom == grid.height else last
            finished, above = _stitched(above, new, first, ends, straight=not tolerance)
            yield finished
        if tick:
            tick(strip.height)


def runs_of(file: rasterio.DatasetReader, stored: np.ndarray | None, strip: Window) -> list[Window]:
    """The parts of a strip from one hole of the file to the next: areas do not reach across. All of it
    where its `stored` blocks are unknown.
    """
    if stored is None:
        return [strip]
    block = file.block_shapes[0]
    columns = (
        np.flatnonzero(np.diff(stored[touched(strip, block)].any(axis=0), prepend=False, append=False))
        * block[1]
    )
    return [
        Window(strip.top, left, strip.height, min(right, strip.right) - left)
        for left, right in columns.reshape(-1, 2).tolist()
    ]


def _traced(
    file: rasterio.DatasetReader, grid: Grid, strip: Window, runs: list[Window], tolerance: float
) -> tuple[Areas, np.ndarray, np.ndarray]:
    """The areas of a strip, and which of them (-1: none) the pixels of its first and of its last row
    belong to.
    """
    first, last = np.full((2, strip.width), -1)
    found, count = [Areas(np.zeros(0, np.uint8), np.zeros(0), np.zeros(0), np.zeros(0, object))], 0
    for run in runs:
        labels, kinds, pixels, metres = connected(
            without_nodata(read_run(file, run), file.nodata), grid, run.top, run.left
        )
        polygons = outlines(labels, len(kinds), run.top, run.left, junctions=tolerance > 0)
        found.append(Areas(kinds, pixels, metres, simplified(polygons, tolerance) if tolerance else polygons))
        for edge, row in ((first, labels[0]), (last, labels[-1])):
            edge[run.left : run.right] = np.where(row >= 0, row + count, -1)
        count += len(kinds)
    return Areas.together(found), first, last


def read_run(file: rasterio.DatasetReader, run: Window) -> np.ndarray:
    """The class values (H, W) of a window as they are. Raises BadFile where the file cannot be read."""
    try:
        return file.read(1, window=run.rio)
    except (RasterioError, OSError) as error:
        raise BadFile(
            f"{file.name} cannot be read: the file is truncated or damaged ({reason(error)})."
        ) from error


def without_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Class values with 255 for all that belongs to no area."""
    return values if nodata in (None, IGNORE) else np.where(values == nodata, np.uint8(IGNORE), values)


def connected(
    values: np.ndarray, grid: Grid, top: int, left: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number the connected areas of a strip: labels (H, W) with -1 for none, and per area its class value,
    pixels and square metres.
    """
    height, width = values.shape
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    starts[:, ::RUN] = True
    runs = np.cumsum(starts, dtype=np.int32).reshape(height, width) - 1
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=values.size)
    down = (values[1:] == values[:-1]) & (
        starts[1:] | starts[:-1]
    )  # once per overlap: where the later of two runs begins
    cuts = np.arange(RUN, width, RUN)
    across = values[:, cuts] == values[:, cuts - 1]
    pairs = (
        np.concatenate([runs[:-1][down], runs[:, cuts - 1][across]]),
        np.concatenate([runs[1:][down], runs[:, cuts][across]]),
    )
    area = connected_components(
        coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(first), len(first))), directed=False
    )[1]
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
    """(count,) polygons of labels 0.. (H, W) with corners where the outline turns; with `junctions` also
    where three areas meet on a straight line.

    An area that meets itself in a corner gets a hole that touches there, so that every polygon is valid.
    """
    if not count:
        return np.zeros(0, object)
    pitch = labels.shape[1] + 2
    flat = np.pad(labels, 1, constant_values=-1).ravel()
    pixel, side, follows = _sides(flat, pitch)
    begins = (
        np.array([0, 1, pitch + 1, pitch])[side] + pixel
    )  # the corner of the lattice where a side starts, as its lower right pixel
    before = np.empty_like(follows)
    before[follows] = np.arange(len(follows))
    corner = side != side[before]
    if junctions:
        nw, ne, sw, se = (flat[begins - step] for step in (pitch + 1, pitch, 1, 0))
        corner |= (nw != ne).astype(np.int8) + (sw != se) + (nw != sw) + (ne != se) > 2
    ring = connected_components(
        csr_array((np.ones(len(side), bool), follows, np.arange(len(side) + 1))), directed=False
    )[1]
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
    """Every pixel side between two areas, seen from each: its pixel, which side it is (as in AHEAD), and
    the number of the side that follows.
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
    # Left wherever the area goes on there, also across a corner: that is what splits rings that would touch
    # themselves.
    goes_left, goes_on = flat[turned] == own, flat[straight] == own
    then = np.where(
        goes_left,
        4 * turned + (side + 3) % 4,
        np.where(goes_on, 4 * straight + side, 4 * pixel + (side + 1) % 4),
    )
    return pixel, side, number[then]


def _walk(follows: np.ndarray, before: np.ndarray, start: np.ndarray) -> np.ndarray:
    """All sides in the order of their rings, ring after ring: the rings are opened at their start and
    chained to one path for scipy to walk.
    """
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
    """The coverage with fewer corners, its outer rim untouched; `tolerance` in pixels is the root of the
    area a corner may cut off.
    """
    if not len(polygons):
        return polygons
    found = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    sound = (
        shapely.is_valid(found)
        & (shapely.area(found) > 0)
        & (shapely.get_type_id(found) == shapely.GeometryType.POLYGON)
    )
    return found if sound.all() else polygons  # all or none: a border belongs to two polygons


def _stitched(
    above: _Open, new: Areas, top_row: np.ndarray, bottom_row: np.ndarray, *, straight: bool
) -> tuple[Areas, _Open]:
    """Join the open areas from above with a strip's own along its upper border: what is finished, and what
    stays open at its lower one.
    """
    old = len(above.values)
    values, pixels, metres = (
        np.concatenate([getattr(above, n), getattr(new, n)]) for n in ("values", "pixels", "metres")
    )
    meet = (above.ends >= 0) & (top_row >= 0)
    pairs = np.stack([above.ends[meet], top_row[meet] + old])
    pairs = pairs[:, values[pairs[0]] == values[pairs[1]]]
    links = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(values), len(values)))
    group = connected_components(links, directed=False)[1] if len(values) else np.zeros(0, int)
    ends = np.where(bottom_row >= 0, group[bottom_row + old] if len(values) else -1, -1)
    goes_on = np.zeros(group.max(initial=-1) + 1, bool)
    goes_on[ends[ends >= 0]] = True
    alone = (np.bincount(group, minlength=len(goes_on))[group] == 1) & ~goes_on[group]
    alone[:old] = False
    members: dict[int, list[shapely.Polygon]] = {}
    for own, number in zip(group[~alone].tolist(), np.flatnonzero(~alone).tolist()):
        members.setdefault(own, []).extend(
            above.pieces[number] if number < old else [new.polygons[number - old]]
        )
    kinds = np.zeros(len(goes_on), np.uint8)
    kinds[group] = values
    pixels_of, metres_of = (np.bincount(group, weights=w, minlength=len(goes_on)) for w in (pixels, metres))
    done = np.array(sorted(own for own in members if not goes_on[own]), int)
    joined = np.empty(len(done), object)
    joined[:] = [_joined(members.pop(own), straight=straight) for own in done.tolist()]
    still = np.flatnonzero(goes_on)
    rest = _Open(
        np.where(ends >= 0, np.cumsum(goes_on)[ends] - 1, -1) if len(goes_on) else ends,
        kinds[still],
        pixels_of[still],
        metres_of[still],
        [members[own] for own in still.tolist()],
    )
    return Areas.together(
        [new[alone[old:]], Areas(kinds[done], pixels_of[done], metres_of[done], joined)]
    ), rest


def _joined(pieces: list[shapely.Polygon], *, straight: bool) -> shapely.Polygon:
    """One polygon from pieces that share edges; with `straight` without the corners that cuts left on
    straight lines.

    Only shells are joined: a hole never reaches a strip's border, so those there are stay as they are.
    """
    if len(pieces) == 1:
        return pieces[0]
    whole = shapely.union_all(shapely.polygons(shapely.get_exterior_ring(pieces)))
    assert isinstance(whole, shapely.Polygon), "pieces that share edges are one polygon"
    rings = list(shapely.get_rings(whole))
    if straight:
        rings = [shapely.LinearRing(_corners(ring)) for ring in rings]
    holes = rings[1:] + _holes(pieces)
    return shapely.polygons(rings[0], np.array(holes, object) if holes else None)


def _holes(pieces: list[shapely.Polygon]) -> list[shapely.LinearRing]:
    rings, of = shapely.get_rings(pieces, return_index=True)
    return list(rings[1:][of[1:] == of[:-1]])  # the first ring of each is its shell


def _corners(ring: shapely.LinearRing) -> np.ndarray:
    """(N, 2) the points where a ring turns."""
    points = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
