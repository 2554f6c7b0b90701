"""The command line: one file per verb. Results go to stdout, messages and progress to stderr.

Exit codes: 0 done, 1 the work failed or was refused, 2 the command was wrong. torch is imported only by the
verbs that need it.
"""

from __future__ import annotations

import atexit
import errno
import gc
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from labelscape.cli import (
    assess,
    bench,
    calibrate,
    check,
    compare,
    data,
    data_check,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    import_caffe,
    info,
    map,
    models,
    mosaic,
    polygonize,
    push,
    qgis,
    review,
    sample,
    serve,
    sieve,
    streams,
    style,
    table,
    train,
    tune,
)
from labelscape.cli.options import talk
from labelscape.errors import LabelscapeError, is_out_of_memory, nearest_name
from labelscape.scoring.machine import share_cores
from labelscape.version import __version__


class Verb(TyperCommand):
    """A verb that answers an unknown option with the one that was probably meant, by its words too, and a
    target among the inputs with the option that it belongs to.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # A long example goes on in a second line. Wrapped, its indentation would stand in the middle.
        self.help = re.sub(r"\n {4,}(?=\S)", " ", self.help or "")

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # By name: typer may carry a click of its own.
            if type(error).__name__ == "NoSuchOption":
                known = {
                    o.lstrip("-").replace("-", "_"): o for p in self.params for o in p.opts if o[:2] == "--"
                }
                nearest = nearest_name(error.option_name.lstrip("-").replace("-", "_"), list(known))
                error.possibilities = [known[nearest]] if nearest else []
            elif "unexpected extra argument" in str(getattr(error, "message", "")) and self._writes():
                error.message = f"{error.message.rstrip('.')}. What is written is named with --out."
            raise

    def _writes(self) -> bool:
        return any("--out" in one.opts for one in self.params)


app = typer.Typer(
    name="labelscape",
    help=(
        "Land-cover maps from satellite and aerial scenes: train a segmentation network on a scene and its "
        "labels, measure its accuracy, map scenes of any size."
    ),
    # Without a verb there is nothing to do: help says more than an error.
    no_args_is_help=True,
    add_completion=True,
    # main() prints a user's mistake as one line; a bug keeps its plain traceback.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

VERBS = {
    demo: "Map a real Sentinel-2 scene from start to end.",
    doctor: "Check the installation.",
    info: "Show what a checkpoint, map or scene holds.",
    models: "List the networks and their options.",
    train: "Train a network; score it on held-out blocks.",
    tune: "Search the settings that score best.",
    evaluate: "Measure accuracy against labels.",
    compare: "Is another model better than the first?",
    calibrate: "Calibrate the predicted probabilities.",
    check: "Check that a scene fits a model; estimate time.",
    map: "Map a scene of any size.",
    mosaic: "Join maps of many scenes into one.",
    sieve: "Apply a minimum mapping unit to a class map.",
    style: "Write styles for QGIS and map servers.",
    polygonize: "Convert a class raster to polygons.",
    serve: "Look at a map in the browser.",
    review: "Rank a map's doubtful areas for correction.",
    sample: "Draw a random sample of a map to be interpreted.",
    assess: "Accuracy and areas with intervals, from a sample.",
    explain: "Look inside a network on your own scenes.",
    table: "Reproduce a table of a paper.",
    bench: "Measure speed and memory of the networks.",
    export: "Export a model for other programs; its card.",
    push: "Publish a model with its card and checksum.",
    qgis: "Install a QGIS plug-in that maps rasters.",
    import_caffe: "Import weights published for Caffe.",
}
"""One line each for the list of commands, short enough not to be cut at 80 columns."""

for verb, line in VERBS.items():
    app.command(verb.NAME, short_help=line, cls=Verb)(verb.run)
data.app.command(data_check.NAME, cls=Verb, short_help="Check your images and labels for mistakes.")(
    data_check.run_check
)
app.add_typer(data.app, name=data.NAME, short_help="Published data sets; check your own data.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"labelscape {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


def main(argv: list[str] | None = None, *, name: str | None = None) -> None:
    """Run the command line and end the process with its exit code. `name` is the program's name in help."""
    # At its end Python looks for garbage once more, among all that torch and timm have made: for a second, in
    # a process whose memory is given back anyway. What is frozen it leaves alone.
    atexit.register(gc.freeze)
    share_cores()
    with streams.usable(), streams.stopped_by_signals():
        _run(argv, name)


def _run(argv: list[str] | None, name: str | None) -> None:
    try:
        try:
            app(argv, prog_name=name)
        finally:
            streams.flush()
    except SystemExit as ended:
        # 128 + the number of the signal, as shells count: 1 hang-up, 2 interrupt, 15 terminate.
        if ended.code in (129, 130, 143):  # typer catches Ctrl-C itself, and prints nothing
            talk("labelscape: stopped.")
        raise
    except LabelscapeError as error:
        talk(f"labelscape: {getattr(error, 'typed', error)}")
        # No traceback: the message says what to do, and a traceback would bury it.
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        talk("labelscape: stopped.")
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        talk(f"labelscape: {str(error.filename)[:80]}... cannot be a file: {error.strerror.lower()}.")
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        talk("labelscape: out of memory. Use a smaller --tile-size or --crop and --batch.")
        sys.exit(1)
