"""A map made again from the `_run.json` that was written beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from labelscape.errors import BadFile, BadInput
from labelscape.maps.run import MapResult, map_scene
from labelscape.scoring.protocol import Protocol


def rerun(run_file: str | Path, out: str | Path, *, overwrite: bool = False) -> MapResult:
    """Make the map that `run_file` (a map's `_run.json`) describes again in the folder `out`, with the same
    models, scene and options.

    The same software on the same kind of machine gives the same bytes. Paths that were relative are looked
    for from the present folder. Raises BadFile where the file is none of ours or something it names is
    missing, BadInput where a checkpoint is another one than it was.
    """
    try:
        run = json.loads(Path(run_file).read_text())
        models, scene, options = run["models"], run["scene"], dict(run["options"])
    except OSError as error:
        raise BadFile(f"{run_file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{run_file} is not the _run.json of a map.") from error
    for model in models:
        _check(model, run_file)
    protocol = options.pop("protocol")
    return map_scene(
        [m["path"] for m in models],
        scene if isinstance(scene, str) else tuple(scene),
        out,
        name=run["name"],
        overwrite=overwrite,
        protocol=Protocol.from_dict(protocol),
        **options,
    )


def _check(model: dict, run_file: str | Path) -> None:
    """Is a checkpoint still there and the same?"""
    if model["path"] is None:
        raise BadInput(f"{run_file} was made from a checkpoint in memory; save it and map with it instead.")
    path = Path(model["path"])
    if not path.is_file():
        raise BadFile(f"{path}, the checkpoint of {run_file}, does not exist (looked for from {Path.cwd()}).")
    if hashlib.sha256(path.read_bytes()).hexdigest() != model["sha256"]:
        raise BadInput(
            f"{path} is not the checkpoint that {run_file} was made with: its SHA-256 differs. Bring the "
            "old one back, or map anew."
        )
