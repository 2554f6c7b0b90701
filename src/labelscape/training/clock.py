"""How fast training went: seconds of a step, as papers print them, with what they hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelscape.files import written_whole
from labelscape.training.recipe import Recipe

INCLUDES = "waiting for crops to be read and augmented, forward and backward passes, the update, the log"
EXCLUDES = "opening the data, statistics, saving states, scores"


class Clock:
    """Seconds of the steps that this process trained, without its pauses."""

    def __init__(self) -> None:
        self.seconds, self.steps, self._since = 0.0, 0, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._since = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the running clock for the time of a block."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds -= time.monotonic() - begun

    def facts(self, recipe: Recipe, device: str, processes: int, threads: int) -> dict[str, Any]:
        """JSON values; a resumed run has the steps since it was resumed. Pixels are those of the crops."""
        # None without a step, as for a run that was resumed after its last.
        a_step = self.seconds / self.steps if self.steps else None
        pixels = recipe.batch * recipe.crop**2
        # Crops that grow during the run have no one size.
        rate = float(f"{pixels / 1e6 / a_step:.4g}") if a_step and not recipe.map_size else None
        return {
            "network": recipe.network,
            "seconds_per_step": None if a_step is None else float(f"{a_step:.4g}"),
            "steps": self.steps,
            "batch": recipe.batch,
            "crop": recipe.crop,
            "megapixels_per_second": rate,
            "device": device,
            "precision": recipe.precision,
            "processes": processes,
            "threads": threads,
            "includes": INCLUDES,
            "excludes": EXCLUDES,
        }


def in_words(facts: dict[str, Any]) -> str:
    """A line on `Clock.facts`."""
    rate = facts["megapixels_per_second"]
    pixels = f", {rate:.3g} megapixels a second" if rate else ""
    several = f", {facts['processes']} processes" if facts["processes"] > 1 else ""
    threads = (
        f" ({facts['threads']} thread{'s' * (facts['threads'] != 1)})" if facts["device"] == "cpu" else ""
    )
    crops = f"{facts['batch']} crops of {facts['crop']} pixels"
    return (
        f"{facts['seconds_per_step']:.3g} s a step of {crops}{pixels}, "
        f"on {facts['device']}{threads}{several}, reading included, scores not ({facts['steps']:,} steps)"
    )


def write_times(path: Path, facts: dict[str, Any]) -> None:
    """Write `Clock.facts` as JSON, in place of those of an earlier run."""
    with written_whole(path, overwrite=True) as part:
        part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
