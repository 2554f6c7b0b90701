"""A network of segmentation-models-pytorch as that library saves its models (`save_pretrained`):
`smp.from_pretrained(FOLDER)` loads it where Labelscape is not installed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.export.card import card
from labelscape.files import make_folder, no_room, temporary_folder, written_whole
from labelscape.nets.catalog import SMP
from labelscape.nets.libraries import import_smp
from labelscape.scoring.engines import build_network
from labelscape.scoring.proof import proof_images

CONTRACT = "labelscape.json"
"""Beside the library's own files: what a model of it does not say of its input and its classes."""


def write_smp_folder(
    checkpoint: Checkpoint, folder: Path, *, overwrite: bool
) -> tuple[int, float, tuple[int, int, int, int]]:
    """Write the folder; returns its bytes, the largest difference of a logit of what the library loads
    from it, and the shape of the images that were compared. Raises BadOption for a network of another
    library, BadFile where the folder holds a model already or cannot be written, BadInput where it does not
    load back.
    """
    if not checkpoint.network.startswith(SMP):
        raise BadOption(
            f"`to='smp-folder'` is for networks of segmentation-models-pytorch (smp/Unet); "
            f"{checkpoint.network} is none: use `to='onnx'`."
        )
    if (folder / "config.json").exists() and not overwrite:
        raise BadFile(f"{folder} holds a model already; pass `overwrite=True` to replace it.")
    net = build_network(checkpoint)
    contract = checkpoint.contract
    about = {
        "bands": list(contract.bands),
        "normalisation": [list(pair) for pair in contract.normalisation],
        "temperature": checkpoint.temperature,
        "classes": list(checkpoint.legend.names),
    }
    with temporary_folder() as place:
        try:
            net.net.save_pretrained(str(place))
        except SafetensorError as error:  # of writing: its weights are those of a network
            raise no_room() from error
        (place / CONTRACT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        # The library's own card knows neither training nor scores.
        text = card(checkpoint, name=folder.name)
        (place / "README.md").write_text(text, encoding="utf-8", newline="\n")
        difference, shape = _loaded_back(place, checkpoint, net)
        make_folder(folder)
        files = [file for file in place.iterdir() if file.is_file()]
        for file in files:
            with written_whole(folder / file.name, overwrite=overwrite) as part:
                shutil.copyfile(file, part)
        return sum(file.stat().st_size for file in files), difference, shape


@torch.inference_mode()
def _loaded_back(
    folder: Path, checkpoint: Checkpoint, net: torch.nn.Module
) -> tuple[float, tuple[int, int, int, int]]:
    loaded = import_smp().from_pretrained(str(folder)).eval()
    shape = (1, len(checkpoint.bands), 2 * net.stride, 2 * net.stride)
    images = proof_images(checkpoint, shape)
    difference = float((loaded(images) - net(images)).abs().max())
    if not difference <= 1e-4:
        raise BadInput(
            f"{checkpoint.network} does not load back as it is: logits differ by {difference:.3g}. Use "
            "`to='onnx'`."
        )
    return difference, shape
