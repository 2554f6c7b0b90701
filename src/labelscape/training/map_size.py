"""Training for maps in tiles larger than the crops: the last steps of a recipe with `map_size`. Batch
normalisation's statistics are estimated anew in `batchnorm`.
"""

from __future__ import annotations

from dataclasses import dataclass

from labelscape.training.recipe import Recipe
from labelscape.training.recipe_sizes import SETTINGS


@dataclass(frozen=True)
class Larger:
    """The last steps: from step `first` on, `batch` crops of `crop` pixels a side, and a factor on the
    learning rate.
    """

    first: int
    crop: int
    batch: int
    rate_factor: float = 1.0


def larger(recipe: Recipe) -> Larger | None:
    """The steps at larger crops; None where there are none.

    The rate follows the batch: fewer crops are fewer places, and a noisier gradient, although they have as
    many pixels (the linear rule of Goyal et al. 2017, https://arxiv.org/abs/1706.02677, sec. 2.1; used here
    by us). It is not raised for more crops.
    """
    if not recipe.map_steps:
        return None
    factor = min(1.0, recipe.map_batch / recipe.batch)
    return Larger(recipe.steps - recipe.map_steps, recipe.map_crop, recipe.map_batch, factor)


def told(recipe: Recipe) -> list[str]:
    """A line about the larger crops, where there are any."""
    last = larger(recipe)
    if last is None:
        return []
    rate = "goes on by its schedule" if last.rate_factor == 1 else f"follows, times {last.rate_factor:.3g}"
    return [
        f"the last {recipe.map_steps} of {recipe.steps} steps: {last.batch} crops of {last.crop} pixels, "
        f"instead of {recipe.batch} of {recipe.crop}, towards tiles of {recipe.map_size}; the learning rate "
        f"{rate}"
    ]


def mate_batch(recipe: Recipe) -> int:
    """Crops of the second task in a larger step: in the same proportion as in the others."""
    usual = recipe.mate.batch or recipe.batch
    parts = recipe.accumulate
    return max(parts, usual * recipe.map_batch // recipe.batch // parts * parts)


def without_map_size(recipe: Recipe) -> Recipe:
    """The same recipe, trained at its crop alone."""
    return recipe.replace(**dict.fromkeys(SETTINGS)) if recipe.map_size else recipe
