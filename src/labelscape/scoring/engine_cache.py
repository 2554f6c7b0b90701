"""Converted networks and what their comparison with torch found, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from labelscape.checkpoint import Checkpoint, fingerprint
from labelscape.errors import BadFile
from labelscape.files import cache_folder, written_whole
from labelscape.scoring.openvino_engine import Converted, Proof, Shape, core, openvino_version
from labelscape.version import __version__

MOST_BYTES = 4 * 2**30
"""Of all converted networks; the oldest go first (ours)."""


def key_of(checkpoint: Checkpoint, head: str, shape: Shape, *, half: bool = False) -> str:
    """A name for a network converted for a shape: of all that its values and its speed depend on."""
    parts = {
        "model": fingerprint(checkpoint),
        "head": head,
        "shape": shape,
        "versions": [__version__, torch.__version__, openvino_version()],
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        # The network is the same, its speed is not.
        **({"half": True} if half else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read(key: str, *, half: bool = False) -> tuple[Proof, Converted | None] | None:
    """What is stored: the comparison, and the network unless that failed. None where nothing is, or where it
    is damaged.
    """
    folder = cache_folder() / "openvino"
    try:
        found = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        first, second = found["seconds"]
        proof = Proof(str(found["failure"]), float(found["difference"]), (float(first), float(second)))
        if proof.failure:
            return proof, None
        # Read once, so that what is checked is what is used.
        parts = [(folder / f"{key}{end}").read_bytes() for end in (".xml", ".bin")]
        if [hashlib.sha256(part).hexdigest() for part in parts] != found["sha256"]:
            return None
        return proof, Converted(core().read_model(model=parts[0], weights=parts[1]), half=half)
    # A cache is never a reason to stop; what cannot be read is made again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None


def write(key: str, proof: Proof, model: Any | None) -> None:
    """Keep what was found; nothing happens where the folder cannot be written."""
    folder = cache_folder() / "openvino"
    with contextlib.suppress(OSError, BadFile, RuntimeError):
        sums = []
        if model is not None:
            import openvino

            with written_whole(folder / f"{key}.xml", overwrite=True) as part:
                # As it is: weights would become half precision.
                openvino.save_model(model, part, compress_to_fp16=False)
                sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (part, part.with_suffix(".bin"))]
                part.with_suffix(".bin").replace(folder / f"{key}.bin")
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
