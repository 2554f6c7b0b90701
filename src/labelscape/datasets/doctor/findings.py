"""What a check of training data found, and what to do about it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing found. `kind` is a short fixed word for scripts; `where` a file, or "all files"; `cure` is
    empty where nothing needs to be done.

    error    training would fail, or its score would be false
    warning  probably not intended
    info     what the files hold
    """

    kind: str
    severity: Severity
    where: str
    text: str
    cure: str = ""

    def __repr__(self) -> str:
        return f"<Finding {self.severity}, {self.kind}: {os.path.basename(self.where)}: {self.text}>"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def share(part: float, whole: float) -> str:
    """`12.3 %`; never 0.0 % for something that exists, nor 100.0 % where something is missing."""
    percent = 100 * part / whole if whole else 0.0
    # Below what one decimal shows.
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"
