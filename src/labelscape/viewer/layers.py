"""The layers of the page: rasters that lie on one grid, the map's own, and how a window of each is read.

Tiles are cut from that grid without a projection: pixels stay what they are, and images without coordinates
can be shown. Rasters of another grid are resampled to it, classes to the nearest pixel.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from labelscape.crs import Unrelated, bounds_in
from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.class_map import ClassRaster
from labelscape.scenes.files import EXACT, gdal, open_raster
from labelscape.scenes.georeference import grid_of
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene import Scene

LARGEST_READ = 100_000_000
"""Pixels that are read for one tile of a raster without overviews (ours): a second or two."""
SPREAD, SPREAD_SIDE = 12, 64
"""Windows each way that stand for a large raster without overviews, and their side (ours)."""


class Reader(Protocol):
    """An open raster, used by one thread at a time."""

    def read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, h, w) of bands (from 0) decimated to `shape`, and their validity (h, w)."""

    def close(self) -> None: ...


class Pool:
    """Open readers of one raster, each lent to one thread at a time: GDAL's handles are not shared.

    Those that were opened before the file changed are closed and not lent again.
    """

    def __init__(self, make: Callable[[], Reader], stamp: Callable[[], object]) -> None:
        self._make, self.stamp = make, stamp
        self._free: list[tuple[object, Reader]] = []
        self._lock = Lock()

    @contextmanager
    def lent(self) -> Iterator[Reader]:
        stamp = self.stamp()
        with self._lock:
            old = [one for one in self._free if one[0] != stamp]
            self._free = [one for one in self._free if one[0] == stamp]
            reader = self._free.pop()[1] if self._free else None
        for _, one in old:
            one.close()
        reader = reader or self._make()
        try:
            yield reader
        except BaseException:
            # After an error a handle may answer with that error once more.
            reader.close()
            raise
        with self._lock:
            self._free.append((stamp, reader))

    def close(self) -> None:
        with self._lock:
            free, self._free = self._free, []
        for _, reader in free:
            reader.close()


@dataclass(frozen=True, eq=False)
class Layer:
    """A raster that the page can show.

    key     its name in addresses
    kind    "classes", "measure" (0 to `top`), "proba" (a band for each class, 0 to `top`) or "scene"
    bands   names of its bands
    legend  of classes and probabilities
    areas   (pixels, hectares) of each class, None where they are not known
    exact   are the areas counted from all pixels?
    top     the value at the end of its colours
    path    its file; a scene may have several, and has then none
    quick   has it overviews, or few pixels? Others are read in full for a coarse picture
    """

    key: str
    kind: str
    title: str
    pool: Pool
    bands: tuple[str, ...]
    legend: Legend | None = None
    areas: tuple[tuple[int, float | None], ...] | None = None
    exact: bool = True
    top: int = 100
    unit: str = ""
    path: Path | None = None
    quick: bool = True
    usual: tuple[int, ...] = field(default=(0,))
    """Bands that are shown first."""

    def stamp(self) -> object:
        """What changes when its files do."""
        return self.pool.stamp()

    def read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Reader.read`. Raises BadFile where the file is damaged."""
        with gdal(), self.pool.lent() as reader:
            return reader.read(bands, window, shape)


def version_of(stamp: object) -> str:
    """A short text that is another one when a stamp is."""
    return hashlib.sha256(repr(stamp).encode()).hexdigest()[:12]


def is_quick(pixels: int, overviews: object) -> bool:
    """Can a picture of a whole raster be made at once: from overviews, or since it is small?"""
    return bool(overviews) or pixels <= LARGEST_READ


def spread(window: Window) -> list[Window]:
    """Small windows all over a large one, to stand for it where a decimated read would read every block."""
    rows = np.linspace(window.top, max(window.top, window.bottom - SPREAD_SIDE), SPREAD).astype(int)
    columns = np.linspace(window.left, max(window.left, window.right - SPREAD_SIDE), SPREAD).astype(int)
    return [
        Window(row, column, SPREAD_SIDE, SPREAD_SIDE) & window
        for row in rows.tolist()
        for column in columns.tolist()
    ]


def stamp_of(path: str | Path) -> object:
    """What changes when a file is replaced or written."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class ByteReader:
    """A raster of a map: bytes, 255 where there is nothing."""

    def __init__(self, path: Path, grid: Grid | None) -> None:
        """`grid` is the one to resample to; None for its own."""
        self._handles = ExitStack()
        with gdal():
            file = self._handles.enter_context(open_raster(path))
            own = grid_of(file)
            if grid is not None and not own.matches(grid):
                if not (own.is_georeferenced and grid.is_georeferenced):
                    raise BadInput(f"{path} and the map have other sizes, and no coordinates to relate them.")
                check_overlap(str(path), own, grid)
                file = self._handles.enter_context(
                    WarpedVRT(
                        file,
                        crs=grid.crs,
                        transform=grid.transform,
                        height=grid.height,
                        width=grid.width,
                        resampling=Resampling.nearest,
                        tolerance=EXACT,
                        nodata=IGNORE,
                    )
                )
            # Of one band also its masks and its own nodata value count: maps of other software.
            self._classes = ClassRaster(file, path) if file.count == 1 else None
            self._file = file

    def read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._classes is not None:
            values = self._classes.read(window, shape)[None]
            nothing = (IGNORE, self._classes.nodata)
            return values, ~np.isin(values[0], nothing)
        values = self._file.read([b + 1 for b in bands], window=window.rio, out_shape=shape)
        return values, values[0] != IGNORE

    def close(self) -> None:
        self._handles.close()


class SceneReader:
    """Imagery on the map's grid."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        # A grey picture asks for one band three times: it is read once.
        once = tuple(dict.fromkeys(bands))
        pixels, valid = self._scene.shrunk([self._scene.bands[b] for b in once], shape, window)
        return pixels[[once.index(b) for b in bands]], valid

    def close(self) -> None:
        self._scene.close()


def scene_pool(source: str | list[str], grid: Grid | None) -> tuple[Pool, Scene]:
    """The readers of a scene on a grid, None for its own, and the opened scene. Raises as `open_scene` does,
    BadInput where it cannot be laid on the grid.
    """
    scene = open_scene(source)
    if grid is None or scene.grid.matches(grid):
        return Pool(lambda: SceneReader(scene.again()), _stamps(scene)), scene
    if not (scene.grid.is_georeferenced and grid.is_georeferenced):
        raise BadInput(f"{scene.name} and the map have other sizes, and no coordinates to relate them.")
    check_overlap(scene.name, scene.grid, grid)
    part = scene.parts[0]
    if len(scene.parts) > 1:
        raise BadInput(
            f"{scene.name} is a mosaic on another grid than the map; join it with gdalbuildvrt first."
        )
    return Pool(lambda: SceneReader(part.open(onto=grid)), _stamps(scene)), scene


def check_overlap(name: str, own: Grid, grid: Grid) -> None:
    """Raises BadInput where a raster called `name` lies beside the map: all of it would be empty."""
    mine, maps, apart = own.bounds_of(own.window), grid.bounds_of(grid.window), []
    # Both ways: of the whole Earth there is no box in the coordinates of a zone.
    for box, source, target, other in ((mine, own.crs, grid.crs, maps), (maps, grid.crs, own.crs, mine)):
        with suppress(Unrelated):
            left, bottom, right, top = bounds_in(box, source, target)
            if np.isfinite((left, bottom, right, top)).all():
                apart.append(left >= other[2] or right <= other[0] or bottom >= other[3] or top <= other[1])
    if apart and all(apart):
        raise BadInput(
            f"{name} and the map do not overlap: it covers {_covers(own)}, the map {_covers(grid)}. Pass one "
            "of the same place."
        )


def _covers(grid: Grid) -> str:
    west, south, east, north = grid.bounds_of(grid.window)
    return f"x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g} ({grid.crs.to_string()})"


def _stamps(scene: Scene) -> Callable[[], object]:
    # With their names: of files elsewhere no more is known.
    return lambda: tuple((file, stamp_of(file)) for file in scene.files)
