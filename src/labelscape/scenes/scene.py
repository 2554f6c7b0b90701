"""The base class of all scenes, `Scene`, with the values it returns: `Patch` (a window) and `Part` (a
source).

`FileScene` (raster.py) reads files, `LazyScene` opens them at each read, `MosaicScene` reads several scenes
as one, `HeldScene` (memory.py) keeps another's pixels in memory, `ArrayScene` wraps an array. Code that reads
scenes depends on `Scene` alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from labelscape.errors import UnknownName
from labelscape.grid import Grid, Window, decimated
from labelscape.scenes.picture import PICTURES, png, stretched
from labelscape.scenes.validity import Nodata

Units = tuple[tuple[float, float], ...]
"""Per band (scale, offset), as files declare them: a stored value times the scale, plus the offset, is the
measured quantity.
"""

IN_MEMORY = "scene"
"""Name of a scene that has no file to take its name from."""
BLOCK = 1024
"""Side of the windows in which a scene is read from end to end."""
MAX_LISTED = 12
"""Bands that a scene's text lists; hyperspectral scenes have hundreds."""
QUICK_PIXELS = 25_000_000
"""Larger scenes are shown in a notebook only from their overviews: without overviews it takes minutes."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A window of a scene: pixels (B, H, W) in the scene's own type and units, the validity mask (H, W) bool,
    and the window in the scene's pixels.

    hidden  (H, W) bool: pixels with data outside of the area that the scene is cropped to, which are not
            valid; None where there is no such area
    """

    pixels: np.ndarray
    valid: np.ndarray
    window: Window
    hidden: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """(H, W) bool: pixels with data, also outside of the area. A network that maps the area sees these as
        it would in a map of the whole scene.
        """
        return self.valid if self.hidden is None else self.valid | self.hidden


class Scene:
    """An image of the ground opened for windowed reads. Use it as a context manager, in one thread at a time
    (`for_thread` opens handles for another). Scenes compare by identity.

    `Scene("scene.tif")` opens a file or a band stack and returns a `FileScene`, as `pathlib.Path(...)`
    returns the path class of the system at hand; `open_scene` also opens mosaics, STAC items and objects of
    other libraries.

    grid    place and shape         bands  names, in the order of the pixels
    dtype   of the pixels           nodata the value that means nodata in all bands, None where there is none
    units   (scale, offset) a band  name   stem of the files that a map of it gets
    source  what it was opened from
    band_nodata  the nodata value of each band, as `validity.measured` takes them
    notes        what was decided about its files, such as an alpha band that is read as imagery: a line each
    alphas       how many bands of its files are read as masks, since they are marked as alpha and have a
                 mask's values; of mosaics not counted
    """

    source: object
    name: str
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    nodata: float | None
    band_nodata: tuple[Nodata | None, ...]
    units: Units
    notes: tuple[str, ...] = ()
    alphas: int = 0

    def __new__(cls, *_: object, **__: object) -> Scene:
        # Imported here because raster.py itself imports this module.
        if cls is Scene:
            from labelscape.scenes.raster import FileScene

            # Python then runs FileScene.__init__ too, since what __new__ returns is a Scene.
            cls = FileScene
        return super().__new__(cls)

    @property
    def around(self) -> Window:
        """What can be read, in pixels of its grid: of a scene that is cropped to an area also the ground
        beside it, which a network sees though none of it is valid.
        """
        return self.grid.window

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the scene is read from; empty where its pixels are in memory."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sources that can be resampled to other grids: the scene itself, or the parts of a mosaic."""
        raise NotImplementedError

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        """Read a window inside the grid, by default all of it, or inside of `around`; `bands` selects and
        orders bands by name.

        Validity is that of the bands read: nodata in other bands does not count. Raises BadFile where the
        file is truncated or damaged, UnknownName for a band the scene does not have.
        """
        raise NotImplementedError

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, h, w) of a window, by default of the whole scene, and their validity (h, w) decimated to
        a smaller shape, from overviews where there are any.
        """
        raise NotImplementedError

    def again(self) -> Scene:
        """Open the same scene again with file handles of its own, to be closed separately."""
        raise NotImplementedError

    def hold(self) -> Scene:
        """Load all pixels into memory (`nbytes`) and return that scene, whose reads are copies of slices.
        This scene's files are closed; what lies `around` is still read from them.
        """
        raise NotImplementedError

    def may_hold(self, window: Window) -> bool:
        """False where a sparse file certainly has no valid pixel in a window, known without reading any."""
        return True

    @property
    def in_memory(self) -> bool:
        """Are some of its pixels in no file of `files`, so that a path cannot open them again?"""
        return False

    @property
    def has_overviews(self) -> bool:
        """Has the file overviews (pyramid levels), so that a small picture is quick to make?"""
        return False

    def close(self) -> None:
        """Close the files. Closing twice does no harm."""

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def for_thread(self) -> Iterator[Scene]:
        """The same scene with file handles of its own for another thread, closed on leaving the block: a GDAL
        dataset may be read by one thread only.
        """
        with self.again() as other:
            yield other

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels in memory."""
        return self.grid.window.pixels * len(self.bands) * self.dtype.itemsize

    def digest(self, windows: Iterable[Window] | None = None) -> str:
        """SHA-256 of all pixels and their validity, or of those in `windows`, which may lie in `around`: it
        reads all of them.

        A scene in memory has no path or date: only its pixels show that an interrupted map may be resumed.
        """
        found = hashlib.sha256()
        # The order of the blocks is part of the digest: with another BLOCK no interrupted map would be
        # resumed.
        for window in self.grid.window.blocks(BLOCK) if windows is None else windows:
            patch = self.read(window)
            found.update(np.ascontiguousarray(patch.pixels).tobytes() + patch.valid.tobytes())
        return found.hexdigest()

    def index(self, band: str) -> int:
        """Position of a band by name."""
        if band not in self.bands:
            raise UnknownName(f"band of {self.name}", band, self.bands)
        return self.bands.index(band)

    def thumbnail(self, most: int = 1000) -> np.ndarray:
        """A quicklook of at most `most` pixels a side: uint8 (h, w, 3), true colour with a percentile
        stretch.

        Red, green and blue by their names (or Sentinel-2's B04 B03 B02), else the first three bands, else the
        first as grey; nodata is white.
        """
        return stretched(*self.shrunk(self._shown, decimated(self.grid.shape, most)))

    def picture(self, window: Window, most: int = 400) -> np.ndarray:
        """A window in true colour like `thumbnail`, of at most `most` pixels a side: every n-th pixel."""
        patch, every = self.read(window), -(-max(window.shape) // most)
        bands = [self.bands.index(name) for name in self._shown]
        return stretched(patch.pixels[bands, ::every, ::every], patch.valid[::every, ::every])

    @property
    def _shown(self) -> tuple[str, ...]:
        """The three bands of pictures."""
        sets = (*PICTURES, self.bands[:3], self.bands[:1] * 3)
        return next(names for names in sets if len(names) == 3 and set(names) <= set(self.bands))

    def __repr__(self) -> str:
        return f"<Scene {self.name}: {', '.join(text for _, text in self._facts_as_text())}>"

    def _repr_html_(self) -> str:
        """What notebooks show: a table and, where that is quick, a thumbnail."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{what}</th><td style='text-align:left'>{html.escape(text)}</td>"
            "</tr>"
            for what, text in (("name", self.name), *self._facts_as_text())
        )
        picture = ""
        with suppress(OSError):  # closed meanwhile, or damaged: the table still says which scene it was
            if self.grid.window.pixels <= QUICK_PIXELS or self.has_overviews:
                data = base64.b64encode(png(self.thumbnail(160))).decode()
                picture = f"<td><img alt='' src='data:image/png;base64,{data}'></td>"
        return f"<table><tr>{picture}<td><table>{rows}</table></td></tr></table>"

    def _facts_as_text(self) -> list[tuple[str, str]]:
        facts = [
            ("size", f"{self.grid.width} x {self.grid.height}"),
            ("bands", bands_text(self.bands)),
            ("type", str(self.dtype)),
            ("CRS", crs_text(self.grid)),
        ]
        size = self.grid.ground_pixel_size
        return facts if size is None else [*facts, ("pixel", f"{size:.3g} m")]


@dataclass(frozen=True)
class Part:
    """One source of a scene, alone or in a mosaic, not opened: its facts, and a function that opens it.

    title  as messages name it
    open   returns a scene with handles of its own, resampled to the grid `onto` where one is given
    """

    title: str
    files: tuple[str, ...]
    open: Callable[..., Scene]
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    units: Units
    in_memory: bool = False
    notes: tuple[str, ...] = ()


def bands_text(bands: Sequence[str]) -> str:
    """The number of bands and the first of their names, for messages."""
    listed = " ".join(bands[:MAX_LISTED]) + (" ..." if len(bands) > MAX_LISTED else "")
    return f"{len(bands)} band{'s' * (len(bands) != 1)} ({listed})"


def crs_text(grid: Grid) -> str:
    """A CRS as a short text: its EPSG code, else its own name."""
    if grid.crs is None:
        return "no CRS"
    code = grid.crs.to_epsg()
    if code is not None:
        return f"EPSG:{code}"
    wkt = grid.crs.to_wkt()  # PROJCS["name", ...]: the first quoted word is the name
    return wkt.split('"')[1] if wkt.count('"') > 1 else "a CRS without a name"
