"""Serve a map to the browser on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from labelscape.errors import BadFile, BadOption

if TYPE_CHECKING:
    import uvicorn

    from labelscape.viewer.guard import Guard

NEEDS = {"fastapi": "fastapi", "uvicorn": "uvicorn", "xstatic": "xstatic-leaflet"}
"""Module -> the package that holds it."""
PORT = 8765
MOST_CONNECTIONS = 500
"""Connections at a time; more are answered with 503."""


def serve(
    place: str | Path,
    other: str | Path | None = None,
    *,
    scene: str | Path | Sequence[str | Path] | None = None,
    judge: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    edit: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show a map in the browser until the process is interrupted.

    place  a folder of a map or of an evaluation (`evaluate --out`), or a class map (any GeoTIFF of
           classes); or the folder of a training run, whose loss and scores are then shown while it goes on
    other  another map to compare with; it is resampled where its grid is another
    scene  the imagery below the map; several files of one grid are a mosaic
    judge  a review file or a sample to answer in the page, which needs `edit`; or `blocks.gpkg` of an
           evaluation, whose worst blocks are shown one after the other
    host   where to listen; 127.0.0.1 can be reached from this machine alone
    port   0: any that is free
    edit   may the page write files into the map's folder?
    ready  called with the page's address when it can be opened

    Raises BadFile where a file cannot be read, the port is taken, or packages of the extra `viewer` are
    missing, BadInput where there is no map.
    """
    check_installed()
    import uvicorn

    from labelscape.viewer.app import create_app
    from labelscape.viewer.geopackage import recover
    from labelscape.viewer.shown import find
    from labelscape.viewer.training import is_run
    from labelscape.viewer.watch import create_watch

    watched = is_run(place)
    if edit and judge is not None:
        recover(Path(judge))
    shown = None if watched else find(place, other, scene, judge)
    app = create_app(shown, host=host, edit=edit) if shown else create_watch(Path(place), host=host)
    listening = listening_at(host, port)
    if ready is not None:
        ready(address_of(host, listening.getsockname()[1]))
    try:
        uvicorn.Server(settings_of(app)).run(sockets=[listening])
    finally:
        listening.close()
        if shown is not None:
            shown.close()


def settings_of(app: Guard) -> uvicorn.Config:
    """How every page is served."""
    import uvicorn

    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        limit_concurrency=MOST_CONNECTIONS,
        server_header=False,
        # Behind no proxy: a header that says where a request comes from is not believed.
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises BadOption for a port that is none, BadFile for one that is
    taken.
    """
    if not 0 <= port <= 65_535:
        raise BadOption(f"`port={port}` must be a number from 0 to 65535.")
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        # From here on a browser that comes before the server has started waits, and is not refused.
        made.listen(MOST_CONNECTIONS)
    except OSError as error:
        made.close()
        raise BadFile(
            f"{host}:{port} cannot be listened at ({(error.strerror or str(error)).lower()}); choose another "
            "`port`, or 0 for any that is free."
        ) from error
    return made


def address_of(host: str, port: int) -> str:
    """The page's address. A server that listens everywhere is opened here."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def check_installed() -> None:
    """Raises BadFile, with the command that installs it, where a package of the viewer is missing."""
    missing = [package for module, package in NEEDS.items() if find_spec(module) is None]
    if missing:
        raise BadFile(
            f"The viewer needs packages that are not installed ({', '.join(missing)}): pip install "
            "'labelscape[viewer]'."
        )
