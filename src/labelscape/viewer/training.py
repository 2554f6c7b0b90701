"""A training run as it goes on: losses and scores from the headers of its files, sent to the page when they
change. No weights are read, and torch is not needed.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labelscape.errors import LabelscapeError
from labelscape.files import LOCK, OURS
from labelscape.text import printable_name
from labelscape.viewer.layers import stamp_of, version_of

STATE, FINISHED, PICTURE = ".state.safetensors", ".safetensors", ".val.png"
LARGEST_PICTURE = 20_000_000
"""Bytes of a picture of the validation blocks that is sent."""
LARGEST_HEADER = 50_000_000
"""Bytes of a file's header that are read."""
MOST_RUNS = 30
POLLED, BEAT = 1.0, 15.0
"""Seconds between looks at the files, and after which a silent stream says that it is alive (ours)."""
SCORES = {"overall_accuracy": "overall accuracy", "mean_iou": "mean IoU"}
CURVES = ("loss", "loss_first", "loss_mate", "val_miou", "val_miou_mate", "rate")


def is_run(place: str | Path) -> bool:
    """Is this the folder of a training run, finished or not, without a map in it?"""
    path = Path(place)
    if not path.is_dir() or any(path.glob("*_class.tif")):
        return False
    # One that has just begun has the lock of its checkpoint, and nothing else.
    begun = any(path.glob(f"{OURS}*{LOCK}")) and all(one.name.startswith(OURS) for one in path.iterdir())
    return begun or any(path.glob(f"*{FINISHED}"))


def runs_in(folder: Path) -> list[dict[str, Any]]:
    """Every network that is or was trained into a folder: name, steps done of all, rows of its log, scores.

    Files that are damaged or being replaced are left out: the next look finds them.
    """
    files = [one for one in sorted(folder.glob(f"*{FINISHED}")) if not one.is_symlink()]
    running = [one for one in files if one.name.endswith(STATE)]
    found = []
    for file in files[:MOST_RUNS]:
        name = file.name.removesuffix(STATE if file in running else FINISHED)
        # A checkpoint of an earlier run stands beside the state of the one that replaces it.
        if file not in running and file.with_name(name + STATE) in running:
            continue
        try:
            run = _unfinished(file) if file in running else _finished(file)
        except (LabelscapeError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        picture = picture_of(folder, name)
        version = picture and version_of(stamp_of(picture))
        shown = {"picture": version and f"pictures/{quote(name, safe='')}.png?v={version}"}
        found.append({"name": printable_name(name), "changed": file.stat().st_mtime, **run, **shown})
    return found


def picture_of(folder: Path, name: str) -> Path | None:
    """The newest map of a network's validation blocks. Only of the names that are in the folder: one from an
    address cannot lead elsewhere.
    """
    known = {file.name.removesuffix(PICTURE): file for file in folder.glob(f"*{PICTURE}")}
    file = known.get(name)
    good = file is not None and not file.is_symlink() and file.stat().st_size <= LARGEST_PICTURE
    return file if good else None


def _unfinished(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > LARGEST_HEADER:
            raise ValueError("no header")
        facts = json.loads(json.loads(opened.read(size))["__metadata__"]["labelscape-state"])
    progress, recipe = facts["progress"], facts["recipe"]
    done = {"running": True, "step": int(progress["step"]), "steps": int(recipe["steps"])}
    return {**done, "rows": _rows(progress["history"]), "scores": {}}


def _finished(file: Path) -> dict[str, Any]:
    from labelscape.checkpoint import description

    facts = description(file)
    rows = _rows(facts.get("history") or [])
    steps = (facts.get("recipe") or {}).get("steps") or (rows[-1]["step"] if rows else 0)
    scores = (facts.get("scores") or {}).get(facts["network"]) or {}
    numbers = {words: scores[key] for key, words in SCORES.items() if _is_number(scores.get(key))}
    done = rows[-1]["step"] if rows else steps
    return {"running": False, "step": int(done), "steps": int(steps), "rows": rows, "scores": numbers}


def _rows(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The log with the numbers that are drawn."""
    return [
        {key: row[key] for key in ("step", *CURVES) if _is_number(row.get(key))}
        for row in history
        if isinstance(row.get("step"), int)
    ]


def _is_number(value: object) -> bool:
    """NaN, as a loss may be, is no JSON: it is left out."""
    return isinstance(value, (int, float)) and math.isfinite(value)


async def events(folder: Path) -> AsyncIterator[str]:
    """Server-Sent Events: the runs now, and again whenever a file has changed."""
    before, silent = None, 0.0
    while True:
        now = [(file.name, stamp_of(file)) for file in sorted(folder.glob(f"*{FINISHED}"))]
        if now != before:
            before, silent = now, 0.0
            runs = await asyncio.to_thread(runs_in, folder)
            yield f"data: {json.dumps(runs)}\n\n"
        elif silent >= BEAT:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLLED)
        silent += POLLED
