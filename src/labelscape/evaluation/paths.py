"""Are routes along roads as long as they should be? APLS, average path length similarity (Van Etten,
Lindenbaum and Bacastow 2018, SpaceNet, arXiv:1807.01232).

    S(G -> G') = 1 - mean of min(1, |L(a, b) - L(a', b')| / L(a, b)), over pairs a, b of G with a path
    APLS       = harmonic mean of S(truth -> prediction) and S(prediction -> truth)

L is the length of the shortest path in metres; a' is the place of G' that is nearest to a. Where there is
none within the snap distance, or no path, the term is 1. The nodes a, b are ends, junctions, and points every
SPACING metres of line.

Differs   Graphs are skeletons of the masks (`topology.thinned`): steps from pixel to pixel, so that slanting
          lines are up to 8 % longer, in both graphs alike. a' is a pixel of the other skeleton. The snap
          distance is at least SNAP_PIXELS pixels, for imagery coarser than SpaceNet's 0.3 m. Paths are pooled
          over scenes, where SpaceNet takes the mean of chips. Of more than MOST_NODES nodes of a graph as
          many are drawn, as in SpaceNet's code, here by a fixed seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from labelscape.errors import BadInput
from labelscape.evaluation.metrics import plain
from labelscape.evaluation.topology import Mask, thinned

SPACING, SNAP, SHORTEST = 50.0, 4.0, 10.0
"""Metres, SpaceNet's: between nodes along a line, to the other graph, of the shortest path that counts."""
SNAP_PIXELS = 2.0
MOST_NODES = 500
SOURCES = 32
"""Nodes from which paths are measured at a time: as many numbers a node of the graph are in memory."""


@dataclass(frozen=True)
class PathCounts:
    """Paths of one class, which add up: their number in the truth and in the prediction, and the sum of their
    relative differences in length, each at most 1.
    """

    name: str
    true: int
    true_error: float
    predicted: int
    predicted_error: float

    def __add__(self, other: PathCounts) -> PathCounts:
        """The paths of both. Raises BadInput where they are of different classes."""
        if self.name != other.name:
            raise BadInput(f"Paths along {self.name} and along {other.name} cannot be added.")
        fields = ("true", "true_error", "predicted", "predicted_error")
        return PathCounts(self.name, *(getattr(self, f) + getattr(other, f) for f in fields))

    @property
    def of_truth(self) -> float:
        """S(truth -> prediction): are true paths found? NaN without any."""
        return 1 - self.true_error / self.true if self.true else float("nan")

    @property
    def of_prediction(self) -> float:
        """S(prediction -> truth): do predicted paths exist? NaN without any."""
        return 1 - self.predicted_error / self.predicted if self.predicted else float("nan")

    @property
    def apls(self) -> float:
        """Their harmonic mean; 0 where one side has paths and the other none, NaN where neither has."""
        if not self.true or not self.predicted:
            return 0.0 if self.true or self.predicted else float("nan")
        summed = self.of_truth + self.of_prediction
        return 2 * self.of_truth * self.of_prediction / summed if summed else 0.0

    def to_dict(self) -> dict:
        """JSON values: scores as fractions, None where undefined, and what they come from."""
        scores = {name: plain(getattr(self, name)) for name in ("apls", "of_truth", "of_prediction")}
        counts = {k: getattr(self, k) for k in ("true", "true_error", "predicted", "predicted_error")}
        return {"class": self.name, **scores, **counts}

    @classmethod
    def from_dict(cls, fields: Mapping) -> PathCounts:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for other fields."""
        sides = ((int(fields[k]), float(fields[f"{k}_error"])) for k in ("true", "predicted"))
        return cls(fields["class"], *(value for side in sides for value in side))


@dataclass(frozen=True, eq=False)
class Lines:
    """The pixels of a skeleton as a graph.

    places   (N, 2) metres of each pixel from the first row and column
    steps    (N, N) lengths in metres between neighbouring pixels, both ways
    """

    places: np.ndarray
    steps: csr_array

    @classmethod
    def of(cls, pixels: tuple[np.ndarray, np.ndarray], size: tuple[float, float]) -> Lines:
        """Of rows and columns (N,) of a skeleton, row by row; pixels are `size` metres high and wide."""
        rows, columns = pixels
        # Two columns between the last of a row and the first of the next: these are no neighbours.
        across = int(columns.max(initial=0)) + 3
        places = rows * across + columns
        ends, lengths = [], []
        # Half of the eight neighbours: each pair of pixels once.
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            wanted = places + down * across + right
            # Looked up in the sorted places: a table of the whole scene would not fit into memory.
            other = np.minimum(np.searchsorted(places, wanted), max(0, len(places) - 1))
            here = np.flatnonzero(places[other] == wanted) if len(places) else other
            ends.append(np.stack([here, other[here]]))
            lengths.append(np.full(len(here), np.hypot(down * size[0], right * size[1])))
        pairs, lengths = np.concatenate(ends, axis=1), np.concatenate(lengths)
        return cls(np.stack([rows * size[0], columns * size[1]], axis=1), _graph(pairs, lengths, len(rows)))

    def keys(self) -> np.ndarray:
        """Ends and junctions, and one pixel of each ring that has none."""
        key = np.diff(self.steps.indptr) != 2
        count, parts = connected_components(self.steps, directed=False)
        has = np.bincount(parts, weights=key, minlength=count) > 0
        first = np.unique(parts, return_index=True)[1]
        key[first[~has]] = True
        return np.flatnonzero(key)

    def nodes(self) -> np.ndarray:
        """The pixels between which paths are measured: ends, one of each junction, and every SPACING metres
        from the nearest of these; of more than MOST_NODES as many, drawn by a fixed seed.
        """
        if not len(self.places):
            return np.zeros(0, np.int64)
        keys, degree = self.keys(), np.diff(self.steps.indptr)
        away = dijkstra(self.steps, directed=False, indices=keys, min_only=True) // SPACING
        # The first pixel beyond each multiple of the spacing.
        beyond = np.unique(self._starts[away[self._starts] > away[self.steps.indices]])
        # Where lines meet, several pixels in touch have three neighbours: one junction.
        crossing = np.flatnonzero(degree > 2)
        groups = connected_components(self.steps[crossing][:, crossing], directed=False)[1]
        junctions = crossing[np.unique(groups, return_index=True)[1]]
        found = np.unique(np.concatenate([keys[degree[keys] <= 2], junctions, beyond]))
        if len(found) <= MOST_NODES:
            return found
        return np.sort(np.random.default_rng(0).choice(found, MOST_NODES, replace=False))

    @property
    def _starts(self) -> np.ndarray:
        """The pixel from which each step leads; `steps.indices` are those to which."""
        return np.repeat(np.arange(len(self.places)), np.diff(self.steps.indptr))

    def between(self, nodes: np.ndarray) -> np.ndarray:
        """(K, K) lengths of the shortest paths between pixels, infinite where there is none."""
        wanted, place = np.unique(nodes, return_inverse=True)
        kept, graph = self._contracted(np.union1d(self.keys(), wanted))
        own = np.searchsorted(kept, wanted)
        found = np.empty((len(own), len(own)))
        for first in range(0, len(own), SOURCES):
            some = own[first : first + SOURCES]
            found[first : first + SOURCES] = dijkstra(graph, directed=False, indices=some)[:, own]
        return found[np.ix_(place, place)]

    def _contracted(self, kept: np.ndarray) -> tuple[np.ndarray, csr_array]:
        """The graph of the pixels `kept` alone, among them all ends and junctions: the chains between them
        become single edges, which makes it hundreds of times smaller.
        """
        is_kept = np.zeros(len(self.places), bool)
        is_kept[kept] = True
        start, end = self._starts, self.steps.indices
        length, (a, b) = self.steps.data, (is_kept[start], is_kept[end])
        # What is not kept has two neighbours, so that the components of it are chains.
        inner = ~a & ~b
        pairs = np.stack([start[inner], end[inner]])
        chains = _graph(pairs, length[inner], len(is_kept), both=False)
        count, chain = connected_components(chains, directed=False)
        # Each step is there both ways.
        inside = np.bincount(chain[start[inner]], weights=length[inner] / 2, minlength=count)
        # The two ends of each chain, next to each other.
        out = np.flatnonzero(a & ~b)
        out = out[np.argsort(chain[end[out]], kind="stable")]
        first, second = out[::2], out[1::2]
        through = length[first] + length[second] + inside[chain[end[first]]]
        direct = np.flatnonzero(a & b & (start < end))
        near = np.concatenate([start[first], start[direct]])
        far = np.concatenate([start[second], end[direct]])
        pairs = np.searchsorted(kept, np.stack([near, far]))
        return kept, _graph(pairs, np.concatenate([through, length[direct]]), len(kept))


def _graph(pairs: np.ndarray, lengths: np.ndarray, count: int, *, both: bool = True) -> csr_array:
    """A graph of `count` nodes from pairs (2, E); of parallel edges the shortest."""
    if both:
        pairs, lengths = np.concatenate([pairs, pairs[::-1]], axis=1), np.tile(lengths, 2)
    # Longest first: of equal pairs the last one stays. A sum, as SciPy makes it, would be no path.
    order = np.argsort(-lengths, kind="stable")
    edges = pairs[0, order].astype(np.int64) * count + pairs[1, order]
    edges, last = np.unique(edges[::-1], return_index=True)
    places = edges // max(1, count), edges % max(1, count)
    return csr_array((lengths[order][::-1][last], places), (count, count))


def count_paths(truth: Mask, predicted: Mask, name: str, size: tuple[float, float]) -> PathCounts:
    """Paths along two masks (H, W) whose pixels are `size` metres high and wide, each in the other."""
    snap = max(SNAP, SNAP_PIXELS * max(size))
    one, other = (Lines.of(thinned(mask), size) for mask in (truth, predicted))
    return PathCounts(name, *_errors(one, other, snap), *_errors(other, one, snap))


def _errors(own: Lines, other: Lines, snap: float) -> tuple[int, float]:
    """Number of paths of a graph, and the sum of their relative differences in another one."""
    nodes = own.nodes()
    if not len(nodes):
        return 0, 0.0
    length = own.between(nodes)
    there = np.full(length.shape, np.inf)
    if len(other.places):
        away, nearest = cKDTree(other.places).query(own.places[nodes])
        near = np.flatnonzero(away <= snap)
        there[np.ix_(near, near)] = other.between(nearest[near])
    pairs = np.triu(np.isfinite(length) & (length >= SHORTEST), 1)
    # Infinite where a path is missing: then the term is 1.
    terms = np.minimum(1, np.abs(length[pairs] - there[pairs]) / length[pairs])
    return int(pairs.sum()), float(terms.sum())
