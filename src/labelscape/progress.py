"""Progress bars on stderr: live in a terminal; in a log file a line every 15 seconds and one at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from labelscape.text import printable, printable_name

Tick = Callable[..., None]
"""`tick()` advances the bar by one; `tick(3, loss=0.41)` by three, showing the loss."""

FEW = 10
"""Units of work, or a twentieth of them, from which on the time that is left is estimated (ours)."""

DAY = 86400.0
"""In seconds."""

_listener: ContextVar[Tick | None] = ContextVar("listener", default=None)
_innermost: ContextVar[Tick | None] = ContextVar("innermost", default=None)


@contextmanager
def heard_by(listener: Tick) -> Iterator[None]:
    """Call a function at every tick instead of showing bars while the block runs, in this thread: for work
    whose progress is shown elsewhere.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def still_at(**facts: float | str) -> None:
    """Say that the unit of the innermost bar is worked on, and how far it is: one that takes an hour is no
    hung one. Nothing where no bar is shown and nobody listens.
    """
    if (tick := _listener.get() or _innermost.get()) is not None:
        tick(0, **facts)


def print_line(text: str) -> None:
    """Print a line to stderr. Work goes on where stderr is closed, or the disk behind it is full."""
    # print(file=None) would write to stdout, among the results.
    if sys.stderr is not None:
        # Flushed: a batch job's log shows it when it happens, in order with what libraries print.
        with suppress(OSError, ValueError):
            print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def told_where_lost(lines: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Around the end of long work: where the block fails (a full disk) or is stopped, print what was found so
    far, which would be lost with it.
    """
    try:
        yield
    except BaseException:
        # The failure itself is what the user must read in any case.
        with suppress(Exception):
            for line in lines():
                print_line(line)
        raise


@contextmanager
def bar(title: str, total: int, unit: str = "", *, shown: bool = True) -> Iterator[Tick]:
    """Show a progress bar of `total` units while the block runs; yields the function that advances it."""
    with _shown(title, total, unit, shown=shown) as tick:
        before = _innermost.get()
        _innermost.set(tick)
        try:
            yield tick
        finally:
            # No token: a bar of a generator may be left in another context than it was entered in.
            _innermost.set(before)


@contextmanager
def _shown(title: str, total: int, unit: str, *, shown: bool) -> Iterator[Tick]:
    if (listener := _listener.get()) is not None:
        yield listener
        return
    if not shown:
        yield lambda done=1, **facts: None
        return
    title = printable_name(title)
    if sys.stderr is None or not sys.stderr.isatty():
        yield from _logged(title, total, unit)
        return
    # Imported only for a terminal: batch jobs, whose logs have no bars, start faster without it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    # stderr, because stdout may be piped into another program.
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, facts="")

        def tick(done: int = 1, **facts: float | str) -> None:
            at = progress.tasks[task].completed + done
            shown = {"facts": f"at {at:g}: {_said(facts)}"} if facts else {}
            progress.update(task, advance=done, **shown)

        yield tick


def _logged(title: str, total: int, unit: str) -> Iterator[Tick]:
    start, done, last = time.monotonic(), 0, time.monotonic()
    # Some ticks have no facts; a line shows the latest, and at which tick they were known.
    known: dict[str, float | str] = {}
    known_at = 0

    def tick(more: int = 1, **facts: float | str) -> None:
        nonlocal done, last, known_at
        done += more
        known.update(facts)
        known_at = done if facts else known_at
        now = time.monotonic()
        if now - last > 15:  # a log needs a sign of progress, not a line per step
            last = now
            when = f", at {known_at:,}" if known_at not in (0, done) else ""
            facts = f": {_said(known)}" if known else ""
            # A terminal's bar has a column for it.
            # The first of many units is the slowest: files are opened, memory is taken. An hour of work read
            # as a day.
            known_pace = done >= FEW or done * 20 >= total
            left = (now - start) / done * (total - done) if known_pace and done < total else 0
            print_line(
                f"{title}: {done:,} of {total:,} {unit}".rstrip()
                + when
                + facts
                + (f", {in_words(left)} left" if left else "")
            )

    yield tick
    unit = unit.removesuffix("s") if done == 1 else unit
    print_line(f"{title}: {done:,} {unit} in {time.monotonic() - start:.1f} s".replace("  ", " "))


def in_words(seconds: float) -> str:
    """A duration that is not known exactly: 45 s, 12 min, 30 h, 9 days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 3 * DAY else f"{seconds / DAY:,.0f} days"


def _said(facts: dict[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
    )
