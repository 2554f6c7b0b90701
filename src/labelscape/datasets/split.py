"""Spatial block splits: a scene is cut into square blocks, and each block belongs to train, val or test.

Neighbouring pixels are correlated (spatial autocorrelation): a random split of pixels or of overlapping tiles
gives optimistic scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadInput, BadOption, check_names
from labelscape.grid import Window

PARTS = ("train", "val", "test")
UNUSED = 255
"""Among the parts of blocks: in none, as training blocks beyond a share (`datasets.share`)."""

RANDOM_BLOCK = 32
"""Side, in pixels, of the blocks of a random split: about the size of a small training crop."""


def known_part(part: str | None) -> str | None:
    """A part as `Dataset.part` takes it; None for "all". Raises UnknownName for another name."""
    if part is not None:
        check_names("part", [part], (*PARTS, "all"))
    return None if part == "all" else part


@dataclass(frozen=True)
class BlockSplit:
    """The split of each block: `parts` is (rows, columns) uint8, an index into PARTS, or UNUSED. Blocks are
    `block` pixels wide.

    Training pixels within `buffer` pixels, along rows or columns, of a held-out block belong to no split.
    """

    block: int
    parts: np.ndarray
    buffer: int = 0

    def mask(self, window: Window, part: str) -> np.ndarray:
        """(H, W) bool: the pixels of `window` in the split `part`."""
        rows, columns = np.arange(window.top, window.bottom), np.arange(window.left, window.right)
        # Rows and columns one after the other: four times as fast as every pixel by two numbers.
        inside = (self.parts == PARTS.index(part))[rows // self.block][:, columns // self.block]
        return inside & ~self._near_others(rows, columns) if self.buffer and part == "train" else inside

    def _near_others(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(H, W) bool: pixels with a held-out block within the buffer. A summed-area table of the blocks
        keeps the cost independent of the buffer's width.
        """
        # One row and column of zeros before the sums, so that a rectangle is four look-ups also at the edge.
        held = ~np.isin(self.parts, (PARTS.index("train"), UNUSED))
        held = np.pad(held, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        top, left = (np.maximum(at - self.buffer, 0) // self.block for at in (rows[:, None], columns))
        below = np.minimum((rows[:, None] + self.buffer) // self.block + 1, self.parts.shape[0])
        right = np.minimum((columns + self.buffer) // self.block + 1, self.parts.shape[1])
        return held[below, right] - held[top, right] - held[below, left] + held[top, left] > 0

    def blocks(self, part: str) -> list[tuple[int, int]]:
        """(row, column) of the blocks in a split."""
        return [(int(r), int(c)) for r, c in zip(*np.nonzero(self.parts == PARTS.index(part)))]


def block_split(counts: np.ndarray, block: int, shares: Mapping[str, float], *, seed: int) -> BlockSplit:
    """Assign blocks to splits so that every split gets its share of every class (stratified), rare classes
    first.

    counts  (rows, columns, K): labelled pixels per block and class
    shares  split -> share of the labelled pixels, summing to 1

    The seed breaks ties between equal blocks and changes little else: another seed gives nearly the same
    split, and `fold_split` other ones. Raises BadInput where there are fewer labelled blocks than splits,
    BadOption for shares that do not sum to 1.
    """
    active = _active_parts(counts, block, shares)
    numbers = np.array([PARTS.index(part) for part in active], np.uint8)
    assigned = _stratified(counts, [shares[part] for part in active], seed)
    return BlockSplit(block, numbers[assigned])


def fold_split(
    counts: np.ndarray, block: int, fold: tuple[int, int], *, val: float = 0.0, seed: int
) -> BlockSplit:
    """Fold k of n of a cross-validation over blocks is "test", the others "train": over the n folds each
    labelled block is tested once.

    fold  (k, n): 1 <= k <= n, n >= 2
    val   share of all labels that goes to "val", out of the other folds

    Folds are stratified as `block_split` is and raise as it does; BadInput too where there are fewer labelled
    blocks than folds.
    """
    number, folds = fold
    labelled = counts.sum(axis=2) > 0
    if (blocks := int(labelled.sum())) < folds:
        raise BadInput(
            f"Labels lie in only {blocks} block{'s' * (blocks != 1)} of {block} pixels, too few for {folds} "
            "folds. Use smaller blocks (`block`) or fewer folds."
        )
    held = labelled & (_stratified(counts, [1 / folds] * folds, seed) == number - 1)
    own = val * folds / (folds - 1)
    rest = np.where(held[..., None], 0, counts)
    parts = block_split(rest, block, {"train": 1 - own, "val": own}, seed=seed).parts
    return BlockSplit(block, np.where(held, np.uint8(PARTS.index("test")), parts))


def fold_of(text: str) -> tuple[int, int]:
    """(k, n) of "k/n". Raises BadOption for what is no fold."""
    number, slash, folds = str(text).partition("/")
    if slash and number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) >= 2:
        return int(number), int(folds)
    raise BadOption(f"`fold={text}` must be K/N, fold K of N, such as 1/5 for the first of five.")


def _stratified(counts: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """(rows, columns) group of each block: group i gets shares[i] of every class, as nearly as whole blocks
    allow. Blocks without a label are in group 0.

    Iterative stratification (Sechidis et al. 2011) over blocks: take the class with the fewest unassigned
    pixels, give each of its blocks, largest first, to the group that lacks most of it; then move single
    blocks while that helps.
    """
    rows, columns, classes = counts.shape
    flat = counts.reshape(-1, classes).astype(np.float64)
    rng = np.random.default_rng(seed)
    # (groups, 1) times (K,): the pixels of each class that each group still has to get.
    lacking = np.array(shares)[:, None] * flat.sum(axis=0)  # (groups, K)
    total_lacking = lacking.sum(axis=1)
    assigned = np.zeros(rows * columns, np.intp)
    open_blocks = flat.sum(axis=1) > 0
    jitter = rng.random(rows * columns)  # breaks ties between equal blocks, which would else go by row
    while open_blocks.any():
        # Again after every block: which class is rarest changes as blocks are given away.
        remaining = flat[open_blocks].sum(axis=0)
        rarest = int(np.where(remaining > 0, remaining, np.inf).argmin())
        candidates = np.nonzero(open_blocks & (flat[:, rarest] > 0))[0]
        chosen = candidates[np.lexsort((jitter[candidates], -flat[candidates, rarest]))[0]]
        group = max(range(len(shares)), key=lambda g: (lacking[g, rarest], total_lacking[g]))
        assigned[chosen] = group
        lacking[group] -= flat[chosen]
        total_lacking[group] -= flat[chosen].sum()
        open_blocks[chosen] = False
    # The greedy assignment never looks back; single moves repair the worst of it.
    _improve(flat, assigned, dict(enumerate(shares)))
    return assigned.reshape(rows, columns)


def random_split(counts: np.ndarray, block: int, shares: Mapping[str, float], *, seed: int) -> BlockSplit:
    """Assign labelled blocks to splits at random, ignoring place and class, as for many published scores.

    Arguments and errors as `block_split`. The shares of blocks are as close as whole blocks allow; every
    split gets at least one.
    """
    active = _active_parts(counts, block, shares)
    labelled = np.random.default_rng(seed).permutation(np.nonzero(counts.sum(axis=2).ravel() > 0)[0])
    ends = np.round(np.cumsum([shares[part] for part in active]) * len(labelled)).astype(int)
    # At least one block before each end, and one after it for every split that follows.
    for i in range(len(active)):
        ends[i] = min(max(ends[i], ends[i - 1] + 1 if i else 1), len(labelled) - (len(active) - 1 - i))
    assigned = np.full(counts.shape[0] * counts.shape[1], PARTS.index(active[0]), np.uint8)
    for part, start, end in zip(active, [0, *ends[:-1]], ends):
        assigned[labelled[start:end]] = PARTS.index(part)
    return BlockSplit(block, assigned.reshape(counts.shape[:2]))


def _active_parts(counts: np.ndarray, block: int, shares: Mapping[str, float]) -> list[str]:
    """The splits with a share. Raises BadOption for shares that do not sum to 1, BadInput where there are
    fewer labelled blocks than splits.
    """
    if abs(sum(shares.values()) - 1) > 1e-6 or any(s < 0 for s in shares.values()):
        raise BadOption(f"The shares {dict(shares)} must be positive and sum to 1.")
    active = [part for part in PARTS if shares.get(part, 0) > 0]
    labelled = int((counts.sum(axis=2) > 0).sum())
    if labelled < len(active):
        raise BadInput(
            f"Labels lie in only {labelled} block{'s' * (labelled != 1)} of {block} pixels, too few to split "
            f"into {' and '.join(active)}. Use smaller blocks (`block`) or hold nothing out (`holdout=0`)."
        )
    return active


def _improve(flat: np.ndarray, assigned: np.ndarray, shares: Mapping[int, float]) -> None:
    """Move single blocks between splits, the most helpful first, while that brings the class shares closer to
    those wanted.

    flat (blocks, K) counts; the distance is the sum over splits and classes, and all labels together, of
    |share - wanted|.
    """
    present = flat[:, flat.sum(axis=0) > 0]
    columns = np.concatenate(
        [present / present.sum(axis=0), present.sum(axis=1, keepdims=True) / present.sum()], axis=1
    )  # shares of each block
    labelled = np.nonzero(flat.sum(axis=1) > 0)[0]
    off = {p: columns[assigned == p].sum(axis=0) - share for p, share in shares.items()}
    # Bounded: at most as many moves as blocks.
    for _ in range(len(labelled)):
        best = (-1e-9, -1, -1)
        for source in shares:
            mine = labelled[assigned[labelled] == source]
            if len(mine) < 2:  # a split keeps at least one block
                continue
            for target in shares:
                if target == source:
                    continue
                before = np.abs(off[source]).sum() + np.abs(off[target]).sum()
                after = np.abs(off[source] - columns[mine]).sum(axis=1) + np.abs(
                    off[target] + columns[mine]
                ).sum(axis=1)
                gain = float(after.min() - before)
                if gain < best[0]:
                    best = (gain, int(mine[after.argmin()]), target)
        if best[1] < 0:
            return
        off[int(assigned[best[1]])] -= columns[best[1]]
        off[best[2]] += columns[best[1]]
        assigned[best[1]] = best[2]
