"""Scenes that hold no file handle: thousands of small pictures cannot all stay open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property

import numpy as np

from labelscape.grid import Grid, Window
from labelscape.scenes.files import Source
from labelscape.scenes.raster import Patch, Scene, Units


class LazyScene(Scene):
    """A scene that opens its files at each read and closes them again; `with scene.for_thread() as open_one:`
    keeps them open for a while.

    Name and bands are known from the start; shape and type are looked up once, when asked for. Errors of a
    file (missing, damaged, other bands) come with the first look.
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        band_names: Sequence[str],
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.source, self.name = source, name
        self.bands = tuple(bands if bands is not None else band_names)
        self._options = {"nodata": nodata, "bands": bands, "band_names": band_names}
        self._stack, self._held, self._readers = ExitStack(), None, []

    @cached_property
    def _facts(self) -> tuple[Grid, np.dtype, float | None, Units]:
        with Scene(self.source, **self._options) as scene:
            return scene.grid, scene.dtype, scene.nodata, scene.units

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
    def units(self) -> Units:
        return self._facts[3]

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        if self._held is not None:
            return super().read(window, bands)
        with self.for_thread() as scene:
            return scene.read(window, bands)

    def hold(self) -> Scene:
        if self._held is None:
            with self.for_thread() as scene:
                self._held = scene.hold()._held
        return self

    def thumbnail(self, most: int = 1000) -> np.ndarray:
        if self._held is not None:
            return super().thumbnail(most)
        with self.for_thread() as scene:
            return scene.thumbnail(most)
