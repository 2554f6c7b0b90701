"""Which rows of a table are run, and by which settings: everything is decided and checked before the first
row is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labelscape.datasets.published.catalog import find_published
from labelscape.datasets.published.layout import Published
from labelscape.errors import BadInput, BadOption, LabelscapeError, UnknownName
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model, options_of
from labelscape.nets.shapes import shapes_alone
from labelscape.nets.tables import TABLES, Row, Table
from labelscape.training.data import of_second_task, open_recipe_data
from labelscape.training.optimizers import rate_groups
from labelscape.training.papers import Setting, Tiles, setting_of
from labelscape.training.recipe import Recipe
from labelscape.training.recipe_data import Data
from labelscape.training.run import base_recipe

LEAST_STEPS = 10
"""Ours: a small `budget` leaves every phase at least this many."""
SIZES = ("batch", "crop", "base_batch", "accumulate", "steps", "base_steps", "mate", "options.backbone")
"""Settings that make a run smaller, or are the second task's. They may be replaced although rows differ in
them: then the rows say so.
"""
SCALED = "scaled"
"""Setting of a test at several scales: what is scaled."""
ELSEWHERE = {
    "seed": "use `seeds`",
    "device": "use `device`",
    "network": "a row's network is what it compares; choose rows with `rows`",
}


@dataclass(frozen=True)
class Plan:
    """One row, ready to run.

    recipe   with budget, changes and options, but seed 0; None where the row is not run (`setting.why_not`)
    other    what replaces the row's own settings: "options.backbone=resnet18"
    same_as  number of an earlier row that these settings make equal: both are that one run
    tile     side of the tiles in which the network sees what it sees of a training crop
    """

    number: int
    row: Row
    setting: Setting
    recipe: Recipe | None = None
    other: tuple[str, ...] = ()
    same_as: int | None = None
    tile: int = 0

    @property
    def label(self) -> str:
        """What runs: the row's label, and what replaces its own settings."""
        return self.row.label + (f" [{', '.join(self.other)}]" if self.other else "")


def plan_rows(
    name: str,
    data: Mapping[str, Any],
    *,
    budget: float = 1.0,
    rows: Sequence[int] | None = None,
    mate: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    tiles: Tiles | None = None,
    device: str = "auto",
) -> list[Plan]:
    """The chosen rows of a table in order, as `run_table` runs them; `data` is complete (`given_data`).

    Raises UnknownName for a table or option there is not; BadOption for a row there is not, and for changes
    that would replace what the rows vary, belong to another option or make a network that cannot be built.
    """
    chosen = chosen_rows(name, rows)
    # Changes of the data are in `data` already.
    changes = {key: value for key, value in (changes or {}).items() if key != "data"}
    options = dict(options or {})
    whole = dict(enumerate(TABLES[name].rows, start=1))
    # All rows, not the chosen ones: one row alone would hide what it differs in from the others.
    printed = {number: setting_of(row, data, mate) for number, row in whole.items()}
    _refuse_changes(name, list(printed.values()), mate, changes, options)
    plans: list[Plan] = []
    for number, row in chosen.items():
        setting = setting_of(row, data, mate, options)
        if setting.recipe is None:
            plans.append(Plan(number, row, setting))
            continue
        if tiles is not None:
            setting = replace(setting, tiles=tiles, tiles_from="as asked for")
        recipe = scaled(setting.recipe, budget, {**changes, "device": device})
        plan = Plan(number, row, setting, recipe, _replaced(printed[number].recipe, recipe, row, options))
        # Before the first row is trained: the last one must not fail after days of the others.
        net = _check_network(plan, TABLES[name])
        plan = replace(plan, tile=tile_like(recipe.crop, net))
        plans.append(replace(plan, same_as=next((p.number for p in plans if _equal(p, plan)), None)))
    return plans


def given_data(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe's data with those that `changes` has for it."""
    more = dict(changes.get("data", {}))
    options = {**data.get("dataset_options", {}), **more.pop("dataset_options", {})}
    return {**data, **more, **({"dataset_options": options} if options else {})}


def chosen_rows(name: str, rows: Sequence[int] | None) -> dict[int, Row]:
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
    return {number: row for number, row in table.items() if rows is None or number in rows}


def scaled(recipe: Recipe, budget: float, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with its schedule `budget` times as long, or as long as the steps in `changes`: all its
    numbers of steps are scaled alike.
    """
    if isinstance(steps := changes.get("steps"), int):  # else the recipe says what is wrong with it
        budget = steps / recipe.steps

    def shrunk(steps: int) -> int:
        return max(LEAST_STEPS, round(steps * budget)) if steps else 0

    lengths = {
        "steps": shrunk(recipe.steps),
        "base_steps": shrunk(recipe.base_steps),
        "warmup": round(recipe.warmup * budget),
        # Not below one step, after which the rate would be gone.
        "tenth_every": max(1.0, recipe.tenth_every * budget),
    }
    changes = dict(changes)
    if recipe.base_batch and "batch" in changes:  # the base network is another row's, which has that batch
        changes.setdefault("base_batch", changes["batch"])
    if not recipe.base_batch:
        changes.pop("base_batch", None)
    mate = changes.pop("mate", None)
    if mate and recipe.mate:  # the settings of the second task that are not named stay
        changes["mate"] = {**recipe.mate.model_dump(), **mate}
    return recipe.replace(**{**lengths, **changes})


def _refuse_changes(
    name: str,
    settings: Iterable[Setting],
    mate: Mapping[str, Any] | None,
    changes: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Raises UnknownName for an option that no network of the table has; BadOption for changes that belong to
    another option, or would make rows alike that the paper compares.
    """
    for key, cure in ELSEWHERE.items():
        if key in changes:
            raise BadOption(f"{key}={changes[key]} has no effect on a table: {cure}.")
    recipes = [setting.recipe for setting in settings if setting.recipe]
    networks = dict.fromkeys(row.network for row in TABLES[name].rows if row.network)
    known = {option: None for network in networks for option in options_of(network)}
    for option in options:
        if option not in known:
            raise UnknownName(f"option of the networks of {name}", option, known)
    if "mate_classes" in options and mate is not None:
        raise BadOption("mate_classes follows from the classes of `mate`; leave `options.mate_classes` out.")
    for key in (*changes, *(f"options.{option}" for option in options)):
        values = _values(recipes, key)
        if key not in SIZES and len(values) > 1:
            raise BadOption(
                f"{key} would replace what the rows of {name} vary ({', '.join(values)}) and make them "
                "one. Leave it out, and choose rows with `rows`."
            )


def _values(recipes: Sequence[Recipe], key: str) -> list[str]:
    """The values that a setting has in the rows of one network, where that network has several; else empty.
    (Rows of different networks differ anyway.)
    """
    for network in dict.fromkeys(recipe.network for recipe in recipes):
        found = dict.fromkeys(
            # As JSON: lists and mappings cannot be keys of a dict.
            json.dumps(_setting(recipe, key), sort_keys=True)
            for recipe in recipes
            if recipe.network == network
        )
        if len(found) > 1:
            return list(found)
    return []


def _setting(recipe: Recipe, key: str) -> Any:
    fields = settled(recipe.model_dump(mode="json"))
    return fields["options"].get(key.removeprefix("options.")) if "." in key else fields.get(key)


def settled(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON with the options that its network has by default filled in: {} and {"width": 128} are
    one MSWBN.
    """
    if not recipe.get("network"):
        return dict(recipe)
    defaults = {key: p.default for key, p in options_of(recipe["network"]).items()}
    options = {**defaults, **recipe.get("options", {})}
    # Through JSON, as recipes are stored: a tuple and a list are one value.
    return {**recipe, "options": json.loads(json.dumps(options, default=str))}


def _replaced(printed: Recipe, recipe: Recipe, row: Row, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The row's own options, those it is listed with, that other ones replace."""
    return tuple(
        f"{key}={value}"
        for key, value in options.items()
        if key in row.options and recipe.options.get(key) != printed.options.get(key)
    )


def _equal(one: Plan, other: Plan) -> bool:
    """Are two rows trained and tested alike? Their paper's numbers may still differ."""
    # Not with a copy: all copies name the first.
    if one.recipe is None or other.recipe is None or one.same_as is not None:
        return False
    return test_settings(one) == test_settings(other) and settled(
        one.recipe.model_dump(mode="json")
    ) == settled(other.recipe.model_dump(mode="json"))


def test_settings(plan: Plan) -> dict[str, Any]:
    """How a row is tested, as JSON values; the names are those of stored scores."""
    setting = plan.setting
    data = scored_data(plan)
    found = {
        "scales": list(setting.scales),
        "flips": setting.tta,  # not "tta": existing scores.json files would no longer be recognised
        "average": setting.average,
        "part": setting.part,
        "data": data.model_dump(mode="json"),
        "tiles": plan.tile if setting.tiles == "crop" else setting.tiles,
        "blend": setting.blend,
        # Earlier versions cut pictures into tiles before they scaled them.
        **({} if setting.scales == (1.0,) else {SCALED: "pictures"}),
    }
    return {**found, "models": setting.models} if setting.models > 1 else found


def scored_data(plan: Plan) -> Data:
    """The data that a row is scored on."""
    return plan.setting.scored_on or plan.recipe.data


def tile_like(crop: int, net: Network) -> int:
    """The side of the tiles in which a network has as many cells as in its training crops.

    Tiles are whole strides, and crops are padded to whole strides: a network that sums over all that it sees
    has 25 x 25 cells in a crop of 769 and in a tile of 776, and 24 x 24 in one of 768.
    """
    return crop if net.reach is not None else -(-crop // net.stride) * net.stride


def _check_network(plan: Plan, table: Table) -> Network:
    """The row's network, built without memory or computation as the one that it starts from is. Raises
    BadOption, naming the row, where one cannot be built or has not the parts that the recipe names.
    """
    phases = (base_recipe(plan.recipe), plan.recipe) if plan.recipe.base_steps else (plan.recipe,)
    for recipe in phases:
        try:
            net = blank_network(recipe, table.in_channels, table.classes)
            rate_groups(net, recipe)
        except (LabelscapeError, TypeError, ValueError) as error:
            raise BadOption(f"Row {plan.number}, {plan.row.label}, cannot be built: {error}") from error
    return net


def blank_network(recipe: Recipe, bands: int, classes: int) -> Network:
    """The recipe's network on torch's "meta" device: shapes without weights."""
    options = {k: v for k, v in recipe.options.items() if k != "weights"}
    if "pretrained" in options:  # would be downloaded
        options["pretrained"] = False
    with shapes_alone():
        return create_model(recipe.network, in_channels=bands, classes=classes, **options)


def check_data(name: str, data: Mapping[str, Any], *, other_data: bool) -> str:
    """Empty where the data is the table's own, else a sentence that names it as another. Raises BadOption for
    other data unless it is asked for.
    """
    table, dataset = TABLES[name], data.get("dataset")
    own = table.datasets
    # Eroded labels are of the same pictures. Prepared patches may be of any: their classes tell.
    known = bool(dataset) and dataset.removesuffix("-eroded") in own
    if known and (dataset != "prepared" or _is_of(table, data)):
        return ""
    given = f"the data set {dataset}" if dataset else "data without `dataset`"
    if dataset == "prepared":
        given = f"{given} (its classes are others)"
    if not other_data:
        raise BadOption(
            f"{name} is measured on {table.data} ({', '.join(own)}); this is {given}. Its scores would stand "
            "beside numbers of other pictures. Pass the table's data, or `other_data=True` to run it all the "
            "same."
        )
    return f"{given} is not the paper's ({table.data}): claimed and measured are not of the same pictures"


def _is_of(table: Table, data: Mapping[str, Any]) -> bool:
    """Have prepared patches the classes of the table's own data set? (Only GID is prepared for a table.)"""
    from labelscape.datasets.published.gid import LEGENDS

    found = find_published("prepared", data["images"][0], **data.get("dataset_options", {}))
    return found.legend.names == LEGENDS[table.classes].names


def check_parts(plan: Plan) -> bool:
    """Whether the part to score has labels; read from lists of files alone where data is published. Raises
    BadInput where there is nothing to learn from, or nothing to score on although the row's paper scored it;
    and where the second task has nothing to learn from, or other bands.
    """
    data, mate = scored_data(plan), plan.recipe.mate
    if not is_scorable(data, plan.setting.models):
        raise BadInput(
            f"Row {plan.number}, {plan.row.label}, merges {plan.setting.models} models of as many seeds, and "
            "each seed holds other scenes out: one model was trained on what another is scored on. Choose "
            "other rows with `rows`, or give a published data set (`dataset`), whose parts are its own."
        )
    found = _published(data)
    if mate is not None:
        with of_second_task():
            _check_second_task(plan, mate.data, found)
    if found is None:
        return True
    # What is trained on cannot be the held-out part as well.
    trained = set(plan.recipe.data.train_on or ("train",))
    parts = ({plan.setting.part} if plan.setting.part else {"test", "val"}) - trained
    here = _labelled_parts(found, trained, "train")
    if not plan.recipe.data.train_on:
        _labelled_parts(found, parts, "score")
    return bool(parts & here)


def is_scorable(data: Data, models: int) -> bool:
    """Whether so many merged models can be scored on this data: data without parts of its own is divided by
    the seed, which each of them has another of.
    """
    return models == 1 or bool(data.dataset)


def _check_second_task(plan: Plan, data: Data, first: Published | None) -> None:
    found = _published(data)
    if found is None:
        # Opened as training would open it: that it cannot be must not be found after rows of one task.
        open_recipe_data(data, plan.recipe.seed).close()
        return
    _labelled_parts(found, set(data.train_on or ("train",)), "train")
    if first is not None and len(found.bands) != len(first.bands):
        raise BadInput(
            f"{found.name} has the bands {' '.join(found.bands)}, {first.name} {' '.join(first.bands)}; one "
            "trunk reads both. Choose as many with `mate.data.dataset_options`."
        )


def _published(data: Data) -> Published | None:
    """A published data set's files; None for other data."""
    return find_published(data.dataset, data.images[0], **data.dataset_options) if data.dataset else None


def _labelled_parts(found: Published, wanted: set[str], what: str) -> set[str]:
    """The parts that have labels. Raises BadInput where none of the `wanted` ones is among them."""
    here = {pair.part for pair in found.pairs if pair.label is not None}
    if not wanted & here:
        raise BadInput(
            f"{found.name} has no labels to {what} on in the part {' or '.join(sorted(wanted))} (labelled "
            f"parts here: {', '.join(sorted(here))})."
        )
    return here
