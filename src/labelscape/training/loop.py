"""From a recipe to checkpoints: open the data, run the phases, score what was held out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from lightning_fabric import Fabric

from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.bands import survey
from labelscape.contract.colours import colours_of
from labelscape.contract.contract import Contract
from labelscape.datasets.own import HOLD_BYTES, Dataset, open_dataset
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid
from labelscape.labels.values import LabelSpec
from labelscape.legend import IGNORE, Legend
from labelscape.nets.catalog import entry, options_of
from labelscape.progress import bar
from labelscape.training.board import require_tensorboard
from labelscape.training.phase import checkpoint_path, forget_state, run_phase, write_log
from labelscape.training.recipe import Data, Recipe
from labelscape.training.state import differing
from labelscape.training.team import gather, telling_of_the_lost

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    score: bool = True,
    tensorboard: bool = False,
    say: Say = lambda text: None,
) -> Checkpoint:
    """Train what the recipe describes and write `out/<network>.safetensors` with its log as .csv (and the
    base network's, where it trains one first).

    The held-out part is scored afterwards (unless `score` is False) and the score stored in the checkpoint;
    `tensorboard` writes the log as event files too. A run of the same recipe that was interrupted in `out`
    goes on where it was last saved, to the same weights. Under `torchrun` or SLURM all processes call this;
    the first one writes. Raises BadOption, BadInput or BadFile before any step is made where the recipe, the
    data or the place of writing cannot work.
    """
    out = Path(out)
    target = checkpoint_path(out, recipe.network)
    if tensorboard:
        require_tensorboard()
    fabric = gather(recipe.device, recipe.precision)
    leads = fabric.is_global_zero
    if target.exists() and not overwrite:
        raise BadFile(f"{target} exists; pass --overwrite to replace it.")
    fabric.barrier()  # nobody may find what another of us has just written
    if leads:
        _make_room(out, recipe, overwrite)
    fabric.barrier()
    with telling_of_the_lost(fabric), ExitStack() as opened:
        dataset = opened.enter_context(open_recipe_data(recipe.data, recipe.seed))
        mate = opened.enter_context(open_recipe_data(recipe.mate.data, recipe.seed)) if recipe.mate else None
        for line in (*dataset.report, *(mate.report if mate else ())) if leads else ():
            say(line)
        _check_data(recipe, dataset)
        score = score and _will_be_scored(recipe, dataset, say if leads else lambda text: None)
        with bar("statistics", min(len(dataset.learned_from()), 1000), "scenes", shown=leads) as tick:
            blank = blank_checkpoint(recipe, dataset, tick)
        scores: dict = {}
        start = load(recipe.start) if recipe.start else None
        if recipe.base_steps:
            start = _base_network(recipe, dataset, blank, out, fabric, score, tensorboard, say)
            scores |= start.scores
        checkpoint = run_phase(
            recipe,
            dataset,
            blank,
            out,
            start=start,
            mate=mate,
            fabric=fabric,
            tensorboard=tensorboard,
            say=say,
        )
        if leads:
            checkpoint = replace(
                checkpoint,
                scores={**scores, **(_held_out_score(checkpoint, recipe, dataset) if score else {})},
            )
            _finish(checkpoint, out, recipe.network)
        fabric.barrier()
    return checkpoint


def _base_network(
    recipe: Recipe,
    dataset: Dataset,
    blank: Checkpoint,
    out: Path,
    fabric: Fabric,
    score: bool,
    tensorboard: bool,
    say: Say,
) -> Checkpoint:
    """The network that the recipe's one starts from: trained, or loaded where an interrupted run had
    finished it.
    """
    base = base_recipe(recipe)
    path = checkpoint_path(out, base.network)
    settings = base.model_dump(mode="json")
    if path.exists():
        done = load(path)
        changed = differing(done.recipe, settings)
        if not changed and (done.legend, done.contract.normalisation) != (
            blank.legend,
            blank.contract.normalisation,
        ):
            changed = ["the files"]
        if changed:
            raise BadFile(
                f"{path} is of another run ({', '.join(changed)} differ) and would be replaced. Give "
                f"--start {path} to go on from it as it is, "
                "--overwrite to train it anew, or another --out."
            )
        if fabric.is_global_zero:
            say(f"{path} is finished; going on from it")
        return done
    trained = run_phase(
        base, dataset, replace(blank, recipe=settings), out, fabric=fabric, tensorboard=tensorboard
    )
    if fabric.is_global_zero:
        trained = replace(trained, scores=_held_out_score(trained, base, dataset) if score else {})
        _finish(trained, out, base.network)
    fabric.barrier()
    return load(path)  # all processes the same, to the last bit


def base_recipe(recipe: Recipe) -> Recipe:
    """How the network that this recipe's one starts from is trained."""
    return recipe.replace(
        network=entry(recipe.network).start,
        steps=recipe.base_steps,
        rate=recipe.base_rate,
        base_steps=0,
        mate=None,
        rate_factors={},
        options=_shared_options(recipe.network, recipe.options),
    )


def _check_data(recipe: Recipe, dataset: Dataset) -> None:
    """Raises BadInput where there is nothing to tell apart, or nothing to watch training with."""
    if len(dataset.legend) < 2:
        raise BadInput(
            f"The labels know one class only, {', '.join(dataset.legend.names)}: there is nothing to tell "
            "it from. Name what no polygon covers with "
            "--background other (and with --area where the polygons are complete), or label a second class."
        )
    if recipe.val_every and not dataset.is_labelled("val"):
        raise BadInput(
            "val_every (--val) watches the part val, but the data has no labelled pixel in it (parts here: "
            f"{_parts(dataset)}). Leave it out."
        )


def _parts(dataset: Dataset) -> str:
    return ", ".join(p for p in PARTS if dataset.part(p)) or "none"


def _will_be_scored(recipe: Recipe, dataset: Dataset, say: Say) -> bool:
    """Is anything held out with labels? Said before training, not found out after it."""
    if not recipe.data.holdout:
        return False
    part = scored_part(dataset)
    if part is None:
        say(
            "no score at the end: the data has no labels in the parts test and val (parts here: "
            f"{_parts(dataset)})"
        )
        return False
    if part == "val" and (recipe.data.dataset or recipe.val_every):
        also = ", the part that training is watched with too: it will flatter" if recipe.val_every else ""
        say(f"the score will come from the part val{also}; test has no labels here")
    return True


def _held_out_score(checkpoint: Checkpoint, recipe: Recipe, dataset: Dataset) -> dict:
    from labelscape.evaluation.measure import evaluate

    return {
        recipe.network: evaluate(checkpoint, dataset, part=scored_part(dataset), device=recipe.device).metrics
    }


def _finish(checkpoint: Checkpoint, out: Path, network: str) -> None:
    """Write log and checkpoint; only then let go of what resuming would need."""
    write_log(checkpoint_path(out, network).with_suffix(".csv"), checkpoint.history)
    save(checkpoint, checkpoint_path(out, network))
    forget_state(out, network)


def _make_room(out: Path, recipe: Recipe, overwrite: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):  # hours of training must not end at a folder that takes no file
            pass
    except OSError as error:
        made = "written to" if out.is_dir() else "made"
        raise BadFile(
            f"The folder {out} cannot be {made}: {error.strerror or error}. Name another --out."
        ) from error
    if overwrite:
        forget_state(out, recipe.network)
        if recipe.base_steps:
            base = entry(recipe.network).start
            forget_state(out, base)
            checkpoint_path(out, base).unlink(missing_ok=True)


def open_recipe_data(data: Data, seed: int, legend: Legend | None = None) -> Dataset:
    """Open and split the scenes and labels of a recipe. `legend` fixes the classes, as a trained
    checkpoint does.
    """
    if data.dataset:
        return _open_published(data)
    if data.classes and not data.merge and not legend:
        own_values = all(0 <= value < IGNORE for value in data.classes.values())
        legend = Legend.of_names(list(data.classes), values=data.classes.values() if own_values else None)
    spec = LabelSpec(
        legend,
        data.classes,
        data.class_column,
        data.merge,
        data.background,
        data.area,
        data.ignore_values,
        data.threshold,
    )
    return open_dataset(
        data.images,
        data.labels,
        spec=spec,
        nodata=data.nodata,
        bands=data.bands,
        block=data.block,
        shares=data.shares,
        buffer=data.buffer,
        split=data.split,
        seed=seed,
        pixel_size=data.pixel_size,
    )


def _open_published(data: Data) -> Dataset:
    from labelscape.datasets.published.catalog import open_published

    if len(data.images) != 1:
        raise BadInput(f"{data.dataset} is one folder; found {len(data.images)} places.")
    dataset = open_published(data.dataset, data.images[0], **data.dataset_options)
    bytes_in_all = 0
    for scene in dataset.scenes:
        bytes_in_all += scene.scene.nbytes + scene.scene.grid.window.pixels
        if bytes_in_all > HOLD_BYTES:
            return dataset
    with bar(f"read {data.dataset}", len(dataset.scenes), "scenes") as tick:
        for scene in dataset.scenes:
            scene.scene.hold()
            scene.labels.hold()
            tick()
    return dataset


def scored_part(dataset: Dataset) -> str | None:
    """Where the score comes from: the part "test", or "val" where a published set keeps the test labels to
    itself. None where neither is labelled.
    """
    return next((part for part in ("test", "val") if dataset.is_labelled(part)), None)


def blank_checkpoint(recipe: Recipe, dataset: Dataset, tick: Callable[[], None] | None = None) -> Checkpoint:
    """The contract of the data, before any weight is learned."""
    statistics, samples = survey((s.scene for s in dataset.learned_from()), tick=tick)
    first: Grid = dataset.scenes[0].scene.grid
    kind = "none" if not first.is_georeferenced else "geographic" if first.crs.is_geographic else "projected"
    return Checkpoint(
        network=recipe.network,
        options=dict(recipe.options),
        weights={},
        legend=dataset.legend,
        recipe=recipe.model_dump(mode="json"),
        contract=Contract(
            bands=dataset.bands,
            dtype=dataset.scenes[0].scene.dtype.name,
            normalisation=tuple((s.mean, s.std) for s in statistics),
            statistics=statistics,
            colours=colours_of(samples),
            units=dataset.scenes[0].scene.units,
            pixel_size=first.ground_pixel_size,
            nodata=dataset.scenes[0].scene.nodata,
            crs_kind=kind,
        ),
    )


def _shared_options(network: str, options: dict) -> dict:
    """What a derived network and its base network have in common: the encoder's options."""
    return {key: value for key, value in options.items() if key in options_of(entry(network).start)}
