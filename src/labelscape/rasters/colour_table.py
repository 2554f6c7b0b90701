"""Give classes of a finished map other colours: in the colour tables of the GeoTIFF, overwritten where they
lie, and in its attribute table. No pixel is written again and nothing in the file moves, so a Cloud Optimized
GeoTIFF stays one.
"""

from __future__ import annotations

import os
import struct
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from labelscape.errors import BadFile, BadInput
from labelscape.files import cannot_write, locked, written_whole
from labelscape.legend import RGB

COLOUR_MAP, SHORT = 320, 3
"""TIFF's tag of a colour table, and the type of its entries."""
ENTRIES = 256
"""Colours in the table of a raster of bytes: all reds, then all greens, then all blues."""
MOST_DIRECTORIES = 100
"""A raster has one for each overview; a damaged file may have a circle of them."""
WAIT = 10.0
"""Seconds to wait for another program that writes the file."""
SIDES = ("6", "7", "8")
"""Usage codes of red, green and blue in GDAL's attribute tables."""
VALUES = ("5", "3")
"""Usage codes of a value, and of the lower end of a range of values."""


def recolour(
    path: str | Path, colors: Mapping[int, RGB], *, before: Mapping[int, RGB] | None = None
) -> dict[int, RGB]:
    """Store other colours of class values (0 to 254) in a GeoTIFF of bytes, its overviews, and the attribute
    table beside it (`.aux.xml`). Values that are not named keep their colours. Returns the colours of all
    values as they are now.

    before  the colours that are to be replaced: where one of them is another by now, nothing is written

    Raises BadInput where the file has no colour table, or is a link; BadFile where it cannot be written.
    """
    path = Path(path)
    if path.is_symlink():
        raise BadInput(f"{path} is a link; colours are written into the map's file itself.")
    if not colour_tables(path):
        raise BadInput(
            f"{path} is no GeoTIFF with a colour table, so that there is none to change. "
            "`gdal_translate -of COG` of a VRT with a colour table makes one."
        )
    with locked(path, patience=WAIT):
        now = colours_of(path)
        if any(now[value] != color for value, color in (before or {}).items()):
            return now
        _recolour_attributes(Path(f"{path}.aux.xml"), colors)
        for file in (path, Path(f"{path}.ovr")):
            if file.exists() and not file.is_symlink():
                _recolour_file(file, colors)
        return colours_of(path)


def colours_of(path: Path) -> dict[int, RGB]:
    """The colours of all values by the first colour table. Raises BadFile where it cannot be read."""
    try:
        with open(path, "rb") as file:
            order = _order(file)
            file.seek(next(_tables(file, order)))
            table = struct.unpack(f"{order}{3 * ENTRIES}H", file.read(6 * ENTRIES))
    except (OSError, struct.error, ValueError, StopIteration) as error:
        raise BadFile(f"The colour table of {path} cannot be read.") from error
    return {v: tuple(table[side * ENTRIES + v] >> 8 for side in range(3)) for v in range(ENTRIES)}


def colour_tables(path: str | Path) -> list[int]:
    """Where the colour tables of a TIFF lie, in bytes from its start: one for the raster and each overview.
    Empty for other files, and where the raster has none.
    """
    try:
        with open(path, "rb") as file:
            return list(dict.fromkeys(_tables(file, _order(file))))
    except (OSError, struct.error, ValueError):
        return []


def _order(file: BinaryIO) -> str:
    """The byte order of a TIFF as `struct` writes it. Raises ValueError for other files."""
    orders = {b"II": "<", b"MM": ">"}
    order = orders.get(file.read(2))
    if order is None:
        raise ValueError("no TIFF")
    return order


def _tables(file: BinaryIO, order: str) -> Iterator[int]:
    """Positions of the colour tables, directory by directory (TIFF 6.0, section 2; BigTIFF: Adobe's note)."""
    (magic,) = struct.unpack(f"{order}H", file.read(2))
    if magic not in (42, 43):
        raise ValueError("no TIFF")
    big = magic == 43
    # Classic: offsets and counts of 4 bytes, entries of 12; BigTIFF: 8 and 20.
    word, size, entry = ("Q", 8, 20) if big else ("I", 4, 12)
    if big:
        file.read(4)
    (place,) = struct.unpack(f"{order}{word}", file.read(size))
    for _ in range(MOST_DIRECTORIES):
        if place == 0:
            return
        file.seek(place)
        head = "Q" if big else "H"
        (count,) = struct.unpack(f"{order}{head}", file.read(struct.calcsize(head)))
        if count > 65_535:
            raise ValueError("damaged")
        entries = file.read(count * entry)
        for number in range(count):
            tag, kind, entry_count, where = struct.unpack_from(
                f"{order}HH{word}{word}", entries, number * entry
            )
            if tag == COLOUR_MAP and kind == SHORT and entry_count == 3 * ENTRIES:
                yield where
        (place,) = struct.unpack(f"{order}{word}", file.read(size))


def _recolour_file(path: Path, colors: Mapping[int, RGB]) -> None:
    try:
        with open(path, "r+b") as file:
            order = _order(file)
            for table in dict.fromkeys(_tables(file, order)):
                file.seek(table)
                found = list(struct.unpack(f"{order}{3 * ENTRIES}H", file.read(6 * ENTRIES)))
                for value, color in colors.items():
                    for side, shade in enumerate(color):
                        # 16 bits: 255 becomes 65535, as GDAL writes it.
                        found[side * ENTRIES + value] = shade * 257
                file.seek(table)
                file.write(struct.pack(f"{order}{3 * ENTRIES}H", *found))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
    except (struct.error, ValueError) as error:
        raise BadFile(f"The colour table of {path} is damaged.") from error


def _recolour_attributes(path: Path, colors: Mapping[int, RGB]) -> None:
    """Colours in GDAL's side file, where it has them: QGIS may take either."""
    if not path.exists() or path.is_symlink():
        return
    try:
        root = xml.parse(path).getroot()
    except (OSError, xml.ParseError) as error:
        raise BadFile(f"{path} cannot be read as XML: {error}.") from error
    for table in root.iterfind("PAMRasterBand/GDALRasterAttributeTable"):
        usages = [field.findtext("Usage", "0") for field in table.findall("FieldDefn")]
        value_at = next((usages.index(one) for one in VALUES if one in usages), None)
        if value_at is None or not set(SIDES) <= set(usages):
            continue
        for row in table.findall("Row"):
            cells = row.findall("F")
            text = cells[value_at].text if len(cells) == len(usages) else None
            color = colors.get(int(text)) if text and text.isdigit() else None
            for side, shade in zip(SIDES, color or ()):
                cells[usages.index(side)].text = str(shade)
    with written_whole(path, overwrite=True) as part:
        part.write_bytes(xml.tostring(root, encoding="utf-8", xml_declaration=False))
