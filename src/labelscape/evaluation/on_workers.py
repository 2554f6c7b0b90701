"""Score a checkpoint on many labelled scenes, one scene a worker: the counts of all scenes add up to those of
a single process, whatever the order in which they arrive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from operator import add
from typing import TYPE_CHECKING, Any

from labelscape.checkpoint import Checkpoint, StoredAs
from labelscape.datasets.labelled import LabelledScene, scene_names
from labelscape.datasets.own import Dataset, Opening
from labelscape.errors import BadInput, BadOption
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.kept import KeptClasses
from labelscape.evaluation.measure import (
    check_classes,
    for_labels,
    no_bins,
    score_scene,
    scorer_for,
    scores_so_far,
)
from labelscape.evaluation.objects import Objects
from labelscape.evaluation.places import Places
from labelscape.evaluation.tally import Tally
from labelscape.progress import bar, told_where_lost
from labelscape.rasters.creation import CreationOptions
from labelscape.scenes.lazy import LazyScene
from labelscape.workers.calls import Call
from labelscape.workers.probe import Needs
from labelscape.workers.seen import Seen
from labelscape.workers.sent import files_of, for_workers, loaded
from labelscape.workers.share import THREADS, Hands, cause_of, on_workers

if TYPE_CHECKING:
    from labelscape.scoring.engine_choice import Chosen
    from labelscape.scoring.protocol import Protocol
    from labelscape.scoring.scorer import Scorer


@dataclass(frozen=True)
class Scoring:
    """The networks, and how they score: what a worker keeps from scene to scene.

    tasks   of each model, the second task that it is asked for, or None
    chosen  what runs the networks, chosen over the tiles of all scenes; None for torch
    """

    models: tuple[StoredAs, ...]
    tasks: tuple[str | None, ...]
    device: str
    precision: str
    protocol: Protocol | None
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Counting:
    """What is counted of every scene; `out` is the folder of error maps, None where they are not written;
    `creation_options` are those of their files.

    tiles  tile size, overlap and blend, as `plan_for` takes them
    """

    part: str | None
    tiles: Mapping[str, Any]
    out: str | None = None
    boundaries: bool = False
    reliability: bool = False
    objects: tuple[str, ...] = ()
    topology: tuple[str, ...] = ()
    apls: tuple[str, ...] = ()
    tolerance: int = 2
    creation_options: CreationOptions = CreationOptions()


@dataclass(frozen=True, eq=False)
class SentScene:
    """A labelled scene as it is sent: how it is opened, not its pixels."""

    name: str
    opening: Opening | LabelledScene
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> Seen:
        """Its files, as this process sees them."""
        one = self.opening
        return Seen.here(one.source, one.label) if isinstance(one, Opening) else Seen()

    @contextmanager
    def opened(self) -> Iterator[LabelledScene]:
        """The scene, open while the block runs. Raises BadFile, BadInput."""
        with ExitStack() as files:
            one = self.opening(files) if isinstance(self.opening, Opening) else self.opening
            yield replace(one, **self.more)


@dataclass(frozen=True, eq=False)
class ScoredScene:
    """What a worker counted: `side` is that of its largest tile, `warning` what to expect of such a size."""

    found: Evaluation
    places: Places | None
    side: int
    warning: str | None
    pixels: int


def evaluate(
    hands: Hands,
    models: Sequence[Checkpoint],
    dataset: Dataset,
    counting: Counting,
    *,
    places: Places | None = None,
    task: str | None = None,
    device: str = "auto",
    precision: str = "32",
    protocol: Protocol | None = None,
    engine: str = "auto",
) -> Evaluation:
    """As `measure.evaluate` in a process of one thread, on workers; a scene that fails is named in the
    result, and the others are scored. `places` gets what the workers saw of the places.

    Raises BadInput where no scene could be scored, nothing is labelled, or a worker cannot do the job;
    BadOption for scenes and models that are only in memory; ClusterLost.
    """
    models = for_labels(models, dataset, task)
    check_classes(models[0], dataset)
    scenes = dataset.scenes if counting.part is None else dataset.part(counting.part)
    sent = [_sent(name, scene) for name, scene in zip(scene_names(scenes), scenes)]
    # One task of a checkpoint is no file: the whole checkpoint is read, and its task chosen again.
    files = files_of([one.whole or one for one in models])
    tasks = tuple(one.whole.mate.name if one.whole else None for one in models)
    scoring = Scoring(files, tasks, device, precision, protocol)
    chosen, told = _engine(models, scoring, scenes, counting.tiles, engine)
    scoring = replace(scoring, chosen=chosen)
    out = None if places is None else places.out.absolute()
    if places is not None:
        counting = replace(counting, out=str(out), creation_options=places.creation_options)
    calls = (
        Call(n, "evaluate", score_here, (scoring, counting, one), seen=one.seen) for n, one in enumerate(sent)
    )
    found: dict[int, ScoredScene] = {}
    failed: dict[int, str] = {}
    shown = {"verb": "evaluate", "unit": "scenes", "pixels": _pixels}
    needs = Needs(out, files, device, seen=sent[0].seen if sent else Seen())
    with told_where_lost(lambda: scores_so_far(_total(found), len(sent)) if found else ()):
        for call, one in on_workers(hands, needs, calls, len(sent), **shown):
            if not isinstance(one, ScoredScene):
                failed[call.number] = one if isinstance(one, str) else cause_of(one)
                continue
            # Its pictures are in `places` then, where only the worst are kept.
            found[call.number] = replace(one, places=None)
            if places is not None:
                places.add(one.places)
    made = _together(found, {sent[n].name: failed[n] for n in sorted(failed)}, counting.part, places)
    return replace(made, notes=(*made.notes, *told))


def _engine(
    models: Sequence[Checkpoint],
    scoring: Scoring,
    scenes: Sequence[LabelledScene],
    tiles: Mapping[str, Any],
    engine: str,
) -> tuple[Chosen | None, list[str]]:
    """What runs the networks, chosen over all scenes as a single process of one thread chooses it, and what
    to know of it. Raises as `with_engine`.
    """
    from labelscape.scoring.engine_choice import Chosen, with_engine
    from labelscape.scoring.machine import as_many_threads
    from labelscape.scoring.runtimes import installed
    from labelscape.scoring.stitch import plan_for

    # Runtimes compute on CPUs, and this process may lack the GPU that the workers have.
    torch_alone = scoring.device not in ("auto", "cpu") or len(installed()) == 1
    if engine == "torch" or (engine == "auto" and torch_alone):
        return None, []
    with as_many_threads({"threads": THREADS}):
        scorer = scorer_for(models, scoring.device, scoring.precision, scoring.protocol)
        plans = [plan_for(scorer, one.scene, **tiles) for one in scenes]
        found = with_engine(scorer, plans, engine)
    return Chosen.of(found.scorer), found.notes


def _together(
    found: Mapping[int, ScoredScene], failed: dict[str, str], part: str | None, places: Places | None
) -> Evaluation:
    """The counts of all scenes in their order, in whatever order they came."""
    scored = [found[n] for n in sorted(found)]
    if failed and not scored:
        raise BadInput(f"No scene could be scored. {next(iter(failed.values()))}")
    if not scored or not any(one.found.confusion.counts.any() for one in scored):
        raise BadInput(f"No labelled pixel to score on{f' in the {part} part' if part else ''}.")
    if places is not None:
        order = [name for one in scored for name in one.found.per_scene]
        places.grids = {name: places.grids[name] for name in order}
    # Of the largest tiles alone, as a single process warns.
    largest = max(scored, key=lambda one: one.side)
    notes = (largest.warning,) if largest.warning else ()
    # Their sums are no whole numbers: added scene by scene, as a single process adds them.
    paths = tuple(reduce(add, of_class) for of_class in zip(*(one.found.paths for one in scored)))
    return replace(_total(found), notes=notes, failed=failed, paths=paths)


def _total(found: Mapping[int, ScoredScene]) -> Evaluation:
    return total([found[n].found for n in sorted(found)])


def total(parts: Sequence[Evaluation]) -> Evaluation:
    """The sum of evaluations of scenes, in their order. By halves: one after another each addition would sort
    all blocks so far.
    """
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return total(parts[:middle]) + total(parts[middle:])


def _pixels(found: Any) -> float | None:
    return found.pixels if isinstance(found, ScoredScene) else None


def _sent(name: str, scene: LabelledScene) -> SentScene:
    """A scene as it holds in another process. Raises BadOption for one that is only in memory."""
    opening = scene.again
    if opening is not None:
        rules = opening.rules
        own = replace(
            opening,
            source=for_workers(opening.source),
            label=for_workers(opening.label),
            rules=rules if rules.area is None else replace(rules, area=for_workers(rules.area)),
        )
        return SentScene(name, own, {"split": scene.split, "corrections": scene.corrections})
    if isinstance(scene.scene, LazyScene):  # keeps no file open
        return SentScene(name, scene)
    raise BadOption(
        f"{name} is in memory, and pixels are not sent to workers: pass scenes and labels by their paths."
    )


# ---------------------------------------------------------------------------------------------- on a worker


def score_here(scoring: Scoring, counting: Counting, sent: SentScene) -> ScoredScene | str:
    """Score one scene, on a worker; why that failed, as a sentence, where it did."""
    from labelscape.scoring.machine import as_many_threads

    try:
        with as_many_threads({"threads": THREADS}), sent.opened() as scene:
            return _score(_scorer(scoring), counting, sent.name, scene)
    except Exception as error:
        return cause_of(error, "Out of memory. Use smaller tiles (`tile_size`).")


@lru_cache(maxsize=1)
def _scorer(scoring: Scoring) -> Scorer:
    """The networks, loaded once for all scenes."""
    models = [one.task(task) for one, task in zip(loaded(scoring.models), scoring.tasks)]
    scorer = scorer_for(models, scoring.device, scoring.precision, scoring.protocol)
    return scorer if scoring.chosen is None else scoring.chosen.on(scorer)


def _score(scorer: Scorer, counting: Counting, name: str, scene: LabelledScene) -> ScoredScene:
    from labelscape.scoring.memory import size_warning
    from labelscape.scoring.stitch import plan_for

    names = scorer.checkpoint.legend.names
    # The command has checked that its files may be written; a worker that was lost may have left some.
    places, whole = None, KeptClasses()
    if counting.out is not None:
        how = {"overwrite": True, "creation_options": counting.creation_options}
        places = Places(counting.out, [], scorer.checkpoint.legend, whole, **how)
    how = {name: getattr(counting, name) for name in ("tolerance", "topology", "apls")}
    wanted = counting.objects or counting.topology or counting.apls
    things = Objects(counting.objects, names, **how, kept=whole) if wanted else None
    watch = [one.watch for one in (places, things) if one is not None]
    tally = Tally(
        names,
        boundaries=counting.boundaries,
        bins=no_bins(scorer) if counting.reliability else (),
        watch=[whole.watch, *watch] if watch else [],
    )
    plan = plan_for(scorer, scene.scene, **counting.tiles)
    with bar(f"evaluate {name}", len(plan), "tiles") as tick, tally.scene(name, scene) as add:
        score_scene(scorer, scene, plan, counting.part, tick, add, whole=False)
    found = tally.result()
    if things is not None:
        counts = {"topology": tuple(things.topology), "paths": tuple(things.paths)}
        found = replace(found, objects=tuple(things.counts), **counts)
    pixels = scene.scene.grid.window.pixels
    return ScoredScene(found, places, plan.largest, size_warning(scorer, plan), pixels)
