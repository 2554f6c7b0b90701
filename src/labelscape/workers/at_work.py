"""A call on a worker of a Dask cluster: its versions, GPU and time limit, and its end where nobody wants it.
Dask itself is not imported: the worker is given.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from labelscape.errors import BadInput
from labelscape.progress import heard_by
from labelscape.version import build
from labelscape.workers.calls import Returned

if TYPE_CHECKING:
    from distributed import Worker

    from labelscape.workers.seen import Seen

HUNG = 79
"""Exit code of a worker that ended itself because it hung."""
TOPIC = "labelscape"
"""Of the messages that workers send to the client."""


def versions_for(*, network: bool) -> dict[str, str]:
    """Package -> version, of those that have to be the same everywhere; Labelscape's with a hash of its code,
    since copies of one version may differ. Without a network torch is none of them: importing it takes
    seconds and 300 MB in every worker.
    """
    if not network:
        return {"labelscape": build()}
    return {"labelscape": build(), "torch": _torch_version()}


def _torch_version() -> str:
    """ "" where it is not installed: exported models are mapped without it."""
    try:
        import torch
    except ImportError:
        return ""
    return torch.__version__


class Stopped(BaseException):
    """The client does not want this work any more. No Exception, so that nothing on the way takes it for a
    failure of the scene.
    """


def carried_out(
    worker: Worker,
    versions: dict[str, str],
    limit: float | None,
    network: bool,
    seen: Seen,
    function: Callable[..., Any],
    args: tuple,
) -> Returned | None:
    """Call a function on a worker: its progress bars keep the time limit from ending the worker, and end the
    work where it was cancelled. Raises BadInput on a worker of other versions of Labelscape or torch, and on
    one that sees other files.
    """
    # Also of workers that joined after all were asked.
    for name, here in versions_for(network=network).items():
        if here != versions[name]:
            raise BadInput(f"The worker {worker.address} has {name} {here}; {versions[name]} was expected.")
    if unlike := seen.unlike():
        raise BadInput(f"The worker {worker.address} cannot do it: {unlike}.")
    key = worker.get_current_task()
    if network:
        from labelscape.scoring.kept import keep_networks

        _take_gpu(worker.name)
        keep_networks(for_life=True)
    with _limited(limit, worker, key) as alive:

        def tick(done: int = 1, **facts: float) -> None:
            alive()
            task = worker.state.tasks.get(key)
            # Dask does not interrupt what it has cancelled.
            if task is None or task.state == "cancelled":
                raise Stopped

        start = time.monotonic()
        with heard_by(tick):
            try:
                return Returned(function(*args), worker.address, time.monotonic() - start)
            except Stopped:
                return None


def _take_gpu(name: object) -> None:
    """One GPU for each local worker, which Dask calls by their numbers, and for each task of a SLURM job,
    which have numbers on their node; clusters differ in whether a task sees the cards of others. Elsewhere
    the user says which one a worker sees (CUDA_VISIBLE_DEVICES).
    """
    try:
        import torch
    except ImportError:
        return
    number = name if isinstance(name, int) else os.environ.get("SLURM_LOCALID")
    if number is not None and torch.cuda.device_count() > 1:
        torch.cuda.set_device(int(number) % torch.cuda.device_count())


@contextlib.contextmanager
def _limited(limit: float | None, worker: Worker, key: str) -> Iterator[Callable[[], None]]:
    """End this process where the function yielded was not called for `limit` seconds: a thread that hangs in
    a read or in a driver cannot be ended in any other way.
    """
    if not limit:
        yield lambda: None
        return
    last, over = time.monotonic(), threading.Event()

    def alive() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        while not over.wait(min(1.0, limit / 4)):
            if time.monotonic() - last > limit:
                text = f"worker {worker.address} hung: no progress for {limit:g} s at {key}; it is ended"
                worker.log_event(TOPIC, {"text": text})
                time.sleep(0.5)  # until the message is sent
                os._exit(HUNG)

    threading.Thread(target=watch, name="time limit", daemon=True).start()
    try:
        yield alive
    finally:
        over.set()
