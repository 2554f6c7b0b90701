"""Labels on a scene's grid: from a raster of class values or from polygons, in any CRS.

Both have `read(window) -> (H, W) uint8` class indices, 255 where unlabelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from labelscape.grid import Grid
from labelscape.labels.base import Labels
from labelscape.labels.codings import ONE_WAY, two_codings
from labelscape.labels.polygons import open_polygon_labels, polygon_classes
from labelscape.labels.rasters import open_raster_labels
from labelscape.labels.rules import ClassTable, FoundClasses, LabelRules, resolve_classes
from labelscape.labels.values import check_bands, check_lossless, raster_classes
from labelscape.scenes.files import reading
from labelscape.scenes.polygons import PolygonIndex, read_area
from labelscape.scenes.vectors import VectorSource, is_vector

__all__ = ["Labels", "classes_of", "found_in", "open_labels"]


def open_labels(
    source: str | Path,
    grid: Grid,
    rules: LabelRules = LabelRules(),
    *,
    table: ClassTable | None = None,
    scene_name: str = "the scene",
) -> Labels:
    """Open a label raster or polygons (by file suffix) for the pixels of `grid`.

    table  the classes shared with other label files (`classes_of`); by default those of this file

    Raises BadFile for unreadable files, BadInput where labels and scene do not overlap, no polygon is
    rasterized or a value has no class, and UnknownName where a layer, column or class does not exist.
    """
    opener = open_polygon_labels if is_vector(source) else open_raster_labels
    labels = opener(source, grid, rules, table, scene_name)
    labels.files = tuple(str(VectorSource.of(file).path) for file in (source, rules.area) if file)
    # Applied on top of rasters and polygons alike: also background is unknown outside the area.
    if rules.area:
        geometries, _, notes = read_area(rules.area, grid)
        labels.report, labels.notes = [*labels.report, *notes], (*labels.notes, *notes)
        labels._area = PolygonIndex(geometries, np.ones(len(geometries), np.uint8), grid)
    return labels


def classes_of(sources: Sequence[str | Path], rules: LabelRules) -> ClassTable:
    """The classes of several label files together. A file may be listed for several scenes; it is read once.

    Files are read only where the rules do not name the classes. Raises as `resolve_classes` does, and BadFile
    where a file cannot be read.
    """
    # No file is opened: a scan of all rasters takes minutes, and a merge alone needs their values.
    if rules.known_legend is not None and not rules.merge:
        return resolve_classes([], rules)
    # All files before any class: a value that the first file lacks must not shift the indices of the others.
    found = {str(source): found_in(source, rules) for source in dict.fromkeys(map(str, sources))}
    table = resolve_classes([found[str(source)] for source in sources], rules)
    met = {source: one.met for source, one in found.items() if one.met}
    # Whoever names classes or what is unlabelled knows the values.
    named = rules.threshold is not None or rules.known_legend is not None or rules.ignore_values
    doubt = "" if named else two_codings(met)
    return replace(table, doubts=(f"{doubt} {ONE_WAY}",)) if doubt else table


def found_in(source: str, rules: LabelRules) -> FoundClasses:
    """The classes in one label file; a raster is read only where the rules do not name them. Raises BadFile
    or BadInput where it cannot be read.
    """
    if is_vector(source):
        return polygon_classes(source, rules)
    with reading(source) as dataset:
        check_bands(dataset)
        check_lossless(dataset, rules)
        return raster_classes(dataset, rules)
