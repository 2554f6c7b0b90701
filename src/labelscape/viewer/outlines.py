"""The polygons of a map as a layer of outlines: tiles drawn from the GeoPackage's own spatial index, so that
they are never all in the browser, nor in memory, however many there are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.crs import same
from labelscape.errors import LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.scenes.vectors import layer_facts, layers_of
from labelscape.text import printable_name
from labelscape.viewer.geopackage import geometry_of, opened, place_of, quoted
from labelscape.viewer.layers import stamp_of

SIDE = 256
"""Pixels of a tile."""
SMALLEST = 8.0
"""Pixels on the screen below which a polygon is not drawn (ours): outlines would cover the map."""
MOST = 20_000
"""Polygons that are drawn on one tile, the largest first; with SMALLEST more than fit side by side."""
HALO, LINE = (255, 255, 255, 150), (22, 25, 29, 255)
"""A light line below a dark one can be seen on any ground."""
MOST_FIELDS, LONGEST = 12, 200
"""Fields of a polygon, and characters of one, that the page shows."""


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

    def tile(self, window: Window, scale: float) -> bytes:
        """The outlines in a window as a PNG of SIDE pixels, each as wide as `scale` pixels of the map."""
        from PIL import Image, ImageDraw

        picture = Image.new("RGBA", (SIDE, SIDE))
        pen = ImageDraw.Draw(picture)
        rings = self._rings(window, scale)
        for color, width in ((HALO, 3), (LINE, 1)):
            for ring in rings:
                pen.line(ring, fill=color, width=width)
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _rings(self, window: Window, scale: float) -> list[list[float]]:
        """Rings in pixels of the tile, x and y in turn."""
        least = SMALLEST * scale * self._pixel
        # A line of a neighbouring tile reaches into this one by its width.
        shapes = [geometry_of(row["s"]) for row in self._found(window.grown(int(2 * scale)), least)]
        rings = shapely.get_rings(shapely.get_parts(np.array(shapes, object)))
        xy, number = shapely.get_coordinates(rings, return_index=True)
        columns, rows = ~self.grid.transform @ (xy[:, 0], xy[:, 1])
        places = np.column_stack([columns - window.left, rows - window.top]) / scale
        # Corners in one pixel of the screen are one corner: coasts have thousands.
        pixels = np.round(places)
        kept = np.ones(len(pixels), bool)
        kept[1:] = (pixels[1:] != pixels[:-1]).any(axis=1) | (number[1:] != number[:-1])
        places, number = places[kept], number[kept]
        cuts = np.flatnonzero(np.diff(number)) + 1
        return [part.ravel().tolist() for part in np.split(places, cuts) if len(part) > 1]

    @property
    def _pixel(self) -> float:
        """The side of a pixel in units of the CRS."""
        return abs(self.grid.transform.determinant) ** 0.5

    def _found(self, window: Window, least: float = 0.0) -> list[Any]:
        """Rows whose box touches a window and has a side of at least `least`, the largest boxes first."""
        corners = [(x, y) for x in (window.left, window.right) for y in (window.top, window.bottom)]
        x, y = np.array([self.grid.transform @ corner for corner in corners]).T
        with opened(self.path) as base:
            key, shape, _ = place_of(base, self.layer)
            index = quoted(f"rtree_{self.layer}_{shape}")
            # Names cannot be parameters; these come from the file's own tables, quoted.
            return base.execute(
                f"SELECT t.*, t.{quoted(shape)} AS s FROM {index} r JOIN {quoted(self.layer)} t "
                f"ON t.{quoted(key)} = r.id WHERE r.maxx >= ?1 AND r.minx <= ?2 AND r.maxy >= ?3 AND "
                "r.miny <= ?4 AND max(r.maxx - r.minx, r.maxy - r.miny) >= ?5 "
                "ORDER BY (r.maxx - r.minx) * (r.maxy - r.miny) DESC LIMIT ?6",
                (x.min(), x.max(), y.min(), y.max(), least, MOST),
            ).fetchall()

    def at(self, row: int, column: int) -> dict[str, Any] | None:
        """The fields of the polygon at a pixel's centre; None where there is none."""
        x, y = self.grid.transform @ (column + 0.5, row + 0.5)
        for one in self._found(Window(row, column, 1, 1)):
            if shapely.contains_xy(geometry_of(one["s"]), x, y):
                fields = {
                    printable_name(name): value[:LONGEST] if isinstance(value, str) else value
                    for name, value in dict(one).items()
                    if name != "fid" and isinstance(value, (str, int, float))
                }
                return dict(list(fields.items())[:MOST_FIELDS])
        return None


def _is_indexed(path: Path, layer: str) -> bool:
    with opened(path) as base:
        shape = place_of(base, layer)[1]
        # A table, and no view: that could be a query without an end.
        names = base.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)",
            (layer, f"rtree_{layer}_{shape}"),
        )
        return len(names.fetchall()) == 2
