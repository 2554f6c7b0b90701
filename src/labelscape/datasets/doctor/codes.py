"""Labels as small codes on a scene's pixels, 255 where unlabelled. Files that training would refuse get codes
too, so that their borders can be compared with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from labelscape.datasets.doctor.labels import Tally, class_names, ignored, is_soft_mask
from labelscape.grid import Window
from labelscape.labels.labels import open_labels
from labelscape.labels.rasters import placed
from labelscape.labels.rules import ClassTable, LabelRules, mask_legend
from labelscape.labels.values import LabelBand, mask_indices
from labelscape.legend import IGNORE
from labelscape.scenes.files import reading
from labelscape.scenes.polygons import PolygonIndex, read_area
from labelscape.scenes.raster import Scene

Read = Callable[[Window], np.ndarray]
OTHER = 254
"""Code of ground that no polygon covers, in the search for a shift: polygons have an edge there too."""


@contextmanager
def coded(
    found: Tally, scene: Scene, spec: LabelRules, masks: bool
) -> Iterator[tuple[Read | None, list[str] | None]]:
    """A label raster as codes on the scene's pixels, and the class names where codes are classes.

    Yields (None, None) where no codes can be made: fractions, or too many values. Raises BadInput where the
    raster and the scene do not overlap.
    """
    # Their borders are those of an image: every shift would match.
    if found.kind in ("fractions", "picture"):
        yield None, None
        return
    with reading(found.source) as dataset, ExitStack() as opened:
        view, _ = placed(dataset, found.grid, scene.grid, scene.name)
        if view is not None:
            opened.enter_context(view)
        if found.kind == "colours":
            # 250, so that codes stay below OTHER and 255; the rest of the colours are rare.
            order = {colour: i for i, (colour, _) in enumerate(found.counts.most_common(250))}
            # Three bands cannot be warped like labels here: equal sizes are taken pixel for pixel.
            same = found.grid.shape == scene.grid.shape
            yield (lambda window: _colour_codes(dataset, window, order)) if same else None, None
            return
        band, rules = LabelBand(dataset, view), spec
        if spec.threshold is None and (is_soft_mask(found) or masks):
            # A soft mask's greys are all borders: halved, it has the borders that were drawn.
            rules = LabelRules(threshold=128)
        skipped = band.ignored(rules)
        if rules.threshold is not None:
            names = mask_legend(spec).names if rules is spec else None
            yield lambda window: mask_indices(*band.read(window), skipped, rules), names
            return
        # [0]: a file without any value must still have a table to search.
        values = np.array(sorted(set(found.counts) - ignored(found, spec))[:250] or [0])
        known = class_names(spec)
        names = [known.get(int(v), "(not used)") for v in values] if known else [f"class {v}" for v in values]
        yield lambda window: _value_codes(*band.read(window), values), names


def _value_codes(pixels: np.ndarray, unlabelled: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Position of every pixel's value in `values` (sorted), 255 for others and where unlabelled."""
    # searchsorted may point one beyond the last value.
    place = np.minimum(np.searchsorted(values, pixels), len(values) - 1)
    known = values[place] == pixels
    return np.where(known if unlabelled is None else known & ~unlabelled, place, IGNORE).astype(np.uint8)


def _colour_codes(dataset: object, window: Window, order: dict) -> np.ndarray:
    codes = np.full(window.shape, IGNORE, np.uint8)
    pixels = dataset.read([1, 2, 3], window=window.rio)
    for colour, code in order.items():
        codes[(pixels == np.reshape(colour, (3, 1, 1))).all(axis=0)] = code
    return codes


def burned(
    label: str, scene: Scene, spec: LabelRules, table: ClassTable | None
) -> tuple[Read, Read, list[str]]:
    """Polygons as codes for the search for a shift, where ground beside a polygon is a class of its own;
    the same polygons as training burns them; the class names. Raises as `open_labels`.
    """
    labels = open_labels(label, scene.grid, spec, table=table, scene_name=scene.name)
    area = None
    if spec.area and not spec.background:
        geometries = read_area(spec.area, scene.grid).geometries
        area = PolygonIndex(geometries, np.ones(len(geometries), np.uint8), scene.grid)

    def codes(window: Window) -> np.ndarray:
        found = labels.read(window)
        bare = found == IGNORE
        if spec.background:
            return found  # 255 is outside the area or beneath polygons of no class: no border there
        if area is not None:
            bare &= area.burn(window, np.zeros(window.shape, np.uint8)) == 1
        found[bare] = OTHER
        return found

    return codes, labels.read, labels.legend.names
