r"""Closed forms of how gradients grow or decay through time: oracles in tests, dashed lines in figures.

Every rate is in nats per step: a gradient that is multiplied by the factor a in each step has rate ln a, so that 0
means that nothing is lost, and ln ½ that half is lost per step. Every function states what it assumes; where a network
breaks the assumption, its measured profile departs from the line, and that departure is a finding.

Imports neither torch nor the rest of the project.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Inexact
from numpy.typing import ArrayLike
from scipy.integrate import quad
from scipy.optimize import brentq

Array = np.ndarray


def scaled_orthogonal_growth_rate(scale: float) -> float:
    r"""Growth rate of the state gradient of a linear RNN with recurrent matrix W = ρQ, Q orthogonal, in nats per step.

    .. math:: \lVert \partial L/\partial s_t \rVert = \rho^{\tau} \lVert \partial L/\partial s_{t^*} \rVert

    Exact for every gradient, lag and input. A tanh network follows it only where its units stay in the linear range,
    and lies below it elsewhere.

    Args:
        scale: ρ, positive.

    Raises:
        ValueError: `scale` not positive.

    Source: Pascanu, Mikolov & Bengio (2013), §2.1, https://arxiv.org/abs/1211.5063, with equality since W is normal.

    Example:
        >>> round(scaled_orthogonal_growth_rate(0.5), 4)
        -0.6931
    """
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {scale}")
    return float(np.log(scale))


def identity_relu_growth_rate() -> float:
    r"""Growth rate of the state gradient of an IRNN at initialisation, W = I and ReLU, in nats per step: 0.

    Assumes that the units through which the loss is felt are active at every step, as those are whose input drives them
    up; the gradient of a unit that is switched off anywhere between t and t* is exactly 0 instead.

    Source: Le, Jaitly & Hinton (2015), §1, https://arxiv.org/abs/1504.00941.

    Example:
        >>> identity_relu_growth_rate()
        0.0
    """
    return 0.0


def diagonal_growth_rates(factors: Inexact[Array, "N ... H"]) -> Float[Array, "... H"]:
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
        return np.log(np.abs(factors)).mean(axis=0)


def lstm_growth_rates(forget_gates: Float[Array, "N ... H"]) -> Float[Array, "... H"]:
    r"""Growth rate of each cell-state gradient of an LSTM, in nats per step: the mean of ln f.

    .. math:: \partial c_{t^*} / \partial c_t = \prod_{k=t+1}^{t^*} f_k

    Exact with W_hh = 0, for any input. With recurrent weights it is the carousel's part alone.

    Args:
        forget_gates: f at each step, steps first.

    Source: Gers, Schmidhuber & Cummins (2000), Learning to forget, https://doi.org/10.1162/089976600300015015.

    Example:
        >>> lstm_growth_rates(np.full((10, 2), 0.5)).round(4).tolist()
        [-0.6931, -0.6931]
    """
    return diagonal_growth_rates(forget_gates)


def gru_growth_rates(update_gates: Float[Array, "N ... H"]) -> Float[Array, "... H"]:
    r"""Growth rate of each state gradient of a GRU, in nats per step: the mean of ln z.

    Exact with W_hh = 0, for any input, where z multiplies the old state, as in the paper and in PyTorch; where z
    multiplies the candidate instead (Chung et al., 2014), pass 1 − z.

    Args:
        update_gates: z at each step, steps first.

    Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078.

    Example:
        >>> gru_growth_rates(np.full((10, 1), 0.5)).round(4).tolist()
        [-0.6931]
    """
    return diagonal_growth_rates(update_gates)


def diagonal_profile(eigenvalues: Inexact[Array, " H"], lags: ArrayLike) -> Float[Array, "L H"]:
    r"""Relative gradient |λ_i|^τ of each unit of a diagonal linear recurrence; dimensionless.

    Args:
        eigenvalues: λ_i, real or complex.
        lags: τ, non-negative.

    Example:
        >>> diagonal_profile(np.array([0.5, 1.0]), [0, 2]).tolist()
        [[1.0, 1.0], [0.25, 1.0]]
    """
    return np.abs(eigenvalues) ** np.asarray(lags)[:, None]


def expected_decay_of_forget_bias(bias: float) -> float:
    r"""Growth rate ln σ(b) of an LSTM's cell state whose forget gate sees its bias alone, in nats per step.

    Assumes that the forget gate's input and recurrent terms are small beside its bias, and that nothing flows back
    through the other gates: with b = 0 half of the gradient is lost per step, with b = 1 a quarter.

    Args:
        bias: b, the sum of the forget gate's biases; for PyTorch's LSTM, ``bias_ih + bias_hh``.

    Source: Jozefowicz, Zaremba & Sutskever (2015), https://proceedings.mlr.press/v37/jozefowicz15.html.

    Example:
        >>> round(expected_decay_of_forget_bias(0.0), 4), round(expected_decay_of_forget_bias(1.0), 4)
        (-0.6931, -0.3133)
    """
    return float(-np.logaddexp(0.0, -bias))


def time_scale_of_forget_bias(bias: ArrayLike) -> Array:
    r"""Time scale 1/(1 − σ(b)) = 1 + e^b of a forget bias, in steps.

    Assumes that the gate sees its bias alone.

    Args:
        bias: b.

    Source: Tallec & Ollivier (2018), https://arxiv.org/abs/1804.11188.

    Example:
        >>> time_scale_of_forget_bias(np.log([1.0, 99.0])).round(6).tolist()
        [2.0, 100.0]
    """
    return 1.0 + np.exp(np.asarray(bias, dtype=np.float64))


def chrono_profile(lags: ArrayLike, seq_len: int) -> Float[Array, " L"]:
    r"""Relative cell-state gradient of a chrono-initialised LSTM; dimensionless.

    .. math::
        \sqrt{\mathbb{E}\, \sigma(b)^{2\tau}}, \qquad e^b \sim U(1, T_{\max} - 1)

    Assumes that each forget gate sees its bias alone, that the loss is felt equally through every unit, and many units.
    A mixture of exponentials, one per unit: it bends, and on log-log axes it is nearly straight for 1 ≪ τ ≪ T_max.

    Args:
        lags: τ, non-negative, in steps.
        seq_len: T_max, in steps, at least 3.

    Raises:
        ValueError: `seq_len` below 3.

    Source: Tallec & Ollivier (2018), chrono initialisation, https://arxiv.org/abs/1804.11188; the expectation is ours.

    Example:
        >>> chrono_profile([0, 100], seq_len=100).round(3).tolist()
        [1.0, 0.194]
    """
    if seq_len < 3:  # noqa: PLR2004
        raise ValueError(f"`seq_len` must be at least 3 for chrono (time scales up to seq_len), got {seq_len}")
    nodes, weights = np.polynomial.legendre.leggauss(256)
    odds = 1.0 + (seq_len - 2.0) * (nodes + 1.0) / 2.0
    log_gate = -np.log1p(1.0 / odds)
    return np.sqrt(np.exp(2.0 * np.multiply.outer(np.asarray(lags), log_gate)) @ (weights / 2.0))


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
    if not gain > 0:
        raise ValueError(f"`gain` must be positive, got {gain}")
    if gain <= 1:
        return float(np.log(gain))
    deviation = np.sqrt(mean_field_tanh_variance(gain))
    return float(np.log(gain) + 0.5 * np.log(_gaussian_mean(lambda z: np.cosh(deviation * z) ** -4.0)))


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


def _gaussian_mean(even_function: Callable[[float], float]) -> float:
    def integrand(z: float) -> float:
        return even_function(z) * float(np.exp(-0.5 * z * z))

    return float(np.sqrt(2.0 / np.pi)) * quad(integrand, 0.0, 12.0, epsabs=1e-13, epsrel=1e-11, limit=200)[0]
