"""Do a label raster and a scene share one grid, and if not, can the labels be resampled to it?"""

from __future__ import annotations

from dataclasses import replace

from labelscape.crs import Unrelated, bounds_in
from labelscape.datasets.doctor.findings import Finding
from labelscape.datasets.doctor.labels import Tally
from labelscape.grid import Grid
from labelscape.labels.rasters import in_one_crs, resampling
from labelscape.scenes.scene import crs_text

UNRELATED = "The CRSs of labels and scene cannot be related."


def check_grids(found: Tally, grid: Grid, name: str) -> list[Finding]:
    """What differs between the grid of a label raster and that of the scene called `name`.

    Empty for equal grids. An error means that labels cannot be put onto the scene.
    """
    mine = found.grid
    if mine.matches(grid):
        return []
    both = in_one_crs(mine, grid)
    if both is None:
        return _resampling(found, grid) if mine.shape == grid.shape else [_other_size(found, grid, name)]
    mine, grid = both
    found = replace(found, grid=mine)
    try:
        # May have no answer: a local CRS has no place on Earth.
        left, bottom, right, top = bounds_in(mine.bounds_of(mine.window), mine.crs, grid.crs)
    except Unrelated as error:
        if mine.same_pixels(grid):
            text = f"{UNRELATED} They have one shape and transform, and are read pixel on pixel."
            return [Finding("crs", "info", found.source, text)]
        return [Finding("crs", "error", found.source, f"{UNRELATED} {error}", "Check the CRS of both.")]
    west, south, east, north = grid.bounds_of(grid.window)
    overlap = max(0, min(east, right) - max(west, left)) * max(0, min(north, top) - max(south, bottom))
    covered = overlap / ((east - west) * (north - south))
    # Written so that NaN counts as no overlap: a place outside the valid area of a CRS has infinite bounds.
    if not covered > 0:
        return [_elsewhere(found, grid, name)]
    findings = []
    # A row of pixels missing at the edge is no news.
    if covered < 0.99:
        text = f"The labels cover {100 * covered:.0f} % of {name}; the rest is unlabelled."
        findings.append(Finding("partly", "info", found.source, text))
    return findings + _resampling(found, grid)


def _other_size(found: Tally, grid: Grid, name: str) -> Finding:
    """Two rasters without coordinates that differ in size, and what may have happened."""
    mine = found.grid
    lacks = "the labels have" if not mine.is_georeferenced else "the image has"
    hint = " They are rotated by 90 degrees." if mine.shape == grid.shape[::-1] else ""
    factor = grid.width / mine.width
    if abs(grid.height / mine.height - factor) < 0.01 * factor:
        hint = f" The image seems to be the same scene at {factor:g} times the size."
    text = (
        f"The labels are {mine.width} x {mine.height} pixels, {name} is {grid.width} x {grid.height}, and "
        f"{lacks} no coordinates to align them.{hint}"
    )
    cure = "Is this the label file of this image?"
    if hint:
        cure = "Bring both to one size; resample labels by nearest neighbour, never by interpolation."
    return Finding("size", "error", found.source, text, cure)


def _elsewhere(found: Tally, grid: Grid, name: str) -> Finding:
    """Labels and a scene that do not overlap, and whether a wrong CRS is the reason."""
    mine = found.grid
    west, south, east, north = grid.bounds_of(grid.window)
    left, bottom, right, top = mine.bounds_of(mine.window)
    cure = "Check the CRS of both."
    # The bare numbers would fit: the file was written in the scene's CRS and declares another.
    if left < east and right > west and bottom < north and top > south:
        cure = (
            f"The labels' coordinates lie inside the image if read as {crs_text(grid)}: the labels "
            "probably declare a wrong CRS."
        )
    text = f"The labels ({crs_text(mine)}) and {name} ({crs_text(grid)}) do not overlap."
    return Finding("no-overlap", "error", found.source, text, cure)


def _resampling(found: Tally, grid: Grid) -> list[Finding]:
    """How label pixels are taken to the scene's: from another CRS, pixel size or sub-pixel position."""
    findings = []
    for kind, text in resampling(found.grid, grid).items():
        severity, cure = "info", ""
        if kind == "pixel-size":
            coarse = found.grid.ground_pixel_size or max(found.grid.pixel_size)
            coarse = coarse > (grid.ground_pixel_size or max(grid.pixel_size))
            cure = "Expect stair-stepped class borders." if coarse else "Fine labels are subsampled."
            severity = "warning"
        findings.append(Finding(kind, severity, found.source, f"{text[0].upper()}{text[1:]}.", cure))
    return findings
