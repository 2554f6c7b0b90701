"""Evaluate a checkpoint on labelled scenes (`evaluate`), predicted in the same tiles as in mapping."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint, load_all
from labelscape.datasets.labelled import scene_names
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.split import known_part
from labelscape.errors import BadInput, WrongType
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.reliability import Reliability
from labelscape.evaluation.tally import Tally, Watch
from labelscape.legend import IGNORE
from labelscape.progress import bar, told_where_lost
from labelscape.scoring.heap import memory_kept

if TYPE_CHECKING:
    from labelscape.grid import Window
    from labelscape.scoring.protocol import Protocol
    from labelscape.scoring.scored import ScoredTile
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.tiles import TilePlan


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
    engine: str = "auto",
    protocol: Protocol | None = None,
    keep: Callable[[LabelledScene, np.ndarray], None] | None = None,
    boundaries: bool = False,
    reliability: bool = False,
    watch: Sequence[Watch] = (),
    show: bool = True,
    task: str | None = None,
) -> Evaluation:
    """Confusion counts of a checkpoint (or its file), or of several whose probabilities are averaged, over
    the labelled pixels of `part`.

    part  "train", "val", "test"; None or "all": all labels
    engine  auto, torch, openvino or onnxruntime, as for a map
    task  name of the second task to score; by default that whose classes the labels have, the first if both
    keep  is given every scene, labelled or not, with its class indices (H, W), 255 where there is no data
    boundaries  also count by distance to the borders of the reference (`Evaluation.per_ring`)
    reliability  also count by confidence (`Evaluation.reliability`)
    watch  see every tile as it is scored, such as `places.Places.watch`

    Scored exactly as `map_scene` maps. Raises BadInput where the part holds no label and nothing is kept, or
    the labels have other classes than the model; WrongType for what is no dataset.
    """
    # Here, not above: it imports torch, and reading an Evaluation should not take its seconds.
    from labelscape.scoring.engine_choice import with_engine
    from labelscape.scoring.stitch import plan_for

    check_dataset(dataset, "score a checkpoint")
    part = known_part(part)
    models = for_labels(load_all(checkpoint), dataset, task)
    scorer = scorer_for(models, device, precision, protocol)
    check_classes(scorer.checkpoint, dataset)
    legend = scorer.checkpoint.legend
    bins = no_bins(scorer) if reliability else ()
    tally = Tally(legend.names, boundaries=boundaries, bins=bins, watch=watch)
    scenes = dataset.scenes if part is None else dataset.part(part)
    # The tiles of `map_scene`: another halo or blending would score another map.
    plans = [plan_for(scorer, s.scene, tile_size=tile_size, overlap=overlap, blend=blend) for s in scenes]
    found = with_engine(scorer, plans, engine)
    # Not of a training's own scores.
    with told_where_lost(lambda: scores_so_far(tally.result(), len(scenes)) if show else ()):
        _score_all(found.scorer, scenes, plans, part, tally, keep, show)
        # Kept predictions are a result even where nothing is labelled, as in a benchmark's test split.
        if not tally.per_scene or (not keep and not tally.counted):
            raise BadInput(f"No labelled pixel to score on{f' in the {part} part' if part else ''}.")
        return tally.result((*_notes(found.scorer, models, scenes, plans), *found.notes))


def scores_so_far(found: Evaluation, scenes: int) -> list[str]:
    """The scores of those of `scenes` that were counted, where the rest or their files fail: in words,
    and all of them as JSON. Nothing where nothing was.
    """
    labelled = found.confusion.labelled
    if not labelled:
        return []
    scores = {"mIoU": found.metrics["mean_iou"], "OA": found.metrics["overall_accuracy"]}
    said = ", ".join(f"{name} {100 * score:.2f} %" for name, score in scores.items() if score is not None)
    some = "" if len(found.per_scene) == scenes else f" in {len(found.per_scene)} of {scenes} scenes"
    return [
        f"scored before its files failed or it was stopped: {said} of {labelled:,} labelled pixels{some}",
        json.dumps(found.metrics),
    ]


def _score_all(
    scorer: Scorer,
    scenes: Sequence[LabelledScene],
    plans: Sequence[TilePlan],
    part: str | None,
    tally: Tally,
    keep: Callable[[LabelledScene, np.ndarray], None] | None,
    show: bool,
) -> None:
    """Count every scene in the tally; `keep` is given what is predicted of each."""
    # Around all scenes: the memory of many small images would be given back and cleared after each.
    with memory_kept(), bar("evaluate", sum(map(len, plans)), "tiles", shown=show) as tick:
        for name, scene, plan in zip(scene_names(scenes), scenes, plans):
            with tally.scene(name, scene) as add:
                whole = score_scene(scorer, scene, plan, part, tick, add, whole=keep is not None)
            if keep:
                keep(scene, whole)


def scorer_for(
    models: Sequence[Checkpoint], device: str, precision: str, protocol: Protocol | None
) -> Scorer:
    """The models on the device."""
    from labelscape.scoring.protocol import Protocol
    from labelscape.scoring.scorer import Scorer

    return Scorer.of(models, device=device, precision=precision, protocol=protocol or Protocol())


def _notes(
    scorer: Scorer, models: Sequence[Checkpoint], scenes: Sequence[LabelledScene], plans: Sequence[TilePlan]
) -> list[str]:
    """Warns of tiles larger than the model learned, and says what reduced precision changes on a CPU: nothing
    is refused, the score itself shows what it costs.
    """
    from labelscape.scoring.memory import size_warning
    from labelscape.scoring.precision import agreement, is_checked

    # Of the largest tiles alone: one warning says it for all.
    found = [size_warning(scorer, max(plans, key=lambda plan: plan.largest))]
    if is_checked(scorer):
        full = scorer_for(models, str(scorer.device), "32", scorer.protocol)
        pairs = [(one.scene, plan) for one, plan in zip(scenes, plans, strict=True)]
        found.append(agreement(scorer, full, pairs))
    return [str(one) for one in found if one]


def score_scene(
    scorer: Scorer,
    scene: LabelledScene,
    plan: TilePlan,
    part: str | None,
    tick: Callable[..., None],
    add: Callable[..., None],
    *,
    whole: bool,
) -> np.ndarray | None:
    """Gives every tile to `add`. Returns the scene's class indices (H, W) where the `whole` is asked for:
    else tiles without a label are passed over.
    """
    left = len(plan)
    indices = np.full(scene.scene.grid.shape, IGNORE, np.uint8) if whole else None
    for tile, truth in tiles_with_truth(scorer, scene, plan, part, whole=whole):
        predicted = tile.classes()
        add(tile.window, truth, predicted, tile)
        if indices is not None:
            indices[tile.window.inset_of(scene.scene.grid.window)] = predicted
        left -= 1
        tick()
    tick(left)  # those without a label, which are not predicted
    return indices


def tiles_with_truth(
    scorer: Scorer, scene: LabelledScene, plan: TilePlan, part: str | None, *, whole: bool = False
) -> Iterator[tuple[ScoredTile, np.ndarray]]:
    """Each tile of a scene that has a label, or every one of the `whole`, as it is predicted, and the class
    indices (H, W) of its labels, 255 without.
    """
    from labelscape.scoring.stitch import score_tiles

    def wanted(window: Window) -> bool:
        # Reading labels costs little beside a pass of the network, which is spared where there are none.
        return whole or bool((scene.read_labels(window, part) != IGNORE).any())

    for tile in score_tiles(scorer, scene.scene, plan, wanted=wanted, by_part=not whole):
        truth = scene.read_labels(tile.window, part)
        # Nodata has no prediction: a label there counts neither as right nor as wrong.
        truth[~tile.valid] = IGNORE
        yield tile, truth


def no_bins(scorer: Scorer) -> list[Reliability]:
    """Empty counts by confidence: without the checkpoint's temperature, and with it."""
    own = scorer.checkpoint.temperature
    # A mean of probabilities is no softmax of logits over one temperature.
    if len(scorer.members) > 1 or scorer.protocol.passes > 1:
        return [Reliability.empty(None)]
    return [Reliability.empty(t) for t in dict.fromkeys((1.0, float(own)))]
