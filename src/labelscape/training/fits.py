"""Are the scenes that a model is scored on like those it learned from? A map refuses others; a score is taken
all the same, and would be read as the model's.
"""

from __future__ import annotations

from labelscape.checkpoint import Checkpoint
from labelscape.contract.adjust import in_units, units_difference, units_of
from labelscape.contract.compare import compare
from labelscape.contract.difference import REFUSED
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.training.data import looked_at


def misfits(name: str, model: Checkpoint, dataset: Dataset, part: str | None) -> list[str]:
    """What keeps scenes of `part` from being mapped by a model, called `name`, and what is converted in them:
    a line for each kind, of the first scene that has it. At most LOOKED_AT scenes are looked at. Raises
    BadFile for a damaged scene.
    """
    scenes = dataset.scenes if part is None else dataset.part(part)
    found: dict[str, list[str]] = {}
    looked = looked_at(scenes)
    for one in looked:
        for kind, line in _of_scene(name, model, one):
            found.setdefault(kind, []).append(line)
    more = "; {} more of {} scenes likewise"
    return [
        lines[0] + more.format(len(lines) - 1, len(looked)) * (len(lines) > 1) for lines in found.values()
    ]


def _of_scene(name: str, model: Checkpoint, one: LabelledScene) -> list[tuple[str, str]]:
    lines = []
    if (units := units_of(model.contract, one.scene)) is not None:
        lines.append(("units", f"{one.name}: {units_difference(one.scene, units).cause}, as for a map"))
    with in_units(model.contract, one.scene) as scene:
        wrong = [each for each in compare(model.contract, scene) if each.level == REFUSED]
    said = f"{one.name} does not fit {name}, and a map of it is refused"
    return [*lines, *((each.kind, f"{said}: {each.cause}. The score is of it as it is") for each in wrong)]
