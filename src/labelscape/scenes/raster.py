"""Open anything GDAL opens and read windows of it: pixels never travel without their validity and place.

A `Scene` is one picture on one grid: a file (GeoTIFF, COG, VRT, JP2, PNG, JPEG, ...), a remote path
(`/vsicurl/...`, `s3://...`), or a band stack: a folder or a list of single-band files of the same ground, at
one or several resolutions, as Sentinel-2 is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadFile, BadInput, UnknownName
from labelscape.grid import Grid, Window
from labelscape.scenes.files import READ_FAILURES, Source, gdal, open_raster, reason, stack_files
from labelscape.scenes.holes import sampled
from labelscape.scenes.stack import laid_pixel_on_pixel, named_readers

EXACT = 1e-6
"""Error allowed to a warp's transformation, in pixels, so that what is read does not depend on the window;
rasterio 1.4 fails on 0.
"""

Units = tuple[tuple[float, float], ...]
"""Per band (scale, offset), as files declare them: a stored value times the scale, plus the offset, is the
measured quantity.
"""


@dataclass(frozen=True, slots=True)
class Patch:
    """A window of a scene: pixels (B, H, W) in the scene's own type and units, valid (H, W) bool, and
    where it lies.
    """

    pixels: np.ndarray
    valid: np.ndarray
    window: Window


class Scene:
    """A picture opened for reading. Use it as a context manager; one thread at a time (`for_thread` gives
    another handle).

    `bands` are names: descriptions of the file, else its colours (red, green, blue), else "1", "2", ...
    Alpha bands are no bands: they say which pixels are valid. So do internal masks, NaN, and the nodata
    value: 0 and the greatest value (255 in bytes) of an integer raster must stand in every band to mean
    "nothing here", for black water and bright roofs have them in one; any other nodata value makes the pixel
    invalid wherever it stands.
    """

    def __init__(
        self,
        source: Source,
        *,
        nodata: float | None = None,
        bands: Sequence[str] | None = None,
        band_names: Sequence[str] | None = None,
        onto: Grid | None = None,
    ) -> None:
        """`nodata` overrides what the file says; `bands` picks and orders the bands by name; `onto` is the
        grid to resample to.

        `band_names` says what all bands of the file or files are, one after another. A list of files may then
          hold files of several
        bands, and files without coordinates that lie pixel on pixel; one grey picture serves as red, green
        and blue. Raises BadFile where a file is missing or unreadable, BadInput where files are no band
        stack, UnknownName for a band.
        """
        self.source = source
        self._options = {"nodata": nodata, "bands": bands, "band_names": band_names, "onto": onto}
        self._stack = ExitStack()
        self._held: Patch | None = None
        try:
            with gdal():
                self._open(source, nodata, band_names)
                if bands is not None:
                    self._pick(bands)
                if onto is not None:
                    self._resample(onto)
        except BaseException:
            self.close()
            raise

    def _open(self, source: Source, nodata: float | None, band_names: Sequence[str] | None) -> None:
        files = stack_files(source)
        datasets = [self._stack.enter_context(open_raster(file)) for file in files]
        if len(datasets) > 1 and band_names is not None and any(d.crs is None for d in datasets):
            datasets = laid_pixel_on_pixel(datasets)
        elif len(datasets) > 1:
            datasets = self._aligned(datasets, crowded_may_be=band_names is not None)
        first = next((d for d in datasets if d.crs is not None), datasets[0])
        self.name = Path(str(source if isinstance(source, (str, Path)) else files[0])).stem or str(source)
        self.grid = Grid(first.crs, first.transform, first.height, first.width)
        self._readers = []  # (dataset, band indices to read)
        names: list[str] = []
        for dataset, file in zip(datasets, files):
            indices = [i for i, c in zip(dataset.indexes, dataset.colorinterp) if c != ColorInterp.alpha]
            if not indices:
                raise BadInput(f"{file} has only an alpha band: nothing to look at.")
            self._readers.append((dataset, indices))
            names += [_stack_name(file, files)] if len(files) > 1 else _band_names(dataset, indices)
        alpha_is_a_band = False
        if band_names is not None:
            self._readers, alpha_is_a_band = named_readers(self._readers, band_names, self.name)
            names = list(band_names)
        self.bands: tuple[str, ...] = tuple(names)
        dtypes = {dataset.dtypes[i - 1] for dataset, indices in self._readers for i in indices}
        if len(dtypes) > 1 or any(d.startswith("complex") for d in dtypes):
            raise BadInput(
                f"{self.name} mixes or holds the types {', '.join(sorted(dtypes))}; one real type for all "
                "bands is needed."
            )
        self.dtype = np.dtype(dtypes.pop())
        self.nodata = nodata if nodata is not None else first.nodata
        self.units: Units = tuple(
            (d.scales[i - 1], d.offsets[i - 1]) for d, indices in self._readers for i in indices
        )
        flags = [dataset.mask_flag_enums[indices[0] - 1] for dataset, indices in self._readers]
        self._has_mask = not alpha_is_a_band and any(
            MaskFlags.alpha in f or MaskFlags.per_dataset in f for f in flags
        )

    def _pick(self, bands: Sequence[str]) -> None:
        """Keep only these bands, in this order."""
        chosen = [self.index(band) for band in bands]
        self._readers, self.units = _grouped(self._readers, chosen), tuple(self.units[c] for c in chosen)
        self.bands = tuple(bands)

    def _resample(self, onto: Grid) -> None:
        """Read on another grid from now on: means of the pixels below where its pixels are wider by half and
        more, else in between of four.

        What the scene does not cover is invalid there.
        """
        coarser = _width_on_the_ground(onto) > 1.5 * _width_on_the_ground(self.grid)
        unified = (
            "YES" if _may_be_measured(self.nodata, self.dtype) else "PARTIAL"
        )  # which pixels are nodata: as `Scene` says
        warped: dict[int, WarpedVRT] = {}
        for dataset in {id(d): d for d, _ in self._readers}.values():
            warped[id(dataset)] = self._stack.enter_context(
                WarpedVRT(
                    dataset,
                    crs=onto.crs,
                    transform=onto.transform,
                    width=onto.width,
                    height=onto.height,
                    tolerance=EXACT,
                    resampling=Resampling.average if coarser else Resampling.bilinear,
                    src_nodata=self.nodata,
                    add_alpha=ColorInterp.alpha not in dataset.colorinterp,
                    UNIFIED_SRC_NODATA=unified,
                )
            )
        self._readers = [(warped[id(dataset)], indices) for dataset, indices in self._readers]
        self.grid, self._has_mask = onto, True

    def _aligned(self, datasets: list, *, crowded_may_be: bool) -> list:
        """Every file on the grid of the finest one. Raises BadInput unless all cover the same ground, with
        one band each or `crowded_may_be`.
        """
        crowded = [d.name for d in datasets if d.count != 1]
        if crowded and not crowded_may_be:
            raise BadInput(
                f"A band stack is made of single-band files; {crowded[0]} has several. Pass scenes one by "
                "one instead."
            )
        finest = min(datasets, key=lambda d: abs(d.transform.a * d.transform.e))
        width, height = finest.bounds.right - finest.bounds.left, finest.bounds.top - finest.bounds.bottom
        aligned = []
        for dataset in datasets:
            apart = np.abs(np.subtract(dataset.bounds, finest.bounds)) / [width, height, width, height]
            if dataset.crs != finest.crs or apart.max() > 0.02:
                raise BadInput(
                    f"{dataset.name} and {finest.name} do not cover the same ground: they are no band stack."
                )
            if dataset.shape == finest.shape and dataset.transform == finest.transform:
                aligned.append(dataset)
            else:
                aligned.append(
                    self._stack.enter_context(
                        WarpedVRT(
                            dataset,
                            crs=finest.crs,
                            transform=finest.transform,
                            width=finest.width,
                            height=finest.height,
                            resampling=Resampling.bilinear,
                            tolerance=EXACT,
                            add_alpha=False,
                        )
                    )
                )
        return aligned

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()
        self._held = None

    @contextmanager
    def for_thread(self) -> Iterator[Scene]:
        """The same scene with handles of its own, for another thread; one held in memory serves any thread
        as it is.
        """
        if self._held is not None:
            yield self
            return
        with Scene(self.source, **self._options) as other:
            yield other

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the scene is read from."""
        return tuple(stack_files(self.source))

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels in memory."""
        return self.grid.window.pixels * len(self.bands) * self.dtype.itemsize

    def hold(self) -> Scene:
        """Keep all pixels in memory from now on and let go of the files: every read is a copy of a slice.
        Returns itself.
        """
        if self._held is None:
            whole = self.read(self.grid.window)
            with gdal():
                self._held = Patch(
                    whole.pixels, self._unmasked(self.grid.window), whole.window
                )  # values say the rest
            self._stack.close()
        return self

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        """Pixels and validity of a window inside the grid; `bands` picks and orders them by name, and
        validity is theirs.

        Raises BadFile where the file ends early or is damaged.
        """
        window = window or self.grid.window
        assert (window & self.grid.window) == window, f"{window} is not inside {self.grid.window}"
        chosen = None if bands is None or tuple(bands) == self.bands else [self.index(b) for b in bands]
        if self._held is not None:
            inside = window.inset_of(self._held.window)
            pixels = self._held.pixels[(slice(None), *inside)]
            pixels = pixels.copy() if chosen is None else pixels[chosen]
            return Patch(pixels, self._measured(pixels) & self._held.valid[inside], window)
        try:
            with gdal():
                parts = [
                    dataset.read(indices, window=window.rio)
                    for dataset, indices in _grouped(self._readers, chosen)
                ]
                pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
                valid = self._measured(pixels) & self._unmasked(window)
        except READ_FAILURES as error:
            raise BadFile(
                f"{self.name} cannot be read at rows {window.top}-{window.bottom}, columns "
                f"{window.left}-{window.right}: "
                f"the file is truncated or damaged ({reason(error)})."
            ) from error
        return Patch(pixels, valid, window)

    def thumbnail(self, most: int = 1000) -> np.ndarray:
        """A picture of the scene, at most `most` pixels a side: uint8 (h, w, 3), the colours a person
        expects, stretched to be seen.

        Red, green and blue by their names (or Sentinel-2's B04 B03 B02), else the first three bands, else the
        first as grey; nodata is white.
        """
        height, width = self.grid.shape
        shrink = max(1.0, max(height, width) / most)
        shape = max(1, round(height / shrink)), max(1, round(width / shrink))
        sets = (
            ("red", "green", "blue"),
            ("B04", "B03", "B02"),
            ("B4", "B3", "B2"),
            self.bands[:3],
            self.bands[:1] * 3,
        )
        pixels, valid = self._shrunk(
            next(names for names in sets if len(names) == 3 and set(names) <= set(self.bands)), shape
        )
        picture = np.full((*shape, 3), 255, np.uint8)
        if valid.any():
            values = pixels[:, valid].astype(np.float64)
            low, high = (
                np.percentile(values, 2, axis=1, keepdims=True),
                np.percentile(values, 98, axis=1, keepdims=True),
            )
            stretched = np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) ** 0.9
            picture[valid] = (stretched.T * 254).astype(np.uint8)
        return picture

    def _shrunk(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, h, w) of the whole scene and their validity at a smaller shape, from the overviews
        where there are any.
        """
        singles = [(dataset, i) for dataset, indices in self._readers for i in indices]
        levels = singles[0][0].overviews(singles[0][1]) if self._held is None else []
        if not levels or min(levels) > max(self.grid.height / shape[0], self.grid.width / shape[1]):
            return self._sampled(bands, shape)
        with gdal():
            pixels = np.stack(
                [d.read(i, out_shape=shape) for d, i in (singles[self.index(b)] for b in bands)]
            )
        return pixels, self._measured(pixels)

    def _sampled(self, bands: Sequence[str], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Every n-th pixel and its validity, where there is no overview to take them from."""
        return sampled(self, bands, shape)

    def _measured(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) where pixels (B, H, W) hold a measurement by their values."""
        measured = (
            np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else np.ones(pixels.shape[1:], bool)
        )
        if self.nodata is not None and self.nodata == self.nodata:
            is_nodata = pixels == np.asarray(self.nodata).astype(pixels.dtype)
            measured &= ~(
                is_nodata.all(axis=0)
                if _may_be_measured(self.nodata, pixels.dtype)
                else is_nodata.any(axis=0)
            )
        return measured

    def _unmasked(self, window: Window) -> np.ndarray:
        """(H, W) where alpha bands and internal masks let pixels count."""
        unmasked = np.ones(window.shape, bool)
        if self._has_mask:
            for dataset in {id(d): d for d, _ in self._readers}.values():
                unmasked &= dataset.dataset_mask(window=window.rio) > 0
        return unmasked

    def index(self, band: str) -> int:
        """Position of a band by name."""
        if band not in self.bands:
            raise UnknownName(f"band of {self.name}", band, self.bands)
        return self.bands.index(band)


def _grouped(readers: list, chosen: Sequence[int] | None) -> list:
    """(dataset, band indices) pairs that yield the chosen bands in order, with one read for neighbours in
    one file.
    """
    if chosen is None:
        return readers
    singles = [(dataset, i) for dataset, indices in readers for i in indices]
    grouped: list[tuple[rasterio.DatasetReader, list[int]]] = []
    for dataset, i in (singles[c] for c in chosen):
        if grouped and grouped[-1][0] is dataset:
            grouped[-1][1].append(i)
        else:
            grouped.append((dataset, [i]))
    return grouped


def _may_be_measured(nodata: float | None, dtype: np.dtype) -> bool:
    """Can this nodata value also be what a single band shows?"""
    return dtype.kind in "iu" and nodata in (0, np.iinfo(dtype).max)


def _width_on_the_ground(grid: Grid) -> float:
    return grid.ground_pixel_size or max(grid.pixel_size)


def _band_names(dataset: rasterio.DatasetReader, indices: list[int]) -> list[str]:
    colours = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
    names = [
        dataset.descriptions[i - 1] or colours.get(dataset.colorinterp[i - 1]) or str(i) for i in indices
    ]
    return names if len(set(names)) == len(names) else [str(i) for i in indices]


def _stack_name(file: str, files: list[str]) -> str:
    """`T33UUU_20170216T102101_B8A.jp2` -> `B8A` where that tells the files apart, else the whole stem."""
    last = [Path(f).stem.split("_")[-1] for f in files]
    return Path(file).stem.split("_")[-1] if len(set(last)) == len(last) else Path(file).stem
