"""Paths in a form that pyogrio passes on to GDAL unchanged.

pyogrio takes a path for an address: it splits it at `!`, drops what follows a `;`, and removes line breaks,
so that `v1!fields.geojson` would read another file, `fields.geojson`.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelscape.errors import BadFile
from labelscape.files import temporary_folder
from labelscape.mistaken import DAMAGED_ZIP
from labelscape.scenes.files import is_local, reason

CHANGED = re.compile(r"[!;?\x00-\x1f\x7f]")
"""Characters at which pyogrio changes a path."""


@contextmanager
def as_it_is(path: str | Path, *, new: bool = False) -> Iterator[str]:
    """A path to the same file that pyogrio passes on to GDAL as it is: links in a temporary folder, where the
    true one has characters that it changes. `new` is for a file to be written, which takes its true name
    afterwards.
    """
    text = str(path)
    if not is_local(text):
        # Of addresses pyogrio knows only some, and splits those too.
        yield (
            f"/vsicurl/{text}" if text.startswith(("http://", "https://")) and CHANGED.search(text) else text
        )
        return
    # Absolute: a relative one may look like an address (`s3:x.gpkg`), or begin with blanks, which are lost.
    # Two slashes at the start, which POSIX keeps, would be the name of a host.
    true = Path(re.sub("^//+", "/", os.path.abspath(text)))
    if not CHANGED.search(str(true)):
        yield str(true)
        return
    with temporary_folder() as folder:
        try:
            plain = _link(true, folder, new)
            yield str(plain)
            if new and plain.name != true.name:
                (true.parent / plain.name).replace(true)
        finally:
            if new and CHANGED.search(true.name):
                (true.parent / f"{folder.name}{true.suffix}").unlink(missing_ok=True)


def _link(true: Path, folder: Path, new: bool) -> Path:
    """Links in `folder` by which `true` is reached. Raises BadFile where none can be made."""
    try:
        if CHANGED.search(str(folder)):
            raise BadFile(f"the folder for temporary files, {folder}, has such characters too")
        (folder / "there").symlink_to(true.parent, target_is_directory=True)
        if not CHANGED.search(true.name):
            return folder / "there" / true.name
        if new:
            # The temporary folder's own name is random.
            return folder / "there" / f"{folder.name}{true.suffix}"
        # A Shapefile is several files of one stem.
        for file in true.parent.iterdir():
            if file == true or file.name.startswith((f"{true.stem}.", f"{true.name}-")):
                (folder / CHANGED.sub("_", file.name)).symlink_to(file)
        return folder / CHANGED.sub("_", true.name)
    except (OSError, NotImplementedError) as error:
        raise BadFile(
            f"{true} has characters in its path at which the vector library splits it (! ; ?), and no link "
            f"to it can be made ({reason(error)}). Rename it."
        ) from error


def vectors_inside(path: str | Path, suffixes: set[str]) -> list[str]:
    """Names of the vector files in a zip archive; none where it is no archive, or its list of members is
    damaged.
    """
    if not str(path).lower().endswith(".zip"):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    except (*DAMAGED_ZIP, ValueError):
        return []  # GDAL says what is wrong with it
    # A .json beside a vector file is its metadata.
    return [name for name in names if Path(name).suffix.lower() in suffixes - {".json"}]


def member_of(path: str | Path, plain: str, suffixes: set[str]) -> str:
    """What GDAL opens of a vector file: `plain` itself; of a zip archive with folders in it, of which GDAL
    sees none, the one vector file inside. Raises BadFile where it holds several.
    """
    found = vectors_inside(plain, suffixes)
    if all("/" not in name for name in found):
        return plain
    if len(found) > 1:
        listed = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise BadFile(f"{path} holds {len(found)} vector files ({listed}). Unpack it, and give one of them.")
    return f"/vsizip/{{{plain}}}/{found[0]}"
