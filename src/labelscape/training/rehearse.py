"""Estimate the time and memory of a training run from a few real steps. Nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass, replace
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.evaluation.familiar import familiarity_seconds
from labelscape.evaluation.tile_sizes import pixels_for_tile_sizes
from labelscape.legend import IGNORE
from labelscape.nets.blocks import Network
from labelscape.progress import bar, in_words
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for, score_tiles, tiles_read
from labelscape.training.beforehand import check_beforehand
from labelscape.training.data import blank_checkpoint, open_both, scored_part
from labelscape.training.foreign import bundle_of
from labelscape.training.forest import forest_seconds
from labelscape.training.freeze import train_mode
from labelscape.training.loop import batches, set_up, update
from labelscape.training.map_size import larger
from labelscape.training.recipe import Recipe, as_recipe
from labelscape.training.run import base_recipe, refuse_data
from labelscape.training.setup import Task, build_network, make_tasks, net_options
from labelscape.training.team import gather

STEPS = 3
"""The first is left out of the timing: it allocates memory and chooses kernels."""


@dataclass(frozen=True)
class Rehearsal:
    """The estimate: steps, peak memory in bytes, seconds, and the sizes behind them.

    `steps` and `crops` include the base network's phase; `mate_crops` are those of the second task.
    `seconds_before` is what reading the data took, `scoring_seconds` what the held-out part will take for all
    networks, `val_seconds` what all scores of the part "val" during training will, `forest_seconds` the
    random forest, `statistics_seconds` those of batch normalisation at `map_size`, `map_seconds` what is
    measured of all networks for their maps: the best tile size, and features of the training data.
    `peak_bytes` is None where memory cannot be measured.
    """

    steps: int
    base_steps: int
    parameters: int
    crops: int
    labelled_pixels: int
    peak_bytes: int | None
    seconds_before: float
    seconds_per_step: float
    base_seconds_per_step: float
    val_scores: int = 0
    val_seconds: float = 0.0
    scoring_seconds: float = 0.0
    forest_seconds: float = 0.0
    statistics_seconds: float = 0.0
    mate_crops: int = 0
    map_seconds: float = 0.0

    def __repr__(self) -> str:
        memory = "" if self.peak_bytes is None else f", {self.peak_bytes / 2**30:.1f} GiB of memory"
        return f"<Rehearsal: {self.steps:,} steps in about {in_words(max(1, self.seconds))}{memory}>"

    @property
    def seconds(self) -> float:
        return (
            self.seconds_before
            + (self.steps - self.base_steps) * self.seconds_per_step
            + self.base_steps * self.base_seconds_per_step
            + self.val_seconds
            + self.scoring_seconds
            + self.forest_seconds
            + self.statistics_seconds
            + self.map_seconds
        )


def rehearse(recipe: Recipe | Mapping[str, Any], *, forest: bool = False) -> Rehearsal:
    """Open the data, make three steps with the real networks, which are then discarded, and predict a tile;
    with `forest` also time a small random forest. Raises what `train` would.
    """
    recipe = as_recipe(recipe)
    fabric = gather(recipe.device, recipe.precision)
    start = check_beforehand(recipe, base_recipe(recipe) if recipe.base_steps else None, fabric)
    since = time.monotonic()
    with ExitStack() as opened:
        dataset, mate = opened.enter_context(open_both(recipe))
        refuse_data(recipe, dataset, mate)
        blank = blank_checkpoint(recipe, dataset, mate=mate, bundle=bundle_of(start))
        tasks = make_tasks(recipe, dataset, blank, mate)
        # Opening and statistics count: the run itself does them again.
        before = time.monotonic() - since
        base_step, scoring = 0.0, Scoring()
        if recipe.base_steps:
            base = base_recipe(recipe)
            net = build_network(base, dataset, None, None)
            scoring = _scoring(base, net, replace(blank, mate=None), dataset, None)
            # The base network learns the first task alone.
            _, base_step = _steps(base, net, tasks[:1], fabric)
        net = build_network(recipe, dataset, start, mate)
        scoring = scoring + _scoring(recipe, net, blank, dataset, mate)
        parameters, step = _steps(recipe, net, tasks, fabric)
        part = scored_part(dataset)
        grown = forest_seconds(dataset, part) if forest and part and recipe.data.holdout else 0.0
    steps = recipe.steps + recipe.base_steps
    last = larger(recipe)
    fewer = (last.batch - recipe.batch) * recipe.map_steps if last else 0
    # Forward alone, a third of a step for as many pixels.
    tiles = (recipe.map_tiles or 0) * (recipe.map_size or 0) ** 2
    return Rehearsal(
        steps,
        recipe.base_steps,
        parameters,
        steps * recipe.batch + fewer,
        int(tasks[0].drawing.index.class_counts.sum()),
        _peak(fabric.device),
        before,
        step,
        base_step,
        scoring.val_scores,
        scoring.val,
        scoring.held_out,
        grown,
        step / 3 * tiles / (recipe.batch * recipe.crop**2),
        recipe.steps * (recipe.mate.batch or recipe.batch) if recipe.mate else 0,
        scoring.for_maps,
    )


@dataclass(frozen=True)
class Scoring:
    """Seconds of all scores of the part "val", how many they are, seconds of the held-out part's score and
    of what is measured for maps.
    """

    val: float = 0.0
    val_scores: int = 0
    held_out: float = 0.0
    for_maps: float = 0.0

    def __add__(self, other: Scoring) -> Scoring:
        return Scoring(*(one + more for one, more in zip(astuple(self), astuple(other))))


def _scoring(
    recipe: Recipe, net: Network, blank: Checkpoint, dataset: Dataset, mate: Dataset | None
) -> Scoring:
    weights, options = state_arrays(net), net_options(recipe, mate)
    settings = recipe.model_dump(mode="json")  # the base network's own, where it is that
    made = replace(blank, network=recipe.network, options=options, weights=weights, recipe=settings)
    # Untrained weights will do: the time of a tile does not depend on them.
    scorer = Scorer.of(made, device=recipe.device)
    scores = recipe.steps // recipe.val_every if recipe.val_every else 0
    val = held_out = per_pixel = 0.0
    for data, scenes in ((recipe.data, dataset), (recipe.mate and recipe.mate.data, mate)):
        if scenes is not None:
            part = scored_part(scenes) if data.holdout else None
            val += scores * _part_seconds(scorer, scenes, "val")[0] if scores else 0.0
            seconds, pace = _part_seconds(scorer, scenes, part) if part else (0.0, 0.0)
            # Of the first task, whose scenes the measurements for maps are made on.
            held_out, per_pixel = held_out + seconds, per_pixel or pace
    return Scoring(val, scores, held_out, _map_seconds(recipe, scorer, dataset, per_pixel))


def _map_seconds(recipe: Recipe, scorer: Scorer, dataset: Dataset, per_pixel: float) -> float:
    """What `train` measures after a network's last step for its maps, where predicting a pixel takes
    `per_pixel` seconds.
    """
    seconds, held = 0.0, [part for part in ("val", "test") if dataset.is_labelled(part)]
    if held and recipe.data.holdout and recipe.measure_tile_sizes:
        seconds += per_pixel * pixels_for_tile_sizes(scorer, dataset, held[0])
    if recipe.measure_unfamiliar:
        seconds += familiarity_seconds(scorer.checkpoint, dataset, device=recipe.device)
    return seconds


def _part_seconds(scorer: Scorer, dataset: Dataset, part: str) -> tuple[float, float]:
    """How long predicting a part takes, and a pixel of it: its first labelled tile is timed, the others are
    counted.
    """
    per_pixel, pixels = 0.0, 0
    for scene in dataset.part(part):
        plan = plan_for(scorer, scene.scene)
        # Scoring passes over tiles without labels, and with them most of a sparsely labelled scene.
        wanted = {t.answers for t in plan if (scene.read_labels(t.answers, part) != IGNORE).any()}
        pixels += sum(tile.seen.pixels for tile in tiles_read(plan, wanted.__contains__))
        if wanted and not per_pixel:
            start, first = time.monotonic(), next(t.answers for t in plan if t.answers in wanted)
            for _ in score_tiles(scorer, scene.scene, plan, wanted=first.__eq__):
                pass
            # Per pixel, since tiles at the border of a scene are smaller.
            read = sum(tile.seen.pixels for tile in tiles_read(plan, first.__eq__))
            per_pixel = (time.monotonic() - start) / read
    return per_pixel * pixels, per_pixel


def _steps(recipe: Recipe, net: Network, tasks: list[Task], fabric: Fabric) -> tuple[int, float]:
    """Number of parameters of a network, and the seconds that a step takes after the first."""
    parameters = sum(p.numel() for p in net.parameters())
    net, optimizer = set_up(net, recipe, fabric)
    for group in optimizer.param_groups:  # three steps at a full rate could end in NaN
        group["lr"] = 0.0
    train_mode(net, recipe)
    times = []
    with (
        bar(f"rehearse {recipe.network}", STEPS, "steps", shown=fabric.is_global_zero) as tick,
        # This process's part of each batch, and one batch more, which is read beside the last step.
        closing(batches(recipe, tasks, fabric, 0, STEPS + 1)) as read,
    ):
        start = time.monotonic()
        for _, batch in islice(read, STEPS):
            # float() waits for the GPU: otherwise only the launch of its work would be timed.
            float(update(net, optimizer, fabric, batch, recipe, tasks)[0])
            times.append(time.monotonic() - start)
            start = time.monotonic()
            tick()
    # The least of the steps: what else the machine does can only add to it.
    return parameters, min(times[1:])


def _peak(device: torch.device) -> int | None:
    """Peak memory so far in bytes: of the GPU, else of this process. None on Windows, which has no
    `resource`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
