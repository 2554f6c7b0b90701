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
from labelscape.evaluation.sections import VIRIDIS
from labelscape.grid import Grid, Window
from labelscape.scenes.files import READ_FAILURES
from labelscape.scenes.scene import crs_text
from labelscape.version import __version__
from labelscape.viewer import tiles
from labelscape.viewer.correcting import add_corrections, corrections_of
from labelscape.viewer.geopackage import Changed
from labelscape.viewer.guard import Guard
from labelscape.viewer.judging import add_judging, judge_of
from labelscape.viewer.layers import Layer, version_of
from labelscape.viewer.pages import add_page
from labelscape.viewer.recolouring import add_recolouring, can_recolour
from labelscape.viewer.shown import Shown

Numbers = Annotated[str, Query(pattern=r"^\d{1,4}(,\d{1,4}){0,254}$")]
"""Whole numbers with commas between them."""
LARGEST = 3e38
PAGE = 86_400
"""Seconds that a tile may be kept: its address changes with its file."""


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
    corrections = corrections_of(shown, edit)
    _add_facts(app, shown, edit, corrections is not None)
    _add_tiles(app, shown)
    add_judging(app, shown, edit)
    add_corrections(app, corrections)
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
            "outlines": shown.outlines and version_of(shown.outlines.stamp()),
            "layers": [
                _layer_facts(layer) | {"recolour": edit and can_recolour(layer)} for layer in shown.layers
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
        layer = _known(shown, "scene")
        window = Window(top, left, height, width) & shown.grid.window
        if not window.pixels:
            raise HTTPException(404)
        return tiles.percentiles(layer, _bands(layer, bands), window)


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
    # In every address of its tiles: a browser asks again when the file has changed.
    facts["version"] = layer.version
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


def _known(shown: Shown, key: str) -> Layer:
    layer = shown.layer(key)
    if layer is None:
        raise HTTPException(404)
    return layer


def _bands(layer: Layer, text: str) -> tuple[int, ...]:
    found = tuple(int(one) for one in text.split(","))
    if not all(band < len(layer.bands) for band in found):
        raise HTTPException(404)
    return found


def _add_tiles(app: FastAPI, shown: Shown) -> None:
    kept = {"cache-control": f"private, max-age={PAGE}"}

    @app.get("/outlines/{level}/{column}/{row}.mvt")
    def outlines(level: int, column: int, row: int) -> Response:
        if shown.outlines is None or tiles.tile_window(shown.grid, level, column, row) is None:
            raise HTTPException(404)
        scale = 2 ** (tiles.levels(shown.grid) - level)
        side = tiles.SIDE * scale
        # Whole, also at the edge of the map: of polygons there may be more.
        tile = shown.outlines.tile(Window(row * side, column * side, side, side), scale)
        told = {**kept, "x-polygons-here": str(tile.here), "x-polygons-drawn": str(tile.drawn)}
        return Response(tile.data, media_type="application/vnd.mapbox-vector-tile", headers=told)

    @app.get("/tiles/{key}/{level}/{column}/{row}.png")
    def tile(
        key: str,
        level: int,
        column: int,
        row: int,
        bands: Numbers = "0",
        stretch: Annotated[str, Query(max_length=200)] = "",
        hide: Annotated[str, Query(pattern=r"^(\d{1,3}(,\d{1,3})*)?$", max_length=1100)] = "",
        colors: Annotated[str, Query(max_length=2800)] = "",
    ) -> Response:
        layer = _known(shown, key)
        place = tiles.tile_window(shown.grid, level, column, row)
        if place is None:
            raise HTTPException(404)
        chosen = _bands(layer, bands)
        if tiles.is_costly(layer, place[0]):
            picture = tiles.empty_tile()
        elif layer.kind == "classes":
            hidden = frozenset(int(v) for v in hide.split(",") if v)
            picture = tiles.class_tile(layer, place, hidden, tiles.colors_from(colors))
        elif layer.kind == "scene":
            picture = tiles.scene_tile(layer, place, chosen, _stretch(stretch, len(chosen)))
        else:
            picture = tiles.ramp_tile(layer, place, chosen[0])
        return Response(picture, media_type="image/png", headers=kept)


def _stretch(text: str, count: int) -> list[tuple[float, float]]:
    """`low,high` of each band, `;` between them, one for all."""
    try:
        pairs = [tuple(float(v) for v in one.split(",")) for one in text.split(";")]
    except ValueError as error:
        raise HTTPException(422) from error
    # Pixels are calculated in float32: larger numbers would be infinite. NaN is not below it either.
    good = all(len(pair) == 2 and all(abs(v) < LARGEST for v in pair) for pair in pairs)
    if not good or len(pairs) not in (1, count) or count != 3:
        raise HTTPException(422)
    return pairs * (count // len(pairs))
