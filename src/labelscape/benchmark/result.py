"""What a benchmark found: values, JSON, text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from labelscape.benchmark.machine import Machine, Spread
from labelscape.scoring.runtimes import RUNTIMES
from labelscape.text import digits
from labelscape.version import build


@dataclass(frozen=True)
class Measured:
    """One network doing one thing with one engine, or why it could not be measured.

    pixels       in a turn
    seconds      of a turn
    gflops       1e9 floating-point operations per second, counted as the plain network needs them
    share        of the rate of the machine's matrix product, in neighbouring turns
    peak_bytes   beyond what was held before, weights included; a converted network's conversion too
    """

    network: str
    what: str
    engine: str
    pixels: int = 0
    seconds: Spread | None = None
    gflops: float | None = None
    share: Spread | None = None
    peak_bytes: int | None = None
    failure: str = ""

    @property
    def megapixels_per_second(self) -> float | None:
        return self.pixels / self.seconds.median / 1e6 if self.seconds else None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "megapixels_per_second": self.megapixels_per_second}


@dataclass(frozen=True)
class Compared:
    """Two networks in neighbouring turns: their ratio of times, what a paper prints for it, and the ratio of
    their multiply-accumulates.
    """

    label: str
    what: str
    claimed: float | None
    source: str
    ratio: Spread
    floor: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class BenchResult:
    """`side` of the predicted image in pixels; a training step has two crops of half that side. `stopped`
    says how far a run came that was ended before its time; empty for one that is complete.
    """

    machine: Machine
    side: int
    rounds: int
    measured: tuple[Measured, ...]
    compared: tuple[Compared, ...]
    stopped: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_json(),
            "versions": versions(one.engine for one in self.measured),
            "side": self.side,
            "rounds": self.rounds,
            "stopped": self.stopped,
            "measured": [one.as_json() for one in self.measured],
            "compared": [one.as_json() for one in self.compared],
        }

    @property
    def text(self) -> str:
        """Tables of what was measured."""
        return "\n".join([*_head(self), "", *_rows(self), *_ratios(self)])


def versions(engines: Iterable[str]) -> dict[str, str | None]:
    """Of Labelscape, and of these engines as they are installed; torch's stands beside the machine."""
    return {"labelscape": build()} | {
        name: RUNTIMES[name].installed_version() for name in sorted(set(engines) & RUNTIMES.keys())
    }


def _head(result: BenchResult) -> list[str]:
    machine = result.machine
    runs = f"medians of {result.rounds} runs" if result.rounds > 1 else "a single run of each"
    lines = [
        f"{machine.processor}, {machine.device}, threads {machine.threads}, torch {machine.torch}, precision "
        f"{machine.precision}",
        f"matrix product {machine.gflops.median:.0f} GFLOP/s ({machine.gflops.low:.0f} to "
        f"{machine.gflops.high:.0f})",
        f"forward: one image of {result.side} x {result.side}; training step: 2 crops of "
        f"{result.side // 2} x {result.side // 2}; {runs}, {machine.clock}",
    ]
    lines += [f"WARNING: {line}" for line in machine.warnings]
    return lines + ([f"STOPPED: {result.stopped}"] if result.stopped else [])


def _rows(result: BenchResult) -> list[str]:
    wide = max((len(one.network) for one in result.measured), default=7) + 2
    lines = [
        f"{'network':<{wide}}{'':<15}{'engine':<13}{'seconds':>9}{'quartiles':>20}{'Mpx/s':>8}{'GFLOP/s':>9}"
        f"{'of product':>12}{'peak MiB':>10}"
    ]
    for one in result.measured:
        start = f"{one.network:<{wide}}{one.what:<15}{one.engine:<13}"
        if one.seconds is None:
            lines.append(f"{start}  {one.failure}")
            continue
        spread = f"{digits(one.seconds.low)} to {digits(one.seconds.high)}"
        speed = digits(one.megapixels_per_second)
        peak = "unknown" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f}"
        lines.append(
            f"{start}{digits(one.seconds.median):>9}{spread:>20}{speed:>8}{one.gflops:9.0f}"
            f"{one.share.median:12.0%}{peak:>10}"
        )
    return lines


def _ratios(result: BenchResult) -> list[str]:
    if not result.compared:
        return []
    wide = max(len(f"{one.label}, {one.what}") for one in result.compared) + 2
    lines = [
        "",
        f"{'time of the first over the second':<{wide}}{'paper':>7}{'here':>8}{'quartiles':>18}{'macs':>7}",
    ]
    for one in result.compared:
        spread = f"{one.ratio.low:.3f} to {one.ratio.high:.3f}"
        paper = "-" if one.claimed is None else f"{one.claimed:.3f}"
        name = f"{one.label}, {one.what}"
        source = f"   {one.source}" if one.source else ""
        lines.append(f"{name:<{wide}}{paper:>7}{one.ratio.median:8.3f}{spread:>18}{one.floor:7.3f}{source}")
    return lines
