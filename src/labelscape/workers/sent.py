"""What is sent to workers: paths and names, never pixels or weights, which every worker reads for itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint, StoredAs, load
from labelscape.errors import BadInput, BadOption
from labelscape.scenes.files import Source, source_paths, source_text


def files_of(models: Sequence[Checkpoint]) -> tuple[StoredAs, ...]:
    """The files of checkpoints. Raises BadOption for one that was made or changed in memory."""
    if any(one.stored is None for one in models):
        raise BadOption("Workers read a checkpoint from its file; save it (`labelscape.save`) and pass that.")
    return tuple(replace(one.stored, path=for_workers(one.stored.path)) for one in models)


@lru_cache(maxsize=1)
def loaded(models: tuple[StoredAs, ...]) -> list[Checkpoint]:
    """The checkpoints of a job, read once in the life of a worker. Raises BadFile, and BadInput where a file
    has changed since the job began.
    """
    found = [load(model.path) for model in models]
    for wanted, one in zip(models, found):
        if one.stored != wanted:
            raise BadInput(f"{wanted.path} was changed while the job ran.")
    return found


def for_workers(source: Source | None) -> Any:
    """A path, or paths, as they hold in the working folder of another process. Raises BadOption for what is
    in memory.
    """
    paths = source_paths(source)
    if paths is None:
        raise BadOption(f"{source_text(source)} cannot be sent to workers; save it, and pass its path.")
    if isinstance(paths, tuple):
        return tuple(map(for_workers, paths))
    # Of a file that holds several scenes or layers, what comes after its name is kept.
    for mark in ("", "#", "|layername="):
        path, _, rest = paths.partition(mark) if mark else (paths, "", "")
        if Path(path).exists():
            return os.path.abspath(path) + mark + rest
    # Addresses, and what GDAL makes of file names, are left as they are.
    return paths
