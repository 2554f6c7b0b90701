"""Scenes that keep no file open: data sets have thousands of small images, more than a process may open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from labelscape.grid import Grid, Window
from labelscape.scenes.files import Files, stack_files
from labelscape.scenes.memory import HeldScene
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Part, Patch, Scene, Units, bands_text
from labelscape.scenes.validity import Rules


class LazyScene(Scene):
    """A scene that opens its files at each read and closes them again. For several reads,
    `with scene.for_thread() as open_one:` keeps them open.

    Name and bands are given; shape and type are read from the file once, when first asked for. Errors of a
    file (missing, damaged, other bands) are raised then, not on construction.
    """

    def __init__(
        self,
        source: Files,
        *,
        name: str,
        band_names: Sequence[str],
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.source, self.name = source, name
        self.bands = tuple(bands if bands is not None else band_names)
        self._options = {"nodata": nodata, "bands": bands, "band_names": band_names}

    @cached_property
    def _facts(self) -> tuple[Grid, np.dtype, float | None, Rules, Units, tuple[str, ...]]:
        # All of them at once: each opening costs a read of the header, on a server a request.
        with self.again() as scene:
            return scene.grid, scene.dtype, scene.nodata, scene.band_nodata, scene.units, scene.notes

    @property
    def grid(self) -> Grid:
        return self._facts[0]

    @property
    def dtype(self) -> np.dtype:
        return self._facts[1]

    @property
    def nodata(self) -> float | None:
        return self._facts[2]

    @property
    def band_nodata(self) -> Rules:
        return self._facts[3]

    @property
    def units(self) -> Units:
        return self._facts[4]

    @property
    def notes(self) -> tuple[str, ...]:
        return self._facts[5]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(stack_files(self.source))

    @property
    def parts(self) -> tuple[Part, ...]:
        with self.again() as scene:
            return scene.parts

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        with self.again() as scene:
            return scene.read(window, bands)

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        with self.again() as scene:
            return scene.shrunk(bands, shape, window)

    def again(self) -> FileScene:
        return FileScene(self.source, **self._options)

    def hold(self) -> HeldScene:
        # Held under this scene: the opened one has its name from its files.
        held = self.again().hold()
        return HeldScene(self, held.pixels, held.unmasked)

    def __repr__(self) -> str:
        # Printing must not open a file that may be missing.
        if "_facts" in self.__dict__:
            return super().__repr__()
        return f"<Scene {self.name}: {bands_text(self.bands)}, not opened yet>"
