"""Scenes as one wants them: several laid onto one grid, cut to an area, resampled to a pixel size, in other units. Nothing is copied; windows are
read as asked.

A mosaic's later scenes lie on top of earlier ones, as in GDAL's own mosaics. Scenes that lie on the mosaic's pixels are read as they are;
others (another CRS, another pixel size, pixels shifted by a part) are resampled.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.imagery.files import Source, stack_files
from labelscape.imagery.polygons import PolygonIndex, read_polygons
from labelscape.imagery.raster import Patch, Scene, Units
from labelscape.imagery.stac import Declared, described, is_stac, name_of

MOST_OPEN = 32
"""Scenes of a mosaic whose files are open at a time."""
SAME_PIXEL = 0.01
"""Part of a pixel by which a scene may miss a mosaic's pixels and still be read as it is."""
SAME_GROUND = 0.02
"""Part of its own extent by which a file of a band stack may differ from the others."""


@dataclass(frozen=True)
class Part:
    """A scene that is, alone or beside others, laid onto a grid."""

    source: Source
    options: Mapping
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    units: Units

    @staticmethod
    def of(source: Source, *, declared: Declared = Declared(), **options: object) -> Part:
        """`declared` counts where the files themselves declare nothing."""
        with Scene(source, **options) as scene:
            units = scene.units if declares(scene.units) else tuple(declared.units.get(band, (1.0, 0.0)) for band in scene.bands)
            if scene.nodata is None and declared.nodata is not None:
                options["nodata"] = declared.nodata
            return Part(source, options, scene.grid, scene.bands, scene.dtype, units)


@dataclass(frozen=True)
class Placed:
    """A part on another grid: what it covers there, where its first pixel lies there, and the grid it is resampled to, if it must be."""

    part: Part
    place: Window
    origin: tuple[int, int]
    onto: Grid | None


def open_scene(
    source: Source, *, nodata: float | None = None, bands: Sequence[str] | None = None, wanted: Sequence[str] | None = None,
    area: str | Path | None = None, pixel_size: float | None = None,
) -> Scene:  # fmt: skip
    """Open a picture of the ground: a file, a band stack, a mosaic, or what a STAC item describes.

    Several files, or a folder of them, that cover the same ground with one band each are a band stack; files that lie beside each other
    are a mosaic, on the CRS and pixel size that most of them have. A STAC item (.json, or its address) is the scene made of its data
    assets, a collection of items the mosaic of theirs.

    bands       names of the bands the scene shall have, in this order
    wanted      names that will be asked for: where a STAC item has them all, files with other bands are not opened
    area        file of polygons in any CRS: the scene is cut to their bounds, and what lies outside them is invalid
    pixel_size  metres on the ground to resample to

    Raises BadFile where a file cannot be read, BadInput where files are neither a stack nor a mosaic, or the area lies elsewhere.
    """
    files = stack_files(source)
    if is_stac(source):
        items = described(source, bands or wanted)
        parts = [Part.of(i.files, nodata=nodata, bands=bands or i.bands, band_names=i.band_names, declared=i.declared) for i in items]
        grid = parts[0].grid if len(parts) == 1 else mosaic_grid(parts)
        name = name_of(items, source)
    elif len(files) == 1 or _is_stack(files):
        if area is None and pixel_size is None:
            return Scene(source, nodata=nodata, bands=bands)
        parts = [Part.of(source, nodata=nodata, bands=bands)]
        grid = parts[0].grid
        name = Path(str(source if isinstance(source, (str, Path)) else files[0])).stem
    else:
        parts = [Part.of(file, nodata=nodata, bands=bands) for file in files]
        grid = mosaic_grid(parts)
        name = Path(source).name if isinstance(source, (str, Path)) else f"{Path(files[0]).stem}_mosaic"
    if pixel_size is not None:
        grid = resized(grid, pixel_size, name)
    mask = None
    if area is not None:
        grid, mask = _cut(grid, area, name)
    return VirtualScene(source, name, grid, parts, mask)


class VirtualScene(Scene):
    """Parts on one grid, the later ones on top, and nothing outside a mask. `open_scene` makes them."""

    def __init__(
        self, source: Source, name: str, grid: Grid, parts: Sequence[Part], mask: PolygonIndex | None = None, units: Units | None = None
    ) -> None:  # fmt: skip
        """`units`: those that pixels are given in, float32 where a part has others; the first part's by default."""
        self.source, self.name, self.grid = source, name, grid
        self.bands, self.units = parts[0].bands, units or parts[0].units
        self.dtype = parts[0].dtype if all(part.units == self.units for part in parts) else np.dtype(np.float32)
        self.nodata = None  # each part knows its own
        self._parts, self._mask = parts, mask
        self._placed = [placed for part in parts if (placed := _placed(part, grid)).place.pixels]
        self._edges = np.array([[p.place.top, p.place.left, p.place.bottom, p.place.right] for p in self._placed]).reshape(-1, 4).T
        self._held: Patch | None = None
        self._opened: OrderedDict[int, Scene] = OrderedDict()
        self._stack = ExitStack()

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().files, *(file for part in self._parts for file in stack_files(part.source)))))

    def close(self) -> None:
        while self._opened:
            self._opened.popitem()[1].close()
        self._held = None

    @contextmanager
    def for_thread(self) -> Iterator[Scene]:
        if self._held is not None:
            yield self
            return
        with VirtualScene(self.source, self.name, self.grid, self._parts, self._mask, self.units) as other:
            yield other

    def hold(self) -> Scene:
        if self._held is None:
            held = self.read(self.grid.window)
            self.close()
            self._held = held
        return self

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = window or self.grid.window
        if self._held is not None:
            return super().read(window, bands)
        assert (window & self.grid.window) == window, f"{window} is not inside {self.grid.window}"
        pixels = np.zeros((len(self.bands if bands is None else bands), *window.shape), self.dtype)
        valid = np.zeros(window.shape, bool)
        wanted = np.ones(window.shape, bool) if self._mask is None else self._mask.burn(window, np.zeros(window.shape, np.uint8)) > 0
        if wanted.any():
            for number in self._touching(window)[::-1]:
                placed = self._placed[number]
                shared = window & placed.place
                row, column = placed.origin
                patch = self._scene(number).read(Window(shared.top - row, shared.left - column, *shared.shape), bands)
                here = shared.inset_of(window)
                fresh = patch.valid & ~valid[here]
                pixels[(slice(None), *here)][:, fresh] = self._converted(patch.pixels[:, fresh], placed.part, bands)
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
        return np.flatnonzero((top < window.bottom) & (bottom > window.top) & (left < window.right) & (right > window.left)).tolist()

    def _scene(self, number: int) -> Scene:
        """The opened part; the one that was not used for longest is closed for it."""
        if number not in self._opened:
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)[1].close()
            placed = self._placed[number]
            self._opened[number] = Scene(placed.part.source, **placed.part.options, onto=placed.onto)
        self._opened.move_to_end(number)
        return self._opened[number]

    def _shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return self._sampled(bands, shape)


def seen_as(scene: Scene, *, pixel_size: float | None = None, units: Units | None = None) -> VirtualScene:
    """An opened scene with pixels of `pixel_size` metres, or in other units. Close it like any other; it has handles of its own."""
    virtual = isinstance(scene, VirtualScene)
    if virtual:
        parts = scene._parts
    else:
        options = {key: value for key, value in scene._options.items() if key != "onto"}
        parts = [Part(scene.source, options, scene.grid, scene.bands, scene.dtype, scene.units)]
    grid = scene.grid if pixel_size is None else resized(scene.grid, pixel_size, scene.name)
    mask = scene._mask.on(grid) if virtual and scene._mask is not None else None
    return VirtualScene(scene.source, scene.name, grid, parts, mask, units)


def declares(units: Units) -> bool:
    """Does a file say what its values mean? A scale of 1 and an offset of 0 say nothing."""
    return any(pair != (1.0, 0.0) for pair in units)


def _said(source: Source) -> str:
    """A scene as a message names it."""
    return str(source) if isinstance(source, (str, Path)) else str(source[0]) + (f" and {len(source) - 1} beside it" if len(source) > 1 else "")


def _is_stack(files: Sequence[str]) -> bool:
    """Are these files bands of one scene, by where they lie? Files without coordinates are; `Scene` says what is wrong with them if they are not."""
    grids = [Part.of(file).grid for file in files]
    if any(g.crs is None for g in grids):
        return True
    places = {(g.crs.to_wkt(), *(round(v / (SAME_GROUND * size)) for v, size in zip(_corner(g), _extent(g)))) for g in grids}
    # A mosaic's files all lie elsewhere; where some share their ground, one that does not is a stray.
    return len(places) < len(files)


def _corner(grid: Grid) -> tuple[float, float]:
    return grid.transform @ (0, 0)


def _extent(grid: Grid) -> tuple[float, float]:
    width, height = grid.pixel_size
    return width * grid.width, height * grid.height


def mosaic_grid(parts: Sequence[Part]) -> Grid:
    """The grid that covers all parts, on the pixels of the kind (CRS, pixel size, direction) that most of them have.

    Raises BadInput for parts without coordinates or with other bands or types than the first.
    """
    first = parts[0]
    for part in parts:
        if part.grid.crs is None:
            raise BadInput(f"{_said(part.source)} has no coordinates, so its place in a mosaic is unknown.")
        for what, mine, theirs in (("bands", part.bands, first.bands), ("types", (str(part.dtype),), (str(first.dtype),))):
            if mine != theirs:
                raise BadInput(
                    f"{_said(part.source)} and {_said(first.source)} lie beside each other but do not make a mosaic: the {what} are {' '.join(mine)} "
                    f"and {' '.join(theirs)}."
                )
    kinds = [(p.grid.crs.to_wkt(), *(float(f"{v:.9g}") for v in (t.a, t.b, t.d, t.e))) for p in parts for t in (p.grid.transform,)]
    model = parts[kinds.index(Counter(kinds).most_common(1)[0][0])].grid
    bounds = np.array([_bounds_on(part.grid, model) for part in parts])
    top, left = (math.floor(v + SAME_PIXEL) for v in bounds[:, :2].min(axis=0))
    bottom, right = (math.ceil(v - SAME_PIXEL) for v in bounds[:, 2:].max(axis=0))
    return model.crop(Window(top, left, bottom - top, right - left))


def resized(grid: Grid, pixel_size: float, name: str = "the scene") -> Grid:
    """The grid over the same ground with pixels of `pixel_size` metres. Raises BadOption, BadInput where there are no coordinates."""
    if pixel_size <= 0:
        raise BadOption(f"A pixel size of {pixel_size:g} metres was asked for; it must be above 0.")
    if not grid.is_georeferenced:
        raise BadInput(f"{name} has no coordinates, so it cannot be resampled to {pixel_size:g} metres.")
    times = pixel_size / grid.ground_pixel_size
    whole = round(times) if times > 0.5 else 1 / round(1 / times)
    if abs(times / whole - 1) < 1e-3:  # so that 10 m are exactly 2 x 2 pixels of 5 m, wherever on the ellipsoid
        times = whole
    if times == 1:
        return grid
    height, width = (max(1, math.ceil(side / times - SAME_PIXEL)) for side in grid.shape)
    return Grid(grid.crs, grid.transform @ Affine.scale(times), height, width)


def _bounds_on(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a grid in the pixels of another, through any CRS; edges are followed, since they may be curves there."""
    steps = np.linspace(0, 1, 41)
    columns = np.concatenate([steps, steps, np.zeros(41), np.ones(41)]) * grid.width
    rows = np.concatenate([np.zeros(41), np.ones(41), steps, steps]) * grid.height
    xs, ys = grid.transform @ (columns, rows)
    if grid.crs != other.crs:
        from pyproj import Transformer

        xs, ys = Transformer.from_crs(grid.crs.to_wkt(), other.crs.to_wkt(), always_xy=True).transform(xs, ys)
    columns, rows = ~other.transform @ (np.asarray(xs), np.asarray(ys))
    return rows.min(), columns.min(), rows.max(), columns.max()


def _placed(part: Part, grid: Grid) -> Placed:
    """Where a part lies on the grid: on its very pixels where it does, else resampled to them."""
    if part.grid.crs == grid.crs:
        own = ~grid.transform @ part.grid.transform  # pixels of the part -> pixels of the grid
        drift = max(abs(own.a - 1), abs(own.b), abs(own.d), abs(own.e - 1)) * max(part.grid.shape)
        row, column = round(own.f), round(own.c)
        if drift < SAME_PIXEL and max(abs(own.f - row), abs(own.c - column)) < SAME_PIXEL:
            return Placed(part, Window(row, column, *part.grid.shape) & grid.window, (row, column), None)
    top, left, bottom, right = _bounds_on(part.grid, grid)
    top, left = math.floor(top), math.floor(left)
    place = Window(top, left, math.ceil(bottom) - top, math.ceil(right) - left) & grid.window
    return Placed(part, place, (place.top, place.left), grid.crop(place))


def _cut(grid: Grid, area: str | Path, name: str) -> tuple[Grid, PolygonIndex]:
    """The grid cut to the bounds of the polygons in `area`, and the polygons. Raises BadInput where none lies in the scene."""
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
            f"The area {area} lies outside {name}: in the scene's CRS it covers x {xy[:, 0].min():.9g} to {xy[:, 0].max():.9g}, "
            f"y {xy[:, 1].min():.9g} to {xy[:, 1].max():.9g}, the scene x {west:.9g} to {east:.9g}, y {south:.9g} to {north:.9g}. Check the CRS of both."
        )
    cut = grid.crop(window)
    return cut, PolygonIndex(polygons, np.ones(len(polygons), np.uint8), cut)
