"""Compare models on the same labelled pixels: counts by block, differences, maps of who is right where."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.labelled import scene_names
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.errors import BadInput, check_seed
from labelscape.evaluation.blocks import BlockCounts, BlockTally
from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import summary
from labelscape.evaluation.paired import REPLICATES, Difference, McNemar, differences, sentence
from labelscape.evaluation.predicted import (
    Classes,
    count_scene,
    indices_by_name,
    map_classes,
    predicted_classes,
)
from labelscape.evaluation.text import interval, percent
from labelscape.files import (
    check_new,
    make_folder,
    new_files,
    private_folder,
    stem_of,
    temporary_folder,
    written_whole,
)
from labelscape.legend import IGNORE, LandClass, Legend
from labelscape.progress import bar, told_where_lost
from labelscape.rasters.creation import Given, of_folder
from labelscape.rasters.write import MapWriter

if TYPE_CHECKING:
    from labelscape.scoring.scorer import Scorer

COLOURS = ((225, 225, 220), (204, 102, 119), (0, 119, 187), (60, 60, 60))
"""Of a difference map: both right, only the first, only the other, both wrong."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the models compared: `members` are checkpoints of several trainings (seeds), or finished class
    rasters, or folders of them with one for each scene.
    """

    name: str
    members: tuple[Checkpoint | Path | str, ...]


@dataclass(frozen=True)
class Drawing:
    """How intervals are made: their level, the bootstrap's replicates and its seed."""

    level: float = 0.95
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        # Before hours of prediction: it is drawn from after them.
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Pair:
    """The first model against another, by name: scores with intervals over `units` blocks or images (`kind`),
    and McNemar's test of the first checkpoint of each.
    """

    first: str
    other: str
    lines: tuple[Difference, ...]
    units: int
    kind: str
    level: float
    mcnemar: McNemar

    @property
    def sentence(self) -> str:
        """What the mIoU says."""
        # OA, mIoU, then the classes: the order in which `differences` gives them.
        return sentence(self.lines[1], self.first, self.other, self.units, self.kind, self.level)

    def to_dict(self) -> dict:
        """JSON values."""
        # `asdict` knows fields; these two are computed.
        test = {"statistic": self.mcnemar.statistic, "p_value": self.mcnemar.p_value}
        return {
            "first": self.first,
            "other": self.other,
            "sentence": self.sentence,
            self.kind: self.units,
            "level": self.level,
            "differences": [{**asdict(line), "verdict": line.verdict} for line in self.lines],
            "mcnemar": {**asdict(self.mcnemar), **test},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Models compared with the first of them.

    names      the classes
    per_block  model -> the counts by block of each of its checkpoints
    pairs      the first model against each other one
    notes      warnings
    maps       difference maps that were written
    """

    names: tuple[str, ...]
    per_block: Mapping[str, tuple[tuple[BlockCounts, ...], ...]]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()
    maps: tuple[Path, ...] = ()

    def confusions(self, model: str) -> list[Confusion]:
        """The pooled counts of each checkpoint of a model."""
        empty = Confusion.empty(len(self.names))
        return [sum((block.counts for block in member), empty) for member in self.per_block[model]]

    def to_dict(self) -> dict:
        """JSON values: scores of every checkpoint, differences, and the counts by block they come from."""
        models = {
            name: {
                "metrics": [summary(counts, self.names) for counts in self.confusions(name)],
                "per_block": [[block.to_dict() for block in member] for member in members],
            }
            for name, members in self.per_block.items()
        }
        return {
            "models": models,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "notes": list(self.notes),
            "maps": [str(path) for path in self.maps],
        }

    def __repr__(self) -> str:
        return f"<Comparison: {' '.join(pair.sentence for pair in self.pairs)}>"

    def _repr_html_(self) -> str:
        """What notebooks show: of each pair the scores in per cent and their differences, and its sentence;
        then the warnings.
        """
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return "".join(map(_html, self.pairs)) + (f"<p>Notes</p><ul>{notes}</ul>" if notes else "")


def _html(pair: Pair) -> str:
    rows = [("", pair.first, pair.other, "difference", f"{100 * pair.level:g} % interval")]
    rows += [
        (line.metric, *map(percent, (line.first, line.other, line.difference)), interval(line.low, line.high))
        for line in pair.lines
    ]
    cells = (
        "".join(f"<{tag}>{escape(text)}</{tag}>" for text in row)
        for tag, row in zip(("th", *("td",) * len(rows)), rows)
    )
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f"<table><caption>%, {pair.units} {pair.kind}</caption>{table}</table><p>{escape(pair.sentence)}</p>"
    )


def compare_sides(
    sides: Sequence[Side],
    dataset: Dataset,
    *,
    part: str | None,
    scorer_of: Callable[[Checkpoint], Scorer],
    tiles: Mapping[str, object],
    drawing: Drawing = Drawing(),
    valid_only: bool = True,
    out: Path | None = None,
    overwrite: bool = False,
    creation_options: Given = None,
    show: bool = True,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare the sides on the labelled pixels of a part of a data set; None is all labels.

    tiles       settings of `plan_for`
    valid_only  labels on the scenes' nodata do not count; False where the scenes are maps to compare
    out         folder for comparison.json and difference maps, which have the `creation_options`

    Raises BadInput where classes differ, nothing is labelled or too few blocks are; BadFile where a file of
    `out` exists.
    """
    scenes = dataset.scenes if part is None else dataset.part(part)
    names = scene_names(scenes)
    _check_classes(sides, dataset.legend)
    files = {"overwrite": overwrite, "creation_options": of_folder(creation_options, out, "difference maps")}
    targets = _targets(out, names, sides, overwrite=overwrite)
    written = tuple(path for line in targets.values() for path, _ in line)
    counts = _Counts(sides, tuple(dataset.legend.names), drawing, tuple(notes), written)
    with new_files(written), told_where_lost(lambda: counts.so_far(len(scenes))):
        # Once for all scenes: a scorer builds the network and moves its weights to the device.
        scorers = {
            id(one): scorer_of(one) for side in sides for one in side.members if isinstance(one, Checkpoint)
        }
        with bar("compare", len(scenes), "scenes", shown=show) as tick:
            for name, scene in zip(names, scenes):
                with ExitStack() as held:
                    # Beside the results, where there is room for rasters; else where temporary files go.
                    # Entered first, so removed last: the classes of a large scene are a memory map in it.
                    folder = held.enter_context(private_folder(out) if out else temporary_folder())
                    classes = _classes(sides, scene, dataset.legend, part, scorers, tiles, folder, held)
                    maps = [held.enter_context(_writer(*t, scene, **files)) for t in targets.get(name, ())]
                    # Kept before the maps are finished, which may fail.
                    counts.add(name, *count_scene(scene, part, classes, maps, valid_only=valid_only))
                tick()
        # Blocks without a label are not kept, so that no block means no label.
        if not counts.blocks[0][0]:
            raise BadInput(f"No labelled pixel to compare on{f' in the {part} part' if part else ''}.")
        done = counts.compared()
        _write(done, out, overwrite)
        return done


class _Counts:
    """What the scenes that were compared so far come to."""

    def __init__(
        self,
        sides: Sequence[Side],
        names: tuple[str, ...],
        drawing: Drawing,
        notes: tuple[str, ...],
        written: tuple[Path, ...],
    ) -> None:
        self.sides, self.names, self.drawing, self.notes, self.written = sides, names, drawing, notes, written
        self.blocks: list[list[list[BlockCounts]]] = [[[] for _ in side.members] for side in sides]
        self.outcomes, self.scenes = np.zeros((len(sides) - 1, 4), np.int64), 0

    def add(self, scene: str, tallies: Sequence[Sequence[BlockTally]], outcomes: np.ndarray) -> None:
        """Add what `count_scene` gave."""
        self.outcomes += outcomes
        for mine, of_scene in zip(self.blocks, tallies):
            for blocks, tally in zip(mine, of_scene):
                blocks += tally.named(scene)
        self.scenes += 1

    def compared(self) -> Comparison:
        """Raises BadInput where too few blocks are labelled."""
        pairs = _pairs(self.sides, self.blocks, self.outcomes, self.names, self.drawing)
        per_block = {side.name: tuple(map(tuple, mine)) for side, mine in zip(self.sides, self.blocks)}
        return Comparison(self.names, per_block, pairs, self.notes, self.written)

    def so_far(self, scenes: int) -> list[str]:
        """The same of so many `scenes`, in words and as JSON; nothing where none is finished."""
        if not self.scenes:
            return []
        some = "" if self.scenes == scenes else f", {self.scenes} of {scenes} scenes"
        pairs = self.compared().pairs
        return [
            f"compared before its files failed or it was stopped{some}:",
            *(pair.sentence for pair in pairs),
            json.dumps({"pairs": [pair.to_dict() for pair in pairs]}),
        ]


def _write(done: Comparison, out: Path | None, overwrite: bool) -> None:
    if out:
        with written_whole(out / "comparison.json", overwrite=overwrite) as path:
            path.write_text(json.dumps(done.to_dict()))


def _check_classes(sides: Sequence[Side], legend: Legend) -> None:
    """Raises BadInput where a checkpoint knows other classes: before hours of prediction, not after."""
    for side in sides:
        for one in side.members:
            if isinstance(one, Checkpoint):
                indices_by_name(one.legend, legend, side.name)


def _pairs(
    sides: Sequence[Side],
    counts: Sequence[Sequence[Sequence[BlockCounts]]],
    outcomes: np.ndarray,
    names: Sequence[str],
    drawing: Drawing,
) -> tuple[Pair, ...]:
    """The first side against each other one, from the counts of every side's members and the pixels by who
    is right, `outcomes` (sides - 1, 4).
    """
    pairs = []
    for other, theirs, pixels in zip(sides[1:], counts[1:], outcomes):
        drawn = differences(counts[0], theirs, names, **asdict(drawing))
        pairs.append(Pair(sides[0].name, other.name, *drawn, drawing.level, McNemar(*map(int, pixels))))
    return tuple(pairs)


def _targets(
    out: Path | None, scenes: Sequence[str], sides: Sequence[Side], *, overwrite: bool
) -> dict[str, list[tuple[Path, Legend]]]:
    """Scene -> the difference map of each other side, and its legend. Raises BadFile where one exists and may
    not be replaced: before the work, not after it.
    """
    if out is None:
        return {}
    make_folder(out)
    first, found = sides[0].name, {}
    for scene in scenes:
        found[scene] = []
        for other in sides[1:]:
            # Of two models there is one map a scene, and its name needs no model.
            model = f"_{stem_of(other.name)}" if len(sides) > 2 else ""
            said = ("both right", f"only {first} right", f"only {other.name} right", "both wrong")
            legend = Legend(tuple(LandClass(v, name, c) for v, (name, c) in enumerate(zip(said, COLOURS))))
            found[scene].append((out / f"{stem_of(scene)}{model}_difference.tif", legend))
    paths = [out / "comparison.json", *(path for line in found.values() for path, _ in line)]
    for path in paths:
        check_new(path, overwrite=overwrite)
    return found


def _writer(path: Path, legend: Legend, scene: LabelledScene, **files: Any) -> MapWriter:
    return MapWriter(path, scene.scene.grid, 1, IGNORE, legend=legend, **files)


def _classes(
    sides: Sequence[Side],
    scene: LabelledScene,
    legend: Legend,
    part: str | None,
    scorers: Mapping[int, Scorer],
    tiles: Mapping[str, object],
    folder: Path,
    held: ExitStack,
) -> list[list[Classes]]:
    """The classes of a scene as every member of every side has them; files are closed by `held`."""
    found: list[list[Classes]] = []
    for k, side in enumerate(sides):
        found.append([])
        for n, one in enumerate(side.members):
            if isinstance(one, Checkpoint):
                # By position: two sides may hold checkpoints of one name.
                file = folder / f"{k}-{n}.bytes"
                found[-1].append(predicted_classes(scorers[id(one)], scene, part, legend, tiles, file))
            else:
                classes, labels = map_classes(one, scene, legend)
                held.callback(labels.close)
                found[-1].append(classes)
    return found
