"""How far a network's features lie from those of its training data: what it has learned to look like, and a
limit beyond which its input is unfamiliar.

Sources  K. Lee, K. Lee, H. Lee, J. Shin. "A Simple Unified Framework for Detecting Out-of-Distribution
         Samples and Adversarial Attacks". NeurIPS 2018: the Mahalanobis distance to the nearest class mean.
         M. Tipping, C. Bishop. "Probabilistic Principal Component Analysis". J. R. Stat. Soc. B 61, 1999:
         the covariance, leading directions and one variance for all others.
Differs  One layer (the last before the classes), and a quantile of held-out pixels as the limit, where Lee et
         al. train a detector on several layers.

With x a feature less the mean of all, m_k a class mean, u_r the leading directions of the covariance within
classes, v_r their variances and v that of the rest,

    d^2 = min_k  sum_r (u_r . (x - m_k))^2 / v_r  +  |(x - m_k) less its parts along all u_r|^2 / v
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RANK = 64
"""Leading directions that are kept (ours): the block stays below a megabyte for 2,048 channels."""
SHRINK = 0.01
"""Share of the mean variance in every variance (ours): directions that training hardly used would otherwise
make any input infinitely far.
"""
QUANTILE = 0.99
"""Of the distances of held-out pixels: the limit."""
ARRAYS = ("centre", "directions", "variances", "means")
PREFIX = "familiarity."
"""Of the names of its arrays in a checkpoint."""
PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Features of training data: C channels, R directions, K classes that had training pixels.

    layer       name of the module whose input the features are
    centre      (C,) mean; the others are relative to it
    directions  (R, C) orthonormal; variances (R,) along them, and `rest` in every other direction
    means       (K, C) of classes
    limit       distance within which `quantile` of the pixels of `part` lie
    pixels      numbers of pixels that the means and the limit come from

    Raises ValueError where these do not fit together.
    """

    layer: str
    centre: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: float
    means: np.ndarray
    limit: float
    quantile: float
    part: str
    pixels: tuple[int, int]

    def __post_init__(self) -> None:
        arrays = [getattr(self, name) for name in ARRAYS]
        channels, rank = len(self.centre), len(self.variances)
        shapes = [np.shape(one) for one in arrays]
        wanted = [(channels,), (rank, channels), (rank,), (len(self.means), channels)]
        if shapes != wanted or not channels or not len(self.means):
            raise ValueError(f"familiarity: arrays of shapes {shapes} do not fit together")
        if not all(np.isfinite(one).all() for one in arrays) or not (self.variances > 0).all():
            raise ValueError("familiarity: finite numbers and variances above 0 were expected")
        for number in (self.rest, self.limit, self.quantile):
            if not 0 < number < math.inf:
                raise ValueError("familiarity: numbers above 0 were expected")
        if self.part not in PARTS:
            raise ValueError(f"familiarity: part {self.part!r} must be one of {', '.join(PARTS)}")

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(N, C) features -> (N,) distances to the nearest class mean, float64."""
        x = np.asarray(features, np.float64) - self.centre
        along, mean_along = x @ self.directions.T, self.means @ self.directions.T
        beside, mean_beside = x - along @ self.directions, self.means - mean_along @ self.directions
        nearest = np.full(len(x), np.inf)
        for m, b in zip(mean_along, mean_beside):
            squared = ((along - m) ** 2 / self.variances).sum(axis=1)
            squared += ((beside - b) ** 2).sum(axis=1) / self.rest
            nearest = np.minimum(nearest, squared)
        return np.sqrt(nearest)

    def describe(self) -> dict:
        """All but the arrays, as JSON values, with their SHA-256."""
        return {
            "layer": self.layer,
            "rest": self.rest,
            "limit": self.limit,
            "quantile": self.quantile,
            "part": self.part,
            "pixels": list(self.pixels),
            "sha256": self._digest(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Names as in a checkpoint -> float64."""
        return {PREFIX + name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def from_dict(cls, fields: Mapping, arrays: Mapping[str, np.ndarray]) -> Familiarity:
        """The inverse of `describe` and `arrays`. Raises KeyError, TypeError or ValueError for what is
        none.
        """
        own = {name: np.asarray(arrays[PREFIX + name], np.float64) for name in ARRAYS}
        numbers = {name: float(fields[name]) for name in ("rest", "limit", "quantile")}
        first, second = fields["pixels"]
        made = cls(
            str(fields["layer"]), **own, **numbers, part=fields["part"], pixels=(int(first), int(second))
        )
        if made._digest() != fields["sha256"]:
            raise ValueError("familiarity: its arrays are not those that were stored")
        return made

    @classmethod
    def of_file(cls, fields: Mapping | None, arrays: Mapping[str, np.ndarray]) -> Familiarity | None:
        """`from_dict`, None for a checkpoint without. Raises as it does."""
        return cls.from_dict(fields, arrays) if fields else None

    def _digest(self) -> str:
        # The description alone tells checkpoints apart (`checkpoint.fingerprint`).
        digest = hashlib.sha256()
        for name in ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name), np.float64).tobytes())
        return digest.hexdigest()


class Moments:
    """Counts, sums and products of features by class, added up pixel by pixel in float64."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.origin: np.ndarray | None = None
        self.counts = np.zeros(classes, np.int64)
        self.sums = self.products = np.zeros(0)

    def add(self, features: np.ndarray, classes: np.ndarray) -> None:
        """Features (N, C) of pixels of these classes (N,)."""
        if not len(features):
            return
        features = np.asarray(features, np.float64)
        if self.origin is None:
            # Near the mean: products of large numbers would lose the digits in which they differ.
            self.origin = features.mean(axis=0)
            channels = len(self.origin)
            self.sums, self.products = np.zeros((self.classes, channels)), np.zeros((channels, channels))
        x = features - self.origin
        self.counts += np.bincount(classes, minlength=self.classes)
        np.add.at(self.sums, classes, x)
        self.products += x.T @ x

    def fitted(self) -> dict[str, np.ndarray | float]:
        """centre, directions, variances, rest and means of a `Familiarity`, by their names. Raises ValueError
        without a feature.
        """
        present = self.counts > 0
        if self.origin is None:
            raise ValueError("familiarity: no feature of a labelled pixel")
        counts, sums = self.counts[present], self.sums[present]
        means, total = sums / counts[:, None], int(counts.sum())
        within = self.products - (means * counts[:, None]).T @ means
        within /= max(1, total - len(counts))
        values, vectors = np.linalg.eigh((within + within.T) / 2)
        # Ascending, and below 0 by rounding.
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        floor = SHRINK * values.mean() or 1e-12  # constant features have no variance at all
        rank = min(RANK, len(values))
        rest = values[rank:].mean() if rank < len(values) else values.mean()
        centre = sums.sum(axis=0) / total
        return {
            "centre": self.origin + centre,
            # The sign of an eigenvector is arbitrary, and differs between machines; distances do not.
            "directions": vectors[:, :rank].T.copy(),
            "variances": (1 - SHRINK) * values[:rank] + floor,
            "rest": float((1 - SHRINK) * rest + floor),
            "means": means - centre,
        }
