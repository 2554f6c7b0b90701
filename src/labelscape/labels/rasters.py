"""A raster of class values, resampled to a scene's grid."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from labelscape.crs import Unrelated, bounds_in
from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.labels.base import Labels
from labelscape.labels.rules import ClassTable, LabelRules, mask_legend, resolve_classes
from labelscape.labels.values import LabelBand, check_bands, check_lossless, mask_indices, raster_classes
from labelscape.legend import IGNORE, encode_values
from labelscape.scenes.files import gdal, open_raster
from labelscape.scenes.georeference import grid_of, place_notes
from labelscape.scenes.raster import EXACT


class RasterLabels(Labels):
    """A raster of class values, resampled by nearest neighbour where its grid is not the scene's."""

    def __init__(
        self, band: LabelBand, grid: Grid, rules: LabelRules, table: ClassTable, handles: ExitStack
    ) -> None:
        """`band` covers the pixels of `grid`; `handles` holds its open files."""
        super().__init__(table.legend, grid)
        self._band, self._handles, self._rules = band, handles, rules
        self._index_of, self._ignore = table.index_of_value, band.ignored(rules)
        self._lock = threading.Lock()  # a GDAL handle serves one thread at a time

    def _read(self, window: Window) -> np.ndarray:
        with self._lock:
            values, unlabelled = self._band.read(window)
        if self._rules.threshold is not None:
            return mask_indices(values, unlabelled, self._ignore, self._rules)
        # What lies outside or under a mask is no value of the file: it must neither count nor be refused.
        counted = values if unlabelled is None else values[~unlabelled]
        known = encode_values(
            counted, self._index_of, self.legend.names, ignore=self._ignore, where=self._band.name
        )
        if unlabelled is None:
            return known
        indices = np.full(values.shape, IGNORE, np.uint8)
        indices[~unlabelled] = known
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
        check_bands(dataset)
        check_lossless(dataset, rules)
        mine = grid_of(dataset)
        # On one grid pixels are read as they are stored; warping them would only cost time.
        view, report = None, []
        try:
            view = None if mine.matches(grid) else on_grid(dataset, mine, grid, scene_name)
        except Unrelated as error:
            # FLAIR's masks have a local CRS of the same name as their images' own.
            if not mine.same_pixels(grid):
                raise Unrelated(f"{dataset.name} cannot be put onto {scene_name}. {error}") from error
            report = [
                f"{dataset.name} and {scene_name} have CRSs that cannot be related, but one shape and "
                "transform: labels are taken pixel on pixel"
            ]
        if view is not None:
            handles.enter_context(view)
        if rules.threshold is not None:
            mask_legend(rules)  # two classes, whoever made the table
        table = table or resolve_classes([raster_classes(dataset, rules)], rules)
        # Handed over: the labels keep the files open until they are closed; any error above closes them.
        found = RasterLabels(LabelBand(dataset, view), grid, rules, table, handles.pop_all())
        found.report += [*place_notes(dataset, dataset.name), *report]
        return found


def on_grid(dataset: rasterio.DatasetReader, mine: Grid, grid: Grid, scene_name: str) -> WarpedVRT | None:
    """The label raster resampled to the scene's grid, with an alpha band of what it covers; None where its
    pixels are those of the scene, one by one. Raises BadInput where the two do not overlap, or where
    one has no coordinates and their sizes differ.
    """
    if not (mine.is_georeferenced and grid.is_georeferenced):
        lacks = dataset.name if not mine.is_georeferenced else scene_name
        if mine.shape == grid.shape:
            # Label PNGs beside GeoTIFFs have no coordinates; with equal sizes they are meant pixel for pixel.
            return None
        raise BadInput(
            f"{dataset.name} is {mine.width} x {mine.height} pixels and {scene_name} {grid.width} x "
            f"{grid.height}, and {lacks} has no "
            "coordinates: labels and image must then have the same size."
        )
    # Bounds are only compared for overlap: their curved sides do not matter.
    left, bottom, right, top = bounds_in(mine.bounds_of(mine.window), mine.crs, grid.crs)
    west, south, east, north = grid.bounds_of(grid.window)
    if left >= east or right <= west or bottom >= north or top <= south:
        raise BadInput(
            f"{dataset.name} and {scene_name} do not overlap: in the scene's CRS the labels cover x "
            f"{left:.6g} to {right:.6g}, y {bottom:.6g} to {top:.6g}, the scene x {west:.6g} to {east:.6g}, "
            f"y {south:.6g} to {north:.6g}. Check the CRS of both."
        )
    return WarpedVRT(
        dataset,
        # Not the file's own: ground control points place what has no transform.
        src_crs=mine.crs,
        src_transform=mine.transform,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        # Never interpolated: between class 1 and class 3 lies no class 2.
        resampling=Resampling.nearest,
        # GDAL approximates transforms to an eighth of a pixel, enough to take a neighbour's label.
        tolerance=EXACT,
        # No value can mark what lies outside the raster: any of them, even nodata, may be given a class.
        src_nodata=None,
        add_alpha=ColorInterp.alpha not in dataset.colorinterp,
    )
