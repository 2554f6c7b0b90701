"""Measure networks on this machine: predicting with each engine, training, memory, and the papers' ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from labelscape.benchmark.machine import Clock, MatrixProduct, Memory, Spread, machine_of, take_turns
from labelscape.benchmark.result import BenchResult, Compared, Measured
from labelscape.benchmark.subjects import Work, blank_checkpoint, forward, training_step, without_weights
from labelscape.errors import BadOption, LabelscapeError, UnknownName
from labelscape.nets.catalog import entry, list_models
from labelscape.nets.tables import TABLES
from labelscape.progress import bar
from labelscape.scoring.engine_choice import ENGINES
from labelscape.scoring.engines import PRECISIONS, pick_device
from labelscape.scoring.heap import memory_kept
from labelscape.scoring.runtimes import installed
from labelscape.training.team import check_trains

RIVALS = ("smp/Unet", "smp/DeepLabV3Plus")
SIDE, QUICK_SIDE = 512, 128
ROUNDS, QUICK_ROUNDS = 5, 3
SMALLEST, LARGEST = 64, 4096
"""Sides: the deepest networks halve an image five times, and a crop is half of it."""


@dataclass(frozen=True)
class Pair:
    """Two networks whose times a paper compares, in the rows `rows` of its table."""

    label: str
    what: str
    one: tuple[str, dict[str, Any]]
    other: tuple[str, dict[str, Any]]
    table: str = ""
    claim: str = ""
    rows: tuple[str, str] = ("", "")
    source: str = ""

    @property
    def claimed(self) -> float | None:
        if not self.table:
            return None
        found = {row.label: row.claimed for row in TABLES[self.table].rows}
        one, other = (found[label][self.claim] for label in self.rows)
        return one / other


PAIRS = (
    Pair(
        "mswbn / deeplabv3plus",
        "training step",
        ("mswbn", {}),
        ("deeplabv3plus", {}),
        "mswbn-1",
        "seconds_per_step",
        ("MSWBN, 128 channels", "DeepLabV3+"),
        "MSWBN table 1, a Titan X",
    ),
    Pair(
        "mlp / fcn",
        "forward",
        ("mlp", {}),
        ("fcn", {}),
        "maggiori-6",
        "test_seconds_per_hectare_vaihingen",
        ("MLP", "Base FCN"),
        "Maggiori et al. table VI, seconds per hectare of Vaihingen",
    ),
    # Its paper counts no time; at the same resolution (a quarter) NL is the rival.
    Pair("dgcwnet / with NL-D", "forward", ("dgcwnet", {}), ("dgcwnet", {"context": "nl-d"})),
    Pair("dgcwnet / with NL-H", "forward", ("dgcwnet", {}), ("dgcwnet", {"context": "nl-h"})),
)


def reason(error: LabelscapeError) -> str:
    """Why something is not measured, without what somebody who maps would do about it."""
    return f"not measured: {error.why}" if error.why else str(error)


@dataclass
class _Bench:
    """The settings of a run, and what it found so far."""

    device: str
    precision: str
    side: int
    rounds: int
    tick: Callable[[], object]
    product: MatrixProduct = field(init=False)
    clock: Clock = field(init=False)
    products: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        where = pick_device(self.device)
        self.product, self.clock = MatrixProduct(where, self.precision), Clock(where)

    def turns(self, works: Sequence[Work]) -> list[list[float]]:
        """Seconds of each work in turns that alternate with the machine's matrix product, whose come last."""
        runs = {str(n): work.run for n, work in enumerate(works)} | {"product": self.product}
        with memory_kept():  # as `train` and `map` keep it from step to step
            found = list(take_turns(runs, self.rounds, self.clock, self.tick).values())
        self.products += found[-1]
        return found

    def network(self, name: str, engines: Sequence[str]) -> Iterator[Measured]:
        """Everything that is measured of one network."""
        # In the order of the makers, also what cannot be measured.
        made: list[tuple[Work, int | None] | Measured] = []
        for what, engine, make in self.makers(name, engines):
            try:
                memory = Memory(self.clock.device)
                work = make()
                # Twice: the second step of an optimizer finds its moments in memory.
                work.run(), work.run()
                made.append((work, memory.peak()))
            except LabelscapeError as error:
                made.append(Measured(name, what, engine, failure=reason(error)))
        *times, product = self.turns([one[0] for one in made if not isinstance(one, Measured)])
        for one in made:
            if isinstance(one, Measured):
                yield one
                continue
            (work, peak), seconds = one, times.pop(0)
            spread, rate = Spread.of(seconds), self.product.operations
            # Of neighbouring turns: what else the machine does meets both.
            pairs = zip(seconds, product, strict=True)
            share = Spread.of([work.operations / own / (rate / its) for own, its in pairs])
            gflops = work.operations / spread.median / 1e9
            yield Measured(name, work.what, work.engine, work.pixels, spread, gflops, share, peak)

    def makers(self, name: str, engines: Sequence[str]) -> list[tuple[str, str, Callable[[], Work]]]:
        """(what, engine, how it is made) of everything that is measured of one network."""
        checkpoint = blank_checkpoint(name, without_weights(name, {}))
        how = self.device, self.precision
        return [
            *(("forward", e, partial(forward, checkpoint, self.side, e, *how)) for e in engines),
            ("training step", "torch", partial(training_step, name, {}, self.side // 2, *how)),
        ]

    def pair(self, pair: Pair) -> Compared:
        works = [self.one_of(pair.what, name, options) for name, options in (pair.one, pair.other)]
        one, other, _ = self.turns(works)
        ratio = Spread.of([mine / its for mine, its in zip(one, other, strict=True)])
        floor = works[0].operations / works[1].operations
        return Compared(pair.label, pair.what, pair.claimed, pair.source, ratio, floor)

    def one_of(self, what: str, name: str, options: dict[str, Any]) -> Work:
        if what == "training step":
            return training_step(name, options, self.side // 2, self.device, self.precision)
        checkpoint = blank_checkpoint(name, without_weights(name, options))
        return forward(checkpoint, self.side, "torch", self.device, self.precision)


def bench(
    networks: Sequence[str] | None = None,
    *,
    side: int | None = None,
    rounds: int | None = None,
    engines: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "32",
    quick: bool = False,
    unfinished: Callable[[BenchResult], object] | None = None,
) -> BenchResult:
    """Measure networks of the catalogue (all, and two rivals, unless named) with random weights on random
    pixels: a forward pass over an image of `side` pixels with each engine that is installed, a training step
    with two crops of half that side, memory, and the ratios that papers print. All of a network take turns,
    with the machine's own matrix product between them. `quick` measures small images, in torch alone unless
    engines are named. `unfinished` gets what was measured so far where Ctrl-C, a signal or an error ends the
    run, which then goes on ending.

    Raises UnknownName for unknown networks or engines, BadOption for sizes or numbers that make no sense, a
    device that this machine lacks and an unknown precision.
    """
    names = list(networks) if networks is not None else [*list_models(), *RIVALS]
    side = side if side is not None else QUICK_SIDE if quick else SIDE
    rounds = rounds if rounds is not None else QUICK_ROUNDS if quick else ROUNDS
    chosen = list(engines) if engines is not None else ["torch"] if quick else installed()
    _check(names, side, rounds, chosen, precision, device)
    pairs = [pair for pair in PAIRS if {pair.one[0], pair.other[0]} <= set(names)]
    measured: list[Measured] = []
    compared: list[Compared] = []
    with bar("bench", (len(names) + len(pairs)) * (rounds + 1), "rounds") as tick:
        own = _Bench(device, precision, side, rounds, tick)

        def found(stopped: str = "") -> BenchResult:
            machine = machine_of(own.clock.device, precision, own.product, own.products)
            return BenchResult(machine, side, rounds, tuple(measured), tuple(compared), stopped)

        try:
            for name in names:
                measured += list(own.network(name, chosen))
            for pair in pairs:
                compared.append(own.pair(pair))
        except BaseException:  # memory that ends, too: the rows before took minutes
            if unfinished is not None and measured:
                done = len(dict.fromkeys(one.network for one in measured))
                ratios = f" and {len(compared)} of {len(pairs)} ratios" if pairs else ""
                unfinished(found(f"ended with {done} of {len(names)} networks{ratios} finished"))
            raise
    return found()


def _check(
    names: Sequence[str], side: int, rounds: int, engines: Sequence[str], precision: str, device: str
) -> None:
    if not names:
        raise BadOption(
            "No network is named in `networks`: give names of `labelscape models`, or leave it out."
        )
    for name in names:
        entry(name)
    for engine in engines:
        # "auto" is no engine but a choice between them.
        if engine not in ENGINES[1:]:
            raise UnknownName("engine in `engines`", engine, ENGINES[1:])
    if precision not in PRECISIONS:
        raise BadOption(f"`precision={precision!r}` must be one of {', '.join(PRECISIONS)}.")
    # Before a matrix product that takes minutes there (float16 on a CPU), and rows that all say this.
    check_trains(precision, pick_device(device))
    if not isinstance(side, int) or not SMALLEST <= side <= LARGEST or side % 2:
        raise BadOption(f"`side={side!r}` must be an even number of pixels from {SMALLEST} to {LARGEST}.")
    if not isinstance(rounds, int) or rounds < 1:
        raise BadOption(f"`rounds={rounds!r}` must be a whole number of at least 1.")
