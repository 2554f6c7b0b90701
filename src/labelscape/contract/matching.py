"""Which bands of a scene a model reads, and whether pixel sizes agree: decided here for training, evaluation,
checks and maps alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from labelscape.errors import BadInput
from labelscape.scenes.scene import Scene

FINER, COARSER = 0.8, 1.25
"""Pixel sizes over the training's from which on a network sees other objects: strictly between them it takes
the sizes for the same.
"""


@dataclass(frozen=True)
class BandMatch:
    """How a model's bands are found among a scene's.

    order    the scene's bands in the model's order; None where neither names nor counts agree
    by       "name" where the scene has all of the model's names, "position" where the counts agree, "none"
    missing  names that the model reads and the scene lacks
    """

    order: tuple[str, ...] | None
    by: Literal["name", "position", "none"]
    missing: tuple[str, ...]


def match_bands(wanted: Sequence[str], has: Sequence[str]) -> BandMatch:
    """The bands `wanted` by a model among those a scene `has`."""
    missing = tuple(band for band in wanted if band not in has)
    # Names first: a file with more bands than the model reads, in any order, still fits.
    if not missing:
        return BandMatch(tuple(wanted), "name", ())
    # Only with equal counts: dropping bands by position would be a guess.
    if len(has) == len(wanted):
        return BandMatch(tuple(has), "position", missing)
    return BandMatch(None, "none", missing)


def bands_to_read(wanted: Sequence[str], scene: Scene) -> tuple[str, ...]:
    """The scene's bands in the model's order. Raises BadInput where neither names nor counts agree."""
    order = match_bands(wanted, scene.bands).order
    if order is None:
        count = f"{len(scene.bands)} bands" if len(scene.bands) > 1 else "1 band"
        raise BadInput(
            f"{scene.name} has {count} ({' '.join(scene.bands)}); this model reads {len(wanted)} "
            f"({' '.join(wanted)}). "
            "Pick or name the bands so that they agree."
        )
    return order


@dataclass(frozen=True)
class PixelMatch:
    """Pixels of a scene against those of the training. `ratio` is their width over the training's; None where
    either has no coordinates, and then nothing is known to differ.
    """

    ratio: float | None

    @property
    def is_finer(self) -> bool:
        """They show more than was learned: such scenes are averaged to the training's size."""
        return self.ratio is not None and self.ratio <= FINER

    @property
    def is_coarser(self) -> bool:
        return self.ratio is not None and self.ratio >= COARSER

    @property
    def is_alike(self) -> bool:
        return not (self.is_finer or self.is_coarser)


def match_pixels(trained: float | None, found: float | None) -> PixelMatch:
    """Compare sides of pixels on the ground, in metres."""
    return PixelMatch(found / trained if found and trained else None)
