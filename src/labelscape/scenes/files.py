"""GDAL's settings, and files opened with one clear sentence where that fails."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.scenes.scene import Scene

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".bmp", ".dat"}

# GDAL takes 5 % of the machine's memory for its block cache unless told; reading a large scene must not grow
# with the machine. In bytes: rasterio hands the number to GDALSetCacheMax64, which knows no megabytes.
GDAL_CACHE_BYTES = 64 * 2**20

EXACT = 1e-6
"""Error allowed to a warp's transformation, in pixels, so that what is read does not depend on the window;
rasterio 1.4 fails on 0.
"""

READ_FAILURES = (RasterioError, OSError, UnicodeDecodeError)
"""What opening and reading raise; the last where GDAL names a file whose name is no UTF-8, as damaged or
old VRTs hold.
"""

Files = str | Path | Sequence[str | Path]
"""Where files are: a file, a folder, an address, or a list of them."""


class DataArray(Protocol):
    """An `xarray.DataArray` with the accessor of rioxarray, as far as it is asked; xarray need not be
    installed.
    """

    dims: tuple[str, ...]
    attrs: dict[str, Any]
    rio: Any


Source = Files | rasterio.DatasetReader | WarpedVRT | DataArray | Scene
"""What may stand for a scene: files, a STAC item, or an object that holds pixels with their place."""


@dataclass(frozen=True, eq=False)
class SharedDataset:
    """Somebody else's open dataset that cannot be opened a second time, such as a `WarpedVRT`: it is read by
    one thread at a time, and never closed.
    """

    dataset: rasterio.DatasetReader | WarpedVRT
    lock: Lock = field(default_factory=Lock)


@contextmanager
def gdal(**options: object) -> Iterator[None]:
    """GDAL's settings for the time of a block, instead of the process's environment; a GDAL_CACHEMAX given
    further out stays.
    """
    cache = rasterio.env.getenv().get("GDAL_CACHEMAX") if rasterio.env.hasenv() else None
    # GDAL's short cut for whole PNG files answers with chance values, and no error, where a file is
    # truncated.
    with (
        rasterio.Env(
            **{"GDAL_CACHEMAX": cache or GDAL_CACHE_BYTES, "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO", **options}
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter(
            "ignore", NotGeoreferencedWarning
        )  # a PNG has no CRS: that is a fact, not a warning
        yield


def open_raster(file: str | Path) -> rasterio.DatasetReader:
    """Open one file with GDAL. Raises BadFile saying whether it is missing, empty, or no raster."""
    text = str(file)
    local = is_local(text)
    if local and not Path(text).exists():
        raise BadFile(f"{text} does not exist.")
    if local and Path(text).is_dir():
        raise BadFile(f"{text} is a folder; a raster file was expected.")
    if local and Path(text).stat().st_size == 0:
        raise BadFile(f"{text} is empty (0 bytes).")
    try:
        dataset = rasterio.open(text)
    except READ_FAILURES as error:
        raise BadFile(f"{text} cannot be opened as a raster: {reason(error)}.") from error
    if dataset.count == 0:
        dataset.close()
        raise BadFile(
            f"{text} is a container of several rasters, not one; name one of them: "
            f"{', '.join(dataset.subdatasets[:3])} ..."
        )
    return dataset


def is_local(place: str | Path) -> bool:
    """Is this a path of the machine's own files? Others are addresses, GDAL's virtual paths, and names of
    parts of files such as NETCDF:"a.nc":red; one letter before a colon is a drive of Windows.
    """
    text = str(place)
    if "://" in text or text.startswith("/vsi"):
        return False
    return re.match(r"[A-Za-z]\w+:", text) is None or Path(text).exists()


def is_raster(file: Path) -> bool:
    """Is this a raster by its name? Hidden files are none: macOS puts `._scene.tif` beside every file on
    drives of other systems, and files that are being written are hidden too.
    """
    return file.suffix.lower() in RASTER_SUFFIXES and not file.name.startswith(".")


def stack_files(source: Source | SharedDataset) -> list[str]:
    """The files of a scene: one, or those of a band stack in name order; none where it lies in memory."""
    if isinstance(source, Scene):
        return list(source.files)
    if isinstance(source, SharedDataset):
        return [source.dataset.name]
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if not is_local(source) or not folder.is_dir():
            return [str(source)]
        files = sorted(str(f) for f in folder.iterdir() if is_raster(f))
        if not files:
            inside = next(
                (f.name for f in sorted(folder.iterdir()) if f.is_dir() and any(map(is_raster, f.iterdir()))),
                None,
            )
            raise BadFile(
                f"The folder {source} holds no raster "
                f"files{f'; its folder {inside} does: name that' if inside else ''}."
            )
        return files
    if not isinstance(source, Sequence):
        raise BadInput(
            f"Scene(...) opens files by their paths; a {type(source).__name__} goes to open_scene(...)."
        )
    if not source:
        raise BadOption("A scene needs at least one file.")
    return [str(file) for file in source]


def source_paths(source: object) -> str | tuple[str, ...] | None:
    """Where a scene's source lies, as it can be written down and opened again; None where that is in memory,
    or the source is no scene.
    """
    if isinstance(source, Scene):
        return None if source.in_memory else source_paths(source.source)
    if isinstance(source, rasterio.DatasetReader):
        return None if source.name.startswith("/vsimem/") else source.name
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source):
        return tuple(map(os.fspath, source))
    return None


def source_text(source: Source | SharedDataset) -> str:
    """A scene's source as a message names it."""
    paths = source_paths(source)
    if isinstance(paths, str):
        return paths
    if paths is not None:
        return paths[0] + (f" and {len(paths) - 1} beside it" if len(paths) > 1 else "")
    if isinstance(source, SharedDataset):
        return source.dataset.name
    return str(getattr(source, "name", None) or f"a {type(source).__name__} in memory")


def reason(error: BaseException) -> str:
    """GDAL's own first line, without the file name said twice."""
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else type(cause).__name__
