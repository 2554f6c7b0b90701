"""What the values of each band look like: statistics that ignore nodata, gathered block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    # Evenly, not at random: the same statistics, and so the same weights, in every run.
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
    # Shared out over all blocks: a thousand scenes take no more memory than one.
    most_pixels = min(20_000, max(1, SAMPLED // max(1, blocks)))
    totals, samples = _Totals(), []
    for scene in scenes:
        if scene.bands != scenes[0].bands:
            raise BadInput(
                f"{scene.name} has the bands {' '.join(scene.bands)}, the scenes before it "
                f"{' '.join(scenes[0].bands)}: train on one kind."
            )
        for window in spread_blocks(scene.grid.window, most=most_blocks):
            patch = scene.read(window)
            # (B, H, W) -> (B, pixels), without nodata.
            values = patch.pixels[:, patch.valid]  # (B, pixels)
            if values.size:
                totals.add(values)
                # float32 holds every 16-bit value exactly, at half the memory.
                samples.append(values[:, :: max(1, values.shape[1] // most_pixels)].astype(np.float32))
        if tick:
            tick()
    if not samples:
        raise BadInput(
            "No valid pixel in the scene: everything is nodata. Check the nodata value, or name it with "
            "`nodata`."
        )
    quantiles = np.quantile(np.concatenate(samples, axis=1), QUANTILES, axis=1).T  # (B, Q)
    return totals.statistics(scenes[0].bands, quantiles), samples


LOST = 1e-9
"""Share of the squared mean below which a variance has lost seven of float64's sixteen digits."""


def finer_than_32_bits(statistics: Sequence[BandStatistics], dtype: np.dtype) -> str | None:
    """A sentence where values of this type differ by less than the 32-bit numbers that networks compute with
    can tell apart: they would be learned from as if they were the same.
    """
    for one in statistics:
        # float32 and what fits into it is read as it is.
        exact = np.can_cast(dtype, np.float32, casting="safe")
        step = 0.0 if exact else float(np.spacing(np.float32(abs(one.mean))))
        if one.min < one.max and one.std < max(4 * step, SMALLEST):
            cure = "Multiply it" if one.std < SMALLEST else f"Subtract {one.mean:.6g} from it"
            return (
                f"band {one.name} varies too little for the 32-bit numbers of networks: its mean "
                f"is {one.mean:.6g} and its deviation {one.std:.3g}, and there they are "
                f"{max(step, SMALLEST):.3g} apart. {cure}, or leave it out (`bands`)"
            )
    return None


SMALLEST = 1e-37
"""float32 holds numbers below with fewer digits, or not at all."""


class _Totals:
    """Running sums and ranges per band."""

    def __init__(self) -> None:
        self.count = 0
        # Without a shape: the number of bands is known with the first values.
        self.sums = self.squares = np.zeros(())
        # The same of the values less the first block's mean.
        self.origin: np.ndarray | None = None
        self.near = self.near_squares = np.zeros(())
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Valid values (B, n), n > 0."""
        low, high = values.min(axis=1), values.max(axis=1)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        # Squares of 16-bit values over a scene pass what float32 or integers of that type hold.
        values = values.astype(np.float64)
        self.count += values.shape[1]
        self.sums = self.sums + values.sum(axis=1)
        self.squares = self.squares + np.einsum("bp,bp->b", values, values)
        if self.origin is None:
            self.origin = values.mean(axis=1)
        values -= self.origin[:, None]
        self.near = self.near + values.sum(axis=1)
        self.near_squares = self.near_squares + np.einsum("bp,bp->b", values, values)

    def statistics(self, names: Sequence[str], quantiles: np.ndarray) -> tuple[BandStatistics, ...]:
        """Of what was added; quantiles (B, Q) were taken elsewhere."""
        mean = self.sums / self.count
        variance = self.squares / self.count - mean**2
        # Of a band whose values hardly differ beside their size (times, coordinates, kelvin in float64), the
        # difference of two large numbers keeps no digit, or is negative; near their mean it keeps them all.
        # (Not for all bands: another last digit would be another network.)
        near = self.near_squares / self.count - (self.near / self.count) ** 2
        std = np.sqrt(np.maximum(np.where(variance > LOST * mean**2, variance, near), 0))
        columns = zip(names, mean, std, self.low, self.high, quantiles, strict=True)
        return tuple(
            BandStatistics(name, float(m), float(s), float(low), float(high), tuple(map(float, row)))
            for name, m, s, low, high, row in columns
        )
