"""For messages: what a file is that cannot be opened as what its name says, by a look at its first bytes; and
which file may have been meant where there is none.
"""

from __future__ import annotations

import difflib
import itertools
import os
import tarfile
import unicodedata
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
    b"\x0e\x03\x13\x01": "is HDF4, which the GDAL of rasterio's wheels cannot read: write its bands as "
    "GeoTIFF with another GDAL (gdalinfo names them; gdal_translate NAME band.tif)",
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
LIKE = 0.8
"""How alike two names of files must be for one to be taken for the other (ours)."""
LOOKED_AT = 5000
"""Names of a folder that are looked through for it (ours): a mistake shall not take seconds."""
MOST = 3
"""Members of an archive that a message names (ours)."""


def no_such_file(path: str | Path) -> str:
    """The sentence on a local file that does not exist, with the one in its folder that is called nearly so,
    or the first folder on the way that there is not. Never raises.
    """
    text = str(path)
    if os.path.islink(text):
        return f"{text} is a link to {os.readlink(text)}, which does not exist."
    if not text:
        return "An empty path was given, which is no file."
    said, (folder, name) = f"{text} does not exist.", os.path.split(text)
    try:
        if folder and not os.path.isdir(folder):
            return f"{said} {_gone(folder)}"
        with os.scandir(folder or ".") as entries:
            there = [entry.name for entry in itertools.islice(entries, LOOKED_AT)]
    except (OSError, ValueError):
        return said
    # Sorted: the order of a folder's entries is that of the disk.
    there = sorted(one for one in there if one.isprintable() and not one.startswith("."))
    if twin := next((one for one in there if _composed(one) == _composed(name)), None):
        return (
            f"{said} {os.path.join(folder, twin)} does, whose accents are stored in another way (as on "
            "macOS): take the name as the folder lists it, or rename the file."
        )
    near = difflib.get_close_matches(name.lower(), {one.lower() for one in there}, n=1, cutoff=LIKE)
    same = [one for one in there if Path(one).stem.lower() == Path(name).stem.lower()]
    meant = next((one for one in there if one.lower() in near), None) or next(iter(same), None)
    return f"{said} Did you mean {os.path.join(folder, meant)}?" if meant else said


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _gone(folder: str) -> str:
    while (above := os.path.dirname(folder)) and above != folder and not os.path.exists(above):
        folder = above
    return f"{folder} is no folder." if os.path.exists(folder) else f"There is no folder {folder}."


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
