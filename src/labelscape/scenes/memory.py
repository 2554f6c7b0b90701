"""Scenes loaded into memory (`HeldScene`), and windows cut from arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from labelscape.grid import Window, check_window
from labelscape.progress import bar
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import Part, Patch, Scene
from labelscape.scenes.validity import measured


class Sliced(Protocol):
    """An array (B, H, W) sliced as numpy arrays are, with a list or a slice for the bands."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: tuple) -> np.ndarray: ...


def cut(
    scene: Scene,
    pixels: Sliced,
    unmasked: np.ndarray | None,
    window: Window | None,
    bands: Sequence[str] | None,
) -> Patch:
    """`Scene.read` for a scene whose pixels are an array (B, H, W); `unmasked` (H, W) is its mask, None where
    there is none. Returns copies.
    """
    window = scene.grid.window if window is None else window
    check_window(window, scene.grid.window)
    inside = window.inset_of(scene.grid.window)
    if bands is None or tuple(bands) == scene.bands:
        # np.array copies: callers write into what they are given.
        found, rules = np.array(pixels[(slice(None), *inside)]), scene.band_nodata
    else:  # a list of bands makes numpy copy by itself
        chosen = [scene.index(b) for b in bands]
        found, rules = pixels[(chosen, *inside)], tuple(scene.band_nodata[c] for c in chosen)
    valid = measured(found, rules)
    return Patch(found, valid if unmasked is None else valid & unmasked[inside], window)


LONG = 1 << 28
"""Bytes of a scene whose reading is worth a progress bar (ours): some seconds."""
STRIP = 1024
"""Rows that are read between two looks at the clock (ours), whole blocks of most files."""


def read_whole(
    scene: Scene, read: Callable[[Window], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """What `read` gives of all of a scene, pixels (B, H, W) and bool (H, W). A large one is read strip by
    strip, with a progress bar.
    """
    whole = scene.grid.window
    if scene.nbytes < LONG:
        return read(whole)
    pixels, valid = np.empty((len(scene.bands), *whole.shape), scene.dtype), np.empty(whole.shape, bool)
    with bar(f"read {scene.name} into memory", whole.height, "rows") as tick:
        for top in range(whole.top, whole.bottom, STRIP):
            strip = Window(top, whole.left, min(STRIP, whole.bottom - top), whole.width)
            rows = slice(strip.top - whole.top, strip.bottom - whole.top)
            pixels[:, rows], valid[rows] = read(strip)
            tick(strip.height)
    return pixels, valid


class HeldScene(Scene):
    """Another scene with all its pixels in memory; `Scene.hold` makes it. Everything else is the origin's,
    whose files may be closed.

    pixels    (B, H, W)
    unmasked  (H, W) bool: validity by masks alone, None without masks; nodata is applied at each read, since
              it depends on the bands read
    """

    def __init__(self, origin: Scene, pixels: np.ndarray, unmasked: np.ndarray | None) -> None:
        self.origin, self.pixels, self.unmasked = origin, pixels, unmasked
        self.source, self.name, self.grid = origin.source, origin.name, origin.grid
        self.bands, self.dtype = origin.bands, origin.dtype
        self.nodata, self.band_nodata, self.units = origin.nodata, origin.band_nodata, origin.units
        self.notes, self.alphas = origin.notes, origin.alphas

    @property
    def files(self) -> tuple[str, ...]:
        return self.origin.files

    @property
    def in_memory(self) -> bool:
        return self.origin.in_memory

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.origin.parts

    @property
    def around(self) -> Window:
        return self.origin.around

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        own = self.grid.window
        if window is not None and self.around != own and window & own != window:
            # What lies around an area may be all of a huge scene: it is not held, and looked at seldom.
            with self.origin.again() as scene:
                return scene.read(window, bands)
        return cut(self, self.pixels, self.unmasked, window, bands)

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape, window)

    def again(self) -> HeldScene:
        # Shared, not copied: threads only read.
        return HeldScene(self.origin, self.pixels, self.unmasked)

    def hold(self) -> HeldScene:
        return self

    def close(self) -> None:
        """Free the pixels, unless another scene shares them."""
        # A new array: a view of no pixels would still hold all of them.
        self.pixels, self.unmasked = np.empty((len(self.pixels), 0, 0), self.pixels.dtype), None
