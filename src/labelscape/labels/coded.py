"""Label files that encode classes in their own way: other values, colours, or a format that GDAL cannot read.

A `Code` is the table of values or colours; `CodedLabels` reads files with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp

from labelscape.errors import BadInput
from labelscape.grid import Grid, Window
from labelscape.labels.base import Labels
from labelscape.legend import IGNORE, RGB, Legend
from labelscape.scenes.files import reading
from labelscape.scenes.validity import bands_and_validity

Reader = Callable[[Path], np.ndarray]
"""Reads a label file that GDAL cannot read: (H, W) raw values."""


@dataclass(frozen=True)
class Code:
    """How label files encode classes.

    table      raw value, or colour (red, green, blue), -> class index; IGNORE for unlabelled
    threshold  before the table is used, every channel becomes 255 from this value on and 0 below: for colours
               that lossy compression has changed
    refuse     whether a value or colour that is not in the table is an error; else such pixels are unlabelled
    """

    table: Mapping[int, int] | Mapping[RGB, int]
    threshold: int | None = None
    refuse: bool = True

    @cached_property
    def by_color(self) -> bool:
        return isinstance(next(iter(self.table)), tuple)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        packed = {
            _packed_color(key) if self.by_color else int(key): index for key, index in self.table.items()
        }
        keys = np.array(sorted(packed), np.int64)
        return keys, np.array([packed[key] for key in keys.tolist()], np.uint8)

    def encode(self, raw: np.ndarray, where: str = "the labels") -> np.ndarray:
        """Raw values (H, W), or colours (3, H, W), -> (H, W) uint8 class indices. Raises BadInput listing
        values or colours without a class.
        """
        # Before the look-up: lossy compression leaves (254, 1, 3) where (255, 0, 0) was drawn.
        if self.threshold is not None:
            raw = np.where(raw >= self.threshold, np.uint8(255), np.uint8(0))
        if self.by_color:
            # (3, H, W) -> (H, W): three bytes in one number, so that colours are looked up like values.
            raw = (raw[0].astype(np.int32) << 16) | (raw[1].astype(np.int32) << 8) | raw[2]
        keys, indices = self._sorted
        # Colours have 2^24 possible values: a binary search in the few known ones instead of a lookup table.
        places = np.minimum(np.searchsorted(keys, raw), len(keys) - 1)
        known = keys[places] == raw
        if self.refuse and not known.all():
            strange, pixels = np.unique(raw[~known], return_counts=True)
            # The most frequent: single odd pixels say nothing about what file this is.
            most = strange[pixels.argsort()[::-1][:4]].tolist()
            said = ", ".join(str(_unpacked(v)) if self.by_color else str(v) for v in most)
            known_ones = ", ".join(str(key) for key in list(self.table)[:12])
            raise BadInput(
                f"{where} has {'colours' if self.by_color else 'values'} without a class: {said} "
                f"({len(strange)} different ones, {int(pixels.sum())} pixels; known: "
                f"{known_ones}{' ...' * (len(self.table) > 12)}). Is this the right file?"
            )
        return np.where(known, indices[places], np.uint8(IGNORE))


class CodedLabels(Labels):
    """A label file read with a `Code`, pixel for pixel. It is opened and closed at each read: data sets have
    thousands of files, more than a process may keep open.
    """

    def __init__(
        self,
        legend: Legend,
        file: Path,
        code: Code,
        grid: Callable[[], Grid],
        *,
        padded: bool = False,
        reader: Reader | None = None,
    ) -> None:
        """`grid` returns the scene's grid when it is first needed; `padded` allows the file to be smaller by
        up to two rows or columns (unlabelled).
        """
        self.legend, self.report, self.file, self.code = legend, [], file, code
        self.files = (str(file),)
        self._grid_of, self._padded, self._reader = grid, padded, reader
        self._area, self._held = None, None

    @cached_property
    def grid(self) -> Grid:
        return self._grid_of()

    def _read(self, window: Window) -> np.ndarray:
        raw, shape = self._raw(window)
        height, width = self.grid.shape
        if shape != (height, width) and not (
            self._padded and 0 <= height - shape[0] <= 2 and 0 <= width - shape[1] <= 2
        ):
            raise BadInput(
                f"{self.file} is {shape[1]} x {shape[0]} pixels, but its image is {width} x {height}: labels "
                "and image must have the same size."
            )
        indices = self.code.encode(raw, str(self.file))
        # Rows or columns that the label file lacks at its lower and right end are unlabelled.
        missing = [(0, window.height - indices.shape[0]), (0, window.width - indices.shape[1])]
        return np.pad(indices, missing, constant_values=IGNORE)

    def _raw(self, window: Window) -> tuple[np.ndarray, tuple[int, int]]:
        """Raw values (h, w) or colours (3, h, w) where the window overlaps the file, and the file's shape."""
        if self._reader is not None:
            # Such formats cannot be read by windows: the whole file is decoded for each.
            whole = self._reader(self.file)
            return whole[window.top : window.bottom, window.left : window.right], whole.shape
        with reading(self.file) as dataset:
            mine = window & Window(0, 0, dataset.height, dataset.width)
            return self._of_dataset(dataset, mine), dataset.shape

    def _of_dataset(self, dataset: object, window: Window) -> np.ndarray:
        colors = bands_and_validity(dataset, alpha="mask").bands
        # Colours stored through a palette, as PNG tools do to save space, are the same colours.
        if self.code.by_color and len(colors) == 1 and dataset.colorinterp[0] == ColorInterp.palette:
            palette = np.zeros((256, 3), np.uint8)
            for value, color in dataset.colormap(1).items():
                palette[value] = color[:3]
            # (h, w, 3) -> (3, h, w), the order of `encode`.
            return palette[dataset.read(1, window=window.rio)].transpose(2, 0, 1)
        if self.code.by_color and len(colors) < 3:
            raise BadInput(
                f"{self.file} has {len(colors)} band{'s' * (len(colors) != 1)}; classes encoded as "
                "colours need red, green and blue."
            )
        if self.code.by_color:
            # Without alpha: of four bands the last may be one, which is no part of the colour.
            return dataset.read(list(colors[:3]), window=window.rio)
        # Masks saved as RGB have three equal bands; with a threshold the first will do.
        if len(colors) > 1 and self.code.threshold is None:
            raise BadInput(f"{self.file} has {len(colors)} bands; one band of class values was expected.")
        return dataset.read(1, window=window.rio)


class NoLabels(Labels):
    """A scene without labels: 255 everywhere."""

    def __init__(self, legend: Legend, grid: Callable[[], Grid]) -> None:
        self.legend, self.report, self._grid_of = legend, [], grid
        self._area, self._held = None, None

    @cached_property
    def grid(self) -> Grid:
        return self._grid_of()

    def _read(self, window: Window) -> np.ndarray:
        return np.full(window.shape, IGNORE, np.uint8)


def _packed_color(color: RGB) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]


def _unpacked(value: int) -> RGB:
    return value >> 16, value >> 8 & 255, value & 255
