"""The server's addresses for tiles: pictures of rasters, and polygons as vector tiles."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response

from labelscape.grid import Window
from labelscape.viewer import tiles
from labelscape.viewer.layers import Layer
from labelscape.viewer.making import Kept, Turns
from labelscape.viewer.shown import Shown

Numbers = Annotated[str, Query(pattern=r"^\d{1,4}(,\d{1,4}){0,254}$")]
"""Whole numbers with commas between them."""
LARGEST = 3e38
HEADERS = {"cache-control": "private, max-age=86400, immutable"}
"""A browser may keep a tile for a day: its address changes with its picture (`Shown.version`)."""
RASTERS_AT_ONCE = 16
"""Tiles of rasters made at a time (ours): files on a server elsewhere are mostly waited for."""
MOST_KEPT = 64_000_000
"""Bytes of polygon tiles that are kept (ours), a thousand and more. Tiles of rasters are not: one is made as
fast as it is sent.
"""


def add_tiles(app: FastAPI, shown: Shown) -> None:
    """Serve the tiles of all layers and of the polygons."""
    _add_rasters(app, shown)
    # Making polygon tiles keeps a processor busy: more at a time would not be ready sooner.
    turns, kept = Turns(os.cpu_count() or 1), Kept(MOST_KEPT)

    @app.get("/outlines/{level}/{column}/{row}.mvt")
    async def outlines(request: Request, level: int, column: int, row: int) -> Response:
        if shown.outlines is None or tiles.tile_window(shown.grid, level, column, row) is None:
            raise HTTPException(404)

        def make() -> Response:
            # By what the file is now, not by what the address says it was.
            key = shown.version(shown.outlines), level, column, row
            return kept.get(key, lambda: _outline_tile(shown, level, column, row))

        return await turns.answer(request, make)


def _outline_tile(shown: Shown, level: int, column: int, row: int) -> Response:
    scale = 2 ** (tiles.levels(shown.grid) - level)
    side = tiles.SIDE * scale
    # Whole, also at the edge of the map: of polygons there may be more.
    tile = shown.outlines.tile(Window(row * side, column * side, side, side), scale)
    counts = {"x-polygons-here": str(tile.here), "x-polygons-drawn": str(tile.drawn)}
    return Response(tile.data, media_type="application/vnd.mapbox-vector-tile", headers=HEADERS | counts)


def _add_rasters(app: FastAPI, shown: Shown) -> None:
    turns = Turns(RASTERS_AT_ONCE)

    @app.get("/tiles/{key}/{level}/{column}/{row}.png")
    async def tile(
        request: Request,
        key: str,
        level: int,
        column: int,
        row: int,
        bands: Numbers = "0",
        stretch: Annotated[str, Query(max_length=200)] = "",
        hide: Annotated[str, Query(pattern=r"^(\d{1,3}(,\d{1,3})*)?$", max_length=1100)] = "",
        colors: Annotated[str, Query(max_length=2800)] = "",
    ) -> Response:
        layer = known_layer(shown, key)
        place = tiles.tile_window(shown.grid, level, column, row)
        if place is None:
            raise HTTPException(404)
        chosen = bands_of(layer, bands)

        def make() -> Response:
            if tiles.is_costly(layer, place[0]):
                picture = tiles.empty_tile()
            elif layer.kind == "classes":
                hidden = frozenset(int(v) for v in hide.split(",") if v)
                picture = tiles.class_tile(layer, place, hidden, tiles.colors_from(colors))
            elif layer.kind == "scene":
                picture = tiles.scene_tile(layer, place, chosen, _stretch(stretch, len(chosen)))
            else:
                picture = tiles.ramp_tile(layer, place, chosen[0])
            return Response(picture, media_type="image/png", headers=HEADERS)

        return await turns.answer(request, make)


def known_layer(shown: Shown, key: str) -> Layer:
    """A layer by its key in an address; 404 without one."""
    layer = shown.layer(key)
    if layer is None:
        raise HTTPException(404)
    return layer


def bands_of(layer: Layer, text: str) -> tuple[int, ...]:
    """Positions of bands, `0,1,2`; 404 where the layer has fewer."""
    found = tuple(int(one) for one in text.split(","))
    if not all(band < len(layer.bands) for band in found):
        raise HTTPException(404)
    return found


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
