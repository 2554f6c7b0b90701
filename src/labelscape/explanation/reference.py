"""The labels that windows are compared with, where a user gives any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import label_table
from labelscape.errors import check_names
from labelscape.labels.base import Labels
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import SETTINGS, ClassTable, LabelRules
from labelscape.scenes.files import Source
from labelscape.scenes.scene import Scene
from labelscape.training.evaluate import rules_of_training


@dataclass(frozen=True)
class Reference:
    """Label files, one of each scene, and how they are read; `notes` are what to warn of."""

    files: tuple[str | Path, ...]
    rules: LabelRules
    table: ClassTable | None
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        sources: Sequence[Source],
        labels: Sequence[str | Path],
        spec: Mapping[str, Any],
    ) -> Reference:
        """Labels of the checkpoint's classes, read as in its training except for the settings of `spec`.
        Raises UnknownName for another setting, BadInput for another number of labels than of scenes, or masks
        that would be read wrongly.
        """
        check_names("setting of labels", spec, SETTINGS)
        as_trained, notes = rules_of_training(checkpoint, spec)
        as_trained.pop("nodata", None)
        rules = LabelRules(legend=checkpoint.legend, **{**as_trained, **spec})
        files, table = label_table(sources, labels, rules)
        return cls(tuple(files), rules, table, tuple(notes))


@contextmanager
def labels_of(reference: Reference | None, number: int, scene: Scene) -> Iterator[Labels | None]:
    """The labels on the grid of scene `number`, None without a reference. Raises BadFile, BadInput as
    `open_labels`.
    """
    if reference is None:
        yield None
        return
    # Opened with each scene, not kept: a data set may have a thousand files.
    labels = open_labels(
        reference.files[number], scene.grid, reference.rules, table=reference.table, scene_name=scene.name
    )
    try:
        yield labels
    finally:
        labels.close()
