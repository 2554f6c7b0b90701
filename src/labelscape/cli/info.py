"""labelscape info: what a file or folder is."""

from __future__ import annotations

from typing import Annotated

import typer

from labelscape.cli.options import AllowRemote, AsJson, allow_everywhere, as_options, print_json
from labelscape.cli.parsing import scene_of

NAME = "info"


def run(
    file: Annotated[
        str,
        typer.Argument(
            help="A checkpoint or a model of export; a map's folder or any file of it; a sample, an "
            "assessment, counts; polygons; labels; a data set; a scene.",
            show_default=False,
        ),
    ],
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Also the range of each band of a scene (sampled) or the class areas of a class raster.",
        ),
    ] = False,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:
    """Show what a file or folder is, what it holds and what to do with it: network, classes and scores of a
    checkpoint; areas, settings and files of a map; layers, columns and classes of polygons; size, bands, CRS,
    pixel size and nodata of a scene.

    Examples:

      labelscape info runs/a/mlp.safetensors

      labelscape info map/

      labelscape info map/scene_polygons.gpkg

      labelscape info scene.tif --statistics
    """
    from labelscape.inspection import info

    if allow_remote:
        allow_everywhere()
    # `scene_of` refuses checkpoints, and splits names at commas.
    found = info(
        file if file.endswith((".safetensors", ".onnx", ".pt2")) else scene_of(file), statistics=statistics
    )
    if as_json:
        print_json(found.to_dict())
        return
    print(as_options(found.text))
