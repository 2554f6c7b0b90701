"""The server's address for colours of classes that are stored in the map's file, only with --edit."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from labelscape.legend import Legend
from labelscape.rasters.colour_table import colour_tables, recolour
from labelscape.viewer.geopackage import Changed
from labelscape.viewer.layers import Layer
from labelscape.viewer.shown import Shown

Shade = Annotated[int, Field(ge=0, le=255)]


class Colour(BaseModel):
    """A class by its value, its new colour, and the one that the page showed before."""

    model_config = ConfigDict(extra="forbid")

    value: Annotated[int, Field(ge=0, le=254)]
    color: tuple[Shade, Shade, Shade]
    before: tuple[Shade, Shade, Shade]


class Colours(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colors: Annotated[list[Colour], Field(min_length=1, max_length=255)]


def can_recolour(layer: Layer) -> bool:
    """Can the colours of a layer be stored in its file? Those of a second map, shown beside, are not."""
    own = layer.kind == "classes" and not layer.key.startswith("2-") and layer.path is not None
    return own and not layer.path.is_symlink() and bool(colour_tables(layer.path))


def add_recolouring(app: FastAPI, shown: Shown, edit: bool) -> None:
    if not edit:
        return

    @app.post("/api/colors/{key}")
    def store(key: str, told: Colours) -> dict[str, Any]:
        layer = shown.layer(key)
        if layer is None or layer.legend is None or not can_recolour(layer):
            raise HTTPException(404)
        colors = {one.value: one.color for one in told.colors}
        if not colors.keys() <= set(layer.legend.values):
            raise HTTPException(422)
        now = recolour(layer.path, colors, before={one.value: one.before for one in told.colors})
        classes = tuple(replace(one, color=now[one.value]) for one in layer.legend.classes)
        shown.recolour(key, Legend(classes))
        # Addresses of tiles hold the version: those that the browser keeps have the colours of before.
        version = shown.version(shown.layer(key))
        answer = {"colors": {one.value: list(one.color) for one in classes}, "version": version}
        if any(now[value] != color for value, color in colors.items()):
            raise Changed(answer)
        return answer
