"""Groups of things that pairs of them join. scipy is imported when it is needed: not every map has its areas
counted or traced.
"""

from __future__ import annotations

import numpy as np


def joined_by(pairs: np.ndarray, count: int) -> np.ndarray:
    """Numbers (2, P) of things that belong together, two and two -> the number of the group (`count`,) that
    each of the things belongs to, through chains of any length.
    """
    if not count:
        return np.zeros(0, np.int32)
    from scipy.sparse import coo_array

    return _groups(coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count)))


def ring_of(follows: np.ndarray) -> np.ndarray:
    """For each of N the one that follows it -> the number of the ring (N,) that it is part of."""
    from scipy.sparse import csr_array

    return _groups(csr_array((np.ones(len(follows), bool), follows, np.arange(len(follows) + 1))))


def _groups(graph: object) -> np.ndarray:
    from scipy.sparse.csgraph import connected_components

    return connected_components(graph, directed=False)[1]
