"""Memory that the tiles of a scene use one after the other is kept between them.

glibc gives a large tensor back to the system as soon as it is freed, and the system clears every page of the
next one; so it does with all that a thread beside the first one frees, whose memory it manages in pieces of
its own. Dask's workers are told to give back all they can (MALLOC_TRIM_THRESHOLD_), so that they clear every
tensor anew.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Of malloc.h, the same on all processors.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
MOST = 2**31 - 1

_users = 0
_lock = threading.Lock()


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory for the next tile while the block runs; afterwards the system gets it back. Nothing
    happens where the C library is not glibc.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _options({M_TRIM_THRESHOLD: MOST, M_MMAP_MAX: 0, M_ARENA_MAX: 1})
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                # What glibc comes to by itself after large tensors; it adapts no more once it was told. One
                # arena for all threads it keeps to anyway, once a thread has asked for memory.
                _options({M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20})
                if library := _glibc():
                    library.malloc_trim(0)


def _options(values: dict[int, int]) -> None:
    if library := _glibc():
        for option, value in values.items():
            library.mallopt(option, value)


@cache
def _glibc() -> Any | None:
    try:
        library = ctypes.CDLL(None)
        # Others have functions of this name, or of none.
        return library if library.gnu_get_libc_version and library.mallopt else None
    except (OSError, AttributeError, TypeError):
        return None
