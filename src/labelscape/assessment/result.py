"""The result of assessing a map, `Assessment`: estimates, table, sentence, JSON values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.assessment.agreement import Agreement
from labelscape.assessment.words import html, sentence, table
from labelscape.evaluation.accuracy import AreaEstimates
from labelscape.version import __version__


@dataclass(frozen=True, eq=False)
class Assessment:
    """Accuracies and areas of a map, with 95 % intervals.

    estimates   see `AreaEstimates`; areas in square metres, in pixels for a map without coordinates
    drawn       points of the sample; `unanswered` of them have no answer, and are left out
    design      how the sample was drawn, JSON values
    estimator   Olofsson 2014 or Stehman 2014, in words
    agreement   of two interpreters; None with one
    sentence    the result in words, for a paper
    paths       files that were written, by suffix
    """

    estimates: AreaEstimates
    drawn: int
    unanswered: int
    design: dict[str, Any]
    estimator: str
    agreement: Agreement | None
    notes: tuple[str, ...]
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def georeferenced(self) -> bool:
        return self.design["unit"] == "square metres"

    @property
    def sentence(self) -> str:
        return sentence(self.estimates, self.design, self.estimator)

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text: the head, then one for each class."""
        return table(self.estimates, self.design)

    def __repr__(self) -> str:
        low, high = 100 * self.estimates.oa_interval
        return (
            f"<Assessment: overall accuracy {100 * self.estimates.oa:.1f} % ({low:.1f} to {high:.1f}), "
            f"{self.estimates.points:,} points, {len(self.estimates.names)} classes>"
        )

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return html(self.table(), self.sentence, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: areas in hectares (pixels without coordinates), shares as fractions, null for
        unknown.
        """
        found, scale = self.estimates, 1e4 if self.georeferenced else 1.0
        classes = [
            {
                "name": name,
                "mapped_area": _number(found.mapped_area[k] / scale),
                "area": _number(found.area[k] / scale),
                "area_se": _number(found.area_se[k] / scale),
                "area_ci95": _number(found.area_ci95[k] / scale),
                "area_interval": _numbers(found.area_interval[k] / scale),
                **{
                    f"{key}{ending}": (_numbers if ending == "_interval" else _number)(
                        getattr(found, f"{key}{ending}")[k]
                    )
                    for key in ("ua", "pa", "f1")
                    for ending in ("", "_se", "_ci95", "_interval")
                },
            }
            for k, name in enumerate(found.names)
        ]
        boot = None
        if found.bootstrap is not None:
            boot = {
                name: [_numbers(pair / (scale if name == "area" else 1)) for pair in ends]
                for name, ends in found.bootstrap.items()
            }
        return {
            "software": f"labelscape {__version__}",
            "unit": "hectares" if self.georeferenced else "pixels",
            "points": found.points,
            "drawn": self.drawn,
            "unanswered": self.unanswered,
            "estimator": self.estimator,
            "oa": found.oa,
            "oa_se": found.oa_se,
            "oa_ci95": found.oa_ci95,
            "oa_interval": _numbers(found.oa_interval),
            "classes": classes,
            "counts": found.counts.tolist(),
            "proportions": found.proportions.tolist(),
            "bootstrap": boot,
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "design": {k: v for k, v in self.design.items() if k != "legend"},
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(v) for v in values]
