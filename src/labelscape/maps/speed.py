"""How fast a map was made, in the units that papers print: seconds for a hectare, megapixels a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INCLUDES = "loading the model, checking and reading the scene, prediction, rasters with overviews, polygons"
"""What the seconds of a map hold; its report and metadata are written after them."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a map of so many pixels with data, and hectares (None without coordinates)."""

    seconds: float
    pixels: int
    hectares: float | None
    device: str
    precision: str

    @property
    def megapixels_per_second(self) -> float:
        return self.pixels / 1e6 / self.seconds

    @property
    def seconds_per_hectare(self) -> float | None:
        return self.seconds / self.hectares if self.hectares else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with what the time holds."""
        area = self.seconds_per_hectare
        return {
            "seconds_per_hectare": None if area is None else float(f"{area:.4g}"),
            "megapixels_per_second": float(f"{self.megapixels_per_second:.4g}"),
            "device": self.device,
            "precision": self.precision,
            "includes": INCLUDES,
        }

    def __str__(self) -> str:
        return in_words({**self.to_dict(), "seconds": self.seconds})


def in_words(facts: Mapping[str, Any]) -> str:
    """A sentence on `Speed.to_dict` with "seconds", also of older files that lack some of it."""
    area = facts.get("seconds_per_hectare")
    rates = [f"{area:.3g} s a hectare"] if area else []
    if facts.get("megapixels_per_second"):
        rates.append(f"{facts['megapixels_per_second']:.3g} megapixels a second")
    spent = f"{facts['seconds']:.1f} s" if facts.get("seconds") is not None else ""
    said, device = ", ".join([*filter(None, [spent]), *rates]), facts.get("device") or ""
    return f"{said} on {device} (includes {facts.get('includes')})"
