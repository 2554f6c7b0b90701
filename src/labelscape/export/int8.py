"""The scores of a network in 8-bit integers beside full precision, which decide whether it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.contract.matching import bands_to_read
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.errors import BadInput, LabelscapeError, first_line
from labelscape.evaluation import measure
from labelscape.evaluation.confusion import Confusion, count
from labelscape.evaluation.metrics import mean_iou, overall_accuracy
from labelscape.export import onnx_file
from labelscape.export.images import as_read, images_of
from labelscape.export.quantised import quantised
from labelscape.exported import ExportedNetwork, Facts, check_lines
from labelscape.exported_formats import session
from labelscape.legend import IGNORE
from labelscape.scoring.precision import LEAST_EQUAL
from labelscape.scoring.proof import Shape, proof_images
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import plan_for
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.evaluate import present, training_data

MOST_LOST = 0.01
"""How far the mean IoU may fall (ours): a map users would call worse."""
TILES = 64
"""Tiles of the training part by which ranges are calibrated, at most (ours)."""


@dataclass(frozen=True)
class Check:
    """Integers beside full precision, both run by onnxruntime.

    images   what was compared: "test" or "val", held-out blocks of training; "drawn", images drawn from the
             statistics of the training data, which could not be opened
    pixels   compared
    equal    share of them with the same class
    float32, int8  scores (mean_iou, overall_accuracy) on the held-out labels; empty for drawn images
    why_drawn      why the training data could not be opened
    """

    images: str
    pixels: int
    equal: float
    float32: Mapping[str, float]
    int8: Mapping[str, float]
    why_drawn: str = ""

    @property
    def lost(self) -> float:
        """Mean IoU in full precision minus that in integers."""
        return self.float32["mean_iou"] - self.int8["mean_iou"]

    @property
    def failure(self) -> str:
        """Why the integers are not good enough, as a sentence without its end; empty where they are."""
        if self.float32:
            # NaN, where no class has a score, is no proof either.
            return "" if self.lost <= MOST_LOST else f"mean IoU falls by {100 * self.lost:.2f} points"
        return "" if self.equal >= LEAST_EQUAL else f"only {100 * self.equal:.2f} % of classes stay the same"

    def describe(self) -> dict[str, Any]:
        """As JSON values, for the file's metadata."""
        found = {"images": self.images, "pixels": self.pixels, "equal": self.equal}
        return {**found, "float32": dict(self.float32), "int8": dict(self.int8)}

    def lines(self) -> list[str]:
        """For people."""
        return check_lines(self.describe(), self.why_drawn)


@contextmanager
def calibration_data(checkpoint: Checkpoint) -> Iterator[tuple[Dataset | None, str]]:
    """The data that a checkpoint was trained on, split as in training; None, and why, where they cannot be
    opened or nothing was held out.
    """
    with ExitStack() as held:
        try:
            data = present(training_data(checkpoint))
            seed = checkpoint.recipe.get("seed", 0)
            dataset = held.enter_context(open_recipe_data(data, seed, checkpoint.legend))
            why = "" if scored_part(dataset) else "its training held nothing out"
        except LabelscapeError as error:
            dataset, why = None, first_line(error).rstrip(".")
        yield (None if why else dataset), why


def as_exported(checkpoint: Checkpoint, model: bytes, facts: Facts) -> Checkpoint:
    """What `load` makes of an exported file, without the file."""
    network = ExportedNetwork(facts, hashlib.sha256(model).hexdigest(), model)
    # The graph's probabilities are calibrated already.
    return replace(
        checkpoint, weights={}, temperature=1.0, whole=None, mate=None, familiarity=None, exported=network
    )


def training_tiles(checkpoint: Checkpoint, dataset: Dataset) -> Iterator[np.ndarray]:
    """Up to TILES images (1, B, H, W) float32, normalised, of tiles with training labels, as a map with the
    exported `checkpoint` cuts and pads them. Held-out pixels would make their own score look better.
    """
    scorer = Scorer.of([checkpoint], device="cpu")
    held = [(one, tile) for one in _spread(dataset) for tile in plan_for(scorer, one.scene)]
    size, stride = checkpoint.exported.facts.size, checkpoint.exported.facts.stride
    found = 0
    for place in np.random.default_rng(0).permutation(len(held)):
        one, tile = held[place]
        if not (one.read_labels(tile.core, "train") != IGNORE).any():
            continue
        patch = one.scene.read(tile.seen, bands_to_read(checkpoint.bands, one.scene))
        image = np.asarray(scorer.prepare(patch.pixels, patch.valid)[0])
        down, right = (size - n if size else -n % stride for n in image.shape[-2:])
        yield np.pad(image, ((0, 0), (0, 0), (0, down), (0, right)), "edge")
        found += 1
        if found == TILES:
            return


def _spread(dataset: Dataset) -> list[LabelledScene]:
    """Training scenes, of many a few."""
    scenes = dataset.part("train")
    places = np.unique(np.linspace(0, len(scenes) - 1, min(TILES, len(scenes))).round().astype(int))
    return [scenes[place] for place in places]


def scores_beside(full: Checkpoint, small: Checkpoint, dataset: Dataset) -> Check:
    """Both exported networks on the held-out labels, scored as `evaluate` scores them: tile by tile side by
    side, since both cut a scene alike, so that memory does not grow with the scenes. Raises BadInput where
    no label lies on valid pixels.
    """
    measure.check_classes(full, dataset)
    part = scored_part(dataset)
    scorers = [Scorer.of([one], device="cpu") for one in (full, small)]
    counts, same = [Confusion.empty(len(full.legend))] * 2, 0
    for one in dataset.part(part):
        plan = plan_for(scorers[0], one.scene)
        beside = (measure.tiles_with_truth(scorer, one, plan, part) for scorer in scorers)
        for (wanted, truth), (found, _) in zip(*beside, strict=True):
            first, second = wanted.classes(), found.classes()
            more = (count(truth, predicted, len(full.legend)) for predicted in (first, second))
            counts = [so_far + new for so_far, new in zip(counts, more)]
            same += int((first == second)[truth != IGNORE].sum())
    labelled = counts[0].labelled
    if not labelled:
        raise BadInput(f"No labelled pixel to score on in the {part} part.")
    return Check(part, labelled, same / labelled, *map(_scores, counts))


def _scores(counts: Confusion) -> dict[str, float]:
    return {"mean_iou": float(mean_iou(counts)), "overall_accuracy": float(overall_accuracy(counts))}


def classes_beside(
    full: Callable[[Tensor], Tensor], small: Callable[[Tensor], Tensor], images: Iterable[Tensor], why: str
) -> Check:
    """Both on images drawn from the statistics of the training data."""
    same = pixels = 0
    for image in images:
        equal = full(image).argmax(1) == small(image).argmax(1)
        same, pixels = same + int(equal.sum()), pixels + equal.numel()
    return Check("drawn", pixels, same / pixels, {}, {}, why)


def in_int8(
    model: bytes,
    facts: Facts,
    one: Checkpoint,
    describe: Callable[[Facts], Mapping[str, str]],
    shapes: Sequence[Shape],
    *,
    force: bool,
) -> tuple[bytes, Facts, Check]:
    """The file in int8 of the file in float32, its facts and its check; `describe` gives a file's metadata.
    Raises BadInput where the check fails and `force` is not given.
    """
    import onnx

    with calibration_data(one) as (dataset, why):
        full = as_exported(one, model, facts)
        images = _drawn(one, shapes[0]) if dataset is None else training_tiles(full, dataset)
        read = (as_read(one, torch.from_numpy(image), facts.normalise).numpy() for image in images)
        made = quantised(model, read, onnx_file.IMAGE)
        facts = replace(facts, dtype="int8")
        small = as_exported(one, made, facts)
        if dataset is not None:
            check = scores_beside(full, small, dataset)
        else:
            runs = [
                partial(onnx_file.run_session, session(m, torch.get_num_threads())) for m in (model, made)
            ]
            check = classes_beside(*runs, [images_of(one, shape, facts.normalise) for shape in shapes], why)
    if check.failure and not force:
        measured = "; ".join(check.lines())
        raise BadInput(
            f"In int8 {check.failure} ({measured}). Nothing was written. Use `dtype='float16'`, or keep it "
            "all the same with `force`."
        )
    facts = replace(facts, check=check.describe())
    return onnx_file.described(onnx.load_from_string(made), describe(facts)), facts, check


def _drawn(checkpoint: Checkpoint, shape: Shape) -> Iterator[np.ndarray]:
    """Normalised images for calibration where no real ones are at hand; others than those compared."""
    images = proof_images(checkpoint, (8, *shape[1:])).contiguous()
    return (image[None].numpy() for image in images[2:])
