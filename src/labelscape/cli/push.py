"""labelscape push: put a model where others find it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.given_files import check_models
from labelscape.cli.options import AsJson, Overwrite, print_json
from labelscape.text import typed

NAME = "push"
License = Annotated[
    str, typer.Option("--license", help="SPDX identifier for the card: CC-BY-4.0, MIT.", show_default="none")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the model in its card.", show_default="the target's")
]


def run(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint (.safetensors), or a model of export (.onnx, .xml, .pt2).")
    ],
    target: Annotated[str, typer.Argument(help="A folder, hf://owner/name or s3://bucket/prefix.")],
    license: License = "",
    name: Name = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository of Hugging Face is not public.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Publish a model with a model card, a STAC item and its SHA-256.

    All verbs take the place for the model, and refuse a file that is not the one pushed:
    labelscape map hf://owner/name scene.tif --out map.

    Examples:

      labelscape push run/mlp.safetensors shared/fields --license CC-BY-4.0

      labelscape push run/mlp.safetensors hf://owner/fields --license CC-BY-4.0
    """
    check_models([model])
    from labelscape.export.push import push

    done = push(model, target, name=name, license=license, private=private, overwrite=overwrite)
    if as_json:
        print_json(asdict(done))
        return
    print(f"{'pushed':<11}{done.place} ({', '.join(done.files)})")
    print(f"{'SHA-256':<11}{done.sha256}")
    print(f"map a scene with: labelscape map {typed(done.place)} SCENE --out map")
