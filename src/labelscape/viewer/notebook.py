"""A map in a notebook: the viewer's page in a frame, served by a thread of the notebook's own process."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labelscape.errors import BadFile, BadOption
from labelscape.viewer.serve import address_of, check_installed, listening_at, settings_of

if TYPE_CHECKING:
    import uvicorn

    from labelscape.viewer.shown import Shown

HOST = "127.0.0.1"
HEIGHT = 560
"""Pixels of the frame: a map and its legend, without scrolling the notebook (ours)."""
STARTED = 30.0
"""Seconds in which a server's thread must answer."""

_RUNNING: dict[tuple[object, ...], MapView] = {}
"""Cells are run again and again: the same map is served once."""


class MapView:
    """A map that is served while this process runs, or until `close`. A notebook shows it as a frame.

    address  where any browser of this machine finds it, too
    """

    def __init__(self, shown: Shown, server: uvicorn.Server, address: str, height: int) -> None:
        self.address, self.height = address, height
        self._shown, self._server = shown, server
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = f"at {self.address}" if self.is_open else "closed"
        return f"<MapView {self._shown.title}: {state}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the page, in a frame."""
        if not self.is_open:
            return f"<p>{html.escape(repr(self))}</p>"
        title = html.escape(f"Map {self._shown.title}", quote=True)
        frame = f'<iframe src="{self.address}" title="{title}" width="100%" height="{self.height}"'
        return f'{frame} style="border:0"></iframe>'

    def __enter__(self) -> MapView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _open(self, listening: object) -> None:
        # A daemon: a notebook's kernel ends without waiting for its pages.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="labelscape-map", daemon=True
        )
        self._thread.start()
        until = time.monotonic() + STARTED
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        if not self._server.started:
            self.close()
            raise BadFile(f"The map's page could not be served at {self.address}.")

    def close(self) -> None:
        """Stop the server and close the map's files; frames that show it stay empty from then on."""
        if self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(STARTED)
        self._shown.close()


def show_map(
    place: str | Path,
    other: str | Path | None = None,
    *,
    scene: str | Path | Sequence[str | Path] | None = None,
    height: int = HEIGHT,
    port: int = 0,
) -> MapView:
    """Serve a map from this process and return at once, for notebooks: the value is shown as a frame.

    place, other, scene  as for `serve`
    height               of the frame in pixels
    port                 0: any that is free. Where the notebook runs on another machine the browser must
                         reach this port of it: `ssh -L PORT:127.0.0.1:PORT machine`

    The page is read-only, and pages of this machine alone may frame it. The same arguments give the same
    server again. Raises as `serve`, BadOption for a height below 100.
    """
    check_installed()
    if height < 100:
        raise BadOption(f"`height={height}` must be 100 pixels or more.")
    scenes = scene if scene is None or isinstance(scene, (str, Path)) else tuple(map(str, scene))
    key = (str(Path(place).absolute()), None if other is None else str(other), str(scenes), port)
    known = _RUNNING.get(key)
    if known is not None and known.is_open:
        known.height = height
        return known
    import uvicorn

    from labelscape.viewer.app import create_app
    from labelscape.viewer.shown import find

    shown = find(place, other, scenes)
    listening = listening_at(HOST, port)
    server = uvicorn.Server(settings_of(create_app(shown, framed=True)))
    view = MapView(shown, server, address_of(HOST, listening.getsockname()[1]), height)
    view._open(listening)
    _RUNNING[key] = view
    return view
