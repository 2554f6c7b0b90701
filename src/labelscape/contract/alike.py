"""Are the values of training scenes of one kind? Scenes of other units (reflectance beside digital numbers),
with another offset (Sentinel-2 before and after processing baseline 04.00), or with their bands in another
order would be learned from as if they were other landscapes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from labelscape.contract.bands import QUANTILES, band_statistics, spread_blocks
from labelscape.contract.likeness import Likeness, explain
from labelscape.contract.sample import PIXELS_A_BLOCK
from labelscape.errors import BadInput
from labelscape.scenes.pieces import pieces_of
from labelscape.scenes.scene import Scene, Units
from labelscape.text import some

MOST_PIECES, FIRST_PIECES = 32, 4
"""Files of a mosaic that are looked at, at most and in any case (ours)."""
LEAST = 1000
"""Pixels that a file must have to be compared with others (ours)."""
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


def seen_in_pieces(scene: Scene, name: str, most: int = MOST_PIECES) -> list[Seen]:
    """A look at each of `most` files of a mosaic, or at the scene, where it is no mosaic. Raises BadFile
    where it cannot be read.
    """
    if found := [*_looks(scene, scene.bands, most)]:
        return found
    return [one for one in [seen(scene, name)] if one is not None]


def _looks(scene: Scene, bands: tuple[str, ...], most: int, seconds: float = 20.0) -> Iterator[Seen]:
    """Looks at the files of a mosaic, in its own units, in the places where they lie: of the first in any
    case, of others until `seconds` have passed.
    """
    start = time.monotonic()
    for number, (title, place) in enumerate(pieces_of(scene, most)):
        if number >= FIRST_PIECES and time.monotonic() - start > seconds:
            return
        values = []
        for window in spread_blocks(place, most=2):
            patch = scene.read(window, bands)
            own = patch.pixels[:, patch.valid]  # (B, pixels)
            values.append(own[:, :: max(1, own.shape[1] // PIXELS_A_BLOCK)].astype(np.float32))
        joined = np.concatenate(values, axis=1)
        # Of a few pixels at the edge of an area it is chance what they show.
        if joined.shape[1] >= LEAST:
            yield Seen(title, bands, scene.units, np.quantile(joined, QUANTILES, axis=1).T)


def unlike_pieces(
    known: np.ndarray, scene: Scene, bands: tuple[str, ...], wanted: Sequence[str]
) -> list[str]:
    """A line for each way in which some files of a mosaic differ from the training scenes, as a scale, an
    offset or bands in another order make them differ, and other files of it do not. Of all files together
    such a difference may look like another season.

    known   (B, Q) quantiles of the training scenes, in the scene's units
    bands   of the scene, in the order of the model's, which are `wanted`
    """
    looks = [*_looks(scene, bands, MOST_PIECES)]
    nameless = all(name.isdecimal() for name in bands)
    likes = [_without_order(explain(one.quantiles, known), nameless) for one in looks]
    plain = [one.quantiles for one, like in zip(looks, likes) if like == Likeness()]
    told: dict[tuple, tuple[Likeness, list[str]]] = {}
    for one, like in zip(looks, likes):
        # Beside its neighbours too: what shows other ground than the training may still be like them.
        beside = explain(one.quantiles, np.median(plain, axis=0)) if plain else like
        kind = _kind(like)
        if like != Likeness() and _kind(_without_order(beside, nameless)) == kind:
            told.setdefault(kind, (like, []))[1].append(one.name)
    if len(told) == 1 and len(looks) == sum(len(names) for _, names in told.values()):
        return []  # all of them: it is said of the scene
    # GDAL reads the scale and offset of a virtual raster, and not those of the files in it.
    more = "; then pass these files instead of the virtual raster" if len(scene.parts) == 1 else ""
    return [
        f"the values of {some(names, 3)} look {_how(like, wanted)}, compared with the training scenes and "
        f"other files of {scene.name} ({len(names)} of {len(looks)} files that were looked at). {CURE}{more}"
        for like, names in told.values()
    ]


def _without_order(like: Likeness, nameless: bool) -> Likeness:
    """Bands with names of their own were put in order by whoever named them."""
    return like if nameless else Likeness(like.factor, like.offset)


def _kind(like: Likeness) -> tuple:
    """Which mistakes these are; a factor without the digits that depend on what it is compared with."""
    return (like.factor > 1) - (like.factor < 1), like.offset, like.cycles


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
        like = _without_order(like, all(name.isdecimal() for name in one.bands))
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
