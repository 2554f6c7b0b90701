"""A raster of class values, resampled to a scene's grid."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.labels.base import Labels
from labelscape.labels.rules import ClassTable, LabelRules, mask_legend, resolve_classes
from labelscape.labels.values import ignored_values, raster_classes, read_labels, read_mask
from labelscape.legend import IGNORE, encode_values
from labelscape.scenes.files import gdal, open_raster
from labelscape.scenes.raster import EXACT


class RasterLabels(Labels):
    """A raster of class values, resampled by nearest neighbour where its grid is not the scene's."""

    def __init__(
        self, dataset: object, grid: Grid, rules: LabelRules, table: ClassTable, handles: ExitStack
    ) -> None:
        """`dataset` covers the pixels of `grid`; `handles` holds its open files."""
        super().__init__(table.legend, grid)
        self._dataset, self._handles, self._rules = dataset, handles, rules
        self._index_of, self._ignore = table.index_of_value, ignored_values(dataset, rules)
        self._lock = threading.Lock()  # a GDAL handle serves one thread at a time

    def _read(self, window: Window) -> np.ndarray:
        with self._lock:
            outside = beyond(self._dataset, window.rio)
            if self._rules.threshold is not None:
                indices = read_mask(self._dataset, window.rio, self._rules)
            else:
                values = read_labels(self._dataset, window.rio)
                if outside is not None and outside.any():
                    # What GDAL fills with is no value of the file: it must neither count nor be refused.
                    values = np.where(outside, np.uint8(IGNORE), values)
                indices = encode_values(
                    values, self._index_of, self.legend.names, ignore=self._ignore, where=self._dataset.name
                )
        if outside is not None:
            indices[outside] = IGNORE
        return indices

    def close(self) -> None:
        self._handles.close()


def open_raster_labels(
    source: str | Path, grid: Grid, rules: LabelRules, table: ClassTable | None, scene_name: str
) -> RasterLabels:
    """A label raster on `grid`; its classes come from `table`, else from the file itself.

    Raises BadFile where it cannot be read, BadInput where it is no label raster or does not overlap the
    scene.
    """
    with gdal(), ExitStack() as handles:
        dataset = handles.enter_context(open_raster(source))
        if dataset.count != 1:
            raise BadInput(
                f"{source} has {dataset.count} bands; a label raster has one band of class values. Convert "
                "colours to class values first."
            )
        if dataset.dtypes[0].startswith("complex") or (
            dataset.dtypes[0] == "float64" and dataset.crs is None and grid.is_georeferenced
        ):
            raise BadInput(f"{source} has {dataset.dtypes[0]} values; a label raster has integers.")
        mine = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
        seen = dataset
        # On one grid pixels are read as they are stored; warping them would only cost time.
        if not mine.matches(grid):
            seen = handles.enter_context(on_grid(dataset, mine, grid, scene_name))
        if rules.threshold is not None:
            mask_legend(rules)  # two classes, whoever made the table
        table = table or resolve_classes([raster_classes(dataset, rules)], rules)
        # Handed over: the labels keep the files open until they are closed; any error above closes them.
        return RasterLabels(seen, grid, rules, table, handles.pop_all())


def on_grid(dataset: object, mine: Grid, grid: Grid, scene_name: str) -> WarpedVRT | _Unplaced:
    """The label raster resampled to the scene's grid. Raises BadInput where the two do not overlap, or where
    one has no coordinates and their sizes differ.
    """
    if not (mine.is_georeferenced and grid.is_georeferenced):
        lacks = dataset.name if not mine.is_georeferenced else scene_name
        if mine.shape == grid.shape:
            # Label PNGs beside GeoTIFFs have no coordinates; with equal sizes they are meant pixel for pixel.
            return _Unplaced(dataset)
        raise BadInput(
            f"{dataset.name} is {mine.width} x {mine.height} pixels and {scene_name} {grid.width} x "
            f"{grid.height}, and {lacks} has no "
            "coordinates: labels and image must then have the same size."
        )
    from rasterio.warp import transform_bounds

    # Bounds are only compared for overlap: their curved sides do not matter.
    left, bottom, right, top = transform_bounds(dataset.crs, grid.crs, *dataset.bounds)
    west, south, east, north = grid.bounds_of(grid.window)
    if left >= east or right <= west or bottom >= north or top <= south:
        raise BadInput(
            f"{dataset.name} and {scene_name} do not overlap: in the scene's CRS the labels cover x "
            f"{left:.6g} to {right:.6g}, y {bottom:.6g} to {top:.6g}, the scene x {west:.6g} to {east:.6g}, "
            f"y {south:.6g} to {north:.6g}. Check the CRS of both."
        )
    # Without a nodata value, no value can mark what lies outside the raster: any of them, even 255, may be a
    # class. The alpha band of the VRT marks it instead (see `beyond`).
    fill = {"add_alpha": True} if dataset.nodata is None else {"nodata": dataset.nodata}
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        # Never interpolated: between class 1 and class 3 lies no class 2.
        resampling=Resampling.nearest,
        # GDAL approximates transforms to an eighth of a pixel, enough to take a neighbour's label.
        tolerance=EXACT,
        src_nodata=dataset.nodata,
        **fill,
    )


def beyond(view: object, window: RasterioWindow) -> np.ndarray | None:
    """(H, W) bool: the pixels outside a label raster's own extent, of a raster seen by `on_grid`; None where
    there are none to mark: it has a nodata value, or was not warped.
    """
    if not isinstance(view, WarpedVRT) or view.nodata is not None:
        return None
    return view.read(view.count, window=window) == 0


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
