"""Before the first step: the network with its first weights, and the tasks that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput, BadOption
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import create_model, options_of, with_tag
from labelscape.training.crops import Drawing, index_crops
from labelscape.training.data import of_second_task
from labelscape.training.foreign import Start
from labelscape.training.freeze import freeze_encoder
from labelscape.training.losses import auto_weights
from labelscape.training.recipe import Recipe
from labelscape.training.start import take_over


@dataclass(frozen=True)
class Task:
    """What one head learns: how its crops are drawn, and the class weights (K,) of its loss."""

    drawing: Drawing
    weights: Tensor | None


def make_tasks(recipe: Recipe, dataset: Dataset, blank: Checkpoint, mate: Dataset | None) -> list[Task]:
    """The recipe's task and that of its second data set, scaled as `blank` says. Raises BadInput where the
    two have different numbers of bands.
    """
    # All labels are read once, in blocks; afterwards a crop reads no more than its own window.
    index = index_crops(dataset)
    automatic = recipe.class_weights == "auto"
    tasks = [
        Task(
            Drawing.of(recipe, index, blank.contract.normalisation),
            auto_weights(torch.from_numpy(index.class_counts)) if automatic else None,
        )
    ]
    if mate is not None:
        if len(mate.bands) != len(dataset.bands):
            raise BadInput(
                f"The scenes of the second task have the bands {' '.join(mate.bands)}, the others "
                f"{' '.join(dataset.bands)}; one trunk reads both. "
                "Choose as many with `mate.data.bands`."
            )
        with of_second_task():
            index = index_crops(mate)
        tasks.append(
            Task(
                Drawing.of_mate(recipe, index, blank.mate.contract.normalisation),
                auto_weights(torch.from_numpy(index.class_counts)) if automatic else None,
            )
        )
    return tasks


def seen_data(tasks: list[Task], corrections: Sequence[dict] = ()) -> dict[str, list]:
    """A fingerprint of the training data: labelled pixels per class, mean and deviation per band, and what
    corrections did. A resumed run compares it, because files may have changed under the same names.
    """
    found = {}
    for task, name in zip(tasks, ("data", "mate.data")):
        found[f"{name}: labelled pixels per class"] = task.drawing.index.class_counts.tolist()
        found[f"{name}: mean and deviation per band"] = [list(pair) for pair in task.drawing.normalisation]
    if corrections:
        found["data: corrections"] = [one["sha256"] for one in corrections]
    return found


def without_pixels(dataset: Dataset, task: Task) -> tuple[str, ...]:
    """A message that names the classes without a training pixel; empty where there are none. Raises BadInput
    where a single class has any: the loss would be 0 at once, with nothing learned.
    """
    counts = dict(zip(dataset.legend.names, task.drawing.index.class_counts))
    empty = [name for name, pixels in counts.items() if not pixels]
    if len(counts) - len(empty) == 1:
        (only,) = counts.keys() - set(empty)
        raise BadInput(
            f"All training pixels are {only}; none is {' or '.join(empty)}. Check the order of the polygons "
            "(the later one in a file wins), the values that mean 'not labelled', the area and the split."
        )
    # Said and not refused: a small area often lacks a class that its legend has.
    if not empty:
        return ()
    return (f"no training pixel of {', '.join(empty)}: cannot be learned, excluded from mean scores",)


def build_network(recipe: Recipe, dataset: Dataset, start: Start | None, mate: Dataset | None) -> Network:
    """The recipe's network with its first weights, the same for every process. Raises BadInput where what is
    to be frozen would be random.
    """
    # Before any layer is built, so that all processes draw the same first weights.
    torch.manual_seed(recipe.seed)
    net = create_model(
        recipe.network,
        in_channels=len(dataset.bands),
        # By the legend, not by the labels that are there: a class without a pixel keeps its place.
        classes=len(dataset.legend),
        **net_options(recipe, mate),
    )
    taken = None
    if start is not None:
        taken = take_over(net, recipe.network, net_options(recipe, mate), dataset, start, mate)
    if recipe.freeze == "encoder":
        freeze_encoder(net, taken)
    return net


def net_options(recipe: Recipe, mate: Dataset | None) -> dict:
    """The network's options, with the tag of the weights it starts from; a second head has as many classes as
    the second data set, and without one there is no second head. Raises BadOption where the options say
    another number.
    """
    # With the tag stored: timm may give the bare name other weights tomorrow.
    options = with_tag(recipe.network, recipe.options)
    if "mate_classes" not in options_of(recipe.network):
        return options
    classes = 0 if mate is None else len(mate.legend)
    if options.get("mate_classes", classes) != classes:
        raise BadOption(
            f"`options.mate_classes={options['mate_classes']}`, but the second task's labels have {classes} "
            f"classes ({', '.join(mate.legend.names) if mate else 'there is none'}); leave the option out."
        )
    return {**options, "mate_classes": classes}
