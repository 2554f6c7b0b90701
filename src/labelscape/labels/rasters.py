"""A raster of class values, resampled to a scene's grid."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from labelscape.crs import Unrelated, bounds_in, same
from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.labels.base import Labels
from labelscape.labels.class_names import names_of_values
from labelscape.labels.rules import (
    ClassTable,
    LabelRules,
    class_name,
    mask_legend,
    renumbered,
    resolve_classes,
)
from labelscape.labels.values import LabelBand, check_bands, check_lossless, mask_indices, raster_classes
from labelscape.legend import IGNORE, encode_values
from labelscape.scenes.files import gdal, late_failures, open_raster
from labelscape.scenes.georeference import grid_of, place_notes
from labelscape.scenes.raster import EXACT
from labelscape.scenes.scene import crs_text

ANY = CRS.from_epsg(3857)
"""Stands for the CRS of coordinates that are compared as they are: both rasters have none."""


class RasterLabels(Labels):
    """A raster of class values, resampled by nearest neighbour where its grid is not the scene's."""

    def __init__(
        self,
        band: LabelBand,
        grid: Grid,
        rules: LabelRules,
        table: ClassTable,
        handles: ExitStack,
        again: Callable[[], RasterLabels],
    ) -> None:
        """`band` covers the pixels of `grid`; `handles` holds its open files, `again` opens them again."""
        super().__init__(table.legend, grid)
        self._band, self._handles, self._rules = band, handles, rules
        self._again = again
        self._ignore = band.ignored(rules)
        # Other files, or a model's legend, may have a class for what is unlabelled in this one.
        self._index_of = {v: index for v, index in table.index_of_value.items() if v not in self._ignore}
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

    def for_thread(self, opened: ExitStack) -> Labels:
        if self._held is not None:
            return self
        other = self._again()
        opened.callback(other.close)
        other._area, other.files = self._area, self.files
        return other

    def close(self) -> None:
        self._handles.close()


def open_raster_labels(
    source: str | Path, grid: Grid, rules: LabelRules, table: ClassTable | None, scene_name: str
) -> RasterLabels:
    """A label raster on `grid`; its classes come from `table`, else from the file itself.

    Raises BadFile where it cannot be read, BadInput where it is no label raster or does not overlap the
    scene.
    """
    with gdal(), late_failures(source), ExitStack() as handles:
        dataset = handles.enter_context(open_raster(source))
        check_bands(dataset)
        check_lossless(dataset, rules)
        mine = grid_of(dataset)
        view, report = placed(dataset, mine, grid, scene_name)
        if view is not None:
            handles.enter_context(view)
            if not (mine.is_georeferenced and grid.is_georeferenced):
                lacks, other = (dataset.name, scene_name)[:: 1 if mine.crs is None else -1]
                report = [f"{lacks} has no CRS: its coordinates are taken to be in that of {other}"]
        if rules.threshold is not None:
            mask_legend(rules)  # two classes, whoever made the table
        table = table or resolve_classes([raster_classes(dataset, rules)], rules)
        _check_names(dataset, rules, table)
        # With the table: to look for classes once more is to read the whole raster once more.
        again = partial(open_raster_labels, source, grid, rules, table, scene_name)
        # Handed over: the labels keep the files open until they are closed; any error above closes them.
        found = RasterLabels(LabelBand(dataset, view), grid, rules, table, handles.pop_all(), again)
        # Of CRSs that cannot be related, pixels are on pixels, as the report says.
        related = view is not None or not report
        moved = [f"{dataset.name}: {text}" for text in (resampling(mine, grid) if related else {}).values()]
        found.notes = (*place_notes(dataset, dataset.name), *report, *moved, *_hidden(found, table))
        found.report += found.notes
        found.renumbered = renumbered(table, rules)
        return found


def _hidden(labels: RasterLabels, table: ClassTable) -> list[str]:
    """Lines on values that the file declares as unlabelled, and that are classes elsewhere."""
    band, index_of = labels._band, table.index_of_value
    return [
        f"{band.name}: the value {value} is unlabelled, as the file declares it (nodata or transparent), "
        f"though elsewhere it is {table.legend.names[index_of[value]]!r}; to read it as that class, name the "
        "classes with `classes`"
        for value in dict.fromkeys(band.declared)
        if index_of.get(value, IGNORE) != IGNORE
        and value in labels._ignore
        and labels._rules.threshold is None
    ]


def _check_names(dataset: rasterio.DatasetReader, rules: LabelRules, table: ClassTable) -> None:
    """Raises BadInput where the file's own names give the classes other values than a model's legend, or
    other files: it would be read with its classes exchanged. So it might be where it names none, and classes
    are called by numbers (crop codes) which as values are other classes.
    """
    # Classes that the user names are meant so, whatever the file says.
    if rules.classes or rules.merge or rules.threshold is not None:
        return
    names, legend = names_of_values(dataset.name, dataset), table.legend
    for value, index in table.index_of_value.items():
        name = class_name(names.get(value, ""))
        if name in legend.names and index not in (IGNORE, legend.index(name)):
            own = {class_name(n): v for v, n in sorted(names.items()) if class_name(n) in legend.names}
            raise BadInput(
                f"{dataset.name} calls the value {value} {name!r}, which elsewhere is "
                f"{legend.names[index]!r}: its classes have other values. Name them as they are in this "
                f"file: `classes={own}`."
            )
        if not name and index != IGNORE and legend.code_of_another(value):
            codes = {
                one: int(one) if one.isdecimal() else own for one, own in zip(legend.names, legend.values)
            }
            raise BadInput(
                f"{dataset.name} does not say whether its value {value} is the class {str(value)!r}, or "
                f"{legend.names[index]!r}, which has this value in maps. Say it: `classes={codes}`, or "
                f"`classes={dict(zip(legend.names, legend.values))}`."
            )


def in_one_crs(mine: Grid, grid: Grid) -> tuple[Grid, Grid] | None:
    """The grids of labels and scene in one CRS where each has coordinates; None where one has none.

    A transform without a CRS, as a world file gives it, is in the CRS of the other, unless it lies elsewhere.
    Equal sizes that lie less than a pixel apart are meant pixel on pixel: None too. Labels in degrees are
    turned round the Earth to where the scene is: one may count from 0 to 360, the other from -180.
    """
    if mine.is_georeferenced and grid.is_georeferenced:
        turn = max(_overlaps(mine, grid).items(), key=lambda item: item[1], default=(0, 0))[0]
        if turn:
            mine = replace(mine, transform=Affine.translation(turn, 0) @ mine.transform)
        return mine, grid
    if mine.transform.is_identity or grid.transform.is_identity:
        return None
    if mine.same_pixels(grid, within=1):
        return None
    crs = mine.crs or grid.crs or ANY
    left, bottom, right, top = mine.bounds_of(mine.window)
    west, south, east, north = grid.bounds_of(grid.window)
    if left >= east or right <= west or bottom >= north or top <= south:
        return None
    return replace(mine, crs=crs), replace(grid, crs=crs)


def _overlaps(mine: Grid, grid: Grid) -> dict[int, float]:
    """Degrees of longitude that labels in degrees and a scene have in common, where the labels lie (0, the
    first) and a turn further west and east; empty for others.
    """
    if mine.crs is None or grid.crs is None or not mine.crs.is_geographic:
        return {}
    with suppress(Unrelated):  # whoever warps one to the other says so
        left, _, right, _ = mine.bounds_of(mine.window)
        west, _, east, _ = bounds_in(grid.bounds_of(grid.window), grid.crs, mine.crs)
        if np.isfinite([left, right, west, east]).all():
            return {turn: min(right + turn, east) - max(left + turn, west) for turn in (0, -360, 360)}
    return {}


def resampling(mine: Grid, grid: Grid) -> dict[str, str]:
    """How label pixels on the grid `mine` come onto the pixels of a scene: a sentence each on another CRS
    ("crs"), another pixel size ("pixel-size") and places between pixels ("sub-pixel"). Empty where the pixels
    are the same, or whole pixels apart; for grids that overlap in CRSs that can be related.
    """
    if mine.matches(grid) or mine.transform.is_identity or grid.transform.is_identity:
        return {}
    both = in_one_crs(mine, grid)
    if both is None:
        column, row = _corner(mine, grid)
        if mine.shape != grid.shape or max(abs(column), abs(row)) <= SAME:
            return {}
        return {
            "sub-pixel": f"{_start(column, row)}, but without a CRS for both and with one size they are "
            f"taken pixel on pixel, which moves labels by {max(abs(column), abs(row)):.2f} pixels"
        }
    found = {}
    # More than rounding: labels of the whole Earth touch their own copy.
    beside = [part for part in _overlaps(mine, grid).values() if part > max(mine.pixel_size)]
    if len(beside) > 1:
        found["longitudes"] = (
            "the labels begin at another meridian than the scene, and lie a turn away from some of it: "
            f"{sum(beside) - max(beside):.6g} degrees of the scene stay unlabelled. Cut both at one meridian"
        )
    mine, grid = both
    one_crs = same(mine.crs, grid.crs)
    if not one_crs:
        names = [crs_text(one) for one in (mine, grid)]
        found["crs"] = f"the labels are in {names[0]}, the scene in {names[1]}: reprojected by {NEAREST}"
        ratio = (mine.ground_pixel_size or 1) / (grid.ground_pixel_size or 1)
        same_size = 0.98 < ratio < 1.02  # one projection stretches what another does not
    else:
        # By the far corners: over ten thousand pixels a thousandth of a pixel adds up to ten.
        near, far = _corner(mine, grid), _corner(mine, grid, mine.width, mine.height)
        ratio = math.sqrt(abs(mine.transform.determinant / grid.transform.determinant))
        apart = far[0] - near[0] - mine.width, far[1] - near[1] - mine.height
        same_size = max(map(abs, apart)) <= SAME
    if not same_size:
        sizes = [f"{size:.3g} m" for one in (mine, grid) if (size := one.ground_pixel_size)]
        measured = f" ({' and '.join(sizes)})" if len(set(sizes)) == 2 else ""
        found["pixel-size"] = (
            f"a label pixel is {ratio:.5g} times the size of a pixel of the scene{measured}: labels are "
            f"taken by {NEAREST}"
        )
    elif one_crs:
        column, row = near
        off = max(abs(column - round(column)), abs(row - round(row)))
        if off > SAME:
            size = grid.ground_pixel_size
            metres = f" ({off * size:.3g} m)" if size else ""
            found["sub-pixel"] = (
                f"{_start(column, row)}, between pixels: labels are taken by nearest neighbour, which moves "
                f"them by {off:.2f} pixels{metres}. If each label pixel belongs to one pixel of the scene, "
                "correct the labels' place: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE"
            )
    return found


NEAREST = "nearest neighbour, up to half a pixel from their place"
SAME = 0.05
"""Pixels within which two grids are one (ours): rounding in a header moves them by less."""


def _corner(mine: Grid, grid: Grid, column: float = 0, row: float = 0) -> tuple[float, float]:
    """Column and row of the scene at which a corner of a label pixel lies."""
    return ~grid.transform @ (mine.transform @ (column, row))


def _start(column: float, row: float) -> str:
    return f"the labels start at column {column:.2f}, row {row:.2f} of the scene"


def placed(
    dataset: rasterio.DatasetReader, mine: Grid, grid: Grid, scene_name: str
) -> tuple[WarpedVRT | None, list[str]]:
    """`on_grid` for whoever reads labels, and lines on it: pixels on one grid, or of one shape and transform
    in CRSs that cannot be related, are read as they are stored. Raises Unrelated for others of those.
    """
    # Warping pixels that are on the grid already would only cost time.
    if mine.matches(grid):
        return None, []
    try:
        return on_grid(dataset, mine, grid, scene_name), []
    except Unrelated as error:
        # FLAIR's masks have a local CRS of the same name as their images' own.
        if not mine.same_pixels(grid):
            raise Unrelated(f"{dataset.name} cannot be put onto {scene_name}. {error}") from error
        return None, [
            f"{dataset.name} and {scene_name} have CRSs that cannot be related, but one shape and "
            "transform: labels are taken pixel on pixel"
        ]


def on_grid(dataset: rasterio.DatasetReader, mine: Grid, grid: Grid, scene_name: str) -> WarpedVRT | None:
    """The label raster resampled to the scene's grid, with an alpha band of what it covers; None where its
    pixels are those of the scene, one by one. Raises BadInput where the two do not overlap, or where
    one has no coordinates and their sizes differ.
    """
    both = in_one_crs(mine, grid)
    if both is None:
        lacks = dataset.name if not mine.is_georeferenced else scene_name
        if mine.shape == grid.shape:
            # Label PNGs beside GeoTIFFs have no coordinates; with equal sizes they are meant pixel for pixel.
            return None
        raise BadInput(
            f"{dataset.name} is {mine.width} x {mine.height} pixels and {scene_name} {grid.width} x "
            f"{grid.height}, and {lacks} has no coordinates in a known CRS: labels and image must then "
            "have the same size."
        )
    mine, grid = both
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
        SRC_ALPHA_MAX="1",  # a mask of 0 and 1 is opaque too, where the type's largest value is 65535
    )
