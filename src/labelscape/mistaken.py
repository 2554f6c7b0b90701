"""What a file is that cannot be opened as what its name says: a look at its first bytes, for the message."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

STARTS = {
    b"\x1f\x8b": "is compressed with gzip: unpack it, or write /vsigzip/ before its path",
    b"7z\xbc\xaf\x27\x1c": "is an archive (7z): unpack it",
    b"Rar!": "is an archive (rar): unpack it",
    b"\xff\xfe": "is text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16: save it as UTF-8",
    b"\x93NUMPY": "is an array of NumPy, which has no coordinates: write it as GeoTIFF, or pass it in Python",
    # Archives that are whole are told apart before.
    b"PK\x03\x04": "is a damaged zip archive, cut short perhaps: download or copy it again",
    b"%PDF": "is a PDF: export what it shows as GeoTIFF or GeoPackage",
}
"""How files begin that nothing here reads, and what is said of them."""
DAMAGED_ZIP = (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, zlib.error)
"""What `zipfile` raises for archives that are damaged, encrypted, or packed in a way it does not know."""
UNFINISHED = (
    "a program was ended while it wrote there. Open it once where it may be written, with `labelscape serve "
    "--edit` or in QGIS, which undoes the unfinished change and nothing else"
)
"""Of a GeoPackage with a journal that SQLite must roll back first, which a reader may not."""
MOST = 3
"""Members of an archive that a message names (ours)."""


def what_it_is(path: str | Path) -> str | None:
    """What a local file is instead, and the cure, as the end of a sentence; None where nothing is known.
    Never raises.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except (OSError, ValueError):
        return None
    if not start:
        return "is empty (0 bytes)"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer that Git LFS puts in place of the file: fetch the file itself (git lfs pull)"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return (
            "is a web page (HTML), as a server sends it that wants a login or lacks the file: download it "
            "again"
        )
    if found := _archive(Path(path)):
        return found
    return next((said for bytes_, said in STARTS.items() if start.startswith(bytes_)), None)


def _archive(path: Path) -> str | None:
    """An archive, and how its members are named to GDAL."""
    name, files = str(path), []
    with suppress(*DAMAGED_ZIP, tarfile.TarError):
        if zipfile.is_zipfile(path):
            # A database of a GIS program or a document is a zip archive too: GDAL goes by the name.
            scheme = "/vsizip/" if name.lower().endswith((".zip", ".kmz")) else f"/vsizip/{{{name}}}"
            with zipfile.ZipFile(path) as archive:
                files = [one for one in archive.namelist() if not one.endswith("/")]
        elif tarfile.is_tarfile(path):
            scheme = "/vsitar/"
            with tarfile.open(path) as archive:
                files = [one.name for one in archive.getmembers() if one.isfile()]
        else:
            return None
        if any(one.endswith("/data.pkl") for one in files):
            return "is a file of PyTorch's torch.save, which can hold code and is not read"
        inside = scheme if scheme.endswith("}") else f"{scheme}{name}"
        # Side files are opened with what they belong to.
        files = [
            f for f in files if not f.startswith("__MACOSX/") and not os.path.basename(f).startswith(".")
        ]
        shown = ", ".join(f"{inside}/{one}" for one in files[:MOST]) + (", ..." if len(files) > MOST else "")
        return f"is an archive: unpack it, or name a file in it ({shown})" if files else "is an empty archive"
    return None
