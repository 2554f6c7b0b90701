"""Spatially blocked splits: a scene is cut into square blocks and each block belongs to one part, so that what is scored was never seen.

Neighbouring pixels look alike; a random split of pixels or of overlapping tiles scores memory, not mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labelscape.errors import BadInput, BadOption
from labelscape.grid import Window

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class BlockSplit:
    """Which part each block belongs to: `parts` is (rows, columns) uint8, an index into PARTS. Blocks are `block` pixels wide."""

    block: int
    parts: np.ndarray

    def mask(self, window: Window, part: str) -> np.ndarray:
        """(H, W) bool: the pixels of `window` that belong to `part`."""
        rows = np.arange(window.top, window.bottom) // self.block
        columns = np.arange(window.left, window.right) // self.block
        return (self.parts == PARTS.index(part))[rows[:, None], columns[None, :]]

    def blocks(self, part: str) -> list[tuple[int, int]]:
        """(row, column) of the part's blocks."""
        return [(int(r), int(c)) for r, c in zip(*np.nonzero(self.parts == PARTS.index(part)))]


def block_split(counts: np.ndarray, block: int, shares: Mapping[str, float], *, seed: int) -> BlockSplit:
    """Assign blocks to parts so that every part gets its share of every class, rare classes first.

    counts  (rows, columns, K): labelled pixels per block and class
    shares  part -> share of the labelled pixels, summing to 1

    Iterative stratification (Sechidis et al. 2011) over blocks: take the class with the fewest unassigned pixels, give each of its
    blocks, largest first, to the part that lacks most of it; then move single blocks while that helps. The seed breaks ties.
    Raises BadInput where there are fewer labelled blocks than parts.
    """
    if abs(sum(shares.values()) - 1) > 1e-6 or any(s < 0 for s in shares.values()):
        raise BadOption(f"The shares {dict(shares)} must be positive and sum to 1.")
    rows, columns, classes = counts.shape
    flat = counts.reshape(-1, classes).astype(np.float64)
    active = [part for part in PARTS if shares.get(part, 0) > 0]
    labelled = int((flat.sum(axis=1) > 0).sum())
    if labelled < len(active):
        raise BadInput(
            f"Only {labelled} block{'s' * (labelled != 1)} of {block} pixels hold labels, too few for {' and '.join(active)} parts. "
            "Use smaller blocks (--block) or hold nothing out (--holdout 0)."
        )
    rng = np.random.default_rng(seed)
    lacking = np.array([[shares[part]] for part in active]) * flat.sum(axis=0)  # (parts, K)
    total_lacking = lacking.sum(axis=1)
    assigned = np.full(rows * columns, PARTS.index(active[0]), np.uint8)
    open_blocks = flat.sum(axis=1) > 0
    jitter = rng.random(rows * columns)
    while open_blocks.any():
        remaining = flat[open_blocks].sum(axis=0)
        rarest = int(np.where(remaining > 0, remaining, np.inf).argmin())
        candidates = np.nonzero(open_blocks & (flat[:, rarest] > 0))[0]
        chosen = candidates[np.lexsort((jitter[candidates], -flat[candidates, rarest]))[0]]
        part = max(range(len(active)), key=lambda p: (lacking[p, rarest], total_lacking[p]))
        assigned[chosen] = PARTS.index(active[part])
        lacking[part] -= flat[chosen]
        total_lacking[part] -= flat[chosen].sum()
        open_blocks[chosen] = False
    _improve(flat, assigned, {PARTS.index(part): shares[part] for part in active})
    return BlockSplit(block, assigned.reshape(rows, columns))


def _improve(flat: np.ndarray, assigned: np.ndarray, shares: Mapping[int, float]) -> None:
    """Move single blocks between parts, the most helpful first, while that brings the class shares of the parts nearer.

    flat (blocks, K) counts; the distance is the sum over parts and classes, and all labels together, of |share - wanted|.
    """
    present = flat[:, flat.sum(axis=0) > 0]
    columns = np.concatenate([present / present.sum(axis=0), present.sum(axis=1, keepdims=True) / present.sum()], axis=1)  # shares of each block
    labelled = np.nonzero(flat.sum(axis=1) > 0)[0]
    off = {p: columns[assigned == p].sum(axis=0) - share for p, share in shares.items()}
    for _ in range(len(labelled)):
        best = (-1e-9, -1, -1)
        for source in shares:
            mine = labelled[assigned[labelled] == source]
            if len(mine) < 2:  # a part keeps at least one block
                continue
            for target in shares:
                if target == source:
                    continue
                before = np.abs(off[source]).sum() + np.abs(off[target]).sum()
                after = np.abs(off[source] - columns[mine]).sum(axis=1) + np.abs(off[target] + columns[mine]).sum(axis=1)
                gain = float(after.min() - before)
                if gain < best[0]:
                    best = (gain, int(mine[after.argmin()]), target)
        if best[1] < 0:
            return
        off[int(assigned[best[1]])] -= columns[best[1]]
        off[best[2]] += columns[best[1]]
        assigned[best[1]] = best[2]
