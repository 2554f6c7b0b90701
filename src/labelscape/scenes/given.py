"""Scenes from objects that hold georeferenced pixels: open rasterio datasets and xarray DataArrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from rasterio.io import DatasetWriter
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.files import DataArray, SharedDataset, Source, opens_again
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import IN_MEMORY, Scene, Units
from labelscape.scenes.validity import may_be_stored

WHAT_MAY_BE_GIVEN = (
    "A scene is a file, a folder, an address, a list of files or a STAC item, all by their paths; an open "
    "rasterio dataset; an xarray.DataArray with rioxarray's .rio; or an array as "
    "labelscape.ArrayScene(pixels, transform, crs)"
)


def scene_given(
    source: Source,
    *,
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
) -> Scene | None:
    """Make a scene of an object, with handles of its own; None for paths and lists of them.

    Raises BadInput where the object cannot be a scene, BadOption where it is one and options are given too.
    """
    if isinstance(source, (str, os.PathLike)):
        return None
    if isinstance(source, Scene):
        if nodata is not None or bands is not None or band_names is not None:
            raise BadOption(
                f"{source.name} is a scene already: pass nodata, bands and their names where it is opened "
                "or made."
            )
        return source.again()
    if isinstance(source, (rasterio.DatasetReader, DatasetWriter, WarpedVRT)):
        return _of_dataset(source, nodata, bands, band_names)
    # By its attributes, not by its class: xarray need not be installed.
    if all(hasattr(source, name) for name in ("dims", "coords", "attrs", "transpose")):
        if band_names is not None:
            raise BadOption("A DataArray names its bands: rename them there; `band_names` is for files.")
        return _of_data_array(source, nodata, bands)
    if isinstance(source, (list, tuple)):
        stranger = next((one for one in source if not isinstance(one, (str, os.PathLike))), None)
        if stranger is None:
            return None
        raise BadInput(f"A list of files was expected, but it holds {_a(stranger)}; pass such a scene alone.")
    named = _a(source)
    raise BadInput(f"{named[0].upper()}{named[1:]} cannot be opened as a scene. {WHAT_MAY_BE_GIVEN}.")


def _a(value: object) -> str:
    """A value as a message names it: an int (7), a dict, an array of shape (3, 5, 6)."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} without coordinates"
    text = repr(value)
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return f"{article} {kind}" + (f" ({text})" if len(text) <= 40 and "\n" not in text else "")


def _of_dataset(
    dataset: rasterio.DatasetReader | WarpedVRT,
    nodata: float | None,
    bands: Sequence[str] | None,
    band_names: Sequence[str] | None,
) -> FileScene:
    if isinstance(dataset, DatasetWriter):
        raise BadInput(
            f"{dataset.name} is open for writing, so its pixels may not be in the file yet: close it, then "
            "pass its path or open it for reading."
        )
    in_memory = "/vsimem/" in dataset.name
    name = IN_MEMORY if in_memory else None
    # By name where that works: handles of our own may be read by several threads, the caller's by one.
    if opens_again(dataset):
        return FileScene(dataset.name, nodata=nodata, bands=bands, band_names=band_names, name=name)
    if dataset.closed:
        raise BadInput(f"The dataset {dataset.name} is closed and cannot be opened again: pass an open one.")
    return FileScene(SharedDataset(dataset), nodata=nodata, bands=bands, band_names=band_names, name=name)


class _Windows:
    """A DataArray, dimensions (band, y, x), as an array that is sliced: only what is asked for is read or
    computed, by one thread at a time.
    """

    def __init__(self, array: Any) -> None:
        self._array, self._lock = array, Lock()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: tuple) -> np.ndarray:
        with self._lock:
            return np.asarray(self._array[key])


def _of_data_array(array: Any, nodata: float | None, bands: Sequence[str] | None) -> ArrayScene:
    if not hasattr(array, "dtype"):
        raise BadInput(
            f"An xarray.{type(array).__name__} was given; a DataArray was expected: pick a variable, or "
            "stack them with .to_dataarray(dim='band')."
        )
    # The name becomes the stem of a map's files.
    name = str(array.name or IN_MEMORY).replace("/", "_").replace("\\", "_")
    array, crs, transform = _placed(array, name)
    names = _band_names(array)
    units = _units(array.attrs, len(names))
    if bands is not None:
        for band in bands:
            if band not in names:
                raise UnknownName(f"band of {name}", band, names)
        chosen = [names.index(band) for band in bands]
        array, names, units = array[chosen], tuple(bands), tuple(units[i] for i in chosen)
    declared = array.rio.nodata
    if declared is not None and not may_be_stored(declared, array.dtype):
        declared = None  # kept from the type that the pixels were converted from
    return ArrayScene(
        _Windows(array),
        transform,
        crs,
        bands=names,
        nodata=declared if nodata is None else nodata,
        name=name,
        units=units,
    )


def _placed(array: DataArray, name: str) -> tuple[Any, object, rasterio.Affine]:
    """The array transposed to (band, y, x), with rioxarray's CRS and transform of it."""
    try:
        import rioxarray
    except ImportError as error:
        raise BadInput(
            "The coordinates of a DataArray are read with rioxarray, which is not installed: pip install "
            "rioxarray."
        ) from error
    try:
        rows, columns = array.rio.y_dim, array.rio.x_dim
        others = [d for d in array.dims if d not in (rows, columns)]
        # Dates are no bands: a series would be read as one image of as many bands.
        if len(others) > 1 or "time" in others:
            raise BadInput(
                f"{name} has the dimensions {', '.join(map(str, array.dims))}; a scene has band, {rows} and "
                f"{columns}. Pick one of the others, such as .isel({others[0]}=0)."
            )
        array = array.transpose(*others, rows, columns) if others else array.expand_dims("band")
        return array, array.rio.crs, array.rio.transform()
    except rioxarray.exceptions.RioXarrayError as error:
        raise BadInput(
            f"{name} has the dimensions {', '.join(map(str, array.dims))}, and rioxarray cannot tell where "
            f"its pixels lie ({str(error).splitlines()[0].rstrip('.')}); band, y and x were expected."
        ) from error


def _band_names(array: Any) -> tuple[str, ...]:
    """Band names: `long_name`, where rioxarray stores the descriptions of a file's bands, else the band
    coordinate, else numbers.
    """
    count = array.shape[0]
    given = array.attrs.get("long_name")
    given = (given,) if isinstance(given, str) else given
    if given is None or len(given) != count:
        dimension = array.dims[0]
        given = array.coords[dimension].values if dimension in array.coords else range(1, count + 1)
    names = tuple(str(name) for name in np.atleast_1d(given).tolist()) if given is not None else ()
    return names if len(set(names)) == count else tuple(str(i + 1) for i in range(count))


def _units(attrs: dict[str, Any], count: int) -> Units:
    """(scale, offset) a band from rioxarray's attributes: one for all, or lists where bands differ. Values
    scaled when they were read (mask_and_scale) have none left.
    """
    scales = np.broadcast_to(attrs.get("scales", attrs.get("scale_factor", 1.0)), count)
    offsets = np.broadcast_to(attrs.get("offsets", attrs.get("add_offset", 0.0)), count)
    return tuple((float(s), float(o)) for s, o in zip(scales, offsets))
