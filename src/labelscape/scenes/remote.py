"""Requests to servers for STAC documents and their files: where they may lead, how much they may answer."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from labelscape.errors import BadFile
from labelscape.text import printable

SECONDS = 60
"""For all of a request (ours)."""
MOST_BYTES = 64 * 2**20
"""Of a document (ours): an ItemCollection of ten thousand items has about 30 MB."""
HEAD = 256
"""Bytes of a file that show whether it is a text, as virtual rasters are."""
AT_ONCE = 8
"""Requests for the first bytes of files (ours)."""


class Elsewhere(BadFile):
    """A server leads to a place that was not asked for."""


class _Redirects(HTTPRedirectHandler):
    """Follows a redirect only where `allowed` (from, to) says so."""

    def __init__(self, allowed: Callable[[str, str], bool]) -> None:
        self._allowed = allowed

    def redirect_request(
        self, req: Request, fp: IO, code: int, msg: str, headers: object, newurl: str
    ) -> Request | None:
        if not self._allowed(req.full_url, newurl):
            raise Elsewhere(f"{req.full_url} leads elsewhere ({printable(urlsplit(newurl).netloc)}).")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def document(place: str, *, allow_remote: bool) -> bytes:
    """A document of a server. A redirect into a private network, where the server itself cannot look, is
    followed only with `allow_remote`. Raises OSError, BadFile where it is too long or too slow.
    """

    def allowed(source: str, target: str) -> bool:
        return allow_remote or _same_server(source, target) or not _is_private(target)

    # Some servers answer with a page for browsers where JSON is not asked for.
    headers = {"Accept": "application/geo+json, application/json"}
    with _opened(place, headers, allowed) as answer:
        return limited(answer, place)


def first_bytes(urls: Sequence[str]) -> list[bytes]:
    """The first bytes of files, in the order of the URLs. Raises BadFile where one cannot be read, Elsewhere
    where its server redirects to another host: GDAL would follow it.
    """
    with ThreadPoolExecutor(AT_ONCE, "first bytes") as pool:
        return list(pool.map(_first_bytes, urls))


def _first_bytes(url: str) -> bytes:
    try:
        with _opened(url, {"Range": f"bytes=0-{HEAD - 1}"}, _same_server) as answer:
            return answer.read(HEAD)
    except OSError as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{url} cannot be read: {getattr(error, 'reason', None) or error}.") from error


def _opened(url: str, headers: dict[str, str], allowed: Callable[[str, str], bool]) -> IO[bytes]:
    asked = Request(url, headers={"User-Agent": "labelscape", **headers})
    try:
        return build_opener(_Redirects(allowed)).open(asked, timeout=SECONDS)
    except ValueError as error:  # an address that is none
        raise URLError(str(error)) from error


def limited(file: IO[bytes], place: str) -> bytes:
    """All bytes of a document. Raises BadFile where they are too many, or come too slowly: the timeout of a
    request is that of each piece.
    """
    end, pieces, size = time.monotonic() + SECONDS, [], 0
    # read1: what is there; `read` would wait for all of it.
    while piece := (file.read1(2**16) if hasattr(file, "read1") else file.read(2**16)):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise BadFile(f"{place} has more than {MOST_BYTES // 2**20} MiB, so it is no STAC item.")
        if time.monotonic() > end:
            raise BadFile(f"{place} was not read within {SECONDS} seconds; try again, or download it.")
    return b"".join(pieces)


def _same_server(source: str, target: str) -> bool:
    here, there = urlsplit(source), urlsplit(target)
    # Servers lead from http to https.
    safer = (here.scheme, there.scheme) == ("http", "https") and here.port is None and there.port is None
    return here.hostname == there.hostname and (here.port == there.port or safer)


def _is_private(url: str) -> bool:
    """Does a host have an address of this machine or of a private network?"""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
        return any(not ipaddress.ip_address(one[4][0].partition("%")[0]).is_global for one in found)
    except (OSError, ValueError):
        return False  # no host: the request itself fails, and says why
