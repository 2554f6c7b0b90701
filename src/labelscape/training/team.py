"""The processes that train together (DDP through Lightning Fabric). A single process is a team of one, so
that other modules need no special case.
"""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from labelscape.errors import BadOption, LabelscapeError
from labelscape.scoring.devices import refuse_tf32
from labelscape.scoring.engines import pick_device

PATIENCE = datetime.timedelta(minutes=30)
"""A process that waits longer than this for the others gives up: one of them has died or hangs."""

PRECISIONS = {"32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""A recipe's `precision` -> Fabric's name for it."""

# Fabric advises to let PyTorch round products of matrices, a setting that we leave as it is;
# `told_of_precision` says what to ask for instead.
logging.getLogger("lightning_fabric.utilities.rank_zero").addFilter(
    lambda record: "Tensor Cores" not in record.getMessage()
)


def check_trains(precision: str, device: torch.device) -> None:
    """Raises BadOption for a precision in which networks are not trained on this device."""
    refuse_tf32(precision, device)
    if precision == "16" and device.type == "cpu":
        # Fabric would take bfloat16 instead, with a warning.
        raise BadOption("`precision='16'` trains on GPUs only, and this is a CPU: pass 'bf16' or '32'.")


def gather(device: str, precision: str) -> Fabric:
    """Connect the processes that `torchrun` or SLURM started, one per GPU; without either, this process
    alone.
    `precision` is "32", "tf32", "bf16" or "16". Raises BadOption for a device that this machine lacks, for
    "16" on a CPU and "tf32" on another device than CUDA.
    """
    where = pick_device(device)
    check_trains(precision, where)
    # SLURM_STEP_...: set for what `srun` starts, not for a lone process inside a batch script.
    size = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))
    if size == 1:
        with warnings.catch_warnings():
            # Wherever SLURM is installed it would tell to type `srun python` before the command: a process
            # alone is what was asked for.
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            return Fabric(
                accelerator=where.type,
                devices=[where.index] if where.index is not None else 1,
                precision=PRECISIONS[precision],
            )
    per_node = _on_this_machine(size)
    # Some parameters have no gradient in some batches (heads of a task without crops); DDP would wait for
    # them.
    strategy = DDPStrategy(timeout=PATIENCE, find_unused_parameters=True)
    fabric = Fabric(
        accelerator=where.type,
        devices=per_node,
        num_nodes=max(1, size // per_node),
        strategy=strategy,
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    atexit.unregister(_let_go)
    atexit.register(_let_go)
    return fabric


def told_of_precision(precision: str, device: torch.device) -> list[str]:
    """A line where a card could compute much faster with fewer digits."""
    if precision != "32" or device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return []
    return [
        "precision 32: convolutions keep all digits; tf32, PyTorch's own default on this card, or bf16 takes "
        "less time"
    ]


def _on_this_machine(size: int) -> int:
    """How many of the `size` processes run on this machine."""
    # SLURM writes 4(x2) for four tasks on each of two nodes.
    per_node = os.environ.get(
        "LOCAL_WORLD_SIZE", os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(size)).split("(")[0]
    )
    return int(per_node)


def processes_here(fabric: Fabric) -> int:
    """How many of the processes that train together run on this machine."""
    return 1 if fabric.world_size == 1 else _on_this_machine(fabric.world_size)


def _let_go() -> None:
    """Give gloo's threads time to release the tensors of the last operation."""
    # Releasing needs the interpreter's lock, and a thread that asks for it once the interpreter shuts down is
    # ended inside a C++ destructor: the process aborts, after all is written, and torchrun calls the run
    # failed. Sleeping gives the lock away; the release itself takes microseconds.
    time.sleep(0.3)


def machine_of(fabric: Fabric) -> dict[str, int | str]:
    """What decides the order of a run's sums, for the state file."""
    return {"threads": torch.get_num_threads(), "device": fabric.device.type, "processes": fabric.world_size}


def refuse_sync_bn_on_cpu(wanted: bool, fabric: Fabric) -> None:
    """Raises BadOption: torch has synchronised batch normalisation for GPUs alone."""
    if wanted and fabric.world_size > 1 and fabric.device.type != "cuda":
        raise BadOption(
            f"sync_bn works on CUDA devices only, and these {fabric.world_size} processes train on "
            f"{fabric.device.type}; leave it out."
        )


@contextmanager
def one_thread_beside(device: torch.device) -> Iterator[None]:
    """While another device than the processor trains, one thread for torch's own small work on processors.

    As many threads as cores wait for each other in each of its operations, and take the cores from those
    that read crops and from the one that keeps the device busy: beside an H100, with 16 cores, a step of
    `fcn` took 21 ms and 275 ms of processor time, with one thread 15 and 19.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, where `wanted`, torch uses deterministic algorithms alone. Raises BadOption that names an
    operation without one.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    # Read when cuBLAS is first used: a notebook that has multiplied on the GPU needs it set outside.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # benchmarking chooses kernels by their time
    try:
        yield
    except RuntimeError as error:
        # torch has no error of its own for this, only these words; others of them are about its settings.
        if "use_deterministic_algorithms" not in str(error):
            raise
        why = str(error).partition(", but")[0].partition(". ")[0]
        if "CUBLAS_WORKSPACE_CONFIG" in str(error):
            why = "cuBLAS was used before; set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts"
        raise BadOption(
            f"`deterministic` cannot be followed here: {why}. Change that, or leave it out."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def telling_of_the_lost(fabric: Fabric) -> Iterator[None]:
    """Turn the error of gloo or NCCL about a dead process into a LabelscapeError that says what to do. Other
    errors pass through.
    """
    try:
        yield
    except RuntimeError as error:
        # Both raise plain RuntimeErrors: only words tell them from errors of the training itself.
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
    # float64, for counts of pixels beyond 2^24 too; mps has none, and the CPU stands in.
    total = torch.tensor(
        value, dtype=torch.float64, device=fabric.device if fabric.device.type != "mps" else "cpu"
    )
    return float(fabric.all_reduce(total, reduce_op="sum"))
