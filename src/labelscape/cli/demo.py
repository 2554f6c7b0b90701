"""labelscape demo: the whole way on a real scene that comes with a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import talk

NAME = "demo"


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path(
        "demo-out"
    ),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Map with the checkpoint that comes with Labelscape, without training."),
    ] = False,
) -> None:
    """Map the land around the Havel lakes from a real Sentinel-2 scene and OpenStreetMap polygons.

    Trains fcn, then mlp from it, scores both on blocks they never saw beside a random forest, maps the scene,
    writes every file.
    """
    from labelscape.demo import run_demo

    run_demo(out, quick=quick, say=talk)
