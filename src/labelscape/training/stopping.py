"""Stop training on SIGINT (Ctrl-C) or SIGTERM between two steps, so that no step is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal asked to stop, and what was saved until then."""

    asked: int = 0
    """The signal that arrived; 0: none."""
    patient: bool = False
    """Training is inside a step: the first signal is only noted, a second one stops at once."""
    saved: str = ""
    """The last state saved or loaded, such as "step 27 of 400 (mlp)"; empty before the first one."""
    told: bool = False
    """Whether the user knows where the run stopped."""

    def arrived(self, number: int, frame: FrameType | None = None) -> None:
        first, self.asked = not self.asked, number
        # A second signal does not wait for the step, which may take minutes on a CPU.
        if not (self.patient and first):
            self.now()

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """A block whose code looks at `asked` itself."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def now(self) -> None:
        """End as the signal would have: KeyboardInterrupt for SIGINT, exit code 143 for SIGTERM."""
        if self.asked == signal.SIGTERM:
            # The code by which shells and schedulers know an end by SIGTERM.
            sys.exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def message(self) -> str:
        if not self.saved:
            return "stopped before the first step; nothing is saved, the same command starts again"
        return f"stopped; the same command continues from {self.saved}"


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Direct SIGINT and SIGTERM to a `Stop` while the block runs."""
    stop, before = Stop(), {}
    # Python accepts signal handlers in the main thread only; an ignored signal (nohup) stays ignored.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, stop.arrived)
    try:
        yield stop
    finally:
        # A notebook lives on after training and wants its own handlers.
        for number, handler in before.items():
            signal.signal(number, handler)
