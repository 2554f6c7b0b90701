"""One phase of training: a network, a data set, so many steps. The loop on one page.

Crops and dropout of a step depend on (seed, step) alone, so a phase stopped at any moment goes on from its
last saved state to the very weights it would have had. A batch may be worked on in parts and by several
processes; its gradient is that of the whole batch.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.contract.bands import band_statistics
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.files import written_whole
from labelscape.nets import dfcnet, maggiori
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model, entry
from labelscape.progress import bar
from labelscape.scoring.scorer import state_arrays
from labelscape.training.board import board
from labelscape.training.crops import Drawing, index_crops
from labelscape.training.losses import auto_weights, shares, total_loss
from labelscape.training.recipe import Recipe
from labelscape.training.state import Progress, load_state, save_state
from labelscape.training.team import gather, together

Say = Callable[[str], None]

LOG_EVERY = 10
"""Steps whose mean loss is one line of the log."""


@dataclass(frozen=True)
class Task:
    """What one head learns: how its crops are drawn, and what its classes weigh."""

    drawing: Drawing
    weights: Tensor | None


def run_phase(
    recipe: Recipe,
    dataset: Dataset,
    blank: Checkpoint,
    out: Path,
    *,
    start: Checkpoint | None = None,
    mate: Dataset | None = None,
    fabric: Fabric | None = None,
    until: int | None = None,
    tensorboard: bool = False,
    say: Say = lambda text: None,
) -> Checkpoint:
    """Train one network on an open dataset, from the encoder of `start` where given, and return its
    checkpoint.

    A state file in `out` is gone on from; the last one is of the last step, so that nothing which follows can
    lose a weight. With `until` the phase pauses there. With `tensorboard` the log is written as event files
    too, in a folder beside the checkpoint.
    """
    fabric = fabric or gather(recipe.device, recipe.precision)
    blank = replace(blank, network=recipe.network, options=net_options(recipe, mate))
    net = build_network(recipe, dataset, start, mate)
    tasks = make_tasks(recipe, dataset, blank, mate)
    parts = recipe.accumulate * fabric.world_size
    for task in tasks:
        if task.drawing.batch % parts:
            raise BadOption(
                f"A batch of {task.drawing.batch} cannot be shared by {fabric.world_size} processes in "
                f"{recipe.accumulate} parts each."
            )
    optimizer = torch.optim.SGD(
        rate_groups(net, recipe), lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    if recipe.sync_bn and fabric.world_size > 1:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    # Channels last is the faster layout on every device we tried.
    net, optimizer = fabric.setup(net.to(memory_format=torch.channels_last), optimizer)
    net.mark_forward_method("heads")
    saved = state_path(out, recipe.network)
    settings = recipe.model_dump(mode="json")
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # of float16's losses
    seen = seen_data(tasks)
    progress = (
        load_state(saved, settings, net.module, optimizer, scaler, seen) if saved.exists() else Progress()
    )
    if fabric.is_global_zero:
        for line in (
            f"going on from {saved}, step {progress.step} of {recipe.steps}",
        ) * saved.exists() + without_pixels(dataset, tasks[0]):
            say(line)
    end = min(recipe.steps, until or recipe.steps)

    def read(step: int) -> list[list[tuple[Tensor, Tensor]]]:
        """This process's parts of a batch; of each part, the crops of every task."""
        mine = [number * fabric.world_size + fabric.global_rank for number in range(recipe.accumulate)]
        return (
            [[task.drawing.part(step, number, parts) for task in tasks] for number in mine]
            if step < end
            else []
        )

    with ExitStack() as opened:
        tick = opened.enter_context(
            bar(f"train {recipe.network}", recipe.steps, "steps", shown=fabric.is_global_zero)
        )
        reader = opened.enter_context(ThreadPoolExecutor(1, "crops"))
        watched = tensorboard and fabric.is_global_zero
        note = (
            opened.enter_context(
                board(checkpoint_path(out, recipe.network).with_suffix(".tensorboard"), progress.history)
            )
            if watched
            else None
        )
        tick(progress.step)
        ahead, since = reader.submit(read, progress.step), time.monotonic()
        while progress.step < end and not done_early(recipe, progress):
            step = progress.step
            batch, ahead = ahead.result(), reader.submit(read, step + 1)
            seed_step(recipe.seed, step, fabric.global_rank)
            rate = rate_at(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            net.train()
            progress.recent.append(update(net, optimizer, fabric, batch, recipe, tasks))
            progress.step += 1
            scored = recipe.val_every and progress.step % recipe.val_every == 0
            saving = progress.step % recipe.save_every == 0
            # What is saved holds no loss that is not in the log yet: those are each process's own.
            if len(progress.recent) >= LOG_EVERY or progress.step == recipe.steps or scored or saving:
                mean = together(
                    fabric, float(np.mean([float(x) for x in progress.recent]))
                )  # float() waits for the device
                if not math.isfinite(mean):
                    raise BadInput(
                        f"The loss became {mean} by step {step + 1}: the learning rate {recipe.rate} is too "
                        "high for this data."
                    )
                progress.history.append({"step": progress.step, "loss": mean, "rate": rate})
                speed = recipe.batch * len(progress.recent) / (time.monotonic() - since)
                progress.recent, since = [], time.monotonic()
                tick(0, loss=mean, rate=rate, **{"images/s": speed})
            if scored:
                note_score(recipe, progress, net, blank, dataset, fabric)
                since = time.monotonic()
            if note and progress.history and progress.history[-1]["step"] == progress.step:
                note(progress.history[-1])
            if fabric.is_global_zero and (saving or progress.step == end or done_early(recipe, progress)):
                progress.recent = [float(x) for x in progress.recent]
                save_state(saved, settings, progress, net.module, optimizer, scaler, seen)
            tick()
    weights = progress.best_weights or state_arrays(net.module)
    return replace(blank, weights=weights, history=tuple(progress.history))


def update(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batch: list,
    recipe: Recipe,
    tasks: list[Task],
) -> Tensor:
    """One step over all parts of a batch; returns this process's share of the loss. (Their sum over
    processes is the loss.)
    """
    weights = [task.weights.to(fabric.device) if task.weights is not None else None for task in tasks]
    # Each part counts as much as its labelled pixels do in the whole batch: parts and processes change no
    # gradient.
    totals = [
        together(fabric, float(sum(shares(part[t][1], task.weights).sum() for part in batch)))
        for t, task in enumerate(tasks)
    ]
    optimizer.zero_grad(set_to_none=True)
    value = torch.zeros((), device=fabric.device)
    for number, part in enumerate(batch):
        image = torch.cat([crops for crops, _ in part]).to(fabric.device, memory_format=torch.channels_last)
        labels = [label.to(fabric.device) for _, label in part]
        with fabric.no_backward_sync(net, enabled=number + 1 < len(batch)):
            heads = net.heads(image) if len(tasks) == 1 else net.heads(image, land=len(labels[0]))
            share = [
                float(shares(label, w).sum()) / max(total, 1e-12)
                for label, w, total in zip(labels, weights, totals)
            ]
            loss = share[0] * total_loss(recipe.losses, heads["logits"], labels[0], weights[0])
            if "aux" in heads:
                loss = loss + share[0] * recipe.aux_weight * total_loss(
                    recipe.aux_losses or recipe.losses, heads["aux"], labels[0], weights[0]
                )
            if len(tasks) == 2:
                loss = loss + share[1] * recipe.mate.weight * total_loss(
                    recipe.losses, heads["road"], labels[1], weights[1]
                )
            fabric.backward(loss * fabric.world_size)  # processes' gradients are averaged; we want their sum
        value += loss.detach()
    optimizer.step()
    return value


def note_score(
    recipe: Recipe,
    progress: Progress,
    net: torch.nn.Module,
    blank: Checkpoint,
    dataset: Dataset,
    fabric: Fabric,
) -> None:
    """Score the part "val" and keep the weights if they are the best so far."""
    from labelscape.evaluation.measure import evaluate

    score, weights = 0.0, None
    if fabric.is_global_zero:
        weights = state_arrays(net.module)
        score = (
            evaluate(
                replace(blank, weights=weights), dataset, part="val", device=str(fabric.device), show=False
            ).metrics["mean_iou"]
            or 0.0
        )
    score = fabric.broadcast(score)
    progress.history[-1]["val_miou"] = score
    progress.waited += 1
    if score > progress.best:
        progress.best, progress.best_step, progress.waited, progress.best_weights = (
            score,
            progress.step,
            0,
            weights,
        )


def done_early(recipe: Recipe, progress: Progress) -> bool:
    return bool(recipe.patience) and progress.waited >= recipe.patience


def rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step 0, 1, ... of a recipe."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    if recipe.schedule == "poly":
        return recipe.rate * (1 - step / recipe.steps) ** recipe.power
    if recipe.schedule == "exponential":
        return recipe.rate * 0.1 ** (step / recipe.tenth_every)
    return recipe.rate


def rate_groups(net: Network, recipe: Recipe) -> list[dict]:
    """The network's parameters grouped by their factor on the learning rate. Raises UnknownName for a
    start no parameter has.
    """
    groups: dict[float, list] = {}
    used = set()
    for name, parameter in net.named_parameters():
        fitting = max(
            (start for start in recipe.rate_factors if name.startswith(start)), key=len, default=None
        )
        used.add(fitting)
        groups.setdefault(recipe.rate_factors.get(fitting, 1.0), []).append(parameter)
    for start in recipe.rate_factors:
        if start not in used:
            raise UnknownName(f"part of {recipe.network}", start, [name for name, _ in net.named_children()])
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def build_network(
    recipe: Recipe, dataset: Dataset, start: Checkpoint | None, mate: Dataset | None
) -> Network:
    """The recipe's network with its first weights, the same for every process."""
    torch.manual_seed(recipe.seed)
    net = create_model(
        recipe.network,
        in_channels=len(dataset.bands),
        classes=len(dataset.legend),
        **net_options(recipe, mate),
    )
    if start is not None:
        starts = {"fcn": maggiori.start_from, "fc-densenet": dfcnet.start_from}
        base = entry(recipe.network).start
        if base is None:
            raise BadOption(f"{recipe.network} starts from no other network; leave start out.")
        starts[base](net, {key: torch.from_numpy(value) for key, value in start.weights.items()})
    return net


def net_options(recipe: Recipe, mate: Dataset | None) -> dict:
    """The network's options; a second head has as many classes as the second data set."""
    return {**recipe.options, "mate_classes": len(mate.legend)} if mate is not None else dict(recipe.options)


def make_tasks(recipe: Recipe, dataset: Dataset, blank: Checkpoint, mate: Dataset | None) -> list[Task]:
    """The recipe's task and its classmate's. Raises BadInput where the two cannot share a trunk."""
    index = index_crops(dataset)
    automatic = recipe.class_weights == "auto"
    tasks = [
        Task(
            Drawing.of(recipe, index, blank.contract.normalisation),
            auto_weights(torch.from_numpy(index.class_counts)) if automatic else None,
        )
    ]
    if mate is not None:
        if len(mate.bands) != len(dataset.bands):
            raise BadInput(
                f"The classmate's scenes have the bands {' '.join(mate.bands)}, the others "
                f"{' '.join(dataset.bands)}: one trunk reads both. "
                "Pick as many with mate.data.bands."
            )
        normalisation = tuple((s.mean, s.std) for s in band_statistics(s.scene for s in mate.learned_from()))
        index = index_crops(mate)
        tasks.append(
            Task(
                Drawing.of_mate(recipe, index, normalisation),
                auto_weights(torch.from_numpy(index.class_counts)) if automatic else None,
            )
        )
    return tasks


def seen_data(tasks: list[Task]) -> dict[str, list]:
    """What a run can tell of its data: labelled training pixels per class, and how bands are scaled. Other
    files give other numbers.
    """
    found = {}
    for task, name in zip(tasks, ("data", "mate.data")):
        found[f"{name}: labelled pixels per class"] = task.drawing.index.class_counts.tolist()
        found[f"{name}: mean and deviation per band"] = [list(pair) for pair in task.drawing.normalisation]
    return found


def without_pixels(dataset: Dataset, task: Task) -> tuple[str, ...]:
    """A line that names the classes nothing can be learned of, where there are any."""
    empty = [
        name for name, pixels in zip(dataset.legend.names, task.drawing.index.class_counts) if not pixels
    ]
    return (
        (f"no training pixel of {', '.join(empty)}: such classes cannot be learned, and count in no mean",)
        if empty
        else ()
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout of a step depends on the step, not on how many came before it in this process."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))


def state_path(out: Path, network: str) -> Path:
    """Where an unfinished phase keeps what it needs to go on."""
    return checkpoint_path(out, network).with_suffix(".state.safetensors")


def checkpoint_path(out: Path, network: str) -> Path:
    """Where `train` writes a network's checkpoint: `smp/Unet` becomes smp-unet.safetensors; its log stands
    beside it as .csv.
    """
    return out / f"{network.replace('/', '-').lower()}.safetensors"


def write_log(path: Path, history: tuple[dict, ...]) -> None:
    """Step, loss, rate and, where it was scored, mIoU on the part "val"."""
    fields = ["step", "loss", "rate"] + ["val_miou"] * any("val_miou" in row for row in history)
    with written_whole(path, overwrite=True) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields)
        writer.writeheader()
        writer.writerows(history)


def forget_state(out: Path, network: str) -> None:
    with suppress(OSError):
        state_path(out, network).unlink()
