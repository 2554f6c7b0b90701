"""Class maps, and interpreters who answer a sample of them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import world

from labelscape.assessment.points import read_design
from labelscape.grid import Grid
from labelscape.legend import Legend
from labelscape.rasters.write import MapWriter


def class_map(
    path: Path, values: np.ndarray, *, legend: Legend = world.LEGEND, crs=world.UTM, transform=world.NORTH_UP
) -> Path:
    grid = Grid(crs, transform, *values.shape)
    with MapWriter(path, grid, 1, 255, legend=legend, overwrite=True) as writer:
        writer.write(grid.window, values.astype(np.uint8))
    return path


def edit(path: Path, statement: str, rows: Iterable[tuple] = ((),)) -> None:
    """Change a sample as QGIS does, by SQL."""
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        # The triggers of the spatial index ask for functions that GDAL and QGIS bring along.
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{name}"')
        base.executemany(statement, rows)


def answer(path: Path, ground: np.ndarray | Callable[[int, int], int | None]) -> Path:
    """Fill in the class value of each point, from an array or a function of row and column; None for none."""
    design = read_design(path)
    read = ground if callable(ground) else lambda row, column: int(ground[row, column])
    places = zip(design.rows.tolist(), design.columns.tolist())
    rows = [(read(*place), number) for number, place in enumerate(places, start=1)]
    edit(path, "UPDATE points SET reference = ? WHERE point = ?", rows)
    return path
