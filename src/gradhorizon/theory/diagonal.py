r"""Recurrences whose units do not mix: growth rates, the ring initialisation, and how sensitive a stationary unit is.

Notation: N steps, H units, L lags, λ eigenvalue (one unit's factor), τ lag, ρ autocorrelation of the input.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Inexact
from numpy.typing import ArrayLike


def diagonal_growth_rates(factors: Inexact[np.ndarray, "N ... H"]) -> Float[np.ndarray, "... H"]:
    r"""Growth rate of each unit of a recurrence whose Jacobian is diagonal, in nats per step: the mean of ln |factor|.

    .. math:: \lambda_i = \frac{1}{N} \sum_t \ln \lvert d_{t,i} \rvert

    Exact for IndRNN (factor :math:`u_i\, \varphi'(\cdot)`) and for diagonal linear recurrences (factor λ_i).

    Args:
        factors: diagonal of the Jacobian at each step, steps first.

    Returns:
        One rate per unit; −inf for a unit that some step cuts off.

    Source: Li, Li, Cook, Zhu & Gao (2018), IndRNN, https://arxiv.org/abs/1803.04831.

    Example:
        >>> diagonal_growth_rates(np.array([[0.5, 1.0], [0.5, 1.0]])).round(4).tolist()
        [-0.6931, 0.0]
    """
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.abs(factors)).mean(axis=0))


def diagonal_profile(eigenvalues: Inexact[np.ndarray, " H"], lags: ArrayLike) -> Float[np.ndarray, "L H"]:
    r"""Relative gradient |λ_i|^τ of each unit of a diagonal linear recurrence; dimensionless.

    Args:
        eigenvalues: λ_i, real or complex.
        lags: τ, non-negative.

    Example:
        >>> diagonal_profile(np.array([0.5, 1.0]), [0, 2]).tolist()
        [[1.0, 1.0], [0.25, 1.0]]
    """
    return np.asarray(np.abs(eigenvalues) ** np.asarray(lags)[:, None])


def ring_second_moment(lags: ArrayLike, r_min: float, r_max: float) -> Float[np.ndarray, ...]:
    r"""Mean square of the relative gradient at lag τ over eigenvalues of the ring initialisation; dimensionless.

    .. math::
        \mathbb{E} \lvert \lambda \rvert^{2\tau}
        = \frac{r_{\max}^{2\tau+2} - r_{\min}^{2\tau+2}}{(\tau + 1)(r_{\max}^2 - r_{\min}^2)}

    Assumes eigenvalues uniform on the area of the ring between two circles, so that :math:`\lvert \lambda \rvert^2` is
    uniform; for equal radii it is the limit :math:`r^{2\tau}`. Its root is the relative gradient of a diagonal linear
    recurrence with many units through all of which the loss is felt equally.

    Args:
        lags: τ, non-negative, in steps.
        r_min: inner radius.
        r_max: outer radius.

    Returns:
        One value per lag, in the shape of `lags`.

    Raises:
        ValueError: radii other than 0 ≤ r_min ≤ r_max < ∞.

    Source: Orvieto et al. (2023), LRU, https://arxiv.org/abs/2303.06349, for the initialisation; the moment is ours.

    Example:
        >>> ring_second_moment([0, 1, 2], r_min=0.0, r_max=1.0).round(4).tolist()
        [1.0, 0.5, 0.3333]
    """
    if not 0 <= r_min <= r_max < np.inf:
        raise ValueError(f"radii must obey 0 <= r_min <= r_max < inf, got `r_min`={r_min} and `r_max`={r_max}")
    tau = np.asarray(lags, dtype=np.float64)
    outer = np.asarray(np.float64(r_max) ** (2.0 * tau))
    if r_min == r_max:
        return outer
    # 1 − (r_min/r_max)², as a product so that a thin ring keeps its digits.
    width = (r_max - r_min) * (r_max + r_min) / r_max**2
    with np.errstate(divide="ignore"):
        return np.asarray(outer * -np.expm1((tau + 1.0) * np.log1p(-width)) / ((tau + 1.0) * width))


def stationary_variance_of_diagonal(eigenvalue: ArrayLike, autocorrelation: ArrayLike) -> Float[np.ndarray, ...]:
    r"""Stationary variance of a unit of a diagonal linear recurrence, in units of the input's variance.

    .. math::
        h_{t+1} = \lambda h_t + x_{t+1}, \qquad
        \mathbb{E} \lvert h \rvert^2
        = \frac{1 - \rho^2 \lvert \lambda \rvert^2}{(1 - \lvert \lambda \rvert^2)\, \lvert 1 - \rho\lambda \rvert^2}

    Assumes infinitely many steps and a stationary input of mean 0, variance 1 and
    :math:`\mathbb{E}\, x_t \bar x_{t+\Delta} = \rho^{\lvert \Delta \rvert}`.

    Args:
        eigenvalue: λ, real or complex, inside the unit circle.
        autocorrelation: ρ, real, in [−1, 1]: 0 for white noise, 1 for a constant input.

    Returns:
        One value per pair, in the common shape of the arguments.

    Raises:
        ValueError: an eigenvalue on or outside the unit circle, or an autocorrelation outside [−1, 1].

    Source: Zucchet & Orvieto (2024), §2.2, https://arxiv.org/abs/2405.21064; derived here anew, from
        :math:`h_t = \sum_k \lambda^k x_{t-k}`.

    Example:
        >>> stationary_variance_of_diagonal([0.0, 0.5, 0.5], [0.0, 0.0, 1.0]).round(4).tolist()
        [1.0, 1.3333, 4.0]
    """
    factor, correlation = _checked(eigenvalue, autocorrelation)
    square, decay = np.abs(factor) ** 2, _one_minus_square(np.abs(factor))
    distance = np.abs(_one_minus_product(correlation, factor))
    return np.asarray((decay + square * _one_minus_square(correlation)) / (decay * distance**2))


def stationary_sensitivity_of_diagonal(eigenvalue: ArrayLike, autocorrelation: ArrayLike) -> Float[np.ndarray, ...]:
    r"""Stationary mean square of a unit's derivative by its eigenvalue, in units of the input's variance.

    .. math::
        \mathbb{E} \left\lvert \frac{\mathrm{d}h}{\mathrm{d}\lambda} \right\rvert^2
        = \frac{1 + a}{(1 - a)^3} \operatorname{Re} \frac{1 + \rho\lambda}{1 - \rho\lambda}
        + \frac{2}{(1 - a)^2} \operatorname{Re} \frac{\rho\lambda}{(1 - \rho\lambda)^2},
        \qquad a = \lvert \lambda \rvert^2

    As :math:`a \to 1` it outgrows the variance, for white noise by :math:`(1 + a)/(1 - a)^2`: the curse of memory,
    although no gradient explodes through time.

    h is holomorphic in λ: for complex λ this is the derivative along the real direction, and that along the imaginary
    one is i times it. Each has this mean square, so that the Jacobian of (Re h, Im h) with respect to (Re λ, Im λ) has
    twice it as its mean squared Frobenius norm.

    Args:
        eigenvalue: λ, real or complex, inside the unit circle.
        autocorrelation: ρ, real, in [−1, 1]: 0 for white noise, 1 for a constant input.

    Returns:
        One value per pair, in the common shape of the arguments.

    Raises:
        ValueError: an eigenvalue on or outside the unit circle, or an autocorrelation outside [−1, 1].

    Source: as for `stationary_variance_of_diagonal`, with its assumptions, from
        :math:`\mathrm{d}h_t / \mathrm{d}\lambda = \sum_k k \lambda^{k-1} x_{t-k}`.

    Example:
        >>> stationary_sensitivity_of_diagonal([0.0, 0.5, 0.5], [0.0, 0.0, 1.0]).round(4).tolist()
        [1.0, 2.963, 16.0]
    """
    factor, correlation = _checked(eigenvalue, autocorrelation)
    square, decay = np.abs(factor) ** 2, _one_minus_square(np.abs(factor))
    gap = _one_minus_product(correlation, factor)
    # The formula above over one denominator: none of these terms is negative, so that no digits cancel.
    varying = (1.0 + square) * np.abs(gap) ** 2 + decay * (decay + 2.0 * gap.real)
    return np.asarray((1.0 + square * _one_minus_square(correlation) * varying / decay**3) / np.abs(gap) ** 4)


def _checked(eigenvalue: ArrayLike, autocorrelation: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    factor = np.asarray(eigenvalue, dtype=np.complex128)
    correlation = np.asarray(autocorrelation, dtype=np.float64)
    if not (np.abs(factor) < 1).all():
        raise ValueError(
            f"`eigenvalue` must lie inside the unit circle, where h is stationary, got {np.asarray(eigenvalue)}"
        )
    if not (np.abs(correlation) <= 1).all():
        raise ValueError(f"`autocorrelation` must lie in [-1, 1], got {correlation}")
    return factor, correlation


def _one_minus_square(x: ArrayLike) -> np.ndarray:
    return np.asarray(np.subtract(1.0, x) * np.add(1.0, x))


def _one_minus_product(correlation: np.ndarray, factor: np.ndarray) -> np.ndarray:
    # Exact differences from 1, where the product itself would be rounded.
    turned = np.sign(correlation) * factor
    return np.asarray((1.0 - turned) + turned * (1.0 - np.abs(correlation)))
