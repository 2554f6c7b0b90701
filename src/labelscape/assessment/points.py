"""The GeoPackage of a sample: points and pixels to be interpreted, and the design, which the interpreter does
not see.

The layers `points` and `footprints` say nothing of the map's classes or strata. What estimation needs
(strata, inclusion probabilities, hash of the map) is one row of JSON in the table `labelscape_sample`.
`gpkg_contents` does not list it, so that neither QGIS nor GDAL offers it as a layer, and its own hash shows
changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from labelscape.areas.style import edited, store_style
from labelscape.assessment.form import footprints_style, points_style
from labelscape.errors import BadFile, BadInput
from labelscape.files import written_whole
from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.mistaken import no_such_file
from labelscape.scenes.vectors import write_layer, writing

FORMAT = "labelscape-sample-1"
TABLE = "labelscape_sample"
POINTS, FOOTPRINTS = "points", "footprints"


@dataclass(frozen=True, eq=False)
class Design:
    """How a sample was drawn: JSON values (`facts`), and the points in the order of their numbers, 1..N.

    rows, columns  (N,) pixels of the map's grid
    stratum        (N,) index among `facts["strata"]["names"]`
    probability    (N,) that the pixel is in such a sample
    block          (N,) block's number, ground area and pixels; None without blocks
    """

    facts: dict[str, Any]
    grid: Grid
    rows: np.ndarray
    columns: np.ndarray
    stratum: np.ndarray
    probability: np.ndarray
    block: np.ndarray | None = None
    block_area: np.ndarray | None = None
    block_pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def legend(self) -> Legend:
        return Legend.from_json(json.dumps(self.facts["legend"]))

    @property
    def centres(self) -> np.ndarray:
        """(N, 2) x and y of the pixels' centres in the map's CRS."""
        return np.column_stack(self.grid.transform @ (self.columns + 0.5, self.rows + 0.5))

    @property
    def footprints(self) -> np.ndarray:
        """(N,) polygons of the pixels."""
        corners = [
            np.column_stack(self.grid.transform @ (self.columns + x, self.rows + y))
            for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        return shapely.polygons(np.stack(corners, axis=1))

    def to_json(self) -> str:
        grid = self.grid
        columns = {
            name: getattr(self, name).tolist()
            for name in (
                "rows", "columns", "stratum", "probability", "block", "block_area", "block_pixels",
            )
            if getattr(self, name) is not None
        }  # fmt: skip
        place = {
            # WKT, not an EPSG code: a CRS that somebody made has none.
            "crs": grid.crs.to_wkt() if grid.crs else None,
            "transform": list(grid.transform[:6]),
            "height": grid.height,
            "width": grid.width,
        }
        return json.dumps({"format": FORMAT, **self.facts, "grid": place, "points": columns})

    @classmethod
    def from_json(cls, text: str) -> Design:
        """The inverse of `to_json`. Raises KeyError, ValueError or TypeError for other texts."""
        facts = json.loads(text)
        if facts.pop("format") != FORMAT:
            raise ValueError("another format")
        place, points = facts.pop("grid"), facts.pop("points")
        crs = CRS.from_wkt(place["crs"]) if place["crs"] else None
        grid = Grid(crs, Affine(*place["transform"]), place["height"], place["width"])
        return cls(facts, grid, **{name: np.array(values) for name, values in points.items()})


def write_sample(path: Path, design: Design, order: np.ndarray, *, overwrite: bool = False) -> None:
    """Write a sample for one interpreter, its points in this `order` (N,) of indices. Raises BadFile."""
    crs = design.grid.crs.to_wkt() if design.grid.crs else None
    # Numbers stay with their points in every order: two interpreters' answers are joined by them.
    number = np.arange(1, len(design) + 1, dtype=np.int32)[order]
    empty = np.ones(len(design), bool)
    columns = {
        "point": number,
        # NULL, not 0: that may be the value of a class, and the form takes a point as open while it is NULL.
        "reference": np.ma.array(np.zeros(len(design), np.int32), mask=empty),
        "certainty": np.ma.array(np.full(len(design), "", object), mask=empty),
        "comment": np.ma.array(np.full(len(design), "", object), mask=empty),
    }
    with written_whole(path, overwrite=overwrite) as part:
        with writing(part) as plain:
            place = shapely.to_wkb(shapely.points(design.centres[order]))
            write_layer(plain, place, columns, layer=POINTS, geometry="Point", crs=crs)
            pixels = shapely.to_wkb(design.footprints[order])
            write_layer(plain, pixels, {"point": number}, layer=FOOTPRINTS, geometry="Polygon", crs=crs)
        store_style(part, POINTS, points_style(design.legend), "interpretation", "form for interpretation")
        store_style(part, FOOTPRINTS, footprints_style(), "pixels", "outlines of the pixels")
        # After the layers: GDAL has closed the file, whose lock would refuse a second writer.
        text = design.to_json()
        with edited(part) as base:
            # The name of a table cannot be a parameter; this one is a constant.
            base.execute(f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, design TEXT, sha256 TEXT)")
            base.execute(f"INSERT INTO {TABLE} (design, sha256) VALUES (?, ?)", (text, _hash(text)))


def read_design(path: str | Path) -> Design | None:
    """The design that a sample's GeoPackage holds; None where the file has none. Raises BadInput where it was
    changed after sampling, BadFile where the file cannot be read.
    """
    if not Path(path).exists():
        raise BadFile(no_such_file(path))
    # Exports to other formats lose the table: their design is that of the GeoPackage they came from.
    if Path(path).suffix.lower() != ".gpkg":
        return None
    try:
        with contextlib.closing(
            # mode=ro: otherwise SQLite could write to the file, or make an empty one.
            sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
        ) as base:
            has = base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
            row = base.execute(f"SELECT design, sha256 FROM {TABLE}").fetchone() if has else None
    except sqlite3.Error as error:
        raise BadFile(f"{path} cannot be read as a GeoPackage: {error}.") from error
    if row is None:
        return None
    if _hash(row[0]) != row[1]:
        raise BadInput(
            f"The sampling design in {path} was changed after sampling (table {TABLE}): inclusion "
            "probabilities are no longer known. Use the file that `sample` wrote."
        )
    try:
        return Design.from_json(row[0])
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(
            f"The sampling design in {path} is of another version; draw the sample again."
        ) from error


def _hash(text: str) -> str:
    # Without a key: it shows what was changed by mistake, and is no proof against forgery.
    return hashlib.sha256(text.encode()).hexdigest()
