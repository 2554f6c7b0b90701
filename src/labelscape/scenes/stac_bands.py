"""The bands of a STAC item: which assets hold measurements, how their bands are named, and which of several
of the same name is used.

Catalogues differ: some give roles, some only media types; some `eo:bands` and `raster:bands` (STAC 1.0), some
`bands` (STAC 1.1), some none. Each rule here falls back where an item does not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from labelscape.errors import BadInput
from labelscape.scenes.files import RASTER_SUFFIXES

MEDIA = ("image/tiff", "image/jp2", "image/geotiff", "image/x-geotiff", "image/vnd.stac.geotiff")
NO_MEASUREMENTS = {"visual", "thumbnail", "overview", "metadata"}
"""Roles, and keys, of assets that are not measurements: rendered images and documents."""


@dataclass(frozen=True)
class Band:
    """One band of an asset.

    key         of the asset                   position    in the asset, from 0, of `count` bands
    name        the item's, else made of the key; `named` tells which
    common      common name, such as "red"     classified  are its values classes, as in Sentinel-2's SCL?
    media       media type of the asset        pixel_size  in metres (or units of the CRS), inf where unknown
    """

    key: str
    position: int
    count: int
    name: str
    common: str | None
    named: bool
    classified: bool
    media: str
    pixel_size: float
    nodata: float | None
    units: tuple[float, float]


def data_assets(assets: Mapping[str, dict], title: str, asset: str | None = None) -> dict[str, dict]:
    """Select the assets that hold measurements: those with the role data, else all rasters that are not
    rendered images; with `asset` those of these keys or roles, separated by commas, in this order. Raises
    BadInput, naming the item by `title`, where there is none.
    """
    if asset is not None:
        return _named_assets(assets, title, asset)
    rasters = {
        key: asset
        for key, asset in assets.items()
        if isinstance(asset, dict) and isinstance(asset.get("href"), str) and _is_raster(asset)
    }
    kept = {
        key: asset for key, asset in rasters.items() if not NO_MEASUREMENTS & set(asset.get("roles") or [])
    }
    data = {key: asset for key, asset in kept.items() if "data" in (asset.get("roles") or [])}
    if not (data or kept):
        raise BadInput(
            f"{title} has no raster asset with the role data; its assets are {_listed(assets)}. Is the "
            "scene in another item?"
        )
    return data or kept


def _listed(assets: Mapping[str, dict]) -> str:
    return (
        ", ".join(
            f"{key} ({asset.get('type', 'no type') if isinstance(asset, dict) else '?'})"
            for key, asset in assets.items()
        )
        or "none"
    )


def _named_assets(assets: Mapping[str, dict], title: str, asset: str) -> dict[str, dict]:
    """The assets of these keys, or all that have a role of this name."""
    there = {k: a for k, a in assets.items() if isinstance(a, dict) and isinstance(a.get("href"), str)}
    found: dict[str, dict] = {}
    for name in filter(None, (part.strip() for part in asset.split(","))):
        alike = [name] if name in there else [k for k, a in there.items() if name in (a.get("roles") or [])]
        if not alike:
            raise BadInput(
                f"{title} has no asset of the key or role {name!r}; its assets are {_listed(assets)}. Name "
                "one of them with `asset`."
            )
        found |= {key: there[key] for key in alike}
    return found


def _is_raster(asset: dict) -> bool:
    # "image/tiff; application=geotiff; profile=cloud-optimized": parameters vary, the type does not.
    media = str(asset.get("type") or "").partition(";")[0].strip().lower()
    if not media:
        return Path(urlsplit(asset["href"]).path).suffix.lower() in RASTER_SUFFIXES
    # A PNG is a picture of the data, unless the item gives it the role data.
    return media in MEDIA or (media.startswith("image/") and "data" in (asset.get("roles") or []))


def bands_of(key: str, asset: dict) -> list[Band]:
    """The bands of an asset; a single band named like the asset where the item does not describe any.

    Raises AttributeError, TypeError or ValueError where the description is malformed.
    """
    lists = [asset.get(name) or [] for name in ("eo:bands", "raster:bands", "bands")]
    common = {
        k: asset[k]
        for k in ("nodata", "gsd", "raster:scale", "raster:offset", "raster:spatial_resolution")
        if k in asset
    }
    # A band's own value wins over that of its asset; eo:bands and raster:bands describe the same bands.
    merged = [
        {**common, **{k: v for own in lists if i < len(own) for k, v in own[i].items()}}
        for i in range(max(1, *map(len, lists)))
    ]
    named = any(band.get("name") or _common_name(band) for band in merged)
    # Bands of unknown pixel size come last where the finest is chosen.
    step = asset.get("proj:transform") or [math.inf]
    return [
        Band(
            key,
            i,
            len(merged),
            str(band.get("name") or _common_name(band) or (key if len(merged) == 1 else f"{key}_{i + 1}")),
            _common_name(band),
            named,
            "classification:classes" in asset or "classification:classes" in band,
            str(asset.get("type", "")).partition(";")[0],
            abs(
                float(
                    band.get("raster:spatial_resolution")
                    or band.get("spatial_resolution")
                    or band.get("gsd")
                    or step[0]
                )
            ),
            _number(band.get("nodata")),
            _units(band),
        )
        for i, band in enumerate(merged)
    ]


def wanted_bands(bands: Sequence[Band], wanted: Sequence[str]) -> dict[str, Band] | None:
    """Find each wanted band by its asset's key, its name or its common name; None unless the item has all of
    them, none ambiguously.
    """
    found = {}
    for name in wanted:
        # A key names a band only where its asset has one; of several it would name all.
        by_key = [b for b in bands if b.key == name and b.count == 1]
        by_name = [b for b in bands if b.name == name and b.named]
        by_common = [b for b in bands if b.common == name]
        # Sentinel-2 has several bands of the common name rededge: such a name selects none.
        alike = by_key or by_name or (by_common if len({b.name for b in by_common}) == 1 else [])
        if not alike or _ambiguous(alike):
            return None
        found[name] = _finest(alike)
    return found


def uniquely_named(bands: Sequence[Band]) -> dict[str, Band]:
    """Give every band a unique name. Of one band in several formats or resolutions only the finest is kept;
    different bands of one name are named by their assets' keys.
    """
    found: dict[str, Band] = {}
    for name in dict.fromkeys(b.name for b in bands):
        alike = [b for b in bands if b.name == name]
        found |= (
            {(b.key if b.count == 1 else f"{b.key}_{name}"): b for b in alike}
            if _ambiguous(alike)
            else {name: _finest(alike)}
        )
    return found


def _ambiguous(alike: Sequence[Band]) -> bool:
    """Are these different bands of one name? Copies of one band differ in media type or resolution."""
    return len({(b.media, b.pixel_size) for b in alike}) < len(alike)


def _finest(alike: Sequence[Band]) -> Band:
    return min(alike, key=lambda b: b.pixel_size)


def preferring(bands: Sequence[Band], *tests: object) -> Sequence[Band]:
    """Narrow bands down to those that pass each test in turn; a test that none passes is skipped."""
    for test in tests:
        bands = [b for b in bands if test(b)] or bands
    return bands


def _common_name(band: dict) -> str | None:
    return band.get("common_name") or band.get("eo:common_name")


def _units(band: dict) -> tuple[float, float]:
    # `scale` in raster:bands of STAC 1.0, `raster:scale` in the bands of 1.1.
    scale, offset = (_number(band.get(f"raster:{key}", band.get(key))) for key in ("scale", "offset"))
    return 1.0 if scale is None else scale, offset or 0.0


def _number(value: object) -> float | None:
    """A number of an item, where "nan" is a string in JSON; None for NaN, which is invalid in any file."""
    number = None if value is None else float(value)
    return None if number is None or math.isnan(number) else number


def common_nodata(values: Iterable[float | None]) -> float | None:
    """The nodata value that all bands share, else None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
