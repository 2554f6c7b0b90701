"""What the values of each band look like: statistics that ignore nodata, gathered block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from labelscape.errors import BadInput
from labelscape.grid import Window
from labelscape.scenes.scene import Scene

QUANTILES = (0.01, 0.02, 0.05, 0.25, 0.5, 0.75, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class BandStatistics:
    """One band over all valid pixels seen, in the scene's own units. `quantiles` are at `QUANTILES`."""

    name: str
    mean: float
    std: float
    min: float
    max: float
    quantiles: tuple[float, ...]

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> BandStatistics:
        return cls(**{**fields, "quantiles": tuple(fields["quantiles"])})


def spread_blocks(window: Window, *, block: int = 512, most: int = 64) -> list[Window]:
    """At most `most` blocks spread evenly over a window; all of them where there are no more."""
    blocks = list(window.blocks(block))
    if len(blocks) <= most:
        return blocks
    return [blocks[i] for i in np.linspace(0, len(blocks) - 1, most).round().astype(int)]


SAMPLED = 8_000_000
"""Pixels that quantiles are taken from, over all scenes together: memory does not grow with their number."""


def band_statistics(scenes: Iterable[Scene], **options) -> tuple[BandStatistics, ...]:
    """The statistics of a `survey`."""
    return survey(scenes, **options)[0]


def survey(
    scenes: Iterable[Scene],
    *,
    most_blocks: int = 64,
    most_scenes: int = 1000,
    tick: Callable[[], None] | None = None,
) -> tuple[tuple[BandStatistics, ...], list[np.ndarray]]:
    """Statistics per band, and the sampled values (B, n) of every block, in order.

    Mean, deviation, range and quantiles per band over `most_blocks` blocks of every scene, of at most
    `most_scenes` spread evenly; nodata never counts.

    Mean and deviation are exact over the pixels seen (float64 sums); quantiles come from an even sample of at
    most 20,000 pixels a block. `tick` is called after every scene. Raises BadInput where scenes differ in
    bands or no pixel is valid.
    """
    scenes = list(scenes)
    if len(scenes) > most_scenes:
        scenes = [scenes[i] for i in np.linspace(0, len(scenes) - 1, most_scenes).round().astype(int)]
    blocks = sum(len(spread_blocks(scene.grid.window, most=most_blocks)) for scene in scenes)
    most_pixels = min(20_000, max(1, SAMPLED // max(1, blocks)))
    names: tuple[str, ...] | None = None
    count, total, squares = 0, 0.0, 0.0
    low, high, samples = None, None, []
    for scene in scenes:
        if names is not None and scene.bands != names:
            raise BadInput(
                f"{scene.name} has the bands {' '.join(scene.bands)}, the scenes before it "
                f"{' '.join(names)}: train on one kind."
            )
        names = scene.bands
        for window in spread_blocks(scene.grid.window, most=most_blocks):
            patch = scene.read(window)
            stored = patch.pixels[:, patch.valid]  # (B, pixels)
            if not stored.size:
                continue
            values = stored.astype(np.float64)
            count += values.shape[1]
            total = total + values.sum(axis=1)
            squares = squares + np.einsum("bp,bp->b", values, values)
            low, high = (
                one if known is None else best(known, one)
                for known, one, best in (
                    (low, stored.min(axis=1), np.minimum),
                    (high, stored.max(axis=1), np.maximum),
                )
            )
            samples.append(stored[:, :: max(1, stored.shape[1] // most_pixels)].astype(np.float32))
        if tick:
            tick()
    if names is None or count == 0:
        raise BadInput(
            "No valid pixel in the scene: everything is nodata. Check the nodata value, or name it with "
            "--nodata."
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    quantiles = np.quantile(np.concatenate(samples, axis=1), QUANTILES, axis=1).T  # (B, Q)
    statistics = tuple(
        BandStatistics(
            name,
            float(mean[i]),
            float(std[i]),
            float(low[i]),
            float(high[i]),
            tuple(float(q) for q in quantiles[i]),
        )
        for i, name in enumerate(names)
    )
    return statistics, samples
