"""SLURM batch scripts: what the scripts of `train` and of `map` have in common."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from labelscape.errors import BadOption

CPUS_FOR_SRUN = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun no longer takes it from sbatch"


def header(
    name: str, out: str | Path, *, nodes: int, tasks: int, cpus: int, hours: int, gpus: int = 0, gib: int = 0
) -> str:
    """The head of a job called `name` that writes into the folder `out`: `tasks`, `gpus` and `gib` of memory
    are those of one node, `cpus` those of one task. Without `gib` the cluster's default holds. Raises
    BadOption for less than one hour.
    """
    if hours < 1:
        raise BadOption(f"`hours={hours}` must be at least 1.")
    # A requeued job writes into the same folder, which is what lets it continue.
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=labelscape-{name}",
        f"#SBATCH --nodes={nodes}",
        f"#SBATCH --ntasks-per-node={tasks}",
        *([f"#SBATCH --gpus-per-node={gpus}"] if gpus else []),
        f"#SBATCH --cpus-per-task={cpus}",
        *([f"#SBATCH --mem={gib}G"] if gib else []),
        f"#SBATCH --time={hours}:00:00",
        f'#SBATCH --output="{out}/slurm-%j.log"',
        "#SBATCH --requeue",
        "# SLURM writes no log into a folder that is not there. Before submitting: mkdir -p "
        + shlex.quote(str(out)),
    ]
    return "\n".join(lines)


def activation() -> str:
    """The shell line that activates the environment of this Python: conda, venv, or a reminder without
    either.
    """
    here = Path(sys.prefix)
    if (here / "conda-meta").is_dir():
        # CONDA_EXE is <installation>/bin/conda; its activate script needs no `conda init`.
        home = here.parent.parent if here.parent.name == "envs" else here
        if "CONDA_EXE" in os.environ:
            home = Path(os.environ["CONDA_EXE"]).parent.parent
        return f"source {shlex.quote(str(home / 'bin' / 'activate'))} {shlex.quote(str(here))}"
    if sys.prefix != sys.base_prefix:
        return f"source {shlex.quote(str(here / 'bin' / 'activate'))}"
    return "# No environment was active when this script was written: activate the one with labelscape here."
