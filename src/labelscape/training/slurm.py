"""A training run as a SLURM batch script."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from labelscape.batch_script import CPUS_FOR_SRUN, activation, header
from labelscape.training.outputs import state_path
from labelscape.training.recipe import Recipe, as_recipe, make_recipe, refuse_unequal_parts

CPUS = 4
"""Per task: one trains, one reads the next crops, the others serve decoding and the GPU's driver."""


def slurm_script(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    nodes: int = 1,
    gpus: int = 1,
    hours: int = 24,
    command: str | None = None,
) -> str:
    """A SLURM batch script that trains with one process per GPU, in the Python environment that is active
    now. Submitted again after its time limit, it resumes the run. `command` is `labelscape train` with the
    recipe unless given.

    Raises BadOption where the batch does not divide over the processes: now, not after a night in the queue.
    """
    recipe = as_recipe(recipe)
    network, processes = recipe.network, nodes * gpus
    refuse_unequal_parts(recipe, processes, f"{nodes} x {gpus} = {processes} GPUs")
    name = network.replace("/", "-").lower()
    head = header(name, out, nodes=nodes, tasks=gpus, gpus=gpus, cpus=CPUS, hours=hours)
    # The port follows from the job's number: two jobs on one node must not meet at one port.
    return f"""{head}
# One task a GPU. A task that dies ends the others at once; the job, submitted or requeued again, continues
# from its last saved state:
# {state_path(Path(out), network)}
{activation()}
set -euo pipefail
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
{CPUS_FOR_SRUN}
srun --kill-on-bad-exit=1 {command or command_of(recipe, out)}
"""


def command_of(recipe: Recipe, out: str | Path) -> str:
    """The command line that trains this recipe."""
    images = [image if isinstance(image, str) else ",".join(image) for image in recipe.data.images]
    # What equals a field's default may differ from the network's own, which the command would apply.
    usual = make_recipe(data=recipe.data, network=recipe.network)
    settings = [
        *_changed(recipe, ("data", "mate"), usual=usual),
        *_changed(recipe.data, ("images",), "data."),
    ]
    if recipe.mate:
        settings += [("mate", recipe.mate.model_dump_json(exclude_defaults=True))]
    # All by -o: its values are JSON, which holds lists and mappings too.
    options = [word for name, value in settings for word in ("-o", f"{name}={value}")]
    return shlex.join(["labelscape", "train", *images, "--out", str(out), *options])


def _changed(
    model: BaseModel, without: tuple[str, ...], where: str = "", usual: BaseModel | None = None
) -> Iterator[tuple[str, str]]:
    """Name and JSON of the settings that differ from their defaults, or from those of `usual`."""
    for name, setting in type(model).model_fields.items():
        value, default = getattr(model, name), setting.get_default(call_default_factory=True)
        # The base network's rate follows `rate` unless it is given.
        follows = name == "base_rate" and bool(getattr(model, "base_steps", 0))
        if name in without or not (follows or value != default or (usual and value != getattr(usual, name))):
            continue
        yield where + name, TypeAdapter(setting.annotation).dump_json(value).decode()
