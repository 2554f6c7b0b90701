"""Checkpoints and looks for tests of `explain`."""

from pathlib import Path

import numpy as np
import torch
import world

from labelscape.checkpoint import Checkpoint, save
from labelscape.explanation.analysis import Look
from labelscape.explanation.choosing import Wanted, choose
from labelscape.explanation.windows import network_of
from labelscape.maps.request import request_for
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays

TINY = {
    "mswbn": {"backbone": "resnet10t", "reduce": 6, "width": 4, "operations": 5},
    "dgcwnet": {"backbone": "resnet10t", "width": 4, "head_width": 6, "aux_width": 5},
    "ifbfnet": {"backbone": "resnet10t", "spatial": 5},
    "dfcnet": {
        "encoder": (1, 1, 1, 1),
        "decoder": (1, 1, 1, 1),
        "stem": 8,
        "growth": 4,
        "width": 8,
        "head_width": 8,
    },
}
WIDTHS = {"widths": (8, 8, 8, 8)}


def checkpoint_of(network: str, scene: Path, *, change=None, **options) -> Checkpoint:
    """A tiny network with statistics of noise that fits the scene; `change` is given the network before its
    weights are taken.
    """
    options = {**TINY.get(network, WIDTHS), **options}
    torch.manual_seed(0)
    contract = world.contract_like(scene)
    net = create_model(network, in_channels=len(contract.bands), classes=len(world.LEGEND), **options)
    for _ in range(3):
        net(torch.randn(2, len(contract.bands), 64, 64))
    if change is not None:
        with torch.no_grad():
            change(net)
    return Checkpoint(
        network=network, options=options, weights=state_arrays(net), legend=world.LEGEND, contract=contract
    )


def file_of(network: str, scene: Path, folder: Path, **options) -> Path:
    return save(checkpoint_of(network, scene, **options), folder / f"{network}.safetensors")


def look_at(checkpoint: Checkpoint, scene: Path, wanted: Wanted, **more) -> Look:
    """A look without the rest of `explain`, in float64 where equations are checked to the last digits."""
    net = network_of(checkpoint)
    request = request_for(checkpoint, scene, None, None, {})
    windows, _ = choose(net, checkpoint, request, [scene], wanted, lambda *a, **k: None)
    return Look(net, checkpoint, windows, **more)


def close(one, other, tolerance=1e-5) -> bool:
    return bool(np.allclose(np.asarray(one), np.asarray(other), rtol=tolerance, atol=tolerance))
