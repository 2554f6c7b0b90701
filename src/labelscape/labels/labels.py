"""Labels of a scene on the scene's own pixels: from a raster of class values or from polygons, in any CRS.

Both answer `read(window) -> (H, W) uint8` class indices, 255 where nothing is labelled.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.labels.values import (
    LabelSpec,
    ignored_values,
    legend_found,
    mask_legend,
    mask_table,
    merged_legend,
    merged_values,
    read_labels,
)
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.files import gdal, open_raster
from labelscape.scenes.polygons import VECTOR_SUFFIXES, PolygonIndex, read_polygons
from labelscape.scenes.raster import EXACT


class Labels:
    """The labels of one scene. `legend` says what the indices mean; `report` tells what was read, line by
    line.
    """

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

    def __init__(
        self,
        dataset: object,
        legend: Legend,
        grid: Grid,
        spec: LabelSpec,
        table: np.ndarray | None,
        handles: ExitStack,
    ) -> None:
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
    """Polygons burned where a pixel's centre lies inside; where polygons overlap, the later one in the
    file wins.
    """

    def __init__(
        self,
        polygons: PolygonIndex,
        legend: Legend,
        grid: Grid,
        background: int | None,
        report: Sequence[str],
    ) -> None:
        super().__init__(legend, grid, report)
        self._polygons, self._background = polygons, IGNORE if background is None else background

    def _read(self, window: Window) -> np.ndarray:
        return self._polygons.burn(window, np.full(window.shape, self._background, np.uint8))


def open_labels(
    source: str | Path, grid: Grid, spec: LabelSpec = LabelSpec(), *, scene_name: str = "the scene"
) -> Labels:
    """Open a label raster or polygons (by file suffix) for the pixels of `grid`.

    Raises BadFile for unreadable files and BadInput where labels and scene do not overlap, no polygon is
    burned, a value has no class, or the class column is missing.
    """
    if Path(str(source)).suffix.lower() in VECTOR_SUFFIXES:
        labels = _open_polygons(source, grid, spec, scene_name)
    else:
        labels = _open_raster(source, grid, spec, scene_name)
    if spec.area:
        geometries, _ = read_polygons(spec.area, grid)
        labels._area = PolygonIndex(geometries, np.ones(len(geometries), np.uint8), grid)
    return labels


# ---------------------------------------------------------------------------------------------------- rasters


def _open_raster(source: str | Path, grid: Grid, spec: LabelSpec, scene_name: str) -> RasterLabels:
    handles = ExitStack()
    with gdal():
        dataset = handles.enter_context(open_raster(source))
        if dataset.count != 1:
            raise BadInput(
                f"{source} has {dataset.count} bands; a label raster has one band of class values. Turn "
                "colours into values first."
            )
        if dataset.dtypes[0].startswith("complex") or (
            dataset.dtypes[0] == "float64" and dataset.crs is None and grid.is_georeferenced
        ):
            raise BadInput(f"{source} holds {dataset.dtypes[0]} values; a label raster holds whole numbers.")
        mine = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
        on_grid = dataset
        if not mine.matches(grid):
            on_grid = handles.enter_context(_on_grid(dataset, mine, grid, scene_name))
        legend, table = spec.legend, None
        if spec.threshold is not None:
            legend, table = mask_legend(spec), mask_table(dataset, spec)
        elif spec.merge:
            legend, table = merged_values(spec, dataset)
        return RasterLabels(on_grid, legend or legend_found(dataset, spec), grid, spec, table, handles)


def _on_grid(dataset: object, mine: Grid, grid: Grid, scene_name: str) -> WarpedVRT:
    """The label raster seen on the scene's grid. Without coordinates on either side only equal shapes can
    be right.
    """
    if not (mine.is_georeferenced and grid.is_georeferenced):
        lacks = dataset.name if not mine.is_georeferenced else scene_name
        if mine.shape == grid.shape:
            # Label PNGs beside GeoTIFFs carry no coordinates; equal shapes are the usual and only sensible
            # reading.
            return _Unplaced(dataset)
        raise BadInput(
            f"{dataset.name} is {mine.width} x {mine.height} pixels and {scene_name} {grid.width} x "
            f"{grid.height}, and {lacks} has no "
            "coordinates: labels and image must then have the same size."
        )
    from rasterio.warp import transform_bounds

    left, bottom, right, top = transform_bounds(dataset.crs, grid.crs, *dataset.bounds)
    west, south, east, north = grid.bounds_of(grid.window)
    if left >= east or right <= west or bottom >= north or top <= south:
        raise BadInput(
            f"{dataset.name} and {scene_name} do not overlap: in the scene's CRS the labels cover x "
            f"{left:.6g} to {right:.6g}, y {bottom:.6g} "
            f"to {top:.6g}, the scene x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}. Check the "
            "CRS of both."
        )
    # Outside the label raster is unlabelled: with 255 as the VRT's own nodata GDAL fills with it; types wider
    # than uint8 keep 255 too.
    nodata = dataset.nodata if dataset.nodata is not None else IGNORE
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling.nearest,
        tolerance=EXACT,
        nodata=nodata,
        src_nodata=dataset.nodata,
    )


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


# --------------------------------------------------------------------------------------------------- polygons


def _open_polygons(source: str | Path, grid: Grid, spec: LabelSpec, scene_name: str) -> PolygonLabels:
    import shapely

    geometries, attributes = read_polygons(source, grid)
    column = _class_column(source, attributes, spec)
    names = (
        np.array(["" if v is None else str(v) for v in attributes[column]])
        if column
        else np.full(len(geometries), "labelled")
    )
    present = sorted({n for n in names if n})
    if not present:
        raise BadInput(
            f"The column {column!r} of {source} is empty for all {len(geometries)} polygons; pick another "
            "with --class-column."
        )
    inside = shapely.intersects(geometries, shapely.box(*grid.bounds_of(grid.window)))
    if not inside.any():
        left, bottom, right, top = shapely.total_bounds(geometries)
        west, south, east, north = grid.bounds_of(grid.window)
        raise BadInput(
            f"None of the {len(geometries)} polygons of {source} touches {scene_name}: in the scene's CRS "
            f"the polygons cover x {left:.6g} to {right:.6g}, "
            f"y {bottom:.6g} to {top:.6g}, the scene x {west:.6g} to {east:.6g}, y {south:.6g} to "
            f"{north:.6g}. Check the CRS of both."
        )
    merge = dict(spec.merge) or {name: (name,) for name in (spec.legend.names if spec.legend else present)}
    if spec.legend and not spec.merge:
        unknown = [name for name in present if name not in spec.legend.names and name != spec.background]
        if unknown:
            raise UnknownName(
                f"class of the legend (found in column {column!r} of {source})", unknown[0], spec.legend.names
            )
        legend = spec.legend
    else:
        merged_legend(present, merge)
        legend = spec.legend or Legend.of_names(
            ([spec.background] if spec.background and spec.background not in merge else []) + list(merge)
        )
    class_of = {old: legend.index(new) for new, olds in merge.items() for old in olds if new in legend.names}
    indices = np.array([class_of.get(name, IGNORE) for name in names], np.uint8)
    used = inside & (indices != IGNORE)
    if not used.any():
        raise BadInput(
            f"No polygon of {source} inside {scene_name} has a class that is used "
            f"({', '.join(legend.names)})."
        )
    background = legend.index(spec.background) if spec.background else None
    report = polygon_report(names, class_of, inside, legend)
    # Polygons of unused classes still burn, as unlabelled: what they cover is known not to be background.
    return PolygonLabels(
        PolygonIndex(geometries[inside], indices[inside], grid), legend, grid, background, report
    )


def polygon_report(
    names: np.ndarray, class_of: Mapping[str, int], inside: np.ndarray, legend: Legend
) -> list[str]:
    """Per class found: polygons read, used and outside the scene."""
    lines = []
    for name in sorted(set(names.tolist())):
        mine = names == name
        fate = f"-> {legend.names[class_of[name]]}" if name in class_of else "not used"
        lines.append(
            f"{name or '(no class)'}: {mine.sum()} polygons read, {(mine & inside).sum()} in the scene, "
            f"{(mine & ~inside).sum()} outside {fate}"
        )
    return lines


def _class_column(source: str | Path, attributes: Mapping[str, np.ndarray], spec: LabelSpec) -> str | None:
    """The column that names the class: the one asked for, a familiar one, or the only one of text."""
    if spec.class_column:
        if spec.class_column not in attributes:
            raise UnknownName(f"column of {source}", spec.class_column, attributes)
        return spec.class_column
    for familiar in (
        "class",
        "classname",
        "class_name",
        "label",
        "fclass",
        "landuse",
        "landcover",
        "land_cover",
    ):
        for column in attributes:
            if column.lower() == familiar:
                return column
    text = [name for name, values in attributes.items() if values.dtype == object]
    if len(text) == 1:
        return text[0]
    if not attributes:
        return None
    raise BadInput(
        f"Which column of {source} names the class? Pass --class-column with one of: {', '.join(attributes)}."
    )
