"""Where the files of a mosaic lie in it: a folder or list of tiles, STAC items, a virtual raster of tiles."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelscape.grid import Window
from labelscape.scenes.files import is_local
from labelscape.scenes.placing import placed_on
from labelscape.scenes.scene import Part, Scene

FIRST_BAND = re.compile(r"<VRTRasterBand\b.*?</VRTRasterBand>", re.DOTALL)
SOURCE = re.compile(r"<SourceFilename\b[^>]*>([^<]+)</SourceFilename>.*?<DstRect\b([^>]*)/>", re.DOTALL)
SIDE = re.compile(r'\b(xOff|yOff|xSize|ySize)="([^"]+)"')
LONGEST = 2**26
"""Characters of a virtual raster that are looked through (ours): it has some hundred for each tile."""


class Piece(NamedTuple):
    """A file of a mosaic, as messages name it, and the window of the scene in which it lies."""

    title: str
    place: Window


def pieces_of(scene: Scene, most: int) -> list[Piece]:
    """At most `most` of the files that lie beside each other in a scene, spread evenly over them; none where
    it is one file or a stack of bands.
    """
    parts = scene.parts
    if len(parts) > 1:
        placed = (placed_on(part, scene.grid, scene.grid.window) for part in parts)
        found = [Piece(one.part.title, one.place) for one in placed if one.place.pixels]
    else:
        found = [tile for part in parts for tile in _tiles_of(part, scene)]
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[place] for place in places]


def _tiles_of(part: Part, scene: Scene) -> list[Piece]:
    """The tiles of a virtual raster that lie in the scene; none of another file, or in another CRS."""
    (file, *others) = part.files or ("",)
    if others or Path(file).suffix.lower() != ".vrt" or not is_local(file) or not os.path.isfile(file):
        return []
    with open(file, encoding="utf-8", errors="replace") as opened:
        band = FIRST_BAND.search(opened.read(LONGEST))
    if band is None or part.grid.crs != scene.grid.crs:
        return []
    own = ~scene.grid.transform @ part.grid.transform
    found = []
    for name, sides in SOURCE.findall(band[0]):
        side = {key: float(value) for key, value in SIDE.findall(sides)}
        if len(side) < 4:
            continue
        columns, rows = own @ (
            np.array([side["xOff"], side["xOff"] + side["xSize"]]),
            np.array([side["yOff"], side["yOff"] + side["ySize"]]),
        )
        (top, bottom), (left, right) = (
            sorted(np.rint(ends).astype(int).tolist()) for ends in (rows, columns)
        )
        found.append(Piece(name.strip(), Window(top, left, bottom - top, right - left) & scene.grid.window))
    return [piece for piece in found if piece.place.pixels]
