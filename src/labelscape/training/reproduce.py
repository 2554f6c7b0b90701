"""Reproduce a table of a paper on given data: each row is trained, scored, and compared with the paper's
claim.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labelscape.checkpoint import description
from labelscape.errors import BadFile
from labelscape.files import check_folder, written_whole
from labelscape.nets.catalog import check_weights
from labelscape.nets.tables import Row
from labelscape.progress import told_where_lost
from labelscape.training.leader import Leader, leading
from labelscape.training.outputs import checkpoint_path
from labelscape.training.papers import Tiles
from labelscape.training.recipe import Recipe, in_todays_words
from labelscape.training.run import base_recipe, train
from labelscape.training.state import differing
from labelscape.training.table_cost import fitted, room_on
from labelscape.training.table_resampled import resampled_lists
from labelscape.training.table_rows import (
    SCALED,
    Plan,
    check_data,
    check_parts,
    chosen_rows,
    given_data,
    plan_rows,
    settled,
    test_settings,
)
from labelscape.training.table_scores import score
from labelscape.training.team import gather

Say = Callable[[str], None]

NO_LABELS = (
    "trained; no public labels to score it on: labelscape evaluate CHECKPOINT FOLDER --part test "
    "--predictions writes what the benchmark's server takes"
)
APART = 1000
"""Between the seeds of models that are merged: seeds of `run_table` stay apart from them."""


@dataclass(frozen=True)
class RowResult:
    """One row: per seed the metrics in per cent, in the order of the seeds, and what they were measured
    on; or why there are none.

    other    what replaced the row's own settings (`table_rows.Plan`)
    same_as  the earlier row that is the same run
    second   of a task that was learned beside the row's own, its `name` and what it was `scored_on`; its
             metrics are `measured` under "NAME: METRIC". Empty where there is none, or none that is scored
    notes    on the data and the test: what is not the paper's
    """

    row: Row
    measured: tuple[dict[str, float], ...] = ()
    seeds: tuple[int, ...] = ()
    steps: int = 0
    base_steps: int = 0
    scored_on: str = ""
    tested: str = ""
    why_not: str = ""
    number: int = 0
    other: tuple[str, ...] = ()
    same_as: int | None = None
    second: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """What ran: the row's label, and what replaced its own settings."""
        ran = f" [{', '.join(self.other)}]" if self.other else ""
        return self.row.label + ran + (f" (= row {self.same_as})" if self.same_as else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "row": self.row.label,
            "ran": self.label,
            "same_as": self.same_as,
            "claimed": dict(self.row.claimed),
            "measured": list(self.measured),
            "seeds": list(self.seeds),
            "steps": self.steps + self.base_steps,
            "base_steps": self.base_steps,
            "scored_on": self.scored_on,
            "tested": self.tested,
            **({"second_task": dict(self.second)} if self.second else {}),
            "notes": list(self.notes),
            "why_not": self.why_not,
        }

    def summary(self, metric: str) -> tuple[float, float] | None:
        """Mean over the seeds and half the width of its 95 % interval (Student's t; NaN for one seed)."""
        from scipy.stats import t

        values = [m[metric] for m in self.measured if m.get(metric) is not None]
        if not values:
            return None
        # Student's t: for two or three seeds a normal distribution would promise far too much.
        mean, count = sum(values) / len(values), len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1)) if count > 1 else math.nan
        return mean, float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count) if count > 1 else math.nan


@dataclass(frozen=True)
class _Run:
    """What all rows of a run share."""

    name: str
    out: Path
    overwrite: bool
    leader: Leader
    say: Say


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
    tiles: Tiles | None = None,
    other_data: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> list[RowResult]:
    """Train and score the rows of a table with `budget` times the paper's steps; rows finished in `out` are
    not run again. Under `torchrun` all processes call this; the first one scores, writes and speaks.

    rows     numbers from 1, all unless given
    changes  settings of the recipe that differ from the paper's, for every row (crop, batch); those of `data`
             are added to it
    options  options of the networks that differ, where a network has them (a smaller backbone)
    tiles    how pictures are cut at the test, instead of as the paper does (`papers.Tiles`)
    other_data  run on another data set than the table's
    overwrite  rows in `out` that are unfinished or were made with other settings are made anew; else the
               first are continued, the others refused
    Networks that differ only in how they are tested are trained once, and equal rows are one run. Raises
    UnknownName for a table or an option there is not; BadOption, BadInput, BadFile as `train` and
    `plan_rows`, the wrong settings of all rows before the first of them is trained.
    """
    check_folder(out, "The folder of the table (out)")
    seeds, changes = checked_seeds(seeds), changes or {}
    chosen_rows(name, rows)
    data = given_data(data, changes)
    note = check_data(name, data, other_data=other_data)
    fabric = gather(device, str(changes.get("precision", "32")))
    how = {"budget": budget, "rows": rows, "mate": mate, "options": options, "tiles": tiles}
    with leading(fabric, Path(out)) as leader:
        run = _Run(name, Path(out), overwrite, leader, say if leader.leads else lambda text: None)
        notes = (note,) if note else ()
        if name == "mswbn-7":
            # By the first process alone: all must train on the same patches.
            data, told = leader(lambda: resampled_lists(data, run.out / name / "lists"))
            notes += told
        plans = plan_rows(name, data, **how, changes=changes, device=device)
        # The first process decides for all: their devices may differ.
        room = leader(lambda: room_on(fabric))
        plans, told = fitted(plans, room, fabric.world_size)
        notes += tuple(told)
        # All rows before the first is trained: days of training must not end at labels that are not there.
        scorable = {p.number: p.recipe is None or leader(lambda p=p: check_parts(p)) for p in plans}
        leader(lambda: _check_weights(run, plans, seeds))
        return _results(run, plans, seeds, scorable, notes)


def _check_weights(run: _Run, plans: Sequence[Plan], seeds: Sequence[int]) -> None:
    """Raises NoWeights or BadFile where a row that is still to be trained starts from weights that cannot be
    had: rows may have backbones of their own.
    """
    for plan in plans:
        if plan.recipe is None or plan.same_as is not None:
            continue
        places = [_place(run, plan, seed) for seed in seeds]
        own = [(plan.recipe.replace(seed=seed), place) for seed, place in zip(seeds, places, strict=True)]
        if run.overwrite or not all(_is_trained(run, recipe, place) for recipe, place in own):
            check_weights(plan.recipe.network, plan.recipe.options)


def _is_trained(run: _Run, recipe: Recipe, place: Path) -> bool:
    """Whether the row lies there, scored or not yet, or another row has its network."""
    return (
        (place / "scores.json").exists()
        or checkpoint_path(place, recipe.network).exists()
        or _trained_elsewhere(recipe, place, run.out) is not None
    )


def _results(
    run: _Run,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    scorable: Mapping[int, bool],
    notes: tuple[str, ...],
) -> list[RowResult]:
    """Train and score every row; a row that is the same run as an earlier one has its scores."""
    results: dict[int, RowResult] = {}
    for plan in plans:
        if plan.same_as is not None:
            first = results[plan.same_as]
            found = replace(first, row=plan.row, number=plan.number, other=plan.other, same_as=plan.same_as)
        elif plan.recipe is None:
            found = RowResult(plan.row, why_not=plan.setting.why_not, number=plan.number, notes=notes)
        else:
            found = replace(_row(run, plan, seeds, scorable[plan.number]), notes=notes)
        results[plan.number] = found
    return list(results.values())


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Raises BadOption for a seed that is named twice or below 0."""
    from labelscape.errors import BadOption

    if len(set(seeds)) < len(seeds):
        raise BadOption(
            f"The seeds {', '.join(map(str, seeds))} name one twice; the same run again is not a second "
            "measurement."
        )
    if any(seed < 0 for seed in seeds):
        raise BadOption(f"The seeds {', '.join(map(str, seeds))} must be 0 or more.")
    return tuple(seeds)


def _row(run: _Run, plan: Plan, seeds: Sequence[int], scorable: bool) -> RowResult:
    recipe = plan.recipe
    steps = recipe.steps + recipe.base_steps
    scores = []
    for seed in seeds:
        place = _place(run, plan, seed)
        run.say(f"{run.name} {plan.number}: {plan.label}, seed {seed}, {steps} steps")
        seeded = replace(plan, recipe=recipe.replace(seed=seed))
        scores.append(score_row(run, seeded, place, scorable))
    measured = tuple(found["metrics"] for found in scores)
    return RowResult(
        plan.row,
        measured,
        tuple(seeds),
        recipe.steps,
        recipe.base_steps,
        scores[0]["scored_on"],
        scores[0].get("tested", ""),
        "" if scorable else NO_LABELS,
        plan.number,
        plan.other,
        # Scores of earlier versions have none of a second task.
        second=scores[0].get("second_task", {}),
    )


def _place(run: _Run, plan: Plan, seed: int) -> Path:
    return run.out / run.name / f"{plan.number:02d}-{slug(plan.row.label)}" / f"seed{seed}"


def score_row(run: _Run, plan: Plan, place: Path, scorable: bool) -> dict[str, Any]:
    """`metrics` in per cent of a row trained in `place`, and what they were `scored_on`; read from there
    where an earlier run has finished it.

    A network that lies trained in another row's place, by the same recipe, is not trained again. Raises
    BadFile where `place` holds the row with other settings, unless `overwrite`.
    """
    finished = place / "scores.json"
    # The test belongs to a row: the same network at other scales is another row.
    settings = {**plan.recipe.model_dump(mode="json"), "test": test_settings(plan)}
    stored = run.leader(lambda: _stored(run, plan.recipe, place, settings))
    if stored is not None:
        return stored
    checkpoints = [place_of_model(place, number) for number in range(plan.setting.models)]
    # One for each of the seeds that are merged; most rows have a single one.
    for number, folder in enumerate(checkpoints):
        _train_once(run, plan.recipe.replace(seed=plan.recipe.seed + APART * number), folder)
    targets = [checkpoint_path(folder, plan.recipe.network) for folder in checkpoints]

    def scored() -> dict[str, Any]:
        found = score(plan, targets) if scorable else {"metrics": {}, "scored_on": ""}
        with told_where_lost(lambda: [f"{finished}: {json.dumps(found)}"]):
            with written_whole(finished, overwrite=True) as file:
                file.write_text(json.dumps({"settings": settings, **found}, indent=1))
        return {"settings": settings, **found}

    return run.leader(scored)


def place_of_model(place: Path, number: int) -> Path:
    """Where a row keeps its models: the first beside its scores, those merged with it one folder below."""
    return place if number == 0 else place / f"model{number + 1}"


def _stored(run: _Run, recipe: Recipe, place: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row's scores where they are finished; None where it is still to be made. Clears `place` for
    `overwrite`. Raises BadFile where it holds the row with other settings.
    """
    target, finished = checkpoint_path(place, recipe.network), place / "scores.json"
    changed = []
    if finished.exists():
        stored = json.loads(finished.read_text())
        its_recipe = {key: value for key, value in stored["settings"].items() if key != "test"}
        # In today's words: scores of earlier versions stay valid.
        before = {**settled(in_todays_words(its_recipe)), "test": stored["settings"].get("test")}
        changed = differing(before, settled(settings))
        if not changed:
            return stored
        earlier = {key: value for key, value in settings["test"].items() if key != SCALED}
        if not differing(before, settled({**settings, "test": earlier})):
            changed = []  # the same row, tested otherwise by an earlier version: it is scored again
    # Trained and not yet scored: the checkpoint tells by which settings.
    elif target.exists():
        changed = differing(_recipe_in(target), _own(recipe))
    if changed and not run.overwrite:
        raise _of_other_settings(place, changed)
    if run.overwrite:
        # File by file: the folder may hold some that are not ours.
        for file in (*place.rglob("*.safetensors"), *place.rglob("*.csv"), finished):
            file.unlink(missing_ok=True)
    return None


def _train_once(run: _Run, recipe: Recipe, place: Path) -> None:
    """Make sure that the row's network is in `place`: there already, copied from another row, or trained
    now.
    """
    target = checkpoint_path(place, recipe.network)
    needed = (base_recipe(recipe), recipe) if recipe.base_steps else (recipe,)

    def bring() -> bool:
        if target.exists():
            # The first model's was looked at with the row's scores; those merged with it may be of an
            # earlier run.
            if changed := differing(_recipe_in(target), _own(recipe)):
                raise _of_other_settings(place, changed)
            return True
        for phase in needed:
            _bring(phase, place, run.out, run.say)
        return target.exists()

    # One process copies, or several would write one file at once.
    if not run.leader(bring):
        with run.leader.naming_the_dead():
            # The score by the row's own protocol is taken later.
            train(recipe, place, say=run.say, score=False)


def _of_other_settings(place: Path, changed: Sequence[str]) -> BadFile:
    shown = ", ".join(changed[:5])
    return BadFile(
        f"{place} holds this row with other settings ({shown}). Give the same settings, another `out`, or "
        "`overwrite=True` to make it again."
    )


def _bring(recipe: Recipe, place: Path, root: Path, say: Say) -> None:
    """Copy a network trained by the very same recipe for another row, where there is one: rows may differ
    only in how they are tested.
    """
    target, own = checkpoint_path(place, recipe.network), _own(recipe)
    same = _trained_elsewhere(recipe, place, root)
    if same and not (target.exists() and not differing(_recipe_in(target), own)):
        say(f"the same network is trained already: {same}")
        # A copy and not a link: the row stays complete when the other one is deleted.
        with written_whole(target, overwrite=True) as file:
            shutil.copyfile(same, file)


def _trained_elsewhere(recipe: Recipe, place: Path, root: Path) -> Path | None:
    """The checkpoint of another row that was trained by the very same recipe; None where there is none."""
    target, own = checkpoint_path(place, recipe.network), _own(recipe)
    # <root>/<table>/<row>/<seed>/: recipes hold their seed, so a copy is of the same seed.
    trained = (path for path in sorted(root.glob(f"*/*/*/{target.name}")) if path != target)
    return next((path for path in trained if not differing(_recipe_in(path), own)), None)


def _own(recipe: Recipe) -> dict[str, Any]:
    return settled(recipe.model_dump(mode="json"))


def _recipe_in(path: Path) -> dict[str, Any]:
    """The recipe of a checkpoint in today's words, without its weights; empty where it is none."""
    try:
        return settled(in_todays_words(description(path)["recipe"]))
    # Damaged, or not written by training: it simply is no match.
    except (BadFile, KeyError):
        return {}


def slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
