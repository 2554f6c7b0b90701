"""Open and split the data of a recipe, and describe its bands: used by training, scoring and calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from labelscape.checkpoint import Checkpoint, SecondTask
from labelscape.contract.alike import seen_in_pieces, unlike
from labelscape.contract.bands import BandStatistics, finer_than_32_bits, survey
from labelscape.contract.colours import colours_of
from labelscape.contract.contract import Contract
from labelscape.contract.difference import REFUSED
from labelscape.contract.values import undeclared_nodata
from labelscape.datasets.holding import held_bytes
from labelscape.datasets.labelled import LabelledScene
from labelscape.datasets.own import Dataset, open_dataset
from labelscape.errors import BadInput, BadOption, LabelscapeError
from labelscape.grid import Grid
from labelscape.labels.rules import SETTINGS, LabelRules
from labelscape.legend import Legend
from labelscape.progress import bar
from labelscape.raster_vision import Bundle
from labelscape.training.recipe_data import Data

if TYPE_CHECKING:
    from labelscape.training.recipe import Recipe

RGB = ("red", "green", "blue")


def open_recipe_data(data: Data, seed: int, legend: Legend | None = None, *, hold: bool = True) -> Dataset:
    """Open and split the scenes and labels of a recipe. `legend` fixes the classes, as a trained
    checkpoint does. Without `hold` no pixels are kept in memory: others read them.
    """
    if data.dataset:
        return _open_published(data, hold=hold)
    rules = LabelRules(legend=legend, **{name: getattr(data, name) for name in SETTINGS})
    return open_dataset(
        data.images,
        data.labels,
        spec=rules,
        nodata=data.nodata,
        bands=data.bands,
        band_names=data.band_names,
        asset=data.asset,
        block=data.block,
        shares=data.shares,
        buffer=data.buffer,
        split=data.split,
        fold=data.fold,
        seed=seed,
        pixel_size=data.pixel_size,
        corrections=data.corrections,
        train_share=data.train_share,
        split_seed=data.split_seed,
        hold=hold,
    )


@contextmanager
def open_both(recipe: Recipe) -> Iterator[tuple[Dataset, Dataset | None]]:
    """The recipe's data and that of its second task, None without one."""
    with ExitStack() as opened:
        dataset, mate = opened.enter_context(open_recipe_data(recipe.data, recipe.seed)), None
        dataset = _with_undeclared(recipe.data, dataset)
        if recipe.mate:
            with of_second_task():
                mate = opened.enter_context(open_recipe_data(recipe.mate.data, recipe.seed))
                mate = _with_undeclared(recipe.mate.data, mate)
        yield dataset, mate


@contextmanager
def of_second_task() -> Iterator[None]:
    """Inside, errors say that they are of the second task's data, and name its settings: `classes` becomes
    `mate.data.classes`, on the command line --mate-classes.
    """

    # A setting in backticks, alone or with its value: `classes`, `classes={...}`.
    setting = re.compile(r"`(\w+)(?=[=`])")

    def renamed(found: re.Match[str]) -> str:
        return f"`mate.data.{found[1]}" if found[1] in Data.model_fields else found[0]

    try:
        yield
    except LabelscapeError as error:
        error.args = (f"Second task (`mate`): {setting.sub(renamed, str(error))}",)
        raise


def _open_published(data: Data, *, hold: bool) -> Dataset:
    from labelscape.datasets.published.catalog import open_published

    if len(data.images) != 1:
        raise BadInput(f"{data.dataset} is one folder; found {len(data.images)} places.")
    dataset = open_published(data.dataset, data.images[0], **data.dataset_options)
    # Parts are renamed rather than added: what was trained on can then not be scored as held out.
    if data.train_on:
        part_of = tuple("train" if part in data.train_on else part for part in dataset.part_of)
        said = f"trained on the parts {' and '.join(data.train_on)}"
        dataset = replace(dataset, part_of=part_of, report=(*dataset.report, said))
    if not hold:
        return dataset
    # Small sets are held in memory: otherwise every crop decodes its file again.
    bytes_in_all, most = 0, held_bytes()
    for scene in dataset.scenes:
        # A byte a pixel more for the labels.
        bytes_in_all += scene.scene.nbytes + scene.scene.grid.window.pixels
        if bytes_in_all > most:
            return dataset
    with bar(f"read {data.dataset}", len(dataset.scenes), "scenes") as tick:
        return dataset.held(tick)


LOOKED_AT = 32
"""Scenes of a data set that are looked at before work begins."""


Item = TypeVar("Item")


def looked_at(items: Sequence[Item]) -> list[Item]:
    """At most LOOKED_AT of the items, spread evenly over them."""
    places = np.linspace(0, len(items) - 1, min(LOOKED_AT, len(items)))
    return [items[place] for place in np.unique(places.round().astype(int))]


def _with_undeclared(data: Data, dataset: Dataset) -> Dataset:
    """The data set whose report names values beyond all measurements, which are left out, what looks like
    holes, and scenes whose values are of another kind than those of the others. Raises BadInput where scenes
    of one's own hold a border or a fill value that they do not declare, as maps and `data check` say: it
    would go into the statistics and be learned.
    """
    if data.dataset:
        return dataset
    looked = looked_at(dataset.scenes)
    # Of one scene its files, where it is a mosaic; as many looks for many scenes as for few.
    looks = [seen_in_pieces(one.scene, one.name, max(1, LOOKED_AT // len(looked))) for one in looked]
    lines = unlike([found for own in looks for found in own])
    lines += _undeclared(looked) if data.nodata is None or data.nodata == data.nodata else []
    return replace(dataset, report=(*dataset.report, *lines)) if lines else dataset


def _undeclared(looked: Sequence[LabelledScene]) -> list[str]:
    """Lines on values beyond all measurements and on what looks like holes. Raises BadInput for a border or a
    fill value that is not declared.
    """
    told: dict[str, list[str]] = {}
    for one in looked:
        scene = one.scene
        found = undeclared_nodata(scene)
        if found is not None and found.level == REFUSED:
            raise BadInput(
                f"{scene.name}: {found.cause} for all scenes, or, if these are measurements, `nodata=nan`."
            )
        if found is not None and found.kind in ("beyond", "holes"):
            told.setdefault(found.kind, []).append(found.cause)
    lines = []
    for causes in told.values():
        others = f" ({len(causes) - 1} more of {len(looked)} scenes looked at have some)" * (len(causes) > 1)
        lines.append(f"{causes[0]}{others}")
    return lines


def scored_part(dataset: Dataset) -> str | None:
    """The part that is scored: "test", or "val" where the test labels of a published set are not public. None
    where neither has labels.
    """
    return next((part for part in ("test", "val") if dataset.is_labelled(part)), None)


class InputScaling(NamedTuple):
    """(mean, std) of each band, and where they come from: a line for a person, empty where that is usual."""

    pairs: tuple[tuple[float, float], ...]
    source: str


def input_scaling(
    recipe: Recipe, dataset: Dataset, statistics: Sequence[BandStatistics], bundle: Bundle | None = None
) -> InputScaling:
    """How a data set's bands are scaled for the recipe's network. Pretrained weights get red, green and blue
    of 8 bits as in their own training, and weights of a `bundle` of Raster Vision all bands by its
    statistics; all else is scaled by the data's own. Raises BadOption where `normalisation` asks for the
    weights' and they do not apply.
    """
    own = tuple((s.mean, s.std) for s in statistics)
    if recipe.normalisation == "data":
        return InputScaling(own, "")
    if bundle is not None:
        return _as_the_bundle(recipe, dataset, statistics, bundle)
    # Here, not above: it imports torch, and scores of exported models need none.
    from labelscape.nets.catalog import weights_scaling

    trained = weights_scaling(recipe.network, recipe.options)
    dtype = dataset.scenes[0].scene.dtype.name
    random = not recipe.options.get("pretrained") and recipe.options.get("weights") is None
    if random:
        missing = f"{recipe.network} starts from random weights"
    elif trained is None:
        missing = "the weights file's statistics are not known: name its tag, as in backbone=resnet50.a1_in1k"
    # Reflectances of 16 bits are spread otherwise than photographs: ImageNet's numbers would not centre them.
    elif dtype != "uint8" or not set(RGB) <= set(dataset.bands):
        missing = f"the bands are {' '.join(dataset.bands)} of {dtype}, not 8-bit red, green and blue"
    else:
        # The weights' statistics are of values from 0 to 1, the scene's of its bytes.
        of_band = {band: (255 * mean, 255 * std) for band, mean, std in zip(RGB, *trained)}
        pairs = tuple(of_band.get(band, pair) for band, pair in zip(dataset.bands, own))
        others = [band for band in dataset.bands if band not in of_band]
        rest = f"; {' '.join(others)} by the data's own" if others else ""
        return InputScaling(pairs, f"red, green and blue are scaled as in the weights' own training{rest}")
    if recipe.normalisation == "weights":
        raise BadOption(f"`normalisation='weights'` cannot be followed: {missing}.")
    return InputScaling(own, "" if random else f"input is scaled by the data's own statistics: {missing}")


def _as_the_bundle(
    recipe: Recipe, dataset: Dataset, statistics: Sequence[BandStatistics], bundle: Bundle
) -> InputScaling:
    """Scaled as the images that a bundle's weights learned from, unless the values are plainly others."""
    dtype, name = dataset.scenes[0].scene.dtype.name, Path(bundle.path).name
    pairs, missing = bundle.pairs(dtype, len(statistics)), ""
    if not pairs:
        missing = f"{name} has no statistics of bands, and values are {dtype}"
    elif len(pairs) != len(statistics):
        missing = f"{name} has statistics of {len(pairs)} bands, and {len(statistics)} are read"
    elif dtype != "uint8":
        # A bundle names no bands: that these are others, or in other units, shows in their values alone.
        known = zip(statistics, pairs, bundle.means, bundle.stds)
        missing = next(
            (
                f"band {own.name} has a mean of {own.mean:.6g}, and in {name} one of {mean:.6g} (deviation "
                f"{std:.6g}): another band or unit"
                for own, (low, width), mean, std in known
                if not low < own.mean < low + width
            ),
            "",
        )
    if missing and recipe.normalisation == "weights":
        raise BadOption(f"`normalisation='weights'` cannot be followed: {missing}.")
    if missing:
        return InputScaling(
            tuple((s.mean, s.std) for s in statistics),
            f"input is scaled by the data's own statistics: {missing}",
        )
    how = "8-bit values over 255" if dtype == "uint8" else "by its statistics of the bands, in their order"
    return InputScaling(pairs, f"input is scaled as in the training of {name}: {how}")


def blank_checkpoint(
    recipe: Recipe,
    dataset: Dataset,
    tick: Callable[[], None] | None = None,
    mate: Dataset | None = None,
    bundle: Bundle | None = None,
) -> Checkpoint:
    """A checkpoint without weights: classes, recipe, and the contract of the training imagery (bands,
    statistics, units, pixel size), the same of the second task `mate`. `tick` is called for every scene
    surveyed; `bundle` is that of the weights to start from.
    """
    second = None
    if mate is not None:
        # By its own statistics, or the weights': the two data sets may come from different sensors.
        second = SecondTask(task_name(recipe, mate), mate.legend, contract_of(recipe, mate, tick, bundle))
    return Checkpoint(
        network=recipe.network,
        options=dict(recipe.options),
        weights={},
        legend=dataset.legend,
        recipe=recipe.model_dump(mode="json"),
        contract=contract_of(recipe, dataset, tick, bundle),
        mate=second,
        corrections=dataset.corrected,
    )


def contract_of(
    recipe: Recipe, dataset: Dataset, tick: Callable[[], None] | None = None, bundle: Bundle | None = None
) -> Contract:
    """What a network of the recipe will know of the imagery of a data set. Raises BadInput where 32-bit
    numbers cannot tell its values apart.
    """
    statistics, samples = survey((s.scene for s in dataset.learned_from()), tick=tick)
    if found := finer_than_32_bits(statistics, dataset.scenes[0].scene.dtype):
        raise BadInput(f"These scenes cannot be learned from: {found}.")
    first: Grid = dataset.scenes[0].scene.grid
    kind = "none" if not first.is_georeferenced else "geographic" if first.crs.is_geographic else "projected"
    return Contract(
        bands=dataset.bands,
        dtype=dataset.scenes[0].scene.dtype.name,
        normalisation=input_scaling(recipe, dataset, statistics, bundle).pairs,
        statistics=statistics,
        colours=colours_of(samples),
        units=dataset.scenes[0].scene.units,
        pixel_size=first.ground_pixel_size,
        nodata=dataset.scenes[0].scene.nodata,
        crs_kind=kind,
    )


NOTHING = ("other", "background", "rest", "none", "no data")
"""Names of a class that is the absence of the other one."""


def task_name(recipe: Recipe, mate: Dataset) -> str:
    """The name of the second task: the recipe's; else that of its class, where there is one beside "other"
    or "background"; else "second".
    """
    names = mate.legend.names
    named = [name for name in names if name.lower() not in NOTHING]
    found = recipe.mate.name or (named[0] if len(names) == 2 and len(named) == 1 else "")
    return re.sub(r"[^\w-]+", "-", found.lower()).strip("-")[:40] or "second"


def val_interval(recipe: Recipe) -> int:
    """Steps between two validation scores: ten scores a run, fewer where they would take longer than the
    training between them (ours).
    """
    from labelscape.scenes.mosaic import open_scene

    pixels = 0
    for image in () if recipe.data.dataset else recipe.data.images:
        # What cannot be read is reported by the training, which opens it in any case.
        with suppress(LabelscapeError), open_scene(image) as scene:
            pixels += scene.grid.window.pixels
    # By pixels, not by the clock: the best weights must be the same on every machine. A training step goes
    # forward and backward, which costs three times the forward pass of a score; scattered held-out blocks
    # make nearly every tile of a scene one that is scored.
    affordable = math.ceil(pixels / (3 * recipe.batch * recipe.crop**2))
    return min(recipe.steps, max(1, recipe.steps // 10, affordable))
