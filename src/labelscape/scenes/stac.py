"""Read STAC items and ItemCollections as scenes: their files, band names, nodata values, scales and offsets.

Items are read as plain JSON, of any STAC version: catalogues in use differ more than the specification
allows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from labelscape.errors import BadFile, BadInput
from labelscape.files import stem_of
from labelscape.scenes.files import Files, is_local
from labelscape.scenes.stac_bands import (
    NO_MEASUREMENTS,
    bands_of,
    common_nodata,
    data_assets,
    preferring,
    uniquely_named,
    wanted_bands,
)
from labelscape.text import printable

SUFFIXES = {".json", ".geojson"}
VIRTUAL = {".vrt", ".xml", ".json"}
SECONDS = 60
"""For all of a request (ours)."""
MOST_BYTES = 64 * 2**20
"""Of a document (ours): an ItemCollection of ten thousand items has about 30 MB."""
ALLOWED = "LABELSCAPE_ALLOW_REMOTE"
"""Environment variable that allows items to name files anywhere when it is 1, also where no option does."""


@dataclass(frozen=True)
class Declared:
    """What an item declares where its files do not, for each band: nodata, and (scale, offset). Where the
    item names no band, the nodata value of all is that of the name "".
    """

    nodata: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Described:
    """An item as arguments of `FileScene`.

    band_names  of all bands of the files, in order; None for the names in the files
    bands       those of them that make the scene, in order; None for all
    """

    name: str
    files: tuple[str, ...]
    band_names: tuple[str, ...] | None
    bands: tuple[str, ...] | None
    declared: Declared


def is_stac(source: Files) -> bool:
    """Is this the path or URL of a STAC document, by its suffix? URLs of items in an API have none."""
    if not isinstance(source, (str, Path)):
        return bool(source) and all(is_stac(one) for one in source)
    # Without the query of a URL, which often holds a token.
    suffix = Path(urlsplit(str(source)).path if "://" in str(source) else str(source)).suffix.lower()
    return suffix in SUFFIXES or (not suffix and _on_the_web(source))


def described(
    source: Files, wanted: Sequence[str] | None = None, *, allow_remote: bool = False
) -> list[Described]:
    """Read the scenes of an item, an ItemCollection, or a list of either. Where an item has all `wanted`
    bands, only their files are used.

    Whoever wrote an item could make this machine ask any server and read any file. Its files must lie in
    the folder of a local document, or on the host of a remote one, unless `allow_remote`.

    Raises BadFile where a document or a file is missing, elsewhere or not STAC, BadInput where an item has
    no raster.
    """
    allow_remote = allow_remote or os.environ.get(ALLOWED) == "1"
    places = [source] if isinstance(source, (str, Path)) else source
    found = [
        _scene(item, str(place), wanted, allow_remote)
        for place in places
        for item in _items(_read(str(place)), str(place))
    ]
    if not found:
        raise BadInput(f"{source} is an ItemCollection without items.")
    return found


def name_of(items: Sequence[Described], source: Files) -> str:
    """The name of the scene made of these items."""
    if len(items) == 1:
        return items[0].name
    local = isinstance(source, (str, Path)) and "://" not in str(source)
    return Path(source).stem if local else f"{items[0].name}_mosaic"


def _read(place: str) -> object:
    try:
        if _on_the_web(place):
            from urllib.request import Request, urlopen

            asked = Request(
                place,
                # Some servers answer with a page for browsers where JSON is not asked for.
                headers={"Accept": "application/geo+json, application/json", "User-Agent": "labelscape"},
            )
            with urlopen(asked, timeout=SECONDS) as answer:
                return json.loads(_limited(answer, place))
        if "://" in place:
            raise BadFile(
                f"{place} cannot be read: a STAC item must be a local file or an https:// URL. Download "
                "the item; its files may stay where they are."
            )
        with open(place, "rb") as file:
            return json.loads(_limited(file, place))
    except FileNotFoundError as error:
        raise BadFile(f"{place} does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{place} is not JSON, so it is not a STAC item ({error}).") from error
    except OSError as error:
        if isinstance(error, BadFile):  # raised above: BadFile is an OSError too
            raise
        raise BadFile(
            f"{place} cannot be read: {getattr(error, 'reason', None) or error.strerror or error}."
        ) from error


def _limited(file: BinaryIO, place: str) -> bytes:
    """All bytes of a document. Raises BadFile where they are too many, or come too slowly: the timeout of a
    request is that of each piece.
    """
    end, pieces, size = time.monotonic() + SECONDS, [], 0
    # read1: what is there; `read` would wait for all of it.
    while piece := (file.read1(2**16) if hasattr(file, "read1") else file.read(2**16)):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise BadFile(f"{place} has more than {MOST_BYTES // 2**20} MiB, so it is no STAC item.")
        if time.monotonic() > end:
            raise BadFile(f"{place} was not read within {SECONDS} seconds; try again, or download it.")
    return b"".join(pieces)


def _items(document: object, place: str) -> list[dict]:
    """The items of a document, in its order."""
    kind = document.get("type") if isinstance(document, dict) else None
    if kind in ("Catalog", "Collection"):
        raise BadInput(
            f"{place} is a STAC {kind}, not an item: pass one of its items, or save several as one "
            "ItemCollection."
        )
    if kind == "FeatureCollection":
        # An API's search answers in pages: a mosaic of the first page would have holes without a message.
        if any(isinstance(link, dict) and link.get("rel") == "next" for link in document.get("links") or []):
            raise BadInput(
                f"{place} is one page of several: there are more items than it lists. Narrow the search, or "
                "save all items in one file."
            )
        features = [f for f in document.get("features") or [] if isinstance(f, dict)]
        items = [f for f in features if isinstance(f.get("assets"), dict)]
        # The others would be left out of the mosaic without a message.
        if len(items) < len(features):
            raise BadInput(
                f"{place} holds {len(features)} features, {len(items)} of them STAC items: a scene is a "
                "raster, a folder or STAC items. Pass polygons with `labels` or `area`."
            )
        return items
    if kind != "Feature" or not isinstance(document.get("assets"), dict):
        raise BadInput(f"{place} is not a STAC item: a GeoJSON feature with assets was expected.")
    return [document]


def _scene(item: dict, place: str, wanted: Sequence[str] | None, allow_remote: bool) -> Described:
    # JSON may hold half characters (lone surrogates), which no file and no page can be written with.
    name = stem_of(str(item.get("id") or Path(place).stem), "linux")
    title = place if item.get("id") is None else f"{place} (item {item['id']})"
    software = (item.get("properties") or {}).get("processing:software")
    # Classes would be read as measurements.
    if isinstance(software, dict) and "labelscape" in software:
        raise BadInput(
            f"{title} describes a map that Labelscape made, not a scene: pass the scene itself, which the "
            "_run.json beside it names."
        )
    assets = data_assets(item["assets"], title)
    try:
        bands = [band for key, asset in assets.items() for band in bands_of(key, asset)]
    except (AttributeError, TypeError, ValueError) as error:
        raise BadFile(f"{title} is not a valid STAC item: its bands cannot be read ({error}).") from error
    chosen = wanted_bands(bands, wanted) if wanted else None
    if chosen is None:
        kept = preferring(
            bands,
            lambda b: not b.classified,
            lambda b: b.key.lower() not in NO_MEASUREMENTS,
            lambda b: b.named,
        )
        chosen = uniquely_named(kept)
    keys = list(dict.fromkeys(band.key for band in chosen.values()))
    files = tuple(_file(assets[key]["href"], place, item, f"its asset {key!r}") for key in keys)
    if not allow_remote:
        for key, file in zip(keys, files):
            _check_near(file, place, key)
    declared = Declared(
        {own: band.nodata for own, band in chosen.items() if band.nodata is not None},
        {own: band.units for own, band in chosen.items()},
    )
    # The item names no band: the names in the file stand, which the item's units cannot be assigned to.
    if len(keys) == 1 and not next(iter(chosen.values())).named:
        common = common_nodata(b.nodata for b in chosen.values())
        return Described(name, files, None, None, Declared({} if common is None else {"": common}))
    # All bands of the files need a name, also those that the scene leaves out.
    called = {(band.key, band.position): own for own, band in chosen.items()}
    names = tuple(
        called.get((b.key, b.position), f"{b.key}:{b.position + 1}")
        for key in keys
        for b in bands
        if b.key == key
    )
    return Described(name, files, names, tuple(chosen), declared)


def _file(href: str, place: str, item: dict, what: str) -> str:
    """Resolve an asset's href: relative to the document, else, where the document was downloaded without its
    assets, relative to its link `self`. Raises BadFile, naming the asset by `what`.
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


def _check_near(file: str, place: str, key: str) -> None:
    """Raises BadFile where an asset lies elsewhere than its document, or is a virtual raster, which may name
    files anywhere.
    """
    if _on_the_web(place):
        here, there = urlsplit(place), urlsplit(file)
        # The scheme too: what comes over http may have been changed on the way.
        near = (here.scheme, here.netloc) == (there.scheme, there.netloc)
        virtual = Path(there.path).suffix.lower() in VIRTUAL
        where = there.netloc or file
    else:
        local = is_local(file)
        # Resolved: a link, or "..", may lead out of the folder.
        near = local and Path(file).resolve().is_relative_to(Path(place).resolve().parent)
        virtual = near and _is_text(Path(file))
        where = file if local else urlsplit(file).netloc or file
    if near and not virtual:
        return
    what = "a virtual raster, which may name files anywhere" if near else f"elsewhere ({printable(where)})"
    raise BadFile(
        f"{place}: the asset {printable(key)!r} is {what}. Pass `allow_remote=True` if you trust who wrote "
        f"the item (or set {ALLOWED}=1)."
    )


def _is_text(file: Path) -> bool:
    """Is this XML or JSON, as virtual rasters and descriptions of web services are?"""
    # By its content: GDAL takes a virtual raster for one by that, whatever its suffix.
    with file.open("rb") as opened:
        return opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{")


def _on_the_web(place: object) -> bool:
    return str(place).startswith(("http://", "https://"))
