"""labelscape qgis: install the plug-in for QGIS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Overwrite, print_json

NAME = "qgis"


def run(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="QGIS's folder of plug-ins.", show_default="that of QGIS's default profile"
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Install a QGIS plug-in that maps rasters with this installation of Labelscape.

    In QGIS: Plugins > Manage and Install Plugins > Installed > Labelscape, then Processing Toolbox >
    Labelscape > Map a raster with a model.

    Example:

      labelscape qgis
    """
    from labelscape.qgis_install import install, plugins_folder

    folder = install(out or plugins_folder(sys.platform), overwrite=overwrite)
    if as_json:
        print_json({"path": str(folder)})
        return
    print(f"{'plug-in':<11}{folder}")
    print("in QGIS: Plugins > Manage and Install Plugins > Installed > Labelscape")
