"""Estimate the time and memory of a training run from a few real steps. Nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from labelscape.nets.blocks import Network
from labelscape.progress import bar
from labelscape.training.beforehand import check_beforehand
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.loop import set_up, update
from labelscape.training.recipe import Recipe, as_recipe
from labelscape.training.run import base_recipe
from labelscape.training.setup import Task, build_network, check_networks, make_tasks
from labelscape.training.team import gather

STEPS = 3
"""The first is left out of the timing: it allocates memory and chooses kernels."""


@dataclass(frozen=True)
class Rehearsal:
    """The estimate: steps, peak memory in bytes, seconds, and the sizes behind them.

    `steps` and `crops` include the base network's phase; `seconds_before` is what reading the data took. The
    score at the end is not included; `peak_bytes` is None where memory cannot be measured.
    """

    steps: int
    base_steps: int
    parameters: int
    crops: int
    labelled_pixels: int
    peak_bytes: int | None
    seconds_before: float
    seconds_per_step: float
    base_seconds_per_step: float

    def __repr__(self) -> str:
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / 2**30:.1f} GiB of memory"
        return f"<Rehearsal: {self.steps:,} steps in about {self.seconds / 60:.3g} minutes{memory}>"

    @property
    def seconds(self) -> float:
        return (
            self.seconds_before
            + (self.steps - self.base_steps) * self.seconds_per_step
            + self.base_steps * self.base_seconds_per_step
        )


def rehearse(recipe: Recipe | Mapping[str, Any]) -> Rehearsal:
    """Open the data and make three steps with the real networks, which are then discarded. Raises what
    `train` would.
    """
    recipe = as_recipe(recipe)
    check_networks(*([base_recipe(recipe)] if recipe.base_steps else []), recipe)
    fabric = gather(recipe.device, recipe.precision)
    start = check_beforehand(recipe, base_recipe(recipe) if recipe.base_steps else None, fabric)
    since = time.monotonic()
    with ExitStack() as opened:
        dataset = opened.enter_context(open_recipe_data(recipe.data, recipe.seed))
        mate = opened.enter_context(open_recipe_data(recipe.mate.data, recipe.seed)) if recipe.mate else None
        blank = blank_checkpoint(recipe, dataset)
        tasks = make_tasks(recipe, dataset, blank, mate)
        before = time.monotonic() - since
        base_step = 0.0
        if recipe.base_steps:
            base = base_recipe(recipe)
            _, base_step = _steps(base, build_network(base, dataset, None, None), tasks[:1], fabric)
        parameters, step = _steps(recipe, build_network(recipe, dataset, start, mate), tasks, fabric)
    steps = recipe.steps + recipe.base_steps
    return Rehearsal(
        steps,
        recipe.base_steps,
        parameters,
        steps * recipe.batch,
        int(tasks[0].drawing.index.class_counts.sum()),
        _peak(fabric.device),
        before,
        step,
        base_step,
    )


def _steps(recipe: Recipe, net: Network, tasks: list[Task], fabric: Fabric) -> tuple[int, float]:
    """Number of parameters of a network, and the seconds that a step takes after the first."""
    parameters = sum(p.numel() for p in net.parameters())
    net, optimizer = set_up(net, recipe, fabric)
    for group in optimizer.param_groups:  # three steps at a full rate could end in NaN
        group["lr"] = 0.0
    net.train()
    times = []
    with bar(f"rehearse {recipe.network}", STEPS, "steps", shown=fabric.is_global_zero) as tick:
        for step in range(STEPS):
            start = time.monotonic()
            batch = [
                [task.drawing.part(step, number, recipe.accumulate) for task in tasks]
                for number in range(recipe.accumulate)
            ]
            # float() waits for the GPU: otherwise only the launch of its work would be timed.
            float(update(net, optimizer, fabric, batch, recipe, tasks))
            times.append(time.monotonic() - start)
            tick()
    return parameters, min(times[1:])


def _peak(device: torch.device) -> int | None:
    """Peak memory so far in bytes: of the GPU, else of this process. None on Windows, which has no
    `resource`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
