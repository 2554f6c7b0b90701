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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from labelscape.batch_script import CPUS_FOR_SRUN, activation, header
from labelscape.checkpoint import load_all
from labelscape.errors import BadOption, LabelscapeError
from labelscape.maps.plan import check, refuse_unless
from labelscape.maps.request import MapRequest, MapSettings, Models, request_for, spelt_out
from labelscape.scenes.files import Source, is_local, source_paths
from labelscape.scenes.scene_list import find_scenes
from labelscape.scenes.stac_many import document_of
from labelscape.scoring.protocol import Protocol
from labelscape.workers.cluster import OWN_KEY, SCHEDULER, WORKER, check_installed
from labelscape.workers.share import TIME_LIMIT

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
MOST_CHECKED = 3
"""Scenes of many that are opened for an estimate of the memory, until one fits (ours)."""


@spelt_out
def slurm_map_script(
    checkpoint: Models,
    scenes: str | Path | Sequence[str | Path | tuple[str, ...]],
    out: str | Path,
    *,
    nodes: int = 1,
    workers: int = 1,
    hours: int = 24,
    each: bool = False,
    request: MapRequest | None = None,
    protocol: Protocol | None = None,
    overwrite: bool = False,
    grain: str = "auto",
    block_timeout: float | None = TIME_LIMIT,
    journal: str | None = None,
    **settings: Unpack[MapSettings],
) -> str:
    """A SLURM batch script that maps scenes into the folder `out` on workers, in the Python environment that
    is active now; what `labelscape map --slurm` prints. Submitted again after its time limit, it maps what is
    missing.

    checkpoint  the file of a checkpoint, or of several whose probabilities are averaged
    scenes      what `find_scenes` takes, with `each`; the job lists the scenes anew. Paths as the job sees
                them from the folder it is submitted from
    nodes, workers
                machines, and processes on each, of one thread; with `device="cuda"` each has a GPU
    hours       time limit of the job
    request, protocol, overwrite, grain, block_timeout, journal
                as `map_scenes` has them
    settings    those of `MapRequest`, for all scenes. With their defaults:

    {settings}

    The memory that it asks for is estimated on the first scene that fits. Raises BadOption with all invalid
    settings, for a checkpoint in memory, a file that other machines do not see, less than one hour, and where
    Dask is not installed; what `find_scenes` and `check` raise, Refused where no scene fits.
    """
    # The scene of each map is one of those that the job finds.
    request = request_for(checkpoint, None, request, protocol, {**settings, "scene": ()})
    if not request.checkpoint:
        raise BadOption(
            "A job reads the checkpoint from its file; save it (`labelscape.save`) and pass that."
        )
    found = find_scenes(scenes, each=each, asset=request.asset, allow_remote=request.allow_remote)
    given = [scenes] if isinstance(scenes, (str, os.PathLike)) else scenes
    first, *also = request.checkpoint
    words = [first, *(",".join(one) if isinstance(one, tuple) else str(one) for one in given)]
    words += ["--out", str(out), *(f"--also={one}" for one in also), *_options(request)]
    words += [f"--grain={grain}"] * (grain != "auto") + [f"--journal={journal}"] * (journal is not None)
    words += ["--each"] * each + ["--overwrite"] * overwrite
    limit = math.inf if block_timeout is None else block_timeout
    words += [f"--block-timeout={limit}"] * (limit != TIME_LIMIT)
    known = request.model_dump(exclude={"checkpoint", "scene"})
    size = {"nodes": nodes, "workers": workers, "hours": hours}
    return script_of(words, request.checkpoint, [one.source for one in found], out, known, **size).text


def _options(request: MapRequest) -> Iterator[str]:
    """The options of `labelscape map` for what differs from the defaults, all but the device."""
    for name, about in MapRequest.model_fields.items():
        value, option = getattr(request, name), name.replace("_", "-")
        if name in ("checkpoint", "scene", "device") or value == about.get_default():
            continue
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif name == "creation_options":
            yield from (f"--co={one}" for one in value)
        else:
            yield f"--{option}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


class Script(NamedTuple):
    """A batch script, and the bytes of memory that it asks for each worker."""

    text: str
    ram: int


def script_of(
    words: Sequence[str],
    models: Sequence[str | Path],
    sources: Sequence[Source],
    out: str | Path,
    settings: Mapping[str, Any],
    *,
    nodes: int,
    workers: int,
    hours: int,
) -> Script:
    """The script of a map whose command line has these `words`, all but the device. Raises as
    `slurm_map_script`.
    """
    device = settings["device"]
    if ":" in device:
        raise BadOption(
            f"A SLURM job gives each worker a GPU of its own: `device='cuda'` instead of {device}."
        )
    if there := on_this_machine_alone([*models, out, settings["area"], *sources]):
        raise BadOption(
            f"{there} lies in a folder of this machine alone, which the nodes of a SLURM job do not see. "
            "Move it to a folder that they share: home, project or scratch."
        )
    ram = bytes_a_worker([Path(one) for one in models], sources[:MOST_CHECKED], settings)
    # Unasked, a worker would take a GPU that the job did not ask for.
    device = "cpu" if device == "auto" else device
    command = shlex.join([*words, "--device", device])
    size = {"nodes": nodes, "workers": workers, "hours": hours}
    return Script(map_script(command, out, **size, ram=ram, gpu=device == "cuda"), ram)


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
