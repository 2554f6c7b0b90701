"""Open anything GDAL opens and read windows of it, always together with their validity mask.

A `FileScene` is one picture on one grid: a file (GeoTIFF, COG, VRT, JP2, PNG, JPEG, ...), a remote path
(`/vsicurl/...`, `s3://...`), or a band stack: a folder or a list of single-band files of the same ground, at
one or several resolutions, as Sentinel-2 is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling

from labelscape.errors import BadFile, BadInput, LabelscapeError
from labelscape.grid import Grid, Window, check_window
from labelscape.scenes.containers import check_placed
from labelscape.scenes.files import (
    EXACT,
    READ_FAILURES,
    Files,
    SharedDataset,
    damaged,
    gdal,
    open_raster,
    reason,
    source_text,
    stack_files,
    stem_of_place,
)
from labelscape.scenes.georeference import grid_of, place_notes
from labelscape.scenes.holes import may_hold
from labelscape.scenes.layers import Layer, is_spread, picked, warped
from labelscape.scenes.memory import HeldScene, read_whole
from labelscape.scenes.sampling import PIECE_COLUMNS, sampled
from labelscape.scenes.scene import Part, Patch, Scene, Units
from labelscape.scenes.stack import (
    check_single,
    flag_notes,
    match_band_names,
    name_in_stack,
    names_in_file,
    padded_to_one_shape,
    warped_to_finest,
)
from labelscape.scenes.validity import (
    BandsAndValidity,
    bands_and_validity,
    check_nodata,
    common_value,
    imagery_notes,
    measured,
    nodata_of,
    unmasked,
    with_declared,
)
from labelscape.scenes.views import in_colours, palette_notes

__all__ = ["EXACT", "FileScene", "Patch", "Scene", "Units"]


SAME_PLACE = 1e-4
"""Pixels by which grids may differ at their far ends and still coincide (ours)."""


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
        declared_nodata: Mapping[str, float] | None = None,
    ) -> None:
        """`nodata` overrides the files' nodata values; `bands` selects and orders bands by name; `onto` is
        the grid to resample to; `declared_nodata` holds nodata values by band name for bands whose files have
        none (the name "" stands for all).

        `name` is the file's stem by default. `band_names` names all bands of the file or files in order. A
        list may then hold multi-band files, and files without coordinates that share one pixel grid; a single
        grey band serves as red, green and blue. Raises BadFile where a file is missing or unreadable,
        BadInput where files are not a band stack, UnknownName for a band.
        """
        self.source = source
        # As given: other threads open the scene again by these.
        self._options = {"nodata": nodata, "bands": bands, "band_names": band_names, "name": name}
        self._options["declared_nodata"] = declared_nodata
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
        except BaseException as error:  # there is no scene yet that a caller could close
            self.close()
            if isinstance(error, READ_FAILURES) and not isinstance(error, LabelscapeError):
                raise BadFile(
                    f"{source_text(source)} cannot be read: its description is damaged ({reason(error)})."
                ) from error
            raise

    def _open(
        self,
        source: Files | SharedDataset,
        nodata: float | None,
        band_names: Sequence[str] | None,
        name: str | None,
    ) -> None:
        files = stack_files(source)
        shared = isinstance(source, SharedDataset)
        given = (
            [source.dataset] if shared else [self._handles.enter_context(open_raster(file)) for file in files]
        )
        datasets = [in_colours(one, file, self._handles) for one, file in zip(given, files)]
        place = str(source if isinstance(source, (str, Path)) else files[0])
        self.name = name or stem_of_place(place) or place
        for one, file in zip(given, files):
            check_placed(one, file)
        found = [bands_and_validity(d, nodata=nodata, title=f) for d, f in zip(datasets, files)]
        for file, own in zip(files, found):
            if not own.bands:
                raise BadInput(
                    f"{file} has only an alpha band; at least one band of measurements was expected."
                )
        if band_names is not None:
            found = match_band_names(datasets, found, band_names, self.name, nodata)
            self.bands = tuple(band_names)
        elif len(files) > 1:
            check_single(found, files)
            self.bands = tuple(name_in_stack(file, files) for file in files)
        else:
            self.bands = tuple(names_in_file(datasets[0], found[0].bands, files[0]))
        self.alphas = sum(len(own.alphas) for own in found)
        self.units = tuple(
            (d.scales[i - 1], d.offsets[i - 1]) for d, own in zip(datasets, found) for i in own.bands
        )
        self.dtype = self._common_type(datasets, found, nodata)
        declared = [nodata_of(d, own) for d, own in zip(datasets, found)]
        self.nodata = nodata if nodata is not None else common_value([v for own in declared for v in own])
        found, beside = with_declared(found, datasets, self.bands, self._options["declared_nodata"] or {})
        self.notes = beside + _notes(given, found, files, named=band_names is not None)
        if len(files) > 1 and band_names is None and self._options["bands"] is None:
            self.notes += flag_notes(self.bands, files)
        # Masks are asked for last: after a damaged mask GDAL raises its error at the next call, whatever it
        # is.
        layers = [
            # The file's own place: its view in colours has no ground control points.
            Layer(d, own.bands, own.nodata, own.masks(d), grid_of(g), file, shared)
            for g, d, own, file in zip(given, datasets, found, files)
        ]
        if len(layers) > 1:
            unplaced = band_names is not None and any(layer.grid.crs is None for layer in layers)
            layers = padded_to_one_shape(layers) if unplaced else warped_to_finest(layers, self._handles)
        # A file without coordinates lies where its neighbours in the stack lie.
        first = next((layer for layer in layers if layer.grid.crs is not None), layers[0])
        height, width = (max(sides) for sides in zip(*(_shape(layer) for layer in layers)))
        self.grid = Grid(first.grid.crs, first.grid.transform, height, width)
        self._read_from(layers)

    def _common_type(
        self, datasets: Sequence, found: Sequence[BandsAndValidity], nodata: float | None
    ) -> np.dtype:
        """The type that holds the values of all bands. Raises BadInput for complex values, BadOption where no
        band can have the nodata value.
        """
        dtypes = [np.dtype(d.dtypes[i - 1]) for d, own in zip(datasets, found) for i in own.bands]
        if any(dtype.kind == "c" for dtype in dtypes):
            raise BadInput(
                f"{self.name} has bands of type {', '.join(sorted({d.name for d in dtypes}))}; real numbers "
                "were expected. Convert them to amplitudes first."
            )
        if nodata is not None:
            check_nodata(nodata, dtypes, self.name)
        # uint16 and int16 become int32: no band's values wrap around.
        return np.result_type(*dtypes)

    def _read_from(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self.band_nodata = tuple(rule for layer in layers for rule in layer.nodata)
        # Each once: the bands of a file share its masks, and reading one costs as much as a band.
        self._masks = tuple(dict.fromkeys(mask for layer in layers for mask in layer.masks))

    def _pick(self, bands: Sequence[str]) -> None:
        """Select these bands, in this order."""
        chosen = [self.index(band) for band in bands]
        self.units = tuple(self.units[c] for c in chosen)
        self._read_from(picked(self._layers, chosen))
        self.bands = tuple(bands)

    def _resample(self, onto: Grid) -> None:
        """Read resampled to another grid from now on: averaged where its pixels are more than 1.5 times as
        wide (ours), bilinear otherwise. What the scene does not cover is invalid.
        """
        coarser = _width_on_the_ground(onto) > 1.5 * _width_on_the_ground(self.grid)
        # Pixel on pixel (rows or columns in the other order) nothing is interpolated, or a neighbour that is
        # not finite would count, were its weight 1e-10.
        turned = _is_turned(self.grid, onto)
        how = Resampling.nearest if turned else Resampling.average if coarser else Resampling.bilinear
        spread = is_spread(self._layers)
        self._read_from(warped(self._layers, onto, how, self._handles, spread=spread))
        self.grid = onto

    def read(self, window: Window | None = None, bands: Sequence[str] | None = None) -> Patch:
        window = self.grid.window if window is None else window
        check_window(window, self.grid.window)
        chosen = None if bands is None or tuple(bands) == self.bands else [self.index(b) for b in bands]
        layers = picked(self._layers, chosen)
        pixels, inside = self._window_of(layers, window)
        rules = tuple(rule for layer in layers for rule in layer.nodata)
        return Patch(pixels, measured(pixels, rules) & inside, window)

    def _window_of(self, layers: Sequence[Layer], window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, H, W) of layers, and (H, W) bool what no mask leaves out. Raises BadFile."""
        file = self.name
        try:
            with gdal(), self._one_at_a_time:
                parts = []
                for layer in layers:
                    file = layer.title
                    parts.append(self._pixels_of(layer, window=window.rio))
                # One file is the usual case: its pixels are not copied once more.
                pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
                return pixels, self._unmasked(window)
        except READ_FAILURES as error:
            rows, columns = f"{window.top}-{window.bottom}", f"{window.left}-{window.right}"
            raise damaged(file, error, f" at rows {rows}, columns {columns}:") from error

    def _pixels_of(self, layer: Layer, **how: object) -> np.ndarray:
        """(B, H, W) of a layer's bands in the scene's type."""
        if len(set(layer.dtypes)) > 1:  # rasterio reads bands of one type at a time
            return np.stack([layer.dataset.read(i, **how).astype(self.dtype) for i in layer.bands])
        return layer.dataset.read(list(layer.bands), **how).astype(self.dtype, copy=False)

    def _unmasked(self, window: Window) -> np.ndarray:
        """(H, W) bool: masked by no alpha band and no mask, and inside all files."""
        return unmasked(self._masks, window)

    def shrunk(
        self, bands: Sequence[str], shape: tuple[int, int], window: Window | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """From overviews, where one is at least as fine as `shape`; every n-th pixel otherwise."""
        window = window or self.grid.window
        levels = self._layers[0].dataset.overviews(self._layers[0].bands[0])
        # A padded file, which lacks rows, has overviews of another shape.
        padded = any(mask.kind == "extent" for mask in self._masks)
        coarse = not levels or min(levels) > max(window.height / shape[0], window.width / shape[1])
        if coarse or padded:
            in_strips = any(one.dataset.block_shapes[0][1] > PIECE_COLUMNS for one in self._layers)
            return sampled(self, bands, shape, window, in_strips=in_strips)
        layers = picked(self._layers, [self.index(b) for b in bands])
        with gdal(), self._one_at_a_time:
            pixels = np.concatenate(
                [self._pixels_of(layer, window=window.rio, out_shape=shape) for layer in layers]
            )
            rules = tuple(rule for layer in layers for rule in layer.nodata)
            return pixels, measured(pixels, rules) & unmasked(self._masks, window, shape)

    @property
    def has_overviews(self) -> bool:
        return bool(self._layers[0].dataset.overviews(self._layers[0].bands[0]))

    def may_hold(self, window: Window) -> bool:
        return self._may_hold(window)

    @cached_property
    def _may_hold(self) -> Callable[[Window], bool]:
        return may_hold(self._layers, self.grid.shape, self.dtype)

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
        return (Part(source_text(self.source), self.files, opened, *facts, self.in_memory, self.notes),)

    def again(self) -> FileScene:
        return FileScene(self.source, **self._options, onto=self._onto)

    def hold(self) -> HeldScene:
        # Masks alone: which nodata values count depends on the bands of each later read.
        held = HeldScene(self, *read_whole(self, partial(self._window_of, self._layers)))
        self.close()
        return held

    def close(self) -> None:
        self._handles.close()


def _shape(layer: Layer) -> tuple[int, int]:
    """Of what is read: a padded file is larger than its own grid."""
    return layer.dataset.height, layer.dataset.width


def _is_turned(grid: Grid, other: Grid) -> bool:
    """Do the pixels of two grids coincide, though their rows or columns may run the other way?"""
    if grid.crs != other.crs:
        return False
    own = ~other.transform @ grid.transform
    turns = np.array([own.a, own.b, own.d, own.e])
    steps = np.array([*(turns * max(grid.shape)), own.c, own.f])
    return (np.abs(turns).round() == (1, 0, 0, 1)).all() and np.abs(steps - steps.round()).max() < SAME_PLACE


def _width_on_the_ground(grid: Grid) -> float:
    return grid.ground_pixel_size or max(grid.pixel_size)


def _notes(
    datasets: Sequence, found: Sequence[BandsAndValidity], files: Sequence[str], *, named: bool
) -> tuple[str, ...]:
    """What is worth saying of each file: its place, its palette, its masks, its bands."""
    return tuple(
        note
        for d, own, file in zip(datasets, found, files)
        for note in (
            *place_notes(d, file),
            *palette_notes(d, file),
            *own.notes,
            # Whoever names all bands knows what they are.
            *(() if named else imagery_notes(own, file)),
        )
    )
