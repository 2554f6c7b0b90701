"""labelscape export: write a checkpoint's network in a format of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.given_files import check_models
from labelscape.cli.options import AsJson, Overwrite, print_json
from labelscape.cli.push import License

if TYPE_CHECKING:
    from labelscape.export.model import Exported

NAME = "export"


Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Rows and columns of every image that the network is given.",
        show_default="what the network learned",
    ),
]
Dynamic = Annotated[
    bool, typer.Option("--dynamic", help="Any multiple of the network's stride instead of one size.")
]
Opset = Annotated[int, typer.Option("--opset", help="Version of ONNX's operators, 14 to 20.")]
Dtype = Annotated[
    str, typer.Option("--dtype", help="float32; float16, half the size; or int8, a quarter, scored first.")
]
Normalise = Annotated[
    str,
    typer.Option(
        "--normalise",
        help="What the network is given: inside, the scene's own units, scaled in the graph; outside, "
        "(value - mean) / std; unit, 8-bit values over 255.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Keep a network in int8 whose scores fall too far.")]
Task = Annotated[
    str | None,
    typer.Option("--task", help="The second task of the model instead.", show_default="its own classes"),
]


def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint (.safetensors).")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="onnx, openvino, pt2 (torch.export), smp-folder; or card: model card, STAC item."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write; of a card its folder.", show_default="beside the checkpoint"
        ),
    ] = None,
    size: Size = None,
    dynamic: Dynamic = False,
    opset: Opset = 17,
    dtype: Dtype = "float32",
    normalise: Normalise = "inside",
    task: Task = None,
    force: Force = False,
    license: License = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export a network for other programs: QGIS Deepness, GeoDeep, onnxruntime.

    The file is run and compared with PyTorch before it is kept: probabilities differ by at most 1e-4; of
    --dtype int8 the scores on the held-out blocks are compared. It carries the classes, bands,
    scaling, pixel size and tile size.

    Examples:

      labelscape export run/mlp.safetensors --to onnx

      labelscape export run/mlp.safetensors --size 512 --normalise unit --out deepness.onnx

      labelscape export run/mlp.safetensors --to card --license CC-BY-4.0
    """
    check_models([model])
    if to == "card":
        _card(model, out, license, overwrite, as_json)
        return
    from labelscape.export.model import export_model

    done = export_model(
        model,
        out,
        to=to,
        size=size,
        dynamic=dynamic,
        opset=opset,
        dtype=dtype,
        normalise=normalise,
        task=task,
        force=force,
        overwrite=overwrite,
    )
    _print(done, as_json)


def _print(done: Exported, as_json: bool) -> None:
    if as_json:
        fields = {"path": str(done.path), "format": done.format, "size": done.size, "bytes": done.bytes}
        fields |= {"difference": done.difference, "changed": done.changed}
        print_json({**fields, **({"check": done.check.describe()} if done.check else {})})
        return
    print(f"{'exported':<11}{done.path} ({done.bytes / 2**20:.1f} MiB)")
    if done.format == "smp-folder":
        print(f'load it with: smp.from_pretrained("{done.path}")')
        return
    images = (
        f"any multiple of {done.stride} pixels" if done.size is None else f"{done.size} x {done.size} pixels"
    )
    print(f"{'images':<11}{images}")
    if done.check:
        for number, line in enumerate(done.check.lines()):
            print(f"{'' if number else 'compared':<11}{line}")
        return
    changed = f"; {100 * done.changed:.3g} % of pixels get another class" if done.changed else ""
    print(f"{'compared':<11}probabilities differ from PyTorch's by at most {done.difference:.1g}{changed}")


def _card(model: Path, out: Path | None, license: str, overwrite: bool, as_json: bool) -> None:
    from labelscape.export.push import write_card

    paths = write_card(model, out, license=license, overwrite=overwrite)
    if as_json:
        print_json({"paths": [str(path) for path in paths]})
        return
    for what, path in zip(("card", "STAC item"), paths, strict=True):
        print(f"{what:<11}{path}")
