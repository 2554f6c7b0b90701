"""Scenes from objects that hold georeferenced pixels: open rasterio datasets and those of xarray."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import rasterio
from rasterio.io import DatasetWriter
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput, BadOption
from labelscape.scenes.data_arrays import is_of_xarray, scene_of
from labelscape.scenes.files import SharedDataset, Source, opens_again
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import IN_MEMORY, Scene

WHAT_MAY_BE_GIVEN = (
    "A scene is a file, a folder, an address, a list of files or a STAC item, all by their paths; an open "
    "rasterio dataset; an xarray.DataArray or Dataset with rioxarray's .rio; or an array as "
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
    if is_of_xarray(source):
        if band_names is not None:
            raise BadOption("A DataArray names its bands: rename them there; `band_names` is for files.")
        return scene_of(source, nodata, bands)
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
