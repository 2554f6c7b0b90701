"""The files that a page loads: our own modules, and Leaflet from its package."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fastapi import FastAPI, HTTPException, Request, Response

from labelscape.errors import BadFile

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
PAGES = {"Map": ("index.html", "main.js"), "Training": ("training.html", "training.js")}
"""Title of a page -> its body, and the module that brings it to life."""
FRESH = {"cache-control": "no-cache"}
"""A page of another version of the software is not what the browser kept."""
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


def add_page(app: FastAPI, title: str) -> None:
    """Serve one of PAGES, and the files that it loads."""
    files = page_files()
    body, script = PAGES[title]
    head = Template(files["head.html"].read_text("utf-8"))
    # A browser finds a module's own imports only when it has read it: three rounds of requests, not one.
    modules = "\n".join(
        f'<link rel="modulepreload" href="static/{name}">' for name in _imported(script, files)
    )
    text = files[body].read_text("utf-8")
    whole = head.substitute(title=title, script=script, modules=modules, body=text)

    @app.get("/")
    def page() -> Response:
        return Response(whole, media_type=TYPES[".html"], headers=FRESH)

    @app.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        # The parts of the page are none of the files that it loads.
        if name not in files or name.endswith(".html"):
            raise HTTPException(404)
        return _file(files[name], request.headers.get("if-none-match"))


def _imported(script: str, files: dict[str, Path]) -> list[str]:
    """The modules that a module imports, and those that they import."""
    found = [script]
    for name in found:
        for one in re.findall(
            r'^import .* from "\./([\w-]+\.js)";$', files[name].read_text("utf-8"), re.MULTILINE
        ):
            if one not in found:
                found.append(one)
    return found[1:]


def _file(path: Path, known: str | None) -> Response:
    """A file, or that it is the `known` one: a browser then also keeps the code that it made of a module."""
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    if known == tag:
        return Response(status_code=304, headers=FRESH | {"etag": tag})
    return Response(data, media_type=TYPES[path.suffix], headers=FRESH | {"etag": tag})
