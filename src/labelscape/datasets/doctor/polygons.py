"""Label polygons on one scene: how many of each class are rasterized, and why polygons and scene do not
overlap.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import rasterio.features

from labelscape.crs import Unrelated, bounds_in
from labelscape.datasets.doctor.findings import Finding
from labelscape.datasets.overlaps import CURE, overlap_text, two_classes, windows_in
from labelscape.grid import Grid
from labelscape.labels.polygons import (
    class_column,
    column_report,
    found_names,
    fuller_columns,
    polygon_names,
    polygons_read,
)
from labelscape.labels.rules import ClassTable, LabelRules, resolve_classes
from labelscape.legend import IGNORE
from labelscape.scenes.polygons import PolygonIndex, read_polygons
from labelscape.scenes.scene import crs_text
from labelscape.scenes.vectors import VectorSource, read_features


def check_polygons(
    source: str | Path,
    grid: Grid,
    rules: LabelRules,
    table: ClassTable | None,
    scene_name: str,
    *,
    several: bool = False,
) -> list[Finding]:
    """Polygons of a file on one scene: per class the number read, rasterized, outside, too small to contain a
    pixel's centre, and covered by later polygons. `table` holds the classes shared with other files, if any;
    of `several` scenes some may have no polygon where the others are background.

    Raises LabelscapeError as `open_labels` does where the file cannot be used.
    """
    import shapely

    where = str(source)
    may_be_empty = several and rules.background is not None
    geometries, attributes, notes = read_polygons(rules.vector(source), grid, may_be_empty=may_be_empty)
    names = polygon_names(source, attributes, len(geometries), rules)
    table = table or resolve_classes([found_names(source, names)], rules)
    used = {name for name, index in table.index_of.items() if index != IGNORE}
    inside = shapely.intersects(geometries, shapely.box(*grid.bounds_of(grid.window)))
    if not inside.any() and may_be_empty:
        text = f"No polygon lies in {scene_name}: all of it is {rules.background}."
        return [Finding("no-overlap", "warning", where, text)]
    if not inside.any():
        return [_away(rules.vector(source), geometries, grid, scene_name)]
    fates = polygon_fates(geometries, inside, grid)
    findings = [Finding("left-out", "warning", where, note.removeprefix(f"{source}: ")) for note in notes]
    for line in column_report(source, attributes, rules):
        if ": most polygons have no value" in line:
            # Said below, with their number.
            continue
        # Only names that are almost the same, or mean none, may be a mistake.
        severity = "warning" if " classes; if" in line or "; if it means" in line else "info"
        findings.append(Finding("names", severity, where, line.removeprefix(f"{source}: ")))
    nameless = int((names == "").sum())
    if nameless:
        column = class_column(source, attributes, rules)
        text = f"{nameless:,} of {len(names):,} polygons have no value in {column!r}; they are not used."
        fuller = fuller_columns(attributes, column)
        other = f", or choose another `class_column`: full are {', '.join(fuller)}" if fuller else ""
        findings.append(Finding("no-class", "warning", where, text, f"Give them a class{other}."))
    for name in sorted(set(names.tolist()) - {""}):
        fate = Counter(fates[names == name].tolist())
        findings.append(_of_class(where, name, fate, scene_name, used=name in used))
    indices = np.array([table.index_of.get(name, IGNORE) for name in names.tolist()], np.uint8)
    both = two_classes(PolygonIndex(geometries[inside], indices[inside], grid), windows_in(grid.window))
    if text := overlap_text(*both):
        findings.append(Finding("overlap", "warning", where, text, CURE))
    return findings


def _of_class(where: str, name: str, fate: Counter[str], scene_name: str, *, used: bool) -> Finding:
    """What became of the polygons of one class."""
    read, burned = fate.total(), fate["burned"]
    text = (
        f"{name}: {polygons_read(read)}, {burned:,} rasterized, {fate['outside']:,} outside {scene_name}, "
        f"{fate['small']:,} too small to contain a pixel's centre"
    )
    text += f", {fate['hidden']:,} covered by later polygons" if fate["hidden"] else ""
    text += "" if used else "; the class is not used"
    lost = fate["small"] + fate["hidden"]
    if used and not burned:
        cure = "This class gets no pixel: check the position, size and order of its polygons."
        return Finding("polygons", "warning", where, text + ".", cure)
    if used and lost > 0.2 * (read - fate["outside"]):
        covered = (
            "Polygons overlap, and the later one in the file wins: remove overlaps, or put this class last."
        )
        small = "Use a finer image, or larger polygons, for this class."
        cure = covered if fate["hidden"] > fate["small"] else small
        return Finding("polygons", "warning", where, text + ".", cure)
    return Finding("polygons", "info", where, text + ".")


def _away(source: VectorSource, geometries: np.ndarray, grid: Grid, scene_name: str) -> Finding:
    """Polygons that do not intersect the scene, and the usual reasons: a wrong CRS, or x and y swapped."""
    import shapely

    scene_box, text = (
        shapely.box(*grid.bounds_of(grid.window)),
        f"None of the {len(geometries):,} polygons intersects {scene_name}: in its CRS they",
    )
    left, bottom, right, top = (float(x) for x in shapely.total_bounds(geometries))
    west, south, east, north = shapely.bounds(scene_box)
    text += (
        f" cover x {left:.6g} to {right:.6g}, y {bottom:.6g} to {top:.6g}, the scene x {west:.6g} to "
        f"{east:.6g}, y {south:.6g} to {north:.6g}."
    )
    # Bounds as stored, in the file's own axes: what was read is transformed already.
    stored, cure = read_features(source, columns=[]), "Check the CRS of both."
    if stored.crs and grid.crs is not None:
        left, bottom, right, top = shapely.total_bounds(stored.geometries)
        own, crs = stored.crs, grid.crs
        as_is, turned = (left, bottom, right, top), (bottom, left, top, right)
        for swapped, box, source_crs in ((False, as_is, crs), (True, turned, own), (True, turned, crs)):
            try:
                there = bounds_in(box, source_crs, crs)
            except Unrelated:
                continue
            # Infinite: numbers that are no place in that CRS.
            if np.isfinite(there).all() and shapely.intersects(shapely.box(*there), scene_box):
                cure = (
                    "x and y seem to be swapped."
                    if swapped
                    else (
                        f"The polygons' coordinates lie inside the scene if read as {crs_text(grid)}: the "
                        "file probably declares a wrong CRS."
                    )
                )
                break
    return Finding("no-overlap", "error", str(source), text, cure)


def polygon_fates(geometries: np.ndarray, inside: np.ndarray, grid: Grid) -> np.ndarray:
    """(P,) of "outside", "burned", "small" (contains no pixel centre) or "hidden" (covered by later
    polygons).
    """
    import shapely

    fates = np.full(len(geometries), "outside", dtype="<U7")
    # Hidden until a pixel of it is found.
    fates[inside] = "hidden"
    mine = np.nonzero(inside)[0]
    tree = shapely.STRtree(geometries[mine])
    for window in grid.window.blocks(2048):
        # Sorted: in the file's order, in which later polygons cover earlier ones.
        near = mine[np.sort(tree.query(shapely.box(*grid.bounds_of(window))))]
        if len(near):
            # + 1, since 0 is what rasterize leaves untouched.
            shapes = zip(geometries[near], (near + 1).tolist())
            burned = rasterio.features.rasterize(
                shapes, out_shape=window.shape, transform=grid.transform_of(window), dtype="int32"
            )
            fates[np.unique(burned[burned > 0]) - 1] = "burned"
    for i in np.nonzero(fates == "hidden")[0]:
        if not _covers_a_centre(geometries[i], grid):
            fates[i] = "small"
    return fates


def _covers_a_centre(geometry: object, grid: Grid) -> bool:
    import shapely

    left, bottom, right, top = shapely.bounds(geometry)
    columns, rows = ~grid.transform @ (
        np.array([left, left, right, right]),
        np.array([bottom, top, bottom, top]),
    )
    left, top = max(0, int(np.floor(columns.min()))), max(0, int(np.floor(rows.min())))
    right, bottom = (
        min(grid.width, int(np.ceil(columns.max())) + 1),
        min(grid.height, int(np.ceil(rows.max())) + 1),
    )
    if right <= left or bottom <= top:
        return False
    # Not rasterized for memory's sake: a polygon with such a large box contains a centre, slivers aside.
    if (bottom - top) * (right - left) > 1 << 22:
        return True
    # The grid of the polygon's own box: burned alone, no later polygon can cover it.
    own = grid.transform @ type(grid.transform).translation(left, top)
    return bool(
        rasterio.features.rasterize(
            [(geometry, 1)], out_shape=(bottom - top, right - left), transform=own, dtype="uint8"
        ).any()
    )
