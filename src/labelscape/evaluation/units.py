"""Units for areas of a map: square metres for fine pixels, hectares, square kilometres for large maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AreaUnit:
    """A unit of area: its size in `square_metres`, and the decimals (`digits`) it is printed with."""

    name: str
    square_metres: float
    digits: int

    def of_hectares(self, hectares: float) -> float:
        return hectares * 10_000 / self.square_metres

    def text(self, hectares: float | None, *, sign: bool = False) -> str:
        """The number without the unit, with thousands separators; "-" for None."""
        if hectares is None:
            return "-"
        return f"{self.of_hectares(hectares):{'+' if sign else ''},.{self.digits}f}"


SQUARE_METRES = AreaUnit("m²", 1, 0)
HECTARES = AreaUnit("hectares", 10_000, 2)
SQUARE_KILOMETRES = AreaUnit("km²", 1_000_000, 2)


def area_unit(areas: Iterable[tuple[int, float | None]]) -> AreaUnit:
    """Choose one unit for all areas of a map, given as (pixels, hectares); both together give the pixel size.

    A pixel of less than a square metre vanishes in the second decimal of a hectare; beyond 10,000 km²
    hectares have too many digits to read.
    """
    known = [(pixels, hectares) for pixels, hectares in areas if hectares is not None]
    pixels, hectares = sum(p for p, _ in known), sum(h for _, h in known)
    if not pixels:
        return HECTARES
    metres = hectares * 10_000
    # Up to 100 km²: beyond, square metres have more digits than anyone reads.
    if metres / pixels < 1 and metres < 1e8:
        return SQUARE_METRES
    return SQUARE_KILOMETRES if metres >= 1e10 else HECTARES
