"""Closed forms of recurrences without mixing against sums, integrals, drawn eigenvalues and simulated inputs."""

from __future__ import annotations

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest

from gradhorizon import theory


def test_unit_that_is_cut_off_has_rate_minus_infinity() -> None:
    assert theory.diagonal_growth_rates(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [-np.inf, 0.0]


def test_diagonal_profile_of_complex_eigenvalues_has_their_modulus() -> None:
    found = theory.diagonal_profile(np.array([0.6 + 0.8j, 0.5j]), [0, 3])
    np.testing.assert_allclose(found, np.array([[1.0, 1.0], [1.0, 0.125]]), rtol=1e-15)


# The ring initialisation.


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.9, 0.999), (0.4, 1.3)])
def test_ring_second_moment_is_the_mean_over_drawn_eigenvalues(
    r_min: float, r_max: float, generator: np.random.Generator
) -> None:
    corners = generator.uniform(-r_max, r_max, size=(1_000_000, 2))
    radii = np.hypot(*corners.T)
    drawn = radii[(r_min <= radii) & (radii <= r_max)]
    for lag in (0, 1, 5, 20):
        powers = drawn ** (2.0 * lag)
        error = powers.std() / np.sqrt(len(drawn))
        assert abs(powers.mean() - theory.ring_second_moment([lag], r_min, r_max)[0]) <= 5 * error + 1e-15


@pytest.mark.parametrize("thickness", [0.5, 1e-3, 1e-9, 1e-15])
@pytest.mark.parametrize("lag", [0, 1, 1000])
def test_ring_second_moment_keeps_its_digits_however_thin_the_ring(thickness: float, lag: int) -> None:
    r_max = 0.999
    r_min = r_max - thickness
    with mpmath.workdps(60):
        inner, outer = mpmath.mpf(r_min) ** 2, mpmath.mpf(r_max) ** 2
        expected = mpmath.quad(lambda square: square**lag, [inner, (inner + outer) / 2, outer]) / (outer - inner)
    np.testing.assert_allclose(theory.ring_second_moment(lag, r_min, r_max), float(expected), rtol=1e-11, atol=0)


def test_ring_of_equal_radii_is_a_circle() -> None:
    assert theory.ring_second_moment([0, 1, 3], 0.5, 0.5).tolist() == [1.0, 0.25, 0.5**6]
    assert theory.ring_second_moment([0, 1], 0.0, 0.0).tolist() == [1.0, 0.0]


def test_variance_under_white_noise_is_the_sum_of_ring_second_moments() -> None:
    r_min, r_max = 0.3, 0.9
    moments = theory.ring_second_moment(np.arange(2000), r_min, r_max)
    squares = np.linspace(r_min**2, r_max**2, 20_001)
    variances = theory.stationary_variance_of_diagonal(np.sqrt((squares[1:] + squares[:-1]) / 2), 0.0)
    np.testing.assert_allclose(moments.sum(), variances.mean(), rtol=1e-7)


@pytest.mark.parametrize(("r_min", "r_max"), [(-0.1, 0.5), (0.6, 0.5), (0.0, np.inf), (np.nan, 0.5), (0.1, np.nan)])
def test_radii_out_of_order_are_refused(r_min: float, r_max: float) -> None:
    with pytest.raises(ValueError, match="radii must obey 0 <= r_min <= r_max < inf, got `r_min`="):
        theory.ring_second_moment([1], r_min, r_max)


# Stationary variance and sensitivity.

EIGENVALUES = [0.0, 0.5, -0.5, 0.9, -0.95, 0.6 + 0.5j, 0.9j, complex(0.95 * np.exp(2.5j))]
AUTOCORRELATIONS = [-1.0, -0.7, 0.0, 0.3, 0.9, 1.0]


def double_sums(eigenvalue: complex, autocorrelation: float, num_steps: int = 800) -> tuple[float, float]:
    """E|h|² and E|dh/dλ|² term by term over all pairs of past inputs."""
    ages = np.arange(num_steps)
    powers = np.concatenate([[1.0], np.cumprod(np.full(num_steps - 1, eigenvalue))])
    slopes = np.concatenate([[0.0], ages[1:] * powers[:-1]])
    correlations = np.power(autocorrelation, np.abs(ages[:, None] - ages))
    return tuple(float((own @ correlations @ own.conj()).real) for own in (powers, slopes))  # type: ignore[return-value]


@pytest.mark.parametrize("autocorrelation", AUTOCORRELATIONS)
@pytest.mark.parametrize("eigenvalue", EIGENVALUES)
def test_stationary_moments_are_double_sums_over_the_past(eigenvalue: complex, autocorrelation: float) -> None:
    variance, sensitivity = double_sums(eigenvalue, autocorrelation)
    found = theory.stationary_variance_of_diagonal(eigenvalue, autocorrelation)
    np.testing.assert_allclose(found, variance, rtol=1e-11)
    found = theory.stationary_sensitivity_of_diagonal(eigenvalue, autocorrelation)
    np.testing.assert_allclose(found, sensitivity, rtol=1e-11)


def simulated_states(
    eigenvalues: np.ndarray, autocorrelation: float, generator: np.random.Generator, num_samples: int = 20_000
) -> np.ndarray:
    """States after 150 steps on Gaussian inputs, the same ones for every eigenvalue, shape (eigenvalues, samples)."""
    x = generator.normal(size=num_samples)
    h = np.zeros((len(eigenvalues), num_samples), dtype=complex)
    for _ in range(150):
        h = eigenvalues[:, None] * h + x
        x = autocorrelation * x + np.sqrt(1 - autocorrelation**2) * generator.normal(size=num_samples)
    return h


@pytest.mark.parametrize(("eigenvalue", "autocorrelation"), [(0.85, 0.5), (-0.7, 0.8), (0.8 * np.exp(0.4j), 0.6)])
def test_stationary_moments_are_those_of_simulated_inputs(
    eigenvalue: complex, autocorrelation: float, generator: np.random.Generator
) -> None:
    step = 1e-5
    shifted = np.array(
        [eigenvalue, eigenvalue + step, eigenvalue - step, eigenvalue + 1j * step, eigenvalue - 1j * step]
    )
    h, right, left, up, down = simulated_states(shifted, autocorrelation, generator)
    squares = np.abs(h) ** 2
    expected = theory.stationary_variance_of_diagonal(eigenvalue, autocorrelation)
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(len(squares))
    # The Jacobian of (Re h, Im h) with respect to (Re λ, Im λ), by differences: twice the sensitivity.
    squares = (np.abs(right - left) ** 2 + np.abs(up - down) ** 2) / (2 * step) ** 2
    expected = 2 * theory.stationary_sensitivity_of_diagonal(eigenvalue, autocorrelation)
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(len(squares))


@pytest.mark.parametrize("eigenvalue", [0.999999, -0.999999, 0.999999j, -0.5])
def test_constant_input_leads_to_a_geometric_series_without_loss_of_digits(eigenvalue: complex) -> None:
    found = theory.stationary_variance_of_diagonal(eigenvalue, 1.0)
    np.testing.assert_allclose(found, abs(1 - eigenvalue) ** -2, rtol=1e-14)
    found = theory.stationary_sensitivity_of_diagonal(eigenvalue, 1.0)
    np.testing.assert_allclose(found, abs(1 - eigenvalue) ** -4, rtol=1e-14)


@pytest.mark.parametrize("autocorrelation", [-0.999, 0.0, 0.5, 0.999999])
@pytest.mark.parametrize("modulus", [0.9, 0.999999, 1 - 1e-10])
def test_sensitivity_near_the_unit_circle_equals_the_derivative_of_a_kernel_in_60_digits(
    modulus: float, autocorrelation: float
) -> None:
    """E|dh/dλ|² is ∂²K/∂λ∂μ at μ = λ of the covariance K = 1/(1 − λμ) (1/(1 − ρλ) + 1/(1 − ρμ) − 1) of two units."""
    with mpmath.workdps(60):
        rho = mpmath.mpf(autocorrelation)
        point = mpmath.mpf(modulus)

        def covariance(one: mpmath.mpf, other: mpmath.mpf) -> mpmath.mpf:
            return (1 / (1 - rho * one) + 1 / (1 - rho * other) - 1) / (1 - one * other)

        expected = float(mpmath.diff(covariance, (point, point), (1, 1), h=mpmath.mpf(10) ** -25))
    found = theory.stationary_sensitivity_of_diagonal(modulus, autocorrelation)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_stationary_moments_are_broadcast() -> None:
    found = theory.stationary_sensitivity_of_diagonal(np.array([[0.5], [0.9j]]), np.array([0.0, 0.5, 1.0]))
    assert found.shape == (2, 3)
    assert found[1, 2] == theory.stationary_sensitivity_of_diagonal(0.9j, 1.0)


MOMENTS = [theory.stationary_variance_of_diagonal, theory.stationary_sensitivity_of_diagonal]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("eigenvalue", [1.0, -1.0, 0.8 + 0.7j, np.nan])
def test_eigenvalue_outside_the_unit_circle_is_refused(moment: np.ufunc, eigenvalue: complex) -> None:
    with pytest.raises(ValueError, match="`eigenvalue` must lie inside the unit circle"):
        moment([0.5, eigenvalue], 0.0)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("autocorrelation", [1.5, -1.5, np.nan])
def test_autocorrelation_beyond_one_is_refused(moment: np.ufunc, autocorrelation: float) -> None:
    with pytest.raises(ValueError, match=r"`autocorrelation` must lie in \[-1, 1\], got"):
        moment(0.5, autocorrelation)
