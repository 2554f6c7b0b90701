"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from labelscape.errors import BadFile, WrongType


def check_path(given: object, what: str) -> None:
    """Raises WrongType where `given` is no path: None, an array, an open file. `what` begins the sentence."""
    if not isinstance(given, (str, os.PathLike)):
        found = (
            "nothing (None)" if given is None else f"a {type(given).__module__}.{type(given).__qualname__}"
        )
        raise WrongType(f"{what} must be given as a path; found {found.replace('builtins.', '')}.")


def stem_of(name: str, system: str = sys.platform) -> str:
    """A scene's name as the start of file names, of no other folder. Windows takes `a:b.tif` for a stream
    hidden in the file `a`, and scenes of STAC items are called so.
    """
    return re.sub(r'[<>:"/\\|?*\0]' if system == "win32" else r"[/\0]", "_", name)


@contextlib.contextmanager
def written_whole(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden neighbour of `path` to write; it takes the name only if all went well.

    Raises BadFile where `path` exists and may not be replaced, or the system refuses: no right, no space.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise BadFile(f"{path} exists; pass --overwrite to replace it.")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if isinstance(error, BadFile):
            raise
        in_use = " Is it open in another program?" if sys.platform == "win32" and path.exists() else ""
        raise BadFile(f"{path} cannot be written: {error.strerror or error}.{in_use}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
