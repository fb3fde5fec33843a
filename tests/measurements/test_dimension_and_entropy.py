"""Kaplan–Yorke dimension and entropy rate of spectra worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradhorizon.jacobians.dimension import entropy_rate, kaplan_yorke_dimension
from tests.measurements.spectra import slow_dimension, slow_entropy_rate

BY_HAND = {
    "flow on a strange attractor": ([0.9, 0.0, -14.5], 3, 2 + 0.9 / 14.5, 0.9),
    "largest is negative": ([-0.1, -0.2], 2, 0.0, 0.0),
    "largest is zero": ([0.0, -1.0], 2, 1.0, 0.0),
    "sum of two is exactly zero": ([1.0, -1.0, -2.0], 3, 2.0, 1.0),
    "sum of all is exactly zero": ([1.0, -1.0], 2, 2.0, 1.0),
    "volume grows": ([2.0, 1.0, -1.0], 3, 3.0, 3.0),
    "two directions of chaos": ([0.5, 0.25, -1.0, -1.0], 4, 2.75, 0.75),
    "rest unmeasured but not needed": ([0.5, -1.0], 10, 1.5, 0.5),
    "rest unmeasured, dimension needs it": ([0.5, -0.25], 10, np.nan, 0.5),
    "rest unmeasured, both need it": ([0.5, 0.25], 10, np.nan, np.nan),
    "rest unmeasured, last is zero": ([0.5, 0.0], 10, np.nan, 0.5),
    "rest unmeasured, all decay": ([-0.5, -0.6], 10, 0.0, 0.0),
    "below resolution ends the sum": ([0.5, -np.inf], 2, 1.0, 0.5),
    "below resolution after the sum has ended": ([0.5, -1.0, -np.inf, -np.inf], 4, 1.5, 0.5),
    "all below resolution": ([-np.inf, -np.inf], 2, 0.0, 0.0),
    "not finite": ([np.nan, np.nan], 2, np.nan, np.nan),
    "one exponent": ([0.3], 1, 1.0, 0.3),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_spectrum_worked_out_by_hand(name: str) -> None:
    exponents, size, dimension, rate = BY_HAND[name]
    np.testing.assert_allclose(kaplan_yorke_dimension(np.array([exponents]), size), [dimension], rtol=1e-15)
    np.testing.assert_allclose(entropy_rate(np.array([exponents]), size), [rate], rtol=1e-15)


def test_samples_do_not_touch_each_other() -> None:
    exponents = np.array([[0.5, -1.0], [np.nan, np.nan], [-1.0, -np.inf]])
    np.testing.assert_array_equal(kaplan_yorke_dimension(exponents, 2), [1.5, np.nan, 0.0])
    np.testing.assert_array_equal(entropy_rate(exponents, 2), [0.5, np.nan, 0.0])


@given(
    st.lists(st.floats(-3, 3, allow_subnormal=False).map(lambda value: round(value, 3)), min_size=1, max_size=8),
    st.integers(0, 2),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_random_spectra_equal_one_exponent_after_the_other(exponents: list[float], num_unmeasured: int) -> None:
    ordered = np.sort(exponents)[::-1]
    size = len(ordered) + num_unmeasured
    found = kaplan_yorke_dimension(ordered[None], size)
    np.testing.assert_allclose(found, [slow_dimension(ordered, size)], rtol=1e-12)
    np.testing.assert_allclose(entropy_rate(ordered[None], size), [slow_entropy_rate(ordered, size)], rtol=1e-12)


def test_dimension_does_not_depend_on_the_unit_of_time() -> None:
    exponents = np.array([[0.75, 0.25, -0.5, -2.0]])
    assert kaplan_yorke_dimension(4 * exponents, 4) == kaplan_yorke_dimension(exponents, 4)
    assert entropy_rate(4 * exponents, 4) == 4 * entropy_rate(exponents, 4)
