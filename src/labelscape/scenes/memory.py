"""Scenes whose pixels lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelscape.grid import Window
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import Part, Patch, Scene
from labelscape.scenes.validity import measured


class HeldScene(Scene):
    """Another scene with all its pixels in memory; `hold` makes it. Everything else is the other's, whose
    files may be closed.

    pixels    (B, H, W)
    unmasked  (H, W) bool: which pixels count, whatever their values; values say the rest at each read, for
              validity is that of the bands asked for
    """

    def __init__(self, origin: Scene, pixels: np.ndarray, unmasked: np.ndarray) -> None:
        self.origin, self.pixels, self.unmasked = origin, pixels, unmasked
        self.source, self.name, self.grid = origin.source, origin.name, origin.grid
        self.bands, self.dtype, self.nodata, self.units = (
            origin.bands,
            origin.dtype,
            origin.nodata,
            origin.units,
        )

    @property
    def files(self) -> tuple[str, ...]:
        return self.origin.files

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.origin.parts

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = window or self.grid.window
        assert (window & self.grid.window) == window, f"{window} is not inside {self.grid.window}"
        rows, columns = window.inset_of(self.grid.window)
        if bands is None or tuple(bands) == self.bands:
            pixels = self.pixels[:, rows, columns].copy()
        else:
            pixels = self.pixels[[self.index(b) for b in bands], rows, columns]
        return Patch(pixels, measured(pixels, self.nodata) & self.unmasked[rows, columns], window)

    def shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape)

    def again(self) -> HeldScene:
        return HeldScene(self.origin, self.pixels, self.unmasked)

    def hold(self) -> HeldScene:
        return self

    def close(self) -> None:
        """Let go of the pixels; others that share them keep them."""
        self.pixels, self.unmasked = self.pixels[:, :0, :0], self.unmasked[:0, :0]
