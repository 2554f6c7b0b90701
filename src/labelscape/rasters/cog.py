"""Assemble a Cloud Optimized GeoTIFF from one file per level: directories (IFDs) first, then the compressed
blocks byte for byte, the smallest level's first.

GDAL's own COG driver reads every block of every band, also those never written: on a scene of 200,000 x
200,000 pixels that takes nearly an hour for a handful of tiles. Here a missing block costs 12 bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Tags and types by their numbers in the TIFF 6.0 specification; LONG8 is BigTIFF's.
SUBFILE, WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT, OFFSETS, SIZES = 254, 256, 257, 322, 323, 324, 325
SHORT, LONG, LONG8 = 3, 4, 16
BYTES = {
    1: 1,
    2: 1,
    SHORT: 2,
    LONG: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    LONG8: 8,
    17: 8,
    18: 8,
}
"""Bytes of one value, by the type of a TIFF field."""
NUMBERS = {SHORT: "<u2", LONG: "<u4", LONG8: "<u8"}

PROMISES = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\nBLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
    # The blank leaves room for YES, which software that edits the file writes there.
    b"KNOWN_INCOMPATIBLE_EDITION=NO\n "
)
GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(PROMISES) + PROMISES
"""The text that GDAL's COG driver writes behind the header. It tells remote readers that each block is
preceded by its size, so that one request reads both.
"""


CLASSIC_BYTES = 2**32
"""A TIFF of this size needs offsets of 64 bits: BigTIFF."""


class TooLarge(OSError):
    """A file of `size` bytes that may not be BigTIFF, and would have to."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes do not fit into a classic TIFF")
        self.size = size


@dataclass
class Level:
    """The first directory of a TIFF: fields as tag -> (type, bytes), and the offsets and sizes (N,) of its
    blocks, 0 for missing ones.
    """

    path: Path
    fields: dict[int, tuple[int, bytes]]
    offsets: np.ndarray
    sizes: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """(N,) numbers of the blocks that are stored, row by row."""
        return np.flatnonzero(self.sizes)


def assemble(levels: Sequence[Path], out: Path, *, big: bool | None = None) -> None:
    """Write the levels, from the full one down, as one COG `out`. `big` forces or forbids BigTIFF,
    which is otherwise used for 4 GB and more.

    Each level is a tiled little-endian TIFF of one directory, interleaved by pixel. Raises OSError where a
    file is not, is truncated, or the disk is full; TooLarge where BigTIFF is needed and forbidden.
    """
    found = [read_level(path) for path in levels]
    for level in found[1:]:
        level.fields[SUBFILE] = LONG, struct.pack("<L", 1)  # a picture of reduced size
    # Only now is the compressed size known; offsets in a classic TIFF have 32 bits.
    size = _places(found, big=False)[1]
    if big is False and size >= CLASSIC_BYTES:
        raise TooLarge(size)
    big = size >= CLASSIC_BYTES if big is None else big
    starts, _ = _places(found, big=big)
    with out.open("wb") as file:
        file.write(
            (
                struct.pack("<2sHHHQ", b"II", 43, 8, 0, _head(big))
                if big
                else struct.pack("<2sHL", b"II", 42, _head(big))
            )
            + GHOST
        )
        for number, (level, offsets) in enumerate(zip(found, starts)):
            _pad(file, 2)
            file.write(_directory(level, offsets, file.tell(), big=big, last=number == len(found) - 1))
        # The smallest level first: remote viewers get it with the header, in their first request.
        for level, offsets in zip(found[::-1], starts[::-1]):
            _copy_blocks(level, offsets, file)


def read_level(path: Path) -> Level:
    """Read the first directory of a TIFF. Raises OSError where it is not one that `assemble` can use."""
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] not in (b"II*\0", b"II+\0"):
            raise OSError(f"{path.name} is not a little-endian TIFF")
        big = head[2:3] == b"+"
        file.seek(int.from_bytes(head[8:16] if big else head[4:8], "little"))
        count = int.from_bytes(file.read(8 if big else 2), "little")
        size = count * (20 if big else 12)
        # On a full disk libtiff leaves a directory without entries, and GDAL says nothing.
        incomplete = OSError(f"{path.name} is incomplete: the disk may be full")
        if len(table := file.read(size)) < size:
            raise incomplete
        fields = {}
        for tag, kind, number, value in struct.iter_unpack("<HHQ8s" if big else "<HHL4s", table):
            if kind not in BYTES:
                raise incomplete
            # A value that does not fit into its entry is stored elsewhere, and the entry has its offset.
            length = BYTES[kind] * number
            if length > len(value):
                file.seek(int.from_bytes(value, "little"))
                value = file.read(length)
            if len(value) < length:
                raise incomplete
            fields[tag] = kind, value[:length]
    if not {WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT} <= fields.keys():
        raise incomplete
    blocks = math.prod(
        math.ceil(_number(fields, side) / _number(fields, tile))
        for side, tile in ((WIDTH, TILE_WIDTH), (HEIGHT, TILE_HEIGHT))
    )
    offsets, sizes = (_numbers(*fields.pop(tag, (LONG, b"")), blocks) for tag in (OFFSETS, SIZES))
    return Level(path, fields, offsets, np.where(offsets > 0, sizes, 0))


def _number(fields: dict[int, tuple[int, bytes]], tag: int) -> int:
    return int(_numbers(*fields[tag], 1)[0])


def _numbers(kind: int, raw: bytes, count: int) -> np.ndarray:
    """(count,) values of a field; zeros for arrays that libtiff leaves out because they are all zero."""
    values = np.zeros(count, np.int64)
    stored = np.frombuffer(raw, NUMBERS[kind])
    values[: len(stored)] = stored
    return values


def _head(big: bool) -> int:
    """Offset of the first directory: after the header and GHOST, on an even byte as TIFF requires."""
    end = (16 if big else 8) + len(GHOST)
    return end + end % 2


def _places(levels: Sequence[Level], *, big: bool) -> tuple[list[np.ndarray], int]:
    """Offsets of each level's blocks in the COG, (N,) with 0 for missing ones, and the length of the file."""
    at = _head(big)
    for level in levels:
        at += at % 2
        at += len(_directory(level, level.offsets, at, big=big, last=True))
    starts = []
    for level in levels[::-1]:
        there = level.there
        # 8 bytes more each: the size before a block, and its last four bytes repeated after it (see GHOST).
        ends = at + np.cumsum(level.sizes[there] + 8)
        offsets = np.zeros(len(level.offsets), np.int64)
        offsets[there] = ends - level.sizes[there] - 4
        starts.append(offsets)
        at = int(ends[-1]) if len(ends) else at
    return starts[::-1], at


def _directory(level: Level, offsets: np.ndarray, at: int, *, big: bool, last: bool) -> bytes:
    """The bytes of a directory that starts at `at`, with what does not fit into its entries behind it."""
    kind = LONG8 if big else LONG
    fields = {
        **level.fields,
        OFFSETS: (kind, offsets.astype(NUMBERS[kind]).tobytes()),
        SIZES: (LONG, level.sizes.astype("<u4").tobytes()),
    }
    word = 8 if big else 4
    table = (8 if big else 2) + len(fields) * (20 if big else 12) + word
    entries, behind = [], b""
    for tag, (kind, raw) in sorted(fields.items()):  # TIFF requires ascending tags
        value = raw
        if len(raw) > word:
            value = (at + table + len(behind)).to_bytes(word, "little")
            behind += raw + b"\0" * (len(raw) % 2)
        entries.append(struct.pack("<HHQ8s" if big else "<HHL4s", tag, kind, len(raw) // BYTES[kind], value))
    end = at + table + len(behind)
    following = 0 if last else end + end % 2
    return (
        len(fields).to_bytes(8 if big else 2, "little")
        + b"".join(entries)
        + following.to_bytes(word, "little")
        + behind
    )


def _pad(file: BinaryIO, step: int) -> None:
    file.write(b"\0" * (-file.tell() % step))


def _copy_blocks(level: Level, offsets: np.ndarray, file: BinaryIO) -> None:
    there = level.there
    assert not len(there) or file.tell() == offsets[there[0]] - 4
    with level.path.open("rb") as source:
        for start, size in zip(level.offsets[there].tolist(), level.sizes[there].tolist()):
            source.seek(start)
            block = source.read(size)
            # A short block would shift all that follow, and the file would still open.
            if len(block) != size:
                raise OSError(f"{level.path.name} ends in the middle of a block")
            file.write(size.to_bytes(4, "little") + block + block[-4:])
