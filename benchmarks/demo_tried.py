"""What was tried for the demo's recipe and not taken, for `demo_folds.py`: things that no setting of a recipe
does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import rasterio
import torch.nn.functional as F
from scipy.ndimage import binary_erosion
from torch import Tensor

from labelscape.datasets.labelled import LabelledScene
from labelscape.demo import demo_data
from labelscape.grid import Window
from labelscape.legend import IGNORE
from labelscape.scenes.raster import Scene
from labelscape.training.data import open_recipe_data
from labelscape.training.losses import LOSSES, labelled_pixels
from labelscape.training.recipe_data import make_data

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
INDICES = {
    "NDVI": ("B08", "B04"),  # plants
    "NDWI": ("B03", "B08"),  # open water
    "NDMI": ("B8A", "B11"),  # moisture of plants
    "NDRE": ("B8A", "B05"),  # chlorophyll
}
"""Normalised differences (a - b) / (a + b) of two bands."""


@contextmanager
def eroded(pixels: int) -> Iterator[None]:
    """Inside, nothing is learned from labels within so many pixels of another class or of none."""
    read, kept = LabelledScene.read_labels, {}

    def without_borders(self: LabelledScene, window: Window, part: str | None = None) -> np.ndarray:
        found = read(self, window, part)
        if not pixels or part != "train":
            return found
        if "inside" not in kept:
            whole = read(self, self.scene.grid.window)
            square = np.ones((3, 3))
            inside = [
                binary_erosion(whole == k, square, iterations=pixels, border_value=1)
                for k in range(len(self.labels.legend))
            ]
            kept["inside"] = np.logical_or.reduce(inside)
        scene = self.scene.grid.window
        own = np.zeros(window.shape, bool)  # a window may reach over the scene's edge
        there = window & scene
        own[there.inset_of(window)] = kept["inside"][there.inset_of(scene)]
        return np.where(own, found, np.uint8(IGNORE))

    with patch.object(LabelledScene, "read_labels", without_borders):
        yield


@contextmanager
def smoothed(share: float) -> Iterator[None]:
    """Inside, cross-entropy has this share of label smoothing (Szegedy et al. 2016)."""

    def loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        predicted, truth = labelled_pixels(logits, labels)
        if not len(truth):
            return predicted.sum()
        return F.cross_entropy(predicted, truth, weights, label_smoothing=share)

    with patch.dict(LOSSES, {"cross-entropy": loss} if share else {}):
        yield


def indices_file(folder: Path) -> Path:
    """A raster of the demo's scene with all bands that see the ground, and the normalised differences,
    written into the folder unless it is there.
    """
    path = folder / "indices.tif"
    if path.exists():
        return path
    with open_recipe_data(make_data({**demo_data(), "bands": BANDS}), 0) as dataset:
        scene: Scene = dataset.scenes[0].scene
        pixels = scene.read(scene.grid.window).pixels.astype(np.float32)
        bands = dict(zip(BANDS, pixels, strict=True))
        for name, (one, other) in INDICES.items():
            bands[name] = (bands[one] - bands[other]) / np.maximum(bands[one] + bands[other], 1)
        height, width = scene.grid.shape
        profile = {"driver": "GTiff", "dtype": "float32", "count": len(bands), "crs": scene.grid.crs}
        with rasterio.open(
            path, "w", height=height, width=width, transform=scene.grid.transform, **profile
        ) as file:
            for number, (name, values) in enumerate(bands.items(), start=1):
                file.write(values, number)
                file.set_band_description(number, name)
    return path
