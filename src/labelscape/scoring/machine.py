"""What the last digits of a map depend on beside its settings: the number of threads, the processor, torch.

Sums over many numbers are rounded in another order by another number of threads: a confidence may then differ
by one step in a few of a million pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def machine_now() -> dict[str, Any]:
    """Number of threads, instruction set of the processor, and version of torch, as JSON values."""
    return {
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def unlike_before(before: Mapping[str, Any]) -> list[str]:
    """A note where tiles of an interrupted map were made with another torch or processor."""
    now = machine_now()
    changed = [
        f"{name} {before[name]} -> {now[name]}"
        for name in ("processor", "torch")
        if before.get(name) not in (None, now[name])
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
    wanted, before = machine.get("threads"), torch.get_num_threads()
    if not isinstance(wanted, int) or not 0 < wanted <= 1024 or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
