"""What the server refuses before anything else, and the headers that every answer carries.

A page of another site can make a browser send requests to this machine: directly (cross-site requests), or by
a name of its own that it points at 127.0.0.1 (DNS rebinding). Both are known by their headers.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LARGEST_BODY = 1_000_000
"""Bytes of a request: a polygon with 20,000 corners."""
LONGEST_TARGET = 4096
"""Characters of an address with its query."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NOTEBOOKS = "http://127.0.0.1:* http://localhost:* https://127.0.0.1:* https://localhost:* vscode-webview:"
"""Who may frame the page of `show_map`: notebooks on this machine, at any port, and those of VS Code."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = ("GET", "HEAD")
FRAMED = {name: value for name, value in HEADERS.items() if name != "x-frame-options"} | {
    "content-security-policy": POLICY.replace("frame-ancestors 'none'", f"frame-ancestors {NOTEBOOKS}")
}
"""The headers of a page that notebooks frame; x-frame-options knows no list of who may."""

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


def names_of(host: str) -> frozenset[str]:
    """Names under which a server that listens at `host` may be asked."""
    names = {*LOOPBACK, host.lower()}
    if host not in LOOPBACK:
        # Others reach it by the machine's own names, which no page of theirs can choose.
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


class Guard:
    """ASGI middleware: requests for another host or from another site get 403, large ones 413."""

    def __init__(self, app: App, *, host: str = "127.0.0.1", framed: bool = False) -> None:
        """`framed`: pages of this machine may show this one in a frame."""
        self._app, self._names = app, names_of(host)
        headers = FRAMED if framed else HEADERS
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        # Addresses in numbers are no names: nobody can point them elsewhere.
        self._by_number = host not in LOOPBACK

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        if scope["type"] != "http":
            return
        status, why = self._fault(scope)
        if status:
            body = json.dumps({"error": why}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send_with_headers)

    def _fault(self, scope: Message) -> tuple[int, str]:
        """(status, sentence) of a request that is refused; (0, "") for others."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 403, "The Host header names another machine."
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > LONGEST_TARGET:
            return 414, "The address is too long."
        origins = headers.get("origin", [])
        if any(origin != f"{scope.get('scheme', 'http')}://{hosts[0]}" for origin in origins):
            return 403, "The request comes from a page of another site."
        site = headers.get("sec-fetch-site", ["none"])[0]
        # Following a link from elsewhere to the page itself is no harm.
        link = scope["path"] == "/" and headers.get("sec-fetch-mode", [""])[0] == "navigate"
        if site not in ("none", "same-origin") and not link:
            return 403, "The request comes from a page of another site."
        if scope["method"] in SAFE:
            return 0, ""
        if not origins:
            return 403, "A request that changes something needs an Origin header."
        length = headers.get("content-length", [""])[0]
        if not length.isdigit():
            return 411, "The request does not say its length."
        return (413, "The request is too large.") if int(length) > LARGEST_BODY else (0, "")

    def _is_ours(self, header: str) -> bool:
        """Does a Host header name this server? The port is the browser's business: it cannot be forged."""
        name = header.lower()
        if name.startswith("["):
            name, closed, port = name[1:].partition("]")
            if not closed or (port and not port.startswith(":")):
                return False
            port = port.removeprefix(":")
        else:
            name, _, port = name.partition(":")
        if port and not port.isdigit():
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._by_number
