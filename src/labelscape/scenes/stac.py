"""Read STAC items and ItemCollections as scenes: their files, band names, nodata values, scales and offsets.

Items are read as plain JSON, of any STAC version: catalogues in use differ more than the specification
allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from labelscape.errors import BadFile, BadInput
from labelscape.files import stem_of
from labelscape.scenes.files import Files, is_local, suffix_of
from labelscape.scenes.remote import HEAD, Elsewhere, first_bytes
from labelscape.scenes.stac_bands import (
    NO_MEASUREMENTS,
    bands_of,
    common_nodata,
    data_assets,
    preferring,
    uniquely_named,
    wanted_bands,
)
from labelscape.scenes.stac_documents import ALLOWED, allowed, on_the_web
from labelscape.scenes.stac_many import document_of, read_items
from labelscape.text import printable

SUFFIXES = {".json", ".geojson"}
VIRTUAL = {".vrt", ".xml", ".json"}
TRUST = f"Pass `allow_remote=True` if you trust who wrote the item (or set {ALLOWED}=1)."


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
    text, item = document_of(source)
    suffix = suffix_of(text)
    return item is not None or suffix in SUFFIXES or (not suffix and on_the_web(source))


def described(
    source: Files,
    wanted: Sequence[str] | None = None,
    *,
    asset: str | None = None,
    allow_remote: bool = False,
) -> list[Described]:
    """Read the scenes of an item, an ItemCollection, or a list of either. Where an item has all `wanted`
    bands, only their files are used. `asset` names the asset to read, by its key or role; several are
    separated by commas.

    Whoever wrote an item could make this machine ask any server and read any file. Its files must lie in
    the folder of a local document, or on the host of a remote one, unless `allow_remote`.

    Raises BadFile where a document or a file is missing, elsewhere or not STAC, BadInput where an item has
    no raster.
    """
    allow_remote = allowed(allow_remote)
    places = [source] if isinstance(source, (str, Path)) else source
    found = [
        scene_of_item(item, str(place), wanted, asset, allow_remote)
        for place in places
        for item in read_items(str(place), allow_remote=allow_remote)
    ]
    if not found:
        raise BadInput(f"{source} is an ItemCollection without items.")
    return found


def check_assets(item: dict, place: str, asset: str | None, *, allow_remote: bool = False) -> None:
    """Raises BadInput where an item has no raster, or not the `asset`, BadFile where none of its files may be
    read or, of those named by `asset`, one does not exist. For lists of many items: before the first is read.
    """
    title = f"{place} (item {item.get('id')})"
    assets = data_assets(item["assets"], title, asset)
    refused = 0
    for key, one in assets.items():
        try:
            file = _file(one["href"], place, item, f"its asset {key!r}")
            if not allowed(allow_remote):
                _check_near(file, place, key)
        except BadFile:
            refused += 1
            if asset is not None or refused == len(assets):
                raise
        else:
            # Which bands a model asks for is not known here: the files of the others need not be there.
            if asset is None:
                return


def name_of(items: Sequence[Described], source: Files) -> str:
    """The name of the scene made of these items."""
    if len(items) == 1:
        return items[0].name
    local = isinstance(source, (str, Path)) and "://" not in str(source)
    return Path(source).stem if local else f"{items[0].name}_mosaic"


def scene_of_item(
    item: dict, place: str, wanted: Sequence[str] | None, asset: str | None, allow_remote: bool
) -> Described:
    """The scene that an item describes; `place` is its document, FILE or FILE#ID."""
    place = document_of(place)[0]
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
    assets = data_assets(item["assets"], title, asset)
    try:
        bands = [band for key, asset in assets.items() for band in bands_of(key, asset)]
    except (AttributeError, TypeError, ValueError) as error:
        raise BadFile(f"{title} is not a valid STAC item: its bands cannot be read ({error}).") from error
    chosen = wanted_bands(bands, wanted) if wanted else None
    if chosen is None:
        # What the user named stays, also a rendered image.
        tests = [] if asset else [lambda b: not b.classified, lambda b: b.key.lower() not in NO_MEASUREMENTS]
        kept = preferring(bands, *tests, lambda b: b.named)
        chosen = uniquely_named(kept)
    keys = list(dict.fromkeys(band.key for band in chosen.values()))
    files = tuple(_file(assets[key]["href"], place, item, f"its asset {key!r}") for key in keys)
    if not allow_remote:
        for key, file in zip(keys, files):
            _check_near(file, place, key)
        _check_answers([file for file in files if on_the_web(file)], place)
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
    if on_the_web(place):
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
    if on_the_web(origin) and not Path(href).is_absolute():
        return urljoin(origin, href)
    raise BadFile(f"{place} names {href} as {what}, but {local} does not exist.")


def _check_near(file: str, place: str, key: str) -> None:
    """Raises BadFile where an asset lies elsewhere than its document, or is a virtual raster, which may name
    files anywhere.
    """
    if on_the_web(place):
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
    raise BadFile(f"{place}: the asset {printable(key)!r} is {what}. {TRUST}")


def _check_answers(files: Sequence[str], place: str) -> None:
    """Raises BadFile where a server answers with a virtual raster, whatever its name, or from another host.
    GDAL follows both, and cannot be told not to.
    """
    try:
        answers = first_bytes(files)
    except Elsewhere as error:
        raise BadFile(f"{place}: the asset {error} {TRUST}") from error
    for file, start in zip(files, answers):
        if _is_markup(start):
            raise BadFile(
                f"{place}: the asset {printable(file)} is a virtual raster, which may name files anywhere. "
                f"{TRUST}"
            )


def _is_text(file: Path) -> bool:
    # By its content: GDAL takes a virtual raster for one by that, whatever its suffix.
    with file.open("rb") as opened:
        return _is_markup(opened.read(HEAD))


def _is_markup(start: bytes) -> bool:
    """Is this XML or JSON, as virtual rasters and descriptions of web services are?"""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{")
