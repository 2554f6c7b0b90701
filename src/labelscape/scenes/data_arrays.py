"""Scenes from xarray's DataArrays and Datasets, read window by window: what dask computes, or a file holds,
is never loaded whole.

Rows and columns are the dimensions that rioxarray knows (x and y, longitude and latitude, those that CF's
attributes name), or lon and lat. Their coordinates are the centres of pixels and place the scene: a transform
that is stored beside them (rioxarray's GeoTransform) stays as it was where an array was sliced, flipped or
coarsened since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from affine import Affine

from labelscape.errors import BadInput, UnknownName
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.scene import IN_MEMORY, Units
from labelscape.scenes.validity import may_be_stored, nodata_rule

OFF = 0.1
"""Pixels by which coordinates may lie off an even spacing: those stored as float32 do (ours)."""
BANDS = ("band", "bands", "channel", "wavelength")
DATES = ("time", "date", "datetime", "t", "valid_time")
LON_LAT = {"lon": "x", "lat": "y", "long": "x"}
MOST_NAMED = 12


def is_of_xarray(source: object) -> bool:
    """Is this a DataArray or Dataset? By its attributes, not by its class: xarray need not be installed."""
    return all(hasattr(source, name) for name in ("dims", "coords", "attrs", "transpose"))


def scene_of(given: Any, nodata: float | None, bands: Sequence[str] | None) -> ArrayScene:
    """The scene of a DataArray of one date, or of a Dataset with a variable for each band. Raises BadInput
    where it is none or nobody can tell where it lies, UnknownName for a band that it lacks.
    """
    rioxarray = _rioxarray()
    if hasattr(given, "data_vars"):
        name, planes, names = _of_dataset(given)
    else:
        name = str(given.name or IN_MEMORY)
        planes, names = _planes(given, name), ()
    first = planes[0]
    names = names or _band_names(first)
    # Before bands are chosen from a Dataset of many.
    for band in bands or ():
        if band not in names:
            raise UnknownName(f"band of {name}", band, names)
    try:
        crs, transform = _place(first, name, {**given.attrs, **first.attrs})
    except rioxarray.exceptions.RioXarrayError as error:
        raise _unplaced(first, name, error) from error
    units, declared = _facts(planes, len(names))
    if bands is not None:
        chosen = [names.index(band) for band in bands]
        planes = [first[chosen]] if first.ndim == 3 else [planes[i] for i in chosen]
        names, units, declared = tuple(bands), *(tuple(of[i] for i in chosen) for of in (units, declared))
    pixels = _Windows(planes)
    kinds = [first.dtype] * len(names) if first.ndim == 3 else [plane.dtype for plane in planes]
    # Kept from the type that the pixels were converted from: no pixel has it.
    known = [v if v is not None and may_be_stored(v, kind) else None for v, kind in zip(declared, kinds)]
    made = ArrayScene(
        pixels,
        transform,
        crs,
        bands=names,
        nodata=known[0] if nodata is None else nodata,
        # The name becomes the stem of a map's files.
        name=name.replace("/", "_").replace("\\", "_"),
        units=units,
    )
    if nodata is None:
        made.band_nodata = tuple(nodata_rule(value, kind) for value, kind in zip(known, kinds))
    return made


def _rioxarray() -> Any:
    try:
        import rioxarray
    except ImportError as error:
        raise BadInput(
            "The coordinates of a DataArray are read with rioxarray, which is not installed: pip install "
            "'labelscape[xarray]'."
        ) from error
    return rioxarray


class _Windows:
    """DataArrays, one of (band, y, x) or many of (y, x), as an array (B, H, W) that is sliced: only what is
    asked for is read or computed, by one thread at a time.
    """

    def __init__(self, planes: Sequence[Any]) -> None:
        self._planes, self._lock, self.ndim = list(planes), Lock(), 3
        # Variables of one scene may differ in type; none may lose a value.
        self.dtype = np.result_type(*(plane.dtype for plane in planes))
        self.shape = planes[0].shape if planes[0].ndim == 3 else (len(planes), *planes[0].shape)

    def __getitem__(self, key: tuple) -> np.ndarray:
        bands, rows, columns = key
        with self._lock:
            if self._planes[0].ndim == 3:
                return np.asarray(self._planes[0][bands, rows, columns])
            chosen = self._planes[bands] if isinstance(bands, slice) else [self._planes[b] for b in bands]
            found = [np.asarray(one[rows, columns]) for one in chosen]
        return np.stack(found).astype(self.dtype, copy=False)


def _of_dataset(given: Any) -> tuple[str, list[Any], tuple[str, ...]]:
    """Name, planes (y, x) and band names of a Dataset."""
    # Opened without decode_coords="all", the variable with the CRS is data and not a coordinate.
    grids = [name for name, one in given.data_vars.items() if one.ndim == 0 and _is_grid_mapping(one)]
    given = given.set_coords(grids) if grids else given
    bounds = {one.attrs.get("bounds") for one in given.coords.values()}
    found = {str(n): one for n, one in given.data_vars.items() if one.ndim >= 2 and n not in bounds}
    if len(found) == 1:
        ((name, array),) = found.items()
        planes = _planes(array, name)
        return name, planes, (name,) if planes[0].ndim == 2 else ()
    try:
        planes = [_planes(array, name)[0] for name, array in found.items()]
    except BadInput:
        planes = []
    if not planes or len({plane.dims for plane in planes}) > 1 or planes[0].ndim != 2:
        sizes = [f"{n} ({' x '.join(f'{d} {s}' for d, s in a.sizes.items())})" for n, a in found.items()]
        listed = ", ".join(sizes[:MOST_NAMED]) + (" ..." if len(sizes) > MOST_NAMED else "")
        raise BadInput(
            "This xarray.Dataset is no scene of one variable a band, of the same rows and columns; it has "
            f"{listed or 'no variable with two dimensions'}. Pick a variable, as in dataset[NAME], or "
            "several, as in dataset[[NAME, NAME]]."
        )
    name = str(given.attrs.get("title") or IN_MEMORY)
    return (name if len(name) <= 60 else IN_MEMORY), planes, tuple(found)


def _is_grid_mapping(variable: Any) -> bool:
    return bool({"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(variable.attrs))


def _planes(array: Any, name: str) -> list[Any]:
    """A DataArray as (band, y, x) or (y, x), whichever it is: a new axis would load what is lazy."""
    rioxarray = _rioxarray()
    told = {d: LON_LAT.get(str(d).lower()) for d in array.dims}
    array = array.rename({d: axis for d, axis in told.items() if axis and axis not in array.coords})
    try:
        rows, columns = array.rio.y_dim, array.rio.x_dim
    except rioxarray.exceptions.RioXarrayError as error:
        raise _unplaced(array, name, error) from error
    others = [d for d in array.dims if d not in (rows, columns)]
    # One date, one level: their axis says nothing.
    single = [d for d in others if array.sizes[d] == 1 and _is_date(array, d)]
    others = [d for d in others if d not in single]
    # One axis is that of the bands, however few there are.
    level = sorted((d for d in others if array.sizes[d] == 1), key=lambda d: str(d) in BANDS)
    single += level[: len(others) - 1]
    array = array.isel(dict.fromkeys(single, 0))
    others = [d for d in others if d not in single]
    dates = [d for d in others if _is_date(array, d)]
    # Dates are no bands: a series would be read as one image of as many bands.
    if len(others) > 1 or dates:
        which = dates[0] if dates else others[0]
        raise BadInput(
            f"{name} has the dimensions {', '.join(map(str, array.dims))}; a scene has band, {rows} and "
            f"{columns}. Pick one of the others, such as .isel({which}=0), or combine them, such as "
            f".median({str(which)!r})."
        )
    return [array.transpose(*others, rows, columns)]


def _is_date(array: Any, dimension: Any) -> bool:
    if str(dimension).lower() in DATES:
        return True
    return dimension in array.coords and array.coords[dimension].dtype.kind == "M"


def _unplaced(array: Any, name: str, error: Exception) -> BadInput:
    return BadInput(
        f"{name} has the dimensions {', '.join(map(str, array.dims))}, and rioxarray cannot tell where "
        f"its pixels lie ({str(error).splitlines()[0].rstrip('.')}); band, y and x were expected."
    )


def _place(array: Any, name: str, attrs: Mapping[str, Any]) -> tuple[object, Affine]:
    """CRS and transform; `attrs` are those of the array and its Dataset. Raises BadInput for coordinates
    without a CRS, or that are not evenly spaced.
    """
    crs, transform = array.rio.crs or _stated_crs(attrs), array.rio.transform()
    # Without rotation the coordinates say where pixels are.
    if not (transform.b or transform.d):
        a, c = _axis(array, array.rio.x_dim, transform.a, transform.c, name)
        e, f = _axis(array, array.rio.y_dim, transform.e, transform.f, name)
        transform = Affine(a, 0, c, 0, e, f)
    if crs is None and not transform.is_identity:
        raise BadInput(
            f"{name} has coordinates but no CRS: write it, as in array.rio.write_crs('EPSG:32633') (degrees "
            "of longitude and latitude are 'EPSG:4326'), or open the file with decode_coords='all'."
        )
    return crs, transform


def _stated_crs(attrs: Mapping[str, Any]) -> object:
    """The CRS by the attributes of GeoZarr and STAC (proj:code and its like), where there is one."""
    for key in ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson", "crs"):
        if value := attrs.get(key):
            return json.dumps(value) if isinstance(value, Mapping) else value
    return None


def _axis(array: Any, dimension: Any, step: float, start: float, name: str) -> tuple[float, float]:
    """Side of a pixel and the outer edge of the first, by the coordinates of the pixels' centres; as they
    were given where there are none.
    """
    if dimension not in array.coords or array.sizes[dimension] < 2:
        return step, start
    centres = np.asarray(array.coords[dimension].values, float)
    mean = (centres[-1] - centres[0]) / (len(centres) - 1)
    off = np.abs(centres - (centres[0] + mean * np.arange(len(centres)))).max()
    if not mean or not off <= OFF * abs(mean):
        raise BadInput(
            f"{name} has coordinates {dimension} that are not evenly spaced (from {centres[0]:g} to "
            f"{centres[-1]:g}, up to {off:g} off): its pixels form no raster. Resample it, as with "
            ".interp or .rio.reproject."
        )
    # The stored side has no noise of rounding.
    side = step if abs(step - mean) * len(centres) <= OFF * abs(mean) else mean
    return side, float(centres[0] - side / 2)


def _band_names(array: Any) -> tuple[str, ...]:
    """Band names: `long_name`, where rioxarray stores the descriptions of a file's bands, else the band
    coordinate, else numbers.
    """
    count = array.shape[0] if array.ndim == 3 else 1
    dimension = array.dims[0] if array.ndim == 3 else "band"
    given = array.attrs.get("long_name")
    given = (given,) if isinstance(given, str) else given
    if given is None or len(given) != count:
        given = array.coords[dimension].values if dimension in array.coords else range(1, count + 1)
    names = tuple(str(name) for name in np.atleast_1d(given).tolist()) if given is not None else ()
    return names if len(set(names)) == count else tuple(str(i + 1) for i in range(count))


def _facts(planes: Sequence[Any], count: int) -> tuple[Units, tuple[float | None, ...]]:
    """(scale, offset) and nodata value of every band."""
    if len(planes) == 1:
        return _units(planes[0].attrs, count), (planes[0].rio.nodata,) * count
    units = tuple(_units(plane.attrs, 1)[0] for plane in planes)
    return units, tuple(plane.rio.nodata for plane in planes)


def _units(attrs: dict[str, Any], count: int) -> Units:
    """(scale, offset) a band from rioxarray's attributes: one for all, or lists where bands differ. Values
    scaled when they were read (mask_and_scale) have none left.
    """
    scales = np.broadcast_to(attrs.get("scales", attrs.get("scale_factor", 1.0)), count)
    offsets = np.broadcast_to(attrs.get("offsets", attrs.get("add_offset", 0.0)), count)
    return tuple((float(s), float(o)) for s, o in zip(scales, offsets))
