"""GDAL's settings, and files opened with one clear sentence where that fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from labelscape.errors import BadFile, BadOption

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

Source = str | Path | Sequence[str | Path]
"""Where a scene is: a file, a folder of single-band files, or a list of them."""


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
    local = "://" not in text and not text.startswith("/vsi")
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


def stack_files(source: Source) -> list[str]:
    """The files of a scene: one, or those of a band stack in name order."""
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if "://" in str(source) or str(source).startswith("/vsi") or not folder.is_dir():
            return [str(source)]
        files = sorted(str(f) for f in folder.iterdir() if f.suffix.lower() in RASTER_SUFFIXES)
        if not files:
            inside = next(
                (
                    f.name
                    for f in sorted(folder.iterdir())
                    if f.is_dir() and any(g.suffix.lower() in RASTER_SUFFIXES for g in f.iterdir())
                ),
                None,
            )
            raise BadFile(
                f"The folder {source} holds no raster "
                f"files{f'; its folder {inside} does: name that' if inside else ''}."
            )
        return files
    if not source:
        raise BadOption("A scene needs at least one file.")
    return [str(file) for file in source]


def source_text(source: Source) -> str:
    """A scene's source as a message names it."""
    if isinstance(source, (str, Path)):
        return str(source)
    return str(source[0]) + (f" and {len(source) - 1} beside it" if len(source) > 1 else "")


def reason(error: BaseException) -> str:
    """GDAL's own first line, without the file name said twice."""
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else type(cause).__name__
