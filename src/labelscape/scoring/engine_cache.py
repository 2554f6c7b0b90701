"""Converted networks and what their comparison with torch found, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint, fingerprint
from labelscape.errors import BadFile, LabelscapeError
from labelscape.files import cache_folder, written_whole
from labelscape.scoring.proof import Proof, Shape
from labelscape.scoring.runtimes import RUNTIMES, Run
from labelscape.version import build

MOST_BYTES = 4 * 2**30
"""Of all networks converted for a runtime; the oldest go first (ours)."""


def key_of(runtime: str, checkpoint: Checkpoint, head: str, *shapes: Shape, half: bool = False) -> str:
    """A name for a network converted for these shapes: of all that its values and its speed depend on."""
    import torch

    parts = {
        "model": fingerprint(checkpoint),
        "head": head,
        "shapes": shapes,
        "versions": [build(), torch.__version__, RUNTIMES[runtime].installed_version()],
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        # The network is the same, its speed is not.
        **({"half": True} if half else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read(runtime: str, key: str, *, half: bool = False) -> tuple[Proof, Run | None] | None:
    """What is stored: the comparison, and the network unless that failed. None where nothing is, or where it
    is damaged.
    """
    folder, one = cache_folder() / runtime, RUNTIMES[runtime]
    try:
        found = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        first, second = found["seconds"]
        proof = Proof(str(found["failure"]), float(found["difference"]), (float(first), float(second)))
        if proof.failure:
            return proof, None
        # Read once, so that what is checked is what is used.
        parts = [(folder / f"{key}{end}").read_bytes() for end in one.ENDS]
        if [hashlib.sha256(part).hexdigest() for part in parts] != found["sha256"]:
            return None
        return proof, one.Converted(one.loaded(parts), half=half)
    # A cache is never a reason to stop; what cannot be read is made again.
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return None
    except (ImportError, LabelscapeError):  # a library that cannot be loaded any more
        return None


def write(runtime: str, key: str, proof: Proof, model: Any | None) -> None:
    """Keep what was found; nothing happens where the folder cannot be written."""
    folder, one = cache_folder() / runtime, RUNTIMES[runtime]
    with contextlib.suppress(OSError, BadFile, RuntimeError):
        sums = []
        if model is not None:
            first, *others = one.ENDS
            with written_whole(folder / f"{key}{first}", overwrite=True) as part:
                one.saved(model, part)
                sums = [hashlib.sha256(part.with_suffix(end).read_bytes()).hexdigest() for end in one.ENDS]
                for end in others:
                    part.with_suffix(end).replace(folder / f"{key}{end}")
        # Last: without it the others count as nothing.
        with written_whole(folder / f"{key}.json", overwrite=True) as part:
            part.write_text(json.dumps({**asdict(proof), "sha256": sums}), encoding="utf-8")
        _shrink(folder, keep=key)


def _shrink(folder: Path, keep: str) -> None:
    """Delete the oldest networks until the others fit; the one just written stays."""
    files = [(path.stat(), path) for path in folder.glob("*.*")]
    total = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda one: one[0].st_mtime):
        if total <= MOST_BYTES:
            return
        if path.stem != keep:
            path.unlink(missing_ok=True)
            total -= stat.st_size
