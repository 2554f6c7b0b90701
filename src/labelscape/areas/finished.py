"""What earlier runs over many class maps have finished, kept in the folder of their results: a second start
makes only what is missing, or was made of another raster or by other settings.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelscape.scenes.stamps import Watched


class Finished:
    """Lines of JSON, one for each finished file: appended as it is finished, so that a run that is killed
    leaves what it did. A damaged last line, and a folder that cannot be written to, are no errors here.
    """

    def __init__(self, folder: Path, verb: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / f".{verb}.jsonl"
        # As JSON gives them back, so that they compare equal.
        self.settings = json.loads(json.dumps(settings, default=str))
        self._lines: dict[str, dict] = {}
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    found = json.loads(line)
                    # Both are asked for later.
                    if {"pixels", "summary"} <= found["facts"].keys():
                        self._lines[found["out"]] = found

    def facts(self, raster: str, out: str) -> Mapping[str, Any] | None:
        """What was kept of a file, if it and its raster are unchanged since."""
        found = self._lines.get(Path(out).name)
        if found is None:
            return None
        line = self._line(raster, out)
        # A raster on a server has no stamps, so that nothing tells whether it has changed.
        return found["facts"] if line["raster"] and line == {k: found.get(k) for k in line} else None

    def add(self, raster: str, out: str, facts: Mapping[str, Any]) -> None:
        line = {**self._line(raster, out), "facts": dict(facts)}
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            # A line that a killed run left unfinished must not swallow this one.
            file.write(f"\n{json.dumps(line)}\n")

    def _line(self, raster: str, out: str) -> dict[str, Any]:
        return {
            "out": Path(out).name,
            "settings": self.settings,
            "raster": Watched.of([raster]).named(),
            "files": Watched.of([out]).named(),
        }
