"""Sizes and allocations against hand-calculated numbers and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelscape.assessment.size import (
    allocate,
    deviations,
    expected_accuracies,
    predicted_error,
    smallest_size,
)
from labelscape.errors import BadOption, UnknownName

# Olofsson et al. (2014), sec. 5.1: shares of four classes and the user's accuracies that they expect.
SHARES = np.array([0.020, 0.015, 0.320, 0.645])
EXPECTED = {"deforestation": 0.70, "gain": 0.60, "forest": 0.90, "other": 0.95}
PIXELS = (SHARES * 10_000_000).astype(np.int64)


def spreads():
    return deviations(np.diag(SHARES), EXPECTED, list(EXPECTED), list(EXPECTED))


def test_the_size_of_olofsson_2014():
    """They find 641 points for a standard error of 0.01, by Cochran's eq. 5.25 (optimum allocation)."""
    assert spreads() == pytest.approx([0.458, 0.490, 0.300, 0.218], abs=5e-4)
    assert smallest_size(0.01, "neyman", SHARES, spreads(), PIXELS, 2) == pytest.approx(641, abs=3)


def test_allocations_of_olofsson_2014():
    """Table 5: equal 160 each; proportional 13, 10, 205, 413."""
    assert allocate(640, "equal", SHARES, spreads(), PIXELS, 2).tolist() == [160] * 4
    assert allocate(641, "proportional", SHARES, spreads(), PIXELS, 2).tolist() == [13, 10, 205, 413]
    # 75 for each rare class, and the rest in proportion, as in their example.
    floored = allocate(640, "proportional", SHARES, spreads(), PIXELS, 75)
    assert floored.tolist() == [75, 75, round(490 * 0.32 / 0.965), round(490 * 0.645 / 0.965)]


def test_neyman_gives_by_share_times_deviation():
    points = allocate(1000, "neyman", np.array([0.5, 0.5]), np.array([0.1, 0.3]), np.array([10**6] * 2), 2)
    assert points.tolist() == [250, 750]


def test_a_predicted_error_by_hand():
    found = predicted_error(
        np.array([20, 50]), np.array([0.4, 0.6]), np.array([0.5, 0.3]), np.array([40, 10**9])
    )
    assert found == pytest.approx(math.sqrt(0.16 * 0.25 / 20 * 0.5 + 0.36 * 0.09 / 50))


strata = st.lists(st.tuples(st.integers(0, 5000), st.floats(0.01, 0.5)), min_size=1, max_size=6).filter(
    lambda rows: any(n for n, _ in rows)
)


@settings(deadline=None)  # a busy machine is no slow function
@given(strata, st.integers(1, 3000), st.sampled_from(["proportional", "equal", "neyman"]), st.integers(2, 60))
def test_an_allocation_is_whole_floored_and_possible(rows, size, kind, floor):
    units, spread = np.array([n for n, _ in rows]), np.array([s for _, s in rows])
    points = allocate(size, kind, units / units.sum(), spread, units, floor)
    least = np.minimum(floor, units)
    assert (points >= least).all() and (points <= units).all()
    assert points.sum() == min(max(size, least.sum()), units.sum())


@settings(deadline=None)
@given(st.floats(0.005, 0.05), st.sampled_from(["proportional", "equal", "neyman"]), st.integers(2, 100))
def test_the_size_is_the_smallest_that_meets_the_target(target, kind, floor):
    size = smallest_size(target, kind, SHARES, spreads(), PIXELS, floor)

    def error(n):
        return predicted_error(allocate(n, kind, SHARES, spreads(), PIXELS, floor), SHARES, spreads(), PIXELS)

    assert error(size) <= target
    assert size == 1 or error(size - 1) > target


def test_deviations_of_a_class_count_what_is_omitted_elsewhere():
    """60 % a (10 % wrong), 40 % b (20 % wrong): of b's stratum 80 % are b, of a's 10 %."""
    found = deviations(np.diag([0.6, 0.4]), {"a": 0.9, "b": 0.8}, ["a", "b"], ["a", "b"], "b")
    assert found == pytest.approx([math.sqrt(0.1 * 0.9), math.sqrt(0.8 * 0.2)])
    # A stratum of both classes, half and half: 45 % are b.
    (mixed,) = deviations(np.array([[0.5, 0.5]]), {"a": 0.9, "b": 0.8}, ["a", "b"], ["all"], "b")
    assert mixed == pytest.approx(math.sqrt(0.45 * 0.55))


def test_impossible_wishes_are_refused():
    with pytest.raises(BadOption, match="needs more than 200,000 points"):
        smallest_size(0.0001, "proportional", SHARES, spreads(), PIXELS * 1000, 2)
    with pytest.raises(BadOption, match="above 0 and below 1"):
        expected_accuracies({"a": 1.2}, 0.8, ["a"], ["a"])
    with pytest.raises(UnknownName, match="Did you mean 'forest'"):
        expected_accuracies({"forst": 0.9}, 0.8, ["forest"], ["forest"])
