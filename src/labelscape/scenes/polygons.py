"""Read polygons of a vector file into a grid's CRS, and rasterize those in a window."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.features

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.scenes.files import is_local, reason

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".gml"}


@dataclass(frozen=True)
class VectorSource:
    """A vector file and the layer to read, by default the first."""

    path: str | Path
    layer: str | None = None

    def __str__(self) -> str:
        return str(self.path)


class PolygonIndex:
    """Polygons in a grid's CRS with the value each burns, in a spatial index."""

    def __init__(self, geometries: np.ndarray, indices: np.ndarray, grid: Grid) -> None:
        import shapely

        self._geometries, self._indices, self._grid = geometries, indices, grid
        self._tree = shapely.STRtree(geometries)

    def on(self, grid: Grid) -> PolygonIndex:
        """The same polygons for another grid of the same CRS."""
        return PolygonIndex(self._geometries, self._indices, grid)

    def burn(self, window: Window, onto: np.ndarray) -> np.ndarray:
        """Rasterize the polygons in a window into `onto` (H, W) uint8, and return it: each writes its value
        where it covers a pixel's centre, later ones of the file over earlier ones.
        """
        import shapely

        # The tree returns no particular order; file order decides which polygon is on top.
        found = np.sort(self._tree.query(shapely.box(*self._grid.bounds_of(window))))
        if len(found):
            shapes = zip(self._geometries[found], self._indices[found].tolist())
            rasterio.features.rasterize(shapes, out=onto, transform=self._grid.transform_of(window))
        return onto


def read_polygons(
    source: str | Path | VectorSource, grid: Grid | None = None, columns: Sequence[str] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read the polygons of a vector file, reprojected to the CRS of `grid` (without one, in their own), and
    their attribute columns as arrays.

    Invalid polygons are repaired, other geometry types left out. Raises BadFile for a file that cannot be
    read, UnknownName for a layer it does not have, BadInput where it has no polygon or no CRS.
    """
    import pyogrio
    import shapely

    source = source if isinstance(source, VectorSource) else VectorSource(source)
    if is_local(source.path) and not Path(source.path).exists():
        raise BadFile(f"{source} does not exist.")
    try:
        if source.layer is not None and source.layer not in (layers := layers_of(source.path)):
            raise UnknownName(f"layer of {source}", source.layer, layers)
        with warnings.catch_warnings():  # the first of several layers is read; reading labels reports it
            warnings.filterwarnings("ignore", message="More than one layer found")
            meta, _, wkb, fields = pyogrio.raw.read(source.path, layer=source.layer, columns=columns)
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
    if grid is not None and grid.crs is not None:
        if meta["crs"] is None:
            raise BadInput(
                f"{source} has no CRS, so its location is unknown. Assign the right one (in QGIS: Layer CRS) "
                "and save it again."
            )
        geometries = _reprojected(geometries, meta["crs"], grid)
    broken = ~shapely.is_valid(geometries)
    geometries[broken] = shapely.make_valid(geometries[broken])
    return geometries, attributes


def layers_of(source: str | Path) -> list[str]:
    """Names of a vector file's layers."""
    import pyogrio

    return [str(name) for name, _ in pyogrio.list_layers(source)]


def _reprojected(geometries: np.ndarray, crs: str, grid: Grid) -> np.ndarray:
    import pyproj
    import shapely

    # As WKT: rasterio and pyproj may bring a PROJ library each, whose objects cannot be exchanged.
    source, target = pyproj.CRS.from_user_input(crs), pyproj.CRS.from_wkt(grid.crs.to_wkt())
    if source == target:
        return geometries
    change = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(geometries, lambda xy: np.column_stack(change.transform(xy[:, 0], xy[:, 1])))
