"""Rasters in containers of arrays: Zarr, which is a folder, and NetCDF. GDAL reads both by windows, with CF's
grid mapping, nodata, scale and offset; here is what it leaves open: which axis the bands are, and whether
pixels have a place.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from labelscape.errors import BadInput

ZARR = (".zgroup", ".zarray", ".zmetadata", "zarr.json")
"""One of these files makes a folder a Zarr store, of version 2 or 3."""
DRIVERS = ("Zarr", "netCDF")
DATES = ("time", "date", "datetime", "t", "valid_time")
"""Axes of dates: their values are no bands of one image."""
OFF = 0.1
"""Pixels by which coordinates may lie off an even spacing (ours)."""
ROWS, COLUMNS = ("y", "lat", "latitude"), ("x", "lon", "longitude")
COORDINATES = (*ROWS, *COLUMNS, *DATES, "band", "bands", "spatial_ref", "crs")
AXIS = re.compile(r"(?:DIM_(\w+)_VALUE|NETCDF_DIM_(\w+))")
"""The tag of a band with its place on an axis that is neither rows nor columns."""


def is_zarr(folder: str | Path) -> bool:
    """Is this folder a Zarr store?"""
    return any(Path(folder, name).is_file() for name in ZARR)


def folder_of(name: str) -> Path | None:
    """The local Zarr store that GDAL's name of a raster in it is read from: ZARR:"scene.zarr":/red."""
    found = re.fullmatch(r'ZARR:"?(.+?)"?(?::/.*)?', name, re.IGNORECASE)
    return Path(found[1]) if found and Path(found[1]).is_dir() else None


def rasters_in(dataset: rasterio.DatasetReader) -> list[str]:
    """What a container holds, as GDAL names it; coordinates of a Zarr store are left out."""
    names = list(dataset.subdatasets)
    return [n for n in names if dataset.driver != "Zarr" or n.rpartition("/")[2].lower() not in COORDINATES]


def band_axis(dataset: rasterio.DatasetReader, title: str) -> list[str | None]:
    """The name of each band by its place on the axis of bands, None where the file has no other axis than
    rows and columns. Raises BadInput where the axis is one of several dates, or there are two.
    """
    nothing: list[str | None] = [None] * dataset.count
    if getattr(dataset, "driver", "") not in DRIVERS:
        return nothing
    places = [_places(dataset.tags(band)) for band in dataset.indexes]
    axes = {name: [one.get(name) for one in places] for name in (places[0] if places else {})}
    axes = {name: values for name, values in axes.items() if len(set(values)) > 1}
    dated = [name for name in axes if name.lower() in DATES]
    if dated or len(axes) > 1:
        sizes = ", ".join(f"{name} {len(set(values))}" for name, values in axes.items())
        which = dated[0] if dated else next(iter(axes))
        raise BadInput(
            f"{title} has {dataset.count} rasters along {sizes}; a scene has one date, and bands along one "
            f"axis. Write one of them to a file, gdal_translate -b N {title} scene.tif, or open it with "
            f"xarray and pass .isel({which}=0)."
        )
    (values,) = axes.values() if axes else (nothing,)
    return values if len(set(values)) == len(values) else nothing


def _places(tags: dict[str, str]) -> dict[str, str]:
    return {found[1] or found[2]: value for key, value in tags.items() if (found := AXIS.fullmatch(key))}


def check_placed(dataset: rasterio.DatasetReader, title: str) -> None:
    """Raises BadInput for an array with coordinates but no CRS, or with a CRS and coordinates that make no
    raster: read without a place, it would be mapped without areas and without a word.
    """
    if getattr(dataset, "driver", "") not in DRIVERS or dataset.gcps[0]:
        return
    if dataset.crs is None and not dataset.transform.is_identity:
        raise BadInput(
            f"{title} has coordinates, but GDAL finds no CRS (CF's grid_mapping). Say which, "
            f"gdal_translate -of VRT -a_srs EPSG:32633 {title} scene.vrt, and pass scene.vrt; or write it "
            "with xarray's .rio.write_crs."
        )
    if dataset.crs is not None and dataset.transform.is_identity:
        raise BadInput(
            f"{title} has a CRS, but no evenly spaced coordinates that GDAL knows as such. "
            "Write them with xarray's .rio.write_coordinate_system() and .rio.write_transform(), or resample "
            "the scene, as with gdalwarp -geoloc."
        )
    if dataset.driver == "Zarr" and not (dataset.transform.b or dataset.transform.d):
        a, _, c, _, e, f = dataset.transform[:6]
        for axis, count, step, start in ((COLUMNS, dataset.width, a, c), (ROWS, dataset.height, e, f)):
            centres = _coordinates(dataset, axis, count)
            off = np.abs(start + step * (np.arange(count) + 0.5) - centres).max() if len(centres) else 0.0
            # GDAL looks at the first ones alone.
            if not off <= OFF * abs(step):
                raise BadInput(
                    f"{title} has coordinates that are not evenly spaced (up to {off:g} off): its pixels "
                    "form no raster. Resample it, as with xarray's .interp."
                )


def _coordinates(dataset: rasterio.DatasetReader, names: Sequence[str], count: int) -> np.ndarray:
    """The coordinates beside an array of a Zarr store, by the first of the names that there is; none where
    there is no axis of so many.
    """
    named = re.fullmatch(r'ZARR:"?(.+?)"?(?::(/.*))?', dataset.name, re.IGNORECASE)
    store, array = (named[1], named[2] or "") if named else (dataset.name, "")
    for name in names:
        with contextlib.suppress(rasterio.errors.RasterioError):
            with rasterio.open(f'ZARR:"{store}":{array.rpartition("/")[0]}/{name}') as axis:
                if axis.count == 1 and axis.width * axis.height == count:
                    return axis.read(1).ravel().astype(float)
    return np.empty(0)


def names_on_axis(dataset: rasterio.DatasetReader, indices: Sequence[int], title: str) -> list[str | None]:
    """`band_axis` of some bands. Raises as it does."""
    found = band_axis(dataset, title)
    return [found[i - 1] for i in indices]
