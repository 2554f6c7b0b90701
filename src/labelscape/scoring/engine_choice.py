"""Which engine predicts a map: torch, or another one where it is the same and faster.

Decided once for all tiles, before the first of them: the values of a tile must not depend on when it is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from labelscape.errors import BadInput, BadOption, LabelscapeError, UnknownName, first_line
from labelscape.progress import print_line
from labelscape.scoring import engine_cache
from labelscape.scoring.arrays import softmax, without_gradients
from labelscape.scoring.exported_engine import ExportedEngine
from labelscape.scoring.memory import MOST_BYTES
from labelscape.scoring.proof import Proof, Shape, compared, proof_images, scores_apart, seconds_of
from labelscape.scoring.runtimes import RUNTIMES, ConvertedEngine, Run, Runtime, padded
from labelscape.scoring.scorer import Member, Scorer, calibrated
from labelscape.scoring.stitch import image_shapes
from labelscape.scoring.symmetry import SYMMETRIES
from labelscape.scoring.tiles import TilePlan
from labelscape.text import digits

if TYPE_CHECKING:
    from torch import Tensor

ENGINES = ("auto", "torch", *RUNTIMES)
COVERED, MOST_SHAPES = 0.9, 4
"""Shapes are converted, the most frequent first, until they have this share of all pixels; the rest are a few
tiles at the scene's border (ours).
"""
MOST_TORCHES = 2.5
"""Memory that `auto` lets another engine take, over torch's (ours): a U-Net on ResNet-18 takes 2.2 times as
much in tiles of 1152 pixels.
"""
WORTH_SECONDS = 60.0
"""Of torch, per converted network: for less `auto` converts nothing. Converting and comparing takes 2 to 15 s
and saves a tenth to four tenths (ours).
"""
SHARED_BYTES = 1280 * 2**20
"""Memory of converted networks, one for each shape, beyond which one is taken for all of them; `auto` may
take so much whatever torch does (ours).
"""
WORTH_FORWARDS = 20
"""Batches of a shape from which on `auto` converts: comparing and timing takes as long as four of them."""
FASTER = 0.9
"""Largest ratio to torch's time at which `auto` takes another engine: less is within the noise (ours)."""
TIMED_SIDE = 256


@dataclass(frozen=True)
class Settled:
    """A scorer whose engine is settled, and what to know of it: nothing, or a sentence."""

    scorer: Scorer
    note: str = ""

    @property
    def notes(self) -> list[str]:
        return [self.note] if self.note else []


class _NotUsed(Exception):
    """Why an engine is not used, as a part of a sentence."""


class _Slower(Exception):
    """Told where it is measured; afterwards not worth a word at every map."""


def with_engine(scorer: Scorer, plans: Iterable[TilePlan], engine: str = "auto") -> Settled:
    """The scorer with the engine for the tiles of these plans.

    "auto" is torch unless another engine is installed, gives the same on these very shapes of tiles, and
    saves more time than its conversion costs. Raises UnknownName for another engine, BadOption where the one
    that is named cannot be used here, BadInput where it does not give what torch gives.
    """
    check_usable(scorer, engine)
    auto, name = engine == "auto", _runtime_of(scorer, engine)
    if name is None:
        return Settled(scorer)
    runtime = RUNTIMES[name]
    counts = _forwards(scorer, plans)
    shapes = _main_shapes(counts)
    if auto and _are_few(counts, shapes):
        return Settled(scorer)
    memory = _memory(runtime, scorer, shapes)
    if auto and not (_is_worth(scorer, counts, shapes, memory.shared) and memory.fits(auto)):
        return Settled(scorer)
    if not auto and not memory.fits(auto):
        raise _refused(name, _too_large(memory.taken, shapes))
    try:
        return Settled(_all_converted(name, scorer, shapes, memory, auto))
    except _Slower:
        return Settled(scorer)
    except _NotUsed as error:
        if not auto:
            raise _refused(name, error) from None
        return Settled(scorer, f"predicted by torch, not by {runtime.TITLE}: {error}")


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a scorer, as another process is told: one of the `runtimes` and the shapes of
    images that it predicts; without any all are as the scorer predicts them anyway.
    """

    runtime: str = ""
    shapes: tuple[Shape, ...] = ()

    @classmethod
    def of(cls, scorer: Scorer) -> Chosen:
        """Of a scorer whose engine is settled."""
        engine = scorer.members[0].engine
        found = isinstance(engine, ConvertedEngine)
        return cls(engine.runtime, tuple(engine.converted)) if found else cls()

    def on(self, scorer: Scorer) -> Scorer:
        """The same scorer, loaded anew, with this choice; a GPU stays with torch. Raises BadOption where the
        runtime cannot be used here, BadInput where it does not give what torch gives.
        """
        if not self.shapes or scorer.device.type != "cpu":
            return scorer
        check_usable(scorer, self.runtime)
        try:
            memory = _memory(RUNTIMES[self.runtime], scorer, self.shapes)
            return _all_converted(self.runtime, scorer, self.shapes, memory, auto=False)
        except _NotUsed as error:
            raise _refused(self.runtime, error) from None


def _all_converted(name: str, scorer: Scorer, shapes: Sequence[Shape], memory: _Memory, auto: bool) -> Scorer:
    """Raises _NotUsed, _Slower."""
    if memory.shared:
        try:
            return _with_each(name, scorer, [tuple(shapes)], auto)
        except _NotUsed:
            # One that holds the sizes of its tiles: a network for each, where memory allows.
            if memory.separate > memory.most(auto):
                raise _too_large(memory.separate, shapes) from None
    return _with_each(name, scorer, [(shape,) for shape in shapes], auto)


def _with_each(name: str, scorer: Scorer, sets: Sequence[tuple[Shape, ...]], auto: bool) -> Scorer:
    """The scorer with a converted network for each of these sets of shapes. Raises _NotUsed, _Slower."""
    how = scorer.groups, _step(scorer), auto
    return replace(scorer, members=tuple(_converted(name, member, sets, *how) for member in scorer.members))


def _refused(name: str, error: _NotUsed) -> BadInput:
    refused = BadInput(f"{RUNTIMES[name].TITLE} is not used: {error}. Pass `engine='torch'`.")
    refused.why = str(error)
    return refused


def _too_large(needed: int, shapes: Sequence[Shape]) -> _NotUsed:
    sizes = ", ".join(f"{height} x {width}" for _, _, height, width in shapes)
    return _NotUsed(
        f"for tiles of {sizes} pixels it would need {needed / 2**30:.1f} GiB; smaller tiles (`tile_size`) "
        "need less"
    )


def can_use(scorer: Scorer, engine: str) -> bool:
    """May this engine be named for this scorer on this machine?"""
    try:
        check_usable(scorer, engine)
    except LabelscapeError:
        return False
    return True


def check_usable(scorer: Scorer, engine: str) -> None:
    """Raises UnknownName for another engine, BadOption for one that is named and cannot be used here."""
    if engine not in ENGINES:
        raise UnknownName("`engine`", engine, ENGINES)
    if engine in RUNTIMES and not _runs_already(scorer, engine) and (why := why_not(scorer, engine)):
        unusable = f"`engine={engine!r}` cannot be used: {why}. Pass `engine='torch'`, or leave it out."
        refused = BadOption(unusable)
        refused.why = why
        raise refused


def why_not(scorer: Scorer, engine: str) -> str:
    """Why one of the `runtimes` cannot run this scorer here, as a part of a sentence; "" where it can."""
    runtime = RUNTIMES[engine]
    if any(isinstance(member.engine, (ExportedEngine, ConvertedEngine)) for member in scorer.members):
        return "it converts networks of torch only"
    if runtime.installed_version() is None:
        return f"it is not installed (pip install labelscape[{runtime.EXTRA}])"
    if scorer.device.type != "cpu":
        return f"it computes on the CPU, and the device is {scorer.device} (`device='cpu'`)"
    if why := runtime.why_not(scorer.dtype):
        return why
    if scorer.unfamiliar:
        return "it does not show the features from which unfamiliar input is told"
    return ""


def extra_bytes(scorer: Scorer, plan: TilePlan, engine: str) -> int:
    """Memory that a map may take with this engine beyond what it takes with torch."""
    name = _runtime_of(scorer, engine)
    if name is None:
        return 0
    counts, runtime = _forwards(scorer, [plan]), RUNTIMES[name]
    shapes = _main_shapes(counts)
    auto = engine == "auto"
    if auto and _are_few(counts, shapes):
        return 0
    memory = _memory(runtime, scorer, shapes)
    if auto and not (_are_many(counts, shapes, memory.shared) and memory.fits(auto)):
        return 0
    return max(0, memory.taken - memory.of_torch)


def _runtime_of(scorer: Scorer, engine: str) -> str | None:
    """The runtime that may be used where this engine is asked for; None where the scorer stays as it is."""
    asked = RUNTIMES if engine == "auto" else {engine} & RUNTIMES.keys()
    return next((name for name in asked if not why_not(scorer, name)), None)


def _runs_already(scorer: Scorer, engine: str) -> bool:
    """Exported models are run by the library of their format, whatever is asked for."""
    engines = [member.engine for member in scorer.members]
    return all(isinstance(e, ExportedEngine) and e.name.partition(" ")[0] == engine for e in engines)


def _forwards(scorer: Scorer, plans: Iterable[TilePlan]) -> Counter[Shape]:
    """How often each network is given images of a shape, after padding (`_step`)."""
    bands, found, step = len(scorer.checkpoint.bands), Counter(), _step(scorer)
    # Turned by a quarter, a tile that is not square has another shape.
    turns = Counter(bool(which & 4) for which in SYMMETRIES[scorer.protocol.tta])
    for plan in plans:
        for (images, height, width), count in image_shapes(plan).items():
            for quarter, times in turns.items():
                shape = (images, bands, *((width, height) if quarter else (height, width)))
                found[padded(shape, step)] += count * times
    return found


def _step(scorer: Scorer) -> int:
    """What all its networks pad their images to, or would pad on from."""
    return math.gcd(*(member.engine.pads_to for member in scorer.members))


def _pixels(counts: Counter[Shape], shape: Shape) -> int:
    return counts[shape] * shape[0] * shape[2] * shape[3]


def _main_shapes(counts: Counter[Shape]) -> list[Shape]:
    """The shapes that are converted. Of the plans alone: the same in every process."""
    most = sorted(counts, key=lambda shape: (-_pixels(counts, shape), shape))
    total, found, covered = sum(_pixels(counts, s) for s in counts), [], 0
    for shape in most[:MOST_SHAPES]:
        if covered >= COVERED * total:
            break
        found.append(shape)
        covered += _pixels(counts, shape)
    return found


@dataclass(frozen=True)
class _Memory:
    """Bytes at the peak for some shapes. Of the network and the shapes alone: the same in every process, and
    when a map goes on.

    separate  with a converted network for each shape, which keeps its weights and work space
    one       with one for all of them; None where there is none, or one shape alone
    of_torch  with torch
    """

    separate: int
    one: int | None
    of_torch: int

    @property
    def shared(self) -> bool:
        """Does one converted network predict all shapes? One for each is up to a tenth faster."""
        return self.one is not None and self.separate > SHARED_BYTES

    @property
    def taken(self) -> int:
        return self.one if self.shared else self.separate

    def most(self, auto: bool) -> float:
        """That a runtime may take. Chosen by `auto` not much more than torch: the traced form of some
        networks takes many times as much.
        """
        return max(SHARED_BYTES, MOST_TORCHES * self.of_torch) if auto else MOST_BYTES

    def fits(self, auto: bool) -> bool:
        return self.taken <= self.most(auto)


def _memory(runtime: Runtime, scorer: Scorer, shapes: Sequence[Shape]) -> _Memory:
    members = scorer.members
    each = [[runtime.peak_bytes(member.engine, shape) for shape in shapes] for member in members]
    one = None
    if runtime.of_any_size is not None and len(shapes) > 1:
        # Weights in the order that the kernels of each shape take them in.
        more = (len(shapes) - 1) * sum(v.nbytes for m in members for v in m.checkpoint.weights.values())
        one = sum(map(max, each)) + more
    of_torch = (member.engine.peak_bytes(h, w, n) for member in members for n, _, h, w in shapes)
    return _Memory(sum(map(sum, each)), one, max(of_torch, default=0))


def _are_few(counts: Counter[Shape], shapes: Sequence[Shape]) -> bool:
    """Too few for `_are_many`, however they are converted? Told without asking for memory, which takes a
    tenth of a second.
    """
    return sum(counts[shape] for shape in shapes) < WORTH_FORWARDS


def _are_many(counts: Counter[Shape], shapes: Sequence[Shape], shared: bool) -> bool:
    """Is the network given these shapes often enough for comparing and timing to pay?"""
    if shared:
        # Converted and timed once; every further shape is compared, which takes half as long.
        return sum(counts[s] for s in shapes) >= WORTH_FORWARDS * (1 + len(shapes)) / 2
    return all(counts[shape] >= WORTH_FORWARDS for shape in shapes)


def _is_worth(scorer: Scorer, counts: Counter[Shape], shapes: Sequence[Shape], shared: bool) -> bool:
    """Does torch take long enough for a conversion to pay, on this machine?"""
    if not _are_many(counts, shapes, shared):
        return False
    seconds = 0.0
    for member in scorer.members:
        sides = min(TIMED_SIDE, *(side for shape in shapes for side in shape[2:]))
        images = proof_images(member.checkpoint, (1, shapes[0][1], sides, sides))
        seconds_of(member.engine.forward, images)  # the first call allocates
        seconds += seconds_of(member.engine.forward, images) / sides**2
    networks = 1 if shared else len(shapes)
    return seconds * sum(_pixels(counts, s) for s in shapes) >= WORTH_SECONDS * networks


def _converted(
    name: str,
    member: Member,
    sets: Sequence[tuple[Shape, ...]],
    groups: tuple[int, ...],
    step: int,
    auto: bool,
) -> Member:
    """The member with a network of the runtime for each set of shapes. Raises _NotUsed, _Slower."""
    runs: dict[Shape, Run] = {}
    for shapes in sets:
        half = member.engine.dtype is not None
        key = engine_cache.key_of(name, member.checkpoint, member.engine.head, *shapes, half=half)
        kept = engine_cache.read(name, key, half=half)
        proof, run = kept or _proven(name, member, shapes, groups, key)
        if run is None:
            raise _NotUsed(proof.failure)
        if kept is None:
            print_line(
                f"{member.checkpoint.network} converted for {RUNTIMES[name].TITLE}, "
                f"{_in_words(proof, shapes)}"
            )
        if auto and proof.ratio > FASTER:
            raise _Slower
        runs |= dict.fromkeys(shapes, run)
    return replace(member, engine=ConvertedEngine(member.engine, name, runs, step))


def _in_words(proof: Proof, shapes: Sequence[Shape]) -> str:
    torches, ours = (f"{digits(seconds)} s" for seconds in proof.seconds)
    more = len(shapes) - 1
    others = f" (also for {more} other size{'s' * (more > 1)})" if more else ""
    return (
        f"{shapes[0][2]} x {shapes[0][3]} pixels{others}: {ours}, torch {torches}; probabilities differ by "
        f"at most {proof.difference:.1g}"
    )


def _proven(
    name: str, member: Member, shapes: Sequence[Shape], groups: tuple[int, ...], key: str
) -> tuple[Proof, Run | None]:
    """Convert a network for shapes of images, compare it with torch on each, both in float32, and time both
    on the first in the engine's precision; kept in the cache.
    """
    runtime, images = RUNTIMES[name], proof_images(member.checkpoint, shapes[0])
    model, failure, difference, seconds, lasting = None, "", 0.0, (0.0, 0.0), True
    try:
        model, answer = runtime.traced(member.engine, images)
        if len(shapes) > 1:
            model = runtime.of_any_size(model)
        run = runtime.Converted(model)
        for shape in shapes:
            given = images
            if shape != shapes[0]:
                given = proof_images(member.checkpoint, shape)
                answer = _in_full_precision(member, given)
            with without_gradients():
                # As probabilities of a map are: a small temperature makes more of a difference.
                both = [calibrated(logits, member.checkpoint, groups) for logits in (answer, run(given))]
                failure, apart = compared(*(softmax(logits, 1, groups) for logits in both))
                failure = failure or scores_apart(*both, groups)
            difference = max(difference, apart)
            if failure:
                break
        if member.engine.dtype is not None:
            # What this precision does to the scene's classes is measured on its tiles (`precision`).
            run = runtime.Converted(model, half=True)
            for each in (member.engine.forward, run):
                seconds_of(each, images)
        # After both have run once, which allocates.
        seconds = seconds_of(member.engine.forward, images), seconds_of(run, images)
    except MemoryError:
        raise
    # Each operation that cannot be traced or converted fails in a way of its own.
    except Exception as error:
        why = first_line(error, 120)
        failure = f"the network {member.checkpoint.network} cannot be converted ({why})"
        difference, lasting = float("inf"), not _may_pass(error)
    proof = Proof(failure, difference, seconds)
    if lasting:
        engine_cache.write(name, key, proof, None if failure else model)
    return proof, None if failure else run


def _may_pass(error: Exception) -> bool:
    """May the same conversion succeed at another time: is it memory, a file or a library that is missing? Of
    memory each library tells in words alone.
    """
    words = str(error).lower()
    return isinstance(error, (ImportError, OSError, LabelscapeError)) or "memory" in words or "alloc" in words


def _in_full_precision(member: Member, images: Tensor) -> Tensor:
    """Logits of torch in float32, whatever the engine's precision."""
    from labelscape.scoring.engines import predicted

    with without_gradients():
        return predicted(member.engine.net, images, member.engine.head)
