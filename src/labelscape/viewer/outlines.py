"""The polygons of a map as a layer: vector tiles cut from the GeoPackage by its own spatial index, so that
they are never all in the browser, nor in memory, however many there are.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from labelscape.crs import same
from labelscape.errors import BadFile, LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.scenes.vectors import layer_facts, layers_of
from labelscape.text import printable_name
from labelscape.viewer.geopackage import opened, place_of, quoted, wkb_of
from labelscape.viewer.layers import stamp_of
from labelscape.viewer.vector_tiles import EXTENT, Rings, encoded

SIDE = 256
"""Pixels of a tile."""
SMALLEST = 8.0
"""Pixels on the screen below which a polygon is not drawn (ours): outlines would cover the map."""
TOLERANCE = 0.5
"""Pixels on the screen by which a line may be moved where the map is shown smaller than it is (ours)."""
MARGIN = 8
"""Pixels on the screen around a tile that its polygons reach: no line is as wide."""
MOST = 20_000
"""Polygons that are read for one tile, the largest first; with SMALLEST more than fit side by side."""
MOST_CORNERS = 50_000
"""Corners of one tile: 0.3 MB, which a browser draws in 20 ms. Smaller polygons are left out first."""
LARGEST_SHAPE = 100_000_000
"""Bytes of a polygon that is read: six million corners."""
MOST_FIELDS, LONGEST = 12, 200
"""Fields of a polygon, and characters of one, that the page shows."""
LAYER = "polygons"
"""The name of the layer in a tile."""


TOUCHES = "r.maxx >= :west AND r.minx <= :east AND r.maxy >= :south AND r.miny <= :north"
HERE = (
    "(:a * (r.minx + r.maxx) + :b * (r.miny + r.maxy) BETWEEN :left AND :right AND "
    ":d * (r.minx + r.maxx) + :e * (r.miny + r.maxy) BETWEEN :top AND :bottom)"
)
"""Has the box its centre in the window? In one tile of a level alone; the numbers are by `_centred`."""


class Drawn(NamedTuple):
    """A tile of polygons as Mapbox Vector Tile. `here` polygons have the centre of their box in it, `drawn`
    of them are not left out: numbers that can be summed over tiles.
    """

    data: bytes
    here: int
    drawn: int


@dataclass(frozen=True)
class Outlines:
    """The polygon layer of a GeoPackage in the map's CRS, read-only."""

    path: Path
    layer: str
    grid: Grid

    @classmethod
    def of(cls, path: Path, grid: Grid) -> Outlines | None:
        """The first layer with a spatial index; None where there is none in the map's CRS, or where the file
        cannot be read.
        """
        try:
            for one in layers_of(path):
                crs = layer_facts(path, one.name)["crs"]
                own = same(crs, grid.crs) if crs and grid.crs is not None else not crs and grid.crs is None
                if own and _is_indexed(path, one.name):
                    return cls(path, one.name, grid)
        except LabelscapeError:
            return None
        return None

    def stamp(self) -> object:
        return stamp_of(self.path)

    def tile(self, window: Window, scale: float) -> Drawn:
        """The polygons in a window of SIDE * scale pixels of the map each way, shown on SIDE of the screen.
        Raises BadFile.
        """
        grown = window.grown(math.ceil(MARGIN * scale))
        here, rows = self._largest(window, grown, SMALLEST * scale * self._pixel)
        # Cut before anything else: a polygon may cross the whole map.
        shapes = shapely.clip_by_rect(_shapes(rows), *self._box(grown))
        units = EXTENT / (SIDE * scale)
        rings = Rings.of(
            shapes,
            # A hole is drawn where the polygon in it is.
            SMALLEST * EXTENT / SIDE,
            placed=lambda xy: self._places(xy, window) * units,
            # At full resolution corners stay where they are: the browser enlarges these tiles.
            tolerance=TOLERANCE * scale * self._pixel if scale > 1 else 0.0,
        )
        kept = _fitting(rings.corners(len(rows)))
        data = encoded(LAYER, rings.only(kept), [row[0] for row in rows], _fields(rows))
        return Drawn(data, here, sum(row[2] for row, good in zip(rows, kept) if good))

    def at(self, row: int, column: int) -> dict[str, Any] | None:
        """The fields of the polygon at a pixel's centre; None where there is none. Raises BadFile."""
        x, y = self.grid.transform @ (column + 0.5, row + 0.5)
        pixel = Window(row, column, 1, 1)
        rows = self._largest(pixel, pixel, 0.0)[1]
        inside = shapely.contains_xy(_shapes(rows), x, y)
        return _fields([rows[int(inside.argmax())]])[0] if inside.any() else None

    def _largest(self, window: Window, grown: Window, least: float) -> tuple[int, list[sqlite3.Row]]:
        """The number of polygons whose box has its centre in `window`, and rows of those whose box touches
        `grown` and has a side of at least `least`, the largest boxes first: number, geometry, HERE, and the
        table's own columns.
        """
        west, south, east, north = self._box(grown)
        given = {"west": west, "south": south, "east": east, "north": north, "least": least, "most": MOST}
        given |= self._centred(window)
        with opened(self.path) as base:
            key, shape, _ = place_of(base, self.layer)
            # Names cannot be parameters; these come from the file's own tables, quoted.
            index, table = quoted(f"rtree_{self.layer}_{shape}"), quoted(self.layer)
            key, shape = f"t.{quoted(key)}", f"t.{quoted(shape)}"
            here = base.execute(f"SELECT count(*) FROM {index} r WHERE {TOUCHES} AND {HERE}", given)
            # Sorted by their boxes alone: SQLite would carry the geometries through the sorting, which takes
            # four times as long.
            rows = base.execute(
                f"SELECT {key}, {shape}, o.here, t.* FROM (SELECT r.id, {HERE} AS here FROM {index} r WHERE "
                f"{TOUCHES} AND max(r.maxx - r.minx, r.maxy - r.miny) >= :least ORDER BY (r.maxx - r.minx) * "
                f"(r.maxy - r.miny) DESC LIMIT :most) o CROSS JOIN {table} t ON {key} = o.id "
                f"WHERE length({shape}) <= {LARGEST_SHAPE}",
                given,
            )
            return here.fetchone()[0], rows.fetchall()

    def _centred(self, window: Window) -> dict[str, float]:
        """The numbers of HERE, which takes twice a box's centre."""
        back = ~self.grid.transform
        sides = {"left": window.left - back.c, "right": window.right - back.c}
        sides |= {"top": window.top - back.f, "bottom": window.bottom - back.f}
        # The next tile begins with its first pixel: BETWEEN includes both ends.
        numbers = {
            name: math.nextafter(2 * value, -math.inf) if name in ("right", "bottom") else 2 * value
            for name, value in sides.items()
        }
        return numbers | {name: getattr(back, name) for name in "abde"}

    @property
    def _pixel(self) -> float:
        """The side of a pixel in units of the CRS."""
        return abs(self.grid.transform.determinant) ** 0.5

    def _box(self, window: Window) -> tuple[float, float, float, float]:
        """West, south, east, north of a window in the CRS."""
        corners = [(x, y) for x in (window.left, window.right) for y in (window.top, window.bottom)]
        x, y = np.array([self.grid.transform @ corner for corner in corners]).T
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def _places(self, xy: np.ndarray, window: Window) -> np.ndarray:
        """(N, 2) coordinates of the CRS as columns and rows of a window."""
        columns, rows = ~self.grid.transform @ (xy[:, 0], xy[:, 1])
        return np.column_stack([columns - window.left, rows - window.top])


def _shapes(rows: list[sqlite3.Row]) -> np.ndarray:
    """(N,) polygons of rows of `_largest`; None for those that are damaged, which hide no others."""
    found: list[bytes | None] = []
    for row in rows:
        try:
            found.append(wkb_of(row[1]))
        except BadFile:
            found.append(None)
    shapes = shapely.from_wkb(np.array(found, object), on_invalid="ignore")
    # Of NaN nothing can be cut.
    shapes[~np.isfinite(shapely.bounds(shapes)).all(axis=1)] = None
    return shapes


def _fitting(corners: np.ndarray) -> np.ndarray:
    """Which polygons a tile can carry, from the first one on; what does not fit is passed over."""
    kept, free = np.zeros(len(corners), bool), MOST_CORNERS
    for number, count in enumerate(corners.tolist()):
        if count <= free:
            kept[number], free = True, free - count
    return kept


def _fields(rows: list[sqlite3.Row]) -> list[dict[str, str | int | float]]:
    """The fields of polygons that the page shows, from rows of `_largest`."""
    # Of thousands of rows each name is looked at once.
    names = [
        (k, printable_name(name))
        for k, name in enumerate(rows[0].keys() if rows else ())
        if k > 2 and name != "fid"
    ]
    found = []
    for row in rows:
        values = tuple(row)
        one = {
            name: value[:LONGEST] if type(value) is str else value
            for k, name in names
            if type(value := values[k]) in (str, int, float)
        }
        found.append(one if len(one) <= MOST_FIELDS else dict(islice(one.items(), MOST_FIELDS)))
    return found


def _is_indexed(path: Path, layer: str) -> bool:
    with opened(path) as base:
        shape = place_of(base, layer)[1]
        # A table, and no view: that could be a query without an end.
        names = base.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)",
            (layer, f"rtree_{layer}_{shape}"),
        )
        return len(names.fetchall()) == 2
