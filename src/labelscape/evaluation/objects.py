"""Scores of things, not pixels: which buildings were found, and how well outlines lie.

Objects are connected areas of a class (8-connected: pixels that touch at a corner are one) in the truth and
in the prediction, on labelled pixels only. A predicted object matches a true one where their IoU is 0.5 or
more; each is matched once, best IoU first. Objects that the edge of labelled ground cuts are counted as they
are cut, on both sides alike.

Outlines: boundary F1 (Csurka et al. 2013) and boundary IoU (Cheng et al. 2021), with a tolerance in pixels,
pooled over all scenes. A border is where the class meets another labelled class: the edge of the scene and
unlabelled ground are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from labelscape.datasets.labelled import LabelledScene
from labelscape.errors import BadInput, BadOption, check_names
from labelscape.evaluation.kept import KeptClasses
from labelscape.evaluation.metrics import plain
from labelscape.evaluation.paths import PathCounts, count_paths
from labelscape.evaluation.topology import ClassMask, TopologyCounts, count_topology
from labelscape.grid import Window

SIZES = (25, 100, 400, 1600)
"""Upper bounds in pixels of the groups of sizes (ours); a last group holds larger objects."""
GROUPED = (
    "true and found ones are grouped by the true object's size, predicted and right ones by the predicted's"
)
"""What is said beside a table of sizes: an object that was found may be right in another group."""
LEAST_IOU = 0.5
STRIP = 1 << 22
"""Pixels of a strip: memory grows with the number of objects, not with the scene."""
WINDOW = 1024
"""Side of the windows in which borders are measured."""


@dataclass(frozen=True, eq=False)
class ObjectCounts:
    """Counts of the objects and borders of one class; they add up.

    truth, found       (5,) true objects by their size (SIZES), and those that were matched
    predicted, right   (5,) predicted objects by their size, and those that were matched
    borders            (6,): true border pixels, those with a predicted border within the tolerance; predicted
                       border pixels, those with a true one; pixels of both bands along the borders, of either
    """

    name: str
    tolerance: int
    truth: np.ndarray
    found: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    borders: np.ndarray

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        """The counts of both. Raises BadInput where they are of different classes or tolerances."""
        if (self.name, self.tolerance) != (other.name, other.tolerance):
            raise BadInput(
                f"Objects of {self.name} (tolerance {self.tolerance}) and of {other.name} (tolerance "
                f"{other.tolerance}) cannot be added."
            )
        fields = ("truth", "found", "predicted", "right", "borders")
        return ObjectCounts(
            self.name, self.tolerance, *(getattr(self, f) + getattr(other, f) for f in fields)
        )

    @classmethod
    def empty(cls, name: str, tolerance: int) -> ObjectCounts:
        groups = [np.zeros(len(SIZES) + 1, np.int64) for _ in range(4)]
        return cls(name, tolerance, *groups, np.zeros(6, np.int64))

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are matched; NaN without any."""
        return _share(self.right.sum(), self.predicted.sum())

    @property
    def recall(self) -> float:
        """Share of the true objects that are matched; NaN without any."""
        return _share(self.found.sum(), self.truth.sum())

    @property
    def f1(self) -> float:
        """2 matched / (true + predicted objects); NaN without any."""
        return _share(2 * self.found.sum(), self.truth.sum() + self.predicted.sum())

    @property
    def boundary_f1(self) -> float:
        """Harmonic mean of the shares of border pixels with a counterpart within the tolerance; NaN where a
        side has no border.
        """
        true, hit, predicted, right = self.borders[:4].tolist()
        if not true or not predicted:
            return float("nan")
        recall, precision = hit / true, right / predicted
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    @property
    def boundary_iou(self) -> float:
        """IoU of the bands of the tolerance's width inside the outlines; NaN without any."""
        return _share(self.borders[4], self.borders[5])

    def to_dict(self) -> dict:
        """JSON values: scores as fractions, None where undefined, and the counts they come from."""
        scores = ("precision", "recall", "f1", "boundary_f1", "boundary_iou")
        groups = zip((*SIZES, None), self.truth, self.found, self.predicted, self.right)
        return {
            "class": self.name,
            "tolerance": self.tolerance,
            **{name: plain(getattr(self, name)) for name in scores},
            "by_size": [
                {"up_to_pixels": size, "truth": int(t), "found": int(f), "predicted": int(p), "right": int(r)}
                for size, t, f, p, r in groups
            ],
            "borders": self.borders.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping) -> ObjectCounts:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for other fields."""
        rows = fields["by_size"]
        if [row["up_to_pixels"] for row in rows] != [*SIZES, None]:
            raise ValueError("other sizes")
        groups = (
            np.array([row[key] for row in rows], np.int64) for key in ("truth", "found", "predicted", "right")
        )
        return cls(fields["class"], fields["tolerance"], *groups, np.array(fields["borders"], np.int64))


def _share(part: float, of: float) -> float:
    return float(part / of) if of else float("nan")


class Components:
    """8-connected components of a mask that comes in strips, from top to bottom."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._last: np.ndarray | None = None

    def add(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) int64: the number of each pixel's component so far, -1 outside the mask. Numbers that turn
        out to be one component are joined in `roots`.
        """
        # Ones all round: SciPy's default is 4-connected, and roofs that touch at a corner would be two.
        numbers, count = label(mask, structure=np.ones((3, 3)))
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        numbers = np.where(numbers > 0, numbers.astype(np.int64) - 1 + start, -1)
        if self._last is not None:
            # Padded: corners touch too, so that each pixel meets three of the row above.
            above, width = np.pad(self._last, 1, constant_values=-1), mask.shape[1]
            for shift in range(3):
                pairs = np.stack([above[shift : shift + width], numbers[0]])
                for a, b in np.unique(pairs[:, (pairs >= 0).all(axis=0)], axis=1).T.tolist():
                    self._join(a, b)
        self._last = numbers[-1]
        return numbers

    def _find(self, number: int) -> int:
        while self._parent[number] != number:
            # Halved on the way: long chains of strips stay short.
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def _join(self, a: int, b: int) -> None:
        a, b = self._find(a), self._find(b)
        self._parent[max(a, b)] = min(a, b)

    @property
    def roots(self) -> np.ndarray:
        """(N,) the component of each number."""
        return np.array([self._find(number) for number in range(len(self._parent))], np.int64)


def match(strips: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match the objects of two masks that come in strips (truth, prediction), each (H, W) bool.

    Returns the sizes in pixels of the true objects (T,) and of the predicted ones (P,), and the matches
    (M, 2) as places in these.
    """
    sides = (Components(), Components())
    seen: list[np.ndarray] = []
    for masks in strips:
        true, predicted = (side.add(mask).ravel() for side, mask in zip(sides, masks))
        # Both numbers as one: sorting pairs of a strip of millions would take several times its memory. 0 is
        # outside both masks.
        base = int(predicted.max(initial=-1)) + 2
        keys, pixels = np.unique((true + 1) * base + predicted + 1, return_counts=True)
        pairs = np.stack(np.divmod(keys, base)) - 1
        seen.append(np.vstack([pairs, pixels])[:, keys > 0])
    if not seen:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    true, predicted, pixels = np.concatenate(seen, axis=1)
    true, true_sizes = _sized(true, pixels, sides[0].roots)
    predicted, predicted_sizes = _sized(predicted, pixels, sides[1].roots)
    both = (true >= 0) & (predicted >= 0)
    # Only pairs that share a pixel: of T x P pairs nearly all have an IoU of 0.
    pairs, inverse = np.unique(np.stack([true[both], predicted[both]]), axis=1, return_inverse=True)
    common = np.bincount(inverse.ravel(), weights=pixels[both], minlength=pairs.shape[1])
    either = true_sizes[pairs[0]] + predicted_sizes[pairs[1]] - common
    chosen, taken = [], (set(), set())
    # Stable: of pairs with equal IoUs the same one is matched first in every run.
    for k in np.argsort(-common / either, kind="stable"):
        t, p = pairs[:, k].tolist()
        # Not the quotient: 0.5 itself counts, whatever it is rounded to.
        if common[k] >= LEAST_IOU * either[k] and t not in taken[0] and p not in taken[1]:
            chosen.append((t, p))
            taken[0].add(t)
            taken[1].add(p)
    return true_sizes, predicted_sizes, np.array(chosen, np.int64).reshape(-1, 2)


def _sized(numbers: np.ndarray, pixels: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as places among the joined components, -1 outside; and the components' sizes."""
    components, place = np.unique(roots, return_inverse=True)
    inside = numbers >= 0
    placed = np.full(len(numbers), -1, np.int64)
    placed[inside] = place.ravel()[numbers[inside]]
    sizes = np.bincount(placed[inside], weights=pixels[inside], minlength=len(components))
    return placed, sizes.astype(np.int64)


def border_counts(truth: np.ndarray, predicted: np.ndarray, known: np.ndarray, tolerance: int) -> np.ndarray:
    """(6, H, W) bool of masks (H, W): what `ObjectCounts.borders` sums, pixel by pixel. Exact where the
    array's edge is farther than 2 x tolerance + 1.
    """
    lines, bands = [], []
    for mask in (truth & known, predicted & known):
        others = known & ~mask
        # Without another class there is no border, and the transform would measure to nothing.
        far = distance_transform_edt(~others) if others.any() else np.full(mask.shape, np.inf)
        lines.append(mask & (far <= 1))
        bands.append(mask & (far <= tolerance))
    near = [
        distance_transform_edt(~line) <= tolerance if line.any() else np.zeros(line.shape, bool)
        for line in lines
    ]
    hit, right = lines[0] & near[1], lines[1] & near[0]
    return np.stack([lines[0], hit, lines[1], right, bands[0] & bands[1], bands[0] | bands[1]])


class Objects:
    """Follows an evaluation (`watch`) and counts objects and borders of some classes, the skeletons of others
    (`topology`), and paths along them (`apls`), in `kept`. Raises UnknownName for another class, BadOption
    for a tolerance below 1.
    """

    def __init__(
        self,
        classes: Sequence[str],
        names: Sequence[str],
        *,
        tolerance: int = 2,
        topology: Sequence[str] = (),
        apls: Sequence[str] = (),
        kept: KeptClasses,
    ) -> None:
        check_names("class", [*classes, *topology, *apls], names)
        if tolerance < 1:
            raise BadOption(f"`tolerance={tolerance}` must be at least 1: it is a distance in pixels.")
        self._kept = kept
        self._indices = [list(names).index(name) for name in classes]
        self.counts = [ObjectCounts.empty(name, tolerance) for name in classes]
        self._lines = [list(names).index(name) for name in topology]
        self.topology = [TopologyCounts(name, 0, 0, 0, 0) for name in topology]
        self._roads = [list(names).index(name) for name in apls]
        self.paths = [PathCounts(name, 0, 0.0, 0, 0.0) for name in apls]

    @contextmanager
    def watch(
        self, name: str, scene: LabelledScene
    ) -> Iterator[Callable[[Window, np.ndarray, np.ndarray], None]]:
        """Counts when the scene is done."""
        steps = scene.scene.grid.ground_steps
        # Before hours of prediction.
        if self.paths and steps is None:
            raise BadInput(f"APLS is measured in metres, and the place of {name} on Earth is not known.")
        yield lambda window, truth, predicted: None
        kept = self._kept.array
        for k, index in enumerate(self._indices):
            self.counts[k] += count_objects(kept, index, self.counts[k].name, self.counts[k].tolerance)
        for k, index in enumerate(self._lines):
            self.topology[k] += count_topology(*_masks(kept, index), self.topology[k].name)
        for k, index in enumerate(self._roads):
            self.paths[k] += count_paths(*_masks(kept, index), self.paths[k].name, steps)


def _masks(kept: np.ndarray, index: int) -> tuple[ClassMask, ClassMask]:
    """Where a class is true and predicted, on labelled pixels alone."""
    return ClassMask(kept, index, 0), ClassMask(kept, index, 1)


def count_objects(kept: np.ndarray, index: int, name: str, tolerance: int) -> ObjectCounts:
    """Objects and borders of class `index` in truth and prediction (2, H, W), index + 1, 0 for none."""
    _, height, width = kept.shape
    whole = Window(0, 0, height, width)
    rows = max(1, STRIP // width)

    def strips() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for top in range(0, height, rows):
            truth, predicted = kept[:, top : top + rows]
            # Pixels without a label belong to no predicted object: nobody knows what is there.
            yield truth == index + 1, (predicted == index + 1) & (truth > 0)

    true, predicted, matches = match(strips())
    groups = [
        np.bincount(np.searchsorted(SIZES, sizes), minlength=len(SIZES) + 1)
        for sizes in (true, true[matches[:, 0]], predicted, predicted[matches[:, 1]])
    ]
    borders = np.zeros(6, np.int64)
    for window in whole.blocks(WINDOW):
        # Counts are exact that far from the edge of what is read (`border_counts`).
        around = window.grown(2 * tolerance + 2, whole)
        truth, guess = kept[(slice(None), *around.inset_of(whole))]
        # A distance transform costs far more than a look, and most windows of a rare class are without it.
        if not ((truth == index + 1) | (guess == index + 1)).any():
            continue
        counted = border_counts(truth == index + 1, guess == index + 1, truth > 0, tolerance)
        borders += counted[(slice(None), *window.inset_of(around))].sum(axis=(1, 2))
    return ObjectCounts(name, tolerance, *groups, borders)
