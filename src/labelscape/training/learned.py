"""Was a model trained on the labels that it is scored on? Its score is too good there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput, LabelscapeError
from labelscape.legend import IGNORE
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe import stored_data
from labelscape.training.recipe_data import Data


def learned(name: str, models: Iterable[Checkpoint], dataset: Dataset, part: str | None) -> list[str]:
    """A warning where models, called `name`, were trained on labelled pixels of `part`."""
    # Keys of a dict: in order, and once where the seeds of one model have the same.
    notes: dict[str, None] = {}
    for one in models:
        if not one.recipe.get("data"):
            continue
        try:
            share = trained_share(one, dataset, part)
        except LabelscapeError as problem:
            said = f"{name} was trained on the same files, and its split cannot be read: {problem}"
            notes[said] = None
            continue
        if share:
            notes[
                f"{name} was trained on {100 * share:.0f} % of the labelled pixels that it is scored on: its "
                "score is too good there. Use labels that no model has seen"
            ] = None
    return list(notes)


def trained_share(checkpoint: Checkpoint, dataset: Dataset, part: str | None) -> float:
    """Share of the labelled pixels of `part` that are training labels of the checkpoint, 0 to 1. Raises
    LabelscapeError where its data cannot be read again.
    """
    data = stored_data(checkpoint)
    scored = dataset.scenes if part is None else dataset.part(part)
    # Most models share no file with what they are scored on: nothing is opened then.
    if not any(_is_among(file, data) for scene in scored for file in scene.scene.files):
        return 0.0
    labelled = seen = 0
    # With its own seed and classes: others would hold out other blocks.
    with open_recipe_data(data, checkpoint.recipe.get("seed", 0), checkpoint.legend) as own:
        trained = {_files(scene.scene.files): scene for scene in own.part("train")}
        # Nor are labels read where all scenes are held out, as in published data sets.
        if not any(_files(scene.scene.files) in trained for scene in scored):
            return 0.0
        for scene in scored:
            mine = trained.get(_files(scene.scene.files))
            if mine is not None and not mine.scene.grid.matches(scene.scene.grid):
                raise BadInput(f"{scene.name} was resampled to another pixel size")
            for window in scene.scene.grid.window.blocks(2048):
                known = scene.read_labels(window, part) != IGNORE
                labelled += int(known.sum())
                if mine is not None and known.any():
                    seen += int((known & (mine.read_labels(window, "train") != IGNORE)).sum())
    return seen / labelled if labelled else 0.0


def _files(paths: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(path).absolute() for path in paths)


def _is_among(file: str, data: Data) -> bool:
    """Whether a file is, or lies in, one of the scenes of training."""
    given = [path for image in data.images for path in ([image] if isinstance(image, str) else image)]
    return any(Path(file).absolute().is_relative_to(Path(path).absolute()) for path in given)
