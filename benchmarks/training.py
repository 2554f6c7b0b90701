"""A step of training against the bare step: the same network, loss, optimizer, batch and memory layout on
tensors that are in memory already, in a loop that does nothing else.

    python benchmarks/training.py               crops from a tiled GeoTIFF (4 bands, uint16, ZSTD) of
                                                0.28 GiB, held in memory; fcn, mlp, smp/Unet
    python benchmarks/training.py --from-file   the same file, read window by window
    python benchmarks/training.py --kept        the bare loop keeps freed memory between steps too, as
                                                training does and plain loops do not
    python benchmarks/training.py --network fcn --rounds 30 --crop 256
    python benchmarks/training.py --scales 0.5,2   crops are resized too, in the threads that read them

Ours is all that `labelscape train` does in a step: waiting for crops that are read, augmented and scaled, the
step, its loss, the log; a state is saved every 200 steps. The bare loop is a process of its own. Both take
turns of ten steps; the first two turns do not count. A ratio is the median of the turns' ratios, in brackets
their quartiles. CPU seconds are those of all threads of a process; several threads also count their waiting
for each other. What else the machine did meanwhile is printed: above a few per cent it was not quiet, and
wall times say little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from crops import paint_geotiff
from torch import Tensor

import labelscape as ls
from labelscape.benchmark.machine import Clock
from labelscape.scoring.heap import memory_kept
from labelscape.training.data import blank_checkpoint, open_recipe_data
from labelscape.training.loop import LOG_EVERY, run_phase
from labelscape.training.losses import total_loss
from labelscape.training.optimizers import make_optimizer
from labelscape.training.setup import make_tasks

OPTIONS = {"fcn": {}, "mlp": {}, "smp/Unet": {"encoder": "resnet18", "pretrained": False}}
WARM_UP = 2
"""Turns that do not count: they allocate memory and choose kernels."""
QUIET = 0.03
"""Share of the machine's cores that other processes may take before wall times are called noisy."""

Batch = tuple[Tensor, Tensor]


def bare(
    recipe: ls.Recipe,
    bands: int,
    classes: int,
    batches: list[Batch],
    talk: Connection,
    threads: int,
    kept: bool,
) -> None:
    """In a process of its own: for each message the wall and CPU seconds of a turn of bare steps."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    net = ls.create_model(recipe.network, in_channels=bands, classes=classes, **recipe.options)
    net = net.to(where := torch.device(recipe.device), memory_format=torch.channels_last).train()
    optimizer, clock = make_optimizer(net, recipe), Clock(where)
    # On the device before they are needed: steps alone.
    stream = cycle(
        [(image.to(where, memory_format=torch.channels_last), label.to(where)) for image, label in batches]
    )
    with memory_kept() if kept else nullcontext():
        while talk.recv():
            wall, cpu = clock.wall(), time.process_time()
            for image, label in islice(stream, LOG_EVERY):
                optimizer.zero_grad(set_to_none=True)
                total_loss(recipe.losses, net(image), label, None).backward()
                optimizer.step()
            talk.send((clock.wall() - wall, time.process_time() - cpu))


@dataclass
class Turns:
    """Takes turns with the bare loop at every line of the log."""

    talk: Connection
    ours: list[tuple[float, float]] = field(default_factory=list)
    bare: list[tuple[float, float]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    """Share of the machine that neither of the two took."""
    _wall: float = 0.0
    _cpu: float = 0.0

    def begin(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._machine, self._since = _busy(), self._wall

    def __call__(self, line: dict) -> None:
        # All CPU seconds since the last line: also those of crops that are read during the other's turn.
        cpu = time.process_time()
        self.ours.append((time.perf_counter() - self._wall, cpu - self._cpu))
        self._cpu = cpu
        self.talk.send(True)
        self.bare.append(self.talk.recv())
        now, busy = time.perf_counter(), _busy()
        mine = self.ours[-1][1] + self.bare[-1][1]
        whole = (now - self._since) * (psutil.cpu_count() or 1)
        self.others.append(max(0.0, busy - self._machine - mine) / whole)
        self._machine, self._since = busy, now
        self._wall = time.perf_counter()


def _busy() -> float:
    """CPU seconds of all processes of the machine so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def recipe_of(network: str, folder: Path, a: argparse.Namespace) -> ls.Recipe:
    return ls.make_recipe(
        data={"images": [str(folder / "scene.tif")], "labels": [str(folder / "labels.tif")]},
        network=network,
        options=OPTIONS[network],
        steps=LOG_EVERY * (WARM_UP + a.rounds),
        base_steps=0,
        batch=a.batch,
        crop=a.crop,
        device=a.device,
        precision=a.precision,
        scale_range=tuple(map(float, a.scales.split(","))) if a.scales else None,
    )


def measure(network: str, folder: Path, a: argparse.Namespace) -> Turns:
    recipe = recipe_of(network, folder, a)
    with (
        open_recipe_data(recipe.data, recipe.seed, hold=not a.from_file) as dataset,
        tempfile.TemporaryDirectory() as out,
    ):
        blank = blank_checkpoint(recipe, dataset)
        drawing = make_tasks(recipe, dataset, blank, None)[0].drawing
        batches = [drawing.part(step, 0, 1) for step in range(LOG_EVERY)]
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        sizes = len(dataset.bands), len(dataset.legend)
        arguments = recipe, *sizes, batches, its, torch.get_num_threads(), a.kept
        other = context.Process(target=bare, args=arguments, daemon=True)
        other.start()
        turns = Turns(mine)
        turns.begin()
        run_phase(recipe, dataset, blank, Path(out), watch=turns)
        mine.send(False)
        other.join()
    return turns


def line(network: str, turns: Turns) -> str:
    cells = []
    for which in (0, 1):
        ours, other = (
            [one[which] / LOG_EVERY for one in side][WARM_UP:] for side in (turns.ours, turns.bare)
        )
        ratios = [a / b for a, b in zip(ours, other, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        middle = statistics.median
        cells.append(
            f"{middle(ours):>9.4f}{middle(other):>9.4f}{middle(ratios):>8.3f} ({low:.3f} to {high:.3f})"
        )
    others = statistics.mean(turns.others[WARM_UP:])
    noisy = "  NOT QUIET: wall times say little" if others > QUIET else ""
    return f"{network:<10}{cells[0]}{cells[1]}{100 * others:>8.1f} %{noisy}"


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default=",".join(OPTIONS), help="one or several")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--size", type=int, default=6144)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scales", help="smallest and largest factor of a crop: 0.5,2")
    parser.add_argument("--from-file", action="store_true", help="hold nothing in memory")
    parser.add_argument("--kept", action="store_true", help="the bare loop keeps freed memory too")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paint_geotiff(Path(name), a.size)
        held = "read window by window" if a.from_file else "held in memory"
        show(
            f"{a.batch} crops of {a.crop} from {a.size} x {a.size}, {held}; {torch.get_num_threads()} "
            f"threads, {a.rounds} turns of {LOG_EVERY} steps"
        )
        show(
            f"{'network':<10}{'wall s':>9}{'bare':>9}{'ratio':>8} (quartiles)     {'CPU s':>9}{'bare':>9}"
            f"{'ratio':>8} (quartiles)       others"
        )
        for network in a.network.split(","):
            show(line(network, measure(network, Path(name), a)))


if __name__ == "__main__":
    main()
