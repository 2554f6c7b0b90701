"""The server's addresses for corrections: polygons drawn, changed and deleted, only with --edit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from labelscape.viewer.corrections import LARGEST, MOST_CORNERS, Corrections
from labelscape.viewer.judging import Name
from labelscape.viewer.shown import Shown


class Drawn(BaseModel):
    """A polygon by its corners (column, row), in pixels."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(alias="class", max_length=1000)]
    ring: Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(max_length=MOST_CORNERS)]


Number = Annotated[int, Path(ge=0, le=LARGEST)]


class Recoded(BaseModel):
    """Another class for a polygon, None to delete it, and the class that the page showed."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(alias="class")
    before: Name


def corrections_of(shown: Shown) -> Corrections | None:
    """The corrections that a page with --edit may write; None where the map is not shown."""
    layer = shown.layer("class")
    if layer is None or layer.legend is None:
        return None
    return Corrections.beside(shown.folder, shown.grid, layer.legend)


def add_corrections(app: FastAPI, found: Corrections | None) -> None:
    if found is None:
        return

    @app.get("/api/corrections")
    def items() -> list[dict[str, Any]]:
        return found.items()

    @app.post("/api/corrections")
    def add(drawn: Drawn) -> dict[str, Any]:
        return found.add(drawn.name, drawn.ring)

    @app.post("/api/corrections/{number}")
    def change(number: Number, recoded: Recoded) -> dict[str, Any]:
        found.change(number, recoded.name, recoded.before)
        return {"id": number, "class": recoded.name}
