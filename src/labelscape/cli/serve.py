"""labelscape serve: look at a map in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import talk

NAME = "serve"


def run(
    place: Annotated[
        str,
        typer.Argument(
            metavar="MAP",
            help="A map's or an evaluation's folder, a class map, or a training run's folder.",
            show_default=False,
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another map to compare with.", show_default=False)
    ] = None,
    *,
    scene: Annotated[
        Path | None, typer.Option("--scene", help="The imagery below the map.", show_default=False)
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            "--judge",
            help="A review file or a sample to answer, with --edit; or an evaluation's blocks.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes any that is free.")] = 8765,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 lets other machines see the map.")
    ] = "127.0.0.1",
    edit: Annotated[
        bool, typer.Option("--edit", help="Let the page write corrections, answers and colours.")
    ] = False,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Show a map in the browser: imagery, classes, confidence and probabilities, two maps side by side.

    Nothing is changed without --edit. Stop with Ctrl-C.

    Examples:

      labelscape serve map/ --scene scene.tif --open

      labelscape serve new/scene_class.tif old/scene_class.tif

      labelscape serve run/

      labelscape serve map/ --scene scene.tif --judge review.gpkg --edit

      labelscape serve errors/ --scene scene.tif
    """
    from labelscape.viewer.serve import serve

    def ready(address: str) -> None:
        print(address, flush=True)
        if host not in ("127.0.0.1", "localhost", "::1"):
            talk(f"note: everybody who reaches {host} can see this map{' and change it' * edit}.")
        if browse:
            webbrowser.open(address)

    serve(place, other, scene=scene, judge=judge, host=host, port=port, edit=edit, ready=ready)
