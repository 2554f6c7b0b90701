"""Times that papers print, measured here: each network beside a rival in the same run.

Seconds of another machine say little, a ratio more: of two networks that take turns, on one machine and in
one run. Beside it stands the ratio of their multiplications, the floor for a machine that does nothing else.
Pixels are random: no data set is read, and reading is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from labelscape.errors import BadOption
from labelscape.nets.catalog import create_model
from labelscape.nets.count import macs
from labelscape.nets.tables import TABLES, Row
from labelscape.progress import bar
from labelscape.scoring.devices import float32_in
from labelscape.training.freeze import train_mode
from labelscape.training.loop import set_up, update
from labelscape.training.papers import maggiori_potsdam, maggiori_vaihingen
from labelscape.training.recipe import Recipe
from labelscape.training.setup import Task
from labelscape.training.table_rows import chosen_rows, plan_rows, scaled
from labelscape.training.team import gather

ROUNDS = 4
"""Turns of the two; the first is not counted: it allocates memory and chooses kernels."""
HECTARE = {"vaihingen": (0.09, 5), "potsdam": (0.05, 6)}
"""Metres of a pixel and number of classes (Maggiori et al. sec. V-A, V-B)."""
TILE = 1152
"""Side of the tile whose time per hectare is measured; its overlap, the network's reach, is not counted as
ground.
"""


@dataclass(frozen=True)
class Time:
    """One printed time: claimed and measured, and both as shares of the rival's. `floor` is the share of
    multiplications; None for times that are sums over networks.
    """

    number: int
    label: str
    what: str
    claimed: float
    measured: float
    rival: str
    rival_measured: float
    claimed_ratio: float
    ratio: float
    floor: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_times(
    name: str,
    *,
    rows: Sequence[int] | None = None,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    tile: int = TILE,
) -> list[Time]:
    """The times of a table's rows. `changes` and `options` as `run_table` has them. Raises BadOption for a
    table whose paper prints no times, UnknownName and BadOption as `plan_rows`.
    """
    chosen = chosen_rows(name, rows)
    if not any(row.times for row in TABLES[name].rows):
        known = ", ".join(key for key, table in TABLES.items() if any(row.times for row in table.rows))
        raise BadOption(f"The paper of {name} prints no times in it; {known} have times.")
    changes, options = dict(changes or {}), dict(options or {})
    fabric = gather(device, str(changes.get("precision", "32")))
    if fabric.world_size > 1:
        raise BadOption("Times are measured by one process; leave torchrun out.")
    if name == "maggiori-6":
        return _running_times(chosen, changes, options, device, fabric, tile)
    data = {"images": ["random pixels"]}
    # All rows, not only the chosen ones: the rival is among them.
    plans = {p.number: p for p in plan_rows(name, data, changes=changes, options=options, device=device)}
    # The last timed row is the rival: DeepLabV3+ in MSWBN's table.
    rival = next(p for p in reversed(plans.values()) if p.row.times)
    bands, classes = TABLES[name].in_channels, TABLES[name].classes
    found = []
    for number in chosen:
        plan = plans[number]
        if not plan.row.times:
            continue
        claimed, its = (p.row.claimed["seconds_per_step"] for p in (plan, rival))
        one, other = (Training(p.recipe, bands, classes, fabric) for p in (plan, rival))
        own, others = alternately(one.step, other.step, f"time {plan.row.label}")
        # Two measurements of one network would differ by noise, and its ratio to itself is 1.
        if plan is rival:
            others = own
        what = f"s a step of {plan.recipe.batch} x {plan.recipe.crop} px"
        found.append(
            Time(
                number,
                plan.row.label,
                what,
                claimed,
                own,
                rival.row.label,
                others,
                claimed / its,
                own / others,
                one.multiplications / other.multiplications,
            )
        )
    return found


def _running_times(
    chosen: Mapping[int, Row],
    changes: Mapping[str, Any],
    options: Mapping[str, Any],
    device: str,
    fabric: Fabric,
    tile: int,
) -> list[Time]:
    """Table VI of Maggiori et al.: training hours, and seconds for a hectare, beside the base FCN."""
    found = []
    base_row = TABLES["maggiori-6"].rows[0]
    for where, make in (("vaihingen", maggiori_vaihingen), ("potsdam", maggiori_potsdam)):
        metres, classes = HECTARE[where]
        for number, row in chosen.items():
            if not row.times:
                continue
            own, base = (
                scaled(make({"images": ["random pixels"]}, network, **options).recipe, 1.0, changes).replace(
                    device=device
                )
                for network in (row.network, "fcn")
            )
            one, other = (Training(r, 4, classes, fabric) for r in (own, base))
            step, base_step = alternately(one.step, other.step, f"time {row.label}, {where}")
            if row.network == "fcn":
                base_step = step
            # The networks that start from the base FCN take its time too, as the paper counts.
            hours = (own.steps * step + own.base_steps * base_step) / 3600
            area, base_area = alternately(
                one.hectare(metres, tile), other.hectare(metres, tile), f"time {row.label}, {where}, test"
            )
            if row.network == "fcn":
                base_area = area
            floor = one.multiplications / other.multiplications
            for what, key, time_, rival, share in (
                ("training hours", "train_hours", hours, base.steps * base_step / 3600, None),
                ("s per hectare", "test_seconds_per_hectare", area, base_area, floor),
            ):
                claimed, its = (r.claimed[f"{key}_{where}"] for r in (row, base_row))
                found.append(
                    Time(
                        number,
                        row.label,
                        f"{what}, {where.title()}",
                        claimed,
                        time_,
                        base_row.label,
                        rival,
                        claimed / its,
                        time_ / rival,
                        share,
                    )
                )
    return found


def alternately(
    one: Callable[[], float], other: Callable[[], float], what: str = "time"
) -> tuple[float, float]:
    """The least time of each of two that take turns: what else the machine does meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    with bar(what, ROUNDS, "rounds") as tick:
        for _ in range(ROUNDS):
            for run, its in zip((one, other), times, strict=True):
                its.append(run())
            tick()
    # The least, not the mean: whatever else runs can only make a turn slower.
    return min(times[0][1:]), min(times[1][1:])


class Training:
    """A recipe's network with random weights and one batch of random pixels."""

    def __init__(self, recipe: Recipe, bands: int, classes: int, fabric: Fabric) -> None:
        options = {key: value for key, value in recipe.options.items() if key != "weights"}
        if "pretrained" in options:  # weights change no time, and would be downloaded
            options["pretrained"] = False
        torch.manual_seed(0)
        net = create_model(recipe.network, in_channels=bands, classes=classes, **options)
        self.reach, self.stride = net.reach, net.stride
        self.recipe, self.fabric, self.bands = recipe, fabric, bands
        self.plain = net
        self.multiplications = self.multiplications_at(recipe.batch, recipe.crop)
        self.net, self.optimizer = set_up(net, recipe, fabric)
        for group in self.optimizer.param_groups:  # steps at a full rate on noise could end in NaN
            group["lr"] = 0.0
        part = recipe.batch // recipe.accumulate
        self.batch = [
            [
                (
                    torch.randn(part, bands, recipe.crop, recipe.crop),
                    torch.randint(0, classes, (part, recipe.crop, recipe.crop), dtype=torch.uint8),
                )
            ]
            for _ in range(recipe.accumulate)
        ]

    def multiplications_at(self, batch: int, crop: int) -> int:
        """Of a forward pass over `batch` crops."""
        return batch * macs(self.plain, crop, crop, self.bands)

    def step(self) -> float:
        """Seconds of one update of the weights."""
        train_mode(self.net, self.recipe)
        start = time.monotonic()
        # float() waits for the GPU: otherwise only the launch of its work would be timed.
        float(update(self.net, self.optimizer, self.fabric, self.batch, self.recipe, [Task(None, None)]))
        return time.monotonic() - start

    def hectare(self, metres: float, tile: int) -> Callable[[], float]:
        """A function that measures the seconds for a hectare of pixels of `metres` side, in tiles with an
        overlap as wide as the reach.
        """
        halo = -(-(self.reach or 0) // self.stride) * self.stride
        core = max(self.stride, (tile - 2 * halo) // self.stride * self.stride)
        image = torch.randn(1, self.bands, core + 2 * halo, core + 2 * halo, device=self.fabric.device)

        def run() -> float:
            self.net.eval()
            start = time.monotonic()
            with torch.inference_mode(), float32_in(self.recipe.precision, image.device):
                float(self.net(image).sum())
            # A hectare has 1e4 square metres; only the core counts, although the halo takes its time too.
            return (time.monotonic() - start) * 1e4 / (core * metres) ** 2

        return run
