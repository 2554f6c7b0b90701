"""labelscape style: styles of a map's rasters for QGIS and map servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Overwrite, print_json

NAME = "style"


def run(
    rasters: Annotated[
        list[Path], typer.Argument(help="Rasters of maps: classes, confidence, probabilities.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the styles.", show_default="beside each raster")
    ] = None,
    band: Annotated[
        int, typer.Option("--band", help="Of probabilities: the class to show, by its number.")
    ] = 1,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the colours of rasters as styles: .qml for QGIS, .sld for GeoServer, MapServer and others.

    Classes have the colours and names of the legend, other rasters a ramp. QGIS applies a .qml of the
    raster's name when it opens the raster. Polygons hold both styles in their GeoPackage.

    Examples:

      labelscape style map/scene_class.tif map/scene_confidence.tif

      labelscape style map/scene_proba.tif --band 3 --out styles
    """
    from labelscape.rasters.style import write_all_styles

    made = write_all_styles(rasters, band=band, out=out, overwrite=overwrite)
    if as_json:
        print_json([{"raster": str(r), "qml": str(q), "sld": str(s)} for r, (q, s) in zip(rasters, made)])
        return
    for files in made:
        print(", ".join(map(str, files)))
