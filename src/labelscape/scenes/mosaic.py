"""Scenes as one wants them: several laid onto one grid, cut to an area, resampled to a pixel size, in other
units. Nothing is copied; windows are read as asked.

A mosaic's later scenes lie on top of earlier ones, as in GDAL's own mosaics. Scenes that lie on the mosaic's
pixels are read as they are; others (another CRS, another pixel size, pixels shifted by a part) are resampled.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.scenes.files import Files, Source, stack_files
from labelscape.scenes.given import scene_given
from labelscape.scenes.memory import HeldScene
from labelscape.scenes.placing import file_part, is_stack, mosaic_grid, placed_on, resized
from labelscape.scenes.polygons import PolygonIndex, read_polygons
from labelscape.scenes.raster import FileScene
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import Part, Patch, Scene, Units
from labelscape.scenes.stac import described, is_stac, name_of

MOST_OPEN = 32
"""Scenes of a mosaic whose files are open at a time."""


def open_scene(
    source: Source,
    *,
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    wanted: Sequence[str] | None = None,
    area: str | Path | None = None,
    pixel_size: float | None = None,
) -> Scene:
    """Open a picture of the ground: a file, a band stack, a mosaic, or what a STAC item describes.

    Several files, or a folder of them, that cover the same ground with one band each are a band stack; files
    that lie beside each other are a mosaic, on the CRS and pixel size that most of them have. A STAC item
    (.json, or its address) is the scene made of its data assets, a collection of items the mosaic of theirs.

    bands       names of the bands the scene shall have, in this order
    wanted      names that will be asked for: where a STAC item has them all, files with other bands are not
                opened
    area        file of polygons in any CRS: the scene is cut to their bounds, and what lies outside them is
                invalid
    pixel_size  metres on the ground to resample to

    Objects that hold pixels with their place are scenes too: an open rasterio dataset (opened again by its
    name where that can be, else read as it is, and never closed), an `xarray.DataArray` with the accessor of
    rioxarray, an `ArrayScene`, and any scene.

    Raises BadFile where a file cannot be read, BadInput where files are neither a stack nor a mosaic, the
    area lies elsewhere, or the source can be no scene.
    """
    source = Path(source) if isinstance(source, os.PathLike) else source
    given = scene_given(source, nodata=nodata, bands=bands)
    if given is None and not is_stac(source):
        files = stack_files(source)
        if len(files) == 1 or is_stack(files):
            given = FileScene(source, nodata=nodata, bands=bands)
    if given is not None and area is None and pixel_size is None:
        return given
    if given is not None:
        with given:
            facts = given.source, given.name, given.grid, given.parts
            found = _Laid(*facts, mask=_mask_of(given), units=given.units)
    elif is_stac(source):
        found = _described(source, bands or wanted, nodata, bands)
    else:
        parts = tuple(file_part(file, nodata=nodata, bands=bands) for file in files)
        name = Path(source).name if isinstance(source, (str, Path)) else f"{Path(files[0]).stem}_mosaic"
        found = _Laid(source, name, mosaic_grid(parts), parts)
    return _cut_and_resized(found, area, pixel_size)


@dataclass(frozen=True)
class _Laid:
    """What a mosaic is made of; see `MosaicScene`."""

    source: object
    name: str
    grid: Grid
    parts: tuple[Part, ...]
    mask: PolygonIndex | None = None
    units: Units | None = None


def _described(
    source: Files, wanted: Sequence[str] | None, nodata: float | None, bands: Sequence[str] | None
) -> _Laid:
    """What STAC items describe."""
    items = described(source, wanted)
    parts = tuple(
        file_part(
            i.files, nodata=nodata, bands=bands or i.bands, band_names=i.band_names, declared=i.declared
        )
        for i in items
    )
    grid = parts[0].grid if len(parts) == 1 else mosaic_grid(parts)
    return _Laid(source, name_of(items, source), grid, parts)


def _cut_and_resized(found: _Laid, area: str | Path | None, pixel_size: float | None) -> MosaicScene:
    grid, mask = found.grid, found.mask
    if pixel_size is not None:
        grid = resized(grid, pixel_size, found.name)
        mask = mask and mask.on(grid)
    if area is not None:
        if mask is not None:
            raise BadOption(
                f"{found.name} is cut to an area already; say the area {area} where it is opened."
            )
        grid, mask = _cut(grid, area, found.name)
    return MosaicScene(found.source, found.name, grid, found.parts, mask, found.units)


class MosaicScene(Scene):
    """Parts on one grid, the later ones on top, and nothing outside a mask. `open_scene` makes them."""

    def __init__(
        self,
        source: object,
        name: str,
        grid: Grid,
        parts: Sequence[Part],
        mask: PolygonIndex | None = None,
        units: Units | None = None,
    ) -> None:
        """`units`: those that pixels are given in, float32 where a part has others; the first part's by
        default.
        """
        self.source, self.name, self.grid = source, name, grid
        self.bands, self.units = parts[0].bands, units or parts[0].units
        self.dtype = (
            parts[0].dtype if all(part.units == self.units for part in parts) else np.dtype(np.float32)
        )
        self.nodata = None  # each part knows its own
        self.mask, self._parts = mask, tuple(parts)
        self._placed = [placed for part in parts if (placed := placed_on(part, grid)).place.pixels]
        self._edges = (
            np.array([[p.place.top, p.place.left, p.place.bottom, p.place.right] for p in self._placed])
            .reshape(-1, 4)
            .T
        )
        self._opened: OrderedDict[int, Scene] = OrderedDict()

    @property
    def files(self) -> tuple[str, ...]:
        own = (file for part in self._parts for file in part.files)
        return tuple(dict.fromkeys((*stack_files(self.source), *own)))

    @property
    def in_memory(self) -> bool:
        return any(part.in_memory for part in self._parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def close(self) -> None:
        while self._opened:
            self._opened.popitem()[1].close()

    def again(self) -> MosaicScene:
        return MosaicScene(self.source, self.name, self.grid, self._parts, self.mask, self.units)

    def hold(self) -> HeldScene:
        whole = self.read(self.grid.window)
        self.close()
        return HeldScene(self, whole.pixels, whole.valid)

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = window or self.grid.window
        assert (window & self.grid.window) == window, f"{window} is not inside {self.grid.window}"
        pixels = np.zeros((len(self.bands if bands is None else bands), *window.shape), self.dtype)
        valid = np.zeros(window.shape, bool)
        wanted = (
            np.ones(window.shape, bool)
            if self.mask is None
            else self.mask.burn(window, np.zeros(window.shape, np.uint8)) > 0
        )
        if wanted.any():
            for number in self._touching(window)[::-1]:
                placed = self._placed[number]
                shared = window & placed.place
                row, column = placed.origin
                patch = self._scene(number).read(
                    Window(shared.top - row, shared.left - column, *shared.shape), bands
                )
                here = shared.inset_of(window)
                fresh = patch.valid & ~valid[here]
                pixels[(slice(None), *here)][:, fresh] = self._converted(
                    patch.pixels[:, fresh], placed.part, bands
                )
                valid[here] |= fresh
                if valid.all():
                    break
        return Patch(pixels, valid & wanted, window)

    def _converted(self, values: np.ndarray, part: Part, bands: Sequence[str] | None) -> np.ndarray:
        """(B, N) of a part in this scene's units."""
        if part.units == self.units:
            return values
        chosen = [self.index(band) for band in bands or self.bands]
        theirs, mine = np.array(part.units)[chosen], np.array(self.units)[chosen]
        factors, offsets = theirs[:, 0] / mine[:, 0], (theirs[:, 1] - mine[:, 1]) / mine[:, 0]
        return (values * factors[:, None] + offsets[:, None]).astype(np.float32)

    def _touching(self, window: Window) -> list[int]:
        """Numbers of the parts that cover some of a window."""
        top, left, bottom, right = self._edges
        return np.flatnonzero(
            (top < window.bottom) & (bottom > window.top) & (left < window.right) & (right > window.left)
        ).tolist()

    def _scene(self, number: int) -> Scene:
        """The opened part; the one that was not used for longest is closed for it."""
        if number not in self._opened:
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)[1].close()
            placed = self._placed[number]
            self._opened[number] = placed.part.open(onto=placed.onto)
        self._opened.move_to_end(number)
        return self._opened[number]

    def shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape)


def seen_as(scene: Scene, *, pixel_size: float | None = None, units: Units | None = None) -> MosaicScene:
    """An opened scene with pixels of `pixel_size` metres, or in other units. Close it like any other; it
    has handles of its own.
    """
    grid = scene.grid if pixel_size is None else resized(scene.grid, pixel_size, scene.name)
    mask = _mask_of(scene)
    return MosaicScene(scene.source, scene.name, grid, scene.parts, mask and mask.on(grid), units)


def _mask_of(scene: Scene) -> PolygonIndex | None:
    """The polygons that an opened scene is cut to."""
    scene = scene.origin if isinstance(scene, HeldScene) else scene
    return scene.mask if isinstance(scene, MosaicScene) else None


def _cut(grid: Grid, area: str | Path, name: str) -> tuple[Grid, PolygonIndex]:
    """The grid cut to the bounds of the polygons in `area`, and the polygons. Raises BadInput where none
    lies in the scene.
    """
    import shapely

    if not grid.is_georeferenced:
        raise BadInput(f"{name} has no coordinates, so the area {area} cannot be found in it.")
    polygons, _ = read_polygons(area, grid)
    xy = shapely.get_coordinates(polygons)
    columns, rows = ~grid.transform @ (xy[:, 0], xy[:, 1])
    top, left = math.floor(rows.min()), math.floor(columns.min())
    window = Window(top, left, math.ceil(rows.max()) - top, math.ceil(columns.max()) - left) & grid.window
    if not window.pixels:
        west, south, east, north = grid.bounds_of(grid.window)
        raise BadInput(
            f"The area {area} lies outside {name}: in the scene's CRS it covers x {xy[:, 0].min():.9g} to "
            f"{xy[:, 0].max():.9g}, "
            f"y {xy[:, 1].min():.9g} to {xy[:, 1].max():.9g}, the scene x {west:.9g} to {east:.9g}, y "
            f"{south:.9g} to {north:.9g}. Check the CRS of both."
        )
    cut = grid.crop(window)
    return cut, PolygonIndex(polygons, np.ones(len(polygons), np.uint8), cut)
