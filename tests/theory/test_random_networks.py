"""Exponents of random matrices and tanh networks against products, simulations and arithmetic of many digits."""

from __future__ import annotations

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import polygamma

from gradhorizon import theory

# Products of independent Gaussian matrices.


@pytest.mark.parametrize(("size", "deviation"), [(1, 2.0), (3, 0.3), (6, 1.0)])
def test_newman_exponents_are_those_of_drawn_matrices(
    size: int, deviation: float, generator: np.random.Generator
) -> None:
    num_steps, num_samples = 300, 64
    frame, sums = np.broadcast_to(np.eye(size), (num_samples, size, size)), np.zeros((num_samples, size))
    for _ in range(num_steps):
        factors = np.linalg.qr(generator.normal(scale=deviation, size=(num_samples, size, size)) @ frame)
        frame = factors.Q
        sums += np.log(np.abs(np.diagonal(factors.R, axis1=1, axis2=2)))
    # Each |R_ii| is a χ of S − i + 1 degrees of freedom, independent of all the others.
    error = 0.5 * np.sqrt(polygamma(1, (size - np.arange(size)) / 2) / (num_steps * num_samples))
    found = (sums / num_steps).mean(axis=0)
    assert (np.abs(found - theory.newman_exponents(size, deviation)) < 5 * error).all()


@pytest.mark.parametrize(("size", "rank"), [(1, 1), (2, 1), (5, 3), (40, 2)])
def test_newman_exponent_is_the_mean_logarithm_of_a_gaussian_vector(size: int, rank: int) -> None:
    """Of S − i + 1 entries: what is left of a column outside the span of i − 1 others."""
    degrees, deviation = size - rank + 1, 0.7

    def weighted(length: float, power: float) -> float:
        return float(length ** (degrees - 1) * np.exp(-(length**2) / 2) * np.log(deviation * length) ** power)

    moments = [quad(weighted, 0.0, np.sqrt(degrees) + 12.0, args=(power,), epsabs=0, limit=200)[0] for power in (0, 1)]
    found = theory.newman_exponents(size, deviation)[rank - 1]
    np.testing.assert_allclose(found, moments[1] / moments[0], rtol=1e-8)


def test_largest_newman_exponent_of_large_matrices_is_the_logarithm_of_the_spectral_radius() -> None:
    found = theory.newman_exponents(100_000, 1.5 * 100_000**-0.5)
    np.testing.assert_allclose(found[0], np.log(1.5), rtol=1e-4)
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize(
    ("size", "deviation", "name"), [(0, 1.0, "size"), (2, 0.0, "deviation"), (2, np.nan, "deviation")]
)
def test_matrices_without_size_or_spread_are_refused(size: int, deviation: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        theory.newman_exponents(size, deviation)


# The largest exponent of a large random tanh network.


def simulated_growth_rate(gain: float, generator: np.random.Generator, size: int = 500, num_steps: int = 600) -> float:
    """λ₁ of h ← W tanh(h) from one tangent vector, after 200 steps of transient."""
    weights = generator.normal(scale=gain / np.sqrt(size), size=(size, size))
    h, tangent, logs = generator.normal(size=size), generator.normal(size=size), []
    for _ in range(num_steps):
        tangent = weights @ (tangent / np.cosh(h) ** 2)
        h = weights @ np.tanh(h)
        logs.append(np.log(np.linalg.norm(tangent)))
        tangent /= np.linalg.norm(tangent)
    return float(np.mean(logs[200:]))


@pytest.mark.parametrize("gain", [1.5, 2.0, 4.0])
def test_mean_field_growth_rate_is_approached_by_a_large_network(gain: float, generator: np.random.Generator) -> None:
    found = simulated_growth_rate(gain, generator)
    np.testing.assert_allclose(found, theory.mean_field_tanh_growth_rate(gain), atol=0.04)


@pytest.mark.parametrize("gain", [0.2, 0.9, 1.0])
def test_quiet_network_has_the_rate_of_its_linearisation(gain: float) -> None:
    assert theory.mean_field_tanh_growth_rate(gain) == np.log(gain)
    assert theory.mean_field_tanh_variance(gain) == 0


def test_mean_field_variance_is_a_fixed_point_of_monte_carlo_averages(generator: np.random.Generator) -> None:
    variance = theory.mean_field_tanh_variance(2.0)
    z = generator.normal(size=2_000_000)
    np.testing.assert_allclose(4 * np.mean(np.tanh(np.sqrt(variance) * z) ** 2), variance, rtol=2e-3)


def test_chaos_sets_in_continuously_at_gain_one() -> None:
    rates = [theory.mean_field_tanh_growth_rate(1 + excess) for excess in (1e-6, 1e-3, 0.1)]
    assert 0 < rates[0] < rates[1] < rates[2] < 0.1


@pytest.mark.parametrize("gain", [1e3, 1e5])
def test_growth_rate_of_a_steep_network_has_its_asymptote(gain: float) -> None:
    """With q → g², E[sech⁴(√q z)] → (4/3)/(g √(2π)), and E[ln sech²(√q z)] → 2 ln 2 − 2 g √(2/π)."""
    expected = 0.5 * np.log(gain * 4 / 3 / np.sqrt(2 * np.pi))
    np.testing.assert_allclose(theory.mean_field_tanh_growth_rate(gain), expected, atol=1 / gain)
    slope = 2 * np.sqrt(2 / np.pi) * np.sqrt(theory.mean_field_tanh_variance(gain))
    expected = np.log(gain) - 0.5 + 2 * np.log(2) - slope
    np.testing.assert_allclose(theory.mean_field_tanh_mean_exponent(gain), expected, atol=1 / gain)


@pytest.mark.parametrize("quantity", [theory.mean_field_tanh_growth_rate, theory.mean_field_tanh_mean_exponent])
def test_gain_that_is_not_positive_is_refused(quantity: np.ufunc) -> None:
    with pytest.raises(ValueError, match="`gain` must be positive, got 0"):
        quantity(0.0)


# The mean of all exponents.


def simulated_mean_exponent(gain: float, generator: np.random.Generator, size: int, num_steps: int = 80) -> float:
    """Mean of all exponents of h ← W tanh(h) by QR decompositions, after 200 steps of transient."""
    weights = generator.normal(scale=gain / np.sqrt(size), size=(size, size))
    h, frame, total = generator.normal(size=size), np.eye(size), 0.0
    for _ in range(200):
        h = weights @ np.tanh(h)
    for _ in range(num_steps):
        frame, triangle = np.linalg.qr(weights @ (frame / np.cosh(h)[:, None] ** 2))
        h = weights @ np.tanh(h)
        total += np.log(np.abs(np.diag(triangle))).mean()
    return total / num_steps


@pytest.mark.parametrize("gain", [2.0, 3.0, 6.0])
def test_mean_exponent_is_approached_by_a_large_network(gain: float, generator: np.random.Generator) -> None:
    """Within a few standard deviations among single networks of 200 units, 0.05 to 0.06."""
    found = simulated_mean_exponent(gain, generator, size=200)
    np.testing.assert_allclose(found, theory.mean_field_tanh_mean_exponent(gain, size=200), atol=0.2)


@pytest.mark.parametrize("size", [2, 5, 30])
def test_mean_exponent_of_quiet_networks_is_that_of_drawn_determinants(
    size: int, generator: np.random.Generator
) -> None:
    weights = generator.normal(scale=0.8 * size**-0.5, size=(5000, size, size))
    drawn = np.linalg.slogdet(weights).logabsdet / size
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - theory.mean_field_tanh_mean_exponent(0.8, size)) < 5 * error
    assert abs(drawn.mean() - theory.mean_field_tanh_mean_exponent(0.8)) > 10 * error


def test_mean_exponent_tends_to_its_limit() -> None:
    sizes = np.array([100, 1000, 10_000])
    found = np.array([theory.mean_field_tanh_mean_exponent(2.0, int(size)) for size in sizes])
    gaps = theory.mean_field_tanh_mean_exponent(2.0) - found
    np.testing.assert_allclose(gaps, np.log(sizes) / (4 * sizes), rtol=0.1)


@pytest.mark.parametrize("gain", [1.05, 2.0, 8.0])
def test_mean_field_integrals_equal_arithmetic_of_20_digits(gain: float) -> None:
    with mpmath.workdps(20):
        nodes = [mpmath.mpf(edge) for edge in ("-12", "-3", "-1", "-0.3", "0", "0.3", "1", "3", "12")]

        def mean(function: object) -> mpmath.mpf:
            return mpmath.quad(lambda z: function(z) * mpmath.npdf(z), nodes)  # type: ignore[operator]

        variance = mpmath.findroot(
            lambda q: gain**2 * mean(lambda z: mpmath.tanh(mpmath.sqrt(q) * z) ** 2) - q,
            (gain**2 - 1) * gain**2 / (gain**2 + 1),
        )
        deviation = mpmath.sqrt(variance)
        slope = mean(lambda z: mpmath.sech(deviation * z) ** 4)
        log_slope = mean(lambda z: mpmath.log(mpmath.sech(deviation * z) ** 2))
        rates = [mpmath.log(gain**2 * slope) / 2, mpmath.log(gain) - 0.5 + log_slope]
    np.testing.assert_allclose(theory.mean_field_tanh_variance(gain), float(variance), rtol=1e-9)
    np.testing.assert_allclose(theory.mean_field_tanh_growth_rate(gain), float(rates[0]), rtol=1e-7)
    np.testing.assert_allclose(theory.mean_field_tanh_mean_exponent(gain), float(rates[1]), rtol=1e-9)


def test_network_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        theory.mean_field_tanh_mean_exponent(1.0, 0)
