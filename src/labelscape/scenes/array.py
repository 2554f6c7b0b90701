"""Scenes from arrays with a transform and a CRS: `ArrayScene`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.dtypes import check_dtype
from rasterio.errors import CRSError

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Grid, Window
from labelscape.scenes.memory import HeldScene, Sliced, cut
from labelscape.scenes.raster import FileScene
from labelscape.scenes.sampling import sampled
from labelscape.scenes.scene import BLOCK, IN_MEMORY, Part, Patch, Scene, Units
from labelscape.scenes.validity import check_nodata, nodata_rule
from labelscape.scenes.written import Piece, write_raster

MAX_CHANNELS = 4
"""An array whose last axis is no longer than this, and its others are, has its bands last (H, W, bands)."""


class ArrayScene(Scene):
    """A scene from an array, a transform and a CRS: `ArrayScene(pixels, transform, crs)`.

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
        nodata     the nodata value, by the same rules as for files; NaN is always invalid
        name       stem of the files that a map of it gets
        units      (scale, offset) a band: value x scale + offset is the measured quantity

        Raises BadInput for an array of another shape or type, BadOption where names, transform or CRS do not
        fit it.
        """
        self.pixels, self.unmasked = _pixels(pixels)
        count, height, width = self.pixels.shape
        self.bands = tuple(str(i + 1) for i in range(count)) if bands is None else tuple(map(str, bands))
        if len(self.bands) != count or len(set(self.bands)) != count:
            raise BadOption(
                f"The array has {count} bands, so {count} different names were expected; found "
                f"{', '.join(self.bands)}."
            )
        self.source, self.name = self, str(name)
        self.dtype, self.grid = np.dtype(self.pixels.dtype), _grid(transform, crs, height, width)
        # A number of numpy cannot be stored as JSON.
        self.nodata = nodata.item() if isinstance(nodata, np.generic) else nodata
        if nodata is not None:
            check_nodata(self.nodata, [self.dtype], "the array")
        self.band_nodata = (nodata_rule(self.nodata, self.dtype),) * count
        self.units = ((1.0, 0.0),) * count if units is None else tuple(units)
        if np.shape(self.units) != (count, 2):
            raise BadOption(
                f"The array has {count} bands, so {count} pairs (scale, offset) were expected as units; "
                f"found {self.units}."
            )
        self._lock, self._folder = Lock(), None

    def __repr__(self) -> str:
        return super().__repr__().replace("<Scene", "<ArrayScene", 1)

    @property
    def files(self) -> tuple[str, ...]:
        return ()

    @property
    def in_memory(self) -> bool:
        return True

    @property
    def parts(self) -> tuple[Part, ...]:
        facts = self.grid, self.bands, self.dtype, self.units
        return (Part(self.name, (), self._on_grid, *facts, in_memory=True),)

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        return cut(self, self.pixels, self.unmasked, window, bands)

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return sampled(self, bands, shape, window)

    def again(self) -> ArrayScene:
        # Shared by threads: reads are copies, and nothing is written.
        return self

    def hold(self) -> Scene:
        if isinstance(self.pixels, np.ndarray):
            return self
        return HeldScene(self, self.read().pixels, self.unmasked)

    def _on_grid(self, onto: Grid | None = None) -> Scene:
        """Itself, or, on another grid, a temporary GeoTIFF of it: GDAL resamples files, and an array read
        piece by piece (xarray) may be larger than the memory.
        """
        if onto is None:
            return self
        with self._lock:  # threads that open parts share one copy
            if self._folder is None:
                # Removed with the scene. On Windows an open handle prevents that, which must not fail the
                # exit.
                made = TemporaryDirectory(prefix="labelscape-", ignore_cleanup_errors=True)
                try:
                    _write(self, Path(made.name) / "scene.tif")
                except BaseException:
                    made.cleanup()
                    raise
                self._folder = made  # not before: the next call would take a part for the scene
        # With a masked array the copy's internal mask holds all of the validity, nodata included.
        nodata = self.nodata if self.unmasked is None else None
        path = Path(self._folder.name) / "scene.tif"
        return FileScene(path, nodata=nodata, band_names=self.bands, onto=onto)


def _pixels(given: np.ndarray | Sliced) -> tuple[Sliced, np.ndarray | None]:
    """Pixels (B, H, W) and, for a masked array, which (H, W) are unmasked in all bands; None for all."""
    masked = given.mask if isinstance(given, np.ma.MaskedArray) and given.mask is not np.ma.nomask else None
    if isinstance(given, np.ma.MaskedArray):
        given = given.data
    pixels = given if isinstance(given, np.ndarray) or _is_sliced(given) else np.asarray(given)
    shape = " x ".join(map(str, pixels.shape))
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise BadInput(
            f"An array of shape {shape or '()'} is not an image: (bands, H, W) or (H, W) was expected."
        )
    # Not turned silently: an image of three rows would be read as three bands.
    if pixels.ndim == 3 and pixels.shape[2] <= MAX_CHANNELS < min(pixels.shape[:2]):
        raise BadInput(
            f"An array of shape {shape} seems to have its bands last: (bands, H, W) was expected. Use "
            "pixels.transpose(2, 0, 1)."
        )
    if pixels.dtype.kind not in "uif" or not check_dtype(pixels.dtype):
        raise BadInput(
            f"Pixels of type {pixels.dtype} are not supported: integers or floats of 32 or 64 bits were "
            "expected. Convert them, for example with pixels.astype('float32')."
        )
    if masked is not None:
        # A pixel is used with all of its bands or not at all.
        masked = masked.any(axis=0) if masked.ndim == 3 else masked
    return pixels if pixels.ndim == 3 else pixels[None], None if masked is None else ~masked


def _is_sliced(given: object) -> bool:
    """Is this read piece by piece when sliced, unlike an array (or a list, which has no shape)?"""
    return not hasattr(given, "__array__") and all(hasattr(given, n) for n in ("shape", "dtype", "ndim"))


def _grid(transform: Affine | None, crs: CRS | str | int | None, height: int, width: int) -> Grid:
    if transform is None and crs is not None:
        raise BadOption(f"The CRS {crs} needs a transform from pixels to its coordinates.")
    if transform is not None and not isinstance(transform, Affine):
        raise BadOption(
            f"The transform is a {type(transform).__name__}; an affine.Affine was expected, such as "
            "dataset.transform, or Affine.from_gdal(*numbers) for GDAL's six numbers."
        )
    # 1 / determinant is what every way back from coordinates to pixels needs.
    if transform is not None and (transform.is_degenerate or not np.isfinite(transform).all()):
        raise BadOption(
            f"The transform {tuple(transform)[:6]} gives pixels no area: the sides of a pixel and the upper "
            "left corner were expected."
        )
    try:
        place = None if crs is None else CRS.from_user_input(crs)
    except CRSError as error:
        raise BadOption(f"{crs!r} is not a CRS: an EPSG code or WKT was expected.") from error
    return Grid(place, Affine.identity() if transform is None else transform, height, width)


def _write(scene: ArrayScene, path: Path) -> None:
    """Write the pixels as a GeoTIFF, window by window. The nodata value is not stored: it is passed where the
    file is opened.
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
    patches = (scene.read(window) for window in grid.window.blocks(BLOCK))
    masked = scene.unmasked is not None
    pieces = (Piece(one.window, one.pixels, one.valid if masked else None) for one in patches)
    write_raster(path, pieces, **profile)
