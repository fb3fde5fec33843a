r"""Lyapunov exponents of random matrices and of large random tanh networks, in nats per step.

Notation: S size of the matrices, H units, g gain, z standard normal, q stationary variance, φ = tanh, ψ digamma.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import psi


def newman_exponents(size: int, deviation: float) -> Float[np.ndarray, " S"]:
    r"""All Lyapunov exponents of products of independent Gaussian matrices, in nats per step, descending.

    .. math:: \lambda_i = \ln \sigma + \tfrac12 \left[ \ln 2 + \psi\!\left( \tfrac{S - i + 1}{2} \right) \right]

    Exact for real S × S matrices with independent entries from N(0, σ²), drawn anew at each step. With σ = g/√S the
    leading one tends to ln g.

    Args:
        size: S.
        deviation: σ, positive.

    Returns:
        λ_1 … λ_S.

    Raises:
        ValueError: `size` below 1 or `deviation` not positive.

    Source: Newman (1986), The distribution of Lyapunov exponents: exact results for random matrices,
        Communications in Mathematical Physics 103, 121–126.

    Example:
        >>> newman_exponents(2, 1.0).round(4).tolist()
        [0.058, -0.6352]
    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}")
    if not deviation > 0:
        raise ValueError(f"`deviation` must be positive, got {deviation}")
    return np.asarray(np.log(deviation) + 0.5 * (np.log(2.0) + psi(np.arange(size, 0, -1) / 2.0)))


def mean_field_tanh_growth_rate(gain: float) -> float:
    r"""Largest Lyapunov exponent λ₁ of the autonomous random network h ← W tanh(h), in nats per step.

    .. math::
        \lambda_1 = \tfrac12 \ln\!\left( g^2\, \mathbb{E}_z\, \varphi'(\sqrt{q} z)^2 \right), \qquad
        q = g^2\, \mathbb{E}_z \tanh^2(\sqrt{q} z), \qquad z \sim \mathcal N(0, 1)

    Assumes entries of W drawn from N(0, g²/H), H → ∞, no input and the stationary state: q = 0 and λ₁ = ln g for g ≤ 1,
    chaos (λ₁ > 0) for g > 1. A finite H lies below it. Over many steps it is also the rate of the state gradient, since
    a product of Jacobians and its transpose have the same singular values.

    Args:
        gain: g, positive.

    Raises:
        ValueError: `gain` not positive.

    Source: Molgedey, Schuchhardt & Schuster (1992), https://doi.org/10.1103/PhysRevLett.69.3717;
        Poole et al. (2016), where exp(2 λ₁) is called χ₁, https://arxiv.org/abs/1606.05340.

    Example:
        >>> round(mean_field_tanh_growth_rate(0.5), 4), round(mean_field_tanh_growth_rate(2.0), 2)
        (-0.6931, 0.15)
    """
    _refuse_nonpositive_gain(gain)
    if gain <= 1:
        return float(np.log(gain))
    deviation = np.sqrt(mean_field_tanh_variance(gain))
    return float(np.log(gain) + 0.5 * np.log(_gaussian_mean(lambda z: np.exp(-4.0 * _log_cosh(deviation * z)))))


def mean_field_tanh_variance(gain: float) -> float:
    r"""Stationary variance q of h ← W tanh(h) in the mean-field limit; dimensionless, 0 for g ≤ 1.

    Args:
        gain: g, positive.

    Source: as for `mean_field_tanh_growth_rate`.

    Example:
        >>> mean_field_tanh_variance(0.9)
        0.0
    """
    if gain <= 1:
        return 0.0

    def residual(variance: float) -> float:
        return gain**2 * _gaussian_mean(lambda z: np.tanh(np.sqrt(variance) * z) ** 2) / variance - 1.0

    return float(brentq(residual, 1e-3 * (gain**2 - 1), gain**2, xtol=1e-14))


def mean_field_tanh_mean_exponent(gain: float, size: int | None = None) -> float:
    r"""Mean of all Lyapunov exponents of the autonomous random network h ← W tanh(h), in nats per step.

    .. math::
        \frac1H \sum_i \lambda_i = \frac1H\, \mathbb{E} \ln \lvert \det W \rvert
        + \mathbb{E}_z \ln \varphi'(\sqrt{q} z), \qquad
        \frac1H\, \mathbb{E} \ln \lvert \det W \rvert
        = \ln g + \frac1H \sum_{i=1}^{H} \tfrac12 \left[ \ln \tfrac2H + \psi\!\left( \tfrac i2 \right) \right]
        \;\longrightarrow\; \ln g - \tfrac12

    By the sum rule, since each step's Jacobian is :math:`W \operatorname{diag} \varphi'(h)`. Assumes entries of W drawn
    from N(0, g²/H), no input and the stationary state of `mean_field_tanh_growth_rate`: ln g − ½ for g ≤ 1, H → ∞.

    With `size` the determinant's mean is exact for that H, about ln(H)/(4H) below the limit; q stays that of H → ∞,
    from which a finite network departs by more than that where chaos sets in, at g near 1. The determinant of a single
    W scatters about its mean with a standard deviation of about :math:`\sqrt{\ln(H)/2}/H`.

    Args:
        gain: g, positive.
        size: H; the limit of infinitely many units if None.

    Raises:
        ValueError: `gain` not positive or `size` below 1.

    Source: derived here; the spectra of such networks are measured by Engelken, Wolf & Abbott (2023),
        https://arxiv.org/abs/2006.02427.

    Example:
        >>> round(mean_field_tanh_mean_exponent(1.0), 4), round(mean_field_tanh_mean_exponent(1.0, size=10), 4)
        (-0.5, -0.5648)
    """
    _refuse_nonpositive_gain(gain)
    if size is not None and size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}")
    of_matrix = -0.5 if size is None else float(newman_exponents(size, size**-0.5).mean())
    root = np.sqrt(mean_field_tanh_variance(gain))
    return float(np.log(gain) + of_matrix - 2.0 * _gaussian_mean(lambda z: _log_cosh(root * z)))


def _refuse_nonpositive_gain(gain: float) -> None:
    if not gain > 0:
        raise ValueError(f"`gain` must be positive, got {gain}")


def _log_cosh(x: float) -> float:
    return float(np.logaddexp(x, -x) - np.log(2.0))


def _gaussian_mean(even_function: Callable[[float], float]) -> float:
    def integrand(z: float) -> float:
        return even_function(z) * float(np.exp(-0.5 * z * z))

    # Intervals of every scale: with a large gain all happens within 1/gain of 0.
    scales = np.geomspace(1e-6, 1.0, 7)
    integral = quad(integrand, 0.0, 12.0, points=scales, epsabs=1e-13, epsrel=1e-11, limit=200)[0]
    return float(np.sqrt(2.0 / np.pi) * integral)
