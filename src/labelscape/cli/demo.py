"""labelscape demo: train, score and map on a real scene that is installed from a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import talk

NAME = "demo"


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("demo-out"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Skip training: map with the checkpoint that comes with Labelscape."),
    ] = False,
) -> None:
    """Map the land around the Havel lakes from a real Sentinel-2 scene and OpenStreetMap polygons.

    Trains an mlp, scores it and a random forest on held-out blocks, then maps the scene and writes rasters,
    polygons and a report. Takes about three minutes on two cores, 10 to 15 seconds with --quick.
    """
    from labelscape.demo import run_demo

    run_demo(out, quick=quick, say=talk)
