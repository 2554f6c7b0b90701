"""A model of the joint values of all bands in a pixel: it finds swapped bands whose separate histograms look
the same.

Symbols   B bands  N pixels  K components  P pairs of bands, as itertools.combinations orders them

In a photograph, red and blue have similar histograms. But soil is redder than it is blue, and shadow bluer
than it is red: a pixel's values are likely together as in training, and unlikely with two bands swapped. A
Gaussian mixture over the logarithms of the values gives the likelihood. How much a swap that nobody made
seems to gain in other places is learned by cross-validation: each half of the training scenes is judged by
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from labelscape.contract.likeness import GAIN

COMPONENTS, PIXELS = 8, 6000
LOOKS = 200
"""Swaps tried on blocks of each half of the training scenes."""
LIGHTS = np.log(np.geomspace(*GAIN, 7))
"""Illumination gains, as logarithms: each scene is judged with the one that suits it best."""
LEAST_LIKELY = -15.0
"""Log-likelihoods are capped below here, so that clouds and glass roofs do not decide for all pixels."""
MOST_BANDS = 16
"""More bands have too many pairs to try."""


@dataclass(frozen=True)
class Colours:
    """The Gaussian mixture, and how much each swap must gain to be believed.

    floor        added to values before their logarithm, in the scenes' units, so that noise in dark pixels
                 has no weight
    weights      (K,)
    means        (K, B) of log(value + floor)
    covariances  (K, B, B)
    limits       (P,) the largest gain in mean log-likelihood, in nats per pixel, of swapping this pair that
                 was seen within the training scenes, plus a margin
    """

    floor: float
    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    covariances: tuple[tuple[tuple[float, ...], ...], ...]
    limits: tuple[float, ...] = ()

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> Colours:
        covariances = tuple(tuple(tuple(row) for row in matrix) for matrix in fields["covariances"])
        means, weights = (tuple(tuple(row) for row in fields["means"])), tuple(fields["weights"])
        return cls(fields["floor"], weights, means, covariances, tuple(fields["limits"]))

    @cached_property
    def _whitening(self) -> np.ndarray:
        """(K, B, B) matrices that whiten each component: deviations become independent with variance 1."""
        # Once per model: a check evaluates it for every pair of bands and every light.
        return np.linalg.inv(np.linalg.cholesky(np.array(self.covariances))).transpose(0, 2, 1)

    def likelihood(self, logs: np.ndarray) -> float:
        """Mean log-likelihood of pixels (N, B) of logarithms, in nats, under the best illumination gain."""
        parts = []
        for weight, mean, white in zip(self.weights, np.array(self.means), self._whitening):
            # A gain of all bands is the same number added to every logarithm: in whitened space a step along
            # `light`.
            apart, light = (logs - mean) @ white, white.sum(axis=0)
            # |apart + l light|^2 for every light l at once
            squares = (
                np.square(apart).sum(axis=1)
                + np.multiply.outer(2 * LIGHTS, apart @ light)
                + np.square(LIGHTS)[:, None] * (light @ light)
            )
            parts.append(
                np.log(weight)
                + np.log(np.diagonal(white)).sum()
                - logs.shape[1] / 2 * np.log(2 * np.pi)
                - squares / 2
            )
        together = np.array(parts)  # (K, lights, N)
        # The largest taken out first: exp() of log-likelihoods far below zero would all be 0.
        most = together.max(axis=0)
        likely = most + np.log(np.exp(together - most).sum(axis=0))
        # One light for the whole sample: a light for each pixel would explain any colour.
        return float(np.maximum(likely, LEAST_LIKELY).mean(axis=1).max())

    def gains(self, values: np.ndarray) -> np.ndarray:
        """(P,) gain in mean log-likelihood of pixels (B, N) from swapping each pair, in nats per pixel, each
        order under its best illumination gain.
        """
        logs = logarithms(values, self.floor)
        orders = [
            np.arange(len(values)),
            *(_exchanged(len(values), *pair) for pair in combinations(range(len(values)), 2)),
        ]
        likely = np.array([self.likelihood(logs[:, order]) for order in orders])
        # Element 0 is the present order.
        return likely[1:] - likely[0]

    def exchanged(self, values: np.ndarray) -> tuple[tuple[int, int], float]:
        """The pair of bands whose swap fits pixels (B, N) best, and its gain in nats per pixel; 0 where
        training scenes showed as large a gain without a swap.
        """
        gains = self.gains(_thinned(values, PIXELS // 2))
        best = int(np.argmax(gains))
        return list(combinations(range(len(values)), 2))[best], float(gains[best]) if gains[
            best
        ] > self.limits[best] else 0.0


def colours_of(blocks: Sequence[np.ndarray]) -> Colours | None:
    """Fit to blocks (B, n) of values, in the order of the training scenes.

    None where bands cannot be told apart: a single one, more than MOST_BANDS, values below zero, or too few
    pixels.
    """
    together = _thinned(np.concatenate(blocks, axis=1), PIXELS)
    middle = float(np.median(together))
    if (
        not 2 <= len(together) <= MOST_BANDS
        or together.min() < 0
        or middle <= 0
        or together.shape[1] < 50 * COMPONENTS
    ):
        return None
    # Relative to the scenes' own level, for reflectances of 0..1 and for 16-bit counts alike.
    floor = 0.05 * middle
    half = len(blocks) // 2
    # -inf: a pair that no half could judge gets a limit of 0 below.
    seen = np.full(len(list(combinations(range(len(together)), 2))), -np.inf)
    for judges, judged in ((blocks[:half], blocks[half:]), (blocks[half:], blocks[:half])):
        known = _thinned(np.concatenate(judges, axis=1), PIXELS) if judges else together[:, :0]
        if known.shape[1] < 50 * COMPONENTS:
            continue
        mixture = _mixture(known, floor)
        # Pairs grow with the square of the bands: the number of blocks shrinks in turn, so that time stays
        # bounded.
        for block in judged[:: max(1, len(judged) * len(seen) // LOOKS)]:
            seen = np.maximum(seen, mixture.gains(_thinned(block, 1000)))
    limits = np.maximum(1.2 * seen + 0.3, 0.0)
    whole = _mixture(together, floor)
    # Four digits: differences in the last bits between machines would change the checkpoint's bytes.
    return Colours(
        whole.floor, whole.weights, whole.means, whole.covariances, tuple(float(f"{v:.4g}") for v in limits)
    )


def logarithms(values: np.ndarray, floor: float) -> np.ndarray:
    """Values (B, N) -> logarithms (N, B)."""
    return np.log(np.maximum(values, 0).T.astype(np.float64) + floor)


def _mixture(values: np.ndarray, floor: float) -> Colours:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    # One thread: matrices this small gain nothing from more, and the checkpoint's bytes must not
    # depend on their number.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # scenes with fewer colours than components
        fitted = GaussianMixture(
            COMPONENTS, reg_covar=1e-4, tol=1e-2, init_params="k-means++", random_state=0
        ).fit(logarithms(values, floor))
    short = np.vectorize(lambda v: float(f"{v:.6g}"))
    weights, means, covariances = short(fitted.weights_), short(fitted.means_), short(fitted.covariances_)
    return Colours(
        floor,
        tuple(weights.tolist()),
        tuple(map(tuple, means.tolist())),
        tuple(tuple(map(tuple, c)) for c in covariances.tolist()),
    )


def _exchanged(bands: int, one: int, two: int) -> np.ndarray:
    order = np.arange(bands)
    order[[one, two]] = two, one
    return order


def _thinned(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` pixels of (B, N), evenly spaced."""
    return values[:, np.linspace(0, values.shape[1] - 1, min(most, values.shape[1])).astype(int)]
