"""What a model knows of the imagery it was trained on, as one value that its checkpoint carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labelscape.contract.bands import BandStatistics
from labelscape.contract.colours import Colours


@dataclass(frozen=True)
class Contract:
    """The training imagery, as far as a model depends on it.

    bands             names of the bands that the network reads, in its order
    dtype             numpy name of the scenes' type
    normalisation     (mean, std) per band as used: the network sees (value - mean) / std; (0, 1) feeds raw
                      values
    statistics        per band, in the scenes' own units; () where they are not known
    colours           which values of the bands go together, None where it is not known
    units             per band (scale, offset) that the training scenes declare; () where it is not known
    pixel_size        side of a pixel on the ground in metres, None for pictures without coordinates
    nodata            the rule of the training scenes: the value that means "nothing here", or None
    crs_kind          "projected", "geographic" or "none"
    """

    bands: tuple[str, ...]
    dtype: str
    normalisation: tuple[tuple[float, float], ...]
    statistics: tuple[BandStatistics, ...] = ()
    colours: Colours | None = None
    units: tuple[tuple[float, float], ...] = ()
    pixel_size: float | None = None
    nodata: float | None = None
    crs_kind: str = "none"

    def __post_init__(self) -> None:
        assert len(self.bands) == len(self.normalisation), "one (mean, std) per band"

    def describe(self) -> dict:
        """As JSON values."""
        return {
            "bands": list(self.bands),
            "dtype": self.dtype,
            "normalisation": [list(pair) for pair in self.normalisation],
            "statistics": [s.to_dict() for s in self.statistics],
            # None stays null: without colours the check of swapped bands rests on histograms alone.
            "colours": self.colours and self.colours.to_dict(),
            "units": [list(pair) for pair in self.units],
            "pixel_size": self.pixel_size,
            "nodata": self.nodata,
            "crs_kind": self.crs_kind,
        }

    @classmethod
    def from_dict(cls, fields: Mapping) -> Contract:
        """The inverse of `describe`. Raises KeyError, TypeError or ValueError for what is no contract."""
        bands, pairs = tuple(fields["bands"]), fields["normalisation"]
        if len(bands) != len(pairs):
            raise ValueError(f"{len(bands)} bands, {len(pairs)} pairs of mean and standard deviation")
        return cls(
            bands=bands,
            dtype=fields["dtype"],
            normalisation=tuple((float(m), float(s)) for m, s in pairs),
            # A field that a file lacks was not known to the version that wrote it.
            statistics=tuple(BandStatistics.from_dict(s) for s in fields.get("statistics", ())),
            colours=Colours.from_dict(fields["colours"]) if fields.get("colours") else None,
            units=tuple((float(scale), float(offset)) for scale, offset in fields.get("units", ())),
            pixel_size=fields.get("pixel_size"),
            nodata=fields.get("nodata"),
            crs_kind=fields.get("crs_kind", "none"),
        )
