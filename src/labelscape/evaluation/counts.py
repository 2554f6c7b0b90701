"""What an evaluation counted, whole numbers from which every score is computed, and the file that holds them.

Counts add up where scores do not: evaluations of some tiles, scenes or machines are added with `+`, and the
scores of the sum are those of an evaluation of all. Objects and skeletons are of whole scenes: they add up
over scenes, not over parts of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.boundaries import RINGS, trimap
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.conventions import Convention, eroded_card, metric_card
from labelscape.evaluation.distances import DistanceCounts
from labelscape.evaluation.metrics import summary
from labelscape.evaluation.objects import ObjectCounts
from labelscape.evaluation.paths import PathCounts
from labelscape.evaluation.reliability import Reliability
from labelscape.evaluation.text import percent, score_table
from labelscape.evaluation.topology import TopologyCounts
from labelscape.files import written_whole
from labelscape.version import __version__

FORMAT = "labelscape-counts-1"

Counted = TypeVar("Counted", Confusion, ObjectCounts, TopologyCounts, Reliability)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Confusion counts per scene, and the metrics of their sum. Compares by identity: compare `confusion` or
    `metrics`.
    """

    per_scene: dict[str, Confusion]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Warnings about the settings: tiles larger than the model learned."""
    per_ring: tuple[Confusion, ...] = ()
    """Counts of all scenes by distance to the nearest other class (`boundaries.RINGS`, then what lies
    farther); empty where they were not asked for.
    """
    per_block: tuple[BlockCounts, ...] = ()
    """Counts of every block with a label: blocks of the scene's own split, else of 256 pixels."""
    objects: tuple[ObjectCounts, ...] = ()
    """Counts of objects and borders, one for each class that they were asked for."""
    topology: tuple[TopologyCounts, ...] = ()
    """Counts of skeletons, one for each class that they were asked for."""
    reliability: tuple[Reliability, ...] = ()
    """Counts by confidence, where they were asked for: at temperature 1 and at the checkpoint's own; one
    where that is 1, or where several predictions were averaged.
    """
    distances: DistanceCounts | None = None
    """Counts of errors by distance, where they were asked for."""
    paths: tuple[PathCounts, ...] = ()
    """Paths along lines, one for each class that they were asked for."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Scenes that could not be scored, and why: the counts are those of the others."""

    @property
    def failure(self) -> str:
        """What the scores are not of, as a sentence; "" where all scenes were scored."""
        if not self.failed:
            return ""
        scenes = len(self.failed) + len(self.per_scene)
        causes = "; ".join(f"{name}: {cause.rstrip('.')}" for name, cause in self.failed.items())
        return (
            f"{len(self.failed)} of {scenes} scenes could not be scored, and the scores are of the others: "
            f"{causes}."
        )

    @property
    def card(self) -> tuple[Convention, ...]:
        """The scores under each convention in use; with counts by ring also on an eroded reference."""
        return (*metric_card(self.per_scene, self.names), *eroded_card(self.per_ring))

    @property
    def trimap(self) -> list[dict]:
        """Scores within each distance of a border of the reference, fractions; empty without counts by
        ring.
        """
        return trimap(self.per_ring, self.names)

    @property
    def confusion(self) -> Confusion:
        """The counts of all scenes together."""
        scenes = list(self.per_scene.values())
        # Without the start value sum() would begin with 0, which is no confusion.
        return sum(scenes[1:], scenes[0])

    @property
    def metrics(self) -> dict:
        """Fractions: overall accuracy, mIoU, per class IoU, F1, ...; None where undefined."""
        return summary(self.confusion, self.names)

    def __add__(self, other: Evaluation) -> Evaluation:
        """The counts of both. Scenes and blocks of one name and place are taken for parts of the same one,
        as several workers count them.

        Raises BadInput where classes differ, or only one side has counts near borders, of objects, of
        skeletons or by confidence: the sum would be of a part, and look like the whole.
        """
        if self.names != other.names:
            mine, others = ", ".join(self.names), ", ".join(other.names)
            raise BadInput(
                f"Evaluations of {mine} and of {others} cannot be added; score both with one legend."
            )
        per_scene = dict(self.per_scene)
        for name, counts in other.per_scene.items():
            per_scene[name] = per_scene[name] + counts if name in per_scene else counts
        if (self.distances is None) != (other.distances is None):
            raise BadInput(_only_one("errors by distance"))
        return Evaluation(
            per_scene,
            self.names,
            tuple(dict.fromkeys((*self.notes, *other.notes))),
            _added("counts near borders", self.per_ring, other.per_ring),
            _blocks((*self.per_block, *other.per_block), list(per_scene)),
            _added("objects", self.objects, other.objects),
            _added("skeletons", self.topology, other.topology),
            _added("counts by confidence", self.reliability, other.reliability),
            None if self.distances is None else self.distances + other.distances,
            _added("paths", self.paths, other.paths),
            {**self.failed, **other.failed},
        )

    def __radd__(self, other: object) -> Evaluation:
        # sum() starts from 0.
        return self if other == 0 else NotImplemented

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all counts, with the scores that follow from some of them."""
        return {
            "format": FORMAT,
            "software": f"labelscape {__version__}",
            "names": list(self.names),
            "notes": list(self.notes),
            "per_scene": {name: counts.to_dict() for name, counts in self.per_scene.items()},
            "per_block": [block.to_dict() for block in self.per_block],
            "ring_radii": [*RINGS, None],
            "per_ring": [counts.to_dict() for counts in self.per_ring],
            **(self.distances.to_dict() if self.distances else {}),
            "objects": [counts.to_dict() for counts in self.objects],
            "topology": [counts.to_dict() for counts in self.topology],
            # Only where they were asked for: files of earlier versions have none.
            **({"paths": [counts.to_dict() for counts in self.paths]} if self.paths else {}),
            "reliability": [counts.to_dict() for counts in self.reliability],
            **({"failed": dict(self.failed)} if self.failed else {}),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_dict`. Raises BadInput where the fields are not those."""
        try:
            if fields["format"] != FORMAT or fields["ring_radii"] != [*RINGS, None]:
                raise ValueError("another format")
            names = tuple(map(str, fields["names"]))
            found = cls(
                {str(name): Confusion.from_dict(counts) for name, counts in fields["per_scene"].items()},
                names,
                tuple(map(str, fields["notes"])),
                tuple(map(Confusion.from_dict, fields["per_ring"])),
                tuple(map(BlockCounts.from_dict, fields["per_block"])),
                tuple(map(ObjectCounts.from_dict, fields["objects"])),
                tuple(map(TopologyCounts.from_dict, fields["topology"])),
                tuple(map(Reliability.from_dict, fields["reliability"])),
                DistanceCounts.from_dict(fields, len(names)) if "errors" in fields else None,
                tuple(map(PathCounts.from_dict, fields.get("paths", ()))),
                {str(name): str(cause) for name, cause in fields.get("failed", {}).items()},
            )
            found._check_parts()
            return found
        # OverflowError: JSON has whole numbers of any size, and counts have 64 bits.
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadInput(f"These are not the counts of an evaluation ({FORMAT}).") from error

    def _check_parts(self) -> None:
        """Raises ValueError where counts are of other classes than the names, or of a block of no scene: a
        sum with others would fail, or put them where they do not belong.
        """
        sizes = {len(one) for one in (*self.per_scene.values(), *self.per_ring)}
        if not sizes | {block.classes for block in self.per_block} <= {len(self.names)}:
            raise ValueError("counts of other classes than the names")
        if not {block.scene for block in self.per_block} <= self.per_scene.keys():
            raise ValueError("a block of no scene")

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all counts as JSON. Raises BadFile where the file exists or cannot be written."""
        with written_whole(path, overwrite=overwrite) as part:
            part.write_text(json.dumps(self.to_dict()), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote. Raises BadFile where it cannot be read or holds something else."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            why = str(error).rstrip(".")
            raise BadFile(f"{path} cannot be read as the counts of an evaluation: {why}.") from error

    def __repr__(self) -> str:
        if not self.per_scene:
            return "<Evaluation of no scene>"
        found, count = self.metrics, len(self.per_scene)
        scores = f"OA {percent(found['overall_accuracy'])} %, mIoU {percent(found['mean_iou'])} %"
        pixels = f"{found['labelled_pixels']:,} labelled pixels"
        return f"<Evaluation: {scores}, {pixels} of {count} scene{'s' * (count != 1)}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the table of scores in per cent."""
        if not self.per_scene:
            return escape(repr(self))
        _, *rows = score_table({"": self.metrics})
        cells = (
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{iou}</td><td>{f1}</td></tr>"
            for name, iou, f1 in rows
        )
        head = "<tr><th style='text-align:left'>%</th><th>IoU</th><th>F1</th></tr>"
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption>{head}{''.join(cells)}</table>"


def _added(what: str, mine: Sequence[Counted], theirs: Sequence[Counted]) -> tuple[Counted, ...]:
    if len(mine) != len(theirs):
        raise BadInput(_only_one(what))
    return tuple(one + other for one, other in zip(mine, theirs))


def _only_one(what: str) -> str:
    return (
        f"One of these evaluations has {what} that the other lacks: the sum would be of a part only. "
        "Evaluate both with the same options."
    )


def _blocks(blocks: Iterable[BlockCounts], scenes: Sequence[str]) -> tuple[BlockCounts, ...]:
    """The blocks, those of one place added; by scene in this order, then row by row, in whatever order the
    parts were counted.
    """
    found: dict[tuple[str, int, int, int, int], BlockCounts] = {}
    for block in blocks:
        w = block.window
        place = (block.scene, w.top, w.left, w.height, w.width)
        found[place] = found[place] + block if place in found else block
    order = {name: number for number, name in enumerate(scenes)}
    return tuple(found[place] for place in sorted(found, key=lambda p: (order[p[0]], *p[1:])))
