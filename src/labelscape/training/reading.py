"""Batches that are read while the one before is trained on, in threads with files of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import torch
from torch import Tensor

from labelscape.datasets.own import LabelledScene
from labelscape.scenes.memory import HeldScene
from labelscape.scenes.mosaic import MAX_OPEN
from labelscape.training.crops import Crops, Drawing

MOST_THREADS = 4
"""Threads that read crops (ours)."""
MOST_FILES = 128
"""Files that they open beside those that are open anyway: a process may have no more than 1024 on many
systems."""


class ThreadFiles:
    """Scenes as one thread may read them: with files of its own, opened when they are first wanted."""

    def __init__(self) -> None:
        self._opened, self._scenes = ExitStack(), {}

    def __call__(self, scene: LabelledScene) -> LabelledScene:
        # By identity: scenes hold arrays, which have no hash.
        if id(scene) not in self._scenes:
            self._scenes[id(scene)] = scene.for_thread(self._opened)
        return self._scenes[id(scene)]

    def close(self) -> None:
        self._opened.close()


class Reader:
    """Threads that draw crops. Each has its own files, opened when it first reads a scene; all are closed on
    leaving the block. Batches are the same to the byte for every number of threads.

    Each does torch's part of its work alone (resizing a crop): helpers of its own would wait for the cores
    that the network computes on, which waits for them in turn.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._mine = threads, threading.local()
        # What a thread sets is meant for itself, but is also what threads begun later take over.
        self._torch_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "crops", torch.set_num_threads, (1,))
        self._files: list[ThreadFiles] = []
        self._lock = threading.Lock()

    def begin(
        self, drawing: Drawing, step: int, part: int, parts: int
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """Begin a `Drawing.part`; what is returned waits for it. Raises as that does."""
        crops = Crops(drawing, step, part, parts)
        begun = [self._pool.submit(self._draw, crops) for _ in range(self._threads)]
        return lambda: _drawn(crops, begun)

    def _draw(self, crops: Crops) -> None:
        if self._threads == 1:
            crops.draw()
            return
        own = self._mine.__dict__
        if not own:
            with self._lock:
                own |= {"files": ThreadFiles(), "number": len(self._files)}
                self._files.append(own["files"])
        crops.draw(own["files"], own["number"], self._threads)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)
        for files in self._files:
            files.close()


def _drawn(crops: Crops, begun: Sequence[Future]) -> tuple[Tensor, Tensor]:
    for one in begun:
        one.result()
    return crops.drawn()


def threads_for(drawings: Sequence[Drawing], processes: int) -> int:
    """Threads of a process's reader, of `processes` on this machine: one for each core that it may use, up to
    MOST_THREADS; one where scenes are objects that may not be read by several, or would open too many files.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    scenes = [one for drawing in drawings for one in drawing.index.scenes]
    from_files = [one for one in scenes if not isinstance(one.scene, HeldScene)]
    if any(one.scene.in_memory for one in from_files):
        return 1
    files = sum(min(len(one.scene.files), MAX_OPEN) + len(one.labels.files) for one in from_files)
    most = MOST_THREADS if not files else min(MOST_THREADS, MOST_FILES // files)
    return max(1, min(usable // max(1, processes), most))
