"""Open anything GDAL opens and read windows of it, always together with their validity mask.

A `FileScene` is one picture on one grid: a file (GeoTIFF, COG, VRT, JP2, PNG, JPEG, ...), a remote path
(`/vsicurl/...`, `s3://...`), or a band stack: a folder or a list of single-band files of the same ground, at
one or several resolutions, as Sentinel-2 is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid, Window, check_window
from labelscape.scenes.files import (
    EXACT,
    READ_FAILURES,
    Files,
    SharedDataset,
    gdal,
    open_raster,
    reason,
    source_text,
    stack_files,
)
from labelscape.scenes.holes import may_hold
from labelscape.scenes.memory import HeldScene
from labelscape.scenes.sampling import PIECE_COLUMNS, sampled
from labelscape.scenes.scene import Part, Patch, Scene, Units
from labelscape.scenes.stack import (
    match_band_names,
    name_in_stack,
    names_in_file,
    padded_to_one_shape,
    selected,
    warped_to_finest,
)
from labelscape.scenes.validity import bands_and_validity, check_nodata, measured, unmasked, warp_options

__all__ = ["EXACT", "FileScene", "Patch", "Scene", "Units"]


class FileScene(Scene):
    """A scene read from a file or a band stack.

    `bands` are names: the file's band descriptions, else its colour interpretation (red, green, blue), else
    "1", "2", ... Alpha bands are not among them; validity.py decides which pixels are valid.
    """

    def __init__(
        self,
        source: Files | SharedDataset,
        *,
        nodata: float | None = None,
        bands: Sequence[str] | None = None,
        band_names: Sequence[str] | None = None,
        name: str | None = None,
        onto: Grid | None = None,
    ) -> None:
        """`nodata` overrides the file's nodata value; `bands` selects and orders bands by name; `onto` is the
        grid to resample to.

        `name` is the file's stem by default. `band_names` names all bands of the file or files in order. A
        list may then hold multi-band files, and files without coordinates that share one pixel grid; a single
        grey band serves as red, green and blue. Raises BadFile where a file is missing or unreadable,
        BadInput where files are not a band stack, UnknownName for a band.
        """
        self.source = source
        # As given: other threads open the scene again by these.
        self._options = {"nodata": nodata, "bands": bands, "band_names": band_names, "name": name}
        self._onto = onto
        self._handles = ExitStack()
        # A dataset of the caller's has no second handle: its readers take turns.
        self._one_at_a_time = source.lock if isinstance(source, SharedDataset) else nullcontext()
        try:
            with gdal(), self._one_at_a_time:
                self._open(source, nodata, band_names, name)
                if bands is not None:
                    self._pick(bands)
                if onto is not None:
                    self._resample(onto)
        except BaseException:  # there is no scene yet that a caller could close
            self.close()
            raise

    def _open(
        self,
        source: Files | SharedDataset,
        nodata: float | None,
        band_names: Sequence[str] | None,
        name: str | None,
    ) -> None:
        files = stack_files(source)
        if isinstance(source, SharedDataset):
            datasets = [source.dataset]
        else:
            datasets = [self._handles.enter_context(open_raster(file)) for file in files]
        if len(datasets) > 1 and band_names is not None and any(d.crs is None for d in datasets):
            datasets = padded_to_one_shape(datasets)
        elif len(datasets) > 1:
            datasets = warped_to_finest(datasets, self._handles, allow_multiband=band_names is not None)
        # A file without coordinates lies where its neighbours in the stack lie.
        first = next((d for d in datasets if d.crs is not None), datasets[0])
        place = str(source if isinstance(source, (str, Path)) else files[0])
        self.name = name or Path(place).stem or place
        self.grid = Grid(first.crs, first.transform, first.height, first.width)
        found = [bands_and_validity(dataset) for dataset in datasets]
        for file, own in zip(files, found):
            if not own.bands:
                raise BadInput(
                    f"{file} has only an alpha band; at least one band of measurements was expected."
                )
        if band_names is not None:
            found = match_band_names(datasets, found, band_names, self.name)
            self.bands = tuple(band_names)
        elif len(files) > 1:
            self.bands = tuple(name_in_stack(file, files) for file in files)
        else:
            self.bands = tuple(names_in_file(datasets[0], found[0].bands))
        self._readers = [(dataset, list(own.bands)) for dataset, own in zip(datasets, found)]
        self.nodata = nodata if nodata is not None else first.nodata
        self.units = tuple(
            (d.scales[i - 1], d.offsets[i - 1]) for d, indices in self._readers for i in indices
        )
        dtypes = {dataset.dtypes[i - 1] for dataset, indices in self._readers for i in indices}
        if len(dtypes) > 1 or any(d.startswith("complex") for d in dtypes):
            raise BadInput(
                f"{self.name} has bands of type {', '.join(sorted(dtypes))}; all bands must have one data "
                "type, and not a complex one."
            )
        self.dtype = np.dtype(dtypes.pop())
        if nodata is not None:
            check_nodata(nodata, self.dtype, self.name)
        # Asked last: after a damaged mask GDAL raises its error at the next call, whatever that is.
        self._masked = any(own.is_masked(dataset) for dataset, own in zip(datasets, found))

    def _pick(self, bands: Sequence[str]) -> None:
        """Select these bands, in this order."""
        chosen = [self.index(band) for band in bands]
        self._readers, self.units = selected(self._readers, chosen), tuple(self.units[c] for c in chosen)
        self.bands = tuple(bands)

    def _resample(self, onto: Grid) -> None:
        """Read resampled to another grid from now on: averaged where its pixels are more than 1.5 times as
        wide (ours), bilinear otherwise. What the scene does not cover is invalid.
        """
        coarser = _width_on_the_ground(onto) > 1.5 * _width_on_the_ground(self.grid)
        warped = {
            id(dataset): self._handles.enter_context(
                WarpedVRT(
                    dataset,
                    crs=onto.crs,
                    transform=onto.transform,
                    width=onto.width,
                    height=onto.height,
                    tolerance=EXACT,
                    resampling=Resampling.average if coarser else Resampling.bilinear,
                    **warp_options(dataset, self.nodata, self.dtype),
                )
            )
            # Each file once, although its bands may stand in several readers.
            for dataset in {id(d): d for d, _ in self._readers}.values()
        }
        self._readers = [(warped[id(dataset)], indices) for dataset, indices in self._readers]
        # Whatever the file has, the warp has an alpha band: it marks what the scene does not cover.
        self.grid, self._masked = onto, True

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = self.grid.window if window is None else window
        check_window(window, self.grid.window)
        chosen = None if bands is None or tuple(bands) == self.bands else [self.index(b) for b in bands]
        try:
            with gdal(), self._one_at_a_time:
                parts = [
                    dataset.read(indices, window=window.rio)
                    for dataset, indices in selected(self._readers, chosen)
                ]
                # One file is the usual case: its pixels are not copied once more.
                pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
                valid = measured(pixels, self.nodata) & self._unmasked(window)
        except READ_FAILURES as error:
            raise BadFile(
                f"{self.name} cannot be read at rows {window.top}-{window.bottom}, columns "
                f"{window.left}-{window.right}: "
                f"the file is truncated or damaged ({reason(error)})."
            ) from error
        return Patch(pixels, valid, window)

    def _unmasked(self, window: Window) -> np.ndarray:
        """(H, W) bool: not masked by an alpha band or an internal mask."""
        return unmasked((d for d, _ in self._readers) if self._masked else (), window)

    def shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """From overviews, where one is at least as fine as `shape`; every n-th pixel otherwise."""
        singles = [(dataset, i) for dataset, indices in self._readers for i in indices]
        # The first file stands for all: files of a band stack are taken to be made alike.
        levels = singles[0][0].overviews(singles[0][1])
        if not levels or min(levels) > max(self.grid.height / shape[0], self.grid.width / shape[1]):
            in_strips = any(d.block_shapes[0][1] > PIECE_COLUMNS for d, _ in self._readers)
            return sampled(self, bands, shape, in_strips=in_strips)
        with gdal(), self._one_at_a_time:
            pixels = np.stack(
                [d.read(i, out_shape=shape) for d, i in (singles[self.index(b)] for b in bands)]
            )
        return pixels, measured(pixels, self.nodata)

    @property
    def has_overviews(self) -> bool:
        dataset, indices = self._readers[0]
        return bool(dataset.overviews(indices[0]))

    def may_hold(self, window: Window) -> bool:
        return self._may_hold(window)

    @cached_property
    def _may_hold(self) -> Callable[[Window], bool]:
        return may_hold(self._readers, self.grid.shape, self.dtype, self.nodata)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(stack_files(self.source))

    @property
    def in_memory(self) -> bool:
        shared = isinstance(self.source, SharedDataset)
        return shared or any(file.startswith("/vsimem/") for file in self.files)

    @property
    def parts(self) -> tuple[Part, ...]:
        opened = partial(FileScene, self.source, **self._options)
        facts = self.grid, self.bands, self.dtype, self.units
        return (Part(source_text(self.source), self.files, opened, *facts, self.in_memory),)

    def again(self) -> FileScene:
        return FileScene(self.source, **self._options, onto=self._onto)

    def hold(self) -> HeldScene:
        whole = self.read(self.grid.window)
        with gdal(), self._one_at_a_time:
            # Not `whole.valid`: which nodata values count depends on the bands of each later read.
            held = HeldScene(self, whole.pixels, self._unmasked(self.grid.window))
        self.close()
        return held

    def close(self) -> None:
        self._handles.close()


def _width_on_the_ground(grid: Grid) -> float:
    return grid.ground_pixel_size or max(grid.pixel_size)
