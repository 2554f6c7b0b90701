"""How pixels are predicted: scales and test-time augmentation, and what is averaged over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelscape.errors import BadOption, UnknownName
from labelscape.scoring.symmetry import SYMMETRIES

AVERAGES = ("probabilities", "logits")


@dataclass(frozen=True)
class Protocol:
    """Multi-scale and test-time augmentation. Raises BadOption or UnknownName for what there is not.

    scales   factors by which the image is resized, a scene before it is cut into tiles; predictions are
             resized back and averaged
    tta      test-time augmentation: "none", "mirror" (left-right too), "flips" (also up-down: four passes),
             "dihedral" (all eight symmetries of the square)
    average  what is averaged: "probabilities" (IFBFNet, DFCNet) or "logits" (DGCWNet: "sum all prediction
             maps")
    """

    scales: tuple[float, ...] = (1.0,)
    tta: str = "none"
    average: str = "probabilities"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("test-time augmentation (`tta`)", self.tta, SYMMETRIES),
            ("average", self.average, AVERAGES),
        ):
            if value not in known:
                raise UnknownName(what, value, known)
        if not self.scales or any(not 0.1 <= scale <= 10 for scale in self.scales):
            raise BadOption(
                f"`scales={self.scales}` must be factors between 0.1 and 10, such as 0.75,1,1.25."
            )

    @property
    def passes(self) -> int:
        """How often each network looks at a pixel."""
        return len(self.scales) * len(SYMMETRIES[self.tta])

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Protocol:
        """From `dataclasses.asdict`, also as older versions wrote it (`flips`, `merge`). Raises KeyError."""
        tta, average = (
            fields[name] if name in fields else fields[older]
            for name, older in (("tta", "flips"), ("average", "merge"))
        )
        return cls(tuple(fields["scales"]), tta, average)
