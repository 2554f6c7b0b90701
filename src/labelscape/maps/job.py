"""Map many scenes with one model: what became of each scene is a `SceneRecord`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["done", "skipped", "refused", "failed"]
"""What became of a scene of a job: mapped in this run; mapped by an earlier run with the same settings;
refused by the check; or its map failed.
"""


@dataclass(frozen=True)
class SceneRecord:
    """What became of one scene of a job, of which no pixel is held.

    scene    as it was given: a path or address; several files of one scene are joined by commas
    seconds  from opening it to the last of its files; 0 where it was skipped
    pixels   with a class in the finished map; 0 where there is none
    seam     seam score of its map; NaN for a single tile, and where there is no map
    cause    why it was refused or failed, as a sentence; "" otherwise
    files    of its finished map: kind (as in `MapResult.paths`) -> path
    """

    scene: str
    state: State
    seconds: float = 0.0
    pixels: int = 0
    seam: float = math.nan
    cause: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_mapped(self) -> bool:
        """Is there a finished map, of this run or an earlier one?"""
        return self.state in ("done", "skipped")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the seam score is None where there is none."""
        return {**asdict(self), "seam": None if math.isnan(self.seam) else self.seam}
