"""What is measured against and with: the machine's own matrix product, a clock, a memory gauge, turns."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from labelscape.scoring.engines import PRECISIONS

SIDES = {"cpu": 1024}
"""Of the square matrices whose product is the machine's rate: larger on a GPU, which a small one leaves
idle (ours).
"""
GPU_SIDE = 4096
PRODUCT_SECONDS = 0.05
"""A turn of the matrix product repeats it for about so long: shorter ones would measure the clock."""
BUSY, UNSTEADY = 0.9, 0.15
"""Share of its time that the product must have been computing, and the largest spread of its turns, for the
machine to count as quiet (ours).
"""


@dataclass(frozen=True)
class Spread:
    """Median of several turns, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        # Of two or three values the quartiles are extrapolated: nothing was measured beyond the extremes.
        return cls(statistics.median(values), max(low, min(values)), min(high, max(values)))

    @property
    def relative(self) -> float:
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Machine:
    """Where it was measured. `gflops` is the rate of a product of two large matrices, in 1e9 floating-point
    operations per second; `precision` that of all measurements.
    """

    device: str
    processor: str
    threads: int
    torch: str
    precision: str
    clock: str
    gflops: Spread
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Clock:
    """Seconds on a device. With one thread on the CPU those of the processor: what else runs on the machine
    does not count. Else the wall clock's, after the device has finished.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.of_processor = device.type == "cpu" and torch.get_num_threads() == 1

    @property
    def name(self) -> str:
        return "processor time" if self.of_processor else "wall clock"

    def __call__(self) -> float:
        return time.process_time() if self.of_processor else self.wall()

    def wall(self) -> float:
        """Of the wall clock, once the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


class MatrixProduct:
    """One turn of the machine's matrix product; `busy` keeps which share of each turn it was computing."""

    def __init__(self, device: torch.device, precision: str) -> None:
        side = SIDES.get(device.type, GPU_SIDE)
        dtype = PRECISIONS[precision] or torch.float32
        self.device, self.times, self.busy, self.rounded = device, 1, [], precision == "tf32"
        self.one, self.other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self.once, clock = 2 * side**3, Clock(device)
        self._multiply()
        start = clock()
        self._multiply()
        self.times = max(1, round(PRODUCT_SECONDS / max(clock() - start, 1e-6)))
        self.busy.clear()

    @property
    def operations(self) -> int:
        return self.times * self.once

    def __call__(self) -> None:
        before = time.perf_counter(), time.process_time()
        self._multiply()
        wall, processor = (now - then for now, then in zip(_clocks(), before, strict=True))
        if self.device.type == "cpu":
            self.busy.append(processor / (wall * torch.get_num_threads()))

    def _multiply(self) -> None:
        # As convolutions are computed in this precision (`float32_in`).
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, self.rounded
        try:
            for _ in range(self.times):
                torch.mm(self.one, self.other)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def take_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Clock, tick: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds of each of several runs that take turns, `rounds` times, after one that is not counted: it
    allocates memory and chooses kernels.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if number:
                found[name].append(clock() - start)
        tick()
    return found


def machine_of(
    device: torch.device, precision: str, product: MatrixProduct, turns: Sequence[float]
) -> Machine:
    """The machine as the turns of its matrix product show it, with a warning where it is not quiet."""
    rates = Spread.of([product.operations / seconds / 1e9 for seconds in turns])
    clock, warnings = Clock(device), []
    if product.busy and (busy := statistics.median(product.busy)) < BUSY:
        effect = (
            "the times here are the processor's own, which other programs lengthen little"
            if clock.of_processor
            else "the times here are the wall clock's and too long; ratios of neighbouring runs still hold"
        )
        warnings.append(
            f"the machine is not quiet: other programs took {100 * (1 - busy):.0f} % of the processor time "
            f"that the matrix product asked for; {effect}"
        )
    if rates.relative > UNSTEADY:
        warnings.append(
            f"the machine is not steady: half of the runs of the matrix product differ by more than "
            f"{100 * rates.relative:.0f} %"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = torch.get_num_threads()
    return Machine(
        str(device), name, threads, torch.__version__, precision, clock.name, rates, tuple(warnings)
    )


def _processor() -> str:
    """Name of the processor with its vector instructions, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


class Memory:
    """Bytes that a device's memory holds at its peak beyond what it held when this began: Linux and CUDA;
    `peak()` is None elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        try:
            # Memory that was freed but kept for later would hide as much of what is taken next.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            # Afterwards the kernel counts the highest value anew.
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status("VmRSS")
        except (OSError, AttributeError, StopIteration):
            self.before = None

    def peak(self) -> int | None:
        if self.before is None or self.device.type not in ("cpu", "cuda"):
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(0, _status("VmHWM") - self.before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
