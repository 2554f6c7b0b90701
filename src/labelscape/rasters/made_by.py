"""What a finished class raster was made of, as the `_run.json` beside it says: its models and its scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import StoredAs, description
from labelscape.errors import LabelscapeError
from labelscape.model_places import local_model


@dataclass(frozen=True)
class MadeBy:
    """models: the description of each checkpoint that is still what it was, by its path; scene: its files."""

    models: Mapping[str, Mapping[str, Any]]
    scene: tuple[str, ...] = ()


def made_by(raster: str | Path) -> MadeBy:
    """What made a class raster. Of models that are gone, or were trained anew since, nothing is said: what is
    told of their training is a help, not a condition. No model for a raster of other software.
    """
    models: dict[str, Mapping[str, Any]] = {}
    scene: tuple[str, ...] = ()
    for run in sorted(Path(raster).absolute().parent.glob("*_run.json")):
        try:
            facts = json.loads(run.read_text(encoding="utf-8"))
            if Path(raster).name not in facts["files"].values():
                continue
            given = [(one["path"], one["sha256"]) for one in facts["models"] if one["path"]]
            shown = facts.get("scene") or ()
            scene = (shown,) if isinstance(shown, str) else tuple(map(str, shown))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a damaged run file
        for path, digest in given:
            try:
                # Trained again in the same place: its recipe is not that of the map.
                if not digest or StoredAs.now(local_model(path)).sha256 == digest:
                    models[str(path)] = description(path)
            except (LabelscapeError, OSError, TypeError):
                continue
    return MadeBy(models, scene)
