"""A table of a paper, row by row, on the data it is given: trained, scored, and set beside what the paper claims."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import load
from labelscape.errors import UnknownName
from labelscape.files import written_whole
from labelscape.nets.catalog import options_of
from labelscape.nets.tables import TABLES, Row
from labelscape.training.loop import open_recipe_data, scored_part, train
from labelscape.training.papers import Setting, setting_of
from labelscape.training.phase import checkpoint_path
from labelscape.training.recipe import Recipe

LEAST_STEPS = 10
METRICS = ("mean_iou", "overall_accuracy", "mean_f1")


@dataclass(frozen=True)
class RowResult:
    """One row: per seed the metrics in per cent, in the order of the seeds; or why there are none."""

    row: Row
    measured: tuple[dict[str, float], ...] = ()
    seeds: tuple[int, ...] = ()
    steps: int = 0
    why_not: str = ""

    def summary(self, metric: str) -> tuple[float, float] | None:
        """Mean over the seeds and half the width of its 95 % interval (Student's t; NaN for one seed)."""
        from scipy.stats import t

        values = [m[metric] for m in self.measured if m.get(metric) is not None]
        if not values:
            return None
        mean, count = sum(values) / len(values), len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1)) if count > 1 else math.nan
        return mean, float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count) if count > 1 else math.nan


def run_table(
    name: str, data: Mapping[str, Any], out: str | Path, *, budget: float = 1.0, seeds: Sequence[int] = (0,), rows: Sequence[int] | None = None,
    mate: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[RowResult]:  # fmt: skip
    """Train and score the rows of a table, `budget` times their steps long; what is finished in `out` is not done again.

    rows     numbers from 1, all unless given
    changes  settings of the recipe that differ from the paper's, for every row (crop, batch, device)
    options  options of the networks that differ, where a network has them (a smaller backbone)
    Raises UnknownName for a table there is not; BadInput, BadFile, BadOption as `train`.
    """
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    results = []
    for number, row in enumerate(TABLES[name].rows, start=1):
        if rows is not None and number not in rows:
            continue
        setting = setting_of(row, data, mate)
        if setting.recipe is None:
            results.append(RowResult(row, why_not=setting.why_not))
            continue
        recipe = scaled(setting.recipe, budget, changes or {}, options or {})
        measured = []
        for seed in seeds:
            place = Path(out) / name / f"{number:02d}-{slug(row.label)}" / f"seed{seed}"
            say(f"{name} {number}: {row.label}, seed {seed}, {recipe.steps + recipe.base_steps} steps")
            measured.append(score_row(recipe.replace(seed=seed), setting, place, say))
        results.append(RowResult(row, tuple(measured), tuple(seeds), recipe.steps + recipe.base_steps))
    return results


def scaled(recipe: Recipe, budget: float, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    """The recipe with its schedule `budget` times as long: every number of steps shrinks alike."""
    known = options_of(recipe.network)
    own = {**recipe.options, **{key: value for key, value in options.items() if key in known}}

    def shrunk(steps: int) -> int:
        return max(LEAST_STEPS, round(steps * budget)) if steps else 0

    lengths = {"steps": shrunk(recipe.steps), "base_steps": shrunk(recipe.base_steps), "warmup": round(recipe.warmup * budget),
               "tenth_every": max(1.0, recipe.tenth_every * budget)}  # fmt: skip
    return recipe.replace(**{**lengths, "options": own, **changes})


def score_row(recipe: Recipe, setting: Setting, place: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Metrics in per cent of a row trained in `place`; read from there where an earlier run has finished it."""
    from labelscape.evaluation.measure import evaluate
    from labelscape.scores import Protocol

    target, finished = checkpoint_path(place, recipe.network), place / "scores.json"
    settings = {"recipe": recipe.model_dump(mode="json"), "scales": list(setting.scales), "flips": setting.flips, "average": setting.average}
    if finished.exists():
        stored = json.loads(finished.read_text())
        if stored["settings"] == settings:
            return stored["metrics"]
        say(f"{place} holds the same row with other settings: done again")
        finished.unlink()
        target.unlink(missing_ok=True)
    # The score of the row's own protocol is taken below; none at the end of training.
    if not target.exists():
        train(recipe, place, say=say, score=False)
    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        protocol = Protocol(setting.scales, setting.flips, setting.average)
        found = evaluate(load(target), dataset, part=scored_part(dataset), device=recipe.device, protocol=protocol).metrics
    metrics = {metric: None if found[metric] is None else 100 * found[metric] for metric in METRICS}
    metrics |= {f"iou/{name}": None if value is None else 100 * value for name, value in per_class(found).items()}
    with written_whole(finished, overwrite=True) as part:
        part.write_text(json.dumps({"settings": settings, "metrics": metrics}, indent=1))
    return metrics


def per_class(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    return {c["name"]: c["iou"] for c in metrics["classes"]}


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
