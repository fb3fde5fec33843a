"""Decay laws of synthetic profiles whose law is known, and of those that have none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from gradhorizon import theory
from gradhorizon.analysis.statistics.decay_law import (
    MAX_MISFIT,
    MIN_EVIDENCE,
    DecayLaw,
    columns,
    decay_law,
    even_handed,
    fit_laws,
)

LAGS = np.arange(300)
SPARSE = np.unique(np.geomspace(1, 1000, 48).round().astype(int))
NAMELESS = ("neither", "undecided")
Draw = Callable[[np.random.Generator, int], np.ndarray]


def exponential(lags: np.ndarray, rate: float) -> np.ndarray:
    return np.exp(rate * lags)


def power_law(lags: np.ndarray, exponent: float) -> np.ndarray:
    return np.maximum(lags, 1.0) ** -exponent


def white(generator: np.random.Generator, size: int) -> np.ndarray:
    return generator.standard_normal((5, size))


def persistent(generator: np.random.Generator, size: int) -> np.ndarray:
    """Noise of unit variance whose neighbours agree: first-order autoregression with coefficient 0.95."""
    noise = white(generator, size)
    for step in range(1, size):
        noise[:, step] = 0.95 * noise[:, step - 1] + math.sqrt(1 - 0.95**2) * noise[:, step]
    return noise


def random_walk(generator: np.random.Generator, size: int) -> np.ndarray:
    return np.cumsum(white(generator, size), axis=1)


def noisy(profile: np.ndarray, scale: float, draw: Draw = white, seed: int = 0) -> np.ndarray:
    return profile * np.exp(scale * draw(np.random.default_rng(seed), profile.shape[-1]))


@pytest.mark.parametrize("lags", [LAGS, SPARSE], ids=["dense", "log-spaced"])
@pytest.mark.parametrize("rate", [-0.5, -0.05, -0.01, 0.02])
@pytest.mark.parametrize("scale", [0.0, 0.01, 0.1])
def test_exponential_profiles_are_found_with_their_rate(lags: np.ndarray, rate: float, scale: float) -> None:
    found = decay_law(lags, noisy(exponential(lags, rate), scale))
    assert (found.law, found.reason) == ("exponential", "")
    assert found.rate == pytest.approx(rate, abs=1e-12 + 3 * scale / lags[-1])
    assert found.rate_interval is not None
    assert found.rate_interval.low <= found.rate <= found.rate_interval.high
    assert found.evidence > MIN_EVIDENCE


@pytest.mark.parametrize("lags", [LAGS, SPARSE], ids=["dense", "log-spaced"])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, -0.6])
@pytest.mark.parametrize("scale", [0.0, 0.01, 0.1])
def test_power_laws_are_found_with_their_exponent(lags: np.ndarray, exponent: float, scale: float) -> None:
    found = decay_law(lags, noisy(power_law(lags, exponent), scale))
    assert (found.law, found.reason) == ("power law", "")
    assert found.exponent == pytest.approx(exponent, abs=1e-12 + 0.5 * scale)
    assert found.exponent_interval is not None
    assert found.exponent_interval.low <= found.exponent <= found.exponent_interval.high
    assert found.evidence < -MIN_EVIDENCE


@pytest.mark.parametrize("draw", [white, persistent])
def test_laws_are_found_through_noise_that_persists(draw: Draw) -> None:
    assert decay_law(LAGS, noisy(exponential(LAGS, -0.05), 0.3, draw)).law == "exponential"
    assert decay_law(LAGS, noisy(power_law(LAGS, 1.5), 0.3, draw)).law == "power law"


@pytest.mark.parametrize(("draw", "scale"), [(white, 0.3), (white, 3.0), (persistent, 2.0), (random_walk, 0.5)])
def test_noise_has_no_law(draw: Draw, scale: float) -> None:
    assert decay_law(LAGS, noisy(np.ones(300), scale, draw)).law in NAMELESS


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "scale"), [(white, 0.3), (white, 3.0), (persistent, 2.0), (random_walk, 0.5)])
def test_pure_noise_is_given_a_law_at_most_once_in_twenty(draw: Draw, scale: float) -> None:
    laws = [decay_law(LAGS[:100], noisy(np.ones(100), scale, draw, seed)).law for seed in range(200)]
    assert sum(law not in NAMELESS for law in laws) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.05, 0.2])
@pytest.mark.parametrize("num_lags", [30, 400])
@pytest.mark.parametrize("num_seeds", [5, 20])
def test_laws_keep_their_names_through_white_noise_in_95_percent(scale: float, num_lags: int, num_seeds: int) -> None:
    lags = np.arange(num_lags)
    for law, profile in (("exponential", exponential(lags, -0.3)), ("power law", power_law(lags, 2.0))):
        drawn = [np.random.default_rng([seed, 1]).standard_normal((num_seeds, num_lags)) for seed in range(200)]
        laws = [decay_law(lags, profile * np.exp(scale * noise)).law for noise in drawn]
        assert laws.count(law) >= 190


def floored(lags: np.ndarray, floor: float) -> np.ndarray:
    return np.asarray(np.exp(-0.3 * lags) + floor)


NEITHER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"floor at {floor:g}": partial(floored, floor=floor) for floor in (1e-2, 1e-3, 1e-4)},
    "two exponentials": lambda lags: 0.9 * np.exp(-0.5 * lags) + 0.1 * np.exp(-0.01 * lags),
    "stretched exponential": lambda lags: np.exp(-np.sqrt(lags)),
    "two slopes": lambda lags: np.exp(np.where(lags < 20, -0.3 * lags, -6 - 0.03 * (lags - 20))),
    "growth up to a ceiling": lambda lags: 1 / (np.exp(-0.3 * lags) + 1e-3),
}


@pytest.mark.parametrize("scale", [0.0, 0.05])
@pytest.mark.parametrize("num_lags", [50, 100, 200, 400, 1000])
@pytest.mark.parametrize("name", NEITHER)
def test_profile_that_bends_follows_neither_law(name: str, num_lags: int, scale: float) -> None:
    lags = np.arange(num_lags)
    found = decay_law(lags, noisy(NEITHER[name](lags), scale))
    assert found.law == "neither"
    assert found.reason == f"structured misfit of {100 * found.misfit:.0f} %"
    assert MAX_MISFIT < found.misfit < 0.2


@pytest.mark.parametrize("num_lags", [100, 200, 400, 1000])
def test_floor_is_seen_as_soon_as_it_is_reached(num_lags: int) -> None:
    lags = np.arange(num_lags)
    assert decay_law(lags, noisy(np.exp(-0.3 * lags) + 1e-6, 0.05)).law == "neither"
    assert decay_law(lags[:46], noisy(np.exp(-0.3 * lags[:46]) + 1e-6, 0.05)).law == "exponential"


@pytest.mark.parametrize("num_lags", [50, 100, 400])
def test_misfit_of_one_bend_is_that_of_a_naive_loop(num_lags: int) -> None:
    lags = np.arange(num_lags)
    found = decay_law(lags, np.tile(np.exp(-np.sqrt(lags)), (5, 1)))
    chosen = lags[1:][even_handed(lags[1:])].astype(float)
    fits = []
    for x in (chosen, np.log(chosen)):
        design = np.stack([x, np.ones_like(x)], axis=1)
        coefficients, residual, *_ = np.linalg.lstsq(design, -np.sqrt(chosen), rcond=None)
        left = -np.sqrt(chosen) - design @ coefficients
        change = coefficients[0] * (x[-1] - x[0])
        products = [left[i] * left[i + 1] for i in range(len(left) - 1)]
        fits.append((float(residual[0]), math.sqrt(sum(products) / len(products)) / abs(change)))
    assert found.misfit == pytest.approx(min(fits)[1], rel=1e-9)


def test_seeds_that_differ_in_slope_keep_their_law() -> None:
    rates = np.array([-0.2, -0.3, -0.4, -0.5, -0.6])
    assert decay_law(LAGS, noisy(np.exp(np.outer(rates, LAGS)), 0.05)).law == "exponential"
    exponents = np.array([1.0, 1.5, 2.0, 2.5, 3.0])
    assert decay_law(LAGS, noisy(np.maximum(LAGS, 1.0) ** -exponents[:, np.newaxis], 0.05)).law == "power law"


def halfway(longest: int) -> tuple[np.ndarray, np.ndarray]:
    lags = np.arange(1, longest + 1)
    return lags, np.exp(-4 * ((lags - 1) / (longest - 1) + np.log(lags) / np.log(longest)))


@pytest.mark.parametrize("longest", [10, 30, 100, 300, 1000, 10_000])
def test_profile_halfway_between_the_laws_is_evidence_for_neither(longest: int) -> None:
    lags, profile = halfway(longest)
    fitted = fit_laws(lags, profile)
    assert fitted is not None
    assert abs(fitted.evidence) < MIN_EVIDENCE
    assert decay_law(lags, np.tile(profile, (5, 1))).law in NAMELESS


def test_law_that_misses_the_profile_is_not_preferred_for_missing_less() -> None:
    steps = np.where(LAGS < 150, 1.0, 1e-3)
    assert decay_law(LAGS, noisy(steps, 0.01)).law == "neither"


def test_scatter_without_structure_that_hides_any_law_is_undecided() -> None:
    found = decay_law(LAGS, noisy(exponential(LAGS, -0.01), 0.8, seed=3))
    assert found.law == "undecided"


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_flat_profile_has_no_law(scale: float) -> None:
    found = decay_law(LAGS, noisy(np.ones(300), scale))
    assert (found.law, found.reason) == ("undecided", "changes by less than a factor of 10")
    assert found.rate == pytest.approx(0, abs=1e-3)
    assert found.exponent == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("num_seeds", [0, 1, 4])
def test_fewer_than_five_seeds_are_not_estimable(num_seeds: int) -> None:
    found = decay_law(LAGS, np.tile(exponential(LAGS, -0.1), (num_seeds, 1)))
    words = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    assert (found.law, found.reason) == ("undecided", f"not estimable ({words})")
    assert (found.rate_interval, found.exponent_interval, found.evidence_interval) == (None, None, None)


@pytest.mark.parametrize(
    ("last_lag", "reason"),
    [(0, "fewer than 8 usable lags in 5 of 5 seeds"), (6, "fewer than 8 usable lags in 5 of 5 seeds"),
     (9, "lags span less than a factor of 10"), (10, "")],
)  # fmt: skip
def test_short_profile_is_undecided(last_lag: int, reason: str) -> None:
    assert decay_law(LAGS[: last_lag + 1], noisy(exponential(LAGS[: last_lag + 1], -0.5), 0.01)).reason == reason


def test_profile_that_is_cut_off_is_undecided() -> None:
    profiles = noisy(exponential(LAGS, -0.05), 0.01)
    profiles[1, 200:] = 0
    found = decay_law(LAGS, profiles)
    assert (found.law, found.reason) == ("undecided", "cut off by exact zeros in 1 of 5 seeds")
    assert found.num_excluded == 100


def test_zeros_of_underflow_are_left_out_and_counted() -> None:
    found = decay_law(LAGS, np.tile(exponential(LAGS, -5.0), (5, 1)))
    assert (found.law, found.num_excluded) == ("exponential", 5 * (299 - 149))
    assert found.rate == pytest.approx(-5.0, rel=1e-3)  # the last norms are subnormal


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0])
def test_norms_without_a_logarithm_are_left_out_and_counted(odd: float) -> None:
    profiles = noisy(power_law(LAGS, 1.0), 0.01)
    profiles[:, [0, 7, 40]] = odd
    found = decay_law(LAGS, profiles)
    assert (found.law, found.num_excluded) == ("power law", 10)
    assert found.exponent == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("odd", "reason"), [(math.nan, "fewer than 8 usable lags"), (math.inf, "infinite"), (0.0, "cut off by exact zeros")]
)
def test_seed_without_any_usable_norm_leaves_the_law_undecided(odd: float, reason: str) -> None:
    profiles = noisy(power_law(LAGS, 1.0), 0.01)
    profiles[3, 1:] = odd
    assert decay_law(LAGS, profiles).reason == f"{reason} in 1 of 5 seeds"


def test_one_seed_that_follows_the_other_law_leaves_five_undecided() -> None:
    profiles = noisy(power_law(LAGS, 1.0), 0.01)
    profiles[4] = exponential(LAGS, -0.03)
    assert decay_law(LAGS, profiles).reason == "neither law is clearly better"


@pytest.mark.parametrize(("r_max", "law"), [(0.9, "exponential"), (0.99, "neither"), (1.0, "power law")])
def test_ring_up_to_the_unit_circle_is_a_power_law_and_a_small_one_decays_exponentially(r_max: float, law: str) -> None:
    lags = np.arange(1000)
    found = decay_law(lags, noisy(np.sqrt(theory.ring_second_moment(lags, 0.0, r_max)), 0.01))
    assert found.law == law


def test_scale_of_the_profile_does_not_matter() -> None:
    profiles = noisy(power_law(LAGS, 1.0), 0.1)
    one, other = decay_law(LAGS, profiles), decay_law(LAGS, 1e-200 * profiles)
    assert other.law == one.law
    assert other.evidence == pytest.approx(one.evidence, rel=1e-9)
    assert other.exponent == pytest.approx(one.exponent, rel=1e-9)


def test_lags_chosen_are_some_of_those_measured_with_both_ends() -> None:
    chosen = SPARSE[even_handed(SPARSE, 12)]
    assert (chosen[0], chosen[-1]) == (SPARSE[0], SPARSE[-1])
    assert len(np.unique(chosen)) == len(chosen) <= 12
    assert (np.diff(np.log(chosen))[3:] < 2 * math.log(1000) / 11).all()


def test_columns_hold_numbers_where_intervals_are_not_estimable() -> None:
    row = columns(decay_law(LAGS, np.ones((1, 300))))
    assert math.isnan(row["decay_evidence_low"])  # type: ignore[arg-type]
    assert row["decay_law"] == "undecided"


def test_columns_carry_the_intervals() -> None:
    found: DecayLaw = decay_law(LAGS, noisy(power_law(LAGS, 1.0), 0.1))
    row = columns(found)
    assert found.exponent_interval is not None
    assert (row["power_law_exponent_low"], row["power_law_exponent_high"]) == (
        found.exponent_interval.low,
        found.exponent_interval.high,
    )


def correlated(shape: tuple[int, int], scale: float, generator: np.random.Generator) -> np.ndarray:
    """Noise whose neighbours correlate by 0.7, another in each seed, nats."""
    noise = generator.standard_normal(shape)
    for lag in range(1, shape[1]):
        noise[:, lag] = 0.7 * noise[:, lag - 1] + math.sqrt(1 - 0.7**2) * noise[:, lag]
    return scale * noise


@pytest.mark.parametrize("kind", ["correlated", "random walk"])
def test_structure_that_differs_from_seed_to_seed_takes_no_law_its_name(kind: str) -> None:
    lags, laws = np.arange(100), []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        walk = 0.03 * np.cumsum(generator.standard_normal((5, 100)), axis=1)
        noise = correlated((5, 100), 0.2, generator) if kind == "correlated" else walk
        laws.append(decay_law(lags, np.exp(-0.03 * lags + noise)).law)
        assert decay_law(lags, (np.exp(-0.3 * lags) + 1e-3) * np.exp(noise)).law == "neither"
    assert laws.count("exponential") >= 95


@pytest.mark.parametrize("num_lags", [50, 100, 300])
@pytest.mark.parametrize(
    "profile",
    [
        lambda lags: np.exp(-0.5 * lags**0.7),
        lambda lags: np.exp(-2 * lags**0.3),
        lambda lags: np.exp(-0.3 * lags) + 1e-5,
    ],
    ids=["stretched by 0.7", "stretched by 0.3", "floor of 1e-5"],
)
@pytest.mark.parametrize("scatter", [0.0, 0.05])
def test_gentle_bends_follow_neither_law(
    profile: Callable[[np.ndarray], np.ndarray], num_lags: int, scatter: float
) -> None:
    lags = np.arange(num_lags)
    noise = np.exp(scatter * np.random.default_rng(0).standard_normal((5, num_lags)))
    assert decay_law(lags, profile(lags) * noise).law == "neither"
