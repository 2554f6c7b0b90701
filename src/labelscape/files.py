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

LONGEST_NAME = 255
"""Of a file or folder, on all common file systems: bytes of UTF-8, on Windows UTF-16 units."""
HIDDEN = 30
"""Bytes kept free in the name of a file for the hidden file it is written as, and what SQLite and GDAL put
beside that one: `.NAME.part1234567-a1b2c3.gpkg-journal`.
"""
ADDED = HIDDEN + len(".aux.xml")
"""As HIDDEN, where the file gets a side file that is written in the same way."""
# Half of a character beyond U+FFFF. Python also uses these for bytes of a file name that are not UTF-8.
LONE_SURROGATES = "\ud800-\udfff"


def check_path(given: object, what: str) -> None:
    """Raises WrongType where `given` is not a path (None, an array, an open file), and BadFile where no file
    can have this path (see `name_fault`). `what` names it in the message.
    """
    if not isinstance(given, (str, os.PathLike)):
        found = (
            "nothing (None)" if given is None else f"a {type(given).__module__}.{type(given).__qualname__}"
        )
        raise WrongType(f"{what} must be given as a path; found {found.replace('builtins.', '')}.")
    text = os.fspath(given)
    # Addresses and what GDAL makes of them may be longer than a file's name.
    if isinstance(text, str) and "://" not in text and not text.startswith("/vsi"):
        for name in Path(text).parts:
            # Line breaks are allowed here: on Linux such a file may exist, and can be read.
            if fault := name_fault(name, forbidden="\0" + LONE_SURROGATES):
                raise BadFile(f"{what} cannot be {_shown(name)}: {fault}.")


def check_written(path: str | Path, free: int = ADDED) -> None:
    """Raises BadFile where no file can be written to `path`, because of its name or of a folder's. Every
    writer calls it, the slow ones before their work.
    """
    check_path(path, "The path of a file to write")
    if fault := name_fault(Path(path).name, free=free):
        raise BadFile(f"The file {_shown(Path(path).name)} cannot be written: {fault}.")


def name_fault(
    name: str, *, free: int = 0, forbidden: str = "\0-\x1f\x7f" + LONE_SURROGATES, system: str = sys.platform
) -> str | None:
    """Why a file or folder cannot have this name, as a part of a sentence, or None. `free` bytes are kept
    free for what is added to it; `forbidden` is a range of characters as in a regular expression.
    """
    if found := re.search(f"[{forbidden}]", name):
        return (
            f"its name has the character U+{ord(found[0]):04X}; a name of visible characters in UTF-8 was "
            "expected, so choose another one"
        )
    size = len(name.encode("utf-16-le")) // 2 if system == "win32" else len(os.fsencode(name))
    if size > LONGEST_NAME - free:
        return f"its name has {size} bytes, at most {LONGEST_NAME - free} are possible; give a shorter one"
    return None


def _shown(name: str) -> str:
    """A name in a message: quoted, invisible characters as escapes, and cut where it is long."""
    return repr(name if len(name) <= 80 else f"{name[:60]}...")


def stem_of(name: str, system: str = sys.platform) -> str:
    """Make a scene's name a valid start of file names, without folders. On Windows `a:b.tif` would be a
    hidden stream of the file `a`, and ids of STAC items may have colons. GDAL drops line breaks from the
    name of a GeoPackage, which is then not found.
    """
    everywhere = r"/\0-\x1f\x7f" + LONE_SURROGATES
    return re.sub(rf'[<>:"\\|?*{everywhere}]' if system == "win32" else f"[{everywhere}]", "_", name)


@contextlib.contextmanager
def written_whole(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file atomically: yields a hidden temporary path in the same folder, renamed to `path` on
    success and removed on failure.

    Raises BadFile where `path` exists and may not be replaced, or it cannot be written (its name,
    permissions, disk full).
    """
    path = Path(path)
    check_written(path, HIDDEN)
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
