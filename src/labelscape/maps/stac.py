"""Write a STAC item for a map: footprint, date, files as assets, and the classes of each value.

A scene without coordinates has no footprint and gets no item.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio.crs import CRS

from labelscape.crs import transformed
from labelscape.files import written_whole
from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.maps.outputs import assets, kind_of

if TYPE_CHECKING:
    import pystac

MEDIA = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".json": "application/json",
}
LONLAT_CRS = CRS.from_user_input("OGC:CRS84")
EDGE = 8
"""Points per side of the footprint (ours): straight sides in the map's CRS are curves in degrees."""


def write_item(
    path: Path,
    grid: Grid,
    legend: Legend,
    files: Mapping[str, Path],
    when: str,
    *,
    software: str = "",
    overwrite: bool = False,
    second: tuple[str, Legend] | None = None,
) -> None:
    """Write the STAC item of a map; `files` by kind become assets where they exist, `when` is the time of
    processing in ISO 8601, `second` the name and the classes of a second task.

    The grid must be georeferenced. Raises BadFile where the file exists or cannot be written.
    """
    with written_whole(path, overwrite=overwrite) as part:
        # The item itself is no asset.
        known = assets(second[0] if second else "")
        present = {kind: file for kind, file in files.items() if kind in known and file.exists()}
        name = path.stem.removesuffix("_stac")
        made = item(name, grid, legend, present, when, software=software, second=second)
        part.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8", newline="\n")


def item(
    name: str,
    grid: Grid,
    legend: Legend,
    files: Mapping[str, Path],
    when: str,
    *,
    software: str = "",
    second: tuple[str, Legend] | None = None,
) -> dict:
    """The item as JSON, with the extensions projection, classification and file; assets are named as the
    kinds of `files`.
    """
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.projection import ProjectionExtension

    geometry, box = footprint(grid)
    made = pystac.Item(
        id=name,
        geometry=geometry,
        bbox=box,
        datetime=datetime.datetime.fromisoformat(when),
        properties={"title": f"Land cover of {name}"},
    )
    if software:
        made.properties["processing:software"] = (
            dict([software.split(" ", 1)]) if " " in software else {software: ""}
        )
        made.stac_extensions.append("https://stac-extensions.github.io/processing/v1.2.0/schema.json")
    placed = ProjectionExtension.ext(made, add_if_missing=True)
    code = grid.crs.to_epsg()
    placed.apply(
        epsg=code,
        # WKT2 of 2019: the extension does not take GDAL's default, WKT1.
        wkt2=None if code else grid.crs.to_wkt(version="WKT2_2019"),
        bbox=list(grid.bounds_of(grid.window)),
        shape=[grid.height, grid.width],
        # Affine has nine numbers, the last row always 0 0 1.
        transform=list(grid.transform)[:6],
    )
    known = assets(second[0] if second else "")
    for kind, file in files.items():
        title, roles = known[kind]
        # Relative: the folder may be moved or served from anywhere.
        asset = pystac.Asset(href=f"./{file.name}", title=title, media_type=MEDIA[file.suffix], roles=roles)
        made.add_asset(kind, asset)
        if file.suffix == ".tif":
            asset.extra_fields |= {"data_type": "uint8", "nodata": IGNORE}
        about = FileExtension.ext(asset, add_if_missing=True)
        # A multihash in hexadecimal: 12 is SHA-256, 20 its length of 32 bytes.
        about.size, about.checksum = file.stat().st_size, f"1220{_sha256(file)}"
    classes_of = {"class": legend, "sieved": legend}
    if second:
        classes_of |= {kind_of(kind, second[0]): second[1] for kind in ("class", "sieved")}
    # Sorted: a set's order changes from run to run.
    for kind in sorted(classes_of.keys() & set(files)):
        _name_classes(made.assets[kind], classes_of[kind])
    return made.to_dict(include_self_link=False)


def _name_classes(asset: pystac.Asset, legend: Legend) -> None:
    """Names and colours of a raster's values, in the classification extension's words."""
    from pystac.extensions.classification import Classification, ClassificationExtension

    named = ClassificationExtension.ext(asset, add_if_missing=True)
    named.classes = [Classification.create(**one) for one in class_values(legend)] + [
        Classification.create(value=IGNORE, name="nodata", description="no data", nodata=True)
    ]


def class_values(legend: Legend) -> list[dict]:
    """Values, names and colours of the classes in the classification extension's words, as JSON values."""
    return [
        {
            "value": c.value,
            "name": _machine_name(c.name, c.value),
            "title": c.name,
            "description": c.description or c.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*c.color),
        }
        for c in legend.classes
    ]


def footprint(grid: Grid) -> tuple[dict, list[float]]:
    """The grid's edge as a GeoJSON geometry in longitude and latitude, and its bounding box, by RFC 7946:
    cut at the antimeridian, where the box then has its west above its east; rings run counterclockwise, also
    for rotated or flipped grids; a grid around a pole reaches up to it.
    """
    import shapely

    ring = _unwound(grid)
    (west, south), (east, north) = ring.min(axis=0), ring.max(axis=0)
    # The ring may lie on any turn of the Earth: each is cut out and laid onto the one from -180 to 180.
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    if len(turns) == 1:
        ring[:, 0] -= 360 * turns[0]
        rings = [_ccw(ring)]
    else:
        shape, pieces = shapely.make_valid(shapely.Polygon(ring)), []
        for turn in turns:
            part = shapely.intersection(shape, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
            polygons = [p for p in shapely.get_parts(part) if p.geom_type == "Polygon"]
            pieces += [
                shapely.Polygon(shapely.get_coordinates(p.exterior) - [360 * turn, 0]) for p in polygons
            ]
        # A world from 0 to 360 is one piece again.
        rings = [
            _ccw(shapely.get_coordinates(p.exterior)) for p in shapely.get_parts(shapely.union_all(pieces))
        ]
    if east - west >= 360 - 1e-7:
        west, east = -180.0, 180.0
    elif len(turns) == 1:
        west, east = west - 360 * turns[0], east - 360 * turns[0]
    else:
        west, east = (v - 360 * turn for v, turn in ((west, turns[0]), (east, turns[-1])))
    whole = [[ring.tolist()] for ring in rings]
    geometry = {"type": "Polygon", "coordinates": whole[0]}
    if len(whole) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": whole}
    return geometry, [float(v) for v in (west, south, east, north)]


def _ccw(ring: np.ndarray) -> np.ndarray:
    """The ring closed and counterclockwise, in degrees of seven decimals: a centimetre; what follows is
    noise of the projection.
    """
    import shapely

    made = shapely.LinearRing(np.round(ring, 7))
    return shapely.get_coordinates(made if made.is_ccw else made.reverse())


def _unwound(grid: Grid) -> np.ndarray:
    """(N, 2) longitude and latitude of the grid's edge, longitudes without jumps (they may pass 180). Around
    a pole the ring leads along -180 and 180 up to it.
    """
    # Each side without its last corner, which begins the next one.
    steps = np.linspace(0, 1, EDGE + 1)[:-1]
    across = np.concatenate([steps, np.ones(EDGE), 1 - steps, np.zeros(EDGE)]) * grid.width
    down = np.concatenate([np.zeros(EDGE), steps, np.ones(EDGE), 1 - steps]) * grid.height
    lon, lat = transformed(*(grid.transform @ (across, down)), grid.crs)
    known = np.isfinite(lon) & np.isfinite(lat)  # corners of a picture of the whole Earth lie beside it
    lon, lat = lon[known], np.clip(lat[known], -90, 90)
    pole = _pole_inside(grid)
    if not pole:
        # In degrees longitudes follow the side, however long it is; elsewhere the shorter way is meant.
        if not grid.crs.is_geographic:
            lon = np.degrees(np.unwrap(np.radians(lon)))
        return np.round(np.column_stack([lon, lat]), 7)
    lon = (lon + 180) % 360 - 180
    order = np.argsort(lon)
    lon, lat = lon[order], lat[order]
    at_end = np.interp(180.0, [lon[-1], lon[0] + 360], [lat[-1], lat[0]])
    lon = np.concatenate([[-180], lon, [180, 180, -180]])
    lat = np.concatenate([[at_end], lat, [at_end, pole, pole]])
    return np.round(np.column_stack([lon, lat]), 7)


def _pole_inside(grid: Grid) -> int:
    """90 or -90 where that pole lies inside the grid of a projection, else 0."""
    if grid.crs.is_geographic:
        return 0
    for pole in (90, -90):
        x, y = transformed([0.0], [pole], LONLAT_CRS, grid.crs)
        column, row = ~grid.transform @ (x[0], y[0]) if np.isfinite([x[0], y[0]]).all() else (-1, -1)
        if 0 < column < grid.width and 0 < row < grid.height:
            _, back = transformed([x[0]], [y[0]], grid.crs)
            if abs(back[0] - pole) < 1e-6:
                return pole
    return 0


def _machine_name(name: str, value: int) -> str:
    """Class name for the classification extension, which allows letters, digits, - and _ only."""
    plain = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "-_") else "_" for ch in name)
    return plain if any(ch.isalnum() for ch in plain) else f"class_{value}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
