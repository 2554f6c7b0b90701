"""Where a raster lies: by its transform, by ground control points, by a .prj beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.vrt import WarpedVRT

from labelscape.crs import Unrelated, as_wkt, name_of
from labelscape.grid import Grid
from labelscape.scenes.files import is_local

AFFINE = 0.1
"""Pixels by which ground control points may lie off an affine transform and still define it (ours)."""

TURNS = {
    "2": "mirrored",
    "3": "turned by 180 degrees",
    "4": "mirrored and turned by 180 degrees",
    "5": "mirrored and turned by 90 degrees",
    "6": "turned by 90 degrees",
    "7": "mirrored and turned by 90 degrees",
    "8": "turned by 90 degrees",
}
"""What EXIF's orientations mean; 1 is as stored."""


def grid_of(dataset: rasterio.DatasetReader | WarpedVRT) -> Grid:
    """The grid of an open raster. Ground control points place it where it has no transform and one affine
    transform agrees with all of them; a .prj beside it names the CRS of one that has none.
    """
    return _placed(dataset)[0]


def place_notes(dataset: rasterio.DatasetReader | WarpedVRT, title: str) -> tuple[str, ...]:
    """What was read from ground control points or a .prj, what was not, and that a photo lies otherwise than
    programs show it: a line each.
    """
    _, note = _placed(dataset)
    return tuple(f"{title} {one}" for one in (note, _turned(dataset)) if one)


def _turned(dataset: rasterio.DatasetReader | WarpedVRT) -> str:
    """A line where EXIF data say that a picture is to be shown turned or mirrored: GIS programs show pixels
    as they are stored, annotation programs mostly turn them.
    """
    how = TURNS.get(dataset.tags().get("EXIF_Orientation", ""), "")
    return how and (
        f"is to be shown {how} (EXIF orientation), and is read as it is stored: labels that were drawn on "
        "the shown picture do not fit. Turn the pixels themselves first, in both: exiftran -ai FILE, or "
        "mogrify -auto-orient FILE"
    )


def _placed(dataset: rasterio.DatasetReader | WarpedVRT) -> tuple[Grid, str]:
    plain = Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)
    if not np.isfinite(dataset.transform).all() or dataset.transform.is_degenerate:
        nowhere = Grid(dataset.crs, Affine.identity(), dataset.height, dataset.width)
        return nowhere, (
            "has a damaged transform, with pixels of no size or at no place: it is read without coordinates. "
            "Give it the right one: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE"
        )
    # Of points beside a transform GDAL takes the transform too.
    if isinstance(dataset, WarpedVRT):
        return plain, ""
    if not dataset.transform.is_identity:
        return (plain, "") if plain.crs is not None else _with_crs_beside(plain, dataset.name)
    points, crs = dataset.gcps
    if not points:
        if getattr(dataset, "rpcs", None):
            return plain, (
                "is placed by RPCs only, which depend on the terrain: it is read without coordinates. "
                "Rectify it first: gdalwarp -rpc in.tif out.tif"
            )
        return plain, ""
    transform, off = _affine([(p.col, p.row, p.x, p.y) for p in points])
    if transform is None or off > AFFINE:
        far = f" (they lie up to {off:.3g} pixels off one)" if transform is not None else ""
        return plain, (
            f"is placed by {len(points)} ground control points that are no affine transform{far}: it is read "
            "without coordinates. Rectify it first: gdalwarp -tps in.tif out.tif"
        )
    if crs is None:
        return plain, "has ground control points without a CRS: it is read without coordinates"
    return Grid(crs, transform, dataset.height, dataset.width), (
        f"is placed by its {len(points)} ground control points, which agree with one affine transform"
    )


def _with_crs_beside(plain: Grid, name: str) -> tuple[Grid, str]:
    """The grid of a raster whose transform is known, as from a world file, and its CRS is not: with that of a
    .prj of its name, as agencies deliver pictures with both. GDAL reads world files and no .prj.
    """
    if not is_local(name) or not os.path.isfile(name):
        return plain, ""
    own = [Path(name).with_suffix(suffix) for suffix in (".prj", ".PRJ")]
    beside = next((path for path in own if path.is_file()), None)
    # That of a Shapefile of the same name is no word on the raster.
    if beside is None or Path(name).with_suffix(".shp").is_file():
        return plain, ""
    try:
        # Not by GDAL: it would raise its error once more at its next call, as that of the raster.
        crs = CRS.from_wkt(as_wkt(beside.read_text(encoding="utf-8", errors="replace").strip()))
        # By its code, where it has one: Esri's text differs from it in the order of axes.
        crs = CRS.from_epsg(code) if (code := crs.to_epsg()) else crs
    except (Unrelated, CRSError, OSError):
        return plain, f"has no CRS: {beside.name} beside it cannot be read as one (WKT)"
    called = f"EPSG:{code}" if code else name_of(crs)
    return replace(plain, crs=crs), f"has the CRS of {beside.name} beside it, {called}"


def _affine(points: list[tuple[float, float, float, float]]) -> tuple[Affine | None, float]:
    """The affine transform that fits points (column, row, x, y) best, and how far the worst lies off it in
    pixels; None where they lie on a line.
    """
    found = np.array(points, float)
    pixels, ground = found[:, :2], found[:, 2:]
    # About their means: coordinates of millions would lose the digits of a pixel.
    middle, centre = pixels.mean(axis=0), ground.mean(axis=0)
    if not np.isfinite(found).all() or np.linalg.matrix_rank(pixels - middle) < 2:
        return None, np.inf
    turn, *_ = np.linalg.lstsq(pixels - middle, ground - centre, rcond=None)
    (a, d), (b, e) = turn
    c, f = centre - middle @ turn
    # Without the noise of the fit: 10, not 10.000000000000004.
    made = Affine(
        *(float(f"{v:.12g}") if abs(v) > 1e-12 * abs(turn).max() else 0.0 for v in (a, b, c, d, e, f))
    )
    if made.is_degenerate:
        return None, np.inf
    columns, rows = ~made @ (ground[:, 0], ground[:, 1])
    return made, float(np.hypot(columns - pixels[:, 0], rows - pixels[:, 1]).max())
