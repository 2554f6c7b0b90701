"""What the last digits of a map depend on beside its settings: the number of threads, the processor, torch.

Sums over many numbers are rounded in another order by another number of threads: a confidence may then differ
by one step in a few of a million pixels. Also how these threads wait for each other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_asked: int | None = None
"""Threads that a block of `as_many_threads` asks for, also of a torch that is imported inside it."""
_own: int | None = None
"""Threads of torch as it was imported."""


def import_torch() -> Any:
    """torch, with as many threads as are asked for here. Raises ImportError where it is not installed."""
    global _own
    import torch

    if _own is None:
        _own = torch.get_num_threads()
        if _asked is not None:
            torch.set_num_threads(_asked)
    return torch


def share_cores() -> None:
    """Let threads of torch that wait for each other sleep after some microseconds, in a process that has not
    loaded it yet. A user's own setting is kept.

    GNU OpenMP lets them spin for milliseconds otherwise, on cores that read the next tile or crop, write the
    last one or compute strips of a perceptron meanwhile. It takes this value by itself where it knows of more
    threads than cores, and it knows its own only.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def threads_now() -> int:
    """Threads that a network computes with; where torch is not loaded, one for each core that this process
    may use.
    """
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    if _asked is not None:
        return _asked
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdigit() and int(given) else _cores()


def _cores() -> int:
    """As torch counts them: two threads of one core are no faster for a network than one."""
    # A container or a job on a cluster has fewer than the machine.
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(place.format(n)).read_text(encoding="ascii") for n in usable})
    except OSError:
        return len(usable)


def machine_now() -> dict[str, Any]:
    """Number of threads, and where torch is loaded the instruction set of the processor as it says it, and
    its version; as JSON values.
    """
    found: dict[str, Any] = {"threads": threads_now()}
    if torch := sys.modules.get("torch"):
        found |= {"processor": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}
    return found


def unlike_before(before: Mapping[str, Any]) -> list[str]:
    """A note where tiles of an interrupted map were made with another torch or processor."""
    now = machine_now()
    changed = [
        f"{name} {before[name]} -> {now[name]}"
        for name in ("processor", "torch")
        # An exported model is mapped with or without torch to the same values.
        if None not in (before.get(name), now.get(name)) and before[name] != now[name]
    ]
    if not changed:
        return []
    return [
        f"resumed under other conditions ({', '.join(changed)}): values may differ by one step from those of "
        "an uninterrupted map"
    ]


@contextmanager
def as_many_threads(machine: Mapping[str, Any]) -> Iterator[None]:
    """Compute with the number of threads that a map was begun with, so that it gets the same bytes."""
    global _asked
    wanted, before = machine.get("threads"), (threads_now(), _asked, "torch" in sys.modules)
    if not isinstance(wanted, int) or not 0 < wanted <= 1024:
        yield
        return
    _compute_with(wanted, wanted)
    try:
        yield
    finally:
        threads, asked, loaded = before
        _compute_with(threads if loaded else asked or _own, asked)


def _compute_with(threads: int | None, asked: int | None) -> None:
    global _asked
    _asked = asked
    torch = sys.modules.get("torch")
    if torch is not None and threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
