"""labelscape bench: how fast the networks are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import AsJson, Device, Precision, print_json, talk

if TYPE_CHECKING:
    from labelscape.benchmark.result import BenchResult

NAME = "bench"

Networks = Annotated[
    str | None,
    typer.Option(
        "--networks",
        help="Names separated by commas, such as mlp,smp/Unet (labelscape models).",
        show_default="all of the catalogue, smp/Unet and smp/DeepLabV3Plus",
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Images of 128 x 128, 3 runs, PyTorch alone unless named.")
]
Engines = Annotated[
    str | None,
    typer.Option(
        "--engines",
        help="Engines separated by commas: torch,openvino,onnxruntime.",
        show_default="all installed",
    ),
]
Side = Annotated[
    int | None,
    typer.Option(
        "--side",
        help="Side of the predicted image in pixels; training has two crops of half of it.",
        show_default="512",
    ),
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", help="How often each measurement is repeated.", show_default="5")
]
Plot = Annotated[Path | None, typer.Option("--plot", help="Write a figure to this file, PNG or SVG.")]


def run(
    networks: Networks = None,
    quick: Quick = False,
    engines: Engines = None,
    side: Side = None,
    rounds: Rounds = None,
    device: Device = "auto",
    precision: Precision = "32",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory of networks on this machine, with random weights on random pixels: a forward
    pass with each engine, a training step, both as a share of what the machine reaches in a matrix product,
    and the ratios of times that papers print.

    Examples:

      labelscape bench --quick

      labelscape bench --networks mlp,smp/Unet --plot bench.svg

      OMP_NUM_THREADS=1 labelscape bench --json > bench.json

    Ctrl-C prints what was measured so far.
    """
    from labelscape.benchmark.run import bench
    from labelscape.files import written_whole

    _check_plot(plot)

    def show(result: BenchResult) -> None:
        if as_json:
            print_json(result.as_json())
        else:
            print(result.text)
        # After the measurements, which would be lost where it fails.
        if plot is not None:
            from labelscape.benchmark.figure import drawn

            with written_whole(plot, overwrite=True) as part:
                part.write_bytes(drawn(result, plot.suffix.lower().lstrip(".")))
            talk(f"figure: {plot}")

    show(
        bench(
            _listed(networks),
            side=side,
            rounds=rounds,
            engines=_listed(engines),
            device=device,
            precision=precision,
            quick=quick,
            unfinished=show,
        )
    )


def _check_plot(plot: Path | None) -> None:
    """Raises BadOption, BadFile for a figure that cannot be written: before minutes of work."""
    from labelscape.errors import BadOption
    from labelscape.files import check_written, make_folder, try_to_write

    if plot is None:
        return
    if plot.suffix.lower() not in (".png", ".svg"):
        raise BadOption(f"--plot {plot} must end in .png or .svg.")
    check_written(plot)
    make_folder(plot.parent)
    try_to_write(plot)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
