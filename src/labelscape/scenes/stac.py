"""Scenes that a STAC item describes: which of its files hold measurements, what their bands are called, what
the files do not say themselves.

Items are read as plain JSON, of any STAC version: catalogues in use differ more than the specification lets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from labelscape.errors import BadFile, BadInput
from labelscape.scenes.files import RASTER_SUFFIXES, Files

SUFFIXES = {".json", ".geojson"}
MEDIA = ("image/tiff", "image/jp2", "image/geotiff", "image/x-geotiff", "image/vnd.stac.geotiff")
NO_MEASUREMENTS = {"visual", "thumbnail", "overview", "metadata"}
"""Roles, and keys, of assets that are no scene to map: pictures for the eye, and texts."""
SECONDS = 60
"""How long a server may take to answer."""


@dataclass(frozen=True)
class Declared:
    """What an item says of its files: it counts where the files say nothing. `units`: band -> (scale,
    offset).
    """

    nodata: float | None = None
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Described:
    """An item as `Scene` opens it: the files, the names of all their bands (None: as the files say), and
    which of these make the scene.
    """

    name: str
    files: tuple[str, ...]
    band_names: tuple[str, ...] | None
    bands: tuple[str, ...] | None
    declared: Declared


@dataclass(frozen=True)
class _Band:
    """One band of an asset. `named`: by the item, else called as its asset's key."""

    key: str
    place: int
    of: int
    name: str
    common: str | None
    named: bool
    coded: bool
    media: str
    width: float
    nodata: float | None
    units: tuple[float, float]


def is_stac(source: Files) -> bool:
    """Is this the place of a STAC document, by its name? Addresses of an API's items have no ending."""
    if not isinstance(source, (str, Path)):
        return bool(source) and all(is_stac(one) for one in source)
    suffix = Path(urlsplit(str(source)).path if "://" in str(source) else str(source)).suffix.lower()
    return suffix in SUFFIXES or (not suffix and _on_the_web(source))


def described(source: Files, wanted: Sequence[str] | None = None) -> list[Described]:
    """The scenes of an item, of a collection of items, or of a list of either; of bands only those `wanted`
    where an item has them all.

    Raises BadFile where a document or a file is missing or is no STAC, BadInput where an item holds no scene.
    """
    places = [source] if isinstance(source, (str, Path)) else source
    found = [
        _scene(item, str(place), wanted) for place in places for item in _items(_read(str(place)), str(place))
    ]
    if not found:
        raise BadInput(f"{source} is a collection without a single item.")
    return found


def name_of(items: Sequence[Described], source: Files) -> str:
    """What the scene made of these items is called."""
    if len(items) == 1:
        return items[0].name
    local = isinstance(source, (str, Path)) and "://" not in str(source)
    return Path(source).stem if local else f"{items[0].name}_mosaic"


# -------------------------------------------------------------------------------------------------- documents


def _read(place: str) -> object:
    try:
        if _on_the_web(place):
            from urllib.request import Request, urlopen

            asked = Request(
                place,
                headers={"Accept": "application/geo+json, application/json", "User-Agent": "labelscape"},
            )
            with urlopen(asked, timeout=SECONDS) as answer:
                return json.loads(answer.read())
        if "://" in place:
            raise BadFile(
                f"{place} cannot be read: a STAC item is a local file or an https:// address. Download it; "
                "its files may stay where they are."
            )
        return json.loads(Path(place).read_bytes())
    except FileNotFoundError as error:
        raise BadFile(f"{place} does not exist.") from error
    except ValueError as error:
        raise BadFile(f"{place} is no JSON, so it is no STAC item ({error}).") from error
    except OSError as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(
            f"{place} cannot be read: {getattr(error, 'reason', None) or error.strerror or error}."
        ) from error


def _items(document: object, place: str) -> list[dict]:
    """The items of a document, in its order."""
    kind = document.get("type") if isinstance(document, dict) else None
    if kind in ("Catalog", "Collection"):
        raise BadInput(
            f"{place} is a STAC {kind}, not an item: name one of its items, or save those you want as one "
            "ItemCollection."
        )
    if kind == "FeatureCollection":
        if any(isinstance(link, dict) and link.get("rel") == "next" for link in document.get("links") or []):
            raise BadInput(
                f"{place} is one page of several: there are more items than it lists. Ask for fewer, or "
                "save all of them in one file."
            )
        features = [f for f in document.get("features") or [] if isinstance(f, dict)]
        items = [f for f in features if isinstance(f.get("assets"), dict)]
        if len(items) < len(features):
            raise BadInput(
                f"{place} holds {len(features)} features, {len(items)} of them STAC items: a scene is a "
                "raster, a folder or STAC items. "
                "Polygons go to --labels or --area."
            )
        return items
    if kind != "Feature" or not isinstance(document.get("assets"), dict):
        raise BadInput(f"{place} is no STAC item: a GeoJSON feature with assets was expected.")
    return [document]


# ---------------------------------------------------------------------------------------------------- an item


def _scene(item: dict, place: str, wanted: Sequence[str] | None) -> Described:
    name = str(item.get("id") or Path(place).stem).replace("/", "_")
    said = place if item.get("id") is None else f"{place} (item {item['id']})"
    software = (item.get("properties") or {}).get("processing:software")
    if isinstance(software, dict) and "labelscape" in software:
        raise BadInput(
            f"{said} describes a map that Labelscape made, not a scene: name the scene itself, which the "
            "_run.json beside it does."
        )
    assets = _data_assets(item["assets"], said)
    try:
        bands = [band for key, asset in assets.items() for band in _bands(key, asset)]
    except (AttributeError, TypeError, ValueError) as error:
        raise BadFile(f"{said} is no valid STAC item: its bands cannot be understood ({error}).") from error
    chosen = _wanted(bands, wanted) if wanted else None
    if chosen is None:
        kept = _narrowed(
            bands, lambda b: not b.coded, lambda b: b.key.lower() not in NO_MEASUREMENTS, lambda b: b.named
        )
        chosen = _told_apart(kept)
    keys = list(dict.fromkeys(band.key for band in chosen.values()))
    files = tuple(_file(assets[key]["href"], place, item, f"its asset {key!r}") for key in keys)
    declared = Declared(
        _agreed(b.nodata for b in chosen.values()), {own: band.units for own, band in chosen.items()}
    )
    if len(keys) == 1 and not next(iter(chosen.values())).named:
        return Described(name, files, None, None, Declared(declared.nodata))
    called = {(band.key, band.place): own for own, band in chosen.items()}
    names = tuple(
        called.get((b.key, b.place), f"{b.key}:{b.place + 1}") for key in keys for b in bands if b.key == key
    )
    return Described(name, files, names, tuple(chosen), declared)


def _data_assets(assets: Mapping[str, dict], said: str) -> dict[str, dict]:
    """Those assets that hold measurements: by their roles; by their media type where no asset is called
    data.
    """
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
        listed = ", ".join(
            f"{key} ({asset.get('type', 'no type') if isinstance(asset, dict) else '?'})"
            for key, asset in assets.items()
        )
        raise BadInput(
            f"{said} has no raster with the role data; its assets are {listed or 'none'}. Is it another "
            "item that holds the scene?"
        )
    return data or kept


def _is_raster(asset: dict) -> bool:
    media = str(asset.get("type") or "").partition(";")[0].strip().lower()
    if not media:
        return Path(urlsplit(asset["href"]).path).suffix.lower() in RASTER_SUFFIXES
    return media in MEDIA or (media.startswith("image/") and "data" in (asset.get("roles") or []))


def _bands(key: str, asset: dict) -> list[_Band]:
    """The bands of an asset; one, called as the asset, where the item says nothing of them."""
    lists = [asset.get(name) or [] for name in ("eo:bands", "raster:bands", "bands")]
    common = {
        k: asset[k]
        for k in ("nodata", "gsd", "raster:scale", "raster:offset", "raster:spatial_resolution")
        if k in asset
    }
    merged = [
        {**common, **{k: v for own in lists if i < len(own) for k, v in own[i].items()}}
        for i in range(max(1, *map(len, lists)))
    ]
    named = any(band.get("name") or _common(band) for band in merged)
    step = asset.get("proj:transform") or [math.inf]
    return [
        _Band(
            key,
            i,
            len(merged),
            str(band.get("name") or _common(band) or (key if len(merged) == 1 else f"{key}_{i + 1}")),
            _common(band),
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


def _wanted(bands: Sequence[_Band], wanted: Sequence[str]) -> dict[str, _Band] | None:
    """Each wanted band by its asset's key, its name or its common name; None unless the item has them all,
    each once.
    """
    found = {}
    for name in wanted:
        by_key = [b for b in bands if b.key == name and b.of == 1]
        by_name = [b for b in bands if b.name == name and b.named]
        by_common = [b for b in bands if b.common == name]
        alike = by_key or by_name or (by_common if len({b.name for b in by_common}) == 1 else [])
        if not alike or _clash(alike):
            return None
        found[name] = _finest(alike)
    return found


def _told_apart(bands: Sequence[_Band]) -> dict[str, _Band]:
    """Bands by name. The same band in several formats or sizes counts once, the finest; others of one name
    are called by their assets' keys.
    """
    found: dict[str, _Band] = {}
    for name in dict.fromkeys(b.name for b in bands):
        alike = [b for b in bands if b.name == name]
        found |= (
            {(b.key if b.of == 1 else f"{b.key}_{name}"): b for b in alike}
            if _clash(alike)
            else {name: _finest(alike)}
        )
    return found


def _clash(alike: Sequence[_Band]) -> bool:
    """Do bands of one name differ in nothing else that tells why there are several?"""
    return len({(b.media, b.width) for b in alike}) < len(alike)


def _finest(alike: Sequence[_Band]) -> _Band:
    return min(alike, key=lambda b: b.width)


def _narrowed(bands: Sequence[_Band], *tests: object) -> Sequence[_Band]:
    """Only the bands that pass each test, unless none does."""
    for test in tests:
        bands = [b for b in bands if test(b)] or bands
    return bands


# ----------------------------------------------------------------------------------------------------- pieces


def _file(href: str, place: str, item: dict, what: str) -> str:
    """Where an asset lies: relative to the document, else, where that document was saved from a server,
    relative to where it came from.
    """
    if href.startswith("file://"):
        from urllib.request import url2pathname

        href = url2pathname(urlsplit(href).path)  # /C:/scene.tif is C:\scene.tif on Windows
    if "://" in href or href.startswith("/vsi"):
        return href
    if _on_the_web(place):
        return urljoin(place, href)
    local = Path(place).parent / href
    if local.exists():
        return str(local)
    origin = next(
        (
            str(link.get("href"))
            for link in item.get("links") or []
            if isinstance(link, dict) and link.get("rel") == "self"
        ),
        "",
    )
    if _on_the_web(origin) and not Path(href).is_absolute():
        return urljoin(origin, href)
    raise BadFile(f"{place} names {href} as {what}, but {local} does not exist.")


def _on_the_web(place: object) -> bool:
    return str(place).startswith(("http://", "https://"))


def _common(band: dict) -> str | None:
    return band.get("common_name") or band.get("eo:common_name")


def _units(band: dict) -> tuple[float, float]:
    scale, offset = (_number(band.get(f"raster:{key}", band.get(key))) for key in ("scale", "offset"))
    return 1.0 if scale is None else scale, offset or 0.0


def _number(value: object) -> float | None:
    """A number as JSON; not a number is what readers leave out by themselves."""
    number = None if value is None else float(value)
    return None if number is None or math.isnan(number) else number


def _agreed(values: Iterable[float | None]) -> float | None:
    """The value that all bands have; a scene knows one nodata value."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
