"""Scenes and labels that finished maps are scored on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint
from labelscape.legend import Legend
from labelscape.model_places import is_model
from labelscape.rasters.class_names import legend_of
from labelscape.scenes.files import Source
from labelscape.training.recipe_data import Data, make_data


def is_map(model: object) -> bool:
    """Is this the path of a finished map, or of a folder of them?"""
    # By the suffix: GDAL, which opens everything else, does not know checkpoints.
    is_path = isinstance(model, (str, os.PathLike)) and not isinstance(model, Checkpoint)
    return is_path and not is_model(model)


def data_of_maps(
    paths: Sequence[Path | str],
    scenes: Source | Sequence[Source] | None,
    labels: str | Path | Sequence[str | Path],
    spec: Mapping[str, Any],
) -> tuple[Data, Legend | None]:
    """What finished maps are scored on, by default with the first of them as the scene; and their classes
    where these have names.
    """
    images = [str(paths[0])] if scenes is None else scenes
    images = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    files = [labels] if isinstance(labels, (str, os.PathLike)) else list(labels)
    legend = None
    if not os.path.isdir(paths[0]):
        named, _ = legend_of(paths[0])
        # Names made from values are no names: those of the labels are then taken.
        legend = None if list(named.names) == [f"class {v}" for v in named.values] else named
    # Maps were made elsewhere: no label was held out for them.
    given = {"images": [os.fspath(i) for i in images], "labels": [os.fspath(f) for f in files], "holdout": 0}
    return make_data({**spec, **given}), legend
