"""Open a scene (`open_scene`), mosaic several, crop to an area, resample to a pixel size, convert units.
Nothing is copied; windows are read on demand.

In a mosaic later scenes cover earlier ones, as in GDAL's mosaics. Scenes aligned with the mosaic's pixels are
read unchanged; others (another CRS or pixel size, or shifted by part of a pixel) are resampled.
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
from labelscape.files import check_path
from labelscape.grid import Grid, Window, check_window
from labelscape.scenes.files import Files, Source, name_of_folder, stack_files
from labelscape.scenes.given import scene_given
from labelscape.scenes.memory import HeldScene, read_whole
from labelscape.scenes.placing import (
    SAME_PIXEL,
    declares,
    file_part,
    is_stack,
    mosaic_grid,
    placed_on,
    resized,
)
from labelscape.scenes.polygons import PolygonIndex, read_area
from labelscape.scenes.raster import FileScene
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import Part, Patch, Scene, Units
from labelscape.scenes.stac import described, is_stac, name_of
from labelscape.scenes.stac_many import document_of
from labelscape.text import some

MAX_OPEN = 32
"""Scenes of a mosaic whose files are open at a time (ours); systems limit the open files of a process."""

OTHER_SIZE = 0.1
"""By how much pixels of a part may differ on the ground from those at the middle of the whole scene (ours):
within a zone of UTM they do by 0.2 %, and a model takes a fifth more or less for what it learned.
"""


def open_scene(
    source: Source,
    *,
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    wanted: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    area: str | Path | None = None,
    pixel_size: float | None = None,
    asset: str | None = None,
    allow_remote: bool = False,
) -> Scene:
    """Open a scene from a file, a band stack, a mosaic, a STAC item or an object that holds pixels.

    Several files, or a folder of them, of one band each that cover the same ground are a band stack; files
    beside each other are a mosaic, on the CRS and pixel size that most of them have. A STAC item (.json, or
    its URL) is the scene of its data assets, an ItemCollection the mosaic of its items, FILE#ID one of them.

    nodata      overrides the nodata value of the files
    bands       names of the bands of the scene, in this order
    band_names  names of all bands of each file in order, instead of those that the file has, alpha included
                where it is a measured band
    wanted      names of bands that will be read: where a STAC item has them all, its other files are not
                opened
    area        polygon file in any CRS: the scene is cropped to their bounds, and invalid outside of them
    pixel_size  metres on the ground to resample to
    asset       of STAC items the asset of this key or role, such as visual; several separated by commas
    allow_remote
                a STAC item may name files outside of its folder, or of its host

    Georeferenced objects are scenes too: an open rasterio dataset (opened again by its name where possible,
    else read as it is; never closed), a DataArray or Dataset of xarray with rioxarray's accessor, an
    `ArrayScene`, and any other scene.

    Raises BadFile where a file cannot be read, BadInput where files are neither a stack nor a mosaic, the
    area lies outside the scene, or the source cannot be a scene, BadOption for a pixel size of 0 or less.
    """
    source = Path(source) if isinstance(source, os.PathLike) else source
    for one in source if isinstance(source, (list, tuple)) else (source,):
        if isinstance(one, (str, os.PathLike)):
            check_path(one, "A scene")
    given = scene_given(source, nodata=nodata, bands=bands, band_names=band_names)
    if given is None and not is_stac(source):
        files = stack_files(source)
        if len(files) == 1 or is_stack(files):
            given = FileScene(source, nodata=nodata, bands=bands, band_names=band_names)
    if given is not None and area is None and pixel_size is None:
        return given
    if given is not None:
        found = _Parts.of_scene(given)
    elif is_stac(source):
        if band_names is not None:
            raise BadOption(
                "A STAC item names its bands: select them with `bands`; `band_names` is for files."
            )
        found = _described(source, bands or wanted, nodata, bands, asset, allow_remote)
    else:
        parts = tuple(file_part(file, nodata=nodata, bands=bands, band_names=band_names) for file in files)
        found = _Parts.of_files(source, files, parts)
    return _cut_and_resized(found, area, pixel_size)


@dataclass(frozen=True)
class _Parts:
    """The arguments of a `MosaicScene`, before it is cropped and resampled."""

    source: object
    name: str
    grid: Grid
    parts: tuple[Part, ...]
    mask: PolygonIndex | None = None
    units: Units | None = None
    around: Window | None = None

    @classmethod
    def of_scene(cls, given: Scene) -> _Parts:
        """Of a scene, which is closed at once: its parts open files for themselves, when they are read."""
        with given:
            facts = given.source, given.name, given.grid, given.parts
            return cls(*facts, _mask_of(given), given.units, given.around)

    @classmethod
    def of_files(cls, source: Source, files: Sequence[str], parts: tuple[Part, ...]) -> _Parts:
        """Of files beside each other, each of which is a part."""
        name = name_of_folder(source) if isinstance(source, (str, Path)) else f"{Path(files[0]).stem}_mosaic"
        return cls(source, name, mosaic_grid(parts), parts)


def _described(
    source: Files,
    wanted: Sequence[str] | None,
    nodata: float | None,
    bands: Sequence[str] | None,
    asset: str | None,
    allow_remote: bool,
) -> _Parts:
    """The parts and the grid of the scenes that STAC items describe."""
    items = described(source, wanted, asset=asset, allow_remote=allow_remote)
    parts = tuple(
        file_part(
            i.files, nodata=nodata, bands=bands or i.bands, band_names=i.band_names, declared=i.declared
        )
        for i in items
    )
    grid = parts[0].grid if len(parts) == 1 else mosaic_grid(parts)
    return _Parts(source, name_of(items, source), grid, parts)


def _cut_and_resized(found: _Parts, area: str | Path | None, pixel_size: float | None) -> MosaicScene:
    grid, mask, around = found.grid, found.mask, found.around
    if pixel_size is not None:
        grid, around = _resized(grid, around or grid.window, pixel_size, found.name)
        # The polygons stay exact; only the pixels they are burned into are others.
        mask = mask and mask.on(grid)
    if area is not None:
        if mask is not None:
            raise BadOption(
                f"{found.name} is cropped to an area already; pass {area} where it is opened instead."
            )
        whole = grid
        grid, mask = _cut(grid, area, found.name)
        around = _seen_from(grid, whole)
    return MosaicScene(found.source, found.name, grid, found.parts, mask, found.units, around)


class MosaicScene(Scene):
    """Parts on one grid, the later ones on top, invalid outside a mask. `open_scene` makes them."""

    def __init__(
        self,
        source: object,
        name: str,
        grid: Grid,
        parts: Sequence[Part],
        mask: PolygonIndex | None = None,
        units: Units | None = None,
        around: Window | None = None,
    ) -> None:
        """`units` are those of the pixels read, by default those of the first part that declares some; parts
        with other units are converted, and the scene is then float32. `around` is what can be read beside the
        grid too.
        """
        self.source, self.name, self.grid = source, name, grid
        self._stated = next((part.units for part in parts if declares(part.units)), parts[0].units)
        self.bands, self.units = parts[0].bands, units or self._stated
        # Converted values have fractions.
        self.dtype = (
            parts[0].dtype
            if all(self._units_of(part) == self.units for part in parts)
            else np.dtype(np.float32)
        )
        self.nodata = None  # each part knows its own
        self.band_nodata = (None,) * len(self.bands)
        said = dict.fromkeys(note for part in parts for note in part.notes)
        self.notes = (*said, *_silent_parts(parts), *(mask.notes if mask else ()))
        self.mask, self._parts = mask, tuple(parts)
        self._around = grid.window if around is None else around
        every = (placed_on(part, grid, self._around) for part in parts)
        self._placed = [placed for placed in every if placed.place.pixels]
        # As one array: a window is compared with thousands of parts at once.
        self._edges = (
            np.array([[p.place.top, p.place.left, p.place.bottom, p.place.right] for p in self._placed])
            # Also of no parts at all, where the array would have a single axis.
            .reshape(-1, 4)
            .T
        )
        self._opened: OrderedDict[int, Scene] = OrderedDict()

    @property
    def around(self) -> Window:
        return self._around

    @property
    def files(self) -> tuple[str, ...]:
        # A STAC item or a folder leads to files of other names; both belong to the scene.
        own = (file for part in self._parts for file in part.files)
        given = (document_of(place)[0] for place in stack_files(self.source))
        return tuple(dict.fromkeys((*given, *own)))

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
        return MosaicScene(
            self.source, self.name, self.grid, self._parts, self.mask, self.units, self._around
        )

    def hold(self) -> HeldScene:
        def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
            found = self.read(window)
            return found.pixels, found.valid

        # Validity as a mask: each part has its own nodata value, which is gone in the mosaic.
        held = HeldScene(self, *read_whole(self, read))
        self.close()
        return held

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = self.grid.window if window is None else window
        check_window(window, self._around)
        # Zeros where no part has a pixel: `valid` tells them apart, and whole numbers have no NaN.
        pixels = np.zeros((len(self.bands if bands is None else bands), *window.shape), self.dtype)
        valid = np.zeros(window.shape, bool)
        wanted = (
            np.ones(window.shape, bool)
            if self.mask is None
            else self.mask.burn(window, np.zeros(window.shape, np.uint8)) > 0
        )
        if wanted.any():
            # From the top down, so that parts that are covered completely are not read.
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
        return Patch(pixels, valid & wanted, window, None if self.mask is None else valid & ~wanted)

    def _units_of(self, part: Part) -> Units:
        """A part that declares no scale and offset has those of its neighbours: it is of the same type, and
        would else differ from them by the scale.
        """
        return part.units if declares(part.units) else self._stated

    def _converted(self, values: np.ndarray, part: Part, bands: Sequence[str] | None) -> np.ndarray:
        """Values (B, N) of a part in this scene's units."""
        units = self._units_of(part)
        if units == self.units:
            return values
        chosen = [self.index(band) for band in bands or self.bands]
        theirs, mine = np.array(units)[chosen], np.array(self.units)[chosen]
        # value * theirs.scale + theirs.offset == result * mine.scale + mine.offset
        factors, offsets = theirs[:, 0] / mine[:, 0], (theirs[:, 1] - mine[:, 1]) / mine[:, 0]
        return (values * factors[:, None] + offsets[:, None]).astype(np.float32)

    def _touching(self, window: Window) -> list[int]:
        """Numbers of the parts that intersect a window."""
        top, left, bottom, right = self._edges
        return np.flatnonzero(
            (top < window.bottom) & (bottom > window.top) & (left < window.right) & (right > window.left)
        ).tolist()

    def _scene(self, number: int) -> Scene:
        """An opened part, from a cache that closes the least recently used."""
        if number not in self._opened:
            if len(self._opened) >= MAX_OPEN:
                self._opened.popitem(last=False)[1].close()
            placed = self._placed[number]
            self._opened[number] = placed.part.open(onto=placed.onto)
        self._opened.move_to_end(number)
        return self._opened[number]

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape, window)


def seen_as(scene: Scene, *, pixel_size: float | None = None, units: Units | None = None) -> MosaicScene:
    """Resample an opened scene to pixels of `pixel_size` metres, or convert it to other units (scale,
    offset). The result has file handles of its own and is closed like any other scene.
    """
    grid, around = scene.grid, scene.around
    if pixel_size is not None:
        grid, around = _resized(grid, around, pixel_size, scene.name)
    mask = _mask_of(scene)
    return MosaicScene(scene.source, scene.name, grid, scene.parts, mask and mask.on(grid), units, around)


def _seen_from(grid: Grid, whole: Grid) -> Window:
    """All of a grid, in the pixels of a part of it."""
    left, top = ~grid.transform @ (whole.transform.c, whole.transform.f)
    return Window(round(top), round(left), *whole.shape)


def _resized(grid: Grid, around: Window, pixel_size: float, name: str) -> tuple[Grid, Window]:
    """A grid and what can be read around it in pixels of `pixel_size` metres: those that all that can be read
    has at this size, so that a part is resampled as it is within the whole. Where a projection makes the
    part's own pixels another size on the ground, such as far north in Web Mercator, these count.
    """
    before = grid.crop(around)
    own, theirs = grid.ground_pixel_size, before.ground_pixel_size
    if own and theirs and abs(own / theirs - 1) > OTHER_SIZE:
        pixel_size *= theirs / own
    whole = resized(before, pixel_size, name)
    if whole is before:
        return grid, around
    # Both begin at the same corner. A scale alone, whichever way the grid is turned.
    scale = ~before.transform @ whole.transform
    times = math.hypot(scale.a, scale.d)
    top, left = (math.floor(-start / times + SAME_PIXEL) for start in (around.top, around.left))
    bottom = math.ceil((grid.height - around.top) / times - SAME_PIXEL)
    right = math.ceil((grid.width - around.left) / times - SAME_PIXEL)
    part = Window(top, left, max(1, bottom - top), max(1, right - left)) & whole.window
    return whole.crop(part), Window(-part.top, -part.left, *whole.shape)


def _silent_parts(parts: Sequence[Part]) -> tuple[str, ...]:
    """A line where some parts declare a scale and offset, and others none."""
    stated, silent = ([p for p in parts if declares(p.units) == which] for which in (True, False))
    if not stated or not silent:
        return ()
    return (
        f"{some((p.title for p in silent), 3)} declare no scale and offset, and {stated[0].title} does: "
        "their values are taken to have the same. Declare others: gdal_edit.py -scale S -offset O FILE",
    )


def _mask_of(scene: Scene) -> PolygonIndex | None:
    """The polygons that an opened scene is cropped to."""
    scene = scene.origin if isinstance(scene, HeldScene) else scene
    return scene.mask if isinstance(scene, MosaicScene) else None


def _cut(grid: Grid, area: str | Path, name: str) -> tuple[Grid, PolygonIndex]:
    """Crop the grid to the bounds of the polygons in `area`; also returns the polygons. Raises BadInput where
    they are all outside the scene.
    """
    import shapely

    if not grid.is_georeferenced:
        raise BadInput(f"{name} has no coordinates, so it cannot be cropped to the area {area}.")
    polygons, _, notes = read_area(area, grid)
    xy = shapely.get_coordinates(polygons)
    # In pixels: bounds in the CRS would be far too wide on a rotated grid.
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
    return cut, PolygonIndex(polygons, np.ones(len(polygons), np.uint8), cut, notes)
