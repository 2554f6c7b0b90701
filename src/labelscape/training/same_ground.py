"""Which files and scenes of a training show the ground of others, and where in them a place lies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from labelscape.crs import Unrelated, bounds_in, transformed
from labelscape.datasets.own import LabelledScene
from labelscape.errors import LabelscapeError
from labelscape.grid import Grid, Window
from labelscape.scenes.files import is_local, reading
from labelscape.training.recipe_data import Data

TILE = 256
"""Side of the windows of training labels that single places are read in."""
RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".jpg", ".jpeg", ".png")
"""Files of a folder that may be a training scene."""

Box = tuple[float, float, float, float]


def given_files(data: Data) -> Iterator[Path]:
    """Local files and folders of the training scenes, as the recipe names them."""
    for image in data.images:
        for path in [image] if isinstance(image, str) else image:
            if is_local(path):
                yield Path(path).absolute()


def all_files(data: Data) -> Iterator[Path]:
    """Every local file that may belong to a training scene."""
    for path in given_files(data):
        if path.is_dir():
            for folder, below, names in os.walk(path):
                below.sort()  # the disk lists them in any order
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield path


def is_near(grids: Sequence[Grid], data: Data) -> bool:
    """Does a training scene show some of the ground of these grids? By the headers of its files."""
    boxes = [box for grid in grids if (box := _box(grid)) is not None]
    if not boxes:
        return False
    for file in all_files(data):
        if file.suffix.lower() not in RASTERS:
            continue
        try:
            with reading(file) as opened:
                own = _box(Grid(opened.crs, opened.transform, opened.height, opened.width))
        except LabelscapeError:
            continue  # no raster: not a scene
        if own is not None and any(_meet(own, box) for box in boxes):
            return True
    return False


def around(grid: Grid, scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """The scenes that show some of the ground of a grid."""
    box = _box(grid)
    if box is None:
        return []
    return [one for one in scenes if (own := _box(one.scene.grid)) is not None and _meet(own, box)]


def _box(grid: Grid) -> Box | None:
    """Bounds in degrees; None where it is not known where on Earth the pixels lie."""
    if not grid.is_on_earth:
        return None
    try:
        return bounds_in(grid.bounds_of(grid.window), grid.crs)
    except Unrelated:
        return None


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def pixels_under(
    grid: Grid, rows: np.ndarray, columns: np.ndarray, theirs: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (N,) in another grid of the pixel under the centre of each pixel of `grid`; outside it
    where there is none. Raises Unrelated where the two CRSs cannot be related.
    """
    x, y = grid.transform @ (columns + 0.5, rows + 0.5)
    there = ~theirs.transform @ transformed(x, y, grid.crs, theirs.crs)
    # Places without coordinates there are infinite, which is no whole number.
    column, row = (np.floor(np.nan_to_num(v, nan=-1, posinf=-1, neginf=-1)).astype(int) for v in there)
    return row, column


def tiles_of(grid: Grid, rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows of a grid with the indices of the places (N,) that lie in each. Places outside the grid are in
    none.
    """
    inside = (rows >= 0) & (columns >= 0) & (rows < grid.height) & (columns < grid.width)
    # Read by the tile, once for all places in it: the scene may have far smaller pixels than the map.
    across = grid.width // TILE + 1
    tile = rows // TILE * across + columns // TILE
    for one in np.unique(tile[inside]):
        down, right = divmod(int(one), across)
        window = Window(down * TILE, right * TILE, TILE, TILE) & grid.window
        yield window, np.flatnonzero(inside & (tile == one))
