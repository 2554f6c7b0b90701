"""Write files atomically (`written_whole`), and check paths and file names."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from labelscape.errors import BadFile, WrongType


def check_path(given: object, what: str) -> None:
    """Raises WrongType where `given` is not a path: None, an array, an open file. `what` names it in the
    message.
    """
    if not isinstance(given, (str, os.PathLike)):
        found = (
            "nothing (None)" if given is None else f"a {type(given).__module__}.{type(given).__qualname__}"
        )
        raise WrongType(f"{what} must be given as a path; found {found.replace('builtins.', '')}.")


def stem_of(name: str, system: str = sys.platform) -> str:
    """Make a scene's name a valid start of file names, without folders. On Windows `a:b.tif` would be a
    hidden stream of the file `a`, and ids of STAC items may have colons. GDAL drops line breaks from the
    name of a GeoPackage, which is then not found.
    """
    return re.sub(r'[<>:"/\\|?*\0-\x1f]' if system == "win32" else r"[/\0-\x1f]", "_", name)


@contextlib.contextmanager
def written_whole(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file atomically: yields a hidden temporary path in the same folder, renamed to `path` on
    success and removed on failure.

    Raises BadFile where `path` exists and may not be replaced, or it cannot be written (permissions, disk
    full).
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise BadFile(f"{path} exists; pass `overwrite=True` to replace it.")
    # Beside the target, since a rename is atomic only within one file system. A name of its own for every
    # process: those of one training run, on several machines, must not rename each other's file away.
    part = path.with_name(f".{path.stem}.part{os.getpid()}-{uuid.uuid4().hex[:6]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if isinstance(error, BadFile):  # an OSError too, which has its message already
            raise
        # Windows does not replace a file that another program has open.
        in_use = " Is it open in another program?" if sys.platform == "win32" and path.exists() else ""
        raise BadFile(f"{path} cannot be written: {error.strerror or error}.{in_use}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def half_written(path: Path) -> list[Path]:
    """The hidden files that killed processes left of `path`."""
    return sorted(path.parent.glob(f".{glob.escape(path.stem)}.part*{glob.escape(path.suffix)}"))
