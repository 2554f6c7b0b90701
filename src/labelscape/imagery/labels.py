"""Labels of a scene on the scene's own pixels: from a raster of class values or from polygons, in any CRS.

Both answer `read(window) -> (H, W) uint8` class indices, 255 where nothing is labelled.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio.features
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.imagery.raster import EXACT, _reason, gdal, open_raster
from labelscape.legend import IGNORE, Legend

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".kml", ".gml"}


@dataclass(frozen=True)
class LabelSpec:
    """How label files are to be understood.

    legend         the classes; None lets them be found: the values of a raster, the class names of polygons
    values         class name -> its value in label rasters, where that is not the legend's own
    class_column   the column of a polygon file that names the class; needed only where there are several columns to choose from
    merge          new class -> classes it is made of; classes not named are not used ("woodland": ("forest", "scrub"))
    background     name of the class of every pixel no polygon covers; None leaves them unlabelled
    area           file of polygons inside which the labels are complete; outside nothing is labelled
    ignore_values  raster values that mean "not labelled", beside the file's nodata and 255
    threshold      label rasters are grey masks of two classes: values from this one up are the second class, the others the first
    """

    legend: Legend | None = None
    values: Mapping[str, int] | None = None
    class_column: str | None = None
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: str | None = None
    area: str | None = None
    ignore_values: tuple[int, ...] = ()
    threshold: int | None = None


class Labels:
    """The labels of one scene. `legend` says what the indices mean; `report` tells what was read, line by line."""

    def __init__(self, legend: Legend, grid: Grid, report: Sequence[str] = ()) -> None:
        self.legend, self.grid, self.report = legend, grid, list(report)
        self._area: PolygonIndex | None = None
        self._held: np.ndarray | None = None

    def read(self, window: Window | None = None) -> np.ndarray:
        """(H, W) uint8 class indices of a window, IGNORE where unlabelled."""
        window = window or self.grid.window
        if self._held is not None:
            return self._held[window.inset_of(self.grid.window)].copy()
        indices = self._read(window)
        if self._area is not None:
            indices[self._area.burn(window, np.zeros(window.shape, np.uint8)) == 0] = IGNORE
        return indices

    def hold(self) -> Labels:
        """Keep all labels in memory from now on and let go of the files. Returns itself."""
        if self._held is None:
            self._held = self.read(self.grid.window)
            self.close()
        return self

    def _read(self, window: Window) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files."""


class RasterLabels(Labels):
    """A raster of class values, taken to the scene's grid by nearest neighbour where it has another one."""

    def __init__(self, dataset: object, legend: Legend, grid: Grid, spec: LabelSpec, table: np.ndarray | None, handles: ExitStack) -> None:
        super().__init__(legend, grid)
        self._dataset, self._handles, self._table = dataset, handles, table
        self._stored, self._ignore = spec.values, ignored_values(dataset, spec)
        self._lock = threading.Lock()  # a GDAL handle serves one thread at a time

    def _read(self, window: Window) -> np.ndarray:
        with self._lock:
            values = read_labels(self._dataset, window.rio)
        if self._table is not None:
            return self._table[values]
        return self.legend.encode(values, stored=self._stored, ignore=self._ignore, where=self._dataset.name)

    def close(self) -> None:
        self._handles.close()


class PolygonLabels(Labels):
    """Polygons burned where a pixel's centre lies inside; where polygons overlap, the later one in the file wins."""

    def __init__(self, polygons: PolygonIndex, legend: Legend, grid: Grid, background: int | None, report: Sequence[str]) -> None:
        super().__init__(legend, grid, report)
        self._polygons, self._background = polygons, IGNORE if background is None else background

    def _read(self, window: Window) -> np.ndarray:
        return self._polygons.burn(window, np.full(window.shape, self._background, np.uint8))


class PolygonIndex:
    """Polygons in a grid's CRS with the index each burns, found quickly by window."""

    def __init__(self, geometries: np.ndarray, indices: np.ndarray, grid: Grid) -> None:
        import shapely

        self._geometries, self._indices, self._grid = geometries, indices, grid
        self._tree = shapely.STRtree(geometries)

    def burn(self, window: Window, onto: np.ndarray) -> np.ndarray:
        """Write each polygon's index over `onto` (H, W) uint8 where it covers a pixel's centre; file order. Returns `onto`."""
        import shapely

        found = np.sort(self._tree.query(shapely.box(*self._grid.bounds_of(window))))
        if len(found):
            shapes = zip(self._geometries[found], self._indices[found].tolist())
            rasterio.features.rasterize(shapes, out=onto, transform=self._grid.transform_of(window))
        return onto


def open_labels(source: str | Path, grid: Grid, spec: LabelSpec = LabelSpec(), *, scene_name: str = "the scene") -> Labels:
    """Open a label raster or polygons (by file suffix) for the pixels of `grid`.

    Raises BadFile for unreadable files and BadInput where labels and scene do not overlap, no polygon is burned, a value has no class, or
    the class column is missing.
    """
    if Path(str(source)).suffix.lower() in VECTOR_SUFFIXES:
        labels = _open_polygons(source, grid, spec, scene_name)
    else:
        labels = _open_raster(source, grid, spec, scene_name)
    if spec.area:
        geometries, _ = read_polygons(spec.area, grid)
        labels._area = PolygonIndex(geometries, np.ones(len(geometries), np.uint8), grid)
    return labels


# ---------------------------------------------------------------------------------------------------------------- rasters


def _open_raster(source: str | Path, grid: Grid, spec: LabelSpec, scene_name: str) -> RasterLabels:
    handles = ExitStack()
    with gdal():
        dataset = handles.enter_context(open_raster(source))
        if dataset.count != 1:
            raise BadInput(
                f"{source} has {dataset.count} bands; a label raster has one band of class values. Turn colours into values first."
            )
        if dataset.dtypes[0].startswith("complex") or (dataset.dtypes[0] == "float64" and dataset.crs is None and grid.is_georeferenced):
            raise BadInput(f"{source} holds {dataset.dtypes[0]} values; a label raster holds whole numbers.")
        mine = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
        on_grid = dataset
        if not mine.matches(grid):
            on_grid = handles.enter_context(_on_grid(dataset, mine, grid, scene_name))
        legend, table = spec.legend, None
        if spec.threshold is not None:
            legend, table = mask_legend(spec), _mask_table(dataset, spec)
        elif spec.merge:
            legend, table = _merged_values(spec, dataset)
        return RasterLabels(on_grid, legend or _legend_found(dataset, spec), grid, spec, table, handles)


def _on_grid(dataset: object, mine: Grid, grid: Grid, scene_name: str) -> WarpedVRT:
    """The label raster seen on the scene's grid. Without coordinates on either side only equal shapes can be right."""
    if not (mine.is_georeferenced and grid.is_georeferenced):
        lacks = dataset.name if not mine.is_georeferenced else scene_name
        if mine.shape == grid.shape:
            # Label PNGs beside GeoTIFFs carry no coordinates; equal shapes are the usual and only sensible reading.
            return _Unplaced(dataset)
        raise BadInput(
            f"{dataset.name} is {mine.width} x {mine.height} pixels and {scene_name} {grid.width} x {grid.height}, and {lacks} has no "
            "coordinates: labels and image must then have the same size."
        )
    from rasterio.warp import transform_bounds

    left, bottom, right, top = transform_bounds(dataset.crs, grid.crs, *dataset.bounds)
    west, south, east, north = grid.bounds_of(grid.window)
    if left >= east or right <= west or bottom >= north or top <= south:
        raise BadInput(
            f"{dataset.name} and {scene_name} do not overlap: in the scene's CRS the labels cover x {left:.6g} to {right:.6g}, y {bottom:.6g} "
            f"to {top:.6g}, the scene x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}. Check the CRS of both."
        )
    # Outside the label raster is unlabelled: with 255 as the VRT's own nodata GDAL fills with it; types wider than uint8 keep 255 too.
    nodata = dataset.nodata if dataset.nodata is not None else IGNORE
    return WarpedVRT(
        dataset, crs=grid.crs, transform=grid.transform, width=grid.width, height=grid.height,
        resampling=Resampling.nearest, tolerance=EXACT, nodata=nodata, src_nodata=dataset.nodata,
    )  # fmt: skip


class _Unplaced:
    """A label raster without coordinates, read pixel for pixel."""

    def __init__(self, dataset: object) -> None:
        self._dataset, self.name, self.nodata = dataset, dataset.name, dataset.nodata

    def __enter__(self) -> _Unplaced:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, band: int, window: RasterioWindow) -> np.ndarray:
        return self._dataset.read(band, window=window)


def read_labels(dataset: object, window: RasterioWindow | None) -> np.ndarray:
    """One window of a label raster as integers; NaN becomes 255."""
    try:
        with gdal():
            values = dataset.read(1, window=window)
    except (RasterioError, OSError) as error:
        raise BadFile(f"{dataset.name} cannot be read: the file is truncated or damaged ({_reason(error)}).") from error
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, IGNORE)
        if not np.array_equal(values, np.round(values)):
            raise BadInput(f"{dataset.name} holds fractions such as {values[values != np.round(values)][0]:g}; labels are whole numbers.")
        values = values.astype(np.int32)
    return values


def ignored_values(dataset: object, spec: LabelSpec) -> tuple[int, ...]:
    nodata = () if dataset.nodata is None or dataset.nodata != dataset.nodata else (int(dataset.nodata),)
    return (IGNORE, *nodata, *spec.ignore_values)


def values_found(dataset: object) -> Counter:
    """Every value of a label raster and its pixel count, block by block."""
    counts: Counter = Counter()
    for window in Window(0, 0, dataset.height, dataset.width).blocks(2048):
        values, pixels = np.unique(read_labels(dataset, window.rio), return_counts=True)
        counts.update(dict(zip(values.tolist(), pixels.tolist())))
    return counts


def raster_legend(sources: Sequence[str | Path], spec: LabelSpec) -> Legend:
    """One legend for several label rasters: all the values that any of them holds."""
    if spec.threshold is not None:
        return mask_legend(spec)
    found: set[int] = set()
    for source in sources:
        with gdal(), open_raster(source) as dataset:
            found.update(_legend_found(dataset, spec, may_be_empty=True).values)
    if not found:
        raise BadInput(f"None of the {len(sources)} label files labels anything: every pixel is nodata or 255.")
    return Legend.of_names([f"class {v}" for v in sorted(found)], values=sorted(found))


def _legend_found(dataset: object, spec: LabelSpec, *, may_be_empty: bool = False) -> Legend:
    """A legend from the values in the file, with the colours of its colour table where it has one."""
    ignore = set(ignored_values(dataset, spec))
    values = sorted(v for v in values_found(dataset) if v not in ignore)
    if not values and may_be_empty:
        return Legend(())
    if not values:
        raise BadInput(f"{dataset.name} labels nothing: every pixel is nodata or 255.")
    if len(values) > 254 or values[0] < 0 or values[-1] > 254:
        raise BadInput(
            f"{dataset.name} holds {len(values)} values from {values[0]} to {values[-1]}; class values lie in 0..254. "
            "Is this a label raster? Name its classes with --classes."
        )
    try:
        palette = dataset.colormap(1)
        colors = [tuple(palette[v][:3]) for v in values]
    except (ValueError, KeyError):
        colors = None
    return Legend.of_names([f"class {v}" for v in values], values=values, colors=colors)


def _merged_values(spec: LabelSpec, dataset: object) -> tuple[Legend, np.ndarray]:
    """The legend of the merged classes, and value -> merged index."""
    if spec.values:
        stored = dict(spec.values)
    else:
        stored = {c.name: c.value for c in _legend_found(dataset, replace(spec, legend=None)).classes}
    merged = spec.legend or merged_legend(list(stored), spec.merge)
    table = np.full(65536, IGNORE, np.uint8)
    for new, olds in spec.merge.items():
        for old in olds:
            table[stored[old]] = merged.index(new)
    known = {*stored.values(), *ignored_values(dataset, spec)}
    unknown = sorted(v for v in values_found(dataset) if v not in known)
    if unknown:
        raise BadInput(
            f"{dataset.name} holds the values {unknown[:8]}, which no class has. Add the class with --classes, or name the value with --ignore-value."
        )
    return merged, table


def mask_legend(spec: LabelSpec) -> Legend:
    """The two classes of grey masks. Raises BadInput for another number of classes."""
    legend = spec.legend or Legend.of_names(["other", "object"])
    if len(legend) != 2:
        raise BadInput(f"A threshold makes two classes; {len(legend)} are named ({', '.join(legend.names)}). Name two: --classes other=0,road=1.")
    return legend


def _mask_table(dataset: object, spec: LabelSpec) -> np.ndarray:
    """Value of a grey mask -> class index; the file's nodata, but not 255, is unlabelled."""
    table = (np.arange(65536) >= spec.threshold).astype(np.uint8)
    for value in (*spec.ignore_values, *([] if dataset.nodata is None or not 0 <= dataset.nodata < 65536 else [int(dataset.nodata)])):
        table[value] = IGNORE
    return table


def look_like_masks(sources: Sequence[str | Path], spec: LabelSpec) -> bool:
    """Label rasters of nothing but 0 and 255, where nobody said what 255 means; judged on thumbnails."""
    if not sources or spec.threshold is not None or IGNORE in spec.ignore_values or IGNORE in (spec.values or {}).values():
        return False
    seen: set[int] = set()
    for source in sources:
        with gdal(), open_raster(source) as dataset:
            if dataset.nodata is not None or dataset.count != 1:
                return False
            seen.update(np.unique(dataset.read(1, out_shape=(min(512, dataset.height), min(512, dataset.width)))).tolist())
        if not seen <= {0, IGNORE}:
            return False
    return IGNORE in seen


def merged_legend(names: Sequence[str], merge: Mapping[str, Sequence[str]]) -> Legend:
    """The legend of the new classes. Raises UnknownName for an old class that does not exist, BadInput for one used twice."""
    used: Counter = Counter()
    for olds in merge.values():
        for old in olds:
            if old not in names:
                raise UnknownName("class in the labels", old, names)
            used[old] += 1
    twice = [name for name, times in used.items() if times > 1]
    if twice:
        raise BadInput(f"The class {twice[0]!r} is merged into two classes; put it into one.")
    return Legend.of_names(list(merge))


# --------------------------------------------------------------------------------------------------------------- polygons


def read_polygons(source: str | Path, grid: Grid, columns: Sequence[str] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Polygons of a vector file in the CRS of `grid`, and their attribute columns.

    Raises BadFile for a file that cannot be read, BadInput where there is no polygon, no CRS to go by, or none near the scene.
    """
    import pyogrio
    import shapely

    if "://" not in str(source) and not str(source).startswith("/vsi") and not Path(source).exists():
        raise BadFile(f"{source} does not exist.")
    try:
        meta, _, wkb, fields = pyogrio.raw.read(source, columns=columns)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError, pyogrio.errors.FieldError) as error:
        raise BadFile(f"{source} cannot be read as a vector file: {_reason(error)}.") from error
    geometries = shapely.from_wkb(wkb)
    kept = np.isin(shapely.get_type_id(geometries), [3, 6])  # Polygon, MultiPolygon
    if not kept.any():
        raise BadInput(f"{source} holds {len(geometries)} features but no polygon; labels need polygons.")
    geometries, attributes = geometries[kept], {name: values[kept] for name, values in zip(meta["fields"], fields)}
    if grid.crs is not None:
        if meta["crs"] is None:
            raise BadInput(f"{source} says no CRS, so its place is unknown. Assign the right one (in QGIS: Layer CRS) and save it again.")
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


def _open_polygons(source: str | Path, grid: Grid, spec: LabelSpec, scene_name: str) -> PolygonLabels:
    import shapely

    geometries, attributes = read_polygons(source, grid)
    column = _class_column(source, attributes, spec)
    names = np.array(["" if v is None else str(v) for v in attributes[column]]) if column else np.full(len(geometries), "labelled")
    present = sorted({n for n in names if n})
    if not present:
        raise BadInput(f"The column {column!r} of {source} is empty for all {len(geometries)} polygons; pick another with --class-column.")
    inside = shapely.intersects(geometries, shapely.box(*grid.bounds_of(grid.window)))
    if not inside.any():
        left, bottom, right, top = shapely.total_bounds(geometries)
        west, south, east, north = grid.bounds_of(grid.window)
        raise BadInput(
            f"None of the {len(geometries)} polygons of {source} touches {scene_name}: in the scene's CRS the polygons cover x {left:.6g} to {right:.6g}, "
            f"y {bottom:.6g} to {top:.6g}, the scene x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}. Check the CRS of both."
        )
    merge = dict(spec.merge) or {name: (name,) for name in (spec.legend.names if spec.legend else present)}
    if spec.legend and not spec.merge:
        unknown = [name for name in present if name not in spec.legend.names and name != spec.background]
        if unknown:
            raise UnknownName(f"class of the legend (found in column {column!r} of {source})", unknown[0], spec.legend.names)
        legend = spec.legend
    else:
        merged_legend(present, merge)
        legend = spec.legend or Legend.of_names(([spec.background] if spec.background and spec.background not in merge else []) + list(merge))
    class_of = {old: legend.index(new) for new, olds in merge.items() for old in olds if new in legend.names}
    indices = np.array([class_of.get(name, IGNORE) for name in names], np.uint8)
    used = inside & (indices != IGNORE)
    if not used.any():
        raise BadInput(f"No polygon of {source} inside {scene_name} has a class that is used ({', '.join(legend.names)}).")
    background = legend.index(spec.background) if spec.background else None
    report = polygon_report(names, class_of, inside, legend)
    # Polygons of unused classes still burn, as unlabelled: what they cover is known not to be background.
    return PolygonLabels(PolygonIndex(geometries[inside], indices[inside], grid), legend, grid, background, report)


def polygon_report(names: np.ndarray, class_of: Mapping[str, int], inside: np.ndarray, legend: Legend) -> list[str]:
    """Per class found: polygons read, used and outside the scene."""
    lines = []
    for name in sorted(set(names.tolist())):
        mine = names == name
        fate = f"-> {legend.names[class_of[name]]}" if name in class_of else "not used"
        lines.append(f"{name or '(no class)'}: {mine.sum()} polygons read, {(mine & inside).sum()} in the scene, {(mine & ~inside).sum()} outside {fate}")
    return lines


def _class_column(source: str | Path, attributes: Mapping[str, np.ndarray], spec: LabelSpec) -> str | None:
    """The column that names the class: the one asked for, a familiar one, or the only one of text."""
    if spec.class_column:
        if spec.class_column not in attributes:
            raise UnknownName(f"column of {source}", spec.class_column, attributes)
        return spec.class_column
    for familiar in ("class", "classname", "class_name", "label", "fclass", "landuse", "landcover", "land_cover"):
        for column in attributes:
            if column.lower() == familiar:
                return column
    text = [name for name, values in attributes.items() if values.dtype == object]
    if len(text) == 1:
        return text[0]
    if not attributes:
        return None
    raise BadInput(f"Which column of {source} names the class? Pass --class-column with one of: {', '.join(attributes)}.")
