"""How fast workers work: what a progress bar says of them, and which of them are slow."""

from __future__ import annotations

import time
from collections import deque
from statistics import median, median_high

from labelscape.progress import print_line

KEPT, LEAST = 16, 3
"""Latest pieces of work by which a worker is judged, and how many are needed for that (ours)."""
SLOW = 2.0
"""A worker is slow that takes so many times as long as usual (ours): on a shared or throttled machine, or
with a slow road to the files.
"""


class Pace:
    """Pixels done, failures, and the speed of each worker, of the job that begins now."""

    def __init__(self) -> None:
        self._start, self.pixels, self.failed = time.monotonic(), 0.0, 0
        # Of the latest work only: a worker may be slow for a while.
        self._rates: dict[str, deque[float]] = {}
        self._named: set[str] = set()

    def took(self, worker: str, seconds: float, amount: float) -> None:
        """A worker took so many seconds for an amount of work: pixels, or tiles of one map. Says in a line
        where it turns out to be slow.
        """
        if amount <= 0:  # nothing was to be done: that says nothing of its speed
            return
        self._rates.setdefault(worker, deque(maxlen=KEPT)).append(amount / max(seconds, 1e-9))
        for slow, times in self.slow().items():
            if slow not in self._named:
                self._named.add(slow)
                print_line(f"worker {slow} is slow: it takes {times:.1f} times as long as the others")

    def forget(self) -> None:
        """Of a next map, whose tiles may take longer."""
        self._rates.clear()

    def slow(self) -> dict[str, float]:
        """Slow worker's address -> how many times as long as usual it takes."""
        own = {worker: median(rates) for worker, rates in self._rates.items() if len(rates) >= LEAST}
        # Of two workers the faster one is usual.
        usual = median_high(own.values()) if len(own) > 1 else 0.0
        return {worker: usual / rate for worker, rate in own.items() if rate * SLOW < usual}

    def facts(self) -> dict[str, float]:
        """As a progress bar shows them; failures and slow workers where there are any."""
        seconds, slow = max(1e-9, time.monotonic() - self._start), len(self.slow())
        return {
            "Mpx/s": self.pixels / 1e6 / seconds,
            **({"failed": self.failed} if self.failed else {}),
            **({"slow workers": slow} if slow else {}),
        }
