"""Run `labelscape map` in a process of its own: progress is read from its messages, and cancelling ends it.
No QGIS here, so that it is tested without.
"""

from __future__ import annotations

import glob
import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import IO

PROGRAM = "program.json"
"""Beside this file: the command of the installation that copied the plug-in, as a list of words."""
PATIENCE = 30
"""Seconds that a cancelled map has to keep its finished tiles."""


class Failed(Exception):
    """The command failed; the text is what it said."""


class Cancelled(Exception):
    """The user cancelled."""


def program(given: str = "") -> list[str]:
    """The command as a list of words: the one given, that of the installation, or the one on the path."""
    if given:
        return [given]
    beside = os.path.join(os.path.dirname(__file__), PROGRAM)
    if os.path.exists(beside):
        with open(beside, encoding="utf-8") as file:
            return list(json.load(file))
    found = shutil.which("labelscape")
    if found is None:
        raise Failed(
            "The program labelscape was not found: install it (pip install labelscape), run `labelscape "
            "qgis` once, or name it in the advanced parameter Program."
        )
    return [found]


def environment() -> dict[str, str]:
    """Of the process: without QGIS's own Python, GDAL and PROJ, which are not those of Labelscape."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GDAL_", "PROJ_"))}
    # Messages are parsed, and shown as they come.
    return {**ours, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def arguments(model: str, raster: str, out: str, tta: str = "none", force: bool = False) -> list[str]:
    """The words behind the program; of the map the class raster alone is kept."""
    words = ["map", model, raster, "--out", out, "--no-polygons", "--no-report"]
    words += ["--tta", tta] if tta != "none" else []
    return [*words, "--force"] if force else words


def run(
    words: list[str],
    *,
    progress: Callable[[float], object],
    say: Callable[[str], object],
    cancelled: Callable[[], bool],
) -> None:
    """Run a command to its end. `progress` gets per cent, `say` each line of its messages; `cancelled` is
    asked a few times a second. Raises Failed with its last message, Cancelled.
    """
    process = subprocess.Popen(
        words,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    last: list[str] = []
    try:
        while True:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line.strip():
                last = [*last[-20:], line.rstrip()]
                say(line.rstrip())
                share = share_of(line)
                if share is not None:
                    progress(share)
            if cancelled():
                raise Cancelled
        code = process.wait()
    finally:
        _ended(process)
        process.stdout.close()
    if code:
        # Its own sentence, which says what to do, is the last line.
        raise Failed("\n".join(last[-3:]) or f"labelscape ended with the code {code}.")


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed while it was read, since the user cancelled
        pass
    lines.put(None)


def _ended(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def share_of(line: str) -> float | None:
    """Per cent of a message such as `map scene: 3 of 1,200 tiles`; None for others."""
    found = re.search(r": ([\d,]+) of ([\d,]+) ", line + " ")
    if found is None:
        return None
    done, total = (int(number.replace(",", "") or 0) for number in found.groups())
    return 100 * done / total if total else None


def check_target(target: str) -> None:
    """Raises Failed for a file that programs would take for another format by its name."""
    if not target.lower().endswith((".tif", ".tiff")):
        raise Failed(f"{target} is no name for a class map, which is a GeoTIFF: end it with .tif.")


def class_map(folder: str) -> str:
    """The class map of a folder that `labelscape map` wrote, of its own classes where there are two tasks."""
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "*_class.tif")), key=len)
    if not found:
        raise Failed(f"labelscape wrote no class map into {folder}.")
    return found[0]


def moved(found: str, target: str) -> None:
    """Move a class map, with the attribute table beside it that holds the names."""
    shutil.move(found, target)
    if os.path.exists(found + ".aux.xml"):
        shutil.move(found + ".aux.xml", target + ".aux.xml")
