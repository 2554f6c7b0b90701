"""Write a STAC item for a map: footprint, date, files as assets, and the classes of each value.

A scene without coordinates has no footprint and gets no item.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from labelscape.files import written_whole
from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.maps.outputs import assets, kind_of

MEDIA = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".json": "application/json",
}
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
    from pystac.extensions.classification import Classification, ClassificationExtension
    from pystac.extensions.file import FileExtension
    from pystac.extensions.projection import ProjectionExtension

    ring = footprint(grid)
    lon, lat = ring.T
    made = pystac.Item(
        id=name,
        geometry={"type": "Polygon", "coordinates": [ring.tolist()]},
        bbox=[lon.min(), lat.min(), lon.max(), lat.max()],
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
        named = ClassificationExtension.ext(made.assets[kind], add_if_missing=True)
        named.classes = [
            Classification.create(
                value=c.value,
                name=_machine_name(c.name, c.value),
                title=c.name,
                description=c.description or c.name,
                color_hint="{:02X}{:02X}{:02X}".format(*c.color),
            )
            for c in classes_of[kind].classes
        ] + [Classification.create(value=IGNORE, name="nodata", description="no data", nodata=True)]
    return made.to_dict(include_self_link=False)


def footprint(grid: Grid) -> np.ndarray:
    """(N, 2) longitude and latitude of the grid's edge, closed and counterclockwise as GeoJSON requires, also
    for rotated or flipped grids.
    """
    import shapely
    from pyproj import Transformer

    # Each side without its last corner, which begins the next one.
    steps = np.linspace(0, 1, EDGE + 1)[:-1]
    across = np.concatenate([steps, np.ones(EDGE), 1 - steps, np.zeros(EDGE)]) * grid.width
    down = np.concatenate([np.zeros(EDGE), steps, np.ones(EDGE), 1 - steps]) * grid.height
    x, y = grid.transform @ (across, down)
    lonlat = np.column_stack(
        # GeoJSON counts in CRS84; always_xy, since some CRSs put north before east.
        Transformer.from_crs(grid.crs.to_wkt(), "OGC:CRS84", always_xy=True).transform(x, y)
    )
    # Seven decimals are a centimetre; what follows is noise of the projection.
    ring = shapely.LinearRing(np.round(lonlat, 7))
    return shapely.get_coordinates(ring if ring.is_ccw else ring.reverse())


def _machine_name(name: str, value: int) -> str:
    """Class name for the classification extension, which allows letters, digits, - and _ only."""
    plain = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "-_") else "_" for ch in name)
    return plain if any(ch.isalnum() for ch in plain) else f"class_{value}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
