"""The processes that train together. Alone is a team of one: nobody else asks how many there are."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from labelscape.errors import LabelscapeError
from labelscape.scoring.engines import pick_device

PATIENCE = datetime.timedelta(minutes=30)
"""A process that waits longer than this for the others gives up: somebody died without a word."""

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""A recipe's words in Fabric's."""


def gather(device: str, precision: str) -> Fabric:
    """The team as `torchrun` or SLURM started it, one process a GPU; without either, this process alone.
    `precision` is "32", "bf16" or "16".
    """
    where = pick_device(device)
    # SLURM_STEP_...: set for what `srun` starts, not for a lone process inside a batch script.
    size = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))
    if size == 1:
        return Fabric(
            accelerator=where.type,
            devices=[where.index] if where.index is not None else 1,
            precision=PRECISIONS[precision],
        )
    per_node = int(
        os.environ.get(
            "LOCAL_WORLD_SIZE", os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(size)).split("(")[0]
        )
    )
    # Some parameters take no part in some batches (generators below their threshold, heads of a task without
    # crops).
    strategy = DDPStrategy(timeout=PATIENCE, find_unused_parameters=True)
    fabric = Fabric(
        accelerator=where.type,
        devices=per_node,
        num_nodes=max(1, size // per_node),
        strategy=strategy,
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


@contextmanager
def telling_of_the_lost(fabric: Fabric) -> Iterator[None]:
    """What the library of messages says of a process that died becomes a sentence, a LabelscapeError; all
    else passes.
    """
    try:
        yield
    except RuntimeError as error:
        signs = ("gloo", "NCCL", "Connection", "connection", "imed out", "remote process", "peer")
        if (
            fabric.world_size == 1
            or isinstance(error, LabelscapeError)
            or not any(sign in str(error) for sign in signs)
        ):
            raise
        raise LabelscapeError(
            f"Process {fabric.global_rank} of {fabric.world_size} lost contact with another process "
            f"({str(error).splitlines()[0][:200]}). What starts the processes names the "
            "one that died, torchrun at the end of its output; the same command continues from the last "
            "saved state."
        ) from error


def together(fabric: Fabric, value: float) -> float:
    """The sum over all processes."""
    if fabric.world_size == 1:
        return value
    total = torch.tensor(
        value, dtype=torch.float64, device=fabric.device if fabric.device.type != "mps" else "cpu"
    )
    return float(fabric.all_reduce(total, reduce_op="sum"))
