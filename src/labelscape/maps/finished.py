"""Is a scene's map in a folder already, whole and made with these settings? A job that is started again then
skips it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelscape.checkpoint import Checkpoint
from labelscape.maps.journal import files_of_map
from labelscape.maps.outputs import map_stem
from labelscape.maps.request import Affects, MapRequest
from labelscape.maps.work import as_stored
from labelscape.scenes.files import Source, source_paths
from labelscape.scenes.stamps import Watched
from labelscape.version import build

BY_CONTENT = {"checkpoint", "scene", "name"}
"""Settings that are compared by what they name: files may be called by another path."""


class Finished(NamedTuple):
    """A finished map: pixels with a class, seam score (NaN for a single tile), files by kind."""

    pixels: int
    seam: float
    files: dict[str, str]


def finished_map(
    request: MapRequest, models: Sequence[Checkpoint], source: Source, out: Path
) -> Finished | None:
    """The map that an earlier run finished of the same scene, models and settings; None where there is none,
    or one of its files is missing. Raises as `open_scene` does.
    """
    if not out.is_dir():
        return None
    # Named scenes are opened only where there may be a map: the map opens them anyway.
    if request.name is not None and _run_of(out, map_stem(request, request.name)) is None:
        return None
    with as_stored(models[0].task(request.task), source, request) as scene:
        run = _run_of(out, map_stem(request, scene.name))
        if run is None:
            return None
        same = _made_with(run, request, models) and _made_of(run, source, files_of_map(request, scene))
    files = {kind: out / name for kind, name in run["files"].items()}
    if not same or not all(path.is_file() for path in files.values()):
        return None
    seam = run.get("seam_score")
    return Finished(
        sum(area["pixels"] for area in run["areas"]),
        math.nan if seam is None else seam,
        {kind: str(path) for kind, path in files.items()},
    )


def _run_of(out: Path, stem: str) -> dict[str, Any] | None:
    """The contents of a map's _run.json of an earlier run; None beside an unfinished map's tiles, where
    there is still something to do.
    """
    if (out / f".{stem}.unfinished").exists():
        return None
    try:
        run = json.loads((out / f"{stem}_run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = {"software", "request", "models", "scene", "scene_files", "files", "areas"}
    return run if isinstance(run, dict) and known <= run.keys() else None


def _made_with(run: dict[str, Any], request: MapRequest, models: Sequence[Checkpoint]) -> bool:
    ours = set(MapRequest.model_fields) - BY_CONTENT - set(request.fields_that(Affects.MACHINE))
    wanted = request.model_dump(mode="json")
    made, sums = [m["sha256"] for m in run["models"]], [one.stored and one.stored.sha256 for one in models]
    return (
        # Code from between two releases may compute other values, as a journal has it.
        run.get("build") == build()
        # A model in memory has no checksum: nobody knows whether it is the same one.
        and made == sums
        and None not in sums
        # `get`: settings that are not stored at their default.
        and all(run["request"].get(name) == wanted.get(name) for name in ours)
    )


def _made_of(run: dict[str, Any], source: Source, files: Sequence[str]) -> bool:
    now = json.loads(json.dumps(Watched.of(files).named()))
    # Where none has a stamp the address has to do.
    return run["scene_files"] == now and (
        bool(now) or run["scene"] == json.loads(json.dumps(source_paths(source)))
    )
