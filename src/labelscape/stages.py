"""What takes the time of a map: stages of its work are timed where they run, in every thread, and shown as a
table and as a trace. Without a `Profile` a stage costs a microsecond.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

MAIN = "main"


class Span(NamedTuple):
    """One run of a stage: seconds since the profile began, and of those the seconds of stages within it."""

    stage: str
    thread: str
    start: float
    seconds: float
    inner: float


class Profile:
    """Timed stages, in the order in which they ended."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._own = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        stack = self._own.__dict__.setdefault("stack", [])
        stack.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            took, inner = time.perf_counter() - start, stack.pop()
            if stack:
                stack[-1] += took
            # Appending is atomic; pools number their threads, which are one after the other.
            thread = threading.current_thread()
            shown = thread.name.rpartition("_")[0] or thread.name
            shown = MAIN if thread is threading.main_thread() else shown
            self.spans.append(Span(name, shown, start - self._began, took, inner))

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._began

    def rows(self) -> list[tuple[str, str, int, float]]:
        """(stage, thread, times, seconds) without the stages within it, the longest first; last what the main
        thread did beside all stages.
        """
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for span in self.spans:
            found[span.stage, span.thread].append(span.seconds - span.inner)
        rows = [(*key, len(times), sum(times)) for key, times in found.items()]
        rows.sort(key=lambda row: -row[3])
        staged = sum(seconds for _, thread, _, seconds in rows if thread == MAIN)
        return [*rows, ("other", MAIN, 1, max(0.0, self.seconds - staged))]

    def table(self) -> str:
        """The rows as text. Threads work at the same time: shares are of the whole time, and add up to 100 %
        for the main thread only.
        """
        lines = [f"{'stage':<32}{'thread':<10}{'times':>7}{'seconds':>10}{'share':>8}"]
        for stage, thread, times, seconds in self.rows():
            share = 100 * seconds / self.seconds if self.seconds else 0.0
            lines.append(f"{stage:<32}{thread:<10}{times:>7}{seconds:>10.2f}{share:>6.1f} %")
        lines.append(f"{'all':<32}{'':<10}{'':>7}{self.seconds:>10.2f}")
        return "\n".join(lines)

    def trace(self) -> dict[str, Any]:
        """As JSON values of the Trace Event Format, which https://ui.perfetto.dev and chrome://tracing open:
        times are microseconds.
        """
        threads = list(dict.fromkeys([MAIN, *(span.thread for span in self.spans)]))
        process = os.getpid()
        names = [
            {"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": name}}
            for number, name in enumerate(threads)
        ]
        events = [
            {
                "ph": "X",
                "name": span.stage,
                "cat": "map",
                "pid": process,
                "tid": threads.index(span.thread),
                "ts": round(span.start * 1e6, 1),
                "dur": round(span.seconds * 1e6, 1),
            }
            for span in sorted(self.spans, key=lambda one: one.start)
        ]
        return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}


# Of the process, not of a thread: readers and writers have threads of their own.
_active: Profile | None = None


@contextmanager
def profiled() -> Iterator[Profile]:
    """Time all stages while the block runs."""
    global _active
    before, _active = _active, Profile()
    try:
        yield _active
    finally:
        _active.end()
        _active = before


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time the block, or every call of a function that it decorates, as a stage of this name, where a profile
    is made.
    """
    if _active is None:
        yield
        return
    with _active.stage(name):
        yield
