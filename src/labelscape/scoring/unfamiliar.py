"""Can unfamiliar input be told from that of training? Asked before a network is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile
from labelscape.text import typed

CHANNELS = 2
"""How many channels a distance takes among the logits."""


def refuse_without(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises BadFile where a checkpoint holds no features of its training data."""
    for one in checkpoints:
        if one.familiarity is None:
            if one.exported is not None:
                raise BadFile(
                    f"{one.stored.path if one.stored else 'The model'} is {one.exported.title}, without the "
                    "features of its training data from which unfamiliar input is told: that needs the "
                    "checkpoint that it was made of."
                )
            name, file = (one.stored.path,) * 2 if one.stored else ("The checkpoint", "MODEL")
            raise BadFile(
                f"{name} does not know the features of its training data, from which unfamiliar input is "
                "told: it is of an earlier version, imported, or an untrained one. Measure them on its "
                f"training scenes: labelscape calibrate {typed(file)} --unfamiliar"
            )
