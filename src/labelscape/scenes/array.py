"""Scenes made of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.dtypes import check_dtype
from rasterio.errors import CRSError

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.scenes.files import gdal
from labelscape.scenes.memory import HeldScene, Sliced, cut
from labelscape.scenes.raster import FileScene
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import BLOCK, IN_MEMORY, Part, Patch, Scene, Units

MOST_CHANNELS = 4
"""Up to so many in the last place of a large array are colours that stand behind rows and columns."""


class ArrayScene(Scene):
    """An array with its place, as a scene: `ArrayScene(pixels, transform, crs)`.

    The array is not copied: leave it as it is while the scene is in use.
    """

    def __init__(
        self,
        pixels: np.ndarray | Sliced,
        transform: Affine | None = None,
        crs: CRS | str | int | None = None,
        *,
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
        name: str = IN_MEMORY,
        units: Units | None = None,
    ) -> None:
        """
        pixels     (bands, H, W) or (H, W) of a real number type; pixels that a masked array masks in any band
                   are invalid
        transform  pixel (column, row) -> CRS, as rasterio has it; None together with crs for a picture
                   without coordinates
        crs        what rasterio understands: "EPSG:32633", 32633, a CRS, WKT
        bands      names; "1", "2", ... by default
        nodata     the value that means "nothing here", by the rules for files; NaN is always invalid
        name       stem of the files that a map of it gets
        units      (scale, offset) a band, where values are stored quantities

        Raises BadInput for an array that is no picture, BadOption where names, transform or CRS do not go
        with it.
        """
        self.pixels, self.unmasked = _pixels(pixels)
        count, height, width = self.pixels.shape
        self.bands = tuple(str(i + 1) for i in range(count)) if bands is None else tuple(map(str, bands))
        if len(self.bands) != count or len(set(self.bands)) != count:
            raise BadOption(
                f"The array has {count} bands, so {count} different names were expected; found "
                f"{', '.join(self.bands)}."
            )
        self.source, self.name, self.nodata = self, name, nodata
        self.dtype, self.grid = np.dtype(self.pixels.dtype), _grid(transform, crs, height, width)
        self.units = ((1.0, 0.0),) * count if units is None else tuple(units)
        self._lock, self._folder = Lock(), None

    @property
    def files(self) -> tuple[str, ...]:
        return ()

    @property
    def in_memory(self) -> bool:
        return True

    @property
    def parts(self) -> tuple[Part, ...]:
        facts = self.grid, self.bands, self.dtype, self.units
        return (Part(self.name, (), self._laid, *facts, in_memory=True),)

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        return cut(self, self.pixels, self.unmasked, window, bands)

    def shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape)

    def again(self) -> ArrayScene:
        return self

    def hold(self) -> Scene:
        if isinstance(self.pixels, np.ndarray):
            return self
        return HeldScene(self, self.read().pixels, self.unmasked)

    def _laid(self, onto: Grid | None = None) -> Scene:
        """Itself, or, on another grid, a copy on disk: GDAL resamples files, and what is read piece by piece
        may be larger than the memory.
        """
        if onto is None:
            return self
        with self._lock:
            if self._folder is None:
                # It goes with the scene; on Windows an open handle would keep it, and must not fail the exit.
                self._folder = TemporaryDirectory(prefix="labelscape-", ignore_cleanup_errors=True)
                _write(self, Path(self._folder.name) / "scene.tif")
        nodata = self.nodata if self.unmasked is None else None
        path = Path(self._folder.name) / "scene.tif"
        return FileScene(path, nodata=nodata, band_names=self.bands, onto=onto)


def _pixels(given: np.ndarray | Sliced) -> tuple[Sliced, np.ndarray | None]:
    """(B, H, W), and which pixels (H, W) a masked array leaves unmasked, None for all."""
    masked = given.mask if isinstance(given, np.ma.MaskedArray) and given.mask is not np.ma.nomask else None
    if isinstance(given, np.ma.MaskedArray):
        given = given.data
    pixels = given if isinstance(given, np.ndarray) or _is_sliced(given) else np.asarray(given)
    shape = " x ".join(map(str, pixels.shape))
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise BadInput(
            f"An array of shape {shape or '()'} is no picture: (bands, H, W) or (H, W) was expected."
        )
    if pixels.ndim == 3 and pixels.shape[2] <= MOST_CHANNELS < min(64, *pixels.shape[:2]):
        raise BadInput(
            f"An array of {shape} seems to have its bands last: (bands, H, W) was expected, which "
            "pixels.transpose(2, 0, 1) gives."
        )
    if pixels.dtype.kind not in "uif" or not check_dtype(pixels.dtype):
        raise BadInput(
            f"The type {pixels.dtype} is no type of pixels: integers or floats of 32 or 64 bits were "
            "expected; convert them, such as with pixels.astype('float32')."
        )
    if masked is not None:
        masked = masked.any(axis=0) if masked.ndim == 3 else masked
    return pixels if pixels.ndim == 3 else pixels[None], None if masked is None else ~masked


def _is_sliced(given: object) -> bool:
    """Is this read piece by piece, not an array already?"""
    return not hasattr(given, "__array__") and all(hasattr(given, n) for n in ("shape", "dtype", "ndim"))


def _grid(transform: Affine | None, crs: CRS | str | int | None, height: int, width: int) -> Grid:
    if transform is None and crs is not None:
        raise BadOption(f"The CRS {crs} needs a transform that says where in it the pixels lie.")
    if transform is not None and not isinstance(transform, Affine):
        raise BadOption(
            f"The transform is a {type(transform).__name__}; an affine.Affine was expected, as "
            "dataset.transform has it (Affine.from_gdal(*numbers) where they are GDAL's six)."
        )
    try:
        place = None if crs is None else CRS.from_user_input(crs)
    except CRSError as error:
        raise BadOption(f"{crs!r} is no CRS: an EPSG code or WKT was expected.") from error
    return Grid(place, Affine.identity() if transform is None else transform, height, width)


def _write(scene: ArrayScene, path: Path) -> None:
    """A GeoTIFF of the same pixels, window by window. Its nodata value is not written: whoever opens the file
    says it.
    """
    grid, count = scene.grid, len(scene.bands)
    profile = {
        "driver": "GTiff",
        "count": count,
        "dtype": scene.dtype.name,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "bigtiff": "IF_SAFER",
        "photometric": "MINISBLACK",  # else GDAL takes a fourth band for alpha
        "alpha": "NO",
    }
    with gdal(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        for window in grid.window.blocks(BLOCK):
            patch = scene.read(window)
            file.write(patch.pixels, window=window.rio)
            if scene.unmasked is not None:
                file.write_mask(patch.valid, window=window.rio)
