"""Scenes with their labels, and data sets made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from labelscape.datasets.split import PARTS, BlockSplit
from labelscape.errors import check_names
from labelscape.files import stem_of
from labelscape.grid import Window
from labelscape.labels.base import Labels
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.lazy import LazyScene
from labelscape.scenes.polygons import PolygonIndex
from labelscape.scenes.raster import Patch, Scene


@dataclass(frozen=True)
class LabelledScene:
    """A scene, its labels and, if it was split into blocks, the split (train, val or test) of each block.
    `corrections` are written over the labels of training blocks, later ones over earlier ones. `again` opens
    both again in another process, without split and corrections; None where they are only in memory.
    """

    scene: Scene
    labels: Labels
    split: BlockSplit | None = None
    corrections: tuple[PolygonIndex, ...] = ()
    again: Callable[[ExitStack], LabelledScene] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return self.scene.name

    def __repr__(self) -> str:
        split = "" if self.split is None else f", split into blocks of {self.split.block} pixels"
        return f"<LabelledScene {self.name}: {len(self.labels.legend)} classes{split}>"

    def for_thread(self, opened: ExitStack) -> LabelledScene:
        """The same scene for another thread, with files of its own, which `opened` closes."""
        # One that opens its files at each read has none, and would keep those of thousands open.
        lazy = isinstance(self.scene, LazyScene)
        scene = self.scene if lazy else opened.enter_context(self.scene.for_thread())
        return replace(self, scene=scene, labels=self.labels.for_thread(opened))

    def read_labels(self, window: Window, part: str | None = None) -> np.ndarray:
        """(H, W) uint8 class indices; 255 where unlabelled, and outside the blocks of the split `part`.
        Raises as `Labels.read`.
        """
        indices = self.labels.read(window)
        # Most windows have none: burning and the mask of the split would cost as much as the labels.
        if touching := [index for index in self.corrections if index.touches(window)]:
            new = indices.copy()
            for index in touching:
                index.burn(window, new)
            # Held-out labels stay as they were, see `datasets.corrected`.
            indices = np.where(self.learned(window), new, indices)
        # Else the labels of other parts would count: a window reaches over blocks of all of them.
        if part is not None and self.split is not None:
            indices[~self.split.mask(window, part)] = IGNORE
        return indices

    def learned(self, window: Window) -> np.ndarray:
        """(H, W) bool: the pixels of the split train; all of a scene that is not split into blocks."""
        return np.ones(window.shape, bool) if self.split is None else self.split.mask(window, "train")

    def read(self, window: Window, part: str | None = None) -> tuple[Patch, np.ndarray]:
        """Pixels and labels (H, W) of a window; labels are 255 on invalid pixels too. Raises as
        `Labels.read`.
        """
        patch = self.scene.read(window)
        indices = self.read_labels(window, part)
        # A label on nodata would be learned from the fill value.
        indices[~patch.valid] = IGNORE
        return patch, indices


@dataclass(frozen=True)
class Dataset:
    """Labelled scenes with the same bands and one legend. Close it when done, or use it as a context manager.

    Every label belongs to one of the splits train, val and test (`part` in code and options). Large scenes
    are split into blocks; scenes of a folder of pairs are split as whole files, and `part_of` then gives the
    split of each. `report` says in lines of text how the data were read and split.
    """

    scenes: tuple[LabelledScene, ...]
    legend: Legend
    part_of: tuple[str | None, ...]
    report: tuple[str, ...] = ()
    corrected: tuple[dict, ...] = ()
    """What each file of corrections did, as JSON values (`datasets.corrected.Corrected`)."""

    def __repr__(self) -> str:
        count = len(self.scenes)
        names = ", ".join(s.name for s in self.scenes[:3]) + (" ..." if count > 3 else "")
        return (
            f"<Dataset: {count} scene{'s' * (count != 1)} ({names}), {len(self.bands)} "
            f"band{'s' * (len(self.bands) != 1)}, {len(self.legend)} classes>"
        )

    def part(self, part: str) -> list[LabelledScene]:
        """The scenes with pixels in a split. Raises UnknownName for another than train, val and test."""
        check_names("part", [part], PARTS)
        # None: a scene that is split into blocks has pixels in every split.
        return [s for s, own in zip(self.scenes, self.part_of) if own in (None, part)]

    def learned_from(self) -> list[LabelledScene]:
        """The scenes with training pixels; all where there are none. Statistics are taken from these only:
        normalising with held-out scenes would already leak information.
        """
        return self.part("train") or list(self.scenes)

    @property
    def bands(self) -> tuple[str, ...]:
        return self.scenes[0].scene.bands

    @property
    def files(self) -> tuple[str, ...]:
        """All files of scenes and labels."""
        found = (file for s in self.scenes for file in (*s.scene.files, *s.labels.files))
        return tuple(dict.fromkeys(found))

    def held(self, tick: Callable[[], object] = lambda: None) -> Dataset:
        """The same data set with all pixels and labels in memory; `tick` is called after every scene."""
        scenes = []
        for one in self.scenes:
            one.labels.hold()
            scenes.append(replace(one, scene=one.scene.hold()))
            tick()
        return replace(self, scenes=tuple(scenes))

    def class_counts(self, part: str | None = None) -> np.ndarray:
        """(K,) labelled pixels per class, in one split or in all."""
        scenes = self.scenes if part is None else self.part(part)
        # 256 places, so that 255 needs no test for each pixel; it is cut off at the end.
        counts = np.zeros(256, np.int64)
        for scene in scenes:
            # Labels may be as large as a map: 4 MB at a time.
            for window in scene.scene.grid.window.blocks(2048):
                counts += np.bincount(scene.read_labels(window, part).ravel(), minlength=256)
        return counts[: len(self.legend)]

    def is_labelled(self, part: str) -> bool:
        """Does a split have a labelled pixel? Reads up to the first one."""
        windows = ((s, window) for s in self.part(part) for window in s.scene.grid.window.blocks(2048))
        return any((s.read_labels(window, part) != IGNORE).any() for s, window in windows)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for scene in self.scenes:
            scene.scene.close()
            scene.labels.close()


def scene_names(scenes: Sequence[LabelledScene]) -> list[str]:
    """Names of the scenes in results and files, each once: of several with one name the first keeps it, the
    others are numbered "name (2)", "name (3)", skipping what is taken.
    """
    # By their file names: those of two scenes must not become one file.
    taken = {stem_of(scene.name) for scene in scenes}
    seen: set[str] = set()
    found = []
    for scene in scenes:
        name, number = scene.name, 1
        while stem_of(name) in seen or (number > 1 and stem_of(name) in taken):
            number += 1
            name = f"{scene.name} ({number})"
        seen.add(stem_of(name))
        found.append(name)
    return found


def bands_differ(scene: Scene, first: Scene) -> str | None:
    """What is wrong where two training scenes have different bands."""
    if scene.bands == first.bands:
        return None
    return (
        f"{scene.name} has the bands {' '.join(scene.bands)}, {first.name} has {' '.join(first.bands)}. All "
        "training scenes need the same bands; choose them with `bands`."
    )
