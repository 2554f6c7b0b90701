"""Counting: what windows of truth and prediction add to an evaluation, wherever predictions come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from labelscape.datasets.labelled import LabelledScene
from labelscape.evaluation.blocks import BlockCounts, BlockTally, block_side
from labelscape.evaluation.boundaries import RINGS, ring_of
from labelscape.evaluation.confusion import Confusion, count_groups
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.reliability import Reliability
from labelscape.legend import IGNORE
from labelscape.scoring.arrays import as_numpy

if TYPE_CHECKING:
    from labelscape.grid import Window
    from labelscape.scoring.scored import ScoredTile

See = Callable[["Window", np.ndarray, np.ndarray], None]
"""Is given every tile's window, truth and prediction, class indices (H, W)."""
Watch = Callable[[str, LabelledScene], AbstractContextManager[See]]
"""Is told of every scene and its name in the results, and yields what sees its tiles."""


class Tally:
    """Counts of an evaluation as its windows come in.

    names       of the classes
    boundaries  also count by distance to the borders of the reference
    bins        empty counts by confidence, for `add` with tiles
    watch       also see every window
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        boundaries: bool = False,
        bins: Sequence[Reliability] = (),
        watch: Sequence[Watch] = (),
    ) -> None:
        self.names, self._watch, self._bins = tuple(names), watch, list(bins)
        self.per_scene: dict[str, Confusion] = {}
        self.per_block: list[BlockCounts] = []
        # One frozen value several times: counts are added to new ones, never changed.
        self._rings = [Confusion.empty(len(names))] * (len(RINGS) + 1) if boundaries else []

    @contextmanager
    def scene(self, name: str, scene: LabelledScene) -> Iterator[Callable[..., None]]:
        """Yields `add(window, truth, predicted, tile=None)` for class indices (H, W) of the scene, 255 for
        unlabelled truth and for no prediction; `tile` has the confidences.
        """
        blocks = BlockTally(block_side(scene), scene.scene.grid.window, len(self.names))
        with ExitStack() as held:
            see = [blocks.add, *(held.enter_context(one(name, scene)) for one in self._watch)]

            def add(
                window: Window, truth: np.ndarray, predicted: np.ndarray, tile: ScoredTile | None = None
            ) -> None:
                for one in see:
                    one(window, truth, predicted)
                if self._rings:
                    found = _rings_in(scene, window), truth, predicted
                    rings = count_groups(*found, len(self.names), len(self._rings))
                    self._rings = [so_far + more for so_far, more in zip(self._rings, rings)]
                if self._bins and tile is not None:
                    self._add_confidences(tile, truth, predicted)

            yield add
            # Before those who watch end, whose files may fail.
            self.per_block += (found := blocks.named(name))
            self.per_scene[name] = sum((block.counts for block in found), Confusion.empty(len(self.names)))

    @property
    def counted(self) -> int:
        """Labelled pixels with a prediction."""
        return sum(int(counts.counts.sum()) for counts in self.per_scene.values())

    def result(self, notes: Sequence[str] = ()) -> Evaluation:
        rings, blocks, bins = tuple(self._rings), tuple(self.per_block), tuple(self._bins)
        return Evaluation(self.per_scene, self.names, tuple(notes), rings, blocks, reliability=bins)

    def _add_confidences(self, tile: ScoredTile, truth: np.ndarray, predicted: np.ndarray) -> None:
        known = truth != IGNORE
        right = (truth == predicted)[known]
        for k, so_far in enumerate(self._bins):
            # The last is at the checkpoint's own temperature, which the tile's logits are over.
            confidence = _confidence(tile, known, so_far.temperature, self._bins[-1].temperature)
            self._bins[k] = so_far + Reliability.of(confidence, right, so_far.temperature)


def _confidence(
    tile: ScoredTile, known: np.ndarray, temperature: float | None, own: float | None
) -> np.ndarray:
    """Probability of the most probable class of a tile's `known` pixels (H, W), at a `temperature`; its
    logits are over the checkpoint's `own`. Near to it where tiles are blended, since the mean of two
    predictions has no temperature.
    """
    if temperature == own:
        return as_numpy(tile.probabilities).max(axis=0)[known]
    logits = as_numpy(tile.logits)[:, known] * (own / temperature)
    # The softmax of the largest logit: 1 over the sum of exp of the differences to it.
    return 1 / np.exp(logits - logits.max(axis=0)).sum(axis=0)


def _rings_in(scene: LabelledScene, window: Window) -> np.ndarray:
    """The rings of a window's pixels, from the labels around it too: of all parts, since a border is one
    whoever holds the pixels behind it.
    """
    around = window.grown(RINGS[-1], scene.scene.grid.window)
    return ring_of(scene.read_labels(around))[window.inset_of(around)]
