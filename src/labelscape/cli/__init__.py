"""The command line: one file per verb. Results go to stdout, talk and progress to stderr.

Exit codes: 0 done, 1 the work failed or was refused, 2 the command was wrong. torch is imported only by the
verbs that need it.
"""

from __future__ import annotations

import sys

import typer

from labelscape.cli import (
    calibrate,
    check,
    data,
    data_check,
    demo,
    doctor,
    evaluate,
    import_caffe,
    map,
    models,
    polygonize,
    sieve,
    table,
    train,
)
from labelscape.cli.options import talk
from labelscape.errors import LabelscapeError
from labelscape.version import __version__

app = typer.Typer(
    name="labelscape",
    help=(
        "From pictures of the ground to maps of classes: train a network on a scene and its labels, score "
        "it, map any scene."
    ),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

VERBS = {
    demo: "The whole way on a real scene that comes along.",
    doctor: "Is everything here that the work needs?",
    models: "The networks, their sizes and options.",
    train: "Train on scenes with labels; score held-out blocks.",
    evaluate: "Score a checkpoint on labelled pixels.",
    calibrate: "Make confidences mean what they say.",
    check: "Does a scene fit a model; what will a map cost?",
    map: "Map a scene of any size.",
    sieve: "Give small areas of a class map to neighbours.",
    polygonize: "Turn any class raster into polygons.",
    table: "Train and score the rows of a paper's table.",
    import_caffe: "Read weights published for Caffe.",
}
"""One line each for the list of verbs, short enough to be shown whole."""

for verb, line in VERBS.items():
    app.command(verb.NAME, short_help=line)(verb.run)
data.app.command(data_check.NAME, short_help="Look through images and labels for what is wrong.")(
    data_check.run_check
)
app.add_typer(data.app, name=data.NAME, short_help="Published data sets, and a check of your own data.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"labelscape {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and end."
    ),
) -> None:
    pass


def main(argv: list[str] | None = None, *, name: str | None = None) -> None:
    """Run the command line; ends the process with its exit code. `name` is what help calls it."""
    try:
        app(argv, prog_name=name)
    except SystemExit as ended:
        if ended.code == 130:  # typer takes Ctrl-C for itself and says nothing
            talk("labelscape: stopped.")
        raise
    except LabelscapeError as error:
        talk(f"labelscape: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        talk("labelscape: stopped.")
        sys.exit(130)
    except MemoryError:
        talk("labelscape: out of memory. Use a smaller --tile-size or --crop and --batch.")
        sys.exit(1)
