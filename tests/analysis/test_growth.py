"""Growth rate, horizon and verdict against profiles whose truth is known exactly."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gradhorizon.analysis.statistics.growth import (
    Horizon,
    Interval,
    classify,
    coverage,
    gradient_horizon,
    growth_rate,
    horizon_interval,
    median_interval,
    median_profile,
    rate_interval,
    spoken_coverage,
    tendency,
    verdict,
)

LAGS = np.arange(101)


@pytest.mark.parametrize("rate", [-0.7, -0.01, 0.0, 0.3])
def test_exponential_profile_has_its_own_rate(rate: float) -> None:
    assert growth_rate(LAGS, np.exp(rate * LAGS)) == pytest.approx(rate, rel=1e-12, abs=1e-14)


def test_rate_ignores_the_jump_at_lag_zero() -> None:
    profile = np.where(LAGS == 0, 1.0, 1e-4 * np.exp(-0.2 * LAGS))
    assert growth_rate(LAGS, profile) == pytest.approx(-0.2, rel=1e-12)


def test_rate_of_a_power_law_is_the_least_squares_slope() -> None:
    lags = np.arange(1, 101)
    slope = np.cov(lags, -2 * np.log(lags), bias=True)[0, 1] / np.var(lags)
    assert growth_rate(LAGS, np.append(1.0, lags**-2.0)) == pytest.approx(slope, rel=1e-10)


def test_noise_leaves_the_rate_within_its_standard_error(generator: np.random.Generator) -> None:
    noise = 0.3 * generator.standard_normal(len(LAGS))
    standard_error = 0.3 / np.sqrt(np.sum((LAGS[1:] - LAGS[1:].mean()) ** 2))
    assert abs(growth_rate(LAGS, np.exp(-0.1 * LAGS + noise)) + 0.1) < 5 * standard_error


def test_rate_survives_underflow() -> None:
    profile = np.exp(-14.0 * LAGS)
    assert profile[-1] == 0
    # Subnormal numbers carry fewer bits, so the last values before the zeros are rounded.
    assert growth_rate(LAGS, profile) == pytest.approx(-14.0, rel=1e-3)


def test_profile_cut_off_by_exact_zeros_has_rate_minus_infinity() -> None:
    assert growth_rate(LAGS, np.where(LAGS < 5, 0.9 + 0.02 * LAGS, 0.0)) == -math.inf


@pytest.mark.parametrize(("num_zeros", "expected"), [(9, -0.01), (10, -math.inf)])
def test_only_a_tenth_of_exact_zeros_cuts_a_profile_off(num_zeros: int, expected: float) -> None:
    profile = np.where(100 - num_zeros >= LAGS, np.exp(-0.01 * LAGS), 0.0)
    assert growth_rate(LAGS, profile) == pytest.approx(expected, rel=1e-9)


def test_scattered_zeros_leave_the_rate_alone() -> None:
    profile = np.exp(-0.1 * LAGS)
    profile[[3, 50]] = 0.0
    assert growth_rate(LAGS, profile) == pytest.approx(-0.1, rel=1e-12)


@pytest.mark.parametrize(("filling", "expected"), [(0.0, -math.inf), (math.inf, math.inf), (math.nan, math.nan)])
def test_profile_without_usable_values_has_the_rate_they_imply(filling: float, expected: float) -> None:
    rate = growth_rate(LAGS, np.where(LAGS == 0, 1.0, filling))
    assert rate == pytest.approx(expected, nan_ok=True)


def test_single_step_has_no_rate() -> None:
    assert math.isnan(growth_rate(np.array([0]), np.array([1.0])))


def test_non_finite_values_are_left_out_of_the_rate() -> None:
    profile = np.exp(0.2 * LAGS)
    profile[-3:] = np.inf
    profile[7] = np.nan
    assert growth_rate(LAGS, profile) == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize(("rate", "lag"), [(-0.5, 14), (-0.1, 70)])
def test_horizon_is_the_first_lag_under_the_level(rate: float, lag: int) -> None:
    assert lag == math.floor(math.log(1e-3) / rate) + 1
    assert gradient_horizon(LAGS, np.exp(rate * LAGS)) == Horizon(lag, False)


def test_horizon_waits_until_the_profile_stays_under() -> None:
    profile = np.full(101, 1e-6)
    profile[[0, 40]] = 1.0
    assert gradient_horizon(LAGS, profile) == Horizon(41, False)


@pytest.mark.parametrize("profile", [np.ones(101), np.exp(0.1 * LAGS), np.where(LAGS == 100, 1.0, 1e-9)])
def test_profile_that_ends_above_the_level_is_censored(profile: np.ndarray) -> None:
    assert gradient_horizon(LAGS, profile) == Horizon(100, True)


def test_exactly_the_level_still_counts_as_reaching() -> None:
    assert gradient_horizon(np.arange(3), np.array([1.0, 1e-3, 1e-4])) == Horizon(2, False)


def test_exact_zeros_are_under_the_level() -> None:
    assert gradient_horizon(LAGS, np.where(LAGS < 9, 1.0, 0.0)) == Horizon(9, False)


def test_single_step_has_a_censored_horizon() -> None:
    assert gradient_horizon(np.array([0]), np.array([1.0])) == Horizon(0, True)


def test_nan_is_not_known_to_be_under_the_level() -> None:
    profile = np.exp(-0.5 * LAGS)
    profile[60] = np.nan
    assert gradient_horizon(LAGS, profile) == Horizon(61, False)


def test_profile_of_nan_has_no_horizon() -> None:
    assert math.isnan(gradient_horizon(LAGS, np.full(101, np.nan)).lag)


def test_horizon_is_a_recorded_lag() -> None:
    lags = np.array([0, 1, 10, 100, 1000])
    assert gradient_horizon(lags, np.exp(-0.1 * lags)) == Horizon(100, False)


def test_median_profile_leaves_out_seeds_without_a_number() -> None:
    profiles = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]])
    np.testing.assert_array_equal(median_profile(profiles), [2.0, 2.0, np.nan])


@pytest.mark.parametrize("num_seeds", [1, 4])
def test_fewer_than_five_seeds_have_no_interval(num_seeds: int) -> None:
    assert rate_interval(np.linspace(-0.5, -0.4, num_seeds)) is None


def test_equal_rates_have_an_interval_of_no_width() -> None:
    assert rate_interval(np.full(5, -0.25)) == Interval(-0.25, -0.25)


def test_rate_interval_holds_the_median_and_stays_within_the_seeds() -> None:
    rates = np.array([-0.52, -0.50, -0.47, -0.55, -0.49, -0.51, -0.50])
    interval = rate_interval(rates)
    assert interval is not None
    assert rates.min() <= interval.low < np.median(rates) < interval.high <= rates.max()


@pytest.mark.parametrize("num_seeds", [6, 7, 8, 9, 10, 20, 51])
def test_interval_of_the_median_is_that_of_scipy(num_seeds: int) -> None:
    values = np.random.default_rng(num_seeds).normal(size=num_seeds)
    expected: Any = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert median_interval(values) == Interval(float(expected.low), float(expected.high))


@pytest.mark.parametrize("num_seeds", [5, 6, 9, 10, 20])
def test_coverage_is_that_of_all_ways_to_fall_on_either_side_of_the_median(num_seeds: int) -> None:
    interval = median_interval(np.arange(num_seeds, dtype=float))
    assert interval is not None
    num_below = np.array([sum(sides) for sides in itertools.product((0, 1), repeat=min(num_seeds, 10))])
    if num_seeds > 10:
        num_below = np.add.outer(num_below, num_below).ravel()
    is_covered = (num_below > interval.low) & (num_below < interval.high + 1)
    assert coverage(num_seeds) == pytest.approx(is_covered.mean(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [5, 6, 10, 20])
@pytest.mark.parametrize("name", ["normal", "lognormal", "standard_cauchy"])
def test_interval_covers_the_median_as_often_as_it_says(name: str, num_seeds: int) -> None:
    median, num_draws = (1.0 if name == "lognormal" else 0.0), 20_000
    drawn = getattr(np.random.default_rng(num_seeds), name)(size=(num_draws, num_seeds))
    intervals = [interval for values in drawn if (interval := median_interval(values))]
    share = np.mean([interval.low <= median <= interval.high for interval in intervals])
    standard_error = math.sqrt(coverage(num_seeds) * (1 - coverage(num_seeds)) / num_draws)
    assert abs(share - coverage(num_seeds)) < 4 * standard_error


def test_coverage_is_said_of_the_seeds_that_have_an_interval() -> None:
    assert spoken_coverage([5, 5, 3]) == "93.75 %"
    assert spoken_coverage([6]) == "96.88 %"
    assert spoken_coverage([5, 20]) == "93.75 to 95.86 %"
    assert spoken_coverage([1, 4]) == "–"


def test_interval_of_censored_values_ends_where_nothing_is_known() -> None:
    assert median_interval(np.array([3.0, math.inf, 1.0, 2.0, math.inf])) == Interval(1.0, math.inf)


def test_horizon_interval_leaves_out_a_seed_without_a_number() -> None:
    profiles = np.exp(np.outer([-1.0, -0.9, -0.8, -0.7, -0.6, 0.0], LAGS))
    profiles[5] = np.nan
    assert horizon_interval(LAGS, profiles) == (Horizon(7, False), Horizon(12, False))
    assert horizon_interval(LAGS, profiles[1:]) is None


def test_horizon_interval_spans_the_seeds_and_says_what_is_censored() -> None:
    profiles = np.exp(np.outer([-1.0, -1.0, -0.5, 0.0, 0.0], LAGS))
    ends = horizon_interval(LAGS, profiles)
    assert ends is not None
    assert ends[0] == Horizon(7, False)
    assert ends[1] == Horizon(100, True)


def test_horizon_interval_needs_five_seeds() -> None:
    assert horizon_interval(LAGS, np.ones((4, 101))) is None


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([-0.5, -0.4, -0.6, -0.5, -0.5], "vanishing"),
        ([0.5, 0.4, 0.6, 0.5, 0.5], "exploding"),
        ([-0.01, 0.0, 0.01, 0.0, 0.0], "stable"),
        ([-0.03, -0.02, -0.025, -0.018, -0.04], "undecided"),
        ([-0.5, 0.5, -0.5, 0.5, 0.01], "undecided"),
        ([-0.5, -0.5, -0.5], "not estimable (3 seeds)"),
        ([-0.5], "not estimable (1 seed)"),
        ([-math.inf] * 5, "vanishing"),
        ([-math.inf, 0.0, 0.0, 0.0, 0.0], "not estimable (a rate is not finite)"),
    ],
)
def test_verdict_follows_from_the_interval(rates: list[float], expected: str) -> None:
    assert verdict(np.array(rates), span=100) == expected


@pytest.mark.parametrize(
    ("rate", "kind"), [(-0.0231, "vanishing"), (-0.0230, "stable"), (0.0230, "stable"), (0.0231, "exploding")]
)
def test_stable_means_less_than_a_factor_of_ten_over_the_span(rate: float, kind: str) -> None:
    assert classify(rate, span=100) == kind


def test_rate_of_a_single_step_is_of_unknown_kind() -> None:
    assert classify(math.nan, span=0) == "unknown"


def test_tendency_counts_the_seeds_most_frequent_first() -> None:
    assert tendency(np.array([-0.5, 0.0, -0.4]), span=100) == "2/3 vanishing, 1/3 stable"
