"""STAC items of files that hold many: ItemCollections, as searches are saved, and stac-geoparquet.

One item of such a file is named `FILE#ID`. Files are read item by item, so that memory does not grow with
their number; where each item lies in a file is remembered.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from labelscape.errors import BadFile, BadInput
from labelscape.scenes import remote
from labelscape.scenes.files import is_local, reason
from labelscape.scenes.stac_documents import items_of, no_json, read_document
from labelscape.scenes.vectors import need_pyarrow

PARQUET = {".parquet", ".geoparquet"}
PIECE = 2**16
"""Bytes in which an item is looked for first (ours): most have 5 to 40 kB."""


class Listed(NamedTuple):
    """An item of a file of many, and the id, or COLLECTION/ID, that names it there."""

    key: str
    item: dict


def document_of(place: str | Path) -> tuple[str, str | None]:
    """`search.json#S2A_1` -> ("search.json", "S2A_1"); the place itself and None where it names no item."""
    text = str(place)
    document, mark, key = text.partition("#")
    # Only local files: in an address the part behind # is not sent to the server.
    if not mark or not is_local(text) or Path(text).exists():
        return text, None
    while mark and not Path(document).is_file():  # a folder's name may have the character too
        more, mark, key = key.partition("#")
        document = f"{document}#{more}"
    return (document, key) if mark else (text, None)


def read_items(place: str, *, allow_remote: bool = False) -> list[dict]:
    """The items of a document, in its order. Raises BadFile where it cannot be read, BadInput where it holds
    other things.
    """
    document, key = document_of(place)
    if key is not None:
        return [item_in(document, key)]
    return items_of(read_document(place, allow_remote=allow_remote), place)


def head_of(place: str) -> dict[str, Any]:
    """The members of a local GeoJSON document but its features; under "features" the first of them (None
    without one), under "count" how many there are. Raises BadFile where it is no JSON object.
    """
    with _mapped(place) as reader:
        found: dict[str, Any] = {}
        for name in reader.members():
            if name != "features":
                found[name] = reader.value()
                continue
            found[name], found["count"] = None, 0
            for _ in reader.elements():
                one = reader.value()
                found[name] = one if found["count"] == 0 else found[name]
                found["count"] += 1
        return found


def items_in(file: str) -> Iterator[Listed]:
    """Every item of a local ItemCollection or stac-geoparquet, one after another. Raises BadInput where a
    feature is not an item.
    """
    for number, item in enumerate(_rows(file) if _is_table(file) else _features(file)):
        if not isinstance(item, dict) or not isinstance(item.get("assets"), dict):
            raise BadInput(
                f"{file}: feature {number + 1} is not a STAC item, it has no assets. A list of scenes holds "
                "items, or has a column href, path or location."
            )
        yield Listed(_key(item, number), item)


def _is_table(file: str) -> bool:
    return Path(file).suffix.lower() in PARQUET


def _key(item: dict, number: int) -> str:
    """What names an item in its file: ids are unique within a collection only."""
    if item.get("id") is None:
        return str(number + 1)
    return f"{item['collection']}/{item['id']}" if item.get("collection") else str(item["id"])


def item_in(file: str, key: str) -> dict:
    """The first item of a local file that has this id, or COLLECTION/ID. Raises BadFile."""
    if _is_table(file):
        found = next(_rows(file, key), None)
    else:
        about = os.stat(file)
        place = _places(file, about.st_size, about.st_mtime_ns).get(key)
        with open(file, "rb") as opened:
            opened.seek(place[0] if place else 0)
            found = json.loads(opened.read(place[1] - place[0])) if place else None
    if found is None:
        raise BadFile(f"{file} has no item {key!r}.")
    return found


@lru_cache(maxsize=4)  # a few megabytes each for ten thousand items
def _places(file: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Key, and id, of every item of a file -> its first byte and the one after it; by size and time of the
    last change, so that a file written anew is read anew.
    """
    found: dict[str, tuple[int, int]] = {}
    for number, (start, end, item) in enumerate(_with_places(file)):
        if isinstance(item, dict):
            found.setdefault(_key(item, number), (start, end))
            found.setdefault(str(item.get("id", number + 1)), (start, end))
    return found


def _features(file: str) -> Iterator[object]:
    """The features of a local GeoJSON file, one after another."""
    return (item for _, _, item in _with_places(file))


def _with_places(file: str) -> Iterator[tuple[int, int, object]]:
    """Every feature with its first byte and the one after it."""
    with _mapped(file) as reader:
        for name in reader.members():
            if name != "features":
                reader.value()
                continue
            for start in reader.elements():
                item = reader.value()
                yield start, reader.at, item


def _rows(file: str, key: str | None = None) -> Iterator[dict]:
    """The rows of a stac-geoparquet file as items; only those of a key where one is given."""
    need_pyarrow(file)
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        table = ds.dataset(file, format="parquet")
        columns = [c for c in ("id", "collection", "assets", "links") if c in table.schema.names]
        # Ids may have slashes themselves: all that the key may mean, and which is meant is seen below.
        ends = [key[i:] for i in range(len(key)) if not i or key[i - 1] == "/"] if key else []
        chosen = ds.field("id").isin(ends) if ends else None
        for batch in table.to_batches(columns=columns, filter=chosen, batch_size=256):
            for row in map(_without_empty, batch.to_pylist()):
                if key in (None, row.get("id"), _key(row, 0)):
                    yield row
    except (pa.ArrowException, OSError) as error:
        raise BadFile(f"{file} cannot be read as GeoParquet: {reason(error)}.") from error


def _without_empty(value: Any) -> Any:
    """A row without nulls: in a table every item has the assets and members of all."""
    if isinstance(value, dict):
        return {k: _without_empty(v) for k, v in value.items() if v is not None}
    return [_without_empty(v) for v in value] if isinstance(value, list) else value


@contextmanager
def _mapped(file: str) -> Iterator[_Reader]:
    """A local JSON file, read member by member. Raises BadFile where it is missing or not JSON."""
    try:
        with open(file, "rb") as opened:
            if not os.fstat(opened.fileno()).st_size:
                raise ValueError("it is empty")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Reader(data)
    except FileNotFoundError as error:
        raise BadFile(f"{file} does not exist.") from error
    except _TooLong as error:
        raise BadFile(f"{file} has {error}, so it is no STAC document.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):  # a ValueError too, of whoever reads the items
            raise
        raise no_json(file, error) from error


class _TooLong(ValueError):
    """A value that no STAC document has."""


class _Reader:
    """A JSON object read from left to right; one value at a time is in memory. Raises ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 3 if data[:3] == b"\xef\xbb\xbf" else 0
        self.decode = json.JSONDecoder().raw_decode

    def next(self) -> bytes:
        """The next character that is not white; it is not passed. b"" at the end."""
        while (one := self.data[self.at : self.at + 1]) and one in b" \t\r\n":
            self.at += 1
        return one

    def take(self, wanted: bytes) -> bytes:
        if (found := self.next()) not in [wanted[i : i + 1] for i in range(len(wanted))]:
            raise ValueError(f"byte {self.at}: {found!r} instead of one of {wanted.decode()}")
        self.at += 1
        return found

    def value(self) -> Any:
        """The value that begins here, which is passed."""
        self.next()
        size = PIECE
        while True:
            piece = self.data[self.at : self.at + size]
            # A piece may end within a character: what is left of it decodes to something, and comes back as
            # the same bytes.
            text = piece.decode("utf-8", "surrogateescape")
            whole = self.at + size >= len(self.data)
            try:
                found, end = self.decode(text)
                # A number that ends with the piece may go on.
                if whole or end < len(text):
                    self.at += len(text[:end].encode("utf-8", "surrogateescape"))
                    return found
            except json.JSONDecodeError:
                if whole:
                    raise
            # A string without end would be searched to the end of a file of any size, at six times its bytes.
            if size >= remote.MOST_BYTES:
                raise _TooLong(f"one value of more than {remote.MOST_BYTES // 2**20} MiB, at byte {self.at}")
            size = min(size * 4, remote.MOST_BYTES)

    def members(self) -> Iterator[str]:
        """Names of the object's members; the caller passes each value."""
        self.take(b"{")
        if self.next() == b"}":
            return
        while True:
            name = self.value()
            self.take(b":")
            self.next()
            yield name
            if self.take(b",}") == b"}":
                return

    def elements(self) -> Iterator[int]:
        """Where each element of the array that begins here begins; the caller passes each value."""
        if self.next() == b"n":  # null: none
            self.value()
            return
        self.take(b"[")
        if self.next() == b"]":
            self.at += 1
            return
        while True:
            self.next()
            yield self.at
            if self.take(b",]") == b"]":
                return
