"""What a comparison of a scene with a model's training scenes finds, and what it means for the map."""

from __future__ import annotations

from dataclasses import asdict, dataclass

REFUSED, AFTER, NOTE = "REFUSED", "FITS AFTER", "FITS"
LEVELS = (NOTE, AFTER, REFUSED)


@dataclass(frozen=True)
class Difference:
    """One way in which a scene differs from the training scenes.

    kind   "band count", "band names", "band order", "swapped bands", "type", "factor", "offset", "values",
           "border", "holes", "beyond", "pixel size", "crs", "units" or "small"
    level  what it means for the map: "REFUSED", "FITS AFTER" (mapping adjusts it by itself), "FITS" (a note)
    cause  what was found, what was expected, what to do
    """

    kind: str
    level: str
    cause: str

    def __repr__(self) -> str:
        return f"<Difference {self.level}, {self.kind}: {self.cause}>"

    def to_dict(self) -> dict:
        return asdict(self)


def verdict(findings: tuple[Difference, ...]) -> str:
    """The most severe level of all findings; "FITS" for none."""
    return max((f.level for f in findings), key=LEVELS.index, default=NOTE)
