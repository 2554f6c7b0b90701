"""Are the values of training scenes of one kind? Scenes of other units (reflectance beside digital numbers),
with another offset (Sentinel-2 before and after processing baseline 04.00), or with their bands in another
order would be learned from as if they were other landscapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from labelscape.contract.bands import QUANTILES, band_statistics
from labelscape.contract.likeness import Likeness, explain
from labelscape.errors import BadInput
from labelscape.scenes.scene import Scene, Units
from labelscape.text import some

MEDIAN = QUANTILES.index(0.5)
CURE = (
    "Bring them to one kind, or have each file declare its own scale and offset, to which scenes are then "
    "converted: gdal_edit.py -scale 0.0001 -offset -0.1 FILE"
)


class Seen(NamedTuple):
    """What a scene's values look like: quantiles (B, Q) of a few blocks, in the file's own units."""

    name: str
    bands: tuple[str, ...]
    units: Units
    quantiles: np.ndarray


def seen(scene: Scene, name: str) -> Seen | None:
    """A look at a scene; None where it has no valid pixel. Raises BadFile where it cannot be read."""
    with suppress(BadInput):
        found = band_statistics([scene], most_blocks=4)
        return Seen(name, scene.bands, scene.units, np.array([one.quantiles for one in found]))
    return None


def unlike(scenes: Sequence[Seen]) -> list[str]:
    """A line for each way in which scenes differ from the most usual one by a scale, an offset or the order
    of bands without names, rather than by what they show. Empty for scenes of one kind.
    """
    scenes = [one for one in scenes if one.bands == scenes[0].bands]
    if not scenes:
        return []
    middle = np.median([one.quantiles for one in scenes], axis=0)
    usual = min(scenes, key=lambda one: float(np.abs(one.quantiles - middle).sum()))
    told: dict[Likeness, list[str]] = {}
    for one in scenes:
        like = explain(_in_units(one, usual.units), usual.quantiles)
        # Bands with names of their own were put in order by whoever named them.
        cycles = like.cycles if all(name.isdecimal() for name in one.bands) else ()
        like = Likeness(like.factor, like.offset, cycles)
        if like != Likeness():
            told.setdefault(like, []).append(one.name)
    return [
        f"the values of {some(names, 3)} look {_how(like, usual.bands)} beside those of {usual.name}. {CURE}"
        for like, names in told.items()
    ]


def _in_units(one: Seen, units: Units) -> np.ndarray:
    """Quantiles in the units of another scene, where both declare some, as training converts them."""
    plain = (1.0, 0.0)
    if one.units == units or all(pair == plain for pair in one.units) or all(p == plain for p in units):
        return one.quantiles
    (scale, offset), (theirs, their_offset) = (np.array(pairs).T[:, :, None] for pairs in (one.units, units))
    return (one.quantiles * scale + offset - their_offset) / theirs


def _how(like: Likeness, bands: Sequence[str]) -> str:
    """A difference in words."""
    size = max(like.factor, 1 / like.factor)
    said = []
    if like.factor != 1:
        said.append(f"{'divided' if like.factor > 1 else 'multiplied'} by about {size:.5g}")
    if like.offset:
        why = " (as Sentinel-2's are from processing baseline 04.00 on)" if like.offset == 1000 else ""
        said.append(f"shifted by {like.offset:+g} in all bands{why}")
    said += [f"exchanged in the bands {', '.join(bands[i] for i in cycle)}" for cycle in like.cycles]
    return " and ".join(said)
