"""Evaluate a checkpoint on labelled scenes (`evaluate`), predicted in the same tiles as in mapping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint, load_all
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.split import known_part
from labelscape.errors import BadInput, WrongType
from labelscape.evaluation.blocks import BlockCounts, BlockTally, block_side
from labelscape.evaluation.boundaries import RINGS, ring_of, trimap
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.conventions import Convention, eroded_card, metric_card
from labelscape.evaluation.metrics import summary
from labelscape.evaluation.objects import ObjectCounts
from labelscape.evaluation.text import percent, score_table
from labelscape.evaluation.topology import TopologyCounts
from labelscape.legend import IGNORE
from labelscape.progress import bar

if TYPE_CHECKING:
    from labelscape.grid import Window
    from labelscape.scoring.protocol import Protocol
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.tiles import TilePlan

See = Callable[["Window", np.ndarray, np.ndarray], None]
"""Is given every tile's window, truth and prediction, class indices (H, W)."""
Watch = Callable[[str, LabelledScene], AbstractContextManager[See]]
"""Is told of every scene and its name in the results, and yields what sees its tiles."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Confusion counts per scene, and the metrics of their sum. Compares by identity: compare `confusion` or
    `metrics`.
    """

    per_scene: dict[str, Confusion]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Warnings about the settings: tiles larger than the model learned."""
    per_ring: tuple[Confusion, ...] = ()
    """Counts of all scenes by distance to the nearest other class (`boundaries.RINGS`, then what lies
    farther); empty where they were not asked for.
    """
    per_block: tuple[BlockCounts, ...] = ()
    """Counts of every block with a label: blocks of the scene's own split, else of 256 pixels."""
    objects: tuple[ObjectCounts, ...] = ()
    """Counts of objects and borders, one for each class that they were asked for."""
    topology: tuple[TopologyCounts, ...] = ()
    """Counts of skeletons, one for each class that they were asked for."""

    @property
    def card(self) -> tuple[Convention, ...]:
        """The scores under each convention in use; with counts by ring also on an eroded reference."""
        return (*metric_card(self.per_scene, self.names), *eroded_card(self.per_ring))

    @property
    def trimap(self) -> list[dict]:
        """Scores within each distance of a border of the reference, fractions; empty without counts by
        ring.
        """
        return trimap(self.per_ring, self.names)

    @property
    def confusion(self) -> Confusion:
        """The counts of all scenes together."""
        scenes = list(self.per_scene.values())
        # Without the start value sum() would begin with 0, which is no confusion.
        return sum(scenes[1:], scenes[0])

    @property
    def metrics(self) -> dict:
        """Fractions: overall accuracy, mIoU, per class IoU, F1, ...; None where undefined."""
        return summary(self.confusion, self.names)

    def __repr__(self) -> str:
        if not self.per_scene:
            return "<Evaluation of no scene>"
        found, count = self.metrics, len(self.per_scene)
        scores = f"OA {percent(found['overall_accuracy'])} %, mIoU {percent(found['mean_iou'])} %"
        pixels = f"{found['labelled_pixels']:,} labelled pixels"
        return f"<Evaluation: {scores}, {pixels} of {count} scene{'s' * (count != 1)}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the table of scores in per cent."""
        if not self.per_scene:
            return escape(repr(self))
        _, *rows = score_table({"": self.metrics})
        cells = (
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{iou}</td><td>{f1}</td></tr>"
            for name, iou, f1 in rows
        )
        head = "<tr><th style='text-align:left'>%</th><th>IoU</th><th>F1</th></tr>"
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption>{head}{''.join(cells)}</table>"


def check_dataset(given: object, purpose: str) -> None:
    """Raises WrongType where `given` is not a Dataset; `purpose` says in the message what labels are needed
    for.
    """
    if isinstance(given, Dataset):
        return
    found = repr(str(given)) if isinstance(given, (str, Path)) else f"a {type(given).__name__}"
    raise WrongType(
        f"A dataset (scenes with labels) is needed to {purpose}; found {found}. Open one with "
        'ls.open_dataset(["scene.tif"], ["labels.gpkg"]).'
    )


def for_labels(models: Sequence[Checkpoint], dataset: Dataset, task: str | None = None) -> list[Checkpoint]:
    """The models for the task `task`; where none is named, for their second task if the labels have its
    classes and not those of the first. Models that learned no second task stay as they are, beside a first
    that did. Raises UnknownName for a task that the first did not learn.
    """
    first = models[0]
    if task is None and first.mate is not None and dataset.legend.names == first.mate.legend.names:
        task = first.mate.name if dataset.legend.names != first.legend.names else None
    return [first.task(task), *(one.task(task if task in one.tasks else None) for one in models[1:])]


def check_classes(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raises BadInput where the labels' classes are not the model's: the counts would compare class 2 of one
    list with class 2 of another.
    """
    mine, others = checkpoint.legend.names, dataset.legend.names
    # Names and their order: index k must be one class on both sides.
    if mine != others:
        raise BadInput(
            f"The labels have the classes {', '.join(others)}; the model knows {', '.join(mine)}. Read "
            "the labels with the model's classes, LabelRules(legend=checkpoint.legend), or merge them into "
            "these (`merge={'NEW': ['OLD', 'OLD']}`)."
        )


def evaluate(
    checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
    dataset: Dataset,
    *,
    part: str | None = None,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
    device: str = "auto",
    precision: str = "32",
    protocol: Protocol | None = None,
    keep: Callable[[LabelledScene, np.ndarray], None] | None = None,
    boundaries: bool = False,
    watch: Sequence[Watch] = (),
    show: bool = True,
    task: str | None = None,
) -> Evaluation:
    """Confusion counts of a checkpoint (or its file), or of several whose probabilities are averaged, over
    the labelled pixels of `part`.

    part  "train", "val", "test"; None or "all": all labels
    task  name of the second task to score; by default that whose classes the labels have, the first if both
    keep  is given every scene, labelled or not, with its class indices (H, W), 255 where there is no data
    boundaries  also count by distance to the borders of the reference (`Evaluation.per_ring`)
    watch  see every tile as it is scored, such as `places.Places.watch`

    Scored exactly as `map_scene` maps. Raises BadInput where the part holds no label and nothing is kept, or
    the labels have other classes than the model; WrongType for what is no dataset.
    """
    # Here, not above: it imports torch, and reading an Evaluation should not take its seconds.
    from labelscape.scoring.stitch import plan_for

    check_dataset(dataset, "score a checkpoint")
    part = known_part(part)
    scorer = _scorer_for(load_all(checkpoint), dataset, task, device, precision, protocol)
    legend = scorer.checkpoint.legend
    per_scene: dict[str, Confusion] = {}
    per_block: list[BlockCounts] = []
    # One frozen value several times: counts are added to new ones, never changed.
    rings = [Confusion.empty(len(legend))] * (len(RINGS) + 1) if boundaries else []
    scenes = dataset.scenes if part is None else dataset.part(part)
    # The tiles of `map_scene`: another halo or blending would score another map.
    plans = [plan_for(scorer, s.scene, tile_size=tile_size, overlap=overlap, blend=blend) for s in scenes]
    with bar("evaluate", sum(map(len, plans)), "tiles", shown=show) as tick:
        for scene, plan in zip(scenes, plans):
            blocks = BlockTally(block_side(scene), scene.scene.grid.window, len(legend))
            # Folders may hold scenes of one name: counts of both are kept.
            name = scene.name if scene.name not in per_scene else f"{scene.name} ({len(per_scene) + 1})"
            with ExitStack() as held:
                see = [blocks.add, *(held.enter_context(one(name, scene)) for one in watch)]
                whole = _score_scene(scorer, scene, plan, part, tick, rings, see, whole=keep is not None)
            per_block += (found := blocks.named(name))
            per_scene[name] = sum((block.counts for block in found), Confusion.empty(len(legend)))
            if keep:
                keep(scene, whole)
    # Kept predictions are a result even where nothing is labelled, as in a benchmark's test split.
    if not per_scene or (not keep and not sum(int(c.counts.sum()) for c in per_scene.values())):
        raise BadInput(f"No labelled pixel to score on{f' in the {part} part' if part else ''}.")
    notes = _size_notes(scorer, plans)
    return Evaluation(per_scene, tuple(legend.names), notes, tuple(rings), tuple(per_block))


def _scorer_for(
    models: Sequence[Checkpoint],
    dataset: Dataset,
    task: str | None,
    device: str,
    precision: str,
    protocol: Protocol | None,
) -> Scorer:
    """The models for the labels' task, on the device. Raises BadInput where the labels have other classes."""
    from labelscape.scoring.protocol import Protocol
    from labelscape.scoring.scorer import Scorer

    models = for_labels(models, dataset, task)
    scorer = Scorer.of(models, device=device, precision=precision, protocol=protocol or Protocol())
    check_classes(scorer.checkpoint, dataset)
    return scorer


def _size_notes(scorer: Scorer, plans: Sequence[TilePlan]) -> tuple[str, ...]:
    """Warns of tiles larger than the model learned."""
    from labelscape.scoring.memory import size_warning

    # Of the largest tiles alone: one warning says it for all.
    return tuple(filter(None, [size_warning(scorer, max(plans, key=lambda plan: plan.largest))]))


def _score_scene(
    scorer: Scorer,
    scene: LabelledScene,
    plan: TilePlan,
    part: str | None,
    tick: Callable[..., None],
    rings: list[Confusion],
    see: Sequence[See],
    *,
    whole: bool,
) -> np.ndarray | None:
    """Shows every tile to all of `see`; adds to the counts by distance to borders in `rings`, unless that is
    empty. Returns its class indices (H, W) where the `whole` is asked for: else tiles without a label are
    passed over.
    """
    from labelscape.scoring.stitch import score_tiles

    left = len(plan)
    indices = np.full(scene.scene.grid.shape, IGNORE, np.uint8) if whole else None

    def wanted(window: Window) -> bool:
        # Reading labels costs little beside a pass of the network, which is spared where there are none.
        return whole or bool((scene.read_labels(window, part) != IGNORE).any())

    for tile in score_tiles(scorer, scene.scene, plan, wanted=wanted):
        truth = scene.read_labels(tile.window, part)
        # Nodata has no prediction: a label there counts neither as right nor as wrong.
        truth[~tile.valid] = IGNORE
        predicted = tile.classes()
        for one in see:
            one(tile.window, truth, predicted)
        if rings:
            ring = _rings_in(scene, tile.window)
            for k, so_far in enumerate(rings):
                rings[k] = so_far + count(np.where(ring == k, truth, IGNORE), predicted, len(so_far))
        if indices is not None:
            indices[tile.window.inset_of(scene.scene.grid.window)] = predicted
        left -= 1
        tick()
    tick(left)  # those without a label, which are not predicted
    return indices


def _rings_in(scene: LabelledScene, window: Window) -> np.ndarray:
    """The rings of a window's pixels, from the labels around it too: of all parts, since a border is one
    whoever holds the pixels behind it.
    """
    around = window.grown(RINGS[-1], scene.scene.grid.window)
    return ring_of(scene.read_labels(around))[window.inset_of(around)]
