"""Repeat a map from its `_run.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from labelscape.errors import BadFile, BadInput
from labelscape.files import check_path
from labelscape.maps.request import MapRequest
from labelscape.maps.result import MapResult
from labelscape.maps.run import map_scene
from labelscape.scoring.machine import as_many_threads
from labelscape.scoring.protocol import Protocol


def rerun(run_json: str | Path, out: str | Path, overwrite: bool = False) -> MapResult:
    """Repeat the map of `run_json` (a map's `_run.json`) in the folder `out`, with the same models, scene and
    settings.

    The same software on the same kind of machine gives the same bytes. Relative paths are resolved from the
    current folder. Raises BadFile where the file is not a run file or something it names is missing, BadInput
    where a checkpoint has changed, or model or scene were in memory.
    """
    check_path(run_json, "A run file")
    try:
        run = json.loads(Path(run_json).read_text(encoding="utf-8"))
        # Every version wrote these two. MapRequest refuses settings it does not know: none is silently left
        # out.
        models, name = run["models"], run["name"]
        request = MapRequest(**run["request"]) if "request" in run else _before_requests(run)
    except OSError as error:
        raise BadFile(f"{run_json} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{run_json} is not the _run.json of a map.") from error
    # Before anything is opened: a changed checkpoint makes another map under the old one's settings.
    for model in models:
        _check(model, run_json)
    # A scene in memory left no path; its pixels are not in the file.
    if request.scene is None:
        raise BadInput(f"{run_json} was made from a scene in memory; save it and map the file instead.")
    # The one that was chosen: `auto` may choose another one on another day. Earlier versions had torch alone.
    request = request.replace(engine=str(run.get("engine", "torch")).partition(" ")[0])
    with as_many_threads(run.get("machine") or {}):
        return map_scene(out=out, request=request.replace(name=name), overwrite=overwrite)


def _before_requests(run: dict[str, Any]) -> MapRequest:
    """The request of a run file of versions before `MapRequest`. Raises KeyError or TypeError where it is not
    one.
    """
    options = dict(run["options"])
    protocol = Protocol.from_dict(options.pop("protocol"))
    scene, models = run["scene"], run["models"]
    return MapRequest(
        checkpoint=tuple(m["path"] for m in models if m["path"] is not None),
        scene=scene if isinstance(scene, str) else tuple(scene),
        # `protocol` was a value of its own; its three settings are now settings of the request like any
        # other.
        tta=protocol.tta,
        scales=protocol.scales,
        average=protocol.average,
        **options,
    )


def _check(model: dict[str, str | None], run_json: str | Path) -> None:
    """Raises BadFile or BadInput where a checkpoint is missing or has changed."""
    if model["path"] is None:
        raise BadInput(f"{run_json} was made with a checkpoint in memory; save it and use the file instead.")
    path = Path(model["path"])
    if not path.is_file():
        raise BadFile(f"{path}, the checkpoint of {run_json}, does not exist (relative to {Path.cwd()}).")
    if hashlib.sha256(path.read_bytes()).hexdigest() != model["sha256"]:
        raise BadInput(
            f"{path} is not the checkpoint that {run_json} was made with: its SHA-256 differs. Restore the "
            "old one, or make a new map."
        )
