"""How much of a data set is kept in memory, by what the machine has to spare."""

from __future__ import annotations

import os
from pathlib import Path

LEAST, MOST = 1 << 30, 8 << 30
"""Bytes of pixels and labels that a process keeps at least and at most (ours): what is more takes minutes to
read, longer than a short training. The least is never more than half of what is free: beyond that the system
ends a process without a word.
"""
SHARE = 4
"""A quarter of the memory that is free may be taken: the network, its gradients and other programs need some
too.
"""


def held_bytes(system: Path = Path("/")) -> int:
    """Bytes of scenes and labels to keep in memory, in each of the processes of a training on this machine;
    beyond that they are read window by window. `system` is the root of the file system.
    """
    free = [found for found in (_free(system), *_free_in_groups(system)) if found is not None]
    if not free:  # not Linux
        return LEAST
    share = min(free) // _processes()
    return max(min(LEAST, share // 2), min(MOST, share // SHARE))


def _processes() -> int:
    """Processes that train together on this machine, as torchrun or SLURM started them."""
    number = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    number = number.partition("(")[0].partition(",")[0]
    return max(1, int(number)) if number.isdecimal() else 1


def _free(system: Path) -> int | None:
    """Bytes that the machine can give without swapping; None where it does not say."""
    for line in _text(system / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _free_in_groups(system: Path) -> list[int]:
    """Bytes that containers and jobs of a cluster leave this process: control groups that it is in."""
    found = []
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        second = not controllers  # version 2 has one tree, without a name
        if not second and "memory" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / ("" if second else "memory")
        names = (
            ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        own = root / place.strip("/")
        # Each group up to the root has a limit; inside a container the path may be that of the machine.
        for group in (own, *own.parents):
            limit, used = (_text(group / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal():
                found.append(max(0, int(limit) - int(used) + _given_back(group)))
            if group == root:
                break
    return found


def _given_back(group: Path) -> int:
    """Bytes of files in the cache, which count as used and are given back when memory is wanted."""
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        # Names of groups may have any letters.
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
