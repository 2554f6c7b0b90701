"""Coordinates from one CRS to another: the one place that asks PROJ, and knows how it fails.

Local (engineering) CRSs have no place on Earth, those of other celestial bodies none on ours, and geocentric
ones count along three axes. Places outside the area that a projection is made for have infinite coordinates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from labelscape.errors import BadInput

if TYPE_CHECKING:
    from pyproj import CRS as Known

LONLAT = "OGC:CRS84"
"""Longitude and latitude on WGS 84, in this order."""


class Unrelated(BadInput):
    """Two CRSs between which no transformation is known."""


def transformed(
    x: np.ndarray, y: np.ndarray, source: CRS | str, target: CRS | str = LONLAT
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in another CRS, x before y in both; infinite where a place has none there.

    Raises Unrelated, with both names, where the CRSs cannot be related.
    """
    if _equal(source, target):
        return np.asarray(x, float), np.asarray(y, float)
    change = _change(_text(source), _text(target))
    x, y = change.transform(np.asarray(x, float), np.asarray(y, float))
    return np.asarray(x), np.asarray(y)


@lru_cache(maxsize=32)  # making a transformer takes milliseconds
def _change(source: str, target: str) -> object:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        both = [_known(text) for text in (source, target)]
        geocentric = next((known.name for known in both if known.is_geocentric), None)
        # always_xy: some CRSs (EPSG:4326) have latitude first, while GDAL's transforms always have x first.
        change = None if geocentric else Transformer.from_crs(*both, always_xy=True)
    except (ProjError, Unrelated) as error:
        names = " and ".join(_title(text) for text in (source, target))
        raise Unrelated(
            f"No transformation between {names} is known: one is local, of another celestial body, or "
            "damaged. If it is only named wrongly, assign the right CRS (gdal_edit.py -a_srs EPSG:... FILE)."
        ) from error
    if geocentric:
        raise Unrelated(f"{geocentric} is geocentric: it has no map coordinates.")
    return change


def bounds_in(
    bounds: tuple[float, float, float, float], source: CRS | str, target: CRS | str = LONLAT
) -> tuple[float, float, float, float]:
    """A box (min x, min y, max x, max y) as the box of its sides in another CRS; infinite where it has no
    place there. Raises Unrelated as `transformed` does.
    """
    west, south, east, north = bounds
    steps = np.linspace(0, 1, 22)  # straight sides may be curves there
    across = west + (east - west) * np.concatenate([steps, steps, 0 * steps, 0 * steps + 1])
    up = south + (north - south) * np.concatenate([0 * steps, 0 * steps + 1, steps, steps])
    x, y = transformed(across, up, source, target)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def ring_areas(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(N,) square metres within rings (N, P) of points on the WGS 84 ellipsoid."""
    from pyproj import Geod

    ellipsoid = Geod(ellps="WGS84")
    # The sign is that of a ring's direction, which is reversed where a grid's rows run north.
    return np.array([abs(ellipsoid.polygon_area_perimeter(*ring)[0]) for ring in zip(lon, lat)])


def ground_distances(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(N - 1,) metres from the first of N points to each other one, on the WGS 84 ellipsoid."""
    from pyproj import Geod

    first = np.full(len(lon) - 1, lon[0]), np.full(len(lat) - 1, lat[0])
    return np.asarray(Geod(ellps="WGS84").inv(*first, lon[1:], lat[1:])[2])


def _equal(one: CRS | str, other: CRS | str) -> bool:
    """Are they one CRS to GDAL? It also knows local ones, which nothing is transformed from or to."""
    try:
        return CRS.from_user_input(one) == CRS.from_user_input(other)
    except CRSError:  # what only PROJ knows, or nobody
        return False


def same(one: CRS | str, other: CRS | str) -> bool:
    """Are two CRSs the same on the map, however they are written, and whatever heights they have? Raises
    Unrelated where one is damaged.
    """
    return _equal(one, other) or _flat(_known(_text(one))) == _flat(_known(_text(other)))


def _flat(known: Known) -> Known:
    """A CRS without its heights: the horizontal part of a compound one."""
    return known.sub_crs_list[0] if known.is_compound else known.to_2d()


def is_geographic(crs: CRS | str) -> bool:
    """Are its coordinates degrees? Raises Unrelated where it is damaged."""
    return _known(_text(crs)).is_geographic


def name_of(crs: CRS | str) -> str:
    """The name that a CRS has itself. Raises Unrelated where it is damaged."""
    return _known(_text(crs)).name


def as_wkt(text: str) -> str:
    """A CRS in any of the ways in which files write it (a code, PROJJSON) as WKT. Raises Unrelated where it
    is damaged.
    """
    return _known(text).to_wkt()


def as_projjson(crs: CRS | str) -> dict:
    """A CRS as PROJJSON. Raises Unrelated where it is damaged."""
    return _known(_text(crs)).to_json_dict()


def utm_zone(crs: CRS | str) -> str | None:
    """The zone of a UTM projection, such as 33N; None of other CRSs. Raises Unrelated where it is damaged."""
    return _known(_text(crs)).utm_zone


@lru_cache(maxsize=32)
def _known(text: str) -> Known:
    from pyproj import CRS as Known
    from pyproj.exceptions import ProjError

    try:
        return Known.from_user_input(text)
    except ProjError as error:
        raise Unrelated(f"The CRS {_title(text)[:60]} is not known, or damaged.") from error


def _text(crs: CRS | str) -> str:
    # As WKT: rasterio and pyproj may bring a PROJ library each, whose objects cannot be exchanged.
    return crs if isinstance(crs, str) else crs.to_wkt()


def _title(text: str) -> str:
    """A CRS as messages name it: its code, or the first quoted word of its WKT, its name."""
    return f"'{text.split(chr(34))[1]}'" if text.count('"') > 1 else text
