"""Standard streams and signals of the command line, whatever they are: closed, full, a pipe that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from labelscape.errors import LabelscapeError
from labelscape.text import printable

STOPPING = ("SIGTERM", "SIGHUP")


class OutputFailed(LabelscapeError):
    """Results could not be printed."""


class _Results:
    """stdout for results: names from other people's files cannot steer the terminal, and a full disk is an
    error with a sentence.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self._try(lambda: self.stream.write(printable(text)))

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, act: Any) -> Any:
        try:
            return act()
        except BrokenPipeError:  # the reader, such as `head`, has enough
            discard_output()
            sys.exit(128 + 13)  # SIGPIPE, as shells count
        except OSError as error:
            discard_output()
            raise OutputFailed(f"The results cannot be printed: {error.strerror or error}.") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Give the process three open standard streams while the block runs, and stdout for results."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would get this number, and what a library prints as an error
            # would be written into the map.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with contextlib.suppress(AttributeError, ValueError):
        # A terminal without the characters of a class name shows their codes.
        sys.stdout.reconfigure(errors="backslashreplace")
    devnull = open(os.devnull, "w")  # noqa: SIM115 (closed below)
    sys.stdout, sys.stderr = _Results(sys.stdout or devnull), sys.stderr or devnull  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        devnull.close()


def flush() -> None:
    """Print what is still waiting, while a failure can be reported: at the end of Python it could not."""
    sys.stdout.flush()


def discard_output() -> None:
    """Send what is still to be printed nowhere: Python would fail on it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End by an exception on SIGTERM and SIGHUP, as on Ctrl-C: temporary files are then removed. A second
    signal ends at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    before = {}
    # Python accepts signal handlers in the main thread only; an ignored signal (nohup) stays ignored.
    if threading.current_thread() is threading.main_thread():
        for name in STOPPING:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
