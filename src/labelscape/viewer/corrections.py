"""Polygons drawn in the page, each with the class that is right: rows of `corrections.gpkg` beside the map,
which `train --corrections` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.crs import same
from labelscape.errors import BadInput, UnknownName
from labelscape.files import locked, written_whole
from labelscape.grid import Grid
from labelscape.labels.corrections import CLASS
from labelscape.legend import Legend
from labelscape.scenes.vectors import layer_facts, write_layer, writing
from labelscape.viewer.geopackage import (
    Changed,
    blob_of,
    geometry_of,
    opened,
    place_of,
    quoted,
    recover,
    rings_of,
    touched,
)

NAME = LAYER = "corrections"
LARGEST = 2**63 - 1
"""The largest number of a row in SQLite."""
WAIT = 10.0
"""Seconds to wait for another server that makes the file."""
MOST_CORNERS = 5000
MOST_DELETED = 1000
"""Deleted polygons that can be restored (ours)."""


@dataclass(frozen=True)
class Corrections:
    """The corrections of a map. The file is made with the first polygon."""

    path: Path
    grid: Grid
    legend: Legend
    deleted: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Rows that were deleted here, whole: parts, holes and columns that the page does not know come back."""

    @classmethod
    def beside(cls, folder: Path, grid: Grid, legend: Legend) -> Corrections:
        """The corrections of a map in its folder. Raises BadInput where a file of that name is in another
        CRS, or a link to another place.
        """
        path = folder / f"{NAME}.gpkg"
        if path.is_symlink():
            raise BadInput(f"{path} is a link; corrections are written into the map's folder itself.")
        if path.exists():
            recover(path)
            crs = layer_facts(path, LAYER)["crs"]
            if (crs is None) != (grid.crs is None) or (crs and not same(crs, grid.crs)):
                raise BadInput(
                    f"{path} is in another CRS than the map; move it away, or give it the map's CRS."
                )
        return cls(path, grid, legend)

    def items(self) -> list[dict[str, Any]]:
        """All polygons, in pixels (column, row), with number and class."""
        if not self.path.exists():
            return []
        with opened(self.path, edit=True) as base:
            key, shape, _ = place_of(base, LAYER)
            found = f'SELECT "{key}" AS k, "{shape}" AS s, "{CLASS}" AS c FROM {LAYER}'
            rows = base.execute(found).fetchall()
        return [
            {"id": row["k"], "class": row["c"], "rings": rings_of(self._in_pixels(geometry_of(row["s"])))}
            for row in rows
            # QGIS can store a row without a place.
            if row["s"] is not None
        ]

    def add(self, name: str, ring: list[tuple[float, float]]) -> dict[str, Any]:
        """Store a polygon by its corners (column, row) and return it as `items` does. Raises UnknownName for
        another class, BadInput for an outline that is none; BadFile.
        """
        self._check(name)
        polygon = self._polygon(ring)
        self._make()
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with opened(self.path, write=True) as base:
            _, shape, srs = place_of(base, LAYER)
            row = base.execute(
                f'INSERT INTO {LAYER} ("{shape}", "{CLASS}", "drawn") VALUES (?, ?, ?)',
                (blob_of(polygon, srs), name, when),
            )
            west, south, east, north = polygon.bounds
            base.execute(
                "UPDATE gpkg_contents SET "
                "min_x = min(coalesce(min_x, ?1), ?1), min_y = min(coalesce(min_y, ?2), ?2), "
                "max_x = max(coalesce(max_x, ?3), ?3), max_y = max(coalesce(max_y, ?4), ?4) "
                "WHERE table_name = ?5",
                (west, south, east, north, LAYER),
            )
            touched(base, LAYER)
            number = row.lastrowid
        return {"id": number, "class": name, "rings": [[[list(corner) for corner in [*ring, ring[0]]]]]}

    def change(self, number: int, name: str | None, before: str | None) -> None:
        """Give a polygon another class, None to delete it. Raises Changed where its class is no longer the
        one that the page showed, UnknownName, BadFile. Where that was None, the polygon is restored, which
        must have been deleted here.
        """
        if name is not None:
            self._check(name)
        if not self.path.exists():
            raise Changed({"class": None})
        with opened(self.path, write=True) as base:
            key = place_of(base, LAYER)[0]
            row = base.execute(f'SELECT * FROM {LAYER} WHERE "{key}" = ?', (number,)).fetchone()
            now = row[CLASS] if row is not None else None
            if now != before or (row is None and (name is None or number not in self.deleted)):
                raise Changed({"class": now})
            if row is None:
                whole = self.deleted[number] | {CLASS: name}
                columns, places = ", ".join(map(quoted, whole)), ", ".join("?" * len(whole))
                base.execute(f"INSERT INTO {LAYER} ({columns}) VALUES ({places})", tuple(whole.values()))
            elif name is None:
                base.execute(f'DELETE FROM {LAYER} WHERE "{key}" = ?', (number,))
                self.deleted[number] = dict(row)
                while len(self.deleted) > MOST_DELETED:
                    del self.deleted[next(iter(self.deleted))]
            else:
                base.execute(f'UPDATE {LAYER} SET "{CLASS}" = ? WHERE "{key}" = ?', (name, number))
            touched(base, LAYER)

    def _check(self, name: str) -> None:
        if name not in self.legend.names:
            raise UnknownName("class", name, self.legend.names)

    def _polygon(self, ring: list[tuple[float, float]]) -> shapely.Polygon:
        """The polygon in the map's CRS."""
        if not 3 <= len(ring) <= MOST_CORNERS or not np.isfinite(ring).all():
            raise BadInput(f"A polygon has 3 to {MOST_CORNERS:,} corners; this one has {len(ring):,}.")
        pixels = shapely.Polygon(ring)
        if not pixels.is_valid or pixels.area == 0:
            raise BadInput("The outline crosses or touches itself; draw it without crossings.")
        if not pixels.intersects(shapely.box(0, 0, self.grid.width, self.grid.height)):
            raise BadInput("The polygon lies beside the map.")
        columns, rows = np.array(ring, float).T
        return shapely.Polygon(np.column_stack(self.grid.transform @ (columns, rows)))

    def _in_pixels(self, shape: shapely.Geometry) -> shapely.Geometry:
        back = ~self.grid.transform
        return shapely.transform(shape, lambda xy: np.column_stack(back @ (xy[:, 0], xy[:, 1])))

    def _make(self) -> None:
        """Make the file where there is none."""
        if self.path.exists():
            return
        # Two servers may want to: the second finds the file of the first.
        with locked(self.path, patience=WAIT):
            if self.path.exists():
                return
            nothing = {CLASS: np.array([], object), "drawn": np.array([], object)}
            crs = self.grid.crs.to_wkt() if self.grid.crs else None
            with written_whole(self.path) as part, writing(part) as plain:
                write_layer(plain, np.array([], object), nothing, layer=LAYER, geometry="Polygon", crs=crs)
