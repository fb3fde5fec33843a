"""The underflow lag against gradients that are multiplied until they are lost."""

from __future__ import annotations

import numpy as np
import pytest

from gradhorizon import theory

SMALLEST = {
    "float16 subnormal": float(np.finfo(np.float16).smallest_subnormal),
    "bfloat16 and float32 normal": float(np.finfo(np.float32).tiny),
    "float32 subnormal": float(np.finfo(np.float32).smallest_subnormal),
}


@pytest.mark.parametrize("start", [1.0, 3e-5, 700.0])
@pytest.mark.parametrize("rate", [-0.0137, -0.7, -5.0])
@pytest.mark.parametrize("smallest", SMALLEST.values(), ids=list(SMALLEST))
def test_gradient_lies_below_from_the_underflow_lag_on(rate: float, smallest: float, start: float) -> None:
    gradient, lag = start, 0
    while gradient >= smallest:
        gradient, lag = gradient * np.exp(rate), lag + 1
    assert lag - 1 <= theory.underflow_lag(rate, smallest, start) < lag


def test_half_of_the_gradient_lost_per_step_reaches_the_exponent_of_the_smallest_number() -> None:
    np.testing.assert_allclose(theory.underflow_lag(-np.log(2), 2.0**-149), 149, rtol=1e-14)


def test_range_of_float64_does_not_overflow() -> None:
    np.testing.assert_allclose(theory.underflow_lag(-1.0, 5e-324, 1e300), (323.306215 + 300) * np.log(10), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3, np.inf])
def test_gradient_that_does_not_decay_is_never_lost(rate: float) -> None:
    assert theory.underflow_lag(rate, 1e-38) == np.inf


def test_gradient_that_starts_below_is_lost_at_once() -> None:
    assert theory.underflow_lag(-0.1, 1e-38, 1e-40) == 0


def test_unknown_rate_has_an_unknown_lag() -> None:
    assert np.isnan(theory.underflow_lag(np.nan, 1e-38))


@pytest.mark.parametrize("name", ["smallest", "start"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_numbers_that_are_not_positive_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be positive"):
        theory.underflow_lag(-1.0, **{"smallest": 1e-38, name: value})
