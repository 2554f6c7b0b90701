"""The training loop on one page: a network, a data set, a number of steps.

Crops and dropout of a step depend on (seed, step) alone, so a phase stopped at any moment continues from its
last saved state to the very weights it would have had. A batch may be worked on in parts and by several
processes; its gradient is that of the whole batch.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.checkpoint import save as save_checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput
from labelscape.files import make_folder
from labelscape.nets.blocks import Network
from labelscape.progress import Tick, bar
from labelscape.scenes.stamps import Watched
from labelscape.scoring.devices import float32_in
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.heap import memory_kept
from labelscape.training.batchnorm import at_map_size
from labelscape.training.clock import Clock, in_words, write_times
from labelscape.training.foreign import Start
from labelscape.training.freeze import told_of_frozen, train_mode
from labelscape.training.leader import Leader
from labelscape.training.logs import Logs
from labelscape.training.losses import shares, total_loss
from labelscape.training.map_size import larger, told
from labelscape.training.optimizers import averaged, make_optimizer, rate_at, told_of_rates
from labelscape.training.outputs import state_path, steps_folder, times_path, val_picture_path
from labelscape.training.reading import Reader, threads_for
from labelscape.training.recipe import Recipe
from labelscape.training.setup import Task, build_network, make_tasks, net_options, seen_data, without_pixels
from labelscape.training.state import FILES, Progress, load_state, save_state
from labelscape.training.stopping import Stop
from labelscape.training.team import (
    deterministic,
    gather,
    machine_of,
    one_thread_beside,
    processes_here,
    together,
    told_of_precision,
)
from labelscape.training.val_picture import ValPicture

Say = Callable[[str], None]
Batch = list[list[tuple[Tensor, Tensor]]]
"""A process's parts of a batch; of each part, the images and labels of every task."""

LOG_EVERY = 10
"""Steps whose mean loss is one line of the log. Reading a loss waits for the GPU, so not every step does."""
LOSSES_OF_TASKS = ("loss_first", "loss_mate")
"""Columns of the log with two tasks: each task's own loss, before `mate.weight`."""
SAVE_SECONDS = 60
"""A state is saved at least this often, where `save_every` steps take longer."""


@dataclass(frozen=True)
class Phase:
    """Everything one training phase works with, ready for its first step."""

    recipe: Recipe
    dataset: Dataset
    blank: Checkpoint
    """The checkpoint to be, still without weights."""
    tasks: list[Task]
    net: _FabricModule
    optimizer: _FabricOptimizer
    fabric: Fabric
    leader: Leader
    out: Path
    """Where a picture of the part "val" is stored."""
    mate: Dataset | None = None
    """The second task's data."""


def learn(
    phase: Phase,
    progress: Progress,
    end: int,
    *,
    save: Callable[[Progress], None],
    note: Callable[[dict], None],
    tick: Tick,
    stop: Stop,
    clock: Clock | None = None,
) -> None:
    """Train from step `progress.step` up to `end`, updating `progress`. `note` gets every finished line of
    the log, `save` the progress at each saving. Where `stop` is asked to, the step is finished, saved, and is
    the last. Raises BadInput if the loss becomes NaN or infinite.
    """
    recipe, fabric = phase.recipe, phase.fabric
    clock, last = clock or Clock(), larger(recipe)
    if _score_is_missing(recipe, progress):
        note(_scored(phase, progress, save, stop))
    train_mode(phase.net, recipe)  # scores are those of another network with its weights
    since = last_saved = time.monotonic()
    with closing(batches(recipe, phase.tasks, fabric, progress.step, end)) as read, clock.running():
        for step, batch in read:
            if done_early(recipe, progress):  # first: a saved state may be that of a run that ended early
                break
            facts, rate = {}, set_rate(phase.optimizer, recipe, step)
            seed_step(recipe.seed, step, fabric)
            progress.recent.append(update(phase.net, phase.optimizer, fabric, batch, recipe, phase.tasks))
            if recipe.ema:
                progress.average = averaged(progress.average, phase.net.module, recipe.ema, progress.step)
            progress.step += 1
            clock.steps += 1
            scored = recipe.val_every and progress.step % recipe.val_every == 0
            saving = any(n and progress.step % n == 0 for n in (recipe.save_every, recipe.keep_every))
            # Before saving, losses are averaged into the log: until then each process knows only its own, and
            # only the first one saves.
            # And before crops become larger, so that a line of the log is of one size.
            turning = bool(last) and progress.step == last.first
            full = len(progress.recent) >= LOG_EVERY or progress.step == recipe.steps
            if full or scored or saving or turning:
                each = last.batch if last and step >= last.first else recipe.batch
                crops = each * len(progress.recent)
                line = log_line(recipe, progress, rate, fabric)  # waits for the device
                facts = {**_shown(line), "crops/s": crops / (time.monotonic() - since)}
                if scored and sys.stderr.isatty():
                    tick(0, loss=line["loss"], now="scoring the part val")
                with clock.paused():
                    note(_scored(phase, progress, save, stop) if scored else line)
                since = time.monotonic()
            # Summed over processes: signals and clocks differ between them, and all must save the same step.
            stopped = together(fabric, float(bool(stop.asked)))
            overdue = together(fabric, float(time.monotonic() - last_saved > SAVE_SECONDS))
            if stopped or overdue or saving or progress.step == end or done_early(recipe, progress):
                with clock.paused():
                    _save_together(progress, fabric, save)
                last_saved = time.monotonic()
            tick(**facts)
            if stopped:
                break


def _shown(line: dict) -> dict[str, float]:
    """What the progress bar shows of a line of the log."""
    of_tasks = {key.replace("_", " "): line[key] for key in LOSSES_OF_TASKS if key in line}
    return {"loss": line["loss"], **of_tasks, "rate": line["rate"]}


def _save_together(progress: Progress, fabric: Fabric, save: Callable[[Progress], None]) -> None:
    """Save with the losses of all processes summed; only the first process saves and keeps the sums."""
    progress.recent = [[together(fabric, x) for x in row] for row in as_rows(progress.recent)]
    if fabric.is_global_zero:
        save(progress)
    else:
        progress.recent = [[0.0] * len(row) for row in progress.recent]


def _keep_step(phase: Phase, progress: Progress) -> None:
    """A checkpoint of this step where it is one to keep; a resumed run makes the same one again."""
    every = phase.recipe.keep_every
    if not every or progress.step % every:
        return
    folder = steps_folder(phase.out, phase.recipe.network)
    make_folder(folder)
    made = replace(phase.blank, weights=weights_of(phase, progress), history=tuple(progress.history))
    save_checkpoint(made, folder / f"{progress.step:06d}.safetensors")


def _score_is_missing(recipe: Recipe, progress: Progress) -> bool:
    """Whether a state was saved while its step was being scored."""
    last = progress.history[-1] if progress.history else {}
    due = recipe.val_every and progress.step and progress.step % recipe.val_every == 0
    return bool(due) and last.get("step") == progress.step and "val_miou" not in last


def _scored(phase: Phase, progress: Progress, save: Callable[[Progress], None], stop: Stop) -> dict:
    """The log's last line with the score of the part "val". A signal interrupts scoring, which may take
    minutes; the saved state is then scored first when the run is resumed.
    """
    line, stop.patient = progress.history[-1], False
    try:
        if stop.asked and phase.fabric.world_size == 1:
            stop.now()
        line |= score_val(phase, progress)
    except (KeyboardInterrupt, SystemExit):
        if phase.fabric.is_global_zero:
            save(progress)
        raise
    stop.patient = True
    return line


def run_phase(
    recipe: Recipe,
    dataset: Dataset,
    blank: Checkpoint,
    out: Path,
    *,
    start: Start | None = None,
    mate: Dataset | None = None,
    fabric: Fabric | None = None,
    leader: Leader | None = None,
    until: int | None = None,
    logs: Logs | None = None,
    say: Say = lambda text: None,
    stop: Stop | None = None,
    watch: Callable[[dict], None] = lambda line: None,
) -> Checkpoint:
    """Train one network on an open dataset, from the encoder of `start` where given. Returns its checkpoint.

    A state file in `out` is resumed from. It is saved at the last step, so that a failing score loses no
    weights, and where `stop` was asked to, before KeyboardInterrupt or SystemExit. It pauses at step `until`;
    `logs` and `watch` get the log. Raises BadOption, BadInput or BadFile where data or state do not fit.
    """
    fabric, stop = fabric or gather(recipe.device, recipe.precision), stop or Stop()
    leads = fabric.is_global_zero
    blank = replace(blank, network=recipe.network, options=net_options(recipe, mate))
    net = build_network(recipe, dataset, start, mate)
    tasks = make_tasks(recipe, dataset, blank, mate)
    leader = leader or Leader(fabric, out)
    phase = Phase(recipe, dataset, blank, tasks, *set_up(net, recipe, fabric), fabric, leader, out, mate)
    say = say if leads else lambda text: None
    for line in _told(net, recipe, fabric):
        say(line)
    # Before the first crop: a file replaced from now on is noticed.
    watched = Watched.of((*dataset.files, *(mate.files if mate else ())))
    progress, keep = _resumed(phase, watched, out, stop, say)
    logs = logs or Logs((), out, recipe, say)
    leader(lambda: logs.begin(progress.step, progress.history))
    # A base network that is trained first has named them already.
    for line in without_pixels(dataset, tasks[0]) if not recipe.base_steps else ():
        say(line)
    with deterministic(recipe.deterministic), memory_kept(), ExitStack() as opened:
        tick = opened.enter_context(bar(f"train {recipe.network}", recipe.steps, "steps", shown=leads))
        tick(progress.step)
        opened.enter_context(stop.between_steps())
        end = min(recipe.steps, until or recipe.steps)
        if progress.step < end:
            for line in told(recipe):
                say(line)
        note, clock = lambda line: (logs.row(line), watch(line)), Clock()
        learn(phase, progress, end, save=keep, note=note, tick=tick, stop=stop, clock=clock)
    if stop.asked:
        say(f"stopped at {stop.saved}; the same command continues from there")
        stop.told = True
        stop.now()
    if leads:
        _tell_times(phase, clock, out, say)
    if changed := watched.changed() if leads else []:
        say(f"warning: {_some(changed)} during training: it may have learned from both versions")
    weights = _final_weights(phase, progress, say)
    return replace(blank, weights=weights, history=tuple(progress.history))


def _tell_times(phase: Phase, clock: Clock, out: Path, say: Say) -> None:
    """How fast this process trained, as a line and beside the log."""
    recipe, fabric = phase.recipe, phase.fabric
    threads = torch.get_num_threads()
    facts = clock.facts(recipe, str(fabric.device), fabric.world_size, threads)
    path = times_path(out, recipe.network)
    if clock.steps:
        say(in_words(facts))
    # Resumed after its last step: the run before it has written them, unless it was killed in that moment.
    if clock.steps or not path.exists():
        write_times(path, facts)


def _some(lines: list[str]) -> str:
    return ", ".join(lines[:3]) + " ..." * (len(lines) > 3)


def _resumed(
    phase: Phase, watched: Watched, out: Path, stop: Stop, say: Say
) -> tuple[Progress, Callable[[Progress], None]]:
    """The progress that the phase's state file holds, or none; and a function that saves it there."""
    recipe, fabric = phase.recipe, phase.fabric
    state, settings = state_path(out, recipe.network), recipe.model_dump(mode="json")
    # Only 16-mixed has a loss scaler. It adapts over time, so resuming without it would change weights.
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    seen = seen_data(phase.tasks, phase.blank.corrections) | {FILES: watched.named()}
    resumable = phase.net.module, phase.optimizer, scaler, seen, machine_of(fabric)
    progress = load_state(state, settings, *resumable, say) if state.exists() else Progress()
    if not fabric.is_global_zero:
        # The file holds the sums over all processes.
        progress.recent = [[0.0] * len(row) for row in as_rows(progress.recent)]

    def saved() -> str:
        return f"step {progress.step} of {recipe.steps} ({recipe.network})"

    def keep(progress: Progress) -> None:
        _keep_step(phase, progress)
        save_state(state, settings, progress, *resumable)
        stop.saved = saved()

    if state.exists():
        stop.saved = saved()
        say(f"continuing from {state}, step {progress.step} of {recipe.steps}")
    return progress, keep


def _told(net: Network, recipe: Recipe, fabric: Fabric) -> list[str]:
    """What to know before the first step."""
    of_precision = told_of_precision(recipe.precision, fabric.device)
    return [*of_precision, *told_of_frozen(net, recipe), *told_of_rates(net, recipe)]


def _final_weights(phase: Phase, progress: Progress, say: Say) -> dict:
    """The weights that the checkpoint keeps, with batch normalisation's statistics at the map size where the
    recipe asks for them.
    """
    recipe = phase.recipe
    weights = progress.best_weights or weights_of(phase, progress)
    # Not where the phase only pauses.
    if recipe.map_tiles and (progress.step == recipe.steps or done_early(recipe, progress)):
        with deterministic(recipe.deterministic):
            weights, tiles = at_map_size(
                recipe, phase.net.module, phase.tasks[0].drawing, phase.fabric, weights, say
            )
        progress.history[-1] |= {"bn_tiles": tiles}
    return weights


def set_up(net: Network, recipe: Recipe, fabric: Fabric) -> tuple[_FabricModule, _FabricOptimizer]:
    """Move network and optimizer to the device, wrapped by Fabric for mixed precision and DDP."""
    optimizer = make_optimizer(net, recipe)
    # Before fabric.setup: torch wants the conversion done before DDP wraps the network.
    if recipe.sync_bn and fabric.world_size > 1:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    # Channels last is the faster layout on every device we tried.
    net, optimizer = fabric.setup(net.to(memory_format=torch.channels_last), optimizer)
    # Fabric wraps forward() alone: unmarked, heads() would run outside DDP.
    net.mark_forward_method("heads")
    return net, optimizer


def batches(
    recipe: Recipe, tasks: list[Task], fabric: Fabric, first: int, end: int
) -> Iterator[tuple[int, Batch]]:
    """This process's parts of the batches of steps `first` to `end` - 1, each read in threads while the
    one before is trained on.
    """
    parts = recipe.accumulate * fabric.world_size
    mine = [number * fabric.world_size + fabric.global_rank for number in range(recipe.accumulate)]
    drawings = [task.drawing for task in tasks]
    threads = threads_for(drawings, processes_here(fabric))
    with one_thread_beside(fabric.device), Reader(threads) as reader:

        def begin(step: int) -> list[list[Callable[[], tuple[Tensor, Tensor]]]]:
            return [[reader.begin(drawing, step, number, parts) for drawing in drawings] for number in mine]

        # One batch ahead: the device waits only where reading takes longer than a step. More would hold
        # more batches in memory and save nothing then.
        ahead = begin(first) if first < end else []
        for step in range(first, end):
            batch = [[drawn() for drawn in part] for part in ahead]
            ahead = begin(step + 1) if step + 1 < end else []
            yield step, batch


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """Give every group of parameters its learning rate of this step; returns the rate at factor 1."""
    rate, last = rate_at(recipe, step), larger(recipe)
    if last and step >= last.first:
        rate *= last.rate_factor
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def log_line(recipe: Recipe, progress: Progress, rate: float, fabric: Fabric) -> dict:
    """Add a line to the log: the mean loss of the steps since the last one, and where there are two tasks the
    loss of each. Raises BadInput if it is NaN or infinite.
    """
    means = [together(fabric, float(np.mean(column))) for column in zip(*as_rows(progress.recent))]
    mean = means[0]
    if not math.isfinite(mean):
        raise BadInput(
            f"The loss became {mean} by step {progress.step}: the learning rate {recipe.rate} is too high "
            "for this data."
        )
    line = {"step": progress.step, "loss": mean, "rate": rate, **dict(zip(LOSSES_OF_TASKS, means[1:]))}
    if recipe.map_size:
        last = larger(recipe)
        line["crop"] = last.crop if last and progress.step > last.first else recipe.crop
    progress.history.append(line)
    progress.recent = []
    return progress.history[-1]


def update(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batch: Batch,
    recipe: Recipe,
    tasks: list[Task],
) -> Tensor:
    """One optimizer step over all parts of a batch. Returns this process's share of the loss, (1,), and with
    two tasks also of each task's own loss before its weight, (3,); the shares of all processes add up to the
    losses.
    """
    weights = [task.weights.to(fabric.device) if task.weights is not None else None for task in tasks]
    # Each part is weighted by its share of the batch's labelled pixels: with equal weights, the gradient
    # would depend on how the batch is divided into parts and processes.
    # Counted where the crops were drawn: a number of a GPU's would have to be waited for.
    counts = [[shares(part[t][1], task.weights).sum() for t, task in enumerate(tasks)] for part in batch]
    totals = [together(fabric, float(sum(of_task))) for of_task in zip(*counts, strict=True)]
    optimizer.zero_grad(set_to_none=True)
    value = torch.zeros(1 if len(tasks) == 1 else 1 + len(tasks), device=fabric.device)
    for number, part in enumerate(batch):
        crops = part[0][0] if len(part) == 1 else torch.cat([crops for crops, _ in part])
        image = crops.to(fabric.device, memory_format=torch.channels_last)
        labels = [label.to(fabric.device) for _, label in part]
        # DDP exchanges gradients once, in the backward pass of the last part.
        alone = fabric.no_backward_sync(net, enabled=number + 1 < len(batch))
        with alone, float32_in(recipe.precision, fabric.device):
            # Autocast by name: Fabric redirects heads() only where DDP wraps the network, so that a single
            # process would train in 32 bits whatever the precision.
            with fabric.autocast():
                heads = net.heads(image) if len(tasks) == 1 else net.heads(image, first=len(labels[0]))
            share = [
                float(own) / max(total, 1e-12) for own, total in zip(counts[number], totals, strict=True)
            ]
            loss = share[0] * total_loss(recipe.losses, heads["logits"], labels[0], weights[0])
            if "aux" in heads:
                loss = loss + share[0] * recipe.aux_weight * total_loss(
                    recipe.aux_losses or recipe.losses, heads["aux"], labels[0], weights[0]
                )
            of_tasks = []
            if len(tasks) == 2:
                of_mate = total_loss(recipe.losses, heads["mate"], labels[1], weights[1])
                of_tasks = [loss.detach(), share[1] * of_mate.detach()]
                loss = loss + share[1] * recipe.mate.weight * of_mate
            # DDP averages gradients over processes; the gradient of the whole batch is their sum.
            fabric.backward(loss * fabric.world_size)
        value += torch.stack([loss.detach(), *of_tasks])
    if recipe.clip_norm:
        # Infinite gradients are left to the loss's own check, and in float16 to the scaler, which skips them.
        fabric.clip_gradients(net, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    return value


def as_rows(recent: list) -> list[list[float]]:
    """Losses of steps, each a tensor or numbers of a state file, as lists of numbers. Reading a tensor waits
    for the device.
    """
    return [torch.as_tensor(row).reshape(-1).tolist() for row in recent]


def score_val(phase: Phase, progress: Progress) -> dict[str, float]:
    """Score the part "val", keep the weights if they are the best so far, and return the mean IoU (0..1). The
    second task's is returned too, where its data has such a part; it chooses no weights.
    """
    from labelscape.evaluation.measure import evaluate

    # The first process alone scores and keeps the best weights, because it alone writes them; the others
    # wait, for as long as it takes.
    weights, device = None, str(phase.fabric.device)
    if phase.fabric.is_global_zero:
        weights = weights_of(phase, progress)

    def scored() -> dict[str, float]:
        found, made = {}, replace(phase.blank, weights=weights)
        in_log = not sys.stderr.isatty()  # two live bars do not go together in a terminal
        its_data = {"val_miou": (made, phase.dataset)}
        if phase.mate is not None and phase.mate.is_labelled("val"):
            its_data["val_miou_mate"] = made.task(made.mate.name), phase.mate
        seen = ValPicture()
        for key, (one, dataset) in its_data.items():
            # Of the first task: the second's would be looked at the same way, and one picture is enough.
            watch = (seen.watch,) if key == "val_miou" else ()
            metrics = evaluate(one, dataset, part="val", device=device, show=in_log, watch=watch).metrics
            found[key] = metrics["mean_iou"] or 0.0
        seen.save(val_picture_path(phase.out, phase.recipe.network), made.legend)
        return found

    found = phase.leader(scored)
    score = found["val_miou"]
    progress.waited += 1
    if score > progress.best:
        progress.best, progress.best_step = score, progress.step
        progress.waited, progress.best_weights = 0, weights
    return found


def weights_of(phase: Phase, progress: Progress) -> dict[str, np.ndarray]:
    """What is scored and kept: the average of the weights where the recipe has one, else the last ones."""
    # Copied: on a CPU numpy() shares the memory, and the average is changed in place.
    average = {name: value.cpu().numpy().copy() for name, value in progress.average.items()}
    return average or state_arrays(phase.net.module)


def done_early(recipe: Recipe, progress: Progress) -> bool:
    return bool(recipe.patience) and progress.waited >= recipe.patience


def seed_step(seed: int, step: int, fabric: Fabric) -> None:
    """Seed dropout from the step, so that a resumed run draws what an uninterrupted one would; the rank is in
    it because processes must not drop the same units.
    """
    number = int(
        np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)[0] >> 1
    )
    # torch.manual_seed prepares graphics cards that are not there too, a hundredth of a small network's step.
    seeded = torch.default_generator.manual_seed if fabric.device.type == "cpu" else torch.manual_seed
    seeded(number)
