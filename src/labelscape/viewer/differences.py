"""Where two maps differ: a layer, and a list of the largest places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from labelscape.grid import Grid, Window, decimated
from labelscape.legend import IGNORE, Legend
from labelscape.viewer.layers import Layer, Pool

LOOKED = 1500
"""Side of the overviews that are compared for the list (ours)."""
MOST = 200
"""Places that are listed."""
MOST_CHECKED, CHECKED = 1000, 1_000_000
"""Places that are looked at in full resolution, and pixels of the largest of them (ours): a second or two."""
SAME, DIFFERENT = 0, 1


class DifferenceReader:
    """Two class maps as one: SAME or DIFFERENT, nothing where one of them has no class."""

    def __init__(self, first: Layer, second: Layer) -> None:
        self._layers = first, second

    def read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        one, two, differ = compared(*self._layers, window, shape)
        return differ.astype(np.uint8)[None], (one != IGNORE) & (two != IGNORE)

    def close(self) -> None:
        """The maps are closed as the layers that they are."""


def difference_layer(first: Layer, second: Layer) -> Layer:
    legend = Legend.of_names(("same class", "another class"), colors=((225, 225, 220), (200, 0, 140)))
    pool = Pool(lambda: DifferenceReader(first, second), lambda: (first.pool.stamp(), second.pool.stamp()))
    return Layer("differs", "classes", "Differences", pool, ("differs",), legend)


def differences(first: Layer, second: Layer, grid: Grid) -> list[dict[str, Any]]:
    """Where two maps have other classes (by name), as connected areas, the largest first, found in overviews
    of at most LOOKED pixels a side: smaller ones are not seen, and those of overviews alone are left out.
    """
    from scipy import ndimage

    shape = decimated(grid.shape, LOOKED)
    one, two, differ = compared(first, second, grid.window, shape)
    labels, count = ndimage.label(differ)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes, down, across = ndimage.find_objects(labels), grid.height / shape[0], grid.width / shape[1]
    items: list[dict[str, Any]] = []
    for place in np.argsort(-sizes, kind="stable")[:MOST_CHECKED].tolist():
        rows, columns = boxes[place]
        # The pair of classes that most of its pixels have.
        inside = labels[rows, columns] == place + 1
        pairs, counts = np.unique(
            np.stack([one[rows, columns][inside], two[rows, columns][inside]]), axis=1, return_counts=True
        )
        a, b = pairs[:, counts.argmax()].tolist()
        left, top, right, bottom = (
            columns.start * across, rows.start * down, columns.stop * across, rows.stop * down,
        )  # fmt: skip
        window = _pixels_of(left, top, right, bottom) & grid.window
        # Overviews that were made in other ways differ where the maps do not.
        checked = shape != grid.shape and window.pixels <= CHECKED
        if checked and not compared(first, second, window, window.shape)[2].any():
            continue
        items.append(
            {
                "id": len(items) + 1,
                "title": f"{first.legend.names[a]}, then {second.legend.names[b]}",
                "rings": [[[[left, top], [right, top], [right, bottom], [left, bottom]]]],
                "bounds": [left, top, right, bottom],
            }
        )
        if len(items) == MOST:
            break
    return items


def _pixels_of(left: float, top: float, right: float, bottom: float) -> Window:
    """All pixels of a rectangle, those on its edges included."""
    row, column = math.floor(top), math.floor(left)
    return Window(row, column, math.ceil(bottom) - row, math.ceil(right) - column)


def compared(first: Layer, second: Layer, window: Window, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Class indices of two maps (h, w) in a window, and where they differ: by name, since values may be
    others; nodata differs from nothing.
    """
    planes, names = [], []
    for layer in (first, second):
        values, valid = layer.read((0,), window, shape)
        planes.append(np.where(valid, layer.legend.indices(values[0]), IGNORE))
        names.append(np.array([*layer.legend.names, *[""] * (256 - len(layer.legend))], object))
    # Small numbers for names: arrays of texts are compared a hundred times slower.
    numbers = {name: i for i, name in enumerate(dict.fromkeys(n for both in names for n in both))}
    one, two = (np.array([numbers[n] for n in table])[plane] for table, plane in zip(names, planes))
    return planes[0], planes[1], (one != two) & (planes[0] != IGNORE) & (planes[1] != IGNORE)
