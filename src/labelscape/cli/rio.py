"""rio labelscape: all verbs as a plug-in of rasterio's command line.

rasterio's commands are made by click, ours by a typer that may carry a click of its own: the plug-in hands
the words on as they are.
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

    with (ctx.obj or {}).get(
        "env"
    ) or contextlib.nullcontext():  # what was said to rio itself: --aws-no-sign-requests and its like
        before, sys.argv = sys.argv, ["labelscape", *words]  # `train --slurm` repeats the command
        try:
            main(list(words), name="rio labelscape")
        finally:
            sys.argv = before
