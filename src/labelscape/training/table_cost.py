"""What the rows of a table cost before any is trained, and how they fit the device.

Memory is read off the shapes that go through a network on torch's "meta" device: nothing is computed. Time is
that of a small step on the device, enlarged by the ratio of multiplications.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric

from labelscape.nets.blocks import Network
from labelscape.nets.count import parameters
from labelscape.nets.tables import TABLES
from labelscape.progress import bar
from labelscape.training.recipe import Recipe
from labelscape.training.run import base_recipe
from labelscape.training.state import differing
from labelscape.training.table_rows import Plan, blank_network, check_data, given_data, plan_rows, settled
from labelscape.training.team import gather
from labelscape.training.timing import Training

SHARE = 0.85
"""Of the device's memory: the rest is for work space and what else runs there (ours)."""
SMALL_CROP = 64
"""Side of the crops whose step is timed for the estimate: enough for every network here, quick on a CPU."""


@dataclass(frozen=True)
class Cost:
    """One row: its network's parameters, steps of both phases, bytes at the peak of a step, seconds of
    training; `fits` is False where even one crop at a time is too much.
    """

    plan: Plan
    parameters: int
    bytes: int
    seconds: float
    fits: bool

    def as_json(self) -> dict[str, Any]:
        recipe = self.plan.recipe
        return {
            "row": self.plan.number,
            "label": self.plan.row.label,
            "ran": self.plan.label,
            "same_as": self.plan.same_as,
            "parameters": self.parameters,
            "steps": recipe.steps,
            "base_steps": recipe.base_steps,
            "batch": recipe.batch,
            "crop": recipe.crop,
            "accumulate": recipe.accumulate,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "fits": self.fits,
        }


def fitted(plans: Sequence[Plan], room: int, processes: int = 1) -> tuple[list[Plan], list[str]]:
    """The plans with recomputation and gradient accumulation where a batch does not fit `room` bytes, and
    what was chosen, in words. One choice for all rows: with several, rows would not be comparable, nor could
    one start from another. What the recipes name themselves stays.
    """
    own = [plan for plan in plans if plan.recipe is not None]
    if not own or max(step_bytes(plan, processes) for plan in own) <= room:
        return list(plans), []
    said, chosen = [], list(plans)
    # Recomputation first: it costs time alone, while parts change what batch normalisation sees.
    recomputing = [
        _with(plan, options={**plan.recipe.options, "checkpointing": True})
        if plan.recipe is not None and _may_recompute(plan)
        else plan
        for plan in plans
    ]
    if recomputing != chosen:
        chosen = recomputing
        said.append("recomputation (options.checkpointing): the same weights, in more time")
    parts = max((_parts(plan, room, processes) for plan in chosen if plan.recipe is not None), default=1)
    # Downwards, to a number that divides every batch; where fewer parts do not fit, the row's cost says so.
    parts = next((n for n in range(parts, 0, -1) if _divides(chosen, n, processes)), 1)
    if parts > 1 and all(plan.recipe.accumulate == 1 for plan in own):
        chosen = [_with(plan, accumulate=parts) if plan.recipe is not None else plan for plan in chosen]
        said.append(
            f"accumulate={parts}: batches are worked on in {parts} parts; batch normalisation sees one part "
            "at a time, so scores are not those of the whole batch"
        )
    return chosen, [f"to fit {room / 2**30:.1f} GiB: {line}" for line in said]


def _with(plan: Plan, **changes: object) -> Plan:
    return replace(plan, recipe=plan.recipe.replace(**changes))


def _may_recompute(plan: Plan) -> bool:
    from labelscape.nets.catalog import options_of

    return "checkpointing" in options_of(plan.recipe.network) and "checkpointing" not in plan.recipe.options


def _parts(plan: Plan, room: int, processes: int) -> int:
    """The least power of two by which the row's batches must be divided to fit."""
    parts = 1
    while parts < plan.recipe.batch and step_bytes(_with_parts(plan, parts), processes) > room:
        parts *= 2
    return parts


def _with_parts(plan: Plan, parts: int) -> Plan:
    # `Recipe.replace` would refuse parts that do not divide the batch: that is judged for all rows at once.
    return replace(plan, recipe=plan.recipe.model_copy(update={"accumulate": parts}))


def _divides(plans: Sequence[Plan], parts: int, processes: int) -> bool:
    batches = [
        size
        for plan in plans
        if plan.recipe is not None
        for size in (
            plan.recipe.batch,
            plan.recipe.base_batch,
            plan.recipe.mate and (plan.recipe.mate.batch or plan.recipe.batch),
        )
        if size
    ]
    return all(size % (parts * processes) == 0 for size in batches)


def step_bytes(plan: Plan, processes: int = 1) -> int:
    """Memory at the peak of a training step, of the phase that needs more: weights, gradients, momentum, and
    what the forward pass keeps for the backward pass, with a tenth for work space.
    """
    recipe, table = plan.recipe, TABLES[plan.row.table]
    phases = (base_recipe(_whole(recipe)), recipe) if recipe.base_steps else (recipe,)
    most = 0
    for phase in phases:
        mate = (phase.mate.batch or phase.batch) if phase.mate else 0
        # Rounded up: the largest part decides.
        crops = -(-(phase.batch + mate) // (recipe.accumulate * processes))
        weights, each = _kept(phase, table.in_channels, table.classes)
        # Weights, gradients, momentum. AdamW keeps one number more, which this leaves out: no paper uses it.
        most = max(most, int(3 * weights + 1.1 * crops * each))
    return most


def _whole(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"accumulate": 1})


_KEPT: dict[tuple, tuple[int, int]] = {}
"""Measured once per network and crop: shapes of a ResNet-101 take a second."""


def _kept(recipe: Recipe, bands: int, classes: int) -> tuple[int, int]:
    """Bytes of a network's weights, and those that a forward pass keeps per crop."""
    key = (recipe.network, repr(sorted(recipe.options.items())), recipe.crop, bands, classes)
    if key not in _KEPT:
        net = blank_network(recipe, bands, classes)
        weights = sum(value.nbytes for value in net.parameters())
        _KEPT[key] = weights, _kept_per_crop(net, recipe.crop, bands)
    return _KEPT[key]


def _kept_per_crop(net: Network, crop: int, bands: int) -> int:
    # Counted with the weights already; a layer keeps its own for the backward pass.
    own = {id(value) for value in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no two have one address

    def pack(value: torch.Tensor) -> torch.Tensor:
        if id(value) not in own:
            # By storage: what several layers keep views of lies in memory once.
            storage = value.untyped_storage()
            kept[storage._cdata] = storage
        return value

    crops = 2  # batch normalisation refuses a single value
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        heads = net.train().heads(torch.zeros(crops, bands, crop, crop, device="meta"))
        # The loss keeps the logits in float32 and their log-softmax.
        logits = sum(2 * value.numel() * 4 for value in heads.values())
    sizes = [storage.nbytes() for storage in kept.values()]
    # Alive at once where the largest stack is computed again: a copy, its normalised form, the gradients
    # of both and of the stack.
    again = 5 * max(sizes) if any(getattr(m, "checkpointing", False) for m in net.modules()) else 0
    return (sum(sizes) + again + logits) // crops


def device_bytes(device: torch.device) -> int:
    """Memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        return 16 * 2**30


def room_on(fabric: Fabric) -> int:
    """The bytes that a training step may take on the device."""
    return int(SHARE * device_bytes(fabric.device))


def table_costs(
    name: str,
    data: Mapping[str, Any],
    *,
    changes: Mapping[str, Any] | None = None,
    other_data: bool = False,
    device: str = "auto",
    **how: Any,
) -> tuple[list[Cost], list[str], list[str]]:
    """The costs of the rows that `run_table` would train with these arguments, what is chosen so that they
    fit the device, and a sentence for each row that is not run. Nothing is trained or written. Raises as
    `plan_rows`; BadOption for another data set.
    """
    changes = changes or {}
    data = given_data(data, changes)
    check_data(name, data, other_data=other_data)
    fabric = gather(device, str(changes.get("precision", "32")))
    room = room_on(fabric)
    plans, told = fitted(
        plan_rows(name, data, changes=changes, device=device, **how), room, fabric.world_size
    )
    own = [plan for plan in plans if plan.recipe is not None]
    with bar("time small steps", len(own), "rows", shown=fabric.is_global_zero) as tick:
        costs, trained = [], []
        for plan in own:
            costs.append(cost_of(plan, fabric, room, trained))
            tick()
    left_out = [
        f"row {plan.number}, {plan.row.label}, is not run: {plan.setting.why_not}"
        for plan in plans
        if plan.recipe is None
    ]
    return costs, told, left_out


def cost_of(plan: Plan, fabric: Fabric, room: int, trained: list[dict]) -> Cost:
    """The cost of one row; its time is estimated from a step of two small crops on the device. Phases that
    are among the recipes `trained` for earlier rows take no time again; the row's own are added to them.
    """
    recipe, table = plan.recipe, TABLES[plan.row.table]
    seconds = 0.0
    phases = (base_recipe(recipe), recipe) if recipe.base_steps else (recipe,)
    times = [plan.setting.models] * len(phases)
    for n, phase in enumerate(phases):
        own = settled(phase.model_dump(mode="json"))
        if any(not differing(own, other) for other in trained):
            times[n] -= 1
        trained.append(own)
    for phase, again in zip(phases, times, strict=True):
        # A network trained for an earlier row is copied from it.
        if not again:
            continue
        mate = (phase.mate.batch or phase.batch) if phase.mate else 0
        whole = phase.model_copy(update={"mate": None, "batch": phase.batch + mate, "accumulate": 1})
        small = whole.model_copy(update={"batch": 2, "crop": min(phase.crop, SMALL_CROP)})
        timed = Training(small, table.in_channels, table.classes, fabric)
        timed.step()  # allocates memory and chooses kernels
        step = min(timed.step() for _ in range(2))
        share = timed.multiplications_at(whole.batch, whole.crop) / timed.multiplications
        seconds += again * phase.steps * step * share / fabric.world_size
    needed = step_bytes(plan, fabric.world_size)
    net = blank_network(recipe, table.in_channels, table.classes)
    return Cost(plan, parameters(net), needed, seconds, needed <= room)
