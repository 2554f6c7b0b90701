"""Choosing patches with given class proportions, as for the extremely imbalanced test set of the MSWBN paper.

Paper     MSWBN (Multi-Scale Weighted Branch Network, on GID), sec. 4.5 and table 6: the class shares before
          and after; how patches were chosen is not said.
Reads as  table 6 -> TABLE_6, table_6   sec. 4.5 "we resample the patches" -> resample, resampled
Differs   Chosen here: the largest set of patches whose shares all lie within a tolerance of the printed ones.
          The printed numbers agree with test patches that were moved to training (`to="train"`): about half
          of them; `to=None` leaves them out of every split. `table_6` then chooses from all training patches
          in the same way.

Let x (0 or 1) say which patches are kept, n be their labelled pixels and c those of a class. The class has
the share t within the tolerance e when

    (t - e) sum(x n) <= sum(x c) <= (t + e) sum(x n)

This is linear in x: the largest set is a small integer program, solved exactly (HiGHS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput, BadOption, UnknownName

TABLE_6: dict[str, dict[str, float]] = {
    "original train": {"built-up": 143, "farmland": 571, "water": 173, "forest": 69, "meadow": 45},
    "original test": {"built-up": 243, "farmland": 431, "water": 260, "forest": 61, "meadow": 4},
    "resampled train": {"built-up": 168, "farmland": 538, "water": 181, "forest": 68, "meadow": 45},
    "resampled test": {"built-up": 150, "farmland": 490, "water": 285, "forest": 76, "meadow": 0.7},
}
"""Shares in per mille of the labelled pixels, as printed; rounding lets a row sum to 999 to 1001.7."""

NODES = 20_000
"""Branches of the search, a limit that does not depend on the machine's speed. Real sets need a handful."""


@dataclass(frozen=True)
class Resampling:
    """The patches that are kept, (P,) bool; the shares wanted and reached, (K,); and the tolerance.

    `most` is True where it is proved that no larger set exists.
    """

    kept: np.ndarray
    target: np.ndarray
    reached: np.ndarray
    tolerance: float
    most: bool

    @property
    def off(self) -> float:
        """The largest difference between a share reached and the one wanted."""
        return float(np.abs(self.reached - self.target).max())

    @property
    def missed(self) -> np.ndarray:
        """(K,) bool: classes whose share lies outside what `allowed` gives them."""
        return np.abs(self.reached - self.target) > allowed(self.target, self.tolerance) + 1e-9

    @property
    def within(self) -> bool:
        """Is every share reached?"""
        return not self.missed.any()

    def report(self, names: list[str], part: str = "") -> list[str]:
        """Two lines: how many patches (of the split `part`) are kept, and the shares reached beside those
        wanted, in per mille.
        """
        shares = list(zip(names, self.reached, self.target, self.missed, strict=True))
        pairs = ", ".join(f"{name} {_said(got)} ({_said(want)})" for name, got, want, _ in shares)
        missed = ", ".join(
            f"{name} has {_said(got)} for {_said(want)}" if got else f"no patch has {name}"
            for name, got, want, is_missed in shares
            if is_missed
        )
        where = f" of {part}" if part else ""
        why = f"NOT reached: in the closest set found, {missed} (per mille)"
        return [
            (
                f"resampling keeps {self.kept.sum()} of {len(self.kept)} patches{where}; "
                f"the shares within {1000 * self.tolerance:g} per mille, rare classes within half their "
                f"share, are {'reached' if self.within else why}"
            ),
            f"per mille reached (wanted): {pairs}",
        ]


def allowed(target: np.ndarray, tolerance: float) -> np.ndarray:
    """(K,) how far each share may lie from its target: the tolerance, but for rare classes half their share.

    An absolute tolerance alone says nothing of a class of 0.7 per mille, whose IoU is a fifth of the mean.
    """
    return np.where(target > 0, np.minimum(tolerance, target / 2), tolerance)


def _said(share: float) -> str:
    """Per mille; a tiny share is not rounded to 0."""
    return f"{1000 * share:.1g}" if 0 < share < 5e-5 else f"{1000 * share:.1f}"


def resample(counts: np.ndarray, target: np.ndarray, *, tolerance: float = 2e-3, seed: int = 0) -> Resampling:
    """Keep as many patches as possible so that every class has its target share of the labelled pixels,
    within what `allowed` gives it: the tolerance, for rare classes half their share.

    counts  (P, K) labelled pixels per patch and class
    target  (K,) shares or per mille; normalised to a sum of 1
    seed    picks among equally large sets

    Where no set reaches the target, rare classes keep at least one pixel where a patch has it, the tolerance
    is widened to the smallest possible (within a thousandth), and `within` is False. Raises BadOption for an
    invalid target, BadInput where nothing is labelled.
    """
    counts, target = np.asarray(counts, np.float64), np.asarray(target, np.float64)
    if target.shape != counts.shape[1:] or (target < 0).any() or not target.sum() > 0 or not tolerance > 0:
        raise BadOption(
            f"The target must have a share of at least 0 for each of the {counts.shape[1]} classes, "
            "with a sum "
            "above 0, and the tolerance must be above 0."
        )
    if not counts.sum() > 0:
        raise BadInput(
            f"None of the {len(counts)} patches has a labelled pixel, so there are no class shares."
        )
    target = target / target.sum()
    # The solver's choice among equal sets depends on the order of patches: the seed shuffles it.
    order = np.random.default_rng(seed).permutation(len(counts))

    def solve(wide: float | np.ndarray) -> tuple[np.ndarray, bool] | None:
        found = _largest(counts[order], target, wide)
        if found is None:
            return None
        kept = np.zeros(len(counts), bool)
        kept[order] = found[0]
        return kept, found[1]

    # Rare classes within half their share first; where that has no solution, within the tolerance as all
    # others.
    found = solve(allowed(target, tolerance)) or solve(tolerance)
    if found is None:
        low, high = tolerance, 1.0  # all patches together lie within 1
        # Bisection of the logarithm: tolerances from thousandths to 1 take about a dozen solutions.
        while high > 1.001 * low:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if solve(middle) else (middle, high)
        found = solve(high)
    kept, most = found
    total = counts[kept].sum(axis=0)
    return Resampling(kept, target, total / total.sum(), tolerance, most)


def _largest(
    counts: np.ndarray, target: np.ndarray, tolerance: float | np.ndarray
) -> tuple[np.ndarray, bool] | None:
    """The largest set of patches within the tolerance, and whether that is proved; None where there is
    none.
    """
    pixels = counts.sum(axis=1)
    scale = pixels.max()  # the solver's own tolerances are absolute, made for numbers near 1
    # (P, K) -> (K, P): a row of the program per class, a column per patch.
    above = (counts - np.outer(pixels, target + tolerance)).T / scale
    below = (counts - np.outer(pixels, target - tolerance)).T / scale
    # At least one patch with labels, and one of every wanted class. Patches are counted, not pixels: a
    # few pixels beside millions would drown in the solver's tolerance.
    wanted = [pixels > 0, *(counts[:, k] > 0 for k in np.nonzero((target > 0) & (counts.sum(axis=0) > 0))[0])]
    rows = [
        LinearConstraint(above, ub=0),
        LinearConstraint(below, lb=0),
        LinearConstraint(np.array(wanted, float), lb=1),
    ]
    result = milp(
        # milp minimises: -1 per patch makes the set as large as possible.
        -np.ones(len(counts)),
        constraints=rows,
        integrality=np.ones(len(counts)),
        bounds=Bounds(0, 1),
        options={"node_limit": NODES},
    )
    # A limit reached after a solution was found still gives that solution, not proved to be the largest.
    if result.x is None:
        return None
    # Integers within the solver's tolerance: 0.9999999 is a patch that is kept.
    return result.x > 0.5, result.status == 0


def resampled(
    dataset: Dataset,
    shares: Mapping[str, float],
    *,
    part: str = "test",
    to: str | None = "train",
    tolerance: float = 2e-3,
    seed: int = 0,
) -> Dataset:
    """The same data set with fewer scenes in the split `part`, so that its classes have these shares; the
    other scenes go to the split `to`, or to none.

    dataset  scenes split as whole files (a folder of pairs)
    shares   class name -> share or per mille, 0 for classes not named

    The report says what was reached. Raises UnknownName for a class that does not exist, BadInput for scenes
    that are split into blocks.
    """
    for name in shares:
        if name not in dataset.legend.names:
            raise UnknownName("class", name, dataset.legend.names)
    mine = [i for i, own in enumerate(dataset.part_of) if own == part]
    if not mine:
        raise BadInput(
            f"No image belongs to the {part} split as a whole: resampling needs a data set of separate "
            "images."
        )
    counts = np.stack([scene_counts(dataset, i) for i in mine])
    found = resample(
        counts,
        np.array([shares.get(name, 0.0) for name in dataset.legend.names]),
        tolerance=tolerance,
        seed=seed,
    )
    part_of = list(dataset.part_of)
    for i, kept in zip(mine, found.kept):
        # "left out" is no split: nothing asks for its pixels, and the report can still name them.
        part_of[i] = part if kept else to or "left out"
    return replace(
        dataset, part_of=tuple(part_of), report=(*dataset.report, *found.report(dataset.legend.names, part))
    )


def table_6(
    dataset: Dataset, *, part: str = "test", to: str | None = "train", tolerance: float = 2e-3, seed: int = 0
) -> Dataset:
    """Both resampled rows of MSWBN's table 6: first the test patches (those of `part`), of which the others
    go to `to`; then the training patches, of which the others are left out (ours: how it was done is not
    said). Raises as `resampled`.
    """
    tested = resampled(dataset, TABLE_6["resampled test"], part=part, to=to, tolerance=tolerance, seed=seed)
    # With part="train" both rows would choose from the same patches.
    if part == "train" or not any(own == "train" for own in tested.part_of):
        return tested
    shares = TABLE_6["resampled train"]
    return resampled(tested, shares, part="train", to=None, tolerance=tolerance, seed=seed)


def scene_counts(dataset: Dataset, index: int) -> np.ndarray:
    """(K,) labelled pixels of one scene per class."""
    scene = dataset.scenes[index]
    return replace(dataset, scenes=(scene,), part_of=(None,)).class_counts()
