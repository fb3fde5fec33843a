r"""How fast the memory cells of an LSTM and the state of a GRU forget, from their gates and from their biases.

Notation: N steps, H units, L lags, P probabilities, b forget bias, T_max the range given to the chrono initialisation.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradhorizon.theory.diagonal import diagonal_growth_rates


def lstm_growth_rates(forget_gates: Float[np.ndarray, "N ... H"]) -> Float[np.ndarray, "... H"]:
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


def gru_growth_rates(update_gates: Float[np.ndarray, "N ... H"]) -> Float[np.ndarray, "... H"]:
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


def time_scale_of_forget_bias(bias: ArrayLike) -> Float[np.ndarray, ...]:
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


def chrono_profile(lags: ArrayLike, seq_len: int) -> Float[np.ndarray, " L"]:
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
    _refuse_degenerate_chrono(seq_len)
    nodes, weights = np.polynomial.legendre.leggauss(256)
    odds = 1.0 + (seq_len - 2.0) * (nodes + 1.0) / 2.0
    log_gate = -np.log1p(1.0 / odds)
    mean_square = np.exp(2.0 * np.multiply.outer(np.asarray(lags), log_gate)) @ (weights / 2.0)
    return np.asarray(np.sqrt(mean_square))


def chrono_time_scale_quantiles(seq_len: int, probabilities: ArrayLike) -> Float[np.ndarray, ...]:
    r"""Quantiles of the time scales 1 + e^b over the units of a chrono-initialised LSTM, in steps.

    .. math:: e^b \sim U(1, T_{\max} - 1) \quad\Rightarrow\quad 1 + e^b \sim U(2, T_{\max})

    Assumes that each forget gate sees its bias alone, and many units.

    Args:
        seq_len: T_max, in steps, at least 3.
        probabilities: in [0, 1].

    Returns:
        One time scale per probability, in its shape.

    Raises:
        ValueError: `seq_len` below 3, or a probability outside [0, 1].

    Source: Tallec & Ollivier (2018), chrono initialisation, https://arxiv.org/abs/1804.11188.

    Example:
        >>> chrono_time_scale_quantiles(100, [0.0, 0.5, 1.0]).tolist()
        [2.0, 51.0, 100.0]
    """
    _refuse_degenerate_chrono(seq_len)
    levels = np.asarray(probabilities, dtype=np.float64)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"`probabilities` must lie in [0, 1], got {levels}")
    return np.asarray(2.0 + (seq_len - 2.0) * levels)


def _refuse_degenerate_chrono(seq_len: int) -> None:
    if seq_len < 3:  # noqa: PLR2004
        raise ValueError(f"`seq_len` must be at least 3 for chrono (time scales up to seq_len), got {seq_len}")
