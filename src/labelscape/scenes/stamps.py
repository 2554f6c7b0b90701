"""All files that a scene is read from, with what tells whether one has changed (`stamps`, `changes`).

A map takes hours and may be interrupted for days. If a file of its scene is replaced meanwhile, tiles of two
scenes would be joined to one map without an error.
"""

from __future__ import annotations

import hashlib
import math
import os
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import rasterio

from labelscape.errors import BadFile
from labelscape.scenes.containers import folder_of
from labelscape.scenes.files import ON_SERVERS, READ_FAILURES, gdal, is_local, open_raster

SAMPLES, SAMPLE = 16, 2**16
"""Places of a file that are compared, and bytes of each (ours): 1 MiB is read of a file of any size."""
MANY = 1000
"""Of more rasters than these only the first sample is compared: data sets have tens of thousands."""
SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg")
NO_RASTERS = {".json", ".geojson", ".gpkg", ".fgb", ".xml", ".tfw", *SHAPEFILE}
"""Files that are read with no others, or not as rasters."""
MOST_SERVED = 64
"""Rasters on servers that are compared of one scene (ours): each takes a few requests."""
SAMPLE_PIXELS = 2**22
"""Pixels of an overview or a block above which it is no sample of a raster on a server (ours)."""
LOSSY = {"jpeg", "ycbcr jpeg", "webp", "jxl", "lerc", "lerc_deflate", "lerc_zstd", "jpeg2000"}
"""Compressions whose pixels depend on the library that decodes them."""
ARCHIVES = ("/vsizip/", "/vsitar/", "/vsigzip/", "/vsi7z/", "/vsirar/", "/vsisubfile/")

Stamp = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, and digest of samples of the content."""


@dataclass(frozen=True)
class Watched:
    """Rasters, and the stamps that all their files had at a time."""

    rasters: tuple[str, ...]
    stamps: Mapping[str, Stamp | None]

    @classmethod
    def of(cls, rasters: Iterable[str]) -> Watched:
        rasters = tuple(rasters)
        return cls(rasters, stamps(rasters, served=True))

    def changed(self) -> list[str]:
        """What has changed since, as `changes` says it."""
        return changes(self.stamps, stamps(self.rasters, served=True))

    def named(self) -> list[list[str | int | None]]:
        """[name without folder, *stamp] of each file, as JSON values: what tells whether it is the same
        scene, wherever it lies.
        """
        return [[Path(name).name, *(stamp or [None])] for name, stamp in self.stamps.items()]

    def check(self, what: str) -> None:
        """Raises BadFile where a file was changed, added or removed since; `what` was done with them."""
        if changed := self.changed():
            raise BadFile(
                f"{', '.join(changed[:3])}{' ...' * (len(changed) > 3)} while {what}: the result may hold "
                "parts of both versions, and is not kept. Leave the files as they are, and start again."
            )


def stamps(rasters: Iterable[str], *, served: bool = False) -> dict[str, Stamp | None]:
    """Every local file that these rasters are read from -> its stamp; None for one that is missing.

    The rasters themselves and all that GDAL reads with them: masks, overviews, side files (.msk, .ovr,
    .aux.xml, .tfw) and the sources of virtual rasters, also where those are virtual rasters; of a vector file
    all its parts. Paths are resolved: the same scene by another path has the same stamps. With `served` also
    the rasters among them that are on servers (at most MOST_SERVED), by what they tell of themselves and a
    sample of their pixels, under their address without its query, which may be a key that changes. GDAL keeps
    what it has read of them: a process does not see that one was replaced.
    """
    found: dict[str, Stamp | None] = {}
    waiting = list(rasters)[::-1]
    samples = SAMPLES if len(waiting) <= MANY else 1
    seen = set(waiting)
    with gdal():
        while waiting:
            name = waiting.pop()
            file = _on_disk(name)
            if file is not None and str(file) not in found:
                found[str(file)] = _stamp(file, samples)
            if served and file is None and ON_SERVERS.search(name) and len(found) < MOST_SERVED:
                address = name.partition("?")[0]
                found[name if address in found else address] = _served(name)
            more = [one for one in _read_with(name, file) if one not in seen]
            seen.update(more)
            waiting += more
    return {name: stamp for name, stamp in found.items() if stamp != EMPTY}


def changes(before: Mapping[str, Stamp | None], now: Mapping[str, Stamp | None]) -> list[str]:
    """Names of the files that differ, with how: "b.tif was changed"."""
    found = []
    for name in sorted({*before, *now}):
        one, other = before.get(name), now.get(name)
        if one != other:
            found.append(
                f"{name} was {'added' if one is None else 'removed' if other is None else 'changed'}"
            )
    return found


def same_content(one: Path, other: Path) -> bool:
    """Are two local files copies of each other? By size and samples of the content, as stamps are."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
    except OSError:
        return False
    first, second = _stamp(one, SAMPLES), _stamp(other, SAMPLES)
    # The time of the last change is not compared: a copy may have a new one.
    return first is not None and second is not None and (first[0], first[2]) == (second[0], second[2])


def unlike(before: Iterable[Sequence], now: Iterable[Sequence]) -> list[str]:
    """Names that do not have the same stamps in two lists of `Watched.named`."""
    old, new = ({tuple(one) for one in files} for files in (before, now))
    return sorted({one[0] for one in old ^ new})


def _read_with(name: str, file: Path | None) -> list[str]:
    """The files that are read with one: GDAL's list for a raster, the parts of a Shapefile; none for a file
    that is neither, such as a .tfw.
    """
    if (store := folder_of(name)) is not None:
        return [str(store)]
    # Not a server's: its list would cost a request, and says nothing of this machine's files.
    if file is None and ("://" in name or name.startswith("/vsi")):
        return []
    if file is not None and file.suffix.lower() == ".shp":
        return [str(file.with_suffix(suffix)) for suffix in SHAPEFILE if file.with_suffix(suffix).exists()]
    # Its stamp is of all files in it.
    if file is not None and (file.suffix.lower() in NO_RASTERS or file.is_dir()):
        return []
    try:
        with rasterio.open(name) as dataset:
            return list(dataset.files)
    except (*READ_FAILURES, ValueError):
        return []


def _on_disk(name: str) -> Path | None:
    """The local file behind GDAL's name of it, resolved; that of the archive for a member of one. None for
    files on servers or in memory, and for subdatasets, whose file GDAL lists.
    """
    for archive in ARCHIVES:
        if name.startswith(archive):
            inside = Path(name.removeprefix(archive).lstrip("{").rpartition(",")[2])
            return next((p.resolve() for p in (inside, *inside.parents) if p.is_file()), None)
    if not is_local(name):
        return None
    path = Path(name)
    return path.resolve() if path.exists() or ":" not in name else None


def _stamp(file: Path, samples: int) -> Stamp | None:
    try:
        if file.is_dir():
            return _store(file)
        if file.name.endswith(".aux.xml"):
            return _side_file(file)
        with file.open("rb") as opened:
            about = os.fstat(opened.fileno())
            digest = hashlib.sha256()
            for number in range(samples):
                # Evenly from the first byte to the last; small files are read as a whole.
                opened.seek(max(0, about.st_size - SAMPLE) * number // max(1, samples - 1))
                digest.update(opened.read(SAMPLE))
    except OSError:
        return None
    # 64 bits: enough against accidents, and nobody forges a file to spoil a map of their own.
    return about.st_size, about.st_mtime_ns, digest.hexdigest()[:16]


def _served(name: str) -> Stamp | None:
    """Of a raster on a server: its number of pixels, and a digest of its format, place, types and sample."""
    try:
        with open_raster(name) as one:
            # Not the CRS: its text depends on the version of GDAL.
            facts = [one.driver, *one.shape, *one.dtypes, *one.nodatavals, *one.transform]
            digest = hashlib.sha256(repr(facts).encode())
            for pixels in _sample(one):
                digest.update(pixels)
            return math.prod(one.shape) * one.count, 0, digest.hexdigest()[:16]
    except (*READ_FAILURES, BadFile, ValueError):
        return None


def _sample(one: rasterio.DatasetReader) -> Iterator[bytes]:
    """Of its first band the smallest overview, which is of all of it; without overviews three blocks. None
    of a lossy format.
    """
    kept = one.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "").lower()
    if kept in LOSSY or one.driver.startswith("JP"):
        return
    height, width = one.shape
    if factors := one.overviews(1):
        shape = math.ceil(height / factors[-1]), math.ceil(width / factors[-1])
        if math.prod(shape) <= SAMPLE_PIXELS:
            yield one.read(1, out_shape=shape).tobytes()
        return
    rows, columns = one.block_shapes[0]
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    if rows * columns <= SAMPLE_PIXELS:
        for row, column in {(0, 0): 0, (down // 2, across // 2): 0, (down - 1, across - 1): 0}:
            yield one.read(1, window=one.block_window(1, row, column)).tobytes()


def _store(folder: Path) -> Stamp:
    """Of a Zarr store: sizes and times of its files, which are too many to be read."""
    about = sorted((str(p.relative_to(folder)), p.stat()) for p in folder.rglob("*") if p.is_file())
    lines = [f"{name} {one.st_size} {one.st_mtime_ns}" for name, one in about]
    latest = max((one.st_mtime_ns for _, one in about), default=0)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return sum(one.st_size for _, one in about), latest, digest


def _side_file(file: Path) -> Stamp:
    """By its content without statistics: a viewer that stores some has not changed the scene."""
    content = file.read_bytes()
    try:
        root = xml.fromstring(content)
    except xml.ParseError:
        return len(content), 0, hashlib.sha256(content).hexdigest()[:16]
    lines = sorted(line for child in root for line in _telling(child))
    if not lines:
        return EMPTY
    return 0, 0, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


EMPTY: Stamp = (0, 0, "")
"""Stamp of a side file that says nothing of the pixels: as if there were none."""


def _telling(element: xml.Element, path: str = "") -> list[str]:
    """The texts and attributes of an element and those in it, but for statistics."""
    here = f"{path}/{element.tag}"
    if element.tag == "Histograms" or (element.get("key") or "").startswith("STATISTICS_"):
        return []
    text = (element.text or "").strip()
    own = [f"{here} {sorted(element.items())} {text}"] if text else []
    return own + [line for child in element for line in _telling(child, f"{here}{sorted(element.items())}")]
