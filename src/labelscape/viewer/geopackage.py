"""Rows of a GeoPackage read and changed one at a time, by SQLite's own locks: several pages, servers and QGIS
may have one file open. A change is on the disk before it is answered.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import shapely

from labelscape.errors import BadFile, LabelscapeError
from labelscape.files import FREE_SPACE
from labelscape.mistaken import UNFINISHED

MAGIC = b"SQLite format 3\0"
PATIENCE = 10.0
"""Seconds to wait for another writer (ours): QGIS saves in less."""
ENVELOPES = (0, 32, 48, 48, 64)
"""Bytes of the bounding box in a geometry's header, by its code."""
POINT, POLYGON, MULTIPOLYGON = 1, 3, 6
"""Kinds of geometry in WKB."""
LOCKED = "another program keeps it locked; save or close it there, and try again"
DAMAGED = "A geometry of the GeoPackage is damaged, or of a kind that the viewer does not show."


class Changed(LabelscapeError):
    """Somebody else answered or changed it meanwhile; `now` is what they chose."""

    def __init__(self, now: dict[str, Any]) -> None:
        super().__init__(
            "Somebody else changed this meanwhile; what they chose is shown now. Choose again to replace it."
        )
        self.now = now


def is_geopackage(path: Path) -> bool:
    """Is it a file of SQLite's? GDAL would also open text under this name, which may name files elsewhere."""
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextmanager
def opened(path: Path, *, write: bool = False, edit: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection in one transaction, which is undone where the block raises. To `write` it has the lock
    from its first statement on: what it reads is what it changes. Raises BadFile.

    edit  what a killed program left half-written may be undone before reading, as SQLite does by itself
          where it may write; without it such a file is refused
    """
    try:
        mode = "rw" if write or edit else "ro"
        with closing(
            sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None
            )
        ) as base:
            base.row_factory = sqlite3.Row
            # GDAL sets both, SQLite alone neither: the disk has the answer before the page has its own.
            base.execute("PRAGMA synchronous = FULL")
            if not write:
                base.execute("PRAGMA query_only = ON")
            _bring_functions(base)
            base.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield base
            except BaseException:
                if base.in_transaction:  # a full disk has ended it already
                    base.execute("ROLLBACK")
                raise
            base.execute("COMMIT")
    except sqlite3.Error as error:
        # A journal that was left must be rolled back first, which a reader may not.
        left = getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK"
        cure = UNFINISHED if left else LOCKED if "locked" in str(error) else str(error)
        full = FREE_SPACE if "disk is full" in cure else ""
        raise BadFile(f"{path} cannot be {'written' if write else 'read'}: {cure}.{full}") from error


def recover(path: Path) -> None:
    """Undo what a killed program left half-written in a GeoPackage, if anything: GDAL, which reads it without
    the right to write, would find it damaged. Raises BadFile.
    """
    if is_geopackage(path):
        with opened(path, edit=True) as base:
            # The transaction alone reads nothing yet.
            base.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _bring_functions(base: sqlite3.Connection) -> None:
    """What the triggers of a spatial index call, which GDAL and QGIS bring along too."""
    sides = ("ST_MinX", "ST_MinY", "ST_MaxX", "ST_MaxY")
    for number, name in enumerate(sides):
        # n=number: a closure would see the last one.
        base.create_function(name, 1, lambda blob, n=number: geometry_of(blob).bounds[n], deterministic=True)
    base.create_function("ST_IsEmpty", 1, lambda blob: int(geometry_of(blob).is_empty), deterministic=True)


def geometry_of(blob: bytes) -> shapely.Geometry:
    """A geometry as a GeoPackage stores it: a header, then WKB. Raises BadFile for another one."""
    try:
        return shapely.from_wkb(wkb_of(blob))
    except shapely.GEOSException as error:
        raise BadFile(DAMAGED) from error


def wkb_of(blob: bytes) -> bytes:
    """The WKB behind the header of a stored geometry: of a point, a polygon or a multipolygon. Raises BadFile
    for another one.
    """
    # SQLite keeps text or a number in any column.
    if not isinstance(blob, bytes) or len(blob) < 8 or blob[:2] != b"GP":
        raise BadFile(DAMAGED)
    if (blob[3] >> 1 & 7) >= len(ENVELOPES):
        raise BadFile(DAMAGED)
    wkb = blob[8 + ENVELOPES[blob[3] >> 1 & 7] :]
    # GEOS reads a geometry within a geometry by calling itself: ten thousand levels end the process.
    try:
        order, kind, _ = _head(wkb, 0)
        if kind == MULTIPOLYGON:
            _check_parts(wkb, *struct.unpack_from(f"{order}I", wkb, 5))
        elif kind not in (POINT, POLYGON):
            raise BadFile(DAMAGED)
    except struct.error as error:
        raise BadFile(DAMAGED) from error
    return wkb


def _head(wkb: bytes, at: int) -> tuple[str, int, int]:
    """Byte order, kind of geometry, and bytes of a corner. Raises struct.error beyond the end."""
    order = "<" if wkb[at : at + 1] == b"\x01" else ">"
    (code,) = struct.unpack_from(f"{order}I", wkb, at + 1)
    # Z, M or both: by thousands in the standard, by bits in what others write. Of codes with both GEOS might
    # think otherwise, and of those with another bit: they are no kind.
    thousands, kind = divmod(code & 0x3FFFFFFF, 1000)
    if thousands > 3 or (thousands and code >> 30):
        return order, 0, 0
    return order, kind, 8 * (2 + (code >> 30 or thousands).bit_count())


def _check_parts(wkb: bytes, count: int) -> None:
    """Raises BadFile where a part of a multipolygon is no polygon, struct.error where it ends too early."""
    at = 9
    for _ in range(count):
        order, kind, corner = _head(wkb, at)
        if kind != POLYGON:
            raise BadFile(DAMAGED)
        (rings,) = struct.unpack_from(f"{order}I", wkb, at + 5)
        at += 9
        for _ in range(rings):
            (corners,) = struct.unpack_from(f"{order}I", wkb, at)
            at += 4 + corner * corners


def blob_of(geometry: shapely.Geometry, srs: int) -> bytes:
    """The inverse of `geometry_of`, with the bounding box that readers use to skip it."""
    west, south, east, north = geometry.bounds
    # Flags: little endian, a box of four numbers (order x, x, y, y).
    head = b"GP\x00\x03" + struct.pack("<i4d", srs, west, east, south, north)
    return head + shapely.to_wkb(geometry, byte_order=1)


def place_of(base: sqlite3.Connection, layer: str) -> tuple[str, str, int]:
    """The columns that hold the number and the geometry of a layer's features, and its SRS's number."""
    row = base.execute(
        "SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
    ).fetchone()
    if row is None:
        raise BadFile(f"The GeoPackage has no layer {layer}.")
    keys = [
        one["name"]
        for one in base.execute("SELECT name, pk FROM pragma_table_info(?)", (layer,))
        if one["pk"]
    ]
    return (keys or ["rowid"])[0], row["column_name"], row["srs_id"]


def quoted(name: str) -> str:
    """The name of a table or a column, from a file, as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def touched(base: sqlite3.Connection, layer: str) -> None:
    """Note in the table of contents that a layer was changed, as the standard asks."""
    base.execute(
        "UPDATE gpkg_contents SET last_change = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE table_name = ?",
        (layer,),
    )


def rings_of(shape: shapely.Geometry) -> list[list[list[list[float]]]]:
    """Polygons, their rings, their corners (column, row)."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return [[[[x, y] for x, y in ring.coords] for ring in (part.exterior, *part.interiors)] for part in parts]
