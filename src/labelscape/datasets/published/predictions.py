"""Predictions in the data set's own label format, ready for submission to its benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labelscape.datasets.published.cityscapes import LABEL_IDS
from labelscape.datasets.published.layout import Pair, Published
from labelscape.files import written_whole
from labelscape.grid import Grid
from labelscape.legend import IGNORE
from labelscape.scenes.written import Piece, write_raster

ASKED_FOR = {"cityscapes": LABEL_IDS, "loveda": tuple(range(7))}
"""Values by class where the benchmark's differ from those of label files: Cityscapes wants label ids even
where train ids were read; LoveDA counts from 0, its label files from 1.
"""


def file_name(pair: Pair) -> str:
    """The name of the label file; where no label was published, the one that the benchmark asks for, or that
    of the image. PNG where that is not a lossless format.
    """
    file = pair.label.name if pair.label else pair.asked
    name = Path(file or pair.name)
    return name.name if name.suffix.lower() in (".png", ".tif") else f"{name.stem if file else name}.png"


def as_published(found: Published, indices: np.ndarray) -> np.ndarray:
    """Class indices (H, W) -> (1, H, W) values or (3, H, W) colours, uint8, as in label files; unlabelled
    pixels become 0.
    """
    # Several values may mean one class; reversed, the first in the table wins.
    known = {index: key for key, index in reversed(found.code.table.items()) if index != IGNORE}
    # After the table's own, which these replace.
    known |= dict(enumerate(ASKED_FOR.get(found.name, ())))
    values = np.array([known[index] for index in range(len(found.legend))], np.uint8).reshape(
        len(found.legend), -1
    )
    table = np.zeros((256, values.shape[1]), np.uint8)
    table[: len(values)] = values
    # (H, W, values) -> (values, H, W), the order in which GDAL writes bands.
    return np.ascontiguousarray(np.moveaxis(table[indices], -1, 0))


def write_prediction(found: Published, pair: Pair, indices: np.ndarray, grid: Grid, folder: Path) -> Path:
    """Write the class indices (H, W) of one image into `folder`; returns the file. Raises BadFile where it
    exists or cannot be written.
    """
    pixels = as_published(found, indices)
    path = folder / file_name(pair)
    how = {"driver": "PNG"}
    if path.suffix.lower() == ".tif":
        how = {
            "driver": "GTiff",
            "compress": "lzw",
            "photometric": "rgb" if len(pixels) == 3 else "minisblack",
        }
        how |= {"crs": grid.crs, "transform": grid.transform} if grid.is_georeferenced else {}
    shape = {"count": len(pixels), "height": indices.shape[0], "width": indices.shape[1]}
    with written_whole(path) as part:
        write_raster(part, [Piece(grid.window, pixels)], target=path, dtype="uint8", **shape, **how)
    return path
