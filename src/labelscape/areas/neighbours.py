"""Sieve areas below a minimum mapping unit: their borders, and the class that each is merged into.

The rule. The smallest area below the minimum that has a neighbour takes the class with which it shares the
longest border, counted in pixel sides; of classes with as long a border the one whose bordering pixel comes
first in reading order. From then on it is one area with all its neighbours of that class, as large as all of
them together. This is repeated until no area below the minimum has a neighbour. Size is in pixels; of areas
of one size those come first whose first pixel is first in a fixed shuffle of all pixels.

What makes this a matter of neighbourhoods: borders are counted by class, so what an area becomes depends only
on the areas below the minimum around it and on the classes of those above. An area that is smaller than all
its small neighbours stays so, and its borders stay as they are, until it is merged, since its neighbours
can only grow. So all such areas may be merged at once, and long before the rest of the map is known: the
result does not depend on the order. The shuffle keeps chains of areas that wait for each other short; reading
order would make one of every field of single pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from labelscape.areas.groups import joined_by

LARGE = 256
"""Nodes below this number stand for all areas of the class of that number which are not below the minimum:
their class is all that a small neighbour needs to know.
"""


@dataclass(frozen=True)
class Nodes:
    """(N,) areas: class, pixels, size (square metres or pixels), position in the map of the first pixel, and
    whether the area may continue below.
    """

    kinds: np.ndarray
    pixels: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    open: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, which: np.ndarray) -> Nodes:
        return Nodes(*(getattr(self, name)[which] for name in NODE))

    def closed(self) -> Nodes:
        """The same with nothing open: the strip below marks what is open after it."""
        return replace(self, open=np.zeros(len(self), bool))

    @classmethod
    def together(cls, parts: list[Nodes]) -> Nodes:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in NODE))

    @classmethod
    def none(cls) -> Nodes:
        """The LARGE nodes alone, one per class value."""
        return cls(
            np.arange(LARGE),
            np.zeros(LARGE, np.int64),
            np.zeros(LARGE),
            np.full(LARGE, -1),
            np.zeros(LARGE, bool),
        )


NODE = ("kinds", "pixels", "sizes", "first", "open")


@dataclass(frozen=True)
class Borders:
    """(E,) pixel sides along small areas: of which area, to which other, and the position of the other's
    pixel in the map.

    A side between two small areas is listed twice, once from each.
    """

    of: np.ndarray
    to: np.ndarray
    place: np.ndarray

    @classmethod
    def none(cls) -> Borders:
        return cls(*np.zeros((3, 0), np.int64))

    @classmethod
    def between(
        cls, one: np.ndarray, other: np.ndarray, one_place: np.ndarray, other_place: np.ndarray
    ) -> Borders:
        """From pairs of pixels that share a side, given by the nodes and positions of both."""
        # Positions are swapped like the nodes: ties are broken by the neighbour's pixel, not by one's own.
        of, to, place = (
            np.concatenate([one, other]),
            np.concatenate([other, one]),
            np.concatenate([other_place, one_place]),
        )
        return cls(of, to, place)._of_small()

    @classmethod
    def together(cls, parts: list[Borders]) -> Borders:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("of", "to", "place")))

    def renamed(self, number: np.ndarray) -> Borders:
        """Renumber the nodes, and drop sides that are inside an area now."""
        return Borders(number[self.of], number[self.to], self.place)._of_small()

    def _of_small(self) -> Borders:
        kept = (self.of >= LARGE) & (self.of != self.to)
        return self if kept.all() else Borders(self.of[kept], self.to[kept], self.place[kept])


def fused(nodes: Nodes, pairs: np.ndarray, least: float) -> tuple[Nodes, np.ndarray]:
    """Merge nodes that are one area, given in pairs (2, P), and replace those that reach `least` by the LARGE
    node of their class.

    The node with the lowest number represents all and takes their sum; the others stay as they were. Also
    returns the number of the node that now represents each, (N,).
    """
    count = len(nodes)
    # Chains of any length at once: a to b, b to c is one area.
    group = joined_by(pairs, count)
    # Written backwards, the smallest number of each group is written last and stays. LARGE nodes are the
    # smallest.
    lowest = np.empty(count, np.int64)
    lowest[group[::-1]] = np.arange(count)[::-1]
    stands = lowest[group]
    gone = np.flatnonzero(stands != np.arange(count))
    heirs = stands[gone]
    # ufunc.at, not `pixels[heirs] += ...`: several nodes may go into one.
    pixels, sizes, first, still = (
        nodes.pixels.copy(),
        nodes.sizes.copy(),
        nodes.first.copy(),
        nodes.open.copy(),
    )
    np.add.at(pixels, heirs, nodes.pixels[gone])
    np.add.at(sizes, heirs, nodes.sizes[gone])
    np.minimum.at(first, heirs, nodes.first[gone])
    np.logical_or.at(still, heirs, nodes.open[gone])
    # Large enough: only its class matters from here on, so its node goes to that of the class.
    grown = np.arange(LARGE, count)[sizes[LARGE:] >= least]
    onward = np.arange(count)
    onward[grown] = nodes.kinds[grown]
    return Nodes(nodes.kinds, pixels, sizes, first, still), onward[stands]


def merged_away(nodes: Nodes, borders: Borders, least: float) -> tuple[Nodes, Borders, np.ndarray, int]:
    """Merge every small area that need not wait for an open one. Returns nodes, remaining borders, the node
    that now represents each, and how many were merged.

    Nodes that were merged into others keep stale values.
    """
    number, given = np.arange(len(nodes)), 0
    shuffled = _shuffled(nodes.first)
    # Each pass merges every area that is the smallest around it; the shuffle keeps chains, and so the number
    # of passes, short.
    while len(borders.of):
        of, to = borders.of, borders.to
        # An open neighbour can only grow: an area that is smaller now stays smaller.
        first = (nodes.pixels[of] < nodes.pixels[to]) | (
            (nodes.pixels[of] == nodes.pixels[to]) & (shuffled[of] < shuffled[to])
        )
        ready = ~nodes.open
        # Only small neighbours are waited for: those above the minimum stay above it.
        ready[of[(to >= LARGE) & ~first]] = False
        mine = np.flatnonzero(ready[of])
        # All that is left waits for areas that continue below this strip.
        if not len(mine):
            break
        of, to = of[mine], to[mine]
        who, wanted = _longest(of, nodes.kinds[to], borders.place[mine])
        kinds = nodes.kinds.copy()
        kinds[who] = wanted
        joined = nodes.kinds[to] == kinds[of]
        # With all neighbours of its new class, not only the one with the longest border: they are one area
        # now.
        nodes, step = fused(replace(nodes, kinds=kinds), np.stack([of[joined], to[joined]]), least)
        # A merged area may begin earlier in the map, and with that its place among equals changes.
        shuffled[step[who]] = _shuffled(nodes.first[step[who]])
        borders, number, given = borders.renamed(step), step[number], given + len(who)
    return nodes, borders, number, given


def _longest(of: np.ndarray, kinds: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each area once, and the class with which it shares the longest border."""
    # lexsort's last key counts most: by area, then by class.
    order = np.lexsort((kinds, of))
    of, kinds = of[order], kinds[order]
    starts = np.flatnonzero(np.r_[True, (of[1:] != of[:-1]) | (kinds[1:] != kinds[:-1])])
    sides, place = np.diff(starts, append=len(of)), np.minimum.reduceat(place[order], starts)
    of, kinds = of[starts], kinds[starts]
    # Longest border first, and of equal ones that whose pixel comes first.
    order = np.lexsort((place, -sides, of))
    best = order[np.r_[True, of[order][1:] != of[order][:-1]]]
    return of[best], kinds[best]


def _shuffled(places: np.ndarray) -> np.ndarray:
    """Hash positions to distinct uint64 numbers, unrelated for neighbours: SplitMix64's finalizer, which is a
    bijection (Steele, Lea and Flood 2014).
    """
    mixed = places.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
