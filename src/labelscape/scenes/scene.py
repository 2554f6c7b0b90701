"""What every scene is, wherever its pixels lie: `Scene`, and the values that its reads and its places give.

`FileScene` (raster.py) reads files, `LazyScene` opens them at each read, `MosaicScene` reads several scenes
as one, `HeldScene` (memory.py) keeps another's pixels, `ArrayScene` has an array. Whoever reads asks for no
more than a `Scene`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from labelscape.errors import UnknownName
from labelscape.grid import Grid, Window
from labelscape.scenes.picture import PICTURES, png, stretched

Units = tuple[tuple[float, float], ...]
"""Per band (scale, offset), as files declare them: a stored value times the scale, plus the offset, is the
measured quantity.
"""

IN_MEMORY = "scene"
"""What a scene is called that has no file to be called after."""
BLOCK = 1024
"""Side of the windows in which a scene is read from end to end."""
MOST_LISTED = 12
"""Bands that a scene's text names; hyperspectral scenes have hundreds."""
QUICK_PIXELS = 25_000_000
"""Scenes beyond it get a picture in a notebook only from overviews: without them it takes minutes."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A window of a scene: pixels (B, H, W) in the scene's own type and units, valid (H, W) bool, and
    where it lies.
    """

    pixels: np.ndarray
    valid: np.ndarray
    window: Window


class Scene:
    """A picture of the ground, opened for reading. Use it as a context manager; one thread at a time
    (`for_thread` gives another handle). Scenes are equal only to themselves.

    `Scene("scene.tif")` opens a file or a band stack, a `FileScene`, as `pathlib.Path(...)` makes the path of
    the system at hand; `open_scene` opens mosaics, STAC items and objects of other libraries too.

    grid    place and shape         bands  names, in the order of the pixels
    dtype   of the pixels           nodata the value that means "nothing here", None where there is none
    units   (scale, offset) a band  name   stem of the files that a map of it gets
    source  what it was opened from
    """

    source: object
    name: str
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    nodata: float | None
    units: Units

    def __new__(cls, *_: object, **__: object) -> Scene:
        if cls is Scene:
            from labelscape.scenes.raster import FileScene

            cls = FileScene
        return super().__new__(cls)

    # ------------------------------------------------------------------------------ what each kind has to say

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the scene is read from; none where its pixels lie in memory."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Part, ...]:
        """The scene as it can be laid onto other grids: itself, or what a mosaic is made of."""
        raise NotImplementedError

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        """Pixels and validity of a window inside the grid; `bands` picks and orders them by name, and
        validity is theirs.

        Raises BadFile where the file ends early or is damaged.
        """
        raise NotImplementedError

    def shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, h, w) of the whole scene and their validity (h, w) at a smaller shape, as quickly as
        can be.
        """
        raise NotImplementedError

    def again(self) -> Scene:
        """The same scene with handles of its own, to be closed for itself."""
        raise NotImplementedError

    def hold(self) -> Scene:
        """The scene with all its pixels in memory; every read is a copy of a slice. This one's files are
        closed.
        """
        raise NotImplementedError

    # ---------------------------------------------------------------------------- what may stay as it is here

    def may_hold(self, window: Window) -> bool:
        """False where a sparse file certainly has no valid pixel in a window, known without reading any."""
        return True

    @property
    def in_memory(self) -> bool:
        """Do some of its pixels lie in no file of `files`?"""
        return False

    @property
    def has_overviews(self) -> bool:
        """Are there smaller copies of the pixels that a picture can be made of?"""
        return False

    def close(self) -> None:
        """Close the files. Closing twice does no harm."""

    # ---------------------------------------------------------------------------------------------- all alike

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def for_thread(self) -> Iterator[Scene]:
        """The same scene with handles of its own, for another thread."""
        with self.again() as other:
            yield other

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels in memory."""
        return self.grid.window.pixels * len(self.bands) * self.dtype.itemsize

    def digest(self) -> str:
        """SHA-256 of all pixels and their validity, which tells scenes in memory apart. Reads all of them."""
        found = hashlib.sha256()
        for window in self.grid.window.blocks(BLOCK):
            patch = self.read(window)
            found.update(np.ascontiguousarray(patch.pixels).tobytes() + patch.valid.tobytes())
        return found.hexdigest()

    def index(self, band: str) -> int:
        """Position of a band by name."""
        if band not in self.bands:
            raise UnknownName(f"band of {self.name}", band, self.bands)
        return self.bands.index(band)

    def thumbnail(self, most: int = 1000) -> np.ndarray:
        """A picture of the scene, at most `most` pixels a side: uint8 (h, w, 3), the colours a person
        expects, stretched to be seen.

        Red, green and blue by their names (or Sentinel-2's B04 B03 B02), else the first three bands, else the
        first as grey; nodata is white.
        """
        height, width = self.grid.shape
        shrink = max(1.0, max(height, width) / most)
        shape = max(1, round(height / shrink)), max(1, round(width / shrink))
        sets = (*PICTURES, self.bands[:3], self.bands[:1] * 3)
        shown = next(names for names in sets if len(names) == 3 and set(names) <= set(self.bands))
        return stretched(*self.shrunk(shown, shape))

    def __repr__(self) -> str:
        return f"<Scene {self.name}: {', '.join(text for _, text in self._facts_as_text())}>"

    def _repr_html_(self) -> str:
        """A table and, where that is quick, a small picture: what notebooks show."""
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
    """A scene that is, alone or beside others, laid onto a grid: what is known of it, and how it is opened.

    said   as messages name it
    open   a scene with handles of its own, resampled to a grid where one is given
    """

    said: str
    files: tuple[str, ...]
    open: Callable[..., Scene]
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    units: Units
    in_memory: bool = False


def bands_text(bands: Sequence[str]) -> str:
    """Bands in a few words: how many, and the first of their names."""
    listed = " ".join(bands[:MOST_LISTED]) + (" ..." if len(bands) > MOST_LISTED else "")
    return f"{len(bands)} band{'s' * (len(bands) != 1)} ({listed})"


def crs_text(grid: Grid) -> str:
    """A CRS in a few letters: its EPSG code, else its own name."""
    if grid.crs is None:
        return "no CRS"
    code = grid.crs.to_epsg()
    if code is not None:
        return f"EPSG:{code}"
    wkt = grid.crs.to_wkt()
    return wkt.split('"')[1] if wkt.count('"') > 1 else "a CRS without a name"
