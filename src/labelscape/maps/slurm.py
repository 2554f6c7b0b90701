"""A map, or many, as a SLURM batch script: a Dask scheduler, workers and the command in one allocation.

One job, not one for each worker as dask-jobqueue submits them: nothing has to stay alive on a login node, no
compute node has to submit jobs, which many sites forbid, and the job is queued, cancelled, requeued and
submitted again as a whole. dask-jobqueue's own form of that, SLURMRunner, takes two tasks of the allocation
for the scheduler and the command, which for a job of GPUs are two idle cards.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelscape.batch_script import CPUS_FOR_SRUN, activation, header
from labelscape.checkpoint import load_all
from labelscape.errors import LabelscapeError
from labelscape.maps.plan import check, refuse_unless
from labelscape.scenes.files import Source, is_local, source_paths
from labelscape.scenes.stac_many import document_of
from labelscape.workers.cluster import OWN_KEY, SCHEDULER, WORKER, check_installed

NODES_OWN = ("/tmp", "/var/tmp", "/dev/shm", "/run", tempfile.gettempdir())
"""Folders that are each machine's own on any cluster. Of others it cannot be told here: a folder is shared
where the server exports it, which may be this machine. The job itself probes them on its workers.
"""
BESIDE_BYTES = 150 * 2**20
SCHEDULER_BYTES = 400 * 2**20
"""Memory of the process that watches a worker and starts it again, and of the scheduler, rounded up from
about 100 and 340 MiB.
"""
GPU_CPUS = 2
"""Per worker with a GPU: one feeds the card, one reads the next tile."""


def map_script(
    command: str, out: str | Path, *, nodes: int, workers: int, hours: int, ram: int, gpu: bool = False
) -> str:
    """A SLURM batch script that maps on `nodes` machines with `workers` processes each, of one thread, in the
    Python environment that is active now. `command` holds the arguments of `labelscape map`, `ram` the bytes
    that a process needs. With `gpu` each worker has a GPU of its own.

    Raises BadOption for less than one hour.
    """
    # The command itself, which joins blocks to rasters, needs no more than a worker.
    gib = math.ceil(((workers + 1) * ram + SCHEDULER_BYTES) / 2**30)
    cpus, gpus = (GPU_CPUS, workers) if gpu else (1, 0)
    head = header("map", out, nodes=nodes, tasks=workers, cpus=cpus, gpus=gpus, gib=gib, hours=hours)
    folder = shlex.quote(str(out))
    return f"""{head}
# One task is one worker{", with one GPU" if gpu else ""}. The scheduler and the command run beside those
# of the first node. A job that was stopped or ran out of time, submitted again, maps what is missing.
{activation()}
set -euo pipefail
{CPUS_FOR_SRUN}
mkdir -p {folder}
out=$(cd {folder} && pwd)
own=$out/.slurm-$SLURM_JOB_ID  # seen by all nodes
rm -rf "$own"  # of a requeued job
mkdir -m 700 "$own"
# The key first: a job over its time limit is killed seconds later.
trap 'trap - TERM; rm -rf "$own"; kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 143' TERM  # the time limit, or scancel
{OWN_KEY}
{SCHEDULER} --scheduler-file "$own/scheduler.json" &
scheduler=$!
until [ -s "$own/scheduler.json" ]; do
    kill -0 $scheduler 2>/dev/null || {{ echo "The scheduler did not start." >&2; exit 1; }}
    sleep 1
done
# A worker that dies is started again by Dask, and does not end the others.
log=$out/slurm-$SLURM_JOB_ID-workers.log
srun --kill-on-bad-exit=0 --wait=0 --output="$log" \\
    {WORKER} --scheduler-file "$own/scheduler.json" &
workers=$!
labelscape map --cluster "$own/scheduler.json" --workers {nodes * workers} {command} &
map=$!
wait -n || true
if kill -0 $map 2>/dev/null; then
    echo "The scheduler or all workers ended before the map; $log may say why." >&2
    exit 1
fi
kill $scheduler  # the workers then end by themselves
wait $scheduler $workers || true
wait $map
"""


def on_this_machine_alone(places: Iterable[object]) -> str:
    """The first local file or folder, of paths, scenes and None, that other machines cannot see; "" without
    one.
    """
    for place in places:
        found = () if place is None else source_paths(place)
        for one in (found,) if isinstance(found, str) else found or ():
            file = document_of(one)[0]
            true = Path(os.path.realpath(file))
            if is_local(file) and any(true.is_relative_to(os.path.realpath(own)) for own in NODES_OWN):
                return one
    return ""


def bytes_a_worker(models: Sequence[Path], scenes: Sequence[Source], settings: Mapping[str, Any]) -> int:
    """Memory of a worker, estimated on the first of the scenes that can be mapped, with the network on the
    CPU: what a login node has says nothing of the nodes. Raises what `check` raises, Refused where no scene
    fits, BadOption where Dask is not installed.
    """
    check_installed()
    loaded = load_all(list(models))
    failed: LabelscapeError | None = None
    for scene in scenes:
        try:
            found = check(loaded, scene, timing=False, **{**settings, "device": "cpu"})
            if found.plan is None or not settings.get("force"):
                refuse_unless(found.findings, str(scene))
            return found.plan.ram + BESIDE_BYTES
        except LabelscapeError as error:
            failed = failed or error
    raise failed
