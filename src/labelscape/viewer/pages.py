"""The files that a page loads: our own modules, and Leaflet from its package."""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response

from labelscape.errors import BadFile

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
LEAFLET = {"leaflet.js": "leaflet-src.esm.js", "leaflet.css": "leaflet.css"}


def page_files() -> dict[str, Path]:
    """Name in an address -> file, for everything that the page loads. Raises BadFile without Leaflet."""
    spec = find_spec("xstatic.pkg.leaflet")
    if spec is None or spec.origin is None:
        raise BadFile("The viewer needs Leaflet: pip install 'labelscape[viewer]'.")
    leaflet = Path(spec.origin).parent / "data"
    own = Path(str(resources.files("labelscape.viewer") / "page"))
    files = {file.name: file for file in sorted(own.iterdir()) if file.suffix in TYPES}
    return files | {name: leaflet / file for name, file in LEAFLET.items()}


def add_page(app: FastAPI, first: str) -> None:
    """Serve the files of the page, `first` as the page itself."""
    files = page_files()

    @app.get("/")
    def page() -> Response:
        return _file(files[first])

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _file(files[name])


def _file(path: Path) -> Response:
    headers = {"cache-control": "no-cache"}
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=headers)
