"""Polygons of a vector file on a grid: read in any CRS, found by window, burned into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio.features

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid, Window
from labelscape.scenes.files import reason

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".gml"}


class PolygonIndex:
    """Polygons in a grid's CRS with the index each burns, found quickly by window."""

    def __init__(self, geometries: np.ndarray, indices: np.ndarray, grid: Grid) -> None:
        import shapely

        self._geometries, self._indices, self._grid = geometries, indices, grid
        self._tree = shapely.STRtree(geometries)

    def on(self, grid: Grid) -> PolygonIndex:
        """The same polygons for another grid of the same CRS."""
        return PolygonIndex(self._geometries, self._indices, grid)

    def burn(self, window: Window, onto: np.ndarray) -> np.ndarray:
        """Write each polygon's index over `onto` (H, W) uint8 where it covers a pixel's centre; file
        order. Returns `onto`.
        """
        import shapely

        found = np.sort(self._tree.query(shapely.box(*self._grid.bounds_of(window))))
        if len(found):
            shapes = zip(self._geometries[found], self._indices[found].tolist())
            rasterio.features.rasterize(shapes, out=onto, transform=self._grid.transform_of(window))
        return onto


def read_polygons(
    source: str | Path, grid: Grid, columns: Sequence[str] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Polygons of a vector file in the CRS of `grid`, and their attribute columns.

    Raises BadFile for a file that cannot be read, BadInput where there is no polygon, no CRS to go by, or
    none near the scene.
    """
    import pyogrio
    import shapely

    if "://" not in str(source) and not str(source).startswith("/vsi") and not Path(source).exists():
        raise BadFile(f"{source} does not exist.")
    try:
        meta, _, wkb, fields = pyogrio.raw.read(source, columns=columns)
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.GeometryError,
        pyogrio.errors.FieldError,
    ) as error:
        raise BadFile(f"{source} cannot be read as a vector file: {reason(error)}.") from error
    geometries = shapely.from_wkb(wkb)
    kept = np.isin(shapely.get_type_id(geometries), [3, 6])  # Polygon, MultiPolygon
    if not kept.any():
        raise BadInput(f"{source} holds {len(geometries)} features but no polygon; polygons were expected.")
    geometries, attributes = (
        geometries[kept],
        {name: values[kept] for name, values in zip(meta["fields"], fields)},
    )
    if grid.crs is not None:
        if meta["crs"] is None:
            raise BadInput(
                f"{source} says no CRS, so its place is unknown. Assign the right one (in QGIS: Layer CRS) "
                "and save it again."
            )
        geometries = _reprojected(geometries, meta["crs"], grid)
    broken = ~shapely.is_valid(geometries)
    geometries[broken] = shapely.make_valid(geometries[broken])
    return geometries, attributes


def _reprojected(geometries: np.ndarray, crs: str, grid: Grid) -> np.ndarray:
    import pyproj
    import shapely

    source, target = pyproj.CRS.from_user_input(crs), pyproj.CRS.from_wkt(grid.crs.to_wkt())
    if source == target:
        return geometries
    change = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(geometries, lambda xy: np.column_stack(change.transform(xy[:, 0], xy[:, 1])))
