"""Reproduce a table of a paper on given data: each row is trained, scored, and compared with the paper's
claim.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import description, load
from labelscape.datasets.published.catalog import find_published
from labelscape.datasets.published.layout import Published
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.files import written_whole
from labelscape.nets.catalog import options_of
from labelscape.nets.tables import TABLES, Row
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.outputs import checkpoint_path
from labelscape.training.papers import Setting, setting_of
from labelscape.training.recipe import Recipe, in_todays_words
from labelscape.training.run import base_recipe, train
from labelscape.training.state import differing

LEAST_STEPS = 10
"""Ours: a small `budget` leaves every phase at least this many."""
METRICS = ("mean_iou", "overall_accuracy", "mean_f1")


@dataclass(frozen=True)
class RowResult:
    """One row: per seed the metrics in per cent, in the order of the seeds, and what they were measured
    on; or why there are none.
    """

    row: Row
    measured: tuple[dict[str, float], ...] = ()
    seeds: tuple[int, ...] = ()
    steps: int = 0
    scored_on: str = ""
    why_not: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "row": self.row.label,
            "claimed": dict(self.row.claimed),
            "measured": list(self.measured),
            "seeds": list(self.seeds),
            "steps": self.steps,
            "scored_on": self.scored_on,
            "why_not": self.why_not,
        }

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
    name: str,
    data: Mapping[str, Any],
    out: str | Path,
    *,
    budget: float = 1.0,
    seeds: Sequence[int] = (0,),
    rows: Sequence[int] | None = None,
    mate: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[RowResult]:
    """Train and score the rows of a table with `budget` times the paper's steps; rows finished in `out` are
    not run again.

    rows     numbers from 1, all unless given
    changes  settings of the recipe that differ from the paper's, for every row (crop, batch, device); those
             of `data` are added to it
    options  options of the networks that differ, where a network has them (a smaller backbone)
    overwrite  rows in `out` that are unfinished or were made with other settings are made anew; else the
               first are continued, the others refused
    Networks that differ only in how they are tested are trained once. Raises UnknownName for a table or an
    option there is not; BadOption, BadInput, BadFile as `train`, the wrong settings of all rows before the
    first of them is trained.
    """
    table = _table(name, rows, seeds)
    changes, options = dict(changes or {}), options or {}
    data = {**data, **changes.pop("data", {})}
    settings = {number: setting_of(row, data, mate) for number, row in table.items()}
    trained = {number: setting.recipe for number, setting in settings.items() if setting.recipe}
    _refuse_unknown(options, name, trained.values())
    recipes = {number: scaled(recipe, budget, changes, options) for number, recipe in trained.items()}
    results = []
    for number, row in table.items():
        setting = settings[number]
        if setting.recipe is None:
            results.append(RowResult(row, why_not=setting.why_not))
            continue
        recipe = recipes[number]
        steps = recipe.steps + recipe.base_steps
        scores = []
        for seed in seeds:
            place = Path(out) / name / f"{number:02d}-{slug(row.label)}" / f"seed{seed}"
            say(f"{name} {number}: {row.label}, seed {seed}, {steps} steps")
            seeded = recipe.replace(seed=seed)
            scores.append(score_row(seeded, setting, place, Path(out), overwrite=overwrite, say=say))
        measured = tuple(score["metrics"] for score in scores)
        results.append(RowResult(row, measured, tuple(seeds), steps, scores[0]["scored_on"]))
    return results


def _table(name: str, rows: Sequence[int] | None, seeds: Sequence[int]) -> dict[int, Row]:
    """The chosen rows of a table by number. Raises UnknownName or BadOption for what there is not."""
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    table = dict(enumerate(TABLES[name].rows, start=1))
    missing = [number for number in rows or () if number not in table]
    if missing:
        raise BadOption(
            f"{name} has the rows 1 to {len(table)}; there is no row {missing[0]} (labelscape table {name} "
            "shows them)."
        )
    if len(set(seeds)) < len(seeds):
        raise BadOption(
            f"The seeds {', '.join(map(str, seeds))} name one twice; the same run again is not a second "
            "measurement."
        )
    return {number: row for number, row in table.items() if rows is None or number in rows}


def _refuse_unknown(options: Mapping[str, Any], name: str, recipes: Iterable[Recipe]) -> None:
    known = {option: None for recipe in recipes for option in options_of(recipe.network)}
    for option in options:
        if option not in known:
            raise UnknownName(f"option of the networks of {name}", option, known)


def scaled(recipe: Recipe, budget: float, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    """The recipe with its schedule `budget` times as long: all its numbers of steps are scaled alike."""
    known = options_of(recipe.network)
    own = {**recipe.options, **{key: value for key, value in options.items() if key in known}}

    def shrunk(steps: int) -> int:
        return max(LEAST_STEPS, round(steps * budget)) if steps else 0

    lengths = {
        "steps": shrunk(recipe.steps),
        "base_steps": shrunk(recipe.base_steps),
        "warmup": round(recipe.warmup * budget),
        "tenth_every": max(1.0, recipe.tenth_every * budget),
    }
    return recipe.replace(**{**lengths, "options": own, **changes})


def score_row(
    recipe: Recipe, setting: Setting, place: Path, root: Path, *, overwrite: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """`metrics` in per cent of a row trained in `place`, and what they were `scored_on`; read from there
    where an earlier run has finished it.

    A network that lies trained in another row's place below `root`, by the same recipe, is not trained again.
    Raises BadFile where `place` holds the row with other settings, unless `overwrite`.
    """
    target, finished = checkpoint_path(place, recipe.network), place / "scores.json"
    own = recipe.model_dump(mode="json")
    data = setting.scored_on or recipe.data
    test = {
        "scales": list(setting.scales),
        "flips": setting.tta,  # not "tta": existing scores.json files would no longer be recognised
        "average": setting.average,
        "part": setting.part,
        "data": data.model_dump(mode="json"),
    }
    settings = {**own, "test": test}
    changed = []
    if finished.exists():
        stored = json.loads(finished.read_text())
        its_recipe = {key: value for key, value in stored["settings"].items() if key != "test"}
        before = {**in_todays_words(its_recipe), "test": stored["settings"].get("test")}
        changed = differing(before, settings)
        if not changed:
            return stored
    elif target.exists():
        changed = differing(_recipe_in(target), own)
    # Refused, not mixed in: one table must not hold rows of different settings.
    if changed and not overwrite:
        shown = ", ".join(changed[:5])
        raise BadFile(
            f"{place} holds this row with other settings ({shown}). Give the same settings, another --out, "
            "or --overwrite to make it again."
        )
    if data.dataset:  # checked before hours of training, not after
        _check_parts(find_published(data.dataset, data.images[0], **data.dataset_options), setting.part)
    if overwrite:
        for file in (*place.glob("*.safetensors"), *place.glob("*.csv"), finished):
            file.unlink(missing_ok=True)
    _train_once(recipe, place, root, say)
    scores = {"settings": settings, **_scored(target, recipe, setting)}
    with written_whole(finished, overwrite=True) as file:
        file.write_text(json.dumps(scores, indent=1))
    return scores


def _train_once(recipe: Recipe, place: Path, root: Path, say: Callable[[str], None]) -> None:
    """Make sure that the row's network is in `place`: there already, copied from another row, or trained
    now.
    """
    target = checkpoint_path(place, recipe.network)
    if target.exists():
        return
    for needed in (base_recipe(recipe), recipe) if recipe.base_steps else (recipe,):
        _bring(needed, place, root, say)
    if not target.exists():
        train(recipe, place, say=say, score=False)  # the score by the row's own protocol is taken later


def _scored(target: Path, recipe: Recipe, setting: Setting) -> dict[str, Any]:
    """`metrics` in per cent of a trained row by its own protocol, and what they were `scored_on`."""
    from labelscape.evaluation.measure import evaluate
    from labelscape.scoring.protocol import Protocol

    data = setting.scored_on or recipe.data
    with open_recipe_data(data, recipe.seed) as dataset:
        part = setting.part or scored_part(dataset)
        if part is None or not dataset.is_labelled(part):
            raise BadInput(
                f"{target} is trained, but {data.dataset or 'the data'} has no labels to score it on (part "
                f"{part or 'test or val'})."
            )
        protocol = Protocol(setting.scales, setting.tta, setting.average)
        found = evaluate(load(target), dataset, part=part, device=recipe.device, protocol=protocol).metrics
        images = len(dataset.part(part))
    shares = {metric: found[metric] for metric in METRICS}
    shares |= {f"iou/{name}": value for name, value in per_class(found).items()}
    name = data.dataset or ", ".join(map(str, data.images))
    where = f"{name}, part {part}: {images} image{'s' * (images != 1)}"
    return {
        "scored_on": f"{where}, {found['labelled_pixels']:,} labelled pixels",
        "metrics": {key: None if share is None else 100 * share for key, share in shares.items()},
    }


def _check_parts(found: Published, part: str | None) -> None:
    """Raises BadInput where nothing can be learned from or scored on."""
    here = {pair.part for pair in found.pairs if pair.label is not None}
    for what, wanted in (("train on", {"train"}), ("score on", {part} if part else {"test", "val"})):
        if not wanted & here:
            raise BadInput(
                f"{found.name} has no labels to {what} in the part {' or '.join(sorted(wanted))} (labelled "
                f"parts here: {', '.join(sorted(here))})."
            )


def _bring(recipe: Recipe, place: Path, root: Path, say: Callable[[str], None]) -> None:
    """Copy a network trained by the very same recipe for another row, where there is one: rows may differ
    only in how they are tested.
    """
    target = checkpoint_path(place, recipe.network)
    own = recipe.model_dump(mode="json")
    # <root>/<table>/<row>/<seed>/: recipes hold their seed, so a copy is of the same seed.
    trained = (path for path in sorted(root.glob(f"*/*/*/{target.name}")) if path != target)
    same = next((path for path in trained if not differing(_recipe_in(path), own)), None)
    if same and not (target.exists() and not differing(_recipe_in(target), own)):
        say(f"the same network is trained already: {same}")
        with written_whole(target, overwrite=True) as file:
            shutil.copyfile(same, file)


def _recipe_in(path: Path) -> dict[str, Any]:
    """The recipe of a checkpoint in today's words, without its weights; empty where it is none."""
    try:
        return in_todays_words(description(path)["recipe"])
    except (BadFile, KeyError):
        return {}


def per_class(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    return {c["name"]: c["iou"] for c in metrics["classes"]}


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
