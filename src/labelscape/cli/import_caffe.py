"""labelscape import-caffe: convert a published .caffemodel to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import Overwrite, talk

NAME = "import-caffe"


def run(
    model: Annotated[
        Path,
        typer.Argument(
            help="A .caffemodel published by Maggiori et al. (FCN, skip or MLP; Vaihingen or Inria)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write (.safetensors).")],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names in the order of the network's outputs: other,building."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option("--bands", help="Band names in the order of the scenes' files: red,green,blue."),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option("--pixel-size", help="Pixel size of the training imagery in metres.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights published for Caffe to a checkpoint; Caffe itself is not needed.

    Example: labelscape import-caffe inria_mlp.caffemodel --out inria_mlp.safetensors
    """
    from labelscape.export.from_caffe import import_caffe

    names = tuple(classes.split(",")) if classes else None
    checkpoint, notes = import_caffe(
        model,
        out,
        classes=names,
        bands=tuple(bands.split(",")) if bands else None,
        pixel_size=pixel_size,
        overwrite=overwrite,
    )
    # Bands turned and classes made of one output: whoever compares with Caffe must know.
    for note in notes:
        talk(note)
    print(
        f"{checkpoint.network} with the classes {', '.join(checkpoint.legend.names)}, bands "
        f"{' '.join(checkpoint.bands)}: {out}"
    )
