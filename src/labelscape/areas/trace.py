"""The connected areas of a class raster, strip by strip in bounded memory, stitched where a strip ends.

Everything happens in whole pixels, where every step is exact: pieces that share an edge across a strip's
border become one, pieces that meet in a corner stay two (4-connectivity), and each area keeps count of its
pixels and of their size on the ground.

Simplified areas stay a coverage: GEOS simplifies all areas of a strip together, each shared border once, and
leaves alone what no two areas share: the map's edge, the rim of nodata, and the two lines where strips are
cut. So borders of neighbouring strips still match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely

from labelscape.areas.groups import joined_by
from labelscape.areas.outlines import connected, outlines, simplified
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.rasters.class_map import ClassRaster
from labelscape.scenes.holes import touched

STRIP_PIXELS = 2**22
"""Pixels of a strip, about."""
MOST_AREAS = 250_000
"""Areas of a strip, about (ours): each takes nearly a kilobyte while it is traced, and in speckle nearly
every pixel is one. A strip of more is cut.
"""

COUNTED = ("values", "pixels", "metres", "sums")
"""What is known of each area beside its polygon, a number each."""

Weigh = Callable[[Window, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes a window and its class values (H, W); returns the values that count, 255 for pixels that belong to no
area, and the weight of each pixel (H, W).
"""


@dataclass(frozen=True)
class Areas:
    """Connected areas: class values (N,), pixels (N,), square metres (N,) on the ellipsoid, sums (N,) of the
    weights of their pixels (0 without weights), polygons (N,) with x along columns, y along rows.
    """

    values: np.ndarray
    pixels: np.ndarray
    metres: np.ndarray
    sums: np.ndarray
    polygons: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: np.ndarray | slice) -> Areas:
        return Areas(*(getattr(self, name)[which] for name in (*COUNTED, "polygons")))

    @classmethod
    def together(cls, parts: list[Areas]) -> Areas:
        """Those of all parts; of none, no areas."""
        # Concatenating needs one array, which also sets the types: a map of nodata has no part.
        none = cls(np.zeros(0, np.uint8), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, object))
        parts = [none, *parts]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in (*COUNTED, "polygons")))


@dataclass(frozen=True)
class _Open:
    """Areas that reach the lower border of the last strip and may continue below: their pieces so far, and
    the number of the area at each column of the border (-1: none).
    """

    ends: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0))
    metres: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pieces: list[list[shapely.Polygon]] = field(default_factory=list)


def strip_height(width: int) -> int:
    """Rows of a strip. It depends on the map's width alone, not on memory: simplified polygons differ where
    strips are cut, and must not differ between machines.
    """
    return min(max(STRIP_PIXELS // max(1, width), 128), 2048)


def trace(
    raster: ClassRaster,
    *,
    tolerance: float = 0.0,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
    weigh: Weigh | None = None,
) -> Iterator[Areas]:
    """Polygonize the 4-connected areas of a class raster, strip by strip from top to bottom; `tolerance` of
    simplification in pixels. `weigh` leaves out pixels, and its weights are summed over each area.

    Without simplification polygons do not depend on `strip_rows`. Pixels that are no class
    belong to no area. `tick` is called with the number of rows done. Raises as `ClassRaster.read`.
    """
    grid = raster.grid
    rows = strip_rows or strip_height(grid.width)
    stored = raster.stored()
    above = _Open(np.full(grid.width, -1))
    for top in range(0, grid.height, rows):
        strip = Window(top, 0, min(rows, grid.height - top), grid.width)
        runs = runs_of(raster, stored, strip)
        for part in _cut(raster, strip, runs, weigh) if runs or len(above.values) else ():
            within = [Window(part.top, run.left, part.height, run.width) for run in runs]
            new, first, last = _traced(raster, part, within, tolerance, weigh)
            ends = np.full(part.width, -1) if part.bottom == grid.height else last
            finished, above = _stitched(above, new, first, ends, straight=not tolerance)
            yield finished
        if tick:
            tick(strip.height)


def _cut(raster: ClassRaster, strip: Window, runs: list[Window], weigh: Weigh | None) -> list[Window]:
    """The strip, or where it holds too many areas for the memory its parts from top to bottom. What it holds
    decides, not the machine.
    """
    begin = np.zeros(strip.height, np.int64)
    for run in runs:
        values, _ = _weighed(raster, run, weigh)
        # An area's first pixel differs from those to its left and above: as many areas begin at most.
        starts = values != IGNORE
        starts[:, 1:] &= values[:, 1:] != values[:, :-1]
        starts[1:] &= values[1:] != values[:-1]
        begin += np.count_nonzero(starts, axis=1)
    parts, top, areas = [], strip.top, 0
    for row, more in enumerate(begin.tolist(), start=strip.top):
        # A single row of more areas than that stays whole: a part has a row at least.
        if areas + more > MOST_AREAS and row > top:
            parts.append(Window(top, 0, row - top, strip.width))
            top, areas = row, 0
        areas += more
    return [*parts, Window(top, 0, strip.bottom - top, strip.width)]


def runs_of(raster: ClassRaster, stored: np.ndarray | None, strip: Window) -> list[Window]:
    """Split a strip into the column ranges that have `stored` blocks: areas cannot cross columns of missing
    blocks. All of it where `stored` is unknown.
    """
    if stored is None:
        return [strip]
    block = raster.file.block_shapes[0]
    # Where "a block of this column is stored" begins and ends to hold: the ends of the ranges, in blocks.
    columns = (
        np.flatnonzero(np.diff(stored[touched(strip, block)].any(axis=0), prepend=False, append=False))
        * block[1]
    )
    return [
        Window(strip.top, left, strip.height, min(right, strip.right) - left)
        for left, right in columns.reshape(-1, 2).tolist()
    ]


def _weighed(raster: ClassRaster, run: Window, weigh: Weigh | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Class values (H, W) of a window, 255 for none, and the weights of its pixels, if any."""
    values = without_nodata(raster.read(run), raster.nodata)
    return (values, None) if weigh is None else weigh(run, values)


def _traced(
    raster: ClassRaster, strip: Window, runs: list[Window], tolerance: float, weigh: Weigh | None
) -> tuple[Areas, np.ndarray, np.ndarray]:
    """The areas of a strip, and for each pixel of its first and of its last row the number of its area (-1:
    none).
    """
    first, last = np.full((2, strip.width), -1)
    found, count = [], 0
    for run in runs:
        values, weights = _weighed(raster, run, weigh)
        labels, kinds, pixels, metres = connected(values, raster.grid, run.top, run.left)
        sums = np.zeros(len(kinds))
        if weights is not None:
            inside = labels >= 0
            sums = np.bincount(labels[inside], weights=weights[inside], minlength=len(kinds))
        polygons = outlines(labels, len(kinds), run.top, run.left, junctions=tolerance > 0)
        polygons = simplified(polygons, tolerance) if tolerance else polygons
        found.append(Areas(kinds, pixels, metres, sums, polygons))
        for edge, row in ((first, labels[0]), (last, labels[-1])):
            edge[run.left : run.right] = np.where(row >= 0, row + count, -1)
        count += len(kinds)
    return Areas.together(found), first, last


def without_nodata(values: np.ndarray, nodata: int) -> np.ndarray:
    """Class values with 255 in place of the file's nodata value."""
    return values if nodata == IGNORE else np.where(values == nodata, np.uint8(IGNORE), values)


def _stitched(
    above: _Open, new: Areas, top_row: np.ndarray, bottom_row: np.ndarray, *, straight: bool
) -> tuple[Areas, _Open]:
    """Join the open areas from above with a strip's own along its upper border. Returns the finished areas,
    and those that are open at its lower border.
    """
    old = len(above.values)
    values, *weights = (np.concatenate([getattr(above, n), getattr(new, n)]) for n in COUNTED)
    # Directly above only: pieces that meet in a corner are two areas.
    meet = (above.ends >= 0) & (top_row >= 0)
    pairs = np.stack([above.ends[meet], top_row[meet] + old])
    pairs = pairs[:, values[pairs[0]] == values[pairs[1]]]
    # A graph, not pairs: a strip may join areas that were apart above it, any number at once.
    group = joined_by(pairs, len(values))
    ends = np.where(bottom_row >= 0, group[bottom_row + old] if len(values) else -1, -1)
    goes_on = np.zeros(group.max(initial=-1) + 1, bool)
    goes_on[ends[ends >= 0]] = True
    # Nearly all areas lie within one strip: they pass through as arrays, and only the rest is looped over.
    alone = (np.bincount(group, minlength=len(goes_on))[group] == 1) & ~goes_on[group]
    alone[:old] = False
    members: dict[int, list[shapely.Polygon]] = {}
    for own, number in zip(group[~alone].tolist(), np.flatnonzero(~alone).tolist()):
        members.setdefault(own, []).extend(
            above.pieces[number] if number < old else [new.polygons[number - old]]
        )
    kinds = np.zeros(len(goes_on), np.uint8)
    kinds[group] = values
    totals = [np.bincount(group, weights=w, minlength=len(goes_on)) for w in weights]
    done = np.array(sorted(own for own in members if not goes_on[own]), int)
    joined = np.empty(len(done), object)
    joined[:] = [_joined(members.pop(own), straight=straight) for own in done.tolist()]
    still = np.flatnonzero(goes_on)
    # Numbered from 0 again: with numbers that went on, arrays would grow with the map.
    rest = _Open(
        np.where(ends >= 0, np.cumsum(goes_on)[ends] - 1, -1) if len(goes_on) else ends,
        kinds[still],
        *(total[still] for total in totals),
        [members[own] for own in still.tolist()],
    )
    joined_up = Areas(kinds[done], *(total[done] for total in totals), joined)
    return Areas.together([new[alone[old:]], joined_up]), rest


def _joined(pieces: list[shapely.Polygon], *, straight: bool) -> shapely.Polygon:
    """Union pieces that share edges; `straight` removes vertices on straight lines, which cuts between strips
    leave.

    Only shells are joined: a hole of a piece never reaches a strip's border, so holes stay as they are.
    """
    if len(pieces) == 1:
        return pieces[0]
    # The dearest step of all, hence only for the few areas that cross a border of strips.
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
    """(N, 2) the vertices where a ring turns."""
    points = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    # The cross product of two edges is 0 on a straight line: exact, in whole pixels.
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
