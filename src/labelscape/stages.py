"""What takes the time of a map: stages of its work are timed where they run, in every thread, and shown as a
table and as a trace. Without a `Profile` a stage costs a microsecond.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

MAIN = "main"


class Span(NamedTuple):
    """One run of a stage: seconds since the profile began, and of those the seconds of stages within it.
    `worker` is the thread itself, of those that share a name.
    """

    stage: str
    thread: str
    start: float
    seconds: float
    inner: float
    worker: int = 0


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
            # Appending is atomic; pools number their threads.
            thread = threading.current_thread()
            shown = thread.name.rpartition("_")[0] or thread.name
            shown = MAIN if thread is threading.main_thread() else shown
            self.spans.append(Span(name, shown, start - self._began, took, inner, thread.ident or 0))

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
        if any(thread != MAIN for _, thread, _, _ in self.rows()):
            lines.append(f"(threads work at the same time: the shares of {MAIN} alone add up to 100 %)")
        return "\n".join(lines)

    def trace(self) -> dict[str, Any]:
        """As JSON values of the Trace Event Format, which https://ui.perfetto.dev and chrome://tracing open:
        times are microseconds.
        """
        tracks, process = _tracks(self.spans), os.getpid()
        names = [
            {"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": name}}
            for number, name in enumerate(dict.fromkeys([MAIN, *tracks.values()]))
        ]
        numbers = {one["args"]["name"]: one["tid"] for one in names}
        events = []
        # Of two that start together the outer one first, as viewers nest them.
        for span in sorted(self.spans, key=lambda one: (one.start, -one.seconds)):
            # Whole nanoseconds of both ends: what lies within another span must not end after it.
            start, end = (round(1e9 * t) for t in (span.start, span.start + span.seconds))
            track = numbers[tracks[span.thread, span.worker]]
            events.append(
                {
                    "ph": "X",
                    "name": span.stage,
                    "cat": "map",
                    "pid": process,
                    "tid": track,
                    "ts": start / 1000,
                    "dur": (end - start) / 1000,
                }
            )
        return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}


def _tracks(spans: Sequence[Span]) -> dict[tuple[str, int], str]:
    """Name of the track of each thread: viewers drop what overlaps on a track and is not nested. Threads of
    one name share a track where one begins after the other has ended, as those of one pool after another.
    """
    times: dict[tuple[str, int], tuple[float, float]] = {}
    for span in spans:
        key, end = (span.thread, span.worker), span.start + span.seconds
        start, last = times.get(key, (span.start, end))
        times[key] = min(start, span.start), max(last, end)
    found: dict[tuple[str, int], str] = {}
    free: dict[str, float] = {}
    for key, (start, end) in sorted(times.items(), key=lambda item: item[1]):
        names = (key[0] if n == 1 else f"{key[0]} {n}" for n in itertools.count(1))
        track = next(name for name in names if free.get(name, 0.0) <= start)
        found[key], free[track] = track, end
    return found


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
