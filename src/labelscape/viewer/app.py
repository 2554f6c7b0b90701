"""The server's addresses. No address holds a path: layers and pages are known by name alone, so that there is
nothing to climb out of.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from labelscape.crs import Unrelated, transformed
from labelscape.errors import BadFile, LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.legend import VIRIDIS
from labelscape.scenes.files import READ_FAILURES
from labelscape.scenes.scene import crs_text
from labelscape.version import __version__
from labelscape.viewer import tiles
from labelscape.viewer.geopackage import Changed
from labelscape.viewer.guard import Guard
from labelscape.viewer.judging import add_judging, judge_of
from labelscape.viewer.layers import Layer
from labelscape.viewer.pages import add_page
from labelscape.viewer.recolouring import add_recolouring, can_recolour
from labelscape.viewer.shown import Shown
from labelscape.viewer.tiling import Numbers, add_tiles, bands_of, known_layer


def create_app(shown: Shown, *, host: str = "127.0.0.1", edit: bool = False, framed: bool = False) -> Guard:
    """The server of a page, as an ASGI application; `host` is where it will listen, `framed` lets notebooks
    show it in a frame.
    """
    # No pages about the addresses: they would be loaded from a server elsewhere.
    app = FastAPI(title="Labelscape", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(LabelscapeError, _say)
    app.add_exception_handler(RequestValidationError, _refuse)
    for failure in READ_FAILURES:
        app.add_exception_handler(failure, _say)
    add_page(app, "Map")
    corrections = None
    if edit:
        # Its import of shapely takes a time that a page which only shows has not.
        from labelscape.viewer.correcting import add_corrections, corrections_of

        corrections = corrections_of(shown)
        add_corrections(app, corrections)
    _add_facts(app, shown, edit, corrections is not None)
    add_tiles(app, shown)
    add_judging(app, shown, edit)
    add_recolouring(app, shown, edit)
    app.add_exception_handler(Changed, _conflict)
    return Guard(app, host=host, framed=framed)


async def _say(_: Request, error: Exception) -> Response:
    """An error as a sentence, which the page shows."""
    return JSONResponse({"error": str(error)}, status_code=500 if isinstance(error, BadFile) else 422)


async def _refuse(_: Request, error: RequestValidationError) -> Response:
    """A request of another shape. Its values are not sent back: NaN is no JSON, others have any size."""
    where = {".".join(map(str, one["loc"]))[:100]: one["msg"] for one in error.errors()[:5]}
    said = "; ".join(f"{place}: {why}" for place, why in where.items())
    return JSONResponse({"error": f"The request is not understood: {said}."}, status_code=422)


async def _conflict(_: Request, error: Changed) -> Response:
    return JSONResponse({"error": str(error), "now": error.now}, status_code=409)


def _add_facts(app: FastAPI, shown: Shown, edit: bool, correct: bool) -> None:
    @app.get("/api/map")
    def facts() -> dict[str, Any]:
        grid = shown.grid
        return {
            "title": shown.title,
            "width": grid.width,
            "height": grid.height,
            "levels": tiles.levels(grid),
            "crs": crs_text(grid),
            "metres": grid.ground_pixel_size,
            "digits": _digits(grid),
            "edit": edit,
            "north": _north(grid),
            "correct": correct,
            "ramp": [list(color) for color in VIRIDIS],
            "notes": list(shown.notes),
            "judge": judge_of(shown),
            "outlines": shown.outlines and shown.version(shown.outlines),
            "layers": [
                _layer_facts(layer)
                # In every address of its tiles: a browser asks again when they are others.
                | {"version": shown.version(layer), "recolour": edit and can_recolour(layer)}
                for layer in shown.layers
            ],
        }

    @app.get("/api/point")
    def point(row: Annotated[int, Query(ge=0)], column: Annotated[int, Query(ge=0)]) -> dict[str, Any]:
        if row >= shown.grid.height or column >= shown.grid.width:
            raise HTTPException(404)
        values = {layer.key: tiles.values_at(layer, row, column) for layer in shown.layers}
        polygon = shown.outlines and shown.outlines.at(row, column)
        place = _place(shown, row, column)
        return {"row": row, "column": column, **place, "values": values, "polygon": polygon}

    @app.get("/api/stretch")
    def stretch(
        bands: Numbers,
        top: Annotated[int, Query(ge=0)] = 0,
        left: Annotated[int, Query(ge=0)] = 0,
        height: Annotated[int, Query(ge=1)] = 2**31,
        width: Annotated[int, Query(ge=1)] = 2**31,
    ) -> list[tuple[float, float]]:
        layer = known_layer(shown, "scene")
        window = Window(top, left, height, width) & shown.grid.window
        if not window.pixels:
            raise HTTPException(404)
        return tiles.percentiles(layer, bands_of(layer, bands), window)


def _north(grid: Grid) -> float | None:
    """Where the CRS has its north, in degrees clockwise from the upper edge; None without coordinates."""
    if not grid.is_georeferenced:
        return None
    back = ~grid.transform
    return math.degrees(math.atan2(back.b, -back.e))


def _digits(grid: Grid) -> int:
    """Decimals of coordinates in the map's CRS, down to a hundredth of a pixel: degrees need more of them."""
    return max(0, min(12, 2 - math.floor(math.log10(abs(grid.transform.determinant) ** 0.5))))


def _layer_facts(layer: Layer) -> dict[str, Any]:
    facts = {"key": layer.key, "kind": layer.kind, "title": layer.title, "bands": list(layer.bands)}
    facts |= {"top": layer.top, "unit": layer.unit, "usual": list(layer.usual), "exact": layer.exact}
    if layer.legend is not None:
        areas = layer.areas or [(None, None)] * len(layer.legend)
        facts["classes"] = [
            {"value": one.value, "name": one.name, "color": list(one.color), "pixels": p, "hectares": h}
            for one, (p, h) in zip(layer.legend.classes, areas)
        ]
    return facts


def _place(shown: Shown, row: int, column: int) -> dict[str, Any]:
    """Coordinates of a pixel's centre, in the map's CRS and as longitude and latitude."""
    grid = shown.grid
    if not grid.is_georeferenced:
        return {"xy": None, "lonlat": None}
    x, y = grid.transform @ (column + 0.5, row + 0.5)
    try:
        lon, lat = (float(v) for v in transformed(np.array(x), np.array(y), grid.crs))
    except Unrelated:
        return {"xy": [x, y], "lonlat": None}
    return {"xy": [x, y], "lonlat": [lon, lat] if np.isfinite([lon, lat]).all() else None}
