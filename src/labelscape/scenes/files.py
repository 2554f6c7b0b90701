"""Open raster files with GDAL: settings, what counts as a file or a band stack, error messages."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from urllib.parse import urlsplit

import rasterio

# Raised by what asks an open file for its facts; rasterio.errors has no public name for it.
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.files import check_path, check_regular
from labelscape.mistaken import no_such_file, what_it_is
from labelscape.scenes.containers import is_zarr, rasters_in
from labelscape.scenes.scene import Scene

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".bmp", ".dat"}

# GDAL's block cache takes 5 % of the machine's memory by default; memory for a large scene must not depend on
# the machine. In bytes: rasterio passes the number to GDALSetCacheMax64, which does not take megabytes.
GDAL_CACHE_BYTES = 64 * 2**20

EXACT = 1e-6
"""Error threshold of a warp's approximate transformer, in pixels: so small that pixels do not depend on the
window they are read in. 0 would be exact, but rasterio 1.4 fails on it.
"""

STARTS = {
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"II+\0": "a TIFF",
    b"MM\0+": "a TIFF",
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"\0\0\0\x0cjP": "a JPEG 2000",
}
"""How files of these formats begin, also one that was cut short."""
MOST_NAMED = 12
"""Rasters of a container that a message names."""

LATE_FAILURES = (RasterioError, CPLE_BaseError, CRSError, UnicodeDecodeError)
READ_FAILURES = (*LATE_FAILURES, OSError)
"""What opening and reading raise: GDAL's own errors where a damaged file is noticed late; UnicodeDecodeError
where GDAL's message quotes a file name that is not UTF-8, as damaged or old VRTs hold.
"""

Files = str | Path | Sequence[str | Path]
"""Where files are: a file, a folder, an address, or a list of them."""


class DataArray(Protocol):
    """The part of `xarray.DataArray`, with rioxarray's accessor, that is used here: a protocol, since xarray
    need not be installed.
    """

    dims: tuple[str, ...]
    attrs: dict[str, Any]
    rio: Any


Source = Files | rasterio.DatasetReader | WarpedVRT | DataArray | Scene
"""What `open_scene` takes: files, a STAC item, or an object that holds georeferenced pixels."""


@dataclass(frozen=True, eq=False)
class SharedDataset:
    """A caller's open dataset that cannot be opened a second time, such as a `WarpedVRT`: it is read by one
    thread at a time, and never closed here.
    """

    dataset: rasterio.DatasetReader | WarpedVRT
    lock: Lock = field(default_factory=Lock)


@contextmanager
def gdal(**options: object) -> Iterator[None]:
    """Set GDAL's options for the time of a block, without touching the process's environment; GDAL_CACHEMAX
    of an enclosing rasterio.Env is kept.
    """
    now = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    wanted = {
        "GDAL_CACHEMAX": now.get("GDAL_CACHEMAX") or GDAL_CACHE_BYTES,
        # GDAL's fast path for whole PNG files returns random values, and no error, where a file is truncated.
        "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
        **options,
    }
    # Small windows are read inside one block: setting them anew for each would be a tenth of the time.
    are_set = all(now.get(name) == value for name, value in wanted.items())
    with nullcontext() if are_set else rasterio.Env(**wanted), _coordinates_not_missed():
        yield


_FILTER = ("ignore", None, NotGeoreferencedWarning, None, 0)
_inside, _counting = 0, Lock()


@contextmanager
def _coordinates_not_missed() -> Iterator[None]:
    """Photographs have no CRS and need none; what does need one refuses them itself."""
    # Counted over all threads: warnings.catch_warnings would bring the warning back when one of several
    # threads leaves its block.
    global _inside
    with _counting:
        _inside += 1
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
    try:
        yield
    finally:
        with _counting:
            _inside -= 1
            if not _inside and _FILTER in warnings.filters:
                warnings.filters.remove(_FILTER)


def open_raster(file: str | Path) -> rasterio.DatasetReader:
    """Open one raster file with GDAL. Raises BadFile where it is missing, empty, a folder, a container of
    several rasters (HDF, NetCDF), or not a raster.
    """
    # Checked before GDAL opens it: an empty file would only be "not recognized as a supported file format".
    text = str(file)
    local = is_local(text)
    # os.path: a name that is too long for the system is no file, and no error.
    if local and not os.path.exists(text):
        raise BadFile(no_such_file(text))
    if local and Path(text).is_dir() and not is_zarr(text):
        raise BadFile(f"{text} is a folder; a raster file was expected.")
    if local and not Path(text).is_dir():
        check_regular(text)
    if local and Path(text).stat().st_size == 0:
        raise BadFile(f"{text} is empty (0 bytes).")
    try:
        dataset = rasterio.open(text)
    except (*READ_FAILURES, ValueError) as error:  # ValueError: an address that is none
        if local and (found := what_it_is(text)):
            raise BadFile(f"{text} {found}.") from error
        if local and (begins := _format_of(text)):
            raise damaged(text, error, f" as a raster: it begins as {begins}, but", verb="opened") from error
        raise BadFile(f"{text} cannot be opened as a raster: {reason(error)}.") from error
    inside = rasters_in(dataset)
    # A TIFF of several pages opens as its first.
    pages = len(inside) > 1 and dataset.driver == "GTiff"
    if dataset.count == 0 or pages:
        dataset.close()
        what = f"a TIFF of {len(inside)} pages" if pages else "a container of several rasters"
        names = ", ".join(inside[:MOST_NAMED]) + (" ..." if len(inside) > MOST_NAMED else "")
        several = "" if pages else ", or several, separated by commas, as the bands of one scene"
        cure = f"name one of them{several}: {names}" if inside else "it holds none that GDAL can open"
        raise BadFile(f"{text} is {what}; {cure}.")
    return dataset


def _format_of(file: str) -> str | None:
    """The format that a file's first bytes announce."""
    with suppress(OSError), open(file, "rb") as opened:
        start = opened.read(8)
        return next((name for bytes_, name in STARTS.items() if start.startswith(bytes_)), None)
    return None


HDF5 = re.compile(r'^HDF5:"?(.+?)"?://.*', re.IGNORECASE)
"""GDAL's name of a raster in an HDF5 file, HDF5:"scene.h5"://data/red, with the file."""
ON_SERVERS = re.compile("://|/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)[/_?]")
"""In names of rasters on servers, also of members of an archive there; a name of GDAL without it, such as
netcdf:scene.nc:red, is of a local file."""


def damaged(file: str | Path, error: BaseException, where: str = ":", *, verb: str = "read") -> BadFile:
    """A BadFile for a raster that GDAL can open no further, or of which it cannot decode a part: which file,
    what is wrong with it, what to do, and last GDAL's own words.
    """
    if "No such file" in (why := reason(error)) or "does not exist" in why:
        # GDAL opens a virtual raster whose parts are gone, and notices when it reads them.
        what, cure = "a file that it is made of is missing", "Put it back, or make the virtual raster anew"
    elif is_local(str(file)) or not ON_SERVERS.search(HDF5.sub(r"\1", str(file))):
        what, cure = "the file is truncated or damaged", "Copy or download it again"
    else:
        what, cure = "the server did not answer, or the file there is truncated or damaged", "Try again"
    return BadFile(f"{file} cannot be {verb}{where} {what}. {cure} (GDAL: {why}).")


@contextmanager
def late_failures(file: str | Path) -> Iterator[None]:
    """Raises BadFile where GDAL notices only in this block that a file is damaged: when its bands, tags or
    pixels are asked for.
    """
    try:
        yield
    # No plain OSError: a block that also writes has those of its own files.
    except LATE_FAILURES as error:
        raise damaged(file, error) from error


@contextmanager
def reading(file: str | Path) -> Iterator[rasterio.DatasetReader]:
    """A raster file, open for the time of a block, under GDAL's settings. Raises as `open_raster` and
    `late_failures` do.
    """
    with gdal(), late_failures(file), open_raster(file) as dataset:
        yield dataset


def opens_again(dataset: rasterio.DatasetReader | WarpedVRT) -> bool:
    """Does opening the dataset's name give the same raster? Not for a warped one, nor for one opened at an
    overview level.
    """
    if type(dataset) is not rasterio.DatasetReader:
        return False
    try:
        with gdal(), open_raster(dataset.name) as other:
            return dataset.closed or (
                (other.shape, other.transform, other.crs, other.dtypes)
                == (dataset.shape, dataset.transform, dataset.crs, dataset.dtypes)
            )
    except BadFile:
        return False


def is_local(place: str | Path) -> bool:
    """Is this a local path? Everything else is a URL, a GDAL virtual path (/vsi...) or a subdataset such as
    NETCDF:"a.nc":red; a single letter before a colon is a Windows drive.
    """
    text = str(place)
    if "://" in text or text.startswith("/vsi"):
        return False
    return re.match(r"[A-Za-z]\w+:", text) is None or os.path.exists(text)


def as_path(place: str | Path) -> Path | str:
    """A local path as a Path; addresses and names of GDAL as the text they are: pathlib makes one slash of
    two, and /vsizip//data/a.zip would be a file of the working folder.
    """
    return Path(place) if is_local(place) else str(place)


def sibling(place: str | Path, name: str) -> Path | str:
    """Another file in the folder of a file, also on a server or in an archive. The query of an address, which
    is often a key to the whole folder, stays.
    """
    if is_local(place):
        return Path(place).with_name(name)
    path, mark, query = str(place).partition("?")
    return f"{path.rpartition('/')[0]}/{name}{mark}{query}"


def is_raster_there(place: str | Path) -> bool:
    """Is there a file, or, where the system cannot know, a raster that GDAL opens?"""
    if is_local(place):
        return Path(place).is_file()
    try:
        with gdal(), open_raster(place):
            return True
    except BadFile:
        return False


def suffix_of(place: str | Path) -> str:
    """The suffix of a path, in small letters; of an address, without its query, which often holds a token.
    Raises BadFile for an address that is none.
    """
    text = str(place)
    try:
        return Path(urlsplit(text).path if "://" in text else text).suffix.lower()
    except ValueError as error:
        raise BadFile(f"{text} is no valid address: {error}.") from error


def stem_of_place(place: str | Path) -> str:
    """The name of a scene by its place: the stem of a file; of a folder `name_of_folder`; of a raster in a
    container such as netcdf:a.nc:red, GTIFF_DIR:2:a.tif or HDF5:"a.h5"://x/red, also which one.
    """
    text = str(place)
    if is_local(text) and os.path.isdir(text) and not is_zarr(text):
        return name_of_folder(text)
    found = re.fullmatch(r'[A-Za-z]\w+:(?:(\d+):)?"?(.+?\.\w+)"?(?::(.+))?', text)
    if is_local(text) or found is None or "://" in text[:12]:
        return Path(text).stem
    page, path, inside = found.groups()
    which = page or inside
    if which is None:
        return Path(path).stem
    return f"{Path(path).stem}_{re.sub(r'[^A-Za-z0-9.-]+', '-', which).strip('-')}"


IN_PRODUCTS = {"img_data": "", "r10m": "_R10m", "r20m": "_R20m", "r60m": "_R60m", "measurement": ""}
"""Folders of the same name in every product of the Sentinels, and what they add to the name of theirs."""
PRODUCT = re.compile(r"(?:L1C|L2A|S[1-3][A-D])_\w+|.+\.(?:SAFE|SEN3)", re.IGNORECASE)
"""Name of a product, or of a granule in it."""


def name_of_folder(folder: str | Path) -> str:
    """The name of a scene whose bands lie in a folder: the folder's, whole, since 2021.06 has no suffix to be
    cut off; that of the product where every product has a folder of this name (IMG_DATA).
    """
    path = Path(os.path.abspath(folder))
    more = IN_PRODUCTS.get(path.name.lower())
    above = (one.name for one in path.parents if one.name.lower() not in IN_PRODUCTS)
    product = next(above, "")
    if more is None or not PRODUCT.fullmatch(product):
        return path.name
    return re.sub(r"\.(?:SAFE|SEN3)$", "", product, flags=re.IGNORECASE) + more


def is_raster(file: Path) -> bool:
    """Is this a raster file by its suffix? Hidden files are not: macOS puts `._scene.tif` beside every file
    on drives of other systems, and files still being written are hidden too.
    """
    return file.suffix.lower() in RASTER_SUFFIXES and not file.name.startswith(".")


def rasters_below(folder: Path) -> list[Path]:
    """All raster files below a folder, sorted by path, without hidden files and folders and what macOS puts
    beside them in archives (`._name.tif`, `__MACOSX`).
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name != "__MACOSX" and not _leads_back(place, name)
        ]
        found += [file for file in (Path(place, name) for name in names) if is_raster(file)]
    return sorted(file for file in found if file.is_file())


def _leads_back(place: str, name: str) -> bool:
    """Is a folder a link to one that it lies in? Followed, it would be found in itself without end."""
    target, here = os.path.realpath(os.path.join(place, name)), os.path.realpath(place)
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)


def stack_files(source: Source | SharedDataset) -> list[str]:
    """List the files of a scene: one, or those of a folder in name order; none for a scene in memory.

    Raises BadFile for a folder without rasters, BadInput for other types, BadOption for an empty list.
    """
    if isinstance(source, Scene):
        return list(source.files)
    if isinstance(source, SharedDataset):
        return [source.dataset.name]
    if isinstance(source, (str, Path)):
        check_path(source, "A scene")
        folder = Path(source)
        if not is_local(source) or not folder.is_dir() or is_zarr(folder):
            return [str(source)]
        # Sorted: file systems list in any order, and in a mosaic the last file is on top.
        files = sorted(str(f) for f in folder.iterdir() if is_raster(f))
        if not files:
            # One level down, as in a Sentinel-2 product's GRANULE: a hint, deeper folders are not searched.
            inside = next(
                (f.name for f in sorted(folder.iterdir()) if f.is_dir() and any(map(is_raster, f.iterdir()))),
                None,
            )
            raise BadFile(
                f"The folder {source} holds no raster "
                f"files{f'; its subfolder {inside} does: pass that one' if inside else ''}."
            )
        return files
    if not isinstance(source, Sequence):
        raise BadInput(f"Scene(...) opens paths; pass a {type(source).__name__} to open_scene(...).")
    if not source:
        raise BadOption("A scene needs at least one file.")
    return [str(file) for file in source]


def source_paths(source: object) -> str | tuple[str, ...] | None:
    """The path or paths that open a scene's source again, as they are stored in _run.json; None where it is
    in memory or not a scene.
    """
    if isinstance(source, Scene):
        return None if source.in_memory else source_paths(source.source)
    if isinstance(source, rasterio.DatasetReader):
        # /vsimem/ lives in this process alone: a map could not be repeated from it.
        return source.name if opens_again(source) and not source.name.startswith("/vsimem/") else None
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source):
        return tuple(map(os.fspath, source))
    return None


def source_text(source: Source | SharedDataset) -> str:
    """A scene's source as messages name it."""
    paths = source_paths(source)
    if isinstance(paths, str):
        return paths
    if paths is not None:
        return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    if isinstance(source, SharedDataset):
        return source.dataset.name
    return str(getattr(source, "name", None) or f"a {type(source).__name__} in memory")


def reason(error: BaseException) -> str:
    """The first line of GDAL's own message."""
    # rasterio raises its error from GDAL's, which is the more exact of the two.
    cause = error.__cause__ or error
    # GDAL's hint on how to read damaged JPEGs all the same is nothing to follow here.
    text = str(cause).strip().partition(" (this error can be turned as a warning")[0]
    return text.splitlines()[0].rstrip(".") if text else type(cause).__name__
