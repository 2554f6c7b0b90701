"""What workers are asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labelscape.errors import LabelscapeError
from labelscape.workers.seen import Seen


class ClusterLost(LabelscapeError):
    """The scheduler is gone, and with it what was submitted."""


class WorkersDied(LabelscapeError):
    """A call could not be finished, because every worker that tried it died."""


@dataclass(frozen=True)
class Call:
    """`function(*args)` on a worker; `name` is shown on Dask's dashboard, `number` says which call it is.
    `network`: it runs one, with the same version of torch, on the worker's own GPU where it has one. `seen`:
    the files that it reads have to be these.
    """

    number: int
    name: str
    function: Callable[..., Any]
    args: tuple
    network: bool = True
    seen: Seen = Seen()


@dataclass(frozen=True)
class Returned:
    """What a call returned, on which worker, after how many seconds."""

    value: Any
    worker: str
    seconds: float


Took = Callable[[str, float, Any], None]
"""Is told of every call that returned: the worker's address, the seconds it took there, what it returned."""
