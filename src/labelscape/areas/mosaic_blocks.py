"""What the pixels of a mosaic are, block by block (see `mosaic`)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from labelscape.areas.mosaic_grids import MapSource, shift_between, zone_costs
from labelscape.crs import Unrelated, bounds_in, transformed
from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_map import class_raster
from labelscape.rasters.overviews import BLOCK
from labelscape.scenes.files import READ_FAILURES, damaged, gdal, open_raster

MAX_OPEN = 48
"""Rasters that are open at a time (ours); systems limit the open files of a process."""
MOST_VALUES = 4 * 2**20
"""Pixels times classes that are decided, and pixels times bands that are read, at a time (ours)."""
SNAP = 1e-6
"""Of a pixel: a place on the border of two counts for the next one, whatever the rounding (ours)."""
LEAST_SIDE = 16
"""Of the parts in which a block is made, in pixels (ours)."""


@dataclass(frozen=True)
class Placed:
    """A map on the grid of the mosaic: the window that it may touch, the shift where its pixels are those of
    the mosaic, and how many of its pixels lie along one of the mosaic's.
    """

    source: MapSource
    place: Window
    shift: tuple[int, int] | None
    fine: float = 1.0


@dataclass(frozen=True)
class _Sample:
    """Which pixels of a map are read for a window of the mosaic, and where they go: all of them into a
    rectangle, or those at `picks` to the pixels of a mask.
    """

    read: Window
    shape: tuple[int, int]
    onto: tuple
    picks: tuple[np.ndarray, np.ndarray] | None = None

    def put(self, values: np.ndarray) -> np.ndarray:
        """uint8 (..., h, w) as read -> (..., H, W) in the mosaic's window, 255 elsewhere."""
        made = np.full((*values.shape[:-2], *self.shape), IGNORE, np.uint8)
        made[(..., *self.onto)] = values if self.picks is None else values[(..., *self.picks)]
        return made


class MosaicBlocks:
    """One file of a mosaic: which maps touch it, and what its pixels are. A context manager, which closes
    the maps.

    overlapped, disputed  pixels so far that several maps answered, and of them those of different classes
    """

    def __init__(
        self, sources: Sequence[MapSource], legend: Legend, method: str, grid: Grid, zone: int | None
    ) -> None:
        """`zone` is the number of the file's CRS, where each place belongs to one of several files."""
        self.legend, self.method, self.grid, self.zone = legend, method, grid, zone
        self.crs = {source.zone: source.grid.crs for source in sources}
        self.placed = [one for one in (_placed(s, grid) for s in sources) if one and one.place.pixels]
        # As one array: a block is compared with thousands of maps at once.
        edges = [[p.place.top, p.place.left, p.place.bottom, p.place.right] for p in self.placed]
        self._edges = np.array(edges).reshape(-1, 4).T
        self._files: OrderedDict[str, rasterio.DatasetReader] = OrderedDict()
        self._bands: dict[str, list[int]] = {}
        self.overlapped = self.disputed = 0

    def __enter__(self) -> MosaicBlocks:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def touching(self, window: Window) -> list[Placed]:
        """The maps that may have a pixel in a window, in the order given."""
        top, left, bottom, right = self._edges
        found = (top < window.bottom) & (bottom > window.top) & (left < window.right) & (right > window.left)
        return [self.placed[number] for number in np.flatnonzero(found)]

    def touched(self) -> list[Window]:
        """The blocks that maps may touch; all others are nodata, and cost nothing."""
        rows, columns = (-(-side // BLOCK) for side in self.grid.shape)
        numbers = set()
        for one in self.placed:
            place = one.place
            for row in range(place.top // BLOCK, min(rows, -(-place.bottom // BLOCK))):
                for column in range(place.left // BLOCK, min(columns, -(-place.right // BLOCK))):
                    numbers.add((row, column))
        whole = self.grid.window
        return [Window(r * BLOCK, c * BLOCK, BLOCK, BLOCK) & whole for r, c in sorted(numbers)]

    def classes(self, block: Window) -> np.ndarray:
        """(h, w) uint8: the class values of a block, 255 where it is nodata."""
        values = np.full(block.shape, IGNORE, np.uint8)
        # In parts: of fine pixels many lie under one of the mosaic, and of many classes each is long.
        depth = len(self.legend) if self.method == "proba" else 1
        fine = max((one.fine for one in self.touching(block)), default=1.0)
        side = int(math.sqrt(MOST_VALUES / depth) / max(1.0, fine))
        for part in block.blocks(max(LEAST_SIDE, min(BLOCK, side))):
            values[part.inset_of(block)] = self._part(part)
        return values

    def _part(self, window: Window) -> np.ndarray:
        maps = self.touching(window)
        # A map alone is right, whatever its weights: most of a mosaic, and its probabilities are many bands.
        decision = _Decision("first" if len(maps) == 1 else self.method, self.legend, window.shape)
        places: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        answered: dict[int, np.ndarray] = {}
        for one in maps:
            sample = self._sampled(one, window, places)
            if sample is None:
                continue
            source = one.source
            classes = sample.put(source.classes[self._read_classes(source, sample.read)])
            here = classes != IGNORE
            if not here.any():
                continue
            decision.add(classes, here, *self._weights(source, sample, alone=len(maps) == 1))
            answered[source.zone] = answered.get(source.zone, False) | here
        own = self._own(window, answered)
        self.overlapped += int(np.count_nonzero((decision.count > 1) & own))
        self.disputed += int(np.count_nonzero(decision.differ & own))
        return np.where(own, decision.values(), np.uint8(IGNORE))

    def _sampled(
        self, one: Placed, window: Window, places: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> _Sample | None:
        source = one.source
        if one.shift is not None:
            shared = window & one.place
            read = Window(shared.top - one.shift[0], shared.left - one.shift[1], *shared.shape)
            return _Sample(read, window.shape, shared.inset_of(window))
        if source.zone not in places:  # once for all maps of a CRS
            places[source.zone] = transformed(*_centres(self.grid, window), self.grid.crs, source.grid.crs)
        columns, rows = ~source.grid.transform @ places[source.zone]
        # Places that have no coordinates there are infinite, and are not inside.
        rows, columns = np.floor(rows + SNAP), np.floor(columns + SNAP)
        height, width = source.grid.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        if not inside.any():
            return None
        rows, columns = rows[inside].astype(np.int64), columns[inside].astype(np.int64)
        top, left = int(rows.min()), int(columns.min())
        read = Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        return _Sample(read, window.shape, (inside,), (rows - top, columns - left))

    def _weights(
        self, source: MapSource, sample: _Sample, *, alone: bool
    ) -> tuple[np.ndarray | None, list[int]]:
        """What decides: confidence (h, w), or probabilities (K, h, w) and the class of each. Of a map `alone`
        the file is only checked.
        """
        if self.method not in ("confidence", "proba"):
            return None, []
        path = source.beside(self.method)
        self._file(path, source)
        bands = self._classes_of_bands(path, source) if self.method == "proba" else []
        if alone:
            return None, []
        if self.method == "confidence":
            return sample.put(self._read(path, source, sample.read, [1]))[0], []
        return sample.put(self._read(path, source, sample.read, None)), bands

    def _classes_of_bands(self, path: str, source: MapSource) -> list[int]:
        """The number of each band's class in the mosaic's legend, by the bands' names."""
        if path not in self._bands:
            names = [name or "" for name in self._file(path, source).descriptions]
            strange = [name for name in names if name not in self.legend.names]
            if strange:
                raise BadInput(
                    f"{path} has a band called {strange[0]!r}, which is no class of {source.path}: a band "
                    "for each class, of its name, was expected."
                )
            self._bands[path] = [self.legend.names.index(name) for name in names]
        return self._bands[path]

    def _own(self, window: Window, answered: dict[int, np.ndarray]) -> np.ndarray:
        """(h, w): which pixels belong to this file, of the CRSs that have a map there."""
        if self.zone is None or list(answered) == [self.zone]:
            return np.ones(window.shape, bool)
        if self.zone not in answered:
            return np.zeros(window.shape, bool)
        lon, lat = transformed(*_centres(self.grid, window), self.grid.crs)
        costs = zone_costs({zone: self.crs[zone] for zone in answered}, lon, lat)
        best, owner = np.full(window.shape, np.inf), np.full(window.shape, -1)
        for zone in sorted(answered):
            better = answered[zone] & (costs[zone] < best)
            best[better], owner[better] = costs[zone][better], zone
        return owner == self.zone

    def _read(self, path: str, source: MapSource, window: Window, bands: list[int] | None) -> np.ndarray:
        try:
            with gdal():
                return self._file(path, source).read(bands, window=window.rio)
        except READ_FAILURES as error:
            if isinstance(error, BadFile):
                raise
            raise damaged(path, error) from error

    def _read_classes(self, source: MapSource, window: Window) -> np.ndarray:
        with gdal():
            return class_raster(self._file(source.path, source), source.path).read(window)

    def _file(self, path: str, source: MapSource) -> rasterio.DatasetReader:
        """An open raster, from a cache that closes the least recently used."""
        if path not in self._files:
            if len(self._files) >= MAX_OPEN:
                self._files.popitem(last=False)[1].close()
            file = open_raster(path)
            if file.shape != source.grid.shape or (path != source.path and file.dtypes[0] != "uint8"):
                file.close()
                raise BadInput(
                    f"{Path(path).name} is not of the same map as {source.path}: it has {file.width} x "
                    f"{file.height} pixels of {file.dtypes[0]}."
                )
            self._files[path] = file
        self._files.move_to_end(path)
        return self._files[path]


def _centres(grid: Grid, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (h, w) of the centres of pixels."""
    rows, columns = np.mgrid[window.top : window.bottom, window.left : window.right] + 0.5
    return grid.transform @ (columns, rows)


def _placed(source: MapSource, grid: Grid) -> Placed | None:
    """Where a map lies on a grid; None where that cannot be known."""
    shift = shift_between(source.grid, grid)
    if shift is not None:
        return Placed(source, Window(*shift, *source.grid.shape) & grid.window, shift)
    # Generously: the sides are compared at some places only.
    try:
        box = bounds_in(source.grid.bounds_of(source.grid.window), source.grid.crs, grid.crs)
    except Unrelated as error:
        raise BadInput(f"{source.path} cannot be put on the grid of the mosaic: {error}") from error
    if not np.isfinite(box).all():
        return Placed(source, grid.window, None, _fineness(source.grid, grid))
    west, south, east, north = box
    columns, rows = ~grid.transform @ (np.array([west, west, east, east]), np.array([south, north] * 2))
    margin = 2 + 0.01 * max(np.ptp(rows), np.ptp(columns))
    top, left = math.floor(rows.min() - margin), math.floor(columns.min() - margin)
    bottom, right = math.ceil(rows.max() + margin), math.ceil(columns.max() + margin)
    place = Window(top, left, bottom - top, right - left) & grid.window
    return Placed(source, place, None, _fineness(source.grid, grid))


def _fineness(own: Grid, grid: Grid) -> float:
    """How many of a map's pixels lie along one of the mosaic's."""
    sizes = own.ground_pixel_size, grid.ground_pixel_size
    return sizes[1] / sizes[0] if all(sizes) else max(grid.pixel_size) / min(own.pixel_size)


@dataclass
class _Decision:
    """The pixels of a window, map after map; `count` of the maps that answered, `differ`: not all alike."""

    method: str
    legend: Legend
    shape: tuple[int, int]
    count: np.ndarray = field(init=False)
    differ: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.count = np.zeros(self.shape, np.uint16)
        self.differ = np.zeros(self.shape, bool)
        self._first, self._chosen = np.full((2, *self.shape), IGNORE, np.uint8)
        self._best = np.full(self.shape, -1, np.int16)
        depth = len(self.legend) if self.method == "proba" else 0
        self._sums = np.zeros((depth, *self.shape), np.uint32)
        self._known = np.zeros(self.shape, bool)

    def add(
        self, classes: np.ndarray, here: np.ndarray, weights: np.ndarray | None, bands: list[int]
    ) -> None:
        """Add a map: class values (h, w), which of them are `here`, and what decides."""
        fresh = here & (self.count == 0)
        self._first[fresh] = classes[fresh]
        self.differ |= here & (classes != self._first)
        if self.method == "last":
            fresh = here
        elif self.method == "confidence":
            # Nodata where there is a class, as no map of ours has it: the class counts, but least.
            confidence = np.where(weights == IGNORE, 0, weights).astype(np.int16)
            fresh = here & (confidence > self._best)
            self._best[fresh] = confidence[fresh]
        self._chosen[fresh] = classes[fresh]
        for number, band in zip(bands, weights if bands else ()):
            self._sums[number] += np.where(here & (band != IGNORE), band, np.uint8(0))
            self._known |= classes == self.legend.values[number]
        self.count += here

    def values(self) -> np.ndarray:
        """(h, w) uint8: the classes decided, 255 without an answer."""
        if self.method != "proba":
            return self._chosen
        best = np.array(self.legend.values, np.uint8)[self._sums.argmax(axis=0)]
        # The class "unknown" has no probability: it stays where all answers are unknown.
        return np.where((self.count > 1) & self._known, best, self._chosen)
