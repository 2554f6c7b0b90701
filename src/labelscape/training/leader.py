"""Work that one process of a team does for all: scoring, checks of files. The others wait for it, and name a
process that has died instead of waiting for it.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from lightning_fabric import Fabric

from labelscape.errors import LabelscapeError
from labelscape.training.team import telling_of_the_lost

BEAT, SILENCE = 2.0, 20.0
"""Seconds between two signs of life of a process, and without any before it counts as dead: a file system
shared by several machines may show changes late.
"""
LEFT = 3600.0
"""Seconds without a sign of life after which a team's folder is of a killed run: clocks of machines that
share a file system differ, by less than this.
"""
TEAM = ".team-"
Found = TypeVar("Found")


class Leader:
    """`leader(do)` runs `do` in the first process and returns its result, or raises its error, in all.

    Every process changes a file of its own in `folder` as a sign of life. A collective operation would not
    do for the waiting: it gives up after half an hour, alive or not, and scoring can take longer.
    """

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self.fabric, self.folder = fabric, folder
        self.done = 0

    @property
    def leads(self) -> bool:
        return self.fabric.is_global_zero

    def __call__(self, do: Callable[[], Found]) -> Found:
        if self.fabric.world_size == 1:
            return do()
        found: tuple[Found | None, LabelscapeError | None] = (None, None)
        self.done += 1
        end = self.folder / f"done-{self.done}"
        if self.leads:
            try:
                found = (do(), None)
            except LabelscapeError as error:
                # Raised in all processes. An error of another kind ends this one, and its silence is noticed.
                found = (None, error)
            # After an error too: the others wait for this file before they take part in the broadcast.
            end.touch()
        else:
            self._wait(end)
        with self.naming_the_dead(), telling_of_the_lost(self.fabric):
            value, error = self.fabric.broadcast(found)
        if error is not None:
            raise error
        return value

    def _wait(self, end: Path) -> None:
        seen, since = _beat(self.folder, 0), time.monotonic()
        while not end.exists():
            time.sleep(0.05)
            now = _beat(self.folder, 0)
            # Changes are watched, not times compared: the clocks of machines differ.
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                raise LabelscapeError(
                    f"Process 0 of {self.fabric.world_size} has died while the others waited for it. The "
                    "same command continues from the last finished row."
                )

    @contextmanager
    def naming_the_dead(self) -> Iterator[None]:
        """Add to an error about a lost process which one it was: the one whose signs of life have ended."""
        try:
            yield
        except LabelscapeError as error:
            if self.fabric.world_size == 1 or "lost contact" not in str(error):
                raise
            before = [_beat(self.folder, rank) for rank in range(self.fabric.world_size)]
            # A living process has shown itself by then, although a shared file system may be late.
            time.sleep(3 * BEAT)
            # Not this one: on a machine that is too busy for its own signs it is alive all the same.
            others = [rank for rank in range(len(before)) if rank != self.fabric.global_rank]
            dead = [str(rank) for rank in others if _beat(self.folder, rank) == before[rank]]
            named = f"Process {', '.join(dead)} has died. " if dead else ""
            raise LabelscapeError(f"{named}{error}") from error


def _beat(folder: Path, rank: int) -> int | None:
    with suppress(OSError):
        return (folder / f"alive-{rank}").stat().st_mtime_ns
    return None


def _is_left(folder: Path) -> bool:
    """Whether no process has shown itself in a team's folder for so long that none is alive."""
    with suppress(OSError):
        last = max(file.stat().st_mtime for file in (folder, *folder.glob("*")))
        return time.time() - last > LEFT
    return False


@contextmanager
def leading(fabric: Fabric, place: Path) -> Iterator[Leader]:
    """A leader for this run; its files lie in a hidden folder in `place` and are gone afterwards, those of a
    killed run with the next one.
    """
    if fabric.is_global_zero:
        for folder in place.glob(TEAM + "*"):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)
    if fabric.world_size == 1:
        yield Leader(fabric, place)
        return
    # Named by the first process: two runs into one place must not take each other's signs of life.
    folder = place / fabric.broadcast(f"{TEAM}{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    own, stop = folder / f"alive-{fabric.global_rank}", threading.Event()

    def live() -> None:
        # A full disk, or a folder removed too early, must not end the signs of a healthy process.
        while not stop.wait(BEAT):
            with suppress(OSError):
                own.touch()

    own.touch()
    # A thread of its own: a process that scores for an hour is alive too.
    threading.Thread(target=live, daemon=True, name="signs of life").start()
    # Nobody may watch for a sign that has never been given.
    fabric.barrier()
    try:
        yield Leader(fabric, folder)
    finally:
        stop.set()
        if fabric.is_global_zero:
            for file in folder.glob("*"):
                with suppress(OSError):
                    file.unlink()
            with suppress(OSError):
                folder.rmdir()
