"""The settings of `map_size` in a recipe: those that are left out, and those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = ("map_size", "map_steps", "map_crop", "map_batch", "map_tiles")
SHARE = 0.25
"""Share of the steps that run at larger crops, where `map_crop` or `map_batch` is given alone (ours)."""
TILES = 32
"""Tiles over which statistics are estimated unless `map_tiles` is given (ours)."""
LEAST_CROPS = 2
"""Crops in a part of a batch: batch normalisation after a global pooling needs two values per channel."""
WHOLE = 16
"""Larger crops have a multiple of this side, where memory decides on it."""


def filled(given: Mapping[str, Any], usual: Mapping[str, int]) -> dict[str, Any]:
    """Settings with those of `map_size` that were left out, by the recipe's defaults in `usual`: crops as
    large as the memory of an ordinary step allows, two of them at least.
    """
    known = {**usual, **{name: value for name, value in given.items() if value is not None}}
    numbers = [known.get(name) for name in ("map_size", "steps", "batch", "crop", "accumulate")]
    # Not isinstance: True is an int in Python, and the types refuse it later.
    if any(type(number) is not int or number < 1 for number in numbers):
        return dict(given)  # without a map size, or reported by the types
    side, steps, batch, crop, parts = numbers
    known.setdefault("map_tiles", TILES)
    # None unless they are asked for: in docs/concepts/tiles.md such steps cost every network points of mean
    # IoU that the statistics alone do not.
    asked = side > crop and ("map_crop" in known or "map_batch" in known)
    known.setdefault("map_steps", round(SHARE * steps) if asked else 0)
    if known["map_steps"] and type(known["map_steps"]) is int:
        # Memory goes with the pixels of a part: those of an ordinary one in as few crops as it may have.
        affordable = int(crop * (batch / (LEAST_CROPS * parts)) ** 0.5) // WHOLE * WHOLE
        large = known.setdefault("map_crop", min(side, max(crop, affordable)))
        if type(large) is int and large > 0:
            # About the pixels of an ordinary step, and thus its time; a multiple of the parts.
            whole = batch * crop**2 // large**2 // parts * parts
            known.setdefault("map_batch", max(LEAST_CROPS * parts, whole))
    return {**given, **{name: known[name] for name in SETTINGS if name in known}}


def wrong_map_size(recipe: Mapping[str, Any]) -> list[str]:
    """One sentence for each of these settings that cannot be."""
    if recipe["map_size"] is None:
        alone = [f"`{name}`" for name in SETTINGS[1:] if recipe[name] is not None]
        return [f"{', '.join(alone)} belong to `map_size`, which is missing; give it too."] if alone else []
    problems = []
    if recipe["map_size"] < recipe["crop"]:
        problems.append(
            f"`map_size={recipe['map_size']}` is smaller than `crop={recipe['crop']}`: it is the side of a "
            "map's tiles, for which training at smaller crops is fitted. Give a larger one, or a smaller "
            "crop."
        )
    elif recipe["map_steps"]:
        problems += _wrong_steps(recipe)
    return problems


def _wrong_steps(recipe: Mapping[str, Any]) -> list[str]:
    problems = []
    large, usual, steps = recipe["map_crop"], recipe["crop"], recipe["map_steps"]
    if steps > recipe["steps"]:
        problems.append(
            f"`map_steps={steps}` are more than `steps={recipe['steps']}`, of which they are the last."
        )
    if large > recipe["map_size"]:
        problems.append(
            f"`map_crop={large}` is larger than `map_size={recipe['map_size']}`; give at most that."
        )
    elif large <= usual:
        problems.append(
            f"`map_crop={large}` is not larger than `crop={usual}` (unless given, it is what the memory of "
            f"`batch={recipe['batch']}` allows): give `map_crop`, a larger batch, or `map_steps=0`, which "
            "keeps the crops."
        )
    if recipe["patience"]:
        problems.append(
            f"`patience={recipe['patience']}` may end training before the last `map_steps={steps}`, at "
            "larger crops; give one of them."
        )
    return problems
