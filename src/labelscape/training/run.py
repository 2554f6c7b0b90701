"""Train a recipe: open the data, run the phases, score the held-out part, write the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from labelscape.checkpoint import Checkpoint, load, remember_file, save
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile, BadInput, LabelscapeError
from labelscape.files import check_folder, check_local, check_new, locked
from labelscape.labels.rules import too_few_classes
from labelscape.legend import IGNORE
from labelscape.nets.catalog import entry, options_of
from labelscape.progress import bar
from labelscape.training.beforehand import check_beforehand
from labelscape.training.data import blank_checkpoint, input_scaling, of_second_task, open_both, scored_part
from labelscape.training.foreign import Start, bundle_of
from labelscape.training.leader import Leader, leading
from labelscape.training.logs import Logs, checked, logging_to
from labelscape.training.loop import run_phase
from labelscape.training.on_nodata import labels_on_nodata
from labelscape.training.outputs import (
    checkpoint_path,
    counts_path,
    forget_finished_state,
    forget_state,
    forget_steps,
    make_room,
    write_log,
)
from labelscape.training.recipe import Recipe, as_recipe, in_todays_words
from labelscape.training.recipe_sizes import SETTINGS as OF_MAP_SIZE
from labelscape.training.setup import net_options
from labelscape.training.start import told_of_start
from labelscape.training.state import differing
from labelscape.training.stopping import Stop, stoppable
from labelscape.training.team import gather, telling_of_the_lost

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What all phases of a run share: output folder, processes, whether to score, where messages go."""

    out: Path
    fabric: Fabric
    leader: Leader
    score: bool
    log: tuple[str, ...]
    """Loggers; none but in the first process."""
    say: Say
    stop: Stop
    score_mate: bool = False
    """Whether the second task is scored."""
    watch: Callable[[dict], None] = lambda line: None
    """Is given every line of the log of the recipe's own network."""


def train(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    score: bool = True,
    log: str | Sequence[str] = (),
    tensorboard: bool = False,
    say: Say | None = None,
    watch: Callable[[dict], None] | None = None,
) -> Checkpoint:
    """Train the recipe's network and write `out/<network>.safetensors` with its log as .csv, its times and
    the counts of its score (and the base network's, where it trains one first).

    `recipe` may also be a mapping of the settings of `make_recipe`. `say` is called with every line of the
    run's talk; None is silent. `watch` is called with every line of the log as it is written, a
    mapping as in `Checkpoint.history` (not with those of a base network); what it raises ends the training.

    The held-out part is scored afterwards (unless `score` is False) and the score stored in the checkpoint;
    `log` names loggers that get the recipe, every line of the log and the scores too: "tensorboard", "wandb",
    "mlflow" (`tensorboard` is short for the first). An interrupted run of the same recipe in `out` continues
    from where it was last saved, to the same weights and in the same runs of its loggers: SIGINT and SIGTERM
    save the step in progress first, and end in KeyboardInterrupt or SystemExit. A logger that fails after the
    first step does not end the training. Under `torchrun` or SLURM all processes call this; the first one
    writes. Raises BadOption, BadInput or BadFile before any step is made where the recipe, the
    data or the place of writing cannot work.
    """
    recipe = as_recipe(recipe)
    check_folder(out, "The folder of a training run (out)")
    check_local(out)
    out = Path(out)
    names = checked([*([log] if isinstance(log, str) else log), *["tensorboard"] * tensorboard])
    fabric = gather(recipe.device, recipe.precision)
    start = check_beforehand(recipe, base_recipe(recipe) if recipe.base_steps else None, fabric)
    # One process alone prints: the others would repeat every line.
    say = say if say is not None and fabric.is_global_zero else lambda text: None
    watch = watch if watch is not None and fabric.is_global_zero else lambda line: None
    with ExitStack() as held:
        _make_place(recipe, out, fabric, overwrite, held)
        stop = held.enter_context(stoppable())
        try:
            with leading(fabric, out) as leader:
                log = names if fabric.is_global_zero else ()
                run = Run(out, fabric, leader, score, log, say, stop, watch=watch)
                return _trained(recipe, start, run)
        except (KeyboardInterrupt, SystemExit):
            if not stop.told:
                say(stop.message())
            raise


def _trained(recipe: Recipe, start: Start | None, run: Run) -> Checkpoint:
    fabric, leads = run.fabric, run.fabric.is_global_zero
    with telling_of_the_lost(fabric), ExitStack() as opened:
        dataset, mate = opened.enter_context(open_both(recipe))
        for line in (*dataset.report, *(f"second task: {line}" for line in (mate.report if mate else ()))):
            run.say(line)
        # Before the statistics, which may read a thousand scenes.
        refuse_data(recipe, dataset, mate)
        if leads and (line := labels_on_nodata(dataset)):
            run.say(line)
        of_mate = run.score and mate is not None and bool(recipe.mate.data.holdout)
        run = replace(
            run,
            score=run.score and _will_be_scored(recipe, dataset, run.say),
            score_mate=of_mate and scored_part(mate) is not None,
        )
        # As many of each as `survey` looks at.
        surveyed = sum(min(len(each.learned_from()), 1000) for each in (dataset, mate) if each)
        with bar("statistics of the bands", surveyed, "scenes", shown=leads) as tick:
            blank = blank_checkpoint(recipe, dataset, tick, mate, bundle_of(start))
        for line in about_second_task(recipe, blank, mate, scored=run.score_mate):
            run.say(line)
        if line := input_scaling(recipe, dataset, blank.contract.statistics, bundle_of(start)).source:
            run.say(line)
        if start is None:
            _warn_of_random_weights(recipe, run.say)
        elif not recipe.base_steps:
            options = net_options(recipe, mate)
            name = Path(recipe.start).name
            for line in told_of_start(recipe.network, options, dataset, start, name, mate):
                run.say(line)
            for line in _seen_by_start(recipe, dataset, start) if run.score else ():
                run.say(line)
        if recipe.base_steps:
            start = _base_network(recipe, dataset, replace(blank, mate=None), run)
        # The base network's are of the same blocks; those of a checkpoint given as `start` may not be.
        before = start.scores if recipe.base_steps else {}
        return _learned(recipe, dataset, blank, run, start=start, mate=mate, before=before)


def _learned(
    recipe: Recipe,
    dataset: Dataset,
    blank: Checkpoint,
    run: Run,
    *,
    start: Start | None = None,
    mate: Dataset | None = None,
    before: dict | None = None,
) -> Checkpoint:
    """Train one network, score it and write its files."""
    with logging_to(run.log, run.out, recipe, run.say) as logs:
        checkpoint = run_phase(
            recipe,
            dataset,
            blank,
            run.out,
            start=start,
            mate=mate,
            fabric=run.fabric,
            leader=run.leader,
            logs=logs,
            say=run.say,
            stop=run.stop,
            watch=run.watch,
        )
        return _finished(checkpoint, recipe, dataset, run, logs, before, mate)


def _seen_by_start(recipe: Recipe, dataset: Dataset, start: Start) -> list[str]:
    """A warning where a network that starts on corrections has learned what is now held out."""
    from labelscape.training.learned import trained_share

    # With corrections alone: they go with the scenes that the start was trained on.
    ours = isinstance(start, Checkpoint)  # other people's weights say nothing of their data
    if not recipe.data.corrections or not ours or not start.recipe.get("data"):
        return []
    part, name = scored_part(dataset), Path(recipe.start).name
    try:
        share = trained_share(start, dataset, part)
    except LabelscapeError as problem:
        return [f"whether {name} was trained on what is held out now cannot be known: {problem}"]
    if not share:
        return []
    return [
        f"{name} was trained on {100 * share:.0f} % of the labels that are held out now: the score will be "
        "optimistic. Give the settings of its split (`seed`, `block`, `holdout`, `val`, `fold`)"
    ]


def _make_place(recipe: Recipe, out: Path, fabric: Fabric, overwrite: bool, held: ExitStack) -> None:
    """Create `out`, lock what is trained there, as long as `held` is open, and clear it for `overwrite`.
    Raises BadFile where it is read-only, holds a finished checkpoint, or another run trains there.
    """
    target = checkpoint_path(out, recipe.network)
    if fabric.is_global_zero and not overwrite:
        forget_finished_state(out, recipe.network)
    check_new(target, overwrite=overwrite)
    fabric.barrier()  # all processes have checked before the first one writes
    networks = [recipe.network] + ([base_recipe(recipe).network] if recipe.base_steps else [])
    failed: BadFile | None = None
    if fabric.is_global_zero:
        try:
            make_room(out)
            for network in networks:
                # As long as it trains: a second run in the folder would overwrite this one's state.
                held.enter_context(locked(checkpoint_path(out, network)))
            # Once more: while this one waited for the lock, the other may have finished.
            check_new(target, overwrite=overwrite)
        except BadFile as error:
            failed = error
    # All processes raise it: one that waited for another would wait for ever.
    if message := fabric.broadcast(str(failed) if failed else ""):
        raise BadFile(message) from failed
    if fabric.is_global_zero and overwrite:
        for network in networks:
            forget_state(out, network)
            forget_steps(out, network)
        if recipe.base_steps:
            checkpoint_path(out, networks[1]).unlink(missing_ok=True)
    fabric.barrier()


def _base_network(recipe: Recipe, dataset: Dataset, blank: Checkpoint, run: Run) -> Checkpoint:
    """The base network that the recipe's network starts from: trained, or loaded where an interrupted run had
    finished it.
    """
    base = base_recipe(recipe)
    path = checkpoint_path(run.out, base.network)
    settings = base.model_dump(mode="json")
    if path.exists():
        done = load(path)
        _refuse_another_run(path, done, replace(blank, recipe=settings))
        run.say(f"{path} is finished and is not trained again")
        if run.fabric.is_global_zero:
            forget_finished_state(run.out, base.network)
        return done
    blank = replace(blank, recipe=settings)
    # The log that is watched is that of the network that was asked for.
    _learned(base, dataset, blank, replace(run, watch=lambda line: None))
    return load(path)  # from the file, so that all processes start from the same bytes


def _refuse_another_run(path: Path, done: Checkpoint, wanted: Checkpoint) -> None:
    """Raises BadFile where a finished network was trained by other settings or on other data."""
    # In today's words: a setting that is newer than the checkpoint is no difference at its default.
    changed = differing(in_todays_words(done.recipe), wanted.recipe)
    one, other = ((c.legend, c.contract.normalisation, c.corrections) for c in (done, wanted))
    if not changed and one != other:
        changed = ["the files"]
    if changed:
        raise BadFile(
            f"{path} is from another run ({', '.join(changed)} differ) and would be replaced. Give "
            f"`start={path}` to continue from it as it is, "
            "`overwrite=True` to train it anew, or another `out`."
        )


def base_recipe(recipe: Recipe) -> Recipe:
    """How the network that this recipe's one starts from is trained."""
    return recipe.replace(
        network=entry(recipe.network).start.base,
        steps=recipe.base_steps,
        rate=recipe.base_rate,
        batch=recipe.base_batch or recipe.batch,
        base_batch=None,
        # The same share of the run.
        warmup=round(recipe.warmup * recipe.base_steps / recipe.steps),
        base_steps=0,
        mate=None,
        # They name parts of the derived network, which the base network may not have.
        rate_factors={},
        # The base network's own encoder is what it is trained for.
        freeze="none",
        encoder_factor=1.0,
        layer_decay=1.0,
        **dict.fromkeys(OF_MAP_SIZE),
        options=_shared_options(recipe.network, recipe.options),
    )


def _shared_options(network: str, options: dict) -> dict:
    """The options that a network and its base network have in common: those of the encoder."""
    return {key: value for key, value in options.items() if key in options_of(entry(network).start.base)}


def refuse_data(recipe: Recipe, dataset: Dataset, mate: Dataset | None) -> None:
    """Look at the data of both tasks before the first step, in a run and in what only estimates or tries one.
    Raises BadInput where labels have one class only or lie where scenes have no data, `map_size` is larger
    than all scenes, or `val_every` has no labelled pixels to score.
    """
    _check_classes(dataset)
    if mate is not None:
        with of_second_task():
            _check_classes(mate)
    if larger := larger_than_all(recipe, dataset):
        raise BadInput(larger)
    if recipe.val_every and not dataset.is_labelled("val"):
        raise BadInput(
            "`val_every` (`val`) scores the part val, but the data has no labelled pixel in it (parts here: "
            f"{_parts(dataset)}). Leave it out."
        )


def larger_than_all(recipe: Recipe, dataset: Dataset) -> str | None:
    """A sentence where the map's tiles are larger than any training scene: nothing could be learned there."""
    height, width = 0, 0
    for scene in dataset.part("train") if recipe.map_size else ():
        height, width = max((height, width), scene.scene.grid.shape, key=max)
        if recipe.map_size <= max(height, width):
            return None
    if not height:  # no map size, or nothing to train on, which is reported elsewhere
        return None
    return (
        f"`map_size={recipe.map_size}` is larger than any training scene (the largest: {width} x {height} "
        f"pixels), so that no such tile can be learned from. Give at most {max(height, width)}."
    )


def _check_classes(dataset: Dataset) -> None:
    # The loss of a single class is 0 from the first step: training would end well and have learned nothing.
    if few := too_few_classes(dataset.legend.names):
        raise BadInput(" ".join(few))
    scenes = dataset.part("train")
    # No scene at all is refused where crops are drawn, with the parts that there are.
    if scenes and not any(_meets_data(scene) for scene in scenes):
        raise BadInput(
            "No label for training lies where its scene has data: all these pixels are nodata. Check the "
            "nodata value of the scenes (`nodata`), and that labels and scenes lie at one place."
        )


def _meets_data(scene: LabelledScene) -> bool:
    """Has any valid pixel of the training part a label? Read up to the first: one window as a rule."""
    for window in scene.scene.grid.window.blocks(512):
        if (scene.read_labels(window, "train") != IGNORE).any():
            _, labels = scene.read(window, "train")  # unlabelled on invalid pixels too
            if (labels != IGNORE).any():
                return True
    return False


def about_second_task(recipe: Recipe, blank: Checkpoint, mate: Dataset | None, *, scored: bool) -> list[str]:
    """What to know beforehand of the second task, or of a network that could have one and has none."""
    if mate is None:
        has = "mate_classes" in options_of(recipe.network)
        return [f"{recipe.network} is trained without a second task (`mate`), and has no head for one"] * has
    name, classes = blank.mate.name, ", ".join(blank.mate.legend.names)
    if not recipe.mate.weight:
        return [
            f"second task {name} ({classes}): with mate.weight=0 its crops only take part in batch "
            "statistics; its head is not trained and will not be mapped"
        ]
    held_out = f"will be scored on its part {scored_part(mate)}" if scored else "will not be scored"
    return [f"second task {name} ({classes}) {held_out}"]


def _warn_of_random_weights(recipe: Recipe, say: Say) -> None:
    first = base_recipe(recipe) if recipe.base_steps else recipe
    if first.options.get("pretrained") or first.options.get("weights"):
        return
    has = "pretrained" in options_of(first.network)
    better = "; options.pretrained=true starts from ImageNet weights" if has else ""
    say(f"{first.network} starts from random weights{better}")


def _parts(dataset: Dataset) -> str:
    return ", ".join(p for p in PARTS if dataset.part(p)) or "none"


def _will_be_scored(recipe: Recipe, dataset: Dataset, say: Say) -> bool:
    """Whether a labelled part is held out; what is missing is reported before training, not after it."""
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
        also = ", which also chooses the best weights: it will be optimistic" if recipe.val_every else ""
        say(f"the score will come from the part val{also}; test has no labels here")
    return True


def _held_out_score(
    checkpoint: Checkpoint, recipe: Recipe, dataset: Dataset, out: Path, task: str = ""
) -> dict:
    """The metrics of the held-out part, by the network's name; their counts are written beside the
    checkpoint.
    """
    from labelscape.evaluation.measure import evaluate

    part = scored_part(dataset)
    found = evaluate(checkpoint, dataset, part=part, device=recipe.device, reliability=True)
    found.save(counts_path(out, recipe.network, task), overwrite=True)
    return {recipe.network: found.metrics}


def _at_its_size(checkpoint: Checkpoint, recipe: Recipe, dataset: Dataset, say: Say) -> Checkpoint:
    """The checkpoint with its held-out scores by tile size. Measured on the part "val" where there is one:
    the size is then not chosen on the pixels of the final score.
    """
    from labelscape.evaluation.tile_sizes import measure_tile_sizes

    part = next(part for part in ("val", "test") if dataset.is_labelled(part))
    found = measure_tile_sizes(checkpoint, dataset, part=part, device=recipe.device)
    if found is not None:
        say(f"scores by tile size, on held-out pixels of the part {part}:")
        for line in found.lines():
            say(line)
    return replace(checkpoint, tile_sizes=found)


def _with_features(checkpoint: Checkpoint, recipe: Recipe, dataset: Dataset) -> Checkpoint:
    """The checkpoint with the features of its training data."""
    from labelscape.evaluation.familiar import measure_familiarity

    return replace(checkpoint, familiarity=measure_familiarity(checkpoint, dataset, device=recipe.device))


def best_network(recipe: Recipe, scores: Mapping[str, Mapping]) -> str:
    """The name of the better of the networks that a recipe trains: its base network where that has the higher
    mean IoU, else its own.
    """
    trained = [recipe.network] + ([base_recipe(recipe).network] if recipe.base_steps else [])
    scored = [name for name in trained if scores.get(name, {}).get("mean_iou") is not None]
    return max(scored, key=lambda name: scores[name]["mean_iou"], default=recipe.network)


def _with_second_task(checkpoint: Checkpoint, recipe: Recipe, mate: Dataset, out: Path | None) -> Checkpoint:
    """The checkpoint with its second task's score, whose counts go into `out`; None where it is not scored.
    Without that task where its loss weighed nothing.
    """
    if not recipe.mate.weight:
        return replace(checkpoint, mate=None)
    if out is None:
        return checkpoint
    name = checkpoint.mate.name
    score = _held_out_score(checkpoint.task(name), recipe, mate, out, name)
    return replace(checkpoint, mate=replace(checkpoint.mate, scores=score))


def _finished(
    checkpoint: Checkpoint,
    recipe: Recipe,
    dataset: Dataset,
    run: Run,
    logs: Logs,
    before: dict | None,
    mate: Dataset | None,
) -> Checkpoint:
    """Score a trained network, add the scores `before` it (the base network's), and write log and checkpoint.
    Only then is the state file deleted: a failing score loses no training.
    """
    target = checkpoint_path(run.out, recipe.network)

    def written() -> Checkpoint:
        made = checkpoint
        if run.score and recipe.measure_tile_sizes:
            made = _at_its_size(made, recipe, dataset, run.say)
        score = _held_out_score(made, recipe, dataset, run.out) if run.score else {}
        made = replace(made, scores={**(before or {}), **score})
        if mate is not None:
            made = _with_second_task(made, recipe, mate, run.out if run.score_mate else None)
        if recipe.measure_unfamiliar:
            made = _with_features(made, recipe, dataset)
        # The checkpoint after its log: where it exists, the run counts as finished and is not repeated.
        write_log(target.with_suffix(".csv"), made.history)
        save(made, target)
        logs.end(made, target)
        forget_state(run.out, recipe.network)
        return remember_file(made, target)

    # Whole, as written: the other processes know neither the scores nor, with validation, the best weights.
    return run.leader(written)
