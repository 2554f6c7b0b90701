"""Corrections of labels in the training blocks of a data set; what is held out keeps its labels.

Corrections are found by looking at a model's map, where it is least certain. Labels that are changed so would
make a biased test: they are easier or harder than the rest, and interpreters who see the map tend to agree
with it. So held-out blocks stay as they were, and a score after corrections can be compared with the one
before them. Blocks are assigned before corrections are read, for the same blocks are held out then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadInput
from labelscape.labels.corrections import Corrections, digest, read_corrections
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.polygons import PolygonIndex

BLOCK = 1024
"""Side in pixels of the windows in which corrected pixels are counted."""


@dataclass(frozen=True)
class Corrected:
    """What one file of corrections did, as a checkpoint records it.

    polygons    corrected ones; `unanswered` and `no_class` ("several classes", "cannot tell") are left out,
                `elsewhere` touch no scene
    pixels      of training blocks that they cover
    changed     of these, with another class than before, and `added` without one before
    held_out    pixels that they cover in held-out blocks or images, which keep their labels
    """

    file: str
    sha256: str
    polygons: int
    unanswered: int
    no_class: int
    elsewhere: int
    pixels: int
    changed: int
    added: int
    held_out: int

    def lines(self) -> list[str]:
        """What to tell a person."""
        left = [(self.unanswered, "without an answer"), (self.no_class, "without one class")]
        left.append((self.elsewhere, "outside all scenes"))
        ignored = ", ".join(f"{count} {why}" for count, why in left if count)
        lines = [
            f"{self.polygons} corrections of {self.file}{f' ({ignored}: ignored)' if ignored else ''}: "
            f"{self.pixels:,} training pixels, {self.changed:,} of them had another class and "
            f"{self.added:,} none"
        ]
        if self.held_out:
            lines.append(
                f"{self.held_out:,} corrected pixels of {self.file} lie in held-out blocks, which keep their "
                "labels: a score on labels that were corrected by looking at a model's map would be biased"
            )
        return lines


def corrected(
    scenes: Sequence[LabelledScene],
    part_of: Sequence[str | None],
    files: Sequence[str | Path],
    legend: Legend,
) -> tuple[list[LabelledScene], list[Corrected], list[str]]:
    """The scenes with the corrections of all files, later files over earlier ones; what each file did, and
    lines for the report.

    Raises as `read_corrections`; BadInput where a file has no correction in a training block, or scenes
    without coordinates cannot be told apart.
    """
    located = [scene.scene.grid.is_georeferenced for scene in scenes]
    # In pixels a polygon fits any of the scenes, and would correct all of them.
    if files and len(scenes) > 1 and not all(located):
        lost = scenes[located.index(False)].name
        raise BadInput(
            f"Corrections need coordinates where there are several scenes: {lost} has none, so that it "
            "cannot be known which scene they are for."
        )
    done, report, made = list(scenes), [], []
    for file in files:
        done, what, notes = _by_file(done, part_of, file, legend)
        made.append(what)
        report += [*notes, *what.lines()]
    return done, made, report


def _by_file(
    scenes: Sequence[LabelledScene], part_of: Sequence[str | None], file: str | Path, legend: Legend
) -> tuple[list[LabelledScene], Corrected, tuple[str, ...]]:
    done, counts, touching = [], np.zeros(4, np.int64), np.zeros(0, bool)
    for scene, part in zip(scenes, part_of):
        found = read_corrections(file, scene.scene.grid, legend)
        index, hits = _on(scene, found)
        # Over all scenes: a polygon across two of them is one correction, and not elsewhere.
        touching = hits if not touching.size else touching | hits
        if index is not None:
            counts += _counts(scene, index, part)
        # A whole file that is held out keeps its labels, as held-out blocks do.
        learns = index is not None and part in (None, "train")
        done.append(replace(scene, corrections=(*scene.corrections, index)) if learns else scene)
    if not touching.any():
        raise BadInput(
            f"None of the {len(found.indices)} corrections of {file} touches {_named(scenes)}. Check the CRS "
            "of both, and that the map was made of these scenes."
        )
    pixels, changed, added, held_out = counts.tolist()
    if not pixels:
        raise BadInput(
            f"No correction of {file} covers a pixel of a training block"
            + (f"; {held_out:,} pixels lie in held-out blocks, which keep their labels" if held_out else "")
            + ". Correct areas elsewhere, or hold other blocks out (`fold`)."
        )
    what = Corrected(
        file=Path(file).name,
        sha256=digest(file),
        polygons=int(touching.sum()),
        unanswered=found.unanswered,
        no_class=found.no_class,
        elsewhere=int((~touching).sum()),
        pixels=pixels,
        changed=changed,
        added=added,
        held_out=held_out,
    )
    return done, what, found.notes


def _on(scene: LabelledScene, found: Corrections) -> tuple[PolygonIndex | None, np.ndarray]:
    """The corrections that touch a scene, and which they are."""
    import shapely

    grid = scene.scene.grid
    hits = shapely.intersects(found.geometries, shapely.box(*grid.bounds_of(grid.window)))
    if not hits.any():
        return None, hits
    return PolygonIndex(found.geometries[hits], found.indices[hits], grid), hits


def _counts(scene: LabelledScene, index: PolygonIndex, part: str | None) -> np.ndarray:
    """(4,) corrected pixels of training blocks; of these with another class before, and with none; corrected
    pixels held out.
    """
    counts = np.zeros(4, np.int64)
    for window in scene.scene.grid.window.blocks(BLOCK):
        # Corrections are few and small; reading the labels of all other windows is what would take the time.
        if not index.touches(window):
            continue
        new = index.burn(window, np.full(window.shape, IGNORE, np.uint8))
        there, before = new != IGNORE, scene.read_labels(window)
        learned = there & scene.learned(window) if part in (None, "train") else np.zeros_like(there)
        counts += [
            int(np.count_nonzero(mask))
            for mask in (
                learned,
                learned & (before != new) & (before != IGNORE),
                learned & (before == IGNORE),
                there & ~learned,
            )
        ]
    return counts


def _named(scenes: Sequence[LabelledScene]) -> str:
    return scenes[0].name if len(scenes) == 1 else f"any of the {len(scenes)} scenes"


def as_values(made: Sequence[Corrected]) -> tuple[dict, ...]:
    """As JSON values."""
    return tuple(asdict(one) for one in made)
