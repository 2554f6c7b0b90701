"""Coordinates from one CRS to another: the one place that asks PROJ, and knows how it fails.

Local (engineering) CRSs have no place on Earth, those of other celestial bodies none on ours, and geocentric
ones count along three axes. Places outside the area that a projection is made for have infinite coordinates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from rasterio.crs import CRS

from labelscape.errors import BadInput

LONLAT = "OGC:CRS84"
"""Longitude and latitude on WGS 84, in this order."""


class Unrelated(BadInput):
    """Two CRSs between which no transformation is known."""


def transformed(
    x: np.ndarray, y: np.ndarray, source: CRS, target: CRS | str = LONLAT
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in another CRS, x before y in both; infinite where a place has none there.

    Raises Unrelated, with both names, where the CRSs cannot be related.
    """
    if source == target:
        return np.asarray(x, float), np.asarray(y, float)
    change = _change(source.to_wkt(), target if isinstance(target, str) else target.to_wkt())
    x, y = change.transform(np.asarray(x, float), np.asarray(y, float))
    return np.asarray(x), np.asarray(y)


@lru_cache(maxsize=32)  # making a transformer takes milliseconds
def _change(source: str, target: str) -> object:
    from pyproj import CRS as Known
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        # As WKT: rasterio and pyproj may bring a PROJ library each, whose objects cannot be exchanged.
        both = [Known.from_user_input(text) for text in (source, target)]
        for known in both:
            if known.is_geocentric:
                raise Unrelated(f"{known.name} is geocentric: it has no map coordinates.")
        # always_xy: some CRSs (EPSG:4326) have latitude first, while GDAL's transforms always have x first.
        return Transformer.from_crs(*both, always_xy=True)
    except ProjError as error:
        names = " and ".join(_title(text) for text in (source, target))
        raise Unrelated(
            f"No transformation between {names} is known: one is local, of another celestial body, or "
            "damaged. If it is only named wrongly, assign the right CRS (gdal_edit.py -a_srs EPSG:... FILE)."
        ) from error


def bounds_in(
    bounds: tuple[float, float, float, float], source: CRS, target: CRS | str = LONLAT
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


def _title(text: str) -> str:
    """A CRS as messages name it: its code, or the first quoted word of its WKT, its name."""
    return f"'{text.split(chr(34))[1]}'" if text.count('"') > 1 else text
