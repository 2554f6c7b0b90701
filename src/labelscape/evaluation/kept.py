"""Classes of a whole scene while it is evaluated: in memory, of a large scene in a temporary file."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.files import cannot_write, temporary_folder
from labelscape.grid import Window
from labelscape.legend import IGNORE

IN_MEMORY = 1 << 26
"""Pixels up to which a scene's classes are kept in memory, not in a file."""


def zeros(shape: tuple[int, ...], file: Path) -> np.ndarray:
    """An array of bytes, all 0, whose last two dimensions are a scene's. What is never written takes neither
    memory nor disk; `file` is used for large scenes only, and is the caller's to remove. Raises BadFile where
    it cannot be written, MemoryError where the process may not have so much address space.
    """
    if math.prod(shape[-2:]) > IN_MEMORY:
        try:
            return np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            # Address space is limited (ulimit -v, batch systems): the command line has a sentence for that.
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise cannot_write(file, error) from error
    return np.zeros(shape, np.uint8)


class KeptClasses:
    """Follows an evaluation (`watch`) and keeps the classes of the scene that is being scored, for all who
    look at it as a whole when it is done: `array` (2, H, W) of truth and prediction, class index + 1, 0 for
    none. Watch with it before them: their scenes end first.
    """

    def __init__(self) -> None:
        self.array = np.zeros((2, 0, 0), np.uint8)

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Yields what is given every tile's window, truth and prediction."""
        whole = scene.scene.grid.window
        with temporary_folder() as folder:
            self.array = zeros((2, *whole.shape), folder / "classes")

            def see(window: Window, truth: np.ndarray, predicted: np.ndarray) -> None:
                if (truth != IGNORE).any():
                    inside = window.inset_of(whole)
                    # 255 + 1 is 0 in bytes.
                    self.array[(0, *inside)] = truth + np.uint8(1)
                    self.array[(1, *inside)] = predicted + np.uint8(1)

            yield see
            self.array = np.zeros((2, 0, 0), np.uint8)
