"""The score of a table's row, by the test of its paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.checkpoint import Checkpoint, load
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import summary
from labelscape.nets.tables import CLUTTER_WRONG, of_task
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.table_rows import Plan, blank_network, is_scorable, scored_data

if TYPE_CHECKING:
    from labelscape.evaluation.measure import Evaluation
    from labelscape.training.recipe_data import Data

METRICS = ("mean_iou", "overall_accuracy", "mean_f1")
PER_CLASS = ("iou", "f1")


def score(plan: Plan, targets: Sequence[Path]) -> dict[str, Any]:
    """`metrics` in per cent of a trained row (several checkpoints are merged) by its own protocol, what they
    were `scored_on`, and how it was `tested`; with a second task also its name and what it was scored on,
    and its metrics under "NAME: METRIC".
    """
    setting, data = plan.setting, scored_data(plan)
    checkpoints = [load(target) for target in targets]
    with open_recipe_data(data, plan.recipe.seed) as dataset:
        part = setting.part or scored_part(dataset)
        tiles = tiling(plan, checkpoints[0], dataset, part)
        clutter = _Clutter.of(data, dataset, plan.recipe.seed)
        # Only for clutter: keeping predictions means to score every tile, labelled or not.
        found = _evaluated(plan, checkpoints, dataset, part, **tiles, keep=clutter.count if clutter else None)
        metrics = in_per_cent(found.metrics)
        if clutter:
            counted = in_per_cent(counting_clutter(found.confusion, clutter.predicted, found.names))
            metrics |= {CLUTTER_WRONG + key: share for key, share in counted.items()}
            clutter.close()
        where = _where(data, dataset, part, found)
    second = _score_second_task(plan, checkpoints)
    return {
        "scored_on": where,
        "tested": tested(plan, tiles),
        "metrics": metrics | second.pop("metrics", {}),
        **({"second_task": second} if second else {}),
    }


def _score_second_task(plan: Plan, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """`name`, `scored_on` and `metrics` of the task that was learned beside the row's own, on its own
    held-out images; empty where there is none, or nothing to score it on.
    """
    mate, name = plan.recipe.mate, next(iter(checkpoints[0].tasks), None)
    # Without a weight it was not learned, and the checkpoints do not have it.
    if mate is None or name is None or not is_scorable(mate.data, plan.setting.models):
        return {}
    models = [one.task(name) for one in checkpoints]
    with open_recipe_data(mate.data, plan.recipe.seed, models[0].legend) as dataset:
        part = scored_part(dataset)
        if part is None:
            return {}
        tiles = tiling(plan, models[0], dataset, part)
        found = _evaluated(plan, models, dataset, part, **tiles)
        metrics = {of_task(name, key): share for key, share in in_per_cent(found.metrics).items()}
        return {"name": name, "scored_on": _where(mate.data, dataset, part, found), "metrics": metrics}


def _evaluated(
    plan: Plan, checkpoints: Sequence[Checkpoint], dataset: Dataset, part: str, **more: Any
) -> Evaluation:
    from labelscape.evaluation.measure import evaluate
    from labelscape.scoring.protocol import Protocol

    setting = plan.setting
    protocol = Protocol(setting.scales, setting.tta, setting.average)
    return evaluate(checkpoints, dataset, part=part, device=plan.recipe.device, protocol=protocol, **more)


def _where(data: Data, dataset: Dataset, part: str, found: Evaluation) -> str:
    """What was scored on: `deepglobe-land, part test: 203 images, ... labelled pixels`."""
    images = len(dataset.part(part))
    name = data.dataset or ", ".join(map(str, data.images))
    pixels = f"{found.metrics['labelled_pixels']:,} labelled pixels"
    return f"{name}, part {part}: {images} image{'s' * (images != 1)}, {pixels}"


def in_per_cent(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Means and, per class, "iou/NAME" and "f1/NAME", as the papers' claims are called."""
    shares = {metric: found[metric] for metric in METRICS}
    for metric in PER_CLASS:
        shares |= {f"{metric}/{one['name']}": one[metric] for one in found["classes"]}
    return {key: None if share is None else 100 * share for key, share in shares.items()}


def tiling(plan: Plan, checkpoint: Checkpoint, dataset: Dataset, part: str) -> dict[str, Any]:
    """How the row's pictures are cut, as `evaluate` takes it."""
    setting = plan.setting
    if setting.tiles == "whole":
        # A tile of the longest side holds every picture of the part whole.
        longest = max(max(scene.scene.grid.shape) for scene in dataset.part(part))
        # At the largest scale too.
        return {"tile_size": math.ceil(longest * max(1, *setting.scales)), "overlap": 0, "blend": "none"}
    side = plan.tile if setting.tiles == "crop" else int(setting.tiles)
    if setting.blend == "exact":
        bands, classes = len(checkpoint.bands), len(checkpoint.legend)
        reach = blank_network(plan.recipe, bands, classes).reach
        # Smaller tiles would be two thirds overlap, or more.
        if reach is not None and side > 3 * reach:
            return {"tile_size": side, "overlap": reach, "blend": "crop"}
        return {"tile_size": side, "overlap": None, "blend": None}
    # Small tiles have no room for the usual overlap.
    overlap = None if setting.blend == "none" or side > 256 else side // 8
    return {"tile_size": side, "overlap": overlap, "blend": setting.blend}


def tested(plan: Plan, tiles: Mapping[str, Any]) -> str:
    """How a row was tested, in words."""
    setting = plan.setting
    cut = "whole pictures" if setting.tiles == "whole" else f"tiles of {tiles['tile_size']}"
    if setting.tiles != "whole":
        cut += {"none": ", no overlap", "crop": ", overlaps cropped"}.get(tiles["blend"], ", blended")
    scales = f"scales {', '.join(f'{s:g}' for s in setting.scales)}"
    if setting.tiles != "whole":
        scales += ", the picture scaled before it is cut"
    more = [scales] * (setting.scales != (1.0,))
    more += [f"test-time augmentation {setting.tta}"] * (setting.tta != "none")
    more += [f"{setting.models} models merged"] * (setting.models > 1)
    source = f" ({setting.tiles_from})" if setting.tiles_from else ""
    return "; ".join([cut + source, *more])


class _Clutter:
    """What is predicted on the pixels of a class that the row leaves unlabelled."""

    def __init__(self, full: Dataset, classes: int) -> None:
        self.labels = {scene.name: scene for scene in full.scenes}
        self.full, self.index = full, full.legend.names.index("clutter")
        self.predicted = np.zeros(classes, np.int64)

    @classmethod
    def of(cls, data: Data, dataset: Dataset, seed: int) -> _Clutter | None:
        """For data that leaves clutter unlabelled; None for other data."""
        if data.dataset_options.get("clutter") is not False:
            return None
        options = {**data.dataset_options, "clutter": True}
        # The same files once more, read with clutter as a class.
        full = open_recipe_data(data.model_copy(update={"dataset_options": options}), seed)
        return cls(full, len(dataset.legend))

    def count(self, scene: LabelledScene, indices: np.ndarray) -> None:
        """Add one scene's predictions (H, W) on clutter."""
        truth = self.labels[scene.name].labels.read(scene.scene.grid.window)
        # 256 bins: 255 is where there are no data, and is cut off below.
        found = np.bincount(indices[truth == self.index], minlength=256)
        self.predicted += found[: len(self.predicted)]

    def close(self) -> None:
        self.full.close()


def counting_clutter(counts: Confusion, predicted: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores where pixels of clutter are wrong, whatever is predicted on them: `predicted` (K,) adds to
    the false positives and to the pixels of the overall accuracy. Means are over the K classes, as in the
    authors' script.
    """
    size = len(names) + 1
    table = np.zeros((size, size), np.int64)
    table[:-1, :-1], table[-1, :-1] = counts.counts, predicted
    found = summary(Confusion(table, np.append(counts.unpredicted, 0)), [*names, "clutter"])
    classes = found["classes"][:-1]
    means = {}
    for metric in PER_CLASS:
        # A class that neither occurs nor is predicted has no score, and none of 0.
        values = [one[metric] for one in classes if one[metric] is not None]
        means[f"mean_{metric}"] = sum(values) / len(values) if values else None
    return {**found, **means, "classes": classes}
