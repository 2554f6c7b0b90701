"""rio labelscape: all verbs as a plug-in of rasterio's command line.

rasterio's commands are click's, ours are typer's, which may carry a click of its own: the two do not nest, so
the plug-in passes its arguments on unparsed.
"""

from __future__ import annotations

import contextlib
import sys

import click


@click.command(
    "labelscape",
    add_help_option=False,
    short_help="Map land cover: train, check, map, evaluate.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def labelscape(ctx: click.Context, words: tuple[str, ...]) -> None:
    from labelscape.cli import main

    # rio's own options (--aws-no-sign-requests and others) are in the GDAL environment that it made.
    with (ctx.obj or {}).get("env") or contextlib.nullcontext():
        before, sys.argv = sys.argv, ["labelscape", *words]  # `train --slurm` repeats the command
        try:
            main(list(words), name="rio labelscape")
        finally:
            sys.argv = before
