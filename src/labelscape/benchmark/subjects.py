"""What is measured: a network of the catalogue predicting with an engine, or training, on random pixels."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.grid import Window
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model, options_of
from labelscape.nets.count import macs
from labelscape.nets.shapes import shapes_alone
from labelscape.scoring.engine_choice import with_engine
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.proof import proof_images
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.tiles import TilePlan
from labelscape.training.recipe import make_recipe
from labelscape.training.team import gather
from labelscape.training.timing import Training

BANDS, CLASSES = 4, 6
CROPS = 2
"""In a training step: batch normalisation refuses a single value, which one crop pooled to one cell has."""
OPERATIONS = {"forward": 2, "training step": 6}
"""Floating-point operations for each multiply-accumulate of a forward pass: the backward pass multiplies
twice as often, for the inputs and for the weights.
"""

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """Something to be timed: `run()` does it once, for `pixels` pixels with `operations` operations."""

    what: str
    engine: str
    run: Callable[[], object]
    pixels: int
    operations: int


def blank_checkpoint(name: str, options: Options) -> Checkpoint:
    """A network with random weights as a checkpoint, for imagery that nobody has."""
    torch.manual_seed(0)
    net = create_model(name, in_channels=BANDS, classes=CLASSES, **options)
    bands = tuple(f"b{n}" for n in range(BANDS))
    contract = Contract(bands=bands, dtype="uint16", normalisation=((1000.0, 500.0),) * BANDS)
    legend = Legend.of_names([f"c{n}" for n in range(CLASSES)])
    return Checkpoint(name, dict(options), state_arrays(net), legend, contract)


def multiplications(name: str, options: Options, side: int) -> int:
    """Multiply-accumulates of a forward pass over one image."""
    with shapes_alone():
        net = create_model(name, in_channels=BANDS, classes=CLASSES, **without_weights(name, options))
    return macs(net, side, side, BANDS)


def without_weights(name: str, options: Options) -> dict[str, Any]:
    """The options with random weights: trained ones change no time, and would be downloaded."""
    return {**options, **({"pretrained": False} if "pretrained" in options_of(name) else {})}


def forward(checkpoint: Checkpoint, side: int, engine: str, device: str, precision: str) -> Work:
    """A forward pass over one image, as a map makes it. Raises BadOption and BadInput where the engine cannot
    be used or does not give what torch gives.
    """
    scorer = Scorer.of(checkpoint, device=device, precision=precision)
    plan = TilePlan(Window(0, 0, side, side), side, 0)
    with forgotten():
        scorer = with_engine(scorer, [plan], engine).scorer
    images = proof_images(checkpoint, (1, BANDS, side, side)).to(scorer.device)
    count = multiplications(checkpoint.network, checkpoint.options, side)
    run = torch.inference_mode()(lambda: scorer.members[0].engine.forward(images))
    return Work("forward", engine, run, side * side, OPERATIONS["forward"] * count)


def training_step(name: str, options: Options, side: int, device: str, precision: str) -> Work:
    """A step of training as `train` makes it: forward, loss, backward, optimizer."""
    recipe = make_recipe(
        data={"images": ["random pixels"]},
        network=name,
        options=without_weights(name, options),
        batch=CROPS,
        crop=side,
        device=device,
        precision=precision,
    )
    training = Training(recipe, BANDS, CLASSES, gather(device, precision))
    operations = OPERATIONS["training step"] * training.multiplications
    return Work("training step", "torch", training.step, CROPS * side * side, operations)


@contextmanager
def forgotten() -> Iterator[None]:
    """Converted networks go to a folder that is removed: nobody maps with these weights."""
    before = os.environ.get("LABELSCAPE_CACHE")
    with tempfile.TemporaryDirectory(prefix="labelscape-bench-") as folder:
        os.environ["LABELSCAPE_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["LABELSCAPE_CACHE"]
            else:
                os.environ["LABELSCAPE_CACHE"] = before
