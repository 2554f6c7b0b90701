"""Geometries within geometries within geometries, without end: what GEOS must not be given."""

from __future__ import annotations

import struct

MOST_LEVELS = 100
"""GDAL gives up after 32 levels; GEOS calls itself for every one, and some ten thousand end the process."""
HEAD = 9
"""Bytes of a geometry that holds others: byte order, kind, number of parts."""
LINES, RINGS = (2, 8), (3, 17)
HOLDERS = (4, 5, 6, 7, 9, 10, 11, 12)
"""Kinds of WKB: multi-geometries, collections and what is made of curves."""


def is_too_deep(wkb: bytes) -> bool:
    """Are geometries nested deeper than `MOST_LEVELS`? What is damaged otherwise is left to GEOS."""
    # Nearly all geometries are too short for it, or hold no others: they cost nothing.
    if len(wkb) < MOST_LEVELS * HEAD:
        return False
    at, order = 0, "<"
    missing = [1]  # how many parts are still to be read, for every level
    try:
        while missing:
            if not missing[-1]:
                missing.pop()
                continue
            missing[-1] -= 1
            # As GEOS reads it: another first byte leaves the order as it was; flags or thousands say Z.
            order = {0: ">", 1: "<"}.get(wkb[at], order)
            (code,) = struct.unpack_from(f"{order}I", wkb, at + 1)
            at += 9 if code & 0x20000000 else 5
            thousands, kind = divmod(code & 0xFFFF, 1000)
            z, m = code >> 31 or thousands in (1, 3), code >> 30 & 1 or thousands in (2, 3)
            corner = 8 * (2 + bool(z) + bool(m))
            if kind == 1:
                at += corner
                continue
            (count,) = struct.unpack_from(f"{order}I", wkb, at)
            at += 4
            if kind in HOLDERS:
                missing.append(count)
                if len(missing) > MOST_LEVELS:
                    return True
            elif kind in RINGS:
                for _ in range(count):
                    (corners,) = struct.unpack_from(f"{order}I", wkb, at)
                    at += 4 + corners * corner
            elif kind in LINES:
                at += count * corner
            else:
                return False
    except (struct.error, IndexError):
        return False
    return False
