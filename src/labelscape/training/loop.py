"""The training loop: one phase on one page. `train` runs the phases of a recipe and writes the checkpoints."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from labelscape.checkpoint import Checkpoint, load, save
from labelscape.datasets.own import Dataset, open_dataset
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid
from labelscape.imagery.bands import band_statistics
from labelscape.imagery.labels import LabelSpec
from labelscape.legend import IGNORE, Legend
from labelscape.nets import dfcnet, maggiori
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model, entry, options_of
from labelscape.progress import bar
from labelscape.scores import pick_device, state_arrays
from labelscape.training.crops import CropIndex, batches, index_crops
from labelscape.training.losses import auto_weights, cross_entropy
from labelscape.training.recipe import Data, Recipe

LOG_EVERY = 10
"""Steps whose mean loss is one line of the log."""

Say = Callable[[str], None]


def train(recipe: Recipe, out: str | Path, *, overwrite: bool = False, say: Say = lambda text: None) -> Checkpoint:
    """Train what the recipe describes and write `out/<network>.safetensors` with its log as .csv (and the base network's, where it trains one first).

    The held-out part is scored afterwards and the score stored in the checkpoint. Raises BadOption, BadInput or BadFile before any
    step is made where the recipe, the data or the place of writing cannot work.
    """
    from labelscape.evaluation.measure import evaluate

    out = Path(out)
    target = checkpoint_path(out, recipe.network)
    if target.exists() and not overwrite:
        raise BadFile(f"{target} exists; pass --overwrite to replace it.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"The folder {out} cannot be made: {error.strerror or error}.") from error
    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        for line in dataset.report:
            say(line)
        with bar("statistics", len(dataset.scenes), "scenes") as tick:
            blank = _blank_checkpoint(recipe, dataset, tick)
        scores: dict = {}
        if recipe.base_steps:
            base = recipe.replace(network=entry(recipe.network).start, steps=recipe.base_steps, rate=recipe.base_rate, base_steps=0,
                                  options=_shared_options(recipe.network, recipe.options))  # fmt: skip
            first = _run_phase(base, dataset, replace(blank, network=base.network, options=base.options, recipe=base.model_dump(mode="json")), None, out)
            if recipe.data.holdout:
                scores[base.network] = evaluate(first, dataset, part="test", device=recipe.device).metrics
            save(replace(first, scores=dict(scores)), checkpoint_path(out, base.network))
        else:
            first = load(recipe.start) if recipe.start else None
        checkpoint = _run_phase(recipe, dataset, blank, first, out)
        if recipe.data.holdout:
            result = evaluate(checkpoint, dataset, part="test", device=recipe.device)
            checkpoint = replace(checkpoint, scores={**scores, recipe.network: result.metrics})
    save(checkpoint, target)
    return checkpoint


def run_phase(recipe: Recipe, dataset: Dataset, out: Path, start: Checkpoint | None = None) -> Checkpoint:
    """Train one network on an open dataset, from the encoder of `start` where given."""
    return _run_phase(recipe, dataset, _blank_checkpoint(recipe, dataset, lambda n: None), start, out)


def _run_phase(recipe: Recipe, dataset: Dataset, blank: Checkpoint, start: Checkpoint | None, out: Path) -> Checkpoint:
    net, index, weights = _prepare(recipe, dataset, start)
    history: list[dict] = []
    recent: list[torch.Tensor] = []
    fabric = Fabric(accelerator=pick_device(recipe.device).type, devices=1, precision=recipe.precision)
    # Batch normalisation in mixed precision keeps float32 statistics; channels last is the faster layout on every device we tried.
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    net, optimizer = fabric.setup(net.to(memory_format=torch.channels_last), optimizer)
    net.mark_forward_method("heads")
    net.train()
    weights = weights.to(fabric.device) if weights is not None else None
    with bar(f"train {recipe.network}", recipe.steps, "steps") as tick:
        for step, (image, label) in enumerate(batches(index, recipe, blank.normalisation)):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(recipe, step)
            heads = net.heads(image.to(fabric.device, memory_format=torch.channels_last))
            label = label.to(fabric.device)
            loss = cross_entropy(heads["logits"].float(), label, weights)
            if "aux" in heads:
                loss = loss + recipe.aux_weight * cross_entropy(heads["aux"].float(), label, weights)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimizer.step()
            recent.append(loss.detach())
            if len(recent) == LOG_EVERY or step + 1 == recipe.steps:
                mean = torch.stack(recent).mean().item()  # .item() waits for the device
                recent.clear()
                if not math.isfinite(mean):
                    raise BadInput(f"The loss became {mean} by step {step + 1}: the learning rate {recipe.rate} is too high for this data.")
                history.append({"step": step + 1, "loss": mean, "rate": rate_at(recipe, step)})
            tick(1, **({"loss": history[-1]["loss"]} if history else {}))
    _write_log(checkpoint_path(out, recipe.network).with_suffix(".csv"), history)
    return replace(blank, weights=state_arrays(net.module), history=tuple(history))


def checkpoint_path(out: Path, network: str) -> Path:
    """Where `train` writes a network's checkpoint: `smp/Unet` becomes smp-unet.safetensors; its log stands beside it as .csv."""
    return out / f"{network.replace('/', '-').lower()}.safetensors"


def rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step 0, 1, ... of a recipe."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    if recipe.schedule == "poly":
        return recipe.rate * (1 - step / recipe.steps) ** 0.9
    if recipe.schedule == "exponential":
        return recipe.rate * 0.1 ** (step / recipe.tenth_every)
    return recipe.rate


def open_recipe_data(data: Data, seed: int, legend: Legend | None = None) -> Dataset:
    """Open and split the scenes and labels of a recipe. `legend` fixes the classes, as a trained checkpoint does."""
    if data.classes and not data.merge and not legend:
        own_values = all(0 <= value < IGNORE for value in data.classes.values())
        legend = Legend.of_names(list(data.classes), values=data.classes.values() if own_values else None)
    spec = LabelSpec(legend, data.classes, data.class_column, data.merge, data.background, data.area, data.ignore_values)
    return open_dataset(data.images, data.labels, spec=spec, nodata=data.nodata, bands=data.bands, block=data.block, shares=data.shares, seed=seed)


def _prepare(recipe: Recipe, dataset: Dataset, start: Checkpoint | None) -> tuple[Network, CropIndex, torch.Tensor | None]:
    torch.manual_seed(recipe.seed)
    net = create_model(recipe.network, in_channels=len(dataset.bands), classes=len(dataset.legend), **recipe.options)
    if start is not None:
        starts = {"fcn": maggiori.start_from, "fc-densenet": dfcnet.start_from}
        base = entry(recipe.network).start
        if base is None:
            raise BadOption(f"{recipe.network} starts from no other network; leave start out.")
        starts[base](net, {key: torch.from_numpy(value) for key, value in start.weights.items()})
    index = index_crops(dataset)
    weights = auto_weights(torch.from_numpy(index.class_counts)) if recipe.class_weights == "auto" else None
    return net, index, weights


def _blank_checkpoint(recipe: Recipe, dataset: Dataset, tick: Callable[[int], None]) -> Checkpoint:
    """The contract of the data, before any weight is learned."""
    statistics = band_statistics(s.scene for s in dataset.scenes)
    tick(len(dataset.scenes))
    first: Grid = dataset.scenes[0].scene.grid
    kind = "none" if not first.is_georeferenced else "geographic" if first.crs.is_geographic else "projected"
    return Checkpoint(
        network=recipe.network, options=dict(recipe.options), weights={}, legend=dataset.legend, bands=dataset.bands,
        dtype=dataset.scenes[0].scene.dtype.name, normalisation=tuple((s.mean, s.std) for s in statistics), statistics=statistics,
        pixel_size=first.ground_pixel_size, nodata=dataset.scenes[0].scene.nodata, crs_kind=kind, recipe=recipe.model_dump(mode="json"),
    )  # fmt: skip


def _shared_options(network: str, options: dict) -> dict:
    """What a derived network and its base network have in common: the encoder's options."""
    return {key: value for key, value in options.items() if key in options_of(entry(network).start)}


def _write_log(path: Path, history: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["step", "loss", "rate"])
        writer.writeheader()
        writer.writerows(history)
