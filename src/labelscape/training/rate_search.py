"""Learning-rate range test (Smith 2017, sec. 3.3): train some steps while the rate grows exponentially, and
read from the losses which rates learn. Leaves no state: network and optimizer are discarded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labelscape.errors import BadInput, BadOption
from labelscape.files import written_whole
from labelscape.progress import bar
from labelscape.training.beforehand import check_beforehand
from labelscape.training.data import blank_checkpoint, open_both
from labelscape.training.foreign import bundle_of
from labelscape.training.freeze import train_mode
from labelscape.training.loop import batches, seed_step, set_up, update
from labelscape.training.map_size import without_map_size
from labelscape.training.recipe import Recipe, as_recipe
from labelscape.training.run import refuse_data
from labelscape.training.setup import build_network, make_tasks
from labelscape.training.team import deterministic, gather, together

LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.95
"""Share of the running mean that stays at each step: batches differ more than neighbouring rates do."""
DIVERGED = 4.0
"""The sweep ends where the smoothed loss is this many times the lowest so far (as in fastai)."""
BELOW_MINIMUM = 10.0
"""The suggestion is the rate of the lowest smoothed loss divided by this (as in fastai): at the minimum
itself the loss is about to grow.
"""


@dataclass(frozen=True)
class RateSearch:
    """Rates that were tried, ascending, the loss of each step and its running mean; the rate suggested."""

    network: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float


def find_rate(
    recipe: Recipe | Mapping[str, Any], *, steps: int = 100, lowest: float = LOWEST, highest: float = HIGHEST
) -> RateSearch:
    """Sweep the learning rate from `lowest` to `highest` over up to `steps` training steps on the recipe's
    own crops, with its optimizer, losses and `rate_factors`. Nothing is written.

    Tests the recipe's network from its first weights (or those of `start`), not the base network before it.
    Raises BadOption for bounds that are no ascending rates, BadInput where no rate lowered the loss, and what
    `train` raises.
    """
    recipe = without_map_size(as_recipe(recipe))
    # Over six powers of ten, nine steps would each multiply the rate by five: no better than a guess.
    if not (0 < lowest < highest and math.isfinite(highest)) or steps < 10:
        raise BadOption(
            f"A sweep of {steps} steps from {lowest} to {highest} cannot be: give at least 10 steps, and a "
            "lowest rate above 0 and below the highest."
        )
    fabric = gather(recipe.device, recipe.precision)
    start = check_beforehand(recipe, None, fabric)
    with ExitStack() as opened:
        dataset, mate = opened.enter_context(open_both(recipe))
        refuse_data(recipe, dataset, mate)
        blank = blank_checkpoint(recipe, dataset, mate=mate, bundle=bundle_of(start))
        tasks = make_tasks(recipe, dataset, blank, mate)
        net, optimizer = set_up(build_network(recipe, dataset, start, mate), recipe, fabric)
        train_mode(net, recipe)
        opened.enter_context(deterministic(recipe.deterministic))
        tick = opened.enter_context(bar("learning rates", steps, "steps", shown=fabric.is_global_zero))
        rates, losses, smoothed = [], [], []
        with closing(batches(recipe, tasks, fabric, 0, steps)) as read:
            # The crops of training's own first steps: another draw could suggest a rate for easier ones.
            for step, batch in read:
                rates.append(lowest * (highest / lowest) ** (step / (steps - 1)))
                for group in optimizer.param_groups:
                    # With the recipe's factors: the suggestion is for the rate that they multiply.
                    group["lr"] = rates[-1] * group["factor"]
                seed_step(recipe.seed, step, fabric)
                # Read at every step, which waits for the device: the sweep must end at the first bad loss.
                losses.append(
                    together(fabric, float(update(net, optimizer, fabric, batch, recipe, tasks)[0]))
                )
                smoothed.append(running_mean(losses))
                tick()
                if not math.isfinite(losses[-1]) or smoothed[-1] > DIVERGED * min(smoothed):
                    break
    return RateSearch(recipe.network, *map(tuple, (rates, losses, smoothed)), suggest(rates, smoothed))


def running_mean(losses: list[float]) -> float:
    """The exponentially weighted mean of all losses so far, the last weighing most."""
    weights = [SMOOTHING**age for age in range(len(losses) - 1, -1, -1)]
    return sum(w * loss for w, loss in zip(weights, losses)) / sum(weights)


def suggest(rates: list[float], smoothed: list[float]) -> float:
    """A tenth of the rate with the lowest smoothed loss, to two digits. Raises BadInput where that is the
    first one: then no rate has lowered the loss.
    """
    # Infinite instead of NaN: min() over a NaN depends on where it stands.
    finite = [loss if math.isfinite(loss) else math.inf for loss in smoothed]
    best = finite.index(min(finite))
    if best == 0:
        raise BadInput(
            f"No rate from {rates[0]:g} to {rates[-1]:g} lowered the loss (at first {smoothed[0]:.3f}); "
            "check the labels, or give more steps."
        )
    return float(f"{rates[best] / BELOW_MINIMUM:.2g}")


def write_search(found: RateSearch, out: Path) -> tuple[Path, Path]:
    """`<network>.rates.json` with all numbers, and `<network>.rates.png`, loss over rate. Raises BadFile."""
    from matplotlib.figure import Figure

    stem = found.network.replace("/", "-").lower()
    numbers, picture = out / f"{stem}.rates.json", out / f"{stem}.rates.png"
    with written_whole(numbers, overwrite=True) as part:
        part.write_text(json.dumps(asdict(found), indent=1))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss", title=found.network)
    axes.plot(found.rates, found.losses, color="0.8", label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="tab:blue", label="running mean")
    axes.axvline(found.suggested, color="tab:red", label=f"suggested: {found.suggested:g}")
    top = max(loss for loss in found.smoothed if math.isfinite(loss))
    axes.set_ylim(0, 1.1 * min(top, 2 * found.smoothed[0]))  # one diverged step would flatten all others
    axes.legend()
    with written_whole(picture, overwrite=True) as part:
        figure.savefig(part, format="png", dpi=120)
    return numbers, picture
